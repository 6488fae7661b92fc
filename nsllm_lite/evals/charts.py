"""Tables and pictures of an evaluation, all from results.json."""

from pathlib import Path
from typing import Any

import numpy as np

from nsllm_lite.artifact.disk import save_picture
from nsllm_lite.tasks.scores import ALPHA
from nsllm_lite.tasks.task import all_tasks
from nsllm_lite.terminal import as_markdown


def label_of(metric: str) -> str:
    """The metric's name in tables and pictures."""
    known = {"bert_score": "BERTScore"}
    for task in all_tasks().values():
        known |= {**task.details, **task.metrics}
    return known[metric]


def rows_of(results: dict[str, Any]) -> list[tuple[str, str]]:
    """(model, mode), in the order of the recipe."""
    return list(dict.fromkeys((row["model"], row["mode"]) for row in results["scores"]))


def score_of(results: dict[str, Any], model: str, mode: str, name: str) -> dict[str, Any] | None:
    """None where a set is not asked so: only labels are calibrated, only choices asked as cloze."""
    asked = (row for row in results["scores"] if (row["model"], row["mode"], row["set"]) == (model, mode, name))
    return next(asked, None)


def best_floor(about: dict[str, Any], metric: str) -> tuple[str, float]:
    """(rule, score) of the highest floor; ("", nan) where there is none."""
    found = {rule: figures[metric] for rule, figures in about["floors"].items() if metric in figures}
    best = max(found, key=found.get, default="")
    return best, found.get(best, float("nan"))


def markdown(results: dict[str, Any], all_differences: bool = True) -> str:
    """The scores, their floors and ceilings, and the differences between models (without `all_differences` only those
    beyond chance), as Markdown tables."""
    lines = ["# Scores", "", "With the 95 % interval over resampled items; an answer that cannot be read is wrong.", ""]
    lines += [_score_table(results)]
    if unread := [row for row in results["scores"] if row["unread"]]:
        counts = "; ".join(f"{row['model']}, {row['mode']}, {row['set']}: {row['unread']:,}" for row in unread)
        lines += ["", f"Answers that could not be read (counted as wrong): {counts}."]
    if any("constrained" in row["mode"] for row in results["scores"]):
        unread = "what could not be read was cut at its limit of tokens, or names a key twice"
        lines += ["", f"Constrained: each token of an answer is one that the schema's grammar allows; {unread}."]

    for about in results["sets"]:
        if about.get("details"):
            lines += ["", f"## {about['name']}", "", _detail_table(results, about), "", *_told(results, about)]
    versions = []
    for about in results["sets"]:
        name = about["name"] if about["name"] == about["task"] else f"{about['name']} ({about['task']})"
        versions.append(f"{name} v{about['version']} with {about['shots']}")
    lines += ["", f"Tasks, their versions and examples in a few-shot prompt: {', '.join(versions)}."]
    if notes := results.get("notes"):
        lines += ["", *notes]
    for warning in results["warnings"]:
        lines += ["", f"**Doubtful:** {warning}"]
    if differences := results["differences"]:
        shown = [row for row in differences if all_differences or row["p"] < ALPHA]
        by_chance = f"of {len(differences)} differences about {len(differences) * ALPHA:.1f} would be bold by chance"
        lines += ["", "# Differences between models, on the same items", ""]
        lines += [_difference_table(shown) if shown else "None is beyond chance."]
        lines += ["", f"p by a permutation test, bold below {ALPHA}; {by_chance} alone."]
    return "\n".join(lines)


def _score_table(results: dict[str, Any]) -> str:
    columns = [(about, metric) for about in results["sets"] for metric in about["metrics"]]
    heads = [f"{about['name']}, {label_of(metric)}" for about, metric in columns]
    rows = [
        (model, mode, *(cell(score_of(results, model, mode, about["name"]), metric) for about, metric in columns))
        for model, mode in rows_of(results)
    ]
    floors = [best_floor(about, metric) for about, metric in columns]
    rows += [
        ("best floor", "", *(f"{value:.3f} ({rule})" if rule else "" for rule, value in floors)),
        ("ceiling", "", *(f"{about['ceiling']:.3f}" if metric == "accuracy" else "" for about, metric in columns)),
        ("items", "", *(f"{about['items']:,}" for about, _ in columns)),
    ]
    return as_markdown(("model", "asked", *heads), rows, right=heads)


def _detail_table(results: dict[str, Any], about: dict[str, Any]) -> str:
    """The figures of one set that are not in the table of all: a row each, with the best floor."""
    asked = [(row, f"{row['model']}, {row['mode']}") for row in results["scores"] if row["set"] == about["name"]]
    rows = []
    for metric in about["details"]:
        rule, value = best_floor(about, metric)
        if any(metric in row for row, _ in asked):
            cells = (cell(row, metric) for row, _ in asked)
            rows.append((label_of(metric), *cells, f"{value:.3f} ({rule})" if rule else ""))
    heads = [name for _, name in asked]
    return as_markdown(("score", *heads, "best floor"), rows, right=heads)


