"""What a micro-batch costs by arithmetic: FLOPs, bytes, launches, and its time on a card.

FLOPs follow from the architecture. Bytes and launches were fitted to what a dry run of the step counts
(`nsllm_lite.train.trace`); a test holds the first within 1 % of it, the others within 10 %. The time is the roofline:
each kind of operation takes as long as its FLOPs at the card's peak or its bytes at its bandwidth, whichever is longer,
and the host may be slower than all. What share of that a step reaches is assumed; no card has been measured.
"""

import math
from typing import NamedTuple

from nsllm_lite.models.cards import Speed
from nsllm_lite.models.sizes import ModelSize
from nsllm_lite.recipe.train import Execution, Training

DOCUMENT_TOKENS = 1024  # assumed, for attention: a document attends to itself alone
HOST_S = 0.005  # of the host for a layer forward and backward; half of what a slow server core was measured to take
FP8_HOST_SHARE = 0.2  # assumed: as many more launches has a layer with float8
FP8_PRODUCTS = "fp8 products"  # whose FLOPs are at the card's float8 peak


class Work(NamedTuple):
    """Of one micro-batch, forward and backward."""

    flops: dict[str, float]
    moved: dict[str, float]  # bytes
    launches: float
    host_s: float


def work(recipe: Training, size: ModelSize, row_tokens: int, how: Execution) -> Work:
    """Of `how`, whose choices are all made."""
    width = 4 if recipe.compute_dtype == "float32" else 2
    tokens, share = how.micro_batch_rows * row_tokens, min(1, how.recompute_layers / size.layers)
    trained = size.lora_params(recipe.adapter) if recipe.adapter else size.linear_params
    products, passes = size.linear_params, 2 + share  # forward, to the inputs, and again what is recomputed
    targets = recipe.adapter.targets if recipe.adapter else ()
    fans = sum(sum(fans) for name, fans in size.linears.items() if name in targets)
    documents = min(DOCUMENT_TOKENS, row_tokens)
    head = size.vocab * size.hidden
    chunks = tokens / chunk_tokens(size, tokens, how)
    flops = {
        "products": 2 * passes * products + (0 if recipe.adapter else 2 * products),
        "head": 4 * head,
        "LoRA": (6 + 2 * share) * trained if recipe.adapter else 0,
        "attention": (7 + 2 * share) * size.layers * size.query * documents,
    }
    heads = size.query + size.key_value
    plain = 9 * size.intermediate + 21.5 * size.hidden + 10 * heads
    plain += (3 * size.intermediate + 4 * size.hidden) * bool(how.recompute_cheap)
    again = 3 * size.intermediate + 10 * size.hidden + 2 * heads
    kept = 2 * size.query + 3 * size.key_value
    ins, outs = (size.layers * tokens * sum(fans[side] for fans in size.linears.values()) for side in (0, 1))
    adds = (1 + share / 2) * size.layers * fans * tokens * width  # what the products add to
    moved = {
        "products": passes * products * width + ((1 + share) * (ins + outs) + ins + outs) * width + adds,
        "head": (2 * chunks * head + tokens * size.vocab * 4) * width,
        "LoRA": 15 * trained + (2.55 + 0.9 * share) * size.layers * fans * tokens * width if recipe.adapter else 0,
        "attention": (2 + share) * 1.3 * size.layers * kept * tokens * width,
        "elementwise": size.layers * (plain + share * again) * tokens * width,
    }
    held = recipe.quantisation == "nf4" and not how.dequantised
    if held:
        moved["dequantise"] = passes * 2.64 * products
    restoring = (6 if recipe.double_quantisation else 2) * held  # of a weight, forward and backward
    launches = size.layers * ((78 if recipe.adapter else 60) + 3 * bool(how.recompute_cheap) + 7 * restoring)
    launches += size.layers * share * (35 + 2 * restoring) + 3 * chunks
    host_s = HOST_S * size.layers * (1 + share / 3)
    if recipe.products:
        made = not how.dequantised  # the weights anew at each product
        flops[FP8_PRODUCTS], _ = flops.pop("products"), moved.pop("products")
        moved[FP8_PRODUCTS] = passes * products + (1 + share) * (ins + width * outs) + outs + width * ins
        entering = size.layers * tokens * (2 * size.hidden + size.query + size.intermediate)
        moved["quantise"] = ((1 + share) * entering + outs + made * passes * products) * (width + 1)
        moved["LoRA"] += adds + 6 * size.layers * size.hidden * tokens * width  # which adds to the products here
        moved["elementwise"] += made * 2 * products  # laid out again
        launches += size.layers * (21 + 4 * share + made * (21 + 7 * share))
        host_s += HOST_S * size.layers * FP8_HOST_SHARE
    return Work({kind: each * tokens for kind, each in flops.items()}, moved, launches, host_s)


def chunk_tokens(size: ModelSize, tokens: int, how: Execution) -> int:
    """Tokens whose logits the head holds at a time."""
    from nsllm_lite.kernels import linear_cross_entropy as lce  # imports torch, as a corpus must not

    if how.head == "chunked":
        return min(tokens, lce.CARD_CHUNK_BYTES // (4 * size.vocab))
    budget = lce.liger_budget(tokens, size.vocab, size.hidden)
    chunks = math.ceil(size.vocab / (budget * size.hidden))
    return min(tokens, 2 ** math.ceil(math.log2(math.ceil(tokens / chunks))))


def roofline_s(of: Work, speed: Speed) -> float:
    """The seconds of a micro-batch that nothing held back."""
    tflops = {FP8_PRODUCTS: speed.fp8_tflops}
    return sum(
        max(of.flops.get(kind, 0) / (tflops.get(kind, speed.tflops) * 1e12), moved / (speed.gb_per_s * 1e9))
        for kind, moved in of.moved.items()
    )


def seconds(of: Work, speed: Speed) -> float:
    """The time of a micro-batch that is expected: a share of the roofline, or the host's."""
    return max(roofline_s(of, speed) / speed.share, of.host_s)
