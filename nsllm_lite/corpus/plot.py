"""The ledger as a picture: by source, what became of its records."""

from collections import Counter
from pathlib import Path

from nsllm_lite.artifact.disk import save_picture

COLOURS = {"kept": "#2a7f62", "heldout": "#8fc1a9", "duplicate": "#c9b458", "unused": "#b0b0b0"}
DROPPED = ("#a83232", "#c75b4a", "#de8a6a", "#edb99a", "#7a2e4e", "#955980", "#b58bb0", "#5c4033")
OTHER = "#333333"
LEGEND_COLUMNS = 5


def draw(summary: dict, path: Path) -> None:
    """One bar a source, in shares of its records, with the count beside it; dropped records by reason."""
    from matplotlib.figure import Figure

    table = summary["documents"]
    totals = Counter(reason for counts in table.values() for reason in Counter(counts["dropped"]).elements())
    reasons = [reason for reason, _ in totals.most_common()]
    num_labels = len(COLOURS) + min(len(reasons), len(DROPPED) + 1)
    num_lines = -(-num_labels // LEGEND_COLUMNS)
    size = (10, 1.5 + 0.36 * len(table) + 0.22 * num_lines)
    figure = Figure(size, layout="constrained")
    axes = figure.subplots()
    names = list(table)[::-1]
    left = [0.0] * len(names)

    def stack(label: str, numbers: list[int], colour: str) -> None:
        shares = [number / max(1, table[name]["in"]) for name, number in zip(names, numbers, strict=True)]
        axes.barh(names, shares, left=left, color=colour, label=label, height=0.75)
        left[:] = [a + b for a, b in zip(left, shares, strict=True)]

    for outcome, colour in COLOURS.items():
        stack(outcome, [table[name][outcome] for name in names], colour)
    for reason, colour in zip(reasons, DROPPED, strict=False):
        stack(f"dropped: {reason}", [table[name]["dropped"].get(reason, 0) for name in names], colour)
    if rare := reasons[len(DROPPED) :]:
        rest = [sum(table[name]["dropped"].get(reason, 0) for reason in rare) for name in names]
        stack(f"dropped: {len(rare)} other reasons", rest, OTHER)
    for place, name in enumerate(names):
        axes.text(1.01, place, f"{table[name]['in']:,}", va="center", fontsize=8)
    axes.set(xlim=(0, 1), xlabel="share of the records that came in", title="What became of every record")
    figure.legend(loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=8, frameon=False)
    save_picture(figure, path, dpi=130)
