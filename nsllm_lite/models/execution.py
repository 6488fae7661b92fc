"""How a step fits the card: a memory model of one step, and the choice made from it.

The choice (rows a micro-batch, layers recomputed in the backward pass) changes speed and memory, never the result
beyond rounding. The constants follow from arithmetic on the architecture; on CUDA they are assumed, not yet measured.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.errors import UserError
from nsllm_lite.models.device import CONTEXT_BYTES, Card
from nsllm_lite.models.sizes import ModelSize
from nsllm_lite.recipe.train import Execution, Train, Training

ANY_CARD = Card("cuda")
USABLE_SHARE = 0.9  # of the card's memory; the rest is left to the driver and to fragmentation
PEFT_OVERHEAD = 1.6  # where layers are not fused: PEFT's casts and low-rank intermediates, on top of what they keep
NF4_BYTES = {True: 0.5159, False: 0.5625}  # a weight, with and without double quantisation (blocks of 64)
OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "paged_adamw8bit": 2}
LAUNCH_TOKENS = 400  # a micro-batch costs about as much as this many tokens before its first token
DEQUANTISE_TOKENS = 65  # and restoring all NF4 weights once: 17.5 GB of an 8B model at 4.3 TB/s, at 16,000 tokens/s
RECOMPUTE_COST = 0.44  # of a step, to compute all layers again: 13.9 of 31.2 GFLOP a token of Qwen3-8B
CHEAP_COST = 0.015  # and norms and SwiGLU only: 3.7 MB a token of memory traffic
CPU_MICRO_BATCH_TOKENS = 4_096
CPU_MAX_PARAMS = 300_000_000  # a larger model is not trained on a CPU unless the recipe says so


def memory(
    recipe: Training, size: ModelSize, row_tokens: int, execution: Execution, card: Card = ANY_CARD
) -> dict[str, int]:
    """Bytes on the card by what holds them, for a fully specified `execution`."""
    width = 4 if recipe.compute_dtype == "float32" else 2
    in_nf4 = recipe.quantisation == "nf4" and not execution.dequantised
    weight_bytes = NF4_BYTES[recipe.double_quantisation] if in_nf4 else width
    trained = trained_params(recipe, size)
    tokens = execution.micro_batch_rows * row_tokens
    fused = recipe.adapter is not None and not recipe.adapter.dora
    low_rank = recipe.adapter.rank * len(recipe.adapter.targets) if recipe.adapter else 0
    kept = kept_numbers(size, bool(execution.recompute_cheap) and fused, low_rank)
    layer_bytes = int(width * kept * (1 if fused else PEFT_OVERHEAD)) * tokens
    recomputed = min(execution.recompute_layers, size.layers)
    # of the layer in hand: SwiGLU's output and the gradients around it, beside a weight that is restored
    working = width * (4 * size.intermediate + 3 * size.hidden) * tokens + size.hidden * size.intermediate * width
    return {
        "weights": int(size.linear_params * weight_bytes) + size.embedding_params * width,
        "adapter and optimizer": trained * (4 + 4 + OPTIMIZER_BYTES[recipe.optimizer.name]),
        "activations": layer_bytes * (size.layers - recomputed) + recomputed * size.hidden * width * tokens,
        "working set": working + (layer_bytes if recomputed else 0),
        "logits": 2 * min(tokens, 1024) * size.vocab * 4,  # a chunk of them and their gradient
        "CUDA context": CONTEXT_BYTES,
    }


def kept_numbers(size: ModelSize, recompute_cheap: bool, low_rank: int) -> int:
    """What a fused layer keeps of each token for the backward pass (`kernels.fused_layers`).

    Two residuals; q and k before their norm, q and k rotated, v, attention's output; gate and up; the `low_rank`
    products of its adapters. Without `recompute_cheap` also the norms' outputs and SwiGLU's.
    """
    attention = 3 * size.query + 3 * size.key_value
    cheap = 0 if recompute_cheap else 2 * size.hidden + size.intermediate
    return 2 * size.hidden + attention + 2 * size.intermediate + low_rank + cheap


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
    ways = list(candidates(recipe, size, row_tokens, card))
    fitting = [way for way in ways if way.need_bytes <= USABLE_SHARE * card.memory_bytes]
    if not fitting:
        smallest = min(way.need_bytes for way in ways)
        need_gib, card_gib = smallest / USABLE_SHARE / GIB, card.memory_bytes / GIB
        found = f"This run needs at least {need_gib:.1f} GiB of GPU memory; the card has {card_gib:.1f} GiB free."
        todo = "Take a smaller model, a lower adapter.rank, or rows of fewer tokens."
        raise UserError("execution-memory-too-small", found, todo)
    return min(fitting, key=lambda way: way.cost).execution


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
    """One execution of a step: the memory it is predicted to need, and its time relative to the others'."""

    execution: Execution
    need_bytes: int
    cost: float


def candidates(recipe: Training, size: ModelSize, row_tokens: int, card: Card) -> Iterator[Candidate]:
    """Every execution on a card that the recipe leaves open."""
    asked = recipe.execution
    nf4 = recipe.quantisation == "nf4"
    fused = recipe.adapter is not None and not recipe.adapter.dora
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
        execution = Execution(**chosen, compile=bool(asked.compile), head=asked.head or "liger", device="cuda")
        share = min(1, execution.recompute_layers / size.layers)
        fixed_tokens = LAUNCH_TOKENS
        if nf4 and not execution.dequantised:
            fixed_tokens += (2 + share) * DEQUANTISE_TOKENS
        recomputing = RECOMPUTE_COST * share + CHEAP_COST * (1 - share) * bool(execution.recompute_cheap)
        cost = (1 + recomputing) * (1 + fixed_tokens / (execution.micro_batch_rows * row_tokens))
        yield Candidate(execution, sum(memory(recipe, size, row_tokens, execution, card).values()), cost)


def require_card(recipe: Training, size: ModelSize, device: str) -> None:
    """Raises UserError where a large model would be trained on a CPU, unless the recipe requests the CPU."""
    if device == "cpu" and recipe.execution.device is None and size.params > CPU_MAX_PARAMS:
        found = f"A model of {size.params / 1e9:.1f} B parameters needs an NVIDIA card, and torch sees none here."
        todo = "Run it on a machine with a card, take RECIPES=recipes/nano here, or override with execution.device=cpu."
        raise UserError("execution-needs-card", found, "On the CPU this run would take weeks.", todo)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
