"""`nsllm-lite stages`: what each stage of instruction tuning did to the held-out answers of all stages, and the scores.

Every stage tunes the merged model of the one before, and measures the answers that any stage holds out; so a column of
the table falls at its own stage, and rises at a later one that makes the model forget.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.disk import save_picture, write_atomic
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.artifact.step import begin, finish, finished, manifest_sha256, read_manifest
from nsllm_lite.errors import UserError
from nsllm_lite.evals.charts import best_floor, cell, label_of, rows_of, score_of
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import BEFORE, Stage, Stages
from nsllm_lite.recipe.values import require_different
from nsllm_lite.terminal import as_markdown

Losses = dict[str, dict[str, float]]  # row -> stage -> nats a token of its held-out answers


def stages(recipe: Stages) -> dict[str, Any]:
    """Writes stages.json, stages.md and stages.png from the results of finished stages and scores.

    Raises:
        UserError: a stage or the scores are not finished, or two stages measured other answers.
    """
    started, out = time.time(), Path(recipe.out)
    manifests = {stage.name: finished_step(stage.sft) for stage in recipe.stages}
    inputs = {f"stage:{stage.name}": manifest_sha256(Path(stage.sft)) for stage in recipe.stages}
    scores = None
    if recipe.scores:
        finished_step(recipe.scores)
        inputs["scores"] = manifest_sha256(Path(recipe.scores))
        scores = read_json(Path(recipe.scores) / "results.json")
    identity = recipes.identity(recipe)
    if (results := finished(out, identity, inputs)) is not None:
        return results
    begin(out, identity, inputs)
    files = own_files(recipe.stages)
    counts, losses = answer_tokens(files, manifests), held_losses(files, manifests)
    results = {"stages": list(files), "answer_tokens": counts, "losses": losses, "forgotten": forgotten(losses)}
    table = words_of(results, scores)
    write_json(out / "stages.json", results)
    write_atomic(out / "stages.md", f"# Stages of instruction tuning\n\n{table}\n")
    plot(losses, out / "stages.png")
    print(table)
    finish(out, "stages", identity, inputs, results, started)
    return results


def finished_step(folder: str) -> dict[str, Any]:
    """The results of a finished step."""
    manifest = read_manifest(Path(folder))
    if manifest is None:
        raise UserError("stages-step-unfinished", f"{folder} is not finished.", "Run that step first.")
    return manifest["results"]


def own_files(stages: Sequence[Stage]) -> dict[str, list[str]]:
    """{stage: the names of its held-out files, as trainings have them}. Raises UserError where two stages share one."""
    named: dict[str, list[str]] = {}
    for stage in stages:
        named[stage.name] = [stem for name in stage.heldout for stem in stems_of(Path(name))]
    require_different([name for names in named.values() for name in names], "held-out files")
    return named


def stems_of(path: Path) -> list[str]:
    """The names of the held-out files at `path`, a file or a folder of them. Raises UserError where there is none."""
    files = [file for file in sorted(path.iterdir()) if file.suffix in (".json", ".jsonl")] if path.is_dir() else [path]
    if not (stems := [file.stem for file in files]):
        needed = "Needed are .json or .jsonl files in it."
        raise UserError("stages-heldout-empty", f"{path} holds no held-out file.", needed, "Correct `heldout`.")
    return stems


def held_out(results: dict[str, Any], when: str, files: dict[str, list[str]], by: str) -> dict[str, tuple[float, int]]:
    """{stage: (loss, tokens) of its held-out answers}, as the training `by` measured them. Raises UserError where it
    has measured none of a file."""
    answers, found = results["heldout"][when]["answers"], {}
    for stage, names in files.items():
        if absent := [name for name in names if name not in answers]:
            needed = f"Every stage must hold out the files of all stages; {by} has measured no answer of these."
            todo = "Name all of them in `heldout` of each stage, and raise max_heldout_examples."
            raise UserError("stages-heldout-differs", f"{stage} holds out {', '.join(absent)}.", needed, todo)
        tokens = sum(answers[name]["tokens"] for name in names)
        found[stage] = (sum(answers[name]["loss"] * answers[name]["tokens"] for name in names) / tokens, tokens)
    return found


def answer_tokens(files: dict[str, list[str]], manifests: dict[str, Any]) -> dict[str, int]:
    """{stage: tokens of the answers that it holds out}. Raises UserError where two stages measured other ones."""
    counted: dict[str, int] = {}
    for by, results in manifests.items():
        for stage, (_, tokens) in held_out(results, "after", files, by).items():
            if counted.setdefault(stage, tokens) != tokens:
                found = f"{by} measured {tokens:,} tokens of {stage}'s held-out answers, a stage before it others."
                todo = "Give all stages the same held-out files, template and limits of tokens and examples."
                raise UserError("stages-answers-differ", found, "Such losses cannot stand in one column.", todo)
    return counted


def held_losses(files: dict[str, list[str]], manifests: dict[str, Any]) -> Losses:
    """Before the first stage, and after each."""

    def row(by: str, when: str) -> dict[str, float]:
        return {stage: loss for stage, (loss, _) in held_out(manifests[by], when, files, by).items()}

    return {BEFORE: row(next(iter(manifests)), "before")} | {name: row(name, "after") for name in manifests}


def forgotten(losses: Losses) -> dict[str, float]:
    """{stage: by how much the loss of its answers at the end lies above that after the stage itself}; not the last."""
    last = list(losses)[-1]
    return {name: losses[last][name] - losses[name][name] for name in losses if name not in (BEFORE, last)}


def words_of(results: dict[str, Any], scores: dict[str, Any] | None) -> str:
    """One table: a line for the model before the stages and after each, with the losses and then the scores."""
    losses, counts = results["losses"], results["answer_tokens"]
    names = list(counts)
    heads = [f"loss, {name}" for name in names]
    modes = list(dict.fromkeys(mode for _, mode in rows_of(scores))) if scores else []
    asked = [
        (about, metric, mode)
        for about in (scores or {"sets": []})["sets"]
        for metric in about["metrics"][:2]
        for mode in modes
    ]
    heads_of_scores = [f"{about['name']}, {label_of(metric)}, {mode}" for about, metric, mode in asked]
    models = [BEFORE, *names]
    lines = []
    for model in models:
        cells = [f"**{losses[model][name]:.4f}**" if name == model else f"{losses[model][name]:.4f}" for name in names]
        lines.append(
            (
                model,
                *cells,
                *(cell(score_of(scores, model, mode, about["name"]), metric) for about, metric, mode in asked),
            )
        )
    floors = [best_floor(about, metric) for about, metric, _ in asked]
    told = [f"{value:.3f} ({rule})" if rule else "" for rule, value in floors]
    lines += [("best floor", *("" for _ in names), *told)]
    counted = [f"{count:,} tokens" for count in counts.values()]
    lines += [("of", *counted, *(f"{about['items']:,} items" for about, _, _ in asked))]
    table = as_markdown(("after the stage", *heads, *heads_of_scores), lines, right=(*heads, *heads_of_scores))
    said = [f"{name} {change:+.4f}" for name, change in results["forgotten"].items()]
    words = ["Losses of held-out answers in nats per token, bold after their own stage. Scores with 95 % intervals."]
    if said:
        words += [f"From its own stage to the end the loss of {', '.join(said)} (above 0: forgotten)."]
    return "\n\n".join([table, *words])


def plot(losses: Losses, png: Path) -> None:
    """A line for each stage's held-out answers, over the stages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    rows = list(losses)
    for name in rows[1:]:
        axes.plot(range(len(rows)), [losses[row][name] for row in rows], marker="o", label=f"answers of {name}")
    axes.set_xticks(range(len(rows)), rows)
    axes.set(ylabel="loss of held-out answers, nats per token", xlabel="after the stage")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.suptitle("Held-out answers of every stage, after each")
    save_picture(figure, png)
