"""What stops a run: tensors that are not trained, numbers that are not finite, general text that is forgotten."""

import math
from pathlib import Path

from torch import nn

from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.errors import RunError, UserError
from nsllm_lite.formats.rows import Row
from nsllm_lite.recipe.train import Evaluation
from nsllm_lite.train import checkpoint


def check_gradients_reach(unreached: dict[str, nn.Parameter], first_step: int, step: int) -> dict[str, nn.Parameter]:
    """Of the trained tensors those that no gradient has reached; LoRA's A has none until its B has moved.

    Raises:
        RunError: there are such after two steps.
    """
    left = {name: p for name, p in unreached.items() if p.grad is None or not bool(p.grad.any())}
    if left and step > first_step:
        raise RunError(
            "train-no-gradient",
            f"No gradient has reached {', '.join(list(left)[:3])} ({len(left)} of the trained tensors) in two steps.",
            "They would be saved untrained.",
            "Leave them out of adapter.targets or adapter.modules_to_save, or run `nsllm-lite doctor` to see whether "
            "something else is wrong.",
        )
    return left


def check_forgetting(asked: Evaluation, step: int, before: dict, now: dict, out: Path) -> None:
    """Stops or warns where the loss on general text has risen by more than the recipe allows.

    Raises:
        UserError: there are no general held-out rows to judge by.
        RunError: it has, and the recipe says stop.
    """
    if (limit := asked.max_general_loss_increase) is None:
        return
    if not now["general"].get("all", {}).get("tokens"):
        raise UserError(
            "forgetting-no-general-rows",
            f"evaluation.max_general_loss_increase={limit:g}, but {asked.general_rows} holds no rows.",
            "The limit needs general held-out rows.",
            "Give general text (GENERAL=PATH), or leave the limit out.",
        )
    rise = now["general"]["all"]["loss"] - before["general"]["all"]["loss"]
    if rise <= limit:
        return
    words = f"Step {step}: the loss on general text has risen by {rise:.3f} nats, more than the {limit:g} allowed"
    if asked.when_forgetting == "warn":
        print(f"\n{words}.")
        return
    latest = checkpoint.newest(out / "checkpoints") or "none yet"
    raise RunError(
        "forgetting-above-limit",
        f"{words} (evaluation.max_general_loss_increase). Stopped; the last checkpoint is {latest}.",
        "A higher replay.share or a lower optimizer.learning_rate, in another folder, forgets less; to continue this "
        "run, set a higher limit.",
    )


def require_finite(step: int, loss: float, grad_norm: float, rows: list[Row], out: Path) -> None:
    """Stops the run before a step that would poison the weights."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    documents = [name for row in rows for name in row.doc_ids]
    write_json(out / "nonfinite.json", {"step": step, "documents": documents})
    latest = checkpoint.newest(out / "checkpoints")
    rate = read_json(out / "run.json")["recipe"]["optimizer"]["learning_rate"]
    shown = ", ".join(documents[:8]) + (f" and {len(documents) - 8} more" if len(documents) > 8 else "")
    raise RunError(
        "train-loss-not-finite",
        f"Step {step}: loss {loss}, gradient norm {grad_norm}. Stopped before the optimizer step; the last good "
        f"checkpoint is {latest or 'none yet'}.",
        f"Documents of the batch: {shown} (all in {out / 'nonfinite.json'}).",
        "Look at those documents; if they are sound, the learning rate is too high: lower "
        f"optimizer.learning_rate={rate:g} and start into another folder.",
    )
