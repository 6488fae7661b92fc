"""Other views of `metrics.jsonl`: TensorBoard and W&B where they are asked for, and a log as other trainers write it.

A view follows the log line by line. When a run is continued the log is cut back to its last checkpoint, and every view
is brought to the same lines: no step appears twice, and a tracker asked for later shows the run from its start.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from pydantic import TypeAdapter

from nsllm_lite.artifact.json_files import cut_lines
from nsllm_lite.errors import RunError, UserError
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Train

PROJECT = "nsllm-lite"  # W&B's own WANDB_PROJECT takes another
DURATION = TypeAdapter(timedelta)  # reads what str(timedelta) writes: "0:32:48" or "9 days, 21:49:18"
WAIT = timedelta(hours=2)
PACKAGES = {"tensorboard": ("tensorboard", "tracking"), "wandb": ("wandb", "wandb")}  # tracker -> module, extra


def make_accelerator(recipe: Train, device: str) -> Accelerator:
    """accelerate with the trackers of `report_to`, none of them started. Raises UserError where the package of one is
    not installed; accelerate itself would leave it out in silence."""
    for name in recipe.report_to:
        module, extra = PACKAGES[name]
        if importlib.util.find_spec(module) is None:
            found = f"report_to: {name} is asked for, but the package {module} is not installed."
            needed = f"It comes with pip install 'nsllm-lite[{extra}]' (from a clone: make setup EXTRAS=dev,{extra})."
            raise UserError("tracker-not-installed", found, needed, "Install it, or set report_to=[].")
    folders = ProjectConfiguration(project_dir=recipe.out, logging_dir=str(Path(recipe.out) / "tensorboard"))
    # the others wait while the first process evaluates; NCCL gives up after 10 minutes unless told otherwise
    patience = InitProcessGroupKwargs(timeout=WAIT)
    options = {"log_with": recipe.report_to or None, "project_config": folders, "kwargs_handlers": [patience]}
    return Accelerator(cpu=device == "cpu", **options)


class Trackers:
    """TensorBoard in `OUT/tensorboard`, and W&B, through accelerate; nothing at all with an empty `report_to`."""

    def __init__(self, accelerator: Accelerator, recipe: Train):
        """Of several processes only the first has any. Raises RunError where W&B cannot be started."""
        self._accelerator = accelerator
        if not recipe.report_to or not accelerator.is_main_process:
            return
        folder = Path(recipe.out) / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)  # written again from the log
        identity = recipes.identity(recipe)
        wandb_id = hashlib.sha256(f"{folder.resolve()} {json.dumps(identity)}".encode()).hexdigest()[:16]
        options = {
            "tensorboard": {"purge_step": 0},  # a TensorBoard that is open forgets what it has read of this run
            "wandb": {"id": wandb_id, "resume": "allow", "name": recipe.out, "dir": recipe.out, "config": identity},
        }
        try:
            accelerator.init_trackers(os.environ.get("WANDB_PROJECT", PROJECT), init_kwargs=options)
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "wandb":
                raise
            found = f"W&B could not be started ({type(error).__name__}: {error})."
            needed = "It needs a login (wandb login) and the network."
            todo = "WANDB_MODE=offline keeps the run on this disk for `wandb sync`; or set report_to=[]."
            raise RunError("wandb-not-started", found, needed, todo) from None

    def restart(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        values = dict(flatten(line))
        for tracker in self._accelerator.trackers:
            # W&B counts its steps and takes none twice; those of a continued run are there already
            if tracker.name != "wandb" or line["step"] >= tracker.run.step:
                tracker.log(values, step=line["step"])

    def finish(self) -> None:
        for tracker in self._accelerator.trackers:
            tracker.finish()


def flatten(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, number) of a line of `metrics.jsonl`: train/loss, train/grad_norm, heldout/domain/all/loss, ..."""
    for name, by_source in line.get("heldout", {}).items():
        for source, figures in by_source.items():
            for figure in ("loss", "bits_per_byte"):
                if figures.get(figure) is not None:
                    yield f"heldout/{name}/{source}/{figure}", figures[figure]
    if "loss" in line:
        yield from ((f"train/{name}", value) for name, value in line.items() if name != "step")


class TrainerLog:
    """`trainer_log.jsonl`, in the fields of LLaMA-Factory's log (that of NSLLM is one): current_steps, total_steps,
    loss, lr, epoch, percentage, elapsed_time, remaining_time; at evaluations eval_loss, of the held-out domain rows.

    The times make it differ from run to run. `epoch_after(steps)` counts passes over the domain rows.
    """

    def __init__(self, path: Path, total_steps: int, epoch_after: Callable[[int], float]):
        self.path, self._total_steps, self._epoch_after = path, total_steps, epoch_after
        self._started = time.monotonic()

    def restart(self, lines: list[dict[str, Any]]) -> None:
        """Cut back to the last of `lines`; the time of a killed run counts up to there."""
        kept = cut_lines(self.path, lines[-1]["step"] if lines else -1, "current_steps")
        elapsed = DURATION.validate_python(kept[-1]["elapsed_time"] if kept else 0)
        self._started = time.monotonic() - elapsed.total_seconds()

    def write(self, line: dict[str, Any]) -> None:
        steps, total = line["step"], self._total_steps
        domain = line.get("heldout", {}).get("domain", {}).get("all")
        seconds = time.monotonic() - self._started
        values = {
            "current_steps": steps,
            "total_steps": total,
            "loss": line.get("loss"),
            "eval_loss": domain and domain["loss"],
            "lr": line.get("learning_rate"),
            "epoch": self._epoch_after(steps),
            "percentage": round(100 * steps / total, 2),
            "elapsed_time": str(timedelta(seconds=int(seconds))),
            "remaining_time": str(timedelta(seconds=int(seconds / max(1, steps) * (total - steps)))),
        }
        with open(self.path, "a") as file:
            file.write(json.dumps({key: value for key, value in values.items() if value is not None}) + "\n")
