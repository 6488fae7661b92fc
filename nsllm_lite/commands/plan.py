"""What a run will use, before it starts: the model, memory, disk, download and tokens."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from nsllm_lite import terminal
from nsllm_lite.artifact.disk import GIB, require_writable
from nsllm_lite.artifact.json_files import read_object
from nsllm_lite.artifact.lineage import quantised_behind
from nsllm_lite.errors import UserError
from nsllm_lite.formats.gguf import read_gguf
from nsllm_lite.formats.weights import HEAD, read_header
from nsllm_lite.models import cards, cost, execution
from nsllm_lite.models.architectures import require_positions
from nsllm_lite.models.device import Card, find_device, known_speed, require_kernels
from nsllm_lite.models.execution import USABLE_SHARE, candidates, choose, require_card, trained_params
from nsllm_lite.models.sizes import QWEN3, REFERENCE, ModelSize, flops_per_token, head_tied, read_size
from nsllm_lite.recipe.kinds import Recipe
from nsllm_lite.recipe.results import held_words
from nsllm_lite.recipe.train import Execution, Train
from nsllm_lite.safety import HUB_ID, LOCAL

Run = dict[str, Recipe]  # name of a step -> its recipe, in order
Lines = list[tuple[str, str]]

BITS_A_PARAMETER = 2  # that a LoRA parameter can take up. Source: Allen-Zhu and Li, arXiv 2404.05405
BITS_A_TOKEN = 3  # of scientific English to an 8B base model; assumed


class Expected(NamedTuple):
    """A speed and where it is from; `slowest` and `fastest` of one that is assumed."""

    tokens_per_s: float
    source: str
    slowest: float | None = None
    fastest: float | None = None


def plan(
    run: Run,
    why: str,
    will_start: bool = True,
    elsewhere: Card | None = None,
    show_all: bool = False,
    price: float | None = None,
    trace: bool = False,
) -> dict:
    """Prints the plan of `run` and returns its figures.

    `elsewhere` is the card of another machine, so that the disk here decides nothing; `show_all` adds the other ways to
    run a step, `price` (an hour of the card) the money, `trace` the dry run of a micro-batch.

    Raises:
        UserError: the run does not fit the card or the disk cannot take its output; or the run `will_start` on a
            machine without a card that it needs.
    """
    phase1, row_tokens = run["phase1"], run["corpus"].row_tokens
    card = elsewhere or find_device(phase1.execution.device)
    if not elsewhere:
        require_kernels(card.device)
    if (trace or show_all) and card.device != "cuda":
        found = "--trace and --all are about the step on a card, and none is here."
        raise UserError("plan-without-card", found, "Name one with --card or --vram.")
    size, download_bytes, quantised = _size_and_download(run)
    _require_trainable_head(run, size)
    phases = (phase1, run["phase2"])
    ways = [_choose(run, phase, size, card) for phase in phases]  # where the second cannot run, nor should the first
    how = ways[0]
    num_models = 3 if "convert" in run and not (Path(phase1.model) / "config.json").is_file() else 2
    disk_bytes = download_bytes + num_models * size.params * (4 if phase1.compute_dtype == "float32" else 2)
    out = Path(run["corpus"].out).parent
    existing = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free_bytes = shutil.disk_usage(existing if elsewhere else require_writable(out)).free
    speeds: list[Expected | None] = [None, None]
    if card.device == "cuda":
        speeds = [_speed(phase, size, row_tokens, way, card) for phase, way in zip(phases, ways, strict=True)]
    tokens = {phase.out: phase.budget.tokens for phase in phases}
    figures = {
        "model": phase1.model,
        "quantised": quantised,
        "parameters": size.params,
        "trained_parameters": trained_params(phase1, size),
        "card": card.name,
        "card_bytes": card.total_bytes,
        "free_card_bytes": card.memory_bytes,
        "memory_bytes": execution.memory(phase1, size, row_tokens, how, card),
        "execution": how.model_dump(mode="json"),
        "download_bytes": download_bytes,
        "disk_bytes": disk_bytes,
        "free_disk_bytes": free_bytes,
        "tokens": tokens,
        "hours": {
            name: count / speed.tokens_per_s / 3600 if speed else None
            for (name, count), speed in zip(tokens.items(), speeds, strict=True)
        },
    }
    heads = [
        ("Model", why),
        *_step_lines(run, figures, size, how, card.words + ("" if elsewhere else f"; {_host_words()}")),
    ]
    for line in (*heads, *_length_lines(run, figures, speeds, price), *_disk_lines(figures, out)):
        terminal.row(line, (10,))
    if show_all:
        print()
        others = _ways(run, size, row_tokens, card, how, speeds[0])
        terminal.table(list(others[0]), [list(way.values()) for way in others], right=tuple(others[0])[:-1])
    if trace:
        figures["trace"] = _print_trace(phase1, size, row_tokens, how, card)
    if will_start:
        require_card(phase1, size, card.device)
    if free_bytes < disk_bytes and not elsewhere:
        found = f"Not enough disk for the run: {disk_bytes / GIB:.1f} GiB needed, {free_bytes / GIB:.1f} free at {out}."
        raise UserError("run-disk-too-small", found, "Free some space, or write elsewhere with OUT=DIR.")
    return figures


def _require_trainable_head(run: Run, size: ModelSize) -> None:
    """Raises UserError where the head is to train alone, and config.json ties it. Whether a stored head is tied is seen
    when the model is loaded."""
    adapters = [phase.adapter for phase in (run["phase1"], run["phase2"]) if phase.adapter]
    asked = any("lm_head" in adapter.modules_to_save for adapter in adapters)
    files = Path(run["phase1"].model).glob("*.safetensors")
    if size.tied and asked and not any(HEAD in read_header(file) for file in files):
        raise head_tied()


def _choose(run: Run, phase: Train, size: ModelSize, card: Card) -> Execution:
    row_tokens = run["corpus"].row_tokens
    try:
        return choose(phase, size, row_tokens, card)
    except UserError as error:
        if error.code != "execution-memory-too-small":
            raise
        todo = f"Take a smaller model. {_nearest_words(run, row_tokens, card)}"
        raise UserError("run-does-not-fit", f"The model does not fit the card: {error}", todo) from None


def _step_lines(run: Run, figures: dict, size: ModelSize, how: Execution, machine: str) -> Lines:
    """What is trained, on what, in which steps, in how much memory."""
    phase1, memory = run["phase1"], figures["memory_bytes"]
    held = held_words(figures["quantised"])
    lines = [
        *([("", f"its weights were rounded before, {held}: that stays")] if held else ()),
        (
            "",
            f"{_millions(size.params)} parameters, {_millions(figures['trained_parameters'])} trained "
            + (f"(LoRA rank {phase1.adapter.rank} on {phase1.quantisation} weights)" if phase1.adapter else "(all)"),
        ),
        ("Machine", machine),
        (
            "Step",
            f"{phase1.budget.tokens_per_step:,} tokens as micro-batches of {how.micro_batch_rows} x "
            f"{run['corpus'].row_tokens:,}; {_execution_words(phase1, how, size)}",
        ),
    ]
    if how.device == "cuda":
        parts = ", ".join(f"{name} {part / GIB:.1f}" for name, part in memory.items())
        need = sum(memory.values())
        left = f"{(figures['free_card_bytes'] - need) / GIB:.1f} GiB left of the card"
        lines.append(("Memory", f"{need / GIB:.1f} GiB predicted ({parts}); {left}"))
    return lines


def _length_lines(run: Run, figures: dict, speeds: list[Expected | None], price: float | None) -> Lines:
    """Of each phase its length, and what the adapter can take up of it."""
    lines = []
    for name, phase, speed in zip(("Phase 1", "Phase 2"), (run["phase1"], run["phase2"]), speeds, strict=True):
        budget = phase.budget
        words = f"{budget.steps:,} steps = up to {budget.tokens:,} tokens, {phase.schedule.shape} learning rate "
        words += f"{phase.optimizer.learning_rate:g}"
        lines.append((name, words + (_time_words(speed, budget.tokens, price) if speed else "")))
    return [*lines, ("Capacity", _capacity_words(run, figures["trained_parameters"]))]


def _disk_lines(figures: dict, out: Path) -> Lines:
    download_gib, disk_gib, free_gib = (figures[f"{name}_bytes"] / GIB for name in ("download", "disk", "free_disk"))
    return [
        ("Download", f"{download_gib:.1f} GiB" + ("" if download_gib else " (everything is here)")),
        ("Disk", f"{disk_gib:.2g} GiB for the base and two merged models under {out} ({free_gib:.0f} GiB free)"),
    ]


def _nearest_words(run: Run, row_tokens: int, card: Card) -> str:
    """The largest Qwen3 with the same settings that would fit."""
    phase1 = run["phase1"]
    for name, (hub_id, _, size) in QWEN3.items():
        try:
            how = choose(phase1, size, row_tokens, card)
        except ValueError:
            continue
        need = sum(execution.memory(phase1, size, row_tokens, how, card).values()) / GIB
        return f"The nearest that fits is {hub_id} ({need:.1f} GiB): SIZE={name}, or MODEL= with other recipes."
    return "No Qwen3 fits it with these settings."


def _host_words() -> str:
    """Disk and memory of the host."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{len(os.sched_getaffinity(0))} CPU cores, {memory_bytes / GIB:.1f} GiB of memory"


