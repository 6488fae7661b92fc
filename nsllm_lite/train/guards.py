"""Checks that stop a run: a tensor without gradient, a non-finite loss or gradient, forgetting of general text."""

import math
from pathlib import Path

from torch import nn

from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.errors import RunError, UserError
from nsllm_lite.recipe.train import Evaluation
from nsllm_lite.train import checkpoint


def check_gradients_reach(unreached: dict[str, nn.Parameter], first_step: int, step: int) -> dict[str, nn.Parameter]:
    """The trained tensors without a gradient so far; LoRA's A gets one only after B has moved.

    Raises:
        RunError: there are such after two steps.
    """
    left = {name: p for name, p in unreached.items() if p.grad is None or not bool(p.grad.any())}
    if left and step > first_step:
        names = ", ".join(list(left)[:3])
        found = f"No gradient has reached {names} ({len(left)} of the trained tensors) in two steps."
        todo = "Leave them out of adapter.targets or adapter.modules_to_save, or run `nsllm-lite doctor`."
        raise RunError("train-no-gradient", found, "They would be saved untrained.", todo)
    return left


def check_forgetting(evaluation: Evaluation, step: int, before: dict, now: dict, out: Path) -> None:
    """Stops or warns where the loss on general text has risen by more than the recipe allows.

    Raises:
        UserError: there are no general held-out rows to judge by.
        RunError: it has, and the recipe says stop.
    """
    if (limit := evaluation.max_general_loss_increase) is None:
        return
    if not now["general"].get("all", {}).get("tokens"):
        found = f"evaluation.max_general_loss_increase={limit:g}, but {evaluation.general_rows} holds no rows."
        todo = "Give general text (GENERAL=PATH), or leave the limit out."
        raise UserError("forgetting-no-general-rows", found, "The limit needs general held-out rows.", todo)
    rise = now["general"]["all"]["loss"] - before["general"]["all"]["loss"]
    if rise <= limit:
        return
    words = f"Step {step}: the loss on general text has risen by {rise:.3f} nats, more than the {limit:g} allowed"
    if evaluation.when_forgetting == "warn":
        print(f"\n{words}.")
        return
    latest = checkpoint.newest(out / "checkpoints") or "none yet"
    found = f"{words} (evaluation.max_general_loss_increase). Stopped; the last checkpoint is {latest}."
    todo = "Start into another folder with more replay or a lower learning rate; a higher limit continues this run."
    raise RunError("forgetting-above-limit", found, todo)


def require_finite(step: int, loss: float, grad_norm: float, what: str, names: list[str], out: Path) -> None:
    """Stops the run on a loss or gradient that poisons the weights; `names` are those of its batch's `what`."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    write_json(out / "nonfinite.json", {"step": step, what: names})
    latest = checkpoint.newest(out / "checkpoints") or "none yet"
    rate = read_json(out / "run.json")["recipe"]["optimizer"]["learning_rate"]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    found = f"Step {step}: loss {loss}, gradient norm {grad_norm}. Stopped; the last good checkpoint is {latest}."
    needed = f"The {what} of the batch: {shown} (all in {out / 'nonfinite.json'})."
    todo = f"Look at those {what}; if they are sound, lower optimizer.learning_rate={rate:g} in another folder."
    raise RunError("train-loss-not-finite", found, needed, todo)
