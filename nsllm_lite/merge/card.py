"""The model card: what the merged model is made of, what was measured, and what it is not for.

All that it tells is read from the base's own card and from the manifests behind the adapters and the base. Where those
are not found it tells less.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.lineage import Step, corpus_of, steps_behind
from nsllm_lite.formats.rows import Rows
from nsllm_lite.merge.inputs import Adapter, Base
from nsllm_lite.recipe.merge import Merge
from nsllm_lite.safety import HUB_ID, printable

MAX_CARD_CHARS = 1 << 20
UNKNOWN = "unknown"  # the hub's own word
COUNTS = {"in": "in", "kept": "kept", "duplicate": "duplicates", "heldout": "held out", "unused": "unused"}

USE = """## Intended use

Research on language models for the natural sciences: continuing, classifying and questioning scientific text, comparing
ways of training, and as the start of further training."""

TUNED = (
    "It was tuned to answer the kinds of instruction named above; of others, and of refusing any, nothing was learnt."
)
UNTUNED = "No training named here taught it to follow instructions, or to refuse any: it continues text."

LIMITS = """## Limits

- Losses are those of held-out papers of the same sources. They say that the model predicts such text better, not that
  what it states is true.
- It knows nothing newer than its base and the papers above, has no means of checking a source, and may invent results,
  numbers, references and formulas that read well.
- Errors, biases and retracted findings of the papers, and of what the base was trained on, may come back in its text.
- Training on one kind of text costs others: see the loss on general text, where it was measured.

## Disclaimer

This model is an experiment, given as it is and without any warranty. Nothing that it writes is advice. Do not base a
medical, legal, financial or safety decision on it, nor a laboratory procedure. Check every statement against its
primary source before you use it, and name the model where its text is published. Whoever uses it answers for that use,
and for keeping to the licences of the base and of the sources."""


def write(path: Path, recipe: Merge, base: Base, adapters: list[Adapter], results: dict) -> None:
    steps = steps_behind(*(adapter.folder for adapter in adapters), recipe.base)[::-1]
    trainings = [step for step in steps if step.about.curves]
    corpora = corpora_of(trainings)
    parts = [
        "---\n" + yaml.safe_dump(metadata(recipe, base, adapters, results, trainings, corpora)).strip() + "\n---",
        f"# {Path(recipe.out).name}",
        opening(recipe, results, trainings, len(adapters)),
        made_of(recipe, base, adapters, results),
        *([recipe_table(trainings)] if trainings else []),
        *(data_section(corpus) for corpus in corpora),
        *([losses_table(trainings)] if any(step.losses() for step in trainings) else []),
        *measured(results),
        tasks_section(corpora),
        f"{USE} {TUNED if trainings and 'answers' in trainings[-1].about.curves else UNTUNED}",
        LIMITS,
        "SHA-256 of each shard and all settings: `manifest.json`; each tensor's update: `tensors.json`.",
    ]
    write_atomic(path, "\n\n".join(parts) + "\n")


# -------------------------------------------------------------------------------------------------------- metadata


def metadata(
    recipe: Merge,
    base: Base,
    adapters: list[Adapter],
    results: dict,
    trainings: list[Step],
    corpora: list[Step],
) -> dict[str, Any]:
    """What the hub reads. No `datasets`: those are ids of the hub's own data sets, and the sources are the user's."""
    front: dict[str, Any] = {**licence_of(base.folder), "library_name": "transformers", "tags": ["nsllm-lite"]}
    if results.get("base_model"):
        relation = "finetune" if len(adapters) == 1 else "merge"
        front |= {"base_model": results["base_model"], "base_model_relation": relation}
    if trainings:
        front["tags"] += ["continued-pretraining", "science"]
    if languages := sorted({language for corpus in corpora for language in corpus.recipe.languages or []}):
        front["language"] = languages
    if any(name.endswith("ForCausalLM") for name in base.config.get("architectures") or []):
        front["pipeline_tag"] = "text-generation"
    return front


def base_model_of(name: str, folder: Path) -> str | None:
    """The hub id of the model that all began with, from that of the merge before, or from the hub's cache.

    None where it is not known: a local folder whose origin nothing tells.
    """
    if not Path(name).is_dir():
        return name
    if step := next(iter(steps_behind(name)), None):
        before = step.results.get("base_model")
        return before if isinstance(before, str) and HUB_ID.fullmatch(before) else None
    cached = next((part for part in reversed(folder.resolve().parts) if part.startswith("models--")), None)
    return cached.removeprefix("models--").replace("--", "/", 1) if cached else None


def licence_of(folder: Path) -> dict[str, str]:
    """`license` as the base's own card states it, with name and link where it has one of its own; else `unknown`."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace")[:MAX_CARD_CHARS] if path.is_file() else ""
    front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        values = yaml.safe_load(front[1]) if front else {}
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
        values = {}
    stated = values if isinstance(values, dict) else {}
    found = {
        key: stated[key] for key in ("license", "license_name", "license_link") if isinstance(stated.get(key), str)
    }
    return found if "license" in found else {"license": UNKNOWN}