def _millions(count: int) -> str:
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _size_and_download(run: Run) -> tuple[ModelSize, int, dict[str, int]]:
    """The base's widths, the bytes still to be fetched, and {type: tensors} of the GGUF that it comes from."""
    if "convert" in run:
        from nsllm_lite.merge.gguf.convert import read_model  # takes seconds

        model = read_model(read_gguf(Path(run["convert"].gguf)), run["convert"].dtype)
        require_positions(model.config, run["corpus"].row_tokens, "corpus.row_tokens")
        return ModelSize.of(model.config), 0, model.about["quantised"]
    if "base" in run:
        trained = run["corpus"].train_tokenizer
        vocab = trained.vocab_size if trained else QWEN3[REFERENCE][2].vocab
        return ModelSize.of_shape(run["base"].build, vocab), 0, {}
    model = run["phase1"].model
    if (Path(model) / "config.json").is_file():
        require_positions(read_object(Path(model) / "config.json"), run["corpus"].row_tokens, "corpus.row_tokens")
        if run["phase1"].adapter is None:
            from nsllm_lite.models.loading import require_savable  # takes seconds

            require_savable(Path(model))
        return read_size(Path(model)), 0, quantised_behind(model)
    if known := next((size for hub_id, _, size in QWEN3.values() if hub_id == model), None):
        return known, 0 if _is_cached(model) else known.params * 2, {}
    config = Path(_fetch_config(model))
    require_positions(read_object(config), run["corpus"].row_tokens, "corpus.row_tokens")
    size = read_size(config.parent)
    return size, 0 if _is_cached(model) else size.params * 2, {}