def _told(results: dict[str, Any], about: dict[str, Any]) -> list[str]:
    """How the answers to one set were read, and what they hallucinated."""
    lines = []
    for row in (row for row in results["scores"] if row["set"] == about["name"] and "read" in row):
        read = ", ".join(f"{how} {count:,}" for how, count in row["read"].items())
        lenient = ", ".join(f"{label_of(name)} {cell(row['lenient'], name)}" for name in row["lenient"])
        none, some = (row["hallucinated"][where] for where in ("negatives", "positives"))
        lines.append(
            f"- {row['model']}, {row['mode']}: read as {read}; read leniently {lenient}. Facts that are not in gold: "
            f"{none['facts']:,} on {none['with']:,} of {none['items']:,} items without facts, {some['facts']:,} on "
            f"{some['with']:,} of {some['items']:,} others."
        )
    return lines


def _difference_table(rows: list[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        value = f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        value = f"**{value}**" if row["p"] < ALPHA else value
        names = (row["set"], row["mode"], row["first"], row["second"], label_of(row["metric"]))
        cells.append((*names, value, f"{row['p']:.3f}"))
    return as_markdown(("set", "asked", "from", "to", "score", "difference", "p"), cells, right=("difference", "p"))


def cell(score: dict[str, Any] | None, metric: str) -> str:
    """Empty where a set is not asked so, a dash where its answers have nothing that the metric counts."""
    if score is None:
        return ""
    if metric not in score:
        return "–"
    estimate = score[metric]
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def radar(results: dict[str, Any], png: Path) -> None:
    """The first score of every set on axes from 0 to 1, the same for all; the best floors as a grey field."""
    from matplotlib.figure import Figure

    sets = [(about, about["metrics"][0]) for about in results["sets"]]
    angles = np.linspace(0, 2 * np.pi, len(sets), endpoint=False)
    figure = Figure(figsize=(7.5, 8), layout="constrained")
    axes = figure.add_subplot(projection="polar")
    axes.set_theta_offset(np.pi / 2)
    axes.set_theta_direction(-1)
    around = np.append(angles, angles[0])
    floors = np.nan_to_num([best_floor(about, metric)[1] for about, metric in [*sets, sets[0]]])
    axes.fill(around, floors, color="0.85", label="best floor without a model")
    for number, (model, mode) in enumerate(rows_of(results)):
        scores = [score_of(results, model, mode, about["name"]) for about, _ in sets]
        if None in scores:
            continue
        values = [score[metric]["value"] for score, (_, metric) in zip(scores, sets, strict=True)]
        style = {"linestyle": "-" if mode == "few-shot" else "--", "marker": "o", "ms": 3, "color": f"C{number % 10}"}
        axes.plot(around, [*values, values[0]], label=f"{model}, {mode}", **style)
    axes.set_ylim(0, 1)
    axes.set_yticks([0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_xticks(angles, [f"{about['name']}\n{label_of(metric)}" for about, metric in sets])
    axes.set_title("Scores from 0 to 1, the same scale on every axis", pad=24)
    axes.tick_params(axis="x", pad=18)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    save_picture(figure, png, bbox_inches="tight")


def bars(results: dict[str, Any], png: Path) -> None:
    """A panel for each set: its first score of every model with the 95 % interval, and the best floor as a line."""
    from matplotlib.figure import Figure

    sets, rows = results["sets"], rows_of(results)
    across = min(3, len(sets))
    down = -(-len(sets) // across)
    figure = Figure(figsize=(4.6 * across, (1.5 + 0.32 * len(rows)) * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, about in zip(panels, sets, strict=False):
        name, metric = about["name"], about["metrics"][0]
        for place, (model, mode) in enumerate(rows):
            score = score_of(results, model, mode, name)
            if score is None:
                continue
            found = score[metric]
            off = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
            axes.barh(place, found["value"], xerr=np.maximum(off, 0), color=f"C{place % 10}", alpha=0.8, capsize=2)
        rule, floor = best_floor(about, metric)
        if rule:
            axes.axvline(floor, color="0.3", linestyle=":", label=f"floor: {rule} {floor:.2f}")
            axes.legend(fontsize="x-small", loc="lower right")
        axes.set_yticks(range(len(rows)), [f"{model}, {mode}" for model, mode in rows], fontsize="small")
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_title(f"{name}: {label_of(metric)}, {about['items']:,} items", fontsize="medium")
    for axes in panels[len(sets) :]:
        axes.set_visible(False)
    save_picture(figure, png, bbox_inches="tight")