# --------------------------------------------------------------------------------------------------------- sections


def opening(recipe: Merge, results: dict, trainings: list[Step], num_adapters: int) -> str:
    phases = sum(step.kind == "train" and bool(step.recipe.adapter) for step in trainings)
    how = f" by {phases} phase{'s' * (phases > 1)} of continued pretraining with LoRA" if phases else ""
    origin = f"`{results['base_model']}`" if results.get("base_model") else "A model"
    words = f"{origin}, adapted to natural science{how}" if phases else f"`{recipe.base}`"
    later = " Another phase of training was meant to follow." if recipe.then_requantize else ""
    return f"{words}; {num_adapters} LoRA adapter{'s' * (num_adapters > 1)} merged in by nsllm-lite.{later}"


def made_of(recipe: Merge, base: Base, adapters: list[Adapter], results: dict) -> str:
    licence = licence_of(base.folder)
    named = " ".join(licence[key] for key in ("license_name", "license_link") if key in licence)
    stated = licence["license"] + (f" ({named})" if named else "")
    rows = [
        ("base", f"`{recipe.base}`, weights {base.fingerprint[:12]}"),
        ("licence of the base", "not stated by the base" if stated == UNKNOWN else stated),
    ]
    for adapter in adapters:
        weight = f", {adapter.weight} times" if adapter.weight != 1 else ""
        rank = adapter.settings["r"]
        rows.append(("adapter", f"`{adapter.folder.name}`, {adapter.sha256[:12]}, rank {rank}{weight}"))
    rows += [
        ("merged into", f"the {results['base_weights']} weights"),
        ("share of the update in the weights", f"{results['kept_share']:.2%}"),
        ("share after rounding to NF4", f"{results['nf4_kept_share']:.2%}"),
    ]
    return "\n".join(["| | |", "|---|---|", *(table_row(*row) for row in rows)])


def recipe_table(trainings: list[Step]) -> str:
    """What each training did, a column each."""
    rows: dict[str, list[str]] = {}
    for number, step in enumerate(trainings):
        for name, value in recipe_rows(step):
            rows.setdefault(name, [""] * len(trainings))[number] = value
    lines = [table_row("", *(step.folder.name for step in trainings)), "|---|" + "---|" * len(trainings)]
    names = sorted(rows, key=lambda name: name.startswith("data: "))
    return "\n".join(["## Recipe", "", *lines, *(table_row(name, *rows[name]) for name in names)])


def recipe_rows(step: Step) -> list[tuple[str, str]]:
    recipe, results, inputs = step.recipe, step.results, step.inputs
    rows = [("kind", step.about.title)]
    if getattr(recipe, "build", None):
        rows = [("kind", "a model made from nothing")]
    if adapter := recipe.adapter:
        kind = "DoRA" if adapter.dora else "rsLoRA" if adapter.rslora else "LoRA"
        rows.append(("adapter", f"{kind}, rank {adapter.rank}, alpha {adapter.alpha:g}"))
        rows.append(("on", ", ".join([*adapter.targets, *(adapter.modules_to_save or [])])))
    held = "NF4" if recipe.quantisation == "nf4" else "unquantised"
    rows.append(("weights", f"{held}, computed in {recipe.compute_dtype}"))
    if optimizer := recipe.optimizer:
        rows.append(("optimizer", f"{optimizer.name}, learning rate {optimizer.learning_rate:g}"))
    if schedule := recipe.schedule:
        rows.append(("schedule", f"{schedule.shape}, warm-up {schedule.warmup_steps} steps"))
    if results.get("tokens") and results.get("steps"):
        rows.append(("trained on", f"{results['tokens']:,} tokens in {results['steps']:,} steps"))
    if None not in map(results.get, ("coverage", "available_tokens", "domain_tokens")):
        share = f"{results['coverage']:.2f} x the {results['available_tokens']:,} there are"
        rows.append(("of domain text", f"{results['domain_tokens']:,} tokens: {share}"))
    if results.get("replay_share") is not None:
        rows.append(("replay of general text", f"{results['replay_share']:.1%}"))
    rows.append(("seed", str(recipe.seed)))
    rows += [(f"data: {name}", f"`{value[:12]}`") for name, value in inputs.items() if value and name != "base"]
    return rows