def _is_cached(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    names = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(hub_id, name), str) for name in names)


def _fetch_config(hub_id: str) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        if not HUB_ID.fullmatch(hub_id) or hub_id.startswith(LOCAL):
            raise HFValidationError
        return hf_hub_download(hub_id, "config.json")
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        found = f"MODEL={hub_id!r} is neither a model folder nor an available hub id ({type(error).__name__})."
        todo = "Check the name and the network; HF_ENDPOINT sets a mirror, and MODEL=DIR takes a local copy."
        todo += " `make real-model` makes models/smollm2-135m." if hub_id.startswith("models/") else ""
        raise UserError("plan-model-not-found", found, todo) from error


def _capacity_words(run: Run, trained: int) -> str:
    """Adapter capacity against the information in the data."""
    phase1 = run["phase1"]
    room = BITS_A_PARAMETER * trained / 1e6
    bits = {"Phase 1": BITS_A_TOKEN * phase1.budget.tokens, "Phase 2": BITS_A_TOKEN * run["phase2"].budget.tokens}
    words = ", ".join(f"{name} brings at most {count / 1e6:,.0f}" for name, count in bits.items())
    short = max(bits.values()) / 1e6 > room
    rank = phase1.adapter.rank if phase1.adapter else None
    advice = f"; rank {rank} is too low to take all of it, raise adapter.rank" if short and rank else ""
    holds = f"{room:,.0f} Mbit in the {'adapter' if rank else 'model'} (about {BITS_A_PARAMETER} bits a parameter)"
    return f"{holds}; at {BITS_A_TOKEN} bits a token (assumed) {words}{advice}"


def _ways(
    run: Run,
    size: ModelSize,
    row_tokens: int,
    card: Card,
    chosen: Execution,
    speed: Expected | None,
) -> list[dict[str, str]]:
    """For each micro-batch and weight storage the fastest execution; the fastest that fits; the leanest."""
    phase1 = run["phase1"]
    ways = list(candidates(phase1, size, row_tokens, card))
    usable = USABLE_SHARE * card.memory_bytes
    of_chosen = next(way.cost for way in ways if way.execution == chosen)
    lines = []
    for key in sorted({(way.execution.micro_batch_rows, bool(way.execution.dequantised)) for way in ways}):
        mine = [way for way in ways if (way.execution.micro_batch_rows, bool(way.execution.dequantised)) == key]
        mine.sort(key=lambda way: way.cost)
        fitting = [way for way in mine if way.need_bytes <= usable]
        for way in dict.fromkeys([mine[0], *fitting[:1], mine[-1]]):
            layers = f"{way.execution.recompute_layers} of {size.layers}"
            lines.append(
                {
                    "rows": str(way.execution.micro_batch_rows),
                    "recomputed": layers + (", cheap" if way.execution.recompute_cheap else ""),
                    "weights": "dequantised" if way.execution.dequantised else phase1.quantisation,
                    "GiB": f"{way.need_bytes / GIB:.1f}",
                    "left": f"{(card.memory_bytes - way.need_bytes) / GIB:.1f}",
                    "time": f"{way.cost / of_chosen:.2f}x",
                    "tokens/s": f"{speed.tokens_per_s * of_chosen / way.cost:,.0f}" if speed else "",
                    "": "chosen" if way.execution == chosen else "" if way.need_bytes <= usable else "does not fit",
                }
            )
    return lines


