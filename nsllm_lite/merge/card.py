"""The model card: what the merged model is made of, what was measured, and what it is not for.

Its facts are read from the base's own card, the manifests behind the adapters and the base, and the evaluations beside
the model; those that are not found are left out. Its words are in `card.md`.
"""

import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, Template

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.lineage import Step, corpus_of, finished_step, steps_behind
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.merge.inputs import Adapter, Base
from nsllm_lite.recipe.merge import Merge
from nsllm_lite.recipe.results import held_words
from nsllm_lite.safety import HUB_ID
from nsllm_lite.terminal import as_cell, as_markdown

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

MAX_CARD_CHARS = 1 << 20
UNKNOWN = "unknown"  # the hub's own word


def write(folder: Path, recipe: Merge, base: Base, adapters: list[Adapter], results: dict) -> None:
    """Writes README.md beside the merged weights in `folder`."""
    text = text_of(recipe, base, adapters, results, scores_of(folder, Path(recipe.out).absolute().parent))
    write_atomic(folder / "README.md", text)


def add_scores(folder: Path, recipe: Merge, base: Base, adapters: list[Adapter], results: dict) -> None:
    """Writes the card of a finished merge again where its scores have changed and nobody has edited the card."""
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    try:
        before = path.read_text(encoding="utf-8")
        stated = ModelCard(before).data.eval_results or []
    except (OSError, ValueError, yaml.YAMLError):
        return
    now = text_of(recipe, base, adapters, results, scores_of(folder, folder.parent))
    if now != before == text_of(recipe, base, adapters, results, stated):
        write_atomic(path, now)
        print(f"{path}: now has the scores of its evaluation")


@cache
def template() -> Template:
    page = Environment(trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"cell": as_cell, "n": "{:,}".format}
    return page.from_string(Path(__file__).with_suffix(".md").read_text(encoding="utf-8"))


def text_of(recipe: Merge, base: Base, adapters: list[Adapter], results: dict, scores: "list[EvalResult]") -> str:
    steps = steps_behind(*(adapter.folder for adapter in adapters), recipe.base)[::-1]
    trainings = [step for step in steps if step.about.curves]
    corpora = corpora_of(trainings)
    name, licence = Path(recipe.out).name, licence_of(base.folder)
    values: dict[str, Any] = {"recipe": recipe, "base": base, "adapters": adapters, "results": results}
    values["held"] = held_words(results.get("quantised") or {})
    values |= {"name": name, "corpora": corpora, "scores": scores, "licence": licence}
    values["losses"] = [(step.folder.name, *item) for step in trainings for item in step.losses().items()]
    values["recipes"] = recipe_table(trainings) if trainings else ""
    values["phases"] = sum(step.kind == "train" and bool(step.recipe.adapter) for step in trainings)
    values["tuned"] = bool(trainings) and "answers" in trainings[-1].about.curves
    values["cleared"] = sorted({Path(name).name for one in corpora for name in one.recipe.decontaminate or []})
    if results.get("comparison"):
        from nsllm_lite.merge.compare import table

        values["comparison"] = table(results["comparison"])
    body = template().render(values)
    # What the hub reads. No `datasets`: those are ids of the hub's own data sets, and the sources are the user's.
    relation = "finetune" if len(adapters) == 1 else "merge"
    tags = ["nsllm-lite", *(("continued-pretraining", "science") if trainings else ())]
    languages = sorted({language for corpus in corpora for language in corpus.recipe.languages or []})
    front = {"base_model": results.get("base_model"), "language": languages, "library_name": "transformers"}
    is_causal = any(one.endswith("ForCausalLM") for one in base.config.get("architectures") or [])
    front |= licence | {"pipeline_tag": "text-generation" if is_causal else None}
    front |= {"tags": tags, "base_model_relation": relation if results.get("base_model") else None}
    if scores:
        from huggingface_hub import ModelCardData  # takes a tenth of a small merge

        front["model-index"] = ModelCardData(model_name=name, eval_results=scores).to_dict()["model-index"]
    head = yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False, allow_unicode=True)
    return f"---\n{head.strip()}\n---\n\n" + re.sub(r"\n{3,}", "\n\n", body) + "\n"


