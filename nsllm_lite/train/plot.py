"""The run's picture: training loss and held-out losses over tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsllm_lite.artifact.disk import save_picture
from nsllm_lite.artifact.json_files import read_lines
from nsllm_lite.errors import UserError
from nsllm_lite.recipe.kinds import KINDS
from nsllm_lite.recipe.train import Training
from nsllm_lite.train.spikes import judge

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Curve:
    """The training loss of another run, in nats per token.

    `places` are tokens trained, or shares of the run's length (0 to 1) where its log does not tell tokens.
    """

    label: str
    places: list[float]
    losses: list[float]
    in_tokens: bool


def read_curve(log: Path) -> Curve:
    """The loss in a `metrics.jsonl` of ours, or in a `trainer_log.jsonl` of LLaMA-Factory's fields.

    Raises:
        UserError: it is neither.
    """
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
        steps = [line for line in lines if line.get("loss") is not None]
        ours = [(_number(line["tokens"]), _number(line["loss"])) for line in steps if "tokens" in line]
        their_lines = [line for line in steps if "current_steps" in line]
        theirs = [
            (_number(line["current_steps"]) / _number(line["total_steps"]), _number(line["loss"]))
            for line in their_lines
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        ours, theirs, lines, why = [], [], [], f"{type(error).__name__}: {error}"
    else:
        why = f"{len(lines)} lines, none with a training loss"
    if not ours and not theirs:
        found = f"overlay: {log} holds no curve ({why})."
        needed = "Needed is a run's metrics.jsonl, or trainer_log.jsonl with current_steps, total_steps and loss."
        raise UserError("overlay-no-curve", found, needed, "Correct the path, or set overlay=none.")
    places, losses = map(list, zip(*(ours or theirs), strict=True))
    name = f"{log.parent.name}/{log.name}".removeprefix("/")
    if ours:
        return Curve(name, places, losses, True)
    return Curve(f"{name}, {their_lines[-1]['total_steps']:,} steps drawn to this run's length", places, losses, False)


def _number(value: object) -> int | float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} where a number is needed")
    return value


def plot_losses(recipe: Training, num_steps: int, overlay: Curve | None = None, unit: str = "token") -> None:
    """Draws metrics.jsonl into loss.png; `overlay` is the curve of another run, `unit` what has a loss."""
    from matplotlib.figure import Figure

    out = Path(recipe.out)
    lines = read_lines(out / "metrics.jsonl")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    draw_losses(axes, lines, KINDS[recipe.kind].curves)
    if overlay:
        scale = 1 if overlay.in_tokens else max(line["tokens"] for line in lines)
        places = [scale * place for place in overlay.places]
        axes.plot(places, overlay.losses, color="C3", linewidth=1, linestyle="--", label=overlay.label)
        axes.legend()
    axes.set(xlabel="tokens trained", ylabel=f"loss, nats per {unit}", title=f"{out}: {num_steps} steps")
    save_picture(figure, out / "loss.png")


def draw_losses(axes: "Axes", lines: list[dict[str, Any]], curves: dict[str, str]) -> None:
    """The lines of a `metrics.jsonl` over tokens: training in grey, each held-out loss in a colour of its own."""
    steps = [line for line in lines if "loss" in line]
    axes.plot([s["tokens"] for s in steps], [s["loss"] for s in steps], color="0.6", linewidth=1, label="training")
    if spikes := judge(lines).spikes:
        marked = [steps[number - 1] for number in spikes]
        axes.plot([s["tokens"] for s in marked], [s["loss"] for s in marked], "x", color="C3", label="spikes")
    heldout = [line for line in lines if "heldout" in line]
    for color, (name, label) in enumerate(curves.items()):
        points = [
            (line["tokens"], line["heldout"][name]["all"]["loss"]) for line in heldout if line["heldout"].get(name)
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", color=f"C{color}", label=label)
    axes.grid(alpha=0.3)
    axes.legend()
