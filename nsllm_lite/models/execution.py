"""How a step fits the card: a memory model of one step, and the choice made from it.

The choice (rows a micro-batch, layers recomputed in the backward pass) changes speed and memory, never the result
beyond rounding. Memory follows from arithmetic on the architecture, which a dry run of the step (`train.trace`) counts
as well; no card has measured it.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.errors import UserError
from nsllm_lite.models import cards, cost
from nsllm_lite.models.device import CONTEXT_BYTES, Card
from nsllm_lite.models.sizes import ModelSize
from nsllm_lite.recipe.train import Execution, Train, Training

ANY_CARD = Card("cuda")
USABLE_SHARE = 0.9  # of the card's memory; the rest is left to the driver and to fragmentation
CAPPED_BYTES = 10  # for each head and pair of tokens, where attention is capped (Gemma 2)
PEFT_OVERHEAD = 1.6  # where layers are not fused: PEFT's casts and low-rank intermediates, on top of what they keep
NF4_BYTES = {True: 0.5159, False: 0.5625}  # a weight, with and without double quantisation (blocks of 64)
FP8_BYTES = 2  # a weight, laid out for either product
FP8_MULTIPLE = 16  # of which a card's float8 products take the widths
OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "paged_adamw8bit": 2}
SHORT_DOCUMENT_TOKENS = 256  # assumed of many documents, of which each takes some memory of attention's own
CUBLAS_BYTES = 2**25
UNTRACED = ("kernels' own", "CUDA context")  # of `memory`: what no dry run sees
CPU_MICRO_BATCH_TOKENS = 4_096
CPU_MAX_PARAMS = 300_000_000  # a larger model is not trained on a CPU unless the recipe says so


def memory(
    recipe: Training, size: ModelSize, row_tokens: int, execution: Execution, card: Card = ANY_CARD
) -> dict[str, int]:
    """Bytes on the card by what holds them, at the peak of a step that `execution` specifies fully.

    The peak is in the head, in the backward pass of the last layer, or in that of the recomputed ones. What stands
    before `UNTRACED` is what `train.trace` counts, within 10 %.
    """
    width = 4 if recipe.compute_dtype == "float32" else 2
    in_nf4 = holds_nf4(recipe, execution)
    weight_bytes = NF4_BYTES[recipe.double_quantisation] if in_nf4 else width
    weight_bytes += FP8_BYTES if recipe.products and execution.dequantised else 0
    trained = trained_params(recipe, size)
    copied = width if is_fused(recipe, size) and not execution.compile else 0  # A and B for the products of a step
    tokens = execution.micro_batch_rows * row_tokens
    hidden = size.hidden * (4 if trains_embeddings(recipe) else width) * tokens
    layer = kept_bytes(recipe, size, execution, card) * tokens
    if size.capped:  # scores, their softmax and its gradient, of a row that is one document
        layer += CAPPED_BYTES * (size.query // size.head_dim) * tokens * row_tokens
    recomputed = min(execution.recompute_layers, size.layers)
    angles = 2 * width * size.head_dim * tokens  # cosines and sines of the positions
    kept = angles + layer * (size.layers - recomputed) + hidden * (recomputed + 2)  # with the last hidden states, twice
    saved = recipe.adapter.modules_to_save if recipe.adapter else ()
    trains_head = "lm_head" in saved or (size.tied and bool(saved))
    # a layer's backward: gradients of the residual, a weight that is restored, SwiGLU's output where it was not kept
    restored = size.hidden * size.intermediate * (width if in_nf4 and not execution.dequantised else 0)
    if recipe.products:  # what is rounded anew, the gradient of gate or up and perhaps the weight; and its product
        restored += size.intermediate * tokens + hidden
        restored += 0 if execution.dequantised else size.hidden * size.intermediate
    backward = 3 * hidden + restored
    backward += size.intermediate * width * tokens if execution.recompute_cheap else 0
    chunk = cost.chunk_tokens(size, tokens, execution)
    logits = chunk * size.vocab
    if execution.head == "chunked":
        head = 2 * hidden + 4 * 4 * logits  # in fp32, with their softmax and its gradient
    else:  # Liger's gradient overwrites them; then that of a chunk's hidden states
        head = hidden + (2 * 4 if trains_head else width) * logits + width * chunk * size.hidden
    head += (4 + width) * size.vocab * size.hidden if trains_head else 0  # a micro-batch's gradient; a copy in 16 bits
    recomputing = angles + hidden * (recomputed + 1) + layer + backward if recomputed else 0
    return {
        "weights": int(size.linear_params * weight_bytes) + (size.params - size.linear_params) * width,
        "adapter and optimizer": trained * (4 + 4 + OPTIMIZER_BYTES[recipe.optimizer.name] + copied),
        "activations": kept,
        "working set": max(head, backward, recomputing - kept),
        "kernels' own": attention_bytes(size, tokens) + CUBLAS_BYTES,
        "CUDA context": CONTEXT_BYTES,
    }


def kept_numbers(size: ModelSize, recompute_cheap: bool, low_rank: int) -> int:
    """What a fused layer keeps of each token for the backward pass (`kernels.fused_layers`).

    Two residuals; q and k before their norm, q and k rotated, v, attention's output; gate and up; the `low_rank`
    products of its adapters. Without `recompute_cheap` also the norms' outputs and SwiGLU's.
    """
    cheap = 0 if recompute_cheap else 2 * size.hidden + size.intermediate
    return 2 * size.hidden + 3 * size.query + 3 * size.key_value + 2 * size.intermediate + low_rank + cheap


def kept_bytes(recipe: Training, size: ModelSize, execution: Execution, card: Card) -> int:
    """Of a layer and a token: `kept_numbers`; on a card older than Ampere keys and values repeated and attention's
    output once more; in fp32 what the norms and attention divided by."""
    width = 4 if recipe.compute_dtype == "float32" else 2
    fused = is_fused(recipe, size)
    low_rank = recipe.adapter.rank * len(recipe.adapter.targets) if recipe.adapter else 0
    numbers = kept_numbers(size, bool(execution.recompute_cheap) and fused, low_rank)
    numbers += 3 * size.query - 2 * size.key_value if card.capability < (8, 0) else 0
    in_fp32 = 4 * (2 + (2 * size.query + size.key_value) // size.head_dim)
    if trains_embeddings(recipe):  # the residual stream is fp32 then, and so are q and k as they are rotated
        hidden = (2 if execution.recompute_cheap and fused else 4) * size.hidden
        in_fp32 += (4 - width) * (hidden + size.query + size.key_value)
    return int(width * numbers * (1 if fused else PEFT_OVERHEAD)) + in_fp32


def holds_nf4(recipe: Training, how: Execution) -> bool:
    """Whether linear layers hold NF4; also beside copies in float8, for what is computed without these."""
    return recipe.quantisation == "nf4" and not (how.dequantised and recipe.products is None)


def is_fused(recipe: Training, size: ModelSize) -> bool:
    """Whether `kernels.fused_layers` takes the layers; others keep what each of their operations needs."""
    return size.fused and recipe.adapter is not None and not recipe.adapter.dora


def trains_embeddings(recipe: Training) -> bool:
    return recipe.adapter is not None and "embed_tokens" in recipe.adapter.modules_to_save


def attention_bytes(size: ModelSize, tokens: int) -> int:
    """What flash attention's backward takes for itself: fp32 gradients of q, padded by 128 tokens a document, and the
    gradients of keys and values for every head. No trace sees it."""
    padded = tokens + 128 * (tokens // SHORT_DOCUMENT_TOKENS + 1)
    return size.query * (4 * padded + 2 * 2 * tokens)


def trained_params(recipe: Training, size: ModelSize) -> int:
    if recipe.adapter is None:
        return size.params
    return size.lora_params(recipe.adapter) + len(recipe.adapter.modules_to_save) * size.vocab * size.hidden


def choose(recipe: Training, size: ModelSize, row_tokens: int, card: Card) -> Execution:
    """The recipe's `execution` with every open choice made: the fastest predicted that fits the card.

    Layers are compiled, and the head is ours on a card, only where that is asked for: what it brings is not measured.

    Raises:
        UserError: nothing fits, or what is asked for does not go together.
    """
    asked = recipe.execution
    if recipe.products:
        _require_fp8(recipe, size, card)
    if asked.compile:
        _require_compilable(recipe)
    if card.device == "cpu":
        if asked.head == "liger":
            found = "execution.head=liger, but the device is the CPU."
            needed = "Liger's kernels need a card."
            raise UserError("execution-liger-on-cpu", found, needed, "Leave execution.head out.")
        rows_per_step = recipe.rows_per_step(row_tokens)
        rows = min(rows_per_step, max(1, CPU_MICRO_BATCH_TOKENS // row_tokens))
        return Execution(
            micro_batch_rows=asked.micro_batch_rows or rows,
            recompute_layers=asked.recompute_layers or 0,
            recompute_cheap=bool(asked.recompute_cheap),
            dequantised=bool(asked.dequantised or asked.compile) and recipe.quantisation == "nf4",
            compile=bool(asked.compile),
            head="chunked",
            device="cpu",
        )
    if asked.memory_gib:
        card = card._replace(memory_bytes=min(card.memory_bytes, int(asked.memory_gib * GIB)))
    ways = list(candidates(recipe, size, row_tokens, card))
    fitting = [way for way in ways if way.need_bytes <= USABLE_SHARE * card.memory_bytes]
    if not fitting:
        smallest = min(way.need_bytes for way in ways)
        need_gib, card_gib = smallest / USABLE_SHARE / GIB, card.memory_bytes / GIB
        found = f"This run needs at least {need_gib:.1f} GiB of GPU memory; the card has {card_gib:.1f} GiB free."
        todo = "Take a smaller model, a lower adapter.rank, or rows of fewer tokens."
        raise UserError("execution-memory-too-small", found, todo)
    return min(fitting, key=lambda way: way.cost).execution


def _require_fp8(recipe: Training, size: ModelSize, card: Card) -> None:
    """Raises UserError where products=fp8 is not honoured: by the card, or by how the recipe trains."""
    on_card = card.device != "cpu"
    if on_card and not card.has_float8:
        capability = ".".join(map(str, card.capability))
        found = f"products=fp8, but {card.name} has no float8 (compute capability {capability}; 8.9 is needed)."
        todo = "Leave products out, or take an Ada, Hopper or newer card (to plan for one, name it: --card H100)."
        raise UserError("fp8-card-too-old", found, todo)
    problems = {
        "there is no adapter": recipe.adapter is None,
        "adapter.dora=true": recipe.adapter is not None and recipe.adapter.dora,
        "execution.compile=true": recipe.execution.compile,
        "its layers are not fused": not size.fused,
        f"compute_dtype={recipe.compute_dtype}": recipe.compute_dtype != "bfloat16"
        and (on_card or recipe.compute_dtype == "float16"),
        f"a width is no multiple of {FP8_MULTIPLE}": on_card
        and any(width % FP8_MULTIPLE for fans in size.linears.values() for width in fans),
    }
    if found := [words for words, is_so in problems.items() if is_so]:
        needed = "Float8 is for Qwen3, Qwen2, Llama and Mistral with a plain LoRA, not compiled, in bfloat16."
        raise UserError("fp8-not-possible", f"products=fp8, but {' and '.join(found)}.", needed, "Leave products out.")


def _require_compilable(recipe: Train) -> None:
    """Raises UserError where the layers cannot be compiled, or not with the other settings."""
    asked = recipe.execution
    problems = {
        "there is no adapter": recipe.adapter is None,
        "adapter.dora=true": recipe.adapter is not None and recipe.adapter.dora,
        "execution.dequantised=false on NF4 weights": recipe.quantisation == "nf4" and asked.dequantised is False,
        "execution.recompute_cheap=true": asked.recompute_cheap,
    }
    if found := [words for words, is_so in problems.items() if is_so]:
        found = f"execution.compile=true, but {' and '.join(found)}."
        needed = "Compiling needs a plain LoRA on dequantised weights, and chooses itself what is recomputed."
        raise UserError("execution-not-compilable", found, needed, "Leave out execution.compile or the other.")


class Candidate(NamedTuple):
    """One execution of a step: the memory it is predicted to need, and the seconds a token."""

    execution: Execution
    need_bytes: int
    cost: float


def candidates(recipe: Training, size: ModelSize, row_tokens: int, card: Card) -> Iterator[Candidate]:
    """Every execution on a card that the recipe leaves open."""
    asked = recipe.execution
    nf4 = recipe.quantisation == "nf4"
    fused = is_fused(recipe, size)
    choices: dict[str, Iterable] = {
        "micro_batch_rows": _divisors(recipe.rows_per_step(row_tokens)),
        "recompute_layers": range(size.layers + 1),
        "recompute_cheap": [False, True] if fused and not asked.compile else [False],
        "dequantised": [False, True][bool(asked.compile) :] if nf4 else [False],
    }
    stated = asked.model_dump(include=choices.keys(), exclude_none=True)
    choices |= {name: [value] for name, value in stated.items()}
    for values in itertools.product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        fixed = {"compile": bool(asked.compile), "head": asked.head or "liger", "memory_gib": asked.memory_gib}
        execution = Execution(**chosen, **fixed, device="cuda")
        yield Candidate(
            execution,
            sum(memory(recipe, size, row_tokens, execution, card).values()),
            seconds_per_token(recipe, size, row_tokens, execution, card),
        )


def seconds_per_token(recipe: Training, size: ModelSize, row_tokens: int, execution: Execution, card: Card) -> float:
    """As expected of `card`, or of a 4090 where its speed is not known."""
    work = cost.work(recipe, size, row_tokens, execution)
    return cost.seconds(work, cards.speed_of(card) or cards.ANY) / (execution.micro_batch_rows * row_tokens)


def require_card(recipe: Training, size: ModelSize, device: str) -> None:
    """Raises UserError where a large model would be trained on a CPU, unless the recipe requests the CPU."""
    if device == "cpu" and recipe.execution.device is None and size.params > CPU_MAX_PARAMS:
        found = f"A model of {size.params / 1e9:.1f} B parameters needs an NVIDIA card, and torch sees none here."
        todo = "Run it on a machine with a card, take RECIPES=recipes/nano here, or override with execution.device=cpu."
        raise UserError("execution-needs-card", found, "On the CPU this run would take weeks.", todo)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