def scores_of(model: Path, beside: Path) -> "list[EvalResult]":
    """The scores that finished evaluations in folders of `beside` gave these very weights."""
    steps = [finished_step(path.parent) for path in sorted(beside.glob("*/manifest.json"))]  # skips what is unreadable
    evaluations = [step for step in steps if step and step.kind == "eval"]
    if evaluations:
        from huggingface_hub import EvalResult
    weights, found = fingerprint_weights(model) if evaluations else "", []
    for step in evaluations:
        whole = [one.name for one in step.recipe.models or () if one.quantisation in (None, "none")]
        names = [name for name in whole if step.inputs.get(f"model:{name}") == weights]
        rows = [row for row in step.results.get("scores", ()) if row.get("model") in names]
        for about in step.results.get("sets", ()):
            found += [
                EvalResult(
                    task_type="text-generation",
                    dataset_type=about["name"],
                    dataset_name=about.get("title") or about["name"],
                    metric_type=metric,
                    metric_name=f"{metric}, {row['mode']}",
                    metric_value=round(row[metric]["value"], 4),
                )
                for row in rows
                for metric in about["metrics"]
                if row.get("set") == about["name"] and isinstance(row.get(metric), dict)
            ]
    return found


def base_model_of(name: str, folder: Path) -> str | None:
    """The hub id of the model that all began with, from that of the merge before, or from the hub's cache; None for a
    local folder whose origin nothing tells."""
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
        stated = yaml.safe_load(front[1]) if front else {}
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
        stated = {}
    if not isinstance(stated, dict) or not isinstance(stated.get("license"), str):
        return {"license": UNKNOWN}
    return {key: stated[key] for key in ("license", "license_name", "license_link") if isinstance(stated.get(key), str)}


def recipe_table(trainings: list[Step]) -> str:
    """What each training did, a column each."""
    columns = [dict(recipe_rows(step)) for step in trainings]
    names = sorted({name: 0 for column in columns for name in column}, key=lambda name: name.startswith("data: "))
    rows = [(name, *(column.get(name, "") for column in columns)) for name in names]
    return as_markdown(("", *(step.folder.name for step in trainings)), rows)


def recipe_rows(step: Step) -> list[tuple[str, str]]:
    recipe, results, inputs = step.recipe, step.results, step.inputs
    rows = [("kind", "a model made from nothing" if getattr(recipe, "build", None) else step.about.title)]
    if adapter := recipe.adapter:
        kind = "DoRA" if adapter.dora else "rsLoRA" if adapter.rslora else "LoRA"
        rows.append(("adapter", f"{kind}, rank {adapter.rank}, alpha {adapter.alpha:g}"))
        rows.append(("on", ", ".join([*adapter.targets, *(adapter.modules_to_save or [])])))
    held = "NF4" if recipe.quantisation == "nf4" else "unquantised"
    products = ", frozen products in float8" if recipe.products else ""
    rows.append(("weights", f"{held}, computed in {recipe.compute_dtype}{products}"))
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
    data = {name: value for name, value in inputs.items() if value and name.rpartition(" ")[2] != "base"}
    rows += [(f"data: {name}", f"`{value[:12]}`") for name, value in data.items()]
    return rows


def corpora_of(trainings: list[Step]) -> list[Step]:
    """The corpora whose rows are still those that were trained on."""
    found: dict[Path, Step] = {}
    for step in trainings:
        corpus = corpus_of(step)
        with suppress(ValueError):  # of rows that are damaged
            if corpus and Rows(Path(step.recipe.rows)).sha256 == step.inputs.get("rows"):
                found[corpus.folder] = corpus
    return [corpus for corpus in found.values() if "documents" in corpus.results]
