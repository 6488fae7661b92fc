"""How a step fits the card: a memory model of one step, and the choice made from it.

The choice (rows a micro-batch, layers recomputed in the backward pass) changes speed and memory, never the result
beyond rounding. The constants follow from arithmetic on the architecture; on CUDA they are assumed, not yet measured.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

from nsllm_lite import recipe as recipes
from nsllm_lite.errors import UserError
from nsllm_lite.run import GIB, read_json, read_object, write_json

USABLE_SHARE = 0.9  # of the card's memory; the rest is left to the driver and to fragmentation
CONTEXT_BYTES = int(0.8 * GIB)  # CUDA context and library workspaces
PEFT_OVERHEAD = 1.6  # where layers are not fused: PEFT's casts and low-rank intermediates, on top of what they keep
NF4_BYTES = {True: 0.5159, False: 0.5625}  # a weight, with and without double quantisation (blocks of 64)
OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "paged_adamw8bit": 2}
LAUNCH_TOKENS = 400  # a micro-batch costs about as much as this many tokens before its first token
DEQUANTISE_TOKENS = 65  # and restoring all NF4 weights once: 17.5 GB of an 8B model at 4.3 TB/s, at 16,000 tokens/s
RECOMPUTE_COST = 0.44  # of a step, to compute all layers again: 13.9 of 31.2 GFLOP a token of Qwen3-8B
CHEAP_COST = 0.015  # and norms and SwiGLU only: 3.7 MB a token of memory traffic
CPU_MICRO_BATCH_TOKENS = 4_096
CPU_MAX_PARAMS = 300_000_000  # a larger model is not trained on a CPU unless the recipe says so


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The widths of a decoder, read from its config.json."""

    layers: int
    hidden: int
    intermediate: int
    query: int  # heads x head_dim
    key_value: int
    vocab: int
    tied: bool

    @classmethod
    def of(cls, config: dict) -> "ModelSize":
        needed = ("num_attention_heads", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
        if missing := [key for key in needed if config.get(key) is None]:
            raise UserError(
                "config-sizes-missing",
                f"The model's config.json has no {', '.join(missing)}.",
                "Needed is a decoder-only language model of the Qwen or Llama kind.",
                "Name another model.",
            )
        sizes = {
            key: config[key] for key in (*needed, "head_dim", "num_key_value_heads") if config.get(key) is not None
        }
        if wrong := [f"{key}: {size!r}" for key, size in sizes.items() if type(size) is not int or size < 1]:
            raise UserError(
                "config-sizes-invalid",
                f"The model's config.json has {', '.join(wrong)}.",
                "Needed are whole numbers above 0.",
                "Correct it, or fetch the model again.",
            )
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            query=heads * head_dim,
            key_value=(config.get("num_key_value_heads") or heads) * head_dim,
            vocab=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
        )

    @classmethod
    def of_shape(cls, shape: recipes.ModelShape, vocab: int) -> "ModelSize":
        return cls(
            layers=shape.num_layers,
            hidden=shape.hidden_size,
            intermediate=shape.intermediate_size,
            query=shape.num_heads * shape.head_dim,
            key_value=shape.num_kv_heads * shape.head_dim,
            vocab=vocab,
            tied=shape.tied_embeddings,
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear modules of one layer: name -> (in, out)."""
        h, i, q, kv = self.hidden, self.intermediate, self.query, self.key_value
        return {
            "q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h),
            "gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h),
        }  # fmt: skip

    @property
    def linear_params(self) -> int:
        return self.layers * sum(fan_in * fan_out for fan_in, fan_out in self.linears.values())

    @property
    def embedding_params(self) -> int:
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def params(self) -> int:
        return self.linear_params + self.embedding_params

    def lora_params(self, adapter: recipes.Adapter) -> int:
        fans = [self.linears[name] for name in adapter.targets if name in self.linears]
        return self.layers * adapter.rank * sum(fan_in + fan_out for fan_in, fan_out in fans)


def read_size(model_dir: Path) -> ModelSize:
    return ModelSize.of(read_object(Path(model_dir) / "config.json"))


def memory(recipe: recipes.Training, size: ModelSize, row_tokens: int, execution: recipes.Execution) -> dict[str, int]:
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


def trained_params(recipe: recipes.Training, size: ModelSize) -> int:
    if recipe.adapter is None:
        return size.params
    return size.lora_params(recipe.adapter) + len(recipe.adapter.modules_to_save) * size.vocab * size.hidden


def choose(
    recipe: recipes.Training, size: ModelSize, row_tokens: int, device: str, card_bytes: int | None
) -> recipes.Execution:
    """The recipe's `execution` with every open choice made: the fastest predicted that fits `card_bytes`.

    Layers are compiled, and the head is ours on a card, only where that is asked for: what it brings is not measured.

    Raises:
        UserError: nothing fits, or what is asked for does not go together.
    """
    asked = recipe.execution
    if asked.compile:
        _require_compilable(recipe)
    if device == "cpu":
        if asked.head == "liger":
            raise UserError(
                "execution-liger-on-cpu",
                "execution.head=liger, but the device is the CPU.",
                "Liger's kernels need a card.",
                "Leave execution.head out.",
            )
        rows_per_step = recipe.rows_per_step(row_tokens)
        rows = min(rows_per_step, max(1, CPU_MICRO_BATCH_TOKENS // row_tokens))
        return recipes.Execution(
            micro_batch_rows=asked.micro_batch_rows or rows,
            recompute_layers=asked.recompute_layers or 0,
            recompute_cheap=bool(asked.recompute_cheap),
            dequantised=bool(asked.dequantised or asked.compile) and recipe.quantisation == "nf4",
            compile=bool(asked.compile),
            head="chunked",
            device="cpu",
        )
    ways = list(candidates(recipe, size, row_tokens))
    fitting = [way for way in ways if way.need_bytes <= USABLE_SHARE * card_bytes]
    if not fitting:
        smallest = min(way.need_bytes for way in ways)
        raise UserError(
            "execution-memory-too-small",
            f"This run needs at least {smallest / USABLE_SHARE / GIB:.1f} GiB of GPU memory; the card has "
            f"{card_bytes / GIB:.1f} GiB.",
            "",
            "Take a smaller model, a lower adapter.rank, or rows of fewer tokens.",
        )
    return min(fitting, key=lambda way: way.cost).execution


def _require_compilable(recipe: recipes.Train) -> None:
    """Raises UserError where the layers cannot be compiled, or not with what else is asked for."""
    asked = recipe.execution
    problems = {
        "there is no adapter": recipe.adapter is None,
        "adapter.dora=true": recipe.adapter is not None and recipe.adapter.dora,
        "execution.dequantised=false on NF4 weights": recipe.quantisation == "nf4" and asked.dequantised is False,
        "execution.recompute_cheap=true": asked.recompute_cheap,
    }
    if found := [words for words, is_so in problems.items() if is_so]:
        raise UserError(
            "execution-not-compilable",
            f"execution.compile=true, but {' and '.join(found)}.",
            "Compiling needs a plain LoRA on dequantised weights, and chooses itself what is recomputed.",
            "Leave out execution.compile or the other.",
        )


class Way(NamedTuple):
    """One execution of a step: the memory it is predicted to need, and its time relative to the others'."""

    execution: recipes.Execution
    need_bytes: int
    cost: float


def candidates(recipe: recipes.Training, size: ModelSize, row_tokens: int) -> Iterator[Way]:
    """Every execution on a card that the recipe leaves open."""
    asked = recipe.execution

    def open_choices(name: str, values: Iterable) -> Iterable:
        chosen = getattr(asked, name)
        return values if chosen is None else [chosen]

    nf4 = recipe.quantisation == "nf4"
    fused = recipe.adapter is not None and not recipe.adapter.dora
    names = ("micro_batch_rows", "recompute_layers", "recompute_cheap", "dequantised")
    for values in itertools.product(
        open_choices(names[0], _divisors(recipe.rows_per_step(row_tokens))),
        open_choices(names[1], range(size.layers + 1)),
        open_choices(names[2], [False, True] if fused and not asked.compile else [False]),
        open_choices(names[3], [False, True][bool(asked.compile) :] if nf4 else [False]),
    ):
        chosen = dict(zip(names, values, strict=True))
        execution = recipes.Execution(**chosen, compile=bool(asked.compile), head=asked.head or "liger", device="cuda")
        share = min(1, execution.recompute_layers / size.layers)
        fixed_tokens = LAUNCH_TOKENS
        if nf4 and not execution.dequantised:
            fixed_tokens += (2 + share) * DEQUANTISE_TOKENS
        recomputing = RECOMPUTE_COST * share + CHEAP_COST * (1 - share) * bool(execution.recompute_cheap)
        cost = (1 + recomputing) * (1 + fixed_tokens / (execution.micro_batch_rows * row_tokens))
        yield Way(execution, sum(memory(recipe, size, row_tokens, execution).values()), cost)


def require_card(recipe: recipes.Training, size: ModelSize, device: str) -> None:
    """Raises UserError where a large model would be trained on a CPU without having been asked to."""
    if device == "cpu" and recipe.execution.device is None and size.params > CPU_MAX_PARAMS:
        raise UserError(
            "execution-needs-card",
            f"A model of {size.params / 1e9:.1f} B parameters needs an NVIDIA card, and torch sees none here.",
            "On the CPU this run would take weeks.",
            "Run it on a machine with a card, take RECIPES=recipes/nano here, or insist with execution.device=cpu.",
        )


def flops_per_token(size: ModelSize) -> int:
    """By the 4N convention: forward and input gradients of the frozen products, recomputation not counted."""
    return 4 * (size.linear_params + size.vocab * size.hidden)


def remember_speed(card: str, size: ModelSize, tokens_per_s: float) -> None:
    """Keeps what this card has reached, for the plans of later runs."""
    known = _known_speeds() | {card: {"flops": flops_per_token(size) * tokens_per_s, "on": f"{date.today()}"}}
    try:
        _speed_file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_speed_file(), known)
    except OSError as error:
        print(f"{_speed_file()}: the speed of this run is not kept ({error})")


