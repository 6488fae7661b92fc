"""`nsllm-lite train RECIPE --find-lr`: a learning-rate range test, from the base model on the data of the recipe.

The training's own loop runs (`cpt.train` or `sft.sft`: optimizer, accumulation, clipping, quantisation) while the rate
rises geometrically; the folder of the training is neither read nor written. A low rate leaves the loss as it is, a good
one lowers it, a high one raises it again.

Two readings of the curve: where the loss falls fastest for a given growth of the rate, and a tenth of the rate at which
it is lowest. Proposed is their geometric mean: the first may be too high for a whole training, and at the second the
loss may hardly fall yet. Where the fall is within the noise of the losses, nothing is proposed.

Source: Smith, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186, section 3.3.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn
from torch.optim import Optimizer

from nsllm_lite import terminal
from nsllm_lite.artifact import step
from nsllm_lite.artifact.disk import replace_folder, require_disk, save_picture
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.errors import WRITE_ELSEWHERE, RunError, UserError
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Training
from nsllm_lite.train.cpt import train
from nsllm_lite.train.fallback import Fallback, OutOfMemoryError
from nsllm_lite.train.inputs import Inputs
from nsllm_lite.train.sft import sft
from nsllm_lite.train.sft_inputs import SftInputs
from nsllm_lite.train.training_run import TrainingRun

LOWEST, HIGHEST, STEPS = 1e-6, 1e-1, 100
DIVERGED = 4.0  # times the lowest smoothed loss: there it ends
SMOOTHING = 0.8  # of the running mean that it ends by
MAX_EPOCHS = 4  # of the data within the test: more of the fall would be memory
WINDOW = 11  # steps of a mean and of a slope: half a power of ten
LEAST_STEPS = 2 * WINDOW
LEAST_DEVIATIONS, LEAST_SHARE = 5.0, 0.005  # that the loss falls by: of the noise of two means, of the loss itself
ALIKE = 10**0.5  # readings that differ by less support one another


def find_lr(recipe: Training) -> dict[str, Any]:
    """Runs the test of `recipe`, whose `out` is the folder of the test; returns what is in its find_lr.json.

    Raises:
        UserError: the data is too little, `out` is taken, or an input is missing or does not fit the others.
        RunError: the loss was not finite before there was a curve.
    """
    out, started = Path(recipe.out), time.time()
    require_disk(out, 2**20, "the curve")
    if out.is_dir() and any(out.iterdir()) and step.read_manifest(out) is None:
        raise UserError("find-lr-out-taken", f"{out} holds something else than a range test.", f"{WRITE_ELSEWHERE}.")
    with tempfile.TemporaryDirectory() as scratch:
        test = with_steps(recipe, scratch)
        while True:
            try:
                results = (train if test.kind == "train" else sft)(test, partial(RangeTest, final=out))
            except _EndedError as ended:
                results = write(ended.run, str(ended), out, started)
            except OutOfMemoryError as error:
                print(error)
                test = error.leaner
                continue
            break
    report(out, results)
    return results


def with_steps(recipe: Training, scratch: str) -> Training:
    """The recipe of the steps to make. Without a rate of their own for the embeddings, its rate decides nothing."""
    changes: dict[str, Any] = {"out": scratch, "schedule": {"shape": "constant", "warmup_steps": 0}}
    if recipe.optimizer.embedding_learning_rate is None:
        changes["optimizer"] = recipe.optimizer.model_dump() | {"learning_rate": HIGHEST}
    if recipe.kind == "sft":
        return recipes.update(recipe, **changes, steps=STEPS, epochs=None)
    per_step = recipe.budget.tokens_per_step
    budget = {"steps": STEPS, "tokens_per_step": per_step, "tokens": STEPS * per_step}
    return recipes.update(recipe, **changes, budget=budget, report_to=[], overlay=None)


class _EndedError(Exception):
    """The test is over, which is no failure."""

    def __init__(self, run: "RangeTest", why: str):
        super().__init__(why)
        self.run = run


class RangeTest(TrainingRun):
    """The run of `train` or `sft` that raises the rate, remembers the losses and writes nothing. `final` is the folder
    of the test; `what` its identity and the hashes of its inputs."""

    def __init__(self, *args: Any, final: Path):
        super().__init__(*args)
        identity, hashes = self._what
        self.what = ({**identity, "range": [LOWEST, HIGHEST, STEPS]}, hashes)
        self.final, self.rates, self.losses = final, [], []
        self._smoothed, self._lowest = 0.0, math.inf

    def finished(self) -> dict[str, Any] | None:
        return step.finished(self.final, *self.what)

    def begin(self, num_steps: int, inputs: Inputs | SftInputs, fallback: Fallback) -> None:
        """Raises UserError where the data would repeat too often."""
        self.num_steps, self._fallback = num_steps, fallback
        is_train = isinstance(inputs, Inputs)
        there = len(inputs.rows if is_train else inputs.examples)
        per_step = self.recipe.rows_per_step(inputs.rows.totals.row_tokens if is_train else 0)
        if there * MAX_EPOCHS < num_steps * per_step:
            found = f"{there:,} {'rows' if is_train else 'examples'} would repeat more than {MAX_EPOCHS} times in "
            found += f"{num_steps} steps of {per_step}."
            todo = f"Give more, or lower {'budget.tokens_per_step' if is_train else 'examples_per_step'}."
            raise UserError("find-lr-too-few-rows", found, "The curve would show what is remembered.", todo)
        print(f"Range test: {num_steps} steps, the learning rate from {LOWEST:g} to {HIGHEST:g}", flush=True)

    def resume(self, lm: nn.Module, optimizer: Optimizer, *others: Any) -> dict[str, Any]:
        """Nothing: it begins with the base model, and does not evaluate."""
        self._unreached = {name: tensor for name, tensor in lm.named_parameters() if tensor.requires_grad}
        self._bar = terminal.progress(self.num_steps, 0, str(self.final), "step")
        return {}

    def rate(self, number: int) -> float:
        """In step `number`, from 0."""
        return LOWEST * (HIGHEST / LOWEST) ** (number / (self.num_steps - 1))

    def lr_factor(self, number: int) -> float:
        return self.rate(number) / self.recipe.optimizer.learning_rate

    def require_finite(self, loss: float, grad_norm: float, what: str, names: Sequence[str]) -> None:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._end(f"loss or gradient was not finite in step {self.done + 1}")

    def log(self, loss: float, rate: float, grad_norm: float | None, num_tokens: int, names: Sequence[str]) -> None:
        self.rates.append(rate)
        self.losses.append(loss)
        self.done += 1
        self._smoothed += (1 - SMOOTHING) * (loss - self._smoothed)
        smoothed = self._smoothed / (1 - SMOOTHING**self.done)
        self._lowest = min(self._lowest, smoothed)
        self._bar.set_postfix_str(f"rate {rate:.1e}, loss {loss:.4f}", refresh=False)
        self._bar.update()
        if smoothed > DIVERGED * self._lowest:
            self._end(f"the smoothed loss was {DIVERGED:g} times its lowest")

    def keep(self) -> None:
        self.team.stop_if_requested()
        if self.done == self.num_steps:
            self._end("all steps were made")

    def save(self) -> None:
        """Nothing: a test that is stopped begins anew."""

    def _end(self, why: str) -> NoReturn:
        self._bar.close()
        raise _EndedError(self, why)


class Readings(NamedTuple):
    """Of a curve. The rates are None where they cannot be read; `why` is what the proposal rests on, or why there is
    none."""

    proposal: float | None
    steepest: float | None
    lowest: float | None
    why: str


def read(rates: Sequence[float], losses: Sequence[float]) -> Readings:
    """Of at least LEAST_STEPS rates, each a constant factor above the one before, and the losses in nats per token."""
    windows = sliding_window_view(np.array(losses), WINDOW)
    levels, middles = windows.mean(1), np.array(rates)[WINDOW // 2 :][: len(windows)]
    places = np.arange(WINDOW) - WINDOW // 2
    bottom = int(levels.argmin())
    fall, jumps = levels[0] - levels[bottom], np.diff(losses[: bottom + WINDOW])
    noise = 1.4826 * float(np.median(np.abs(jumps))) / 2**0.5  # of one loss
    if fall < max(LEAST_DEVIATIONS * noise * (2 / WINDOW) ** 0.5, LEAST_SHARE * levels[0]):
        why = f"the loss falls by {fall:.3f} from {levels[0]:.3f}, which is within its noise: no rate stands out"
        return Readings(None, None, None, why)
    steepest = float(middles[int((windows[: bottom + 1] @ places).argmin())])
    lowest = float(middles[bottom])
    tenth = lowest / 10
    apart = max(steepest / tenth, tenth / steepest)
    why = f"the loss falls by {fall:.3f} from {levels[0]:.3f}, fastest at {steepest:.2g}, lowest at {lowest:.2g}. "
    why += f"Proposed is the middle of {steepest:.2g} and a tenth of {lowest:.2g}, {apart:.1f} times apart: "
    why += "they support one another" if apart <= ALIKE else "a rough guess, so try both"
    if bottom + 1 == len(windows):
        why += "; the loss still falls at the highest rate, so higher ones may be good too"
    return Readings((steepest * tenth) ** 0.5, steepest, lowest, why)


def write(run: RangeTest, ended: str, out: Path, started: float) -> dict[str, Any]:
    """Writes the folder of the test, whole. Raises RunError where there are too few losses to be read."""
    if run.done < LEAST_STEPS:
        found = f"The range test ended after {run.done} steps, below a rate of {run.rate(run.done):.1e}: {ended}."
        todo = "Look at its rows, or take another compute_dtype."
        raise RunError("find-lr-no-curve", found, f"Fewer than {LEAST_STEPS} are no curve.", todo)
    readings = read(run.rates, run.losses)
    words = []
    if readings.proposal:
        words.append(f"optimizer.learning_rate={readings.proposal:.2g}")
        if embeddings := run.recipe.optimizer.embedding_learning_rate:
            rate = readings.proposal * embeddings / run.recipe.optimizer.learning_rate
            words.append(f"optimizer.embedding_learning_rate={rate:.2g}")
    curve = [{"learning_rate": rate, "loss": loss} for rate, loss in zip(run.rates, run.losses, strict=True)]
    results = {**readings._asdict(), "words": words, "steps": run.done, "ended": ended, "curve": curve}
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    write_json(part / "find_lr.json", results)
    draw(results, out.name, part / "find_lr.png")
    step.finish(part, "find-lr", *run.what, results, started)
    replace_folder(part, out)
    return results


def draw(results: dict[str, Any], name: str, png: Path) -> None:
    """Loss against rate, with what was read."""
    from matplotlib.figure import Figure

    rates, losses = ([point[key] for point in results["curve"]] for key in ("learning_rate", "loss"))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.semilogx(rates, losses, ".", color="0.6", label="loss of a step")
    half = WINDOW // 2
    axes.semilogx(rates[half:-half], sliding_window_view(np.array(losses), WINDOW).mean(1), label=f"mean of {WINDOW}")
    for key, color in (("steepest", "C2"), ("lowest", "C1"), ("proposal", "C3")):
        if results[key]:
            style = "-" if key == "proposal" else ":"
            axes.axvline(results[key], color=color, linestyle=style, label=f"{key}: {results[key]:.2g}")
    axes.set(xlabel="learning rate", ylabel="loss, nats per token", title=f"{name}: {results['steps']} steps")
    axes.grid(alpha=0.3)
    axes.legend()
    save_picture(figure, png)


def report(out: Path, results: dict[str, Any]) -> None:
    print(f"{out}: {results['steps']} steps; {results['ended']}. Curve: {out}/find_lr.png and find_lr.json")
    if not results["words"]:
        print(f"  No learning rate is proposed: {results['why']}.")
        return
    print(f"  Learning rate {results['proposal']:.2g}: {results['why']}.")
    print(f"  To train with it, add: {' '.join(results['words'])}")