def _execution_words(recipe: Train, how: Execution, size: ModelSize) -> str:
    words = f"{how.recompute_layers} of {size.layers} layers recomputed"
    if how.recompute_cheap and how.recompute_layers < size.layers:
        words += ", of the others norms and SwiGLU"
    words += ", products of frozen weights in float8" if recipe.products else ""
    words += f", NF4 weights held {'in float8 too' if recipe.products else 'dequantised'}" if how.dequantised else ""
    return words + (", layers compiled" if how.compile else "")


def _speed(recipe: Train, size: ModelSize, row_tokens: int, how: Execution, card: Card) -> Expected | None:
    """Where something is known about the card."""
    if known := known_speed(card.name, recipe.products):
        return Expected(known["flops"] / flops_per_token(size), f"as measured on this card, {known['on']}")
    if not (speed := cards.speed_of(card)):
        return None
    tokens, work = how.micro_batch_rows * row_tokens, cost.work(recipe, size, row_tokens, how)
    expected, slowest, fastest = (
        tokens / cost.seconds(work, speed._replace(share=share)) for share in (speed.share, speed.least, speed.most)
    )
    return Expected(expected, f"{speed.share:.0%} of the card's roofline, assumed", slowest, fastest)


def _time_words(speed: Expected, tokens: int, price: float | None) -> str:
    hours = tokens / speed.tokens_per_s / 3600
    between = ""
    if speed.slowest:
        between = f" ({tokens / speed.fastest / 3600:.1f} to {tokens / speed.slowest / 3600:.1f})"
    money = f", {hours * price:,.2f} at {price:g} an hour" if price else ""
    return f", about {hours:.1f} h{between} at {speed.tokens_per_s:,.0f} tokens/s ({speed.source}){money}"


def _print_trace(recipe: Train, size: ModelSize, row_tokens: int, how: Execution, card: Card) -> dict:
    """Runs the dry run, prints it beside the arithmetic and returns its figures.

    Raises:
        UserError: the step cannot be traced, or packages for that are missing.
    """
    from nsllm_lite.train.trace import trace

    need, work = execution.memory(recipe, size, row_tokens, how, card), cost.work(recipe, size, row_tokens, how)
    found = trace(recipe, size, row_tokens, how, card)
    predicted = sum(part for name, part in need.items() if name not in execution.UNTRACED)
    tokens = how.micro_batch_rows * row_tokens
    print(
        f"\nDry run of a micro-batch: peak {found.peak / GIB:.2f} GiB, {predicted / GIB:.2f} predicted "
        f"({predicted / found.peak:.3f} of it; without {' and '.join(execution.UNTRACED)}), "
        f"{found.kept / GIB:.2f} kept for the backward pass; "
        f"{sum(found.flops.values()) / tokens / 1e9:.2f} GFLOP a token, "
        f"{sum(work.flops.values()) / tokens / 1e9:.2f} predicted"
    )
    rows = [
        (kind, f"{found.flops.get(kind, 0) / 1e12:.2f}", f"{moved / 1e9:.1f}", f"{work.moved.get(kind, 0) / 1e9:.1f}",
         f"{found.launches[kind]:,.0f}")
        for kind, moved in sorted(found.moved.items(), key=lambda item: -item[1])
    ]  # fmt: skip
    totals = [sum(of.values()) for of in (found.flops, found.moved, work.moved, found.launches)]
    rows.append(("all", f"{totals[0] / 1e12:.2f}", *(f"{of / 1e9:.1f}" for of in totals[1:3]), f"{totals[3]:,.0f}"))
    terminal.table(
        ["", "TFLOP", "GB moved", "predicted", "launches"], rows, right=("TFLOP", "GB moved", "predicted", "launches")
    )
    waits = ", ".join(f"{place} {count:.0f}x" for place, count in found.waits.items()) or "never"
    print(f"The host waits for the card: {waits}")
    return {name: getattr(found, name) for name in found.__slots__} | {"peak": found.peak, "predicted": predicted}