def corpora_of(trainings: list[Step]) -> list[Step]:
    """The corpora whose rows are still those that were trained on."""
    found: dict[Path, Step] = {}
    for step in trainings:
        corpus = corpus_of(step)
        try:
            same = corpus and Rows(Path(step.recipe.rows)).sha256 == step.inputs.get("rows")
        except ValueError:
            same = False
        if corpus and same:
            found[corpus.folder] = corpus
    return [corpus for corpus in found.values() if "documents" in corpus.results]


def data_section(corpus: Step) -> str:
    """The ledger's summary: records by source, tokens by phase."""
    results = corpus.results
    lines = ["## Data", "", "Records of each source, and what became of them:", ""]
    lines += [table_row("source", "licence", *COUNTS.values(), "dropped"), "|---|---|" + "---:|" * (len(COUNTS) + 1)]
    for name, counts in results["documents"].items():
        licence = results.get("licences", {}).get(name, "not stated")
        cells = [f"{counts[key]:,}" for key in COUNTS] + [f"{sum(counts['dropped'].values()):,}"]
        lines.append(table_row(name, licence, *cells))
    lines += ["", "Tokens to train on:", "", table_row("", "source", "tokens"), "|---|---|---:|"]
    for phase, by_source in results.get("phases", {}).items():
        for name, counts in by_source.items():
            lines.append(table_row(phase, name, f"{counts['tokens']['kept']:,}"))
    if unstated := [name for name, licence in results.get("licences", {}).items() if licence == "not stated"]:
        lines += ["", f"The licence of {', '.join(unstated)} was not stated: find out before this model is passed on."]
    return "\n".join(lines)


def losses_table(trainings: list[Step]) -> str:
    lines = [
        "## Held-out losses",
        "",
        "Before and after each training, in nats per token; of an adapter, on the base as it was trained on:",
        "",
    ]
    lines += [table_row("", "held out", "loss", "bits per byte"), "|---|---|---:|---:|"]
    for step in trainings:
        for name, (before, after) in step.losses().items():
            cells = []
            for figure in ("loss", "bits_per_byte"):
                known = before.get(figure) is not None and after.get(figure) is not None
                cells.append(f"{before[figure]:.4f} -> {after[figure]:.4f}" if known else "")
            lines.append(table_row(step.folder.name, name, *cells))
    return "\n".join(lines)


def measured(results: dict) -> list[str]:
    """What the merge itself was measured to give, where it was."""
    parts = []
    if results.get("comparison"):
        from nsllm_lite.merge.compare import table

        parts.append("Held-out loss, nats per token:\n\n" + table(results["comparison"]))
    if results.get("verified"):
        verified = results["verified"]
        parts.append(
            f"Loaded again by transformers and compared with base + adapter: KL {verified['kl']:.2e} nats a token, the "
            f"same first choice at {verified['top1']:.2%} of {verified['tokens']:,} tokens."
        )
    return parts


def tasks_section(corpora: list[Step]) -> str:
    cleared = sorted({Path(name).name for corpus in corpora for name in corpus.recipe.decontaminate or []})
    words = "No task was scored when this card was written: `nsllm-lite eval` with this folder does it."
    if cleared:
        words += f" Papers that hold an item of {', '.join(cleared)} were kept out of the training."
    elif corpora:
        words += " The papers were not cleared of any evaluation file: scores on public ones may be too high."
    return "## Tasks\n\n" + words


def table_row(*cells: str) -> str:
    """One row whatever the cells hold: no line, column or HTML of their own, as a base's card may ask for."""
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(cell: str) -> str:
    text = printable(" ".join(cell.split())).replace("|", "\\|")
    is_code = len(text) > 2 and text[0] == text[-1] == "`"
    return "`" + text[1:-1].replace("`", "'") + "`" if is_code else text.replace("<", "&lt;")
