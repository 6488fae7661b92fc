"""The life of one training in its folder, the same for every kind of training and any number of processes.

A verb (`cpt.train`, `sft.sft`) owns model, data and loop. `TrainingRun` owns the folder `recipe.out`: where the run is
continued, a line for each step, evaluations and checkpoints when they are due, and the manifest at the end. Every
process calls all of it; process 0 alone evaluates, prints and writes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nsllm_lite import terminal
from nsllm_lite.artifact import interrupts, step
from nsllm_lite.artifact.disk import require_disk
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Training
from nsllm_lite.train import checkpoint, guards, outputs, setup
from nsllm_lite.train.fallback import Fallback
from nsllm_lite.train.inputs import Inputs
from nsllm_lite.train.processes import Processes
from nsllm_lite.train.sft_inputs import SftInputs
from nsllm_lite.train.spikes import SpikeLog
from nsllm_lite.train.tracking import Trackers, TrainerLog


class TrainingRun:
    """Called in this order: `finished`, `begin`, `resume`; within `steps`, for each step `begin_step`,
    `require_gradients`, `log` and `keep`; then `finish`. A verb that writes before `begin` calls `claim` first.

    `done` steps have been made in all, on `tokens` tokens; this process began after `first_step` of them, and has
    trained on `own_tokens` in `own_seconds`. Process 0 has the log as `metrics`.
    """

    def __init__(
        self, recipe: Training, hashes: dict[str, str | None], evaluate_steps: int, started: float, team: Processes
    ):
        """`hashes` are those of the inputs, `started` is the verb's `time.time()`."""
        self.recipe, self.team, self.out = recipe, team, Path(recipe.out)
        self.num_steps = self.first_step = self.done = self.tokens = self.own_tokens = self._saved = 0
        self.own_seconds, self._started, self._evaluate_steps = 0.0, started, evaluate_steps
        self._what, self._checkpoints = (recipes.identity(recipe), hashes), self.out / "checkpoints"

    def finished(self) -> dict[str, Any] | None:
        """The results of a run that has ended. Raises UserError where they are of another recipe or other inputs."""
        results = step.finished(self.out, *self._what, self.team.print)
        if results is not None:
            self.team.wait()
        return results

    def claim(self) -> bool:
        """Marks the folder as this run's; returns whether it was not yet. Raises UserError where another run owns it,
        or what no run has made is in it."""
        is_new = not (self.out / "run.json").is_file()
        step.begin(self.out, *self._what)
        return is_new

    def begin(self, num_steps: int, inputs: Inputs | SftInputs, fallback: Fallback) -> None:
        """Marks the folder as this run's. Raises UserError where another run owns it, or the disk is too small."""
        self.num_steps, self._fallback = num_steps, fallback
        if fallback.how.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        if self.team.is_first:
            self.claim()
            setup.freeze_execution(self.out, fallback.card.name, fallback.how)
            outputs.keep_base(self.out, inputs.base_dir)
            require_disk(self.out, outputs.output_bytes(self.recipe, inputs.size), "checkpoints and the result")
        self.team.wait()

    def resume(
        self, lm: nn.Module, optimizer: Optimizer, evaluate: Callable[[], None], carried: Callable[[], dict],
        views: Sequence[Trackers | TrainerLog] = (),
    ) -> dict[str, Any]:  # fmt: skip
        """Loads the newest checkpoint and returns what it carries besides; {} where nothing was trained yet.

        `evaluate` is called when it is due, also before the first step, in every process, and calls `log_heldout`.
        `carried` gives what the next checkpoint carries besides, as JSON.
        """
        self._lm, self._optimizer, self._evaluate, self._carried = lm, optimizer, evaluate, carried
        self._unreached = {name: tensor for name, tensor in lm.named_parameters() if tensor.requires_grad}
        progress = {}
        if latest := checkpoint.newest_to_resume(self._checkpoints):
            self.first_step, progress = checkpoint.load(latest, lm, optimizer)
            self.done = self._saved = self.first_step
        if self.team.is_first:
            self.metrics = outputs.Log(self.out / "metrics.jsonl", views)
            self.metrics.keep_until(self.done if latest else -1)
            if latest:
                checkpoint.rotate(self._checkpoints, self.done, self.recipe.keep_checkpoints)
                print(f"{self.out}: continuing after step {self.done} of {self.num_steps}")
                self.tokens = self.metrics.lines()[-1]["tokens"]
        is_known = self.team.is_first and self.metrics.has_heldout(self.done)
        if self._is_due(self._evaluate_steps) and not self.team.as_first(is_known):
            with self._where_it_runs_out():
                evaluate()
        if self.team.is_first:
            self._spikes = SpikeLog(self.out, self.recipe, self.metrics.lines())
        self._bar = terminal.progress(self.num_steps, self.done, str(self.out), "step", disable=not self.team.is_first)
        return progress

    @contextmanager
    def steps(self) -> Iterator[range]:
        """The remaining steps. A signal takes effect between steps, after the last whole step is saved."""
        with interrupts.deferred(self.save, alone=self.team.size == 1), self._where_it_runs_out():
            yield range(self.first_step, self.num_steps)
        self._bar.close()

    def _where_it_runs_out(self) -> AbstractContextManager:
        return self._fallback.where_it_runs_out(self.team.size == 1)

    def begin_step(self) -> None:
        self._step_started = time.perf_counter()

    def lr_factor(self, number: int) -> float:
        """The learning rate of step `number` (from 0), as a share of the peak."""
        return setup.lr_factor(self.recipe.schedule, number, self.num_steps)

    def require_finite(self, loss: float, grad_norm: float, what: str, names: Sequence[str]) -> None:
        """Before the optimizer step. Raises RunError where they would poison the weights; see `guards`."""
        guards.require_finite(self.done + 1, loss, grad_norm, what, list(names), self.out)

    def require_gradients(self) -> None:
        """Before the optimizer step. Raises RunError where a trained tensor has had no gradient in two steps."""
        if self._unreached:
            self._unreached = guards.check_gradients_reach(self._unreached, self.first_step, self.done)

    def log(self, loss: float, rate: float, grad_norm: float | None, num_tokens: int, names: Sequence[str]) -> None:
        """Counts the step that was made, on `num_tokens` tokens of the documents (or examples) `names`."""
        self.done += 1
        self.tokens += num_tokens
        self.own_tokens += num_tokens
        self.own_seconds += time.perf_counter() - self._step_started
        if self.team.is_first:
            line = {"step": self.done, "tokens": self.tokens, "loss": loss}
            self.metrics.write(line | {"learning_rate": rate, "grad_norm": grad_norm})
            self._spikes.see(self.done, loss, names)
        speed = self.own_tokens / self.own_seconds
        self._bar.set_postfix_str(f"loss {loss:.4f}, {speed:,.0f} tok/s", refresh=False)
        self._bar.update()

    def log_heldout(self, figures: dict[str, Any]) -> None:
        if self.team.is_first:
            self.metrics.write({"step": self.done, "tokens": self.tokens, "heldout": figures})

    def keep(self) -> None:
        """Evaluates and saves where that is due or a signal requests it. Raises interrupts.Stop on one to end."""
        if self._is_due(self._evaluate_steps):
            self._evaluate()
        if self._is_due(self.recipe.checkpoint_steps) or interrupts.take_save():
            self.save()
        self.team.stop_if_requested()

    def _is_due(self, every_steps: int) -> bool:
        return self.done % every_steps == 0 or self.done == self.num_steps

    def save(self) -> None:
        """A checkpoint of the last whole step, if there is none."""
        if self.team.is_first and self.done > self._saved:
            self.metrics.sync()
            checkpoint.save(self._checkpoints, self.done, self._lm, self._optimizer, self._carried())
            checkpoint.rotate(self._checkpoints, self.done, self.recipe.keep_checkpoints)
            self._saved = self.done

    def finish(self, results: dict[str, Any], measured: dict[str, Any]) -> None:
        """Writes `times.json` and the manifest."""
        step.finish(self.out, self.recipe.kind, *self._what, results, self._started, measured)
        self.team.wait()
