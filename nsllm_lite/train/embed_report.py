"""The scores of an embedding model on held-out papers, as tables, sentences and a picture."""

from pathlib import Path
from typing import Any

import numpy as np

from nsllm_lite.artifact.disk import save_picture, write_atomic
from nsllm_lite.tasks.scores import Difference, Results, compare, mean
from nsllm_lite.terminal import as_markdown

METRICS = ("recall@1", "recall@10", "mrr@10")


def with_differences(results: dict[str, Any], seed: int) -> dict[str, Any]:
    """`results` without the places of each query, and with {kind: {"BM25" or "before": difference in mrr@10 from it to
    the model after, on the same queries}}."""
    heldout = results["heldout"]
    found = {}
    for kind, floor in results["floors"].items():
        before, after = (_reciprocal(heldout[when]["pairs"][kind]) for when in ("before", "after"))
        others = {"BM25": _reciprocal(floor), "before": before}
        found[kind] = {name: compare(other, after, mean, seed)._asdict() for name, other in others.items()}
    bare = {when: {"pairs": _without_places(of["pairs"])} for when, of in heldout.items()}
    floors, teacher = (of and _without_places(of) for of in (results["floors"], results["teacher"]))
    return results | {"floors": floors, "teacher": teacher, "heldout": bare, "differences": found}


def _reciprocal(figures: dict[str, Any]) -> Results:
    places = np.array(figures["places"])
    return Results(None, np.where(places > 0, 1 / np.maximum(places, 1), 0.0))


def _without_places(by_kind: dict[str, Any]) -> dict[str, Any]:
    return {kind: {name: of for name, of in figures.items() if name != "places"} for kind, figures in by_kind.items()}


def score_table(results: dict[str, Any]) -> str:
    """Rows of Markdown: by kind BM25, a teacher, the model before and after."""
    if not results["floors"]:
        return "The corpus gives no pairs of held-out papers: nothing was scored."
    rows = []
    for kind, floor in results["floors"].items():
        named = {"BM25": floor} | ({"teacher": results["teacher"][kind]} if results["teacher"] else {})
        named |= {when: results["heldout"][when]["pairs"][kind] for when in ("before", "after")}
        for name, of in named.items():
            counts = (f"{of['queries']:,}", f"{of['documents']:,}")
            rows.append((kind, name, *counts, *(_cell(of[metric]) for metric in METRICS)))
    return as_markdown(("pairs", "", "queries", "documents", *METRICS), rows, right=("queries", "documents"))


def _cell(of: dict[str, float]) -> str:
    return f"{of['value']:.3f} ({of['low']:.3f} to {of['high']:.3f})"


def dimension_table(results: dict[str, Any]) -> str:
    """mrr@10 by kind and number of dimensions."""
    after = {kind: of for kind, of in results["heldout"]["after"]["pairs"].items() if "dimensions" in of}
    if not after:
        return ""
    sizes = list(next(iter(after.values()))["dimensions"])
    rows = [(kind, *(f"{of['dimensions'][size]:.3f}" for size in sizes)) for kind, of in after.items()]
    return as_markdown(("pairs", *sizes), rows, right=sizes)


def words_of(results: dict[str, Any]) -> list[str]:
    """What the figures say, in sentences: of the model beside BM25, and beside what it was before."""
    words = []
    for kind, others in results["differences"].items():
        for other, values in others.items():
            difference = Difference(**values)
            how = {1: "finds more than", -1: "finds less than", 0: "cannot be told apart from"}[difference.sign]
            name = "itself before" if other == "before" else other
            words.append(f"{kind}: this model {how} {name}, mrr@10 {difference.words}, p {difference.p:.3f}.")
    if results["easy_negatives"]:
        count = f"{results['easy_negatives']:,} hard negatives"
        words.append(f"{count} share no word with their query: BM25 found too few that are no answers.")
    if results["texts_cut"] > 0.01:
        words.append(f"{results['texts_cut']:.1%} of the texts fill max_tokens; what is behind them is cut.")
    return words


def write_report(results: dict[str, Any], lines: list[dict[str, Any]], out: Path) -> None:
    parts = ["# Retrieval for held-out papers", score_table(results)]
    parts.append(
        "In brackets: 95 % over resampled queries. Each query is of a held-out paper, and looks for its documents "
        "among those of all held-out papers and, up to max_texts, of training papers; no pair of a query is trained on."
    )
    if sizes := dimension_table(results):
        parts += ["## By dimensions, mrr@10", sizes]
    parts += words_of(results)
    write_atomic(out / "report.md", "\n\n".join(parts) + "\n")
    draw(results, lines, out / "retrieval.png")


def draw(results: dict[str, Any], lines: list[dict[str, Any]], png: Path) -> None:
    """mrr@10 over the steps, a line for each kind of pairs, with BM25's as a dashed one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    scored = [(line["step"], line["heldout"]["pairs"]) for line in lines if "heldout" in line]
    for color, (kind, floor) in enumerate(results["floors"].items()):
        values = [(step, found[kind]["mrr@10"]) for step, found in scored]
        steps, of = [step for step, _ in values], [each for _, each in values]
        axes.plot(steps, [each["value"] for each in of], marker="o", color=f"C{color}", label=kind)
        low, high = ([each[end] for each in of] for end in ("low", "high"))
        axes.fill_between(steps, low, high, color=f"C{color}", alpha=0.15)
        axes.axhline(floor["mrr@10"]["value"], color=f"C{color}", linestyle="--", linewidth=1)
    axes.set(xlabel="steps", ylabel="mrr@10", ylim=(0, 1), title="Held-out papers; dashed: BM25")
    axes.grid(alpha=0.3)
    if scored and results["floors"]:
        axes.legend()
    save_picture(figure, png)


def summary_of(results: dict[str, Any]) -> str:
    lines = []
    for kind, floor in results["floors"].items():
        before, after = (results["heldout"][when]["pairs"][kind] for when in ("before", "after"))
        values = {metric: [of[metric]["value"] for of in (before, after, floor)] for metric in METRICS}
        scores = ", ".join(f"{metric} {b:.3f} -> {a:.3f} (BM25 {f:.3f})" for metric, (b, a, f) in values.items())
        lines.append(f"  {kind}, {after['queries']:,} queries in {after['documents']:,}: {scores}")
    return "\n".join((*lines, *(f"  {words}" for words in words_of(results))))
