"""Table and picture of the scores of encoders, from results.json."""

from pathlib import Path
from typing import Any

import numpy as np

from nsllm_lite.artifact.disk import save_picture
from nsllm_lite.tasks.floors import lost_to
from nsllm_lite.tasks.scores import ALPHA, Difference
from nsllm_lite.terminal import as_markdown

TITLES = {
    "ner": "Named entities", "qa": "Questions", "retrieval": "Retrieval", "classification": "Classes",
    "multilabel": "Labels", "pair": "Pairs",
}  # fmt: skip
LABELS = {
    "f1": "F1", "macro_f1": "macro-F1", "micro_f1": "micro-F1", "exact": "exact match", "mean_ap": "mean AP",
    "ap": "AP", "ndcg@10": "nDCG@10", "recall@10": "Recall@10", "mrr@10": "MRR@10",
}  # fmt: skip


def markdown(results: dict[str, Any], speeds: dict[str, dict[str, Any]]) -> str:
    """All scores with their floors; differences; sizes, and the time of a query as it was measured (`speeds`)."""
    lines = ["# Scores", "", "With the 95 % interval over resampled items. Floors, in italics, understand nothing."]
    for about in results["sets"]:
        lines += ["", f"## {about['title']}", "", _table(results, about)]
        if parts := _parts(results, about):
            lines += ["", parts]
        lines += ["", *(f"- {note}." for note in about["notes"])] if about["notes"] else []
        lines += _lost(results, about)
    for warning in results["warnings"]:
        lines += ["", f"**Doubtful:** {warning}"]
    if results["seeds"]:
        lines += ["", "## Seeds", "", _seeds(results)]
    lines += ["", "## Differences", "", _differences(results)]
    lines += ["", f"On the same items; p by a permutation test, bold below {ALPHA}."]
    lines += ["", "## Size and time", "", _sizes(results, speeds)]
    lines += ["", "Median time of one query alone (of retrieval: to embed it), on the machine that scored them."]
    return "\n".join(lines)


def _cell(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _label(metric: str) -> str:
    return LABELS.get(metric, metric)


def _rows(results: dict[str, Any], about: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, scores) of models, then of floors in italics."""
    mine = [row for row in results["scores"] if row["set"] == about["name"]]
    names = [row["model"] if row["mode"] == "predicted" else f"{row['model']}, {row['mode']}" for row in mine]
    return [*zip(names, mine, strict=True), *((f"*{rule}*", found) for rule, found in about["floors"].items())]


def _table(results: dict[str, Any], about: dict[str, Any]) -> str:
    heads = [_label(metric) for metric in about["metrics"]]
    rows = [(name, *(_cell(row.get(metric)) for metric in about["metrics"])) for name, row in _rows(results, about)]
    return as_markdown((f"{about['items']:,} items", *heads), rows, right=heads)


def _parts(results: dict[str, Any], about: dict[str, Any]) -> str:
    """Scores of each type, label or part, with the number of their items; "" where there are none."""
    rows = _rows(results, about)
    shown = {"model", "mode", "set", *about["metrics"]}
    names = dict.fromkeys(key for _, row in rows for key in row if key not in shown)
    if not names:
        return ""
    lines = [(name, *(_cell(row.get(name)) for _, row in rows)) for name in names]
    heads = [name for name, _ in rows]
    return as_markdown(("of", *heads), lines, right=heads)


def _lost(results: dict[str, Any], about: dict[str, Any]) -> list[str]:
    """Sentences about rows that lie below the highest floor, or where that cannot be told from chance."""
    metric, lines = about["metrics"][0], []
    for row in results["differences"]:
        if row["set"] != about["name"] or row["first_mode"] != "floor" or row["mode"] == "dense, untrained":
            continue
        name = row["second"] if row["mode"] == "predicted" else f"{row['second']}, {row['mode']},"
        if words := lost_to(name, row["first"], _label(metric), _difference(row)):
            lines += ["", words]
    return lines


def _difference(row: dict[str, Any]) -> Difference:
    return Difference(*(row[key] for key in Difference._fields))


def _seeds(results: dict[str, Any]) -> str:
    rows = [
        (row["model"], row["set"], row["seeds"], _label(metric), f"{of['mean']:.3f} ± {of['deviation']:.3f}")
        for row in results["seeds"]
        for metric, of in row["metrics"].items()
    ]
    return as_markdown(("model", "set", "seeds", "score", "mean ± deviation"), [list(map(str, row)) for row in rows])


def _differences(results: dict[str, Any]) -> str:
    rows = []
    for row in results["differences"]:
        difference = _difference(row)
        value = f"**{difference.words}**" if difference.sign else difference.words
        second = row["second"] if row["mode"] == "predicted" else f"{row['second']}, {row['mode']}"
        rows.append((row["set"], row["first"], second, _label(row["metric"]), value, f"{row['p']:.3f}"))
    return as_markdown(("set", "from", "to", "score", "difference", "p"), rows, right=("difference", "p"))


def _sizes(results: dict[str, Any], speeds: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, about in results["models"].items():
        speed = speeds.get(name, {})
        time = f"{speed['query_ms']:.1f} ms, {speed['device']}" if speed else ""
        cells = (f"{about['parameters'] / 1e6:.1f} M", f"{about['bytes'] / 2**20:.1f} MiB", f"{about['max_tokens']:,}")
        rows.append((name, *cells, str(about.get("dimensions", "")), time))
    heads = ("parameters", "weights", "window, tokens", "dimensions", "a query")
    return as_markdown(("model", *heads), rows, right=heads)


def picture(results: dict[str, Any], png: Path) -> None:
    """A panel for each set: the main score of every row with its interval, floors in grey."""
    from matplotlib.figure import Figure

    panels = [(about, _rows(results, about)) for about in results["sets"]]
    heights = [0.7 + 0.32 * len(rows) for _, rows in panels]
    figure = Figure(figsize=(8, sum(heights) + 0.5), layout="constrained")
    axes_of = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).ravel()
    for axes, (about, rows) in zip(axes_of, panels, strict=True):
        metric = about["metrics"][0]
        for place, (name, row) in enumerate(rows):
            found, is_floor = row[metric], name.startswith("*")
            off = np.maximum([[found["value"] - found["low"]], [found["high"] - found["value"]]], 0)
            color = "0.7" if is_floor else f"C{place % 10}"
            axes.barh(place, found["value"], xerr=off, color=color, alpha=0.8, capsize=2)
        axes.set_yticks(range(len(rows)), [name.strip("*") for name, _ in rows], fontsize="small")
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_title(f"{about['title']}: {_label(metric)}, {about['items']:,} items", fontsize="medium")
    save_picture(figure, png)