def known_speed(card: str) -> dict | None:
    """{"flops": reached a second, "on": date}; None where no run has ended on such a card."""
    return _known_speeds().get(card)


def _speed_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nsllm-lite" / "speed.json"


def _known_speeds() -> dict:
    try:
        return read_json(_speed_file())
    except (OSError, ValueError):
        return {}


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def find_device(asked: str | None = None) -> tuple[str, int | None, str]:
    """(device, memory in bytes, name): the first CUDA card unless `asked` says cpu or there is none.

    Raises:
        UserError: cuda was asked for and there is none, or the card is older than Turing.
    """
    import torch

    if asked == "cpu" or (asked is None and not torch.cuda.is_available()):
        return "cpu", None, "CPU"
    if not torch.cuda.is_available():
        raise UserError(
            "device-no-cuda",
            "execution.device=cuda, but torch sees no CUDA card.",
            "",
            "Check nvidia-smi and that torch is a CUDA build (python -c 'import torch; print(torch.version.cuda)').",
        )
    card = torch.cuda.get_device_properties(0)
    if (card.major, card.minor) < (7, 5):
        raise UserError(
            "device-too-old",
            f"{card.name} is too old (compute capability {card.major}.{card.minor}; 7.5 is needed).",
            "",
            "Use a T4 or newer card, or execution.device=cpu.",
        )
    return "cuda", card.total_memory, card.name


def has_bfloat16(device: str) -> bool:
    import torch

    return device == "cpu" or torch.cuda.get_device_properties(0).major >= 8


def require_dtype(compute_dtype: str, device: str) -> None:
    """Raises UserError where the card cannot compute in `compute_dtype`."""
    if compute_dtype == "bfloat16" and not has_bfloat16(device):
        raise UserError(
            "device-no-bfloat16",
            "This card does not compute in bfloat16.",
            "",
            "Add compute_dtype=float16: the loss is then scaled, and a step that overflows is done again.",
        )
