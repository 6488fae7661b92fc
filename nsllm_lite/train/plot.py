"""The run's picture: training loss and held-out losses over tokens."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = {"domain": "held-out, domain", "general": "held-out, general"}


def plot_losses(metrics: Path, png: Path, title: str, curves: dict[str, str] = CURVES) -> None:
    """Draws `metrics.jsonl` into a PNG; `curves` are the held-out losses and their labels."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    draw_losses(axes, lines, curves)
    axes.set(xlabel="tokens trained", ylabel="loss, nats per token", title=title)
    part = png.with_suffix(".part")
    figure.savefig(part, format="png", dpi=120, metadata={"Software": None})
    part.replace(png)


def draw_losses(axes: "Axes", lines: list[dict[str, Any]], curves: dict[str, str]) -> None:
    """The lines of a `metrics.jsonl` over tokens: training in grey, each held-out loss in a colour of its own."""
    steps = [line for line in lines if "loss" in line]
    axes.plot([s["tokens"] for s in steps], [s["loss"] for s in steps], color="0.6", linewidth=1, label="training")
    heldout = [line for line in lines if "heldout" in line]
    for color, (name, label) in enumerate(curves.items()):
        points = [(line["tokens"], line["heldout"][name]["all"]["loss"]) for line in heldout if line["heldout"][name]]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", color=f"C{color}", label=label)
    axes.grid(alpha=0.3)
    axes.legend()
