"""`nsllm-lite finetune`: a head on an encoder or a decoder, from labelled examples to a model folder.

Read `finetune` from the top: inputs, the search, a training for each seed, the model. `train_trial` is one training,
with its loop in sight. A step's loss is the weighted mean over all windows (or words) of its examples, however they are
cut into micro-batches. Order and random numbers follow from (seed, step), so that a run that was killed ends bit for
bit as one that was not.
"""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from nsllm_lite import terminal
from nsllm_lite.artifact import interrupts, step
from nsllm_lite.artifact.disk import GIB, require_disk, whole_file
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.errors import RunError
from nsllm_lite.models.causal import autocast
from nsllm_lite.models.device import CONTEXT_BYTES, Card
from nsllm_lite.models.execution import USABLE_SHARE
from nsllm_lite.models.heads import open_head
from nsllm_lite.models.windows import batches, collate
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.finetune import Finetune
from nsllm_lite.recipe.train import Execution
from nsllm_lite.tasks.heads import Figures
from nsllm_lite.train import checkpoint, guards, outputs, setup
from nsllm_lite.train.fallback import Fallback
from nsllm_lite.train.finetune_inputs import Data, limit_notes, read_data
from nsllm_lite.train.finetune_loss import Targets, loss_of, total_weight
from nsllm_lite.train.finetune_model import Sizes, Tuned, load_trained, open_to_train, save_model
from nsllm_lite.train.finetune_report import write_report
from nsllm_lite.train.finetune_scores import develop, estimates, floors_of, latency, scores_of, with_cuts
from nsllm_lite.train.order import shuffled

MICRO_BATCH_TOKENS = {"cpu": 4_096, "cuda": 32_768}
KEPT_CHECKPOINTS = 1
STEPS = 2**24  # more than a trial has
BEST, DONE, SCORES = "best.safetensors", "trial.json", "scores.json"


class Trial(NamedTuple):
    """One training."""

    learning_rate: float
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        return f"rate-{self.learning_rate:g}-epochs-{self.epochs}-seed-{self.seed}"


def finetune(recipe: Finetune) -> dict[str, Any]:
    """Runs `recipe` to its end, continuing where an earlier run stopped; returns the manifest's results.

    Raises:
        UserError: an input is missing, broken, or does not fit the others.
        RunError: the loss is not finite; the last good checkpoint stays.
        OutOfMemoryError: the card ran out of memory, with the recipe of fewer windows at a time.
        interrupts.Stop: a signal, or time that is up; a checkpoint holds the last whole step.
    """
    started, out = time.time(), Path(recipe.out)
    data = read_data(recipe)
    what = recipes.identity(recipe), data.hashes
    if (results := step.finished(out, *what)) is not None:
        return results
    card = setup.choose_card(recipe)
    sizes = open_to_train(recipe, data, recipe.seed).sizes
    choose = partial(choose_execution, sizes=sizes, card=card)
    how = choose(recipe)
    out.mkdir(parents=True, exist_ok=True)
    step.begin(out, *what)
    setup.freeze_execution(out, card.name, how)
    outputs.keep_base(out, data.base_dir)
    require_disk(out, 4 * (6 * sizes.trained + 2 * sizes.all), "checkpoints and the result")
    data.notes.extend(limit_notes(recipe, data))
    print(data.words)

    fallback = Fallback(recipe, how, need_bytes(recipe, sizes, how.micro_batch_rows), card, choose)
    with fallback.where_it_runs_out(True):
        train = partial(train_trial, recipe, data, how)
        trials, chosen = search(recipe, train)
        floors = floors_of(recipe, data)
        seeds, best = train_seeds(recipe, chosen, train, partial(score_trial, recipe, data, how, floors))
        trial, scored = seeds[best]
        measured = save_best(recipe, data, how, trial, scored)
    keep_weights(recipe, [one for one, _ in seeds], None)
    results = {
        "task": recipe.task,
        "examples": data.counts,
        "parameters": sizes.all,
        "trained_parameters": sizes.trained,
        "trials": [{**one._asdict(), **outcome} for one, outcome in trials],
        "chosen": {"learning_rate": chosen.learning_rate, "epochs": chosen.epochs},
        "seeds": [{"seed": one.seed, **of} for one, of in seeds],
        "saved_seed": trial.seed,
        "floors": estimates(recipe, floors),
        "bytes": sum(path.stat().st_size for path in (out / "model").glob("*.safetensors")),
    }  # fmt: skip
    write_report(recipe, data, results, measured)
    step.finish(out, recipe.kind, *what, results, started, measured)
    return results


def search(
    recipe: Finetune, train: Callable[[Trial], dict[str, Any]]
) -> tuple[list[tuple[Trial, dict[str, Any]]], Trial]:
    """(trials with their outcomes, that with the best development score; of equal ones the first). Only the weights
    of the best so far are kept."""
    own = Trial(recipe.learning_rate, recipe.epochs, recipe.seed)
    if not recipe.search:
        return [], own
    others = recipe.others()
    drawn = np.random.default_rng(recipe.seed).permutation(len(others))[: recipe.search - 1]
    trials = [own, *(Trial(*others[number], recipe.seed) for number in drawn)]
    outcomes: list[tuple[Trial, dict[str, Any]]] = []
    best = own
    for number, trial in enumerate(trials, 1):
        outcome = train(trial)
        outcomes.append((trial, outcome))
        if outcome["best"] > dict(outcomes)[best]["best"]:
            best = trial
        keep_weights(recipe, trials[:number], best)
        print(f"search {number} of {len(trials)}: {trial.name}: development {outcome['best']:.4f}")
    return outcomes, best


def train_seeds(
    recipe: Finetune, chosen: Trial, train: Callable[[Trial], dict[str, Any]], score: Callable[[Trial], dict[str, Any]]
) -> tuple[list[tuple[Trial, dict[str, Any]]], int]:
    """(a training for each seed with its outcome and scores, the place of that with the best development score)"""
    found: list[tuple[Trial, dict[str, Any]]] = []
    best = 0
    for number in range(recipe.seeds):
        trial = chosen._replace(seed=recipe.seed + number)
        found.append((trial, {**train(trial), **score(trial)}))
        if found[number][1]["best"] > found[best][1]["best"]:
            best = number
        keep_weights(recipe, [one for one, _ in found], found[best][0])
    return found, best


def keep_weights(recipe: Finetune, trials: Sequence[Trial], best: Trial | None) -> None:
    """Deletes the weights of all but one of these trials that have ended."""
    for trial in trials:
        if trial != best:
            (folder_of(recipe, trial) / BEST).unlink(missing_ok=True)


def folder_of(recipe: Finetune, trial: Trial) -> Path:
    return Path(recipe.out) / "trials" / trial.name


def train_trial(recipe: Finetune, data: Data, how: Execution, trial: Trial) -> dict[str, Any]:
    """Trains, and keeps the weights of the epoch with the best development score. Returns {"best", "epoch", "history":
    of each epoch its loss and development score}; of a trial that has ended what it returned."""
    folder = folder_of(recipe, trial)
    if (folder / DONE).is_file():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of one that was killed on this very spot
        return read_json(folder / DONE)
    folder.mkdir(parents=True, exist_ok=True)
    tuned = open_to_train(recipe, data, trial.seed).to(how.device)
    tuned.model.train()
    training = Targets.of(recipe, data, tuned.head)
    optimizer = torch.optim.AdamW(tuned.trained, lr=trial.learning_rate, weight_decay=recipe.weight_decay)
    per_epoch = math.ceil(len(data.train) / recipe.batch_size)
    num_steps = trial.epochs * per_epoch
    done, history, losses = resume(folder, tuned, optimizer)
    unreached = {name: tensor for name, tensor in tuned.model.named_parameters() if tensor.requires_grad}
    first = done
    bar = terminal.progress(num_steps, done, trial.name, "step")

    def save() -> None:
        progress = {"history": history, "losses": losses}
        checkpoint.save(folder / "checkpoints", done, tuned.model, optimizer, progress)
        checkpoint.rotate(folder / "checkpoints", done, KEPT_CHECKPOINTS)

    with interrupts.deferred(lambda: save() if done > first else None):
        while True:
            if len(history) < done // per_epoch:
                score = develop(recipe.task, tuned.head, data.development).main
                if not history or score > max(of["development"] for of in history):
                    keep_best(folder, tuned.model)
                history.append({"epoch": len(history) + 1, "loss": sum(losses) / per_epoch, "development": score})
                losses.clear()
                save()
            if done == num_steps or is_over(history, recipe.patience):
                break
            examples = examples_of(len(data.train), recipe.batch_size, trial.seed, done)
            for group in optimizer.param_groups:
                group["lr"] = trial.learning_rate * rate_factor(done, num_steps, recipe.warmup_share)
            optimizer.zero_grad(set_to_none=True)
            torch.manual_seed(STEPS * trial.seed + done)  # dropout follows from the step, wherever it is begun again
            loss = add_gradients(tuned, training, examples, recipe, how)
            norm = float(nn.utils.clip_grad_norm_(tuned.trained, recipe.max_grad_norm))
            require_finite(folder, done + 1, loss, norm, [data.train.names[number] for number in examples])
            if unreached and loss > 0:
                unreached = guards.check_gradients_reach(unreached, first, done)
            optimizer.step()
            done += 1
            losses.append(loss)
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update()
            if done % recipe.checkpoint_steps == 0 or interrupts.take_save():
                save()
            interrupts.raise_if_requested()
    bar.close()
    best = max(range(len(history)), key=lambda number: history[number]["development"])
    outcome = {"best": history[best]["development"], "epoch": history[best]["epoch"], "history": history}
    write_json(folder / DONE, outcome)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return outcome


def examples_of(count: int, batch_size: int, seed: int, done: int) -> list[int]:
    """The examples of the step after `done`: every epoch shows each once, in an order of its own; its last step may
    have fewer."""
    epoch, place = divmod(done, math.ceil(count / batch_size))
    first = epoch * count + place * batch_size
    return shuffled(count, seed, 2, first, min(first + batch_size, (epoch + 1) * count))


def resume(folder: Path, tuned: Tuned, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict], list[float]]:
    """(steps done, epochs so far, losses of the epoch so far) of the newest checkpoint, which is loaded."""
    latest = checkpoint.newest_to_resume(folder / "checkpoints")
    if latest is None:
        return 0, [], []
    done, progress = checkpoint.load(latest, tuned.model, optimizer)
    print(f"{folder}: continuing after step {done}")
    return done, progress["history"], progress["losses"]


def is_over(history: Sequence[dict[str, Any]], patience: int | None) -> bool:
    """Whether the last `patience` epochs have brought nothing."""
    if not history or patience is None:
        return False
    scores = [of["development"] for of in history]
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def rate_factor(done: int, num_steps: int, warmup_share: float) -> float:
    """The learning rate of the step after `done` of them, as a share of the peak: it rises and falls on two lines."""
    warmup = int(warmup_share * num_steps)
    if done < warmup:
        return (done + 1) / (warmup + 1)
    return (num_steps - done) / max(1, num_steps - warmup)


def add_gradients(tuned: Tuned, training: Targets, examples: Sequence[int], recipe: Finetune, how: Execution) -> float:
    """Adds those of the examples' windows; returns the step's loss."""
    places = [place for number in examples for place in training.places[number]]
    total = total_weight(training, places)
    windows = [training.windows[place] for place in places]
    loss = 0.0
    for group in batches(windows, how.micro_batch_rows * recipe.max_tokens):
        inputs = collate([windows[number] for number in group], tuned.model.config.pad_token_id, how.device)
        with autocast(how.device, recipe.compute_dtype):
            output = tuned.model(**inputs)
        part = loss_of(recipe.task, output, training, [places[number] for number in group]) / total
        part.backward()
        loss += float(part.detach())
        interrupts.raise_if_requested()
    return loss


def require_finite(folder: Path, number: int, loss: float, norm: float, names: Sequence[str]) -> None:
    """Raises RunError where a loss or gradient would poison the weights."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    latest = checkpoint.newest(folder / "checkpoints") or "none yet"
    found = f"{folder.name}, step {number}: loss {loss}, gradient norm {norm}. The last good checkpoint is {latest}."
    needed = f"The examples of the batch: {', '.join(names[:8])}{' and more' if len(names) > 8 else ''}."
    todo = "Look at them; if they are sound, lower learning_rate, or compute in float32, in another folder."
    raise RunError("finetune-loss-not-finite", found, needed, todo)


def keep_best(folder: Path, model: nn.Module) -> None:
    tensors = {name: value.detach().contiguous() for name, value in model.named_parameters() if value.requires_grad}
    with whole_file(folder / BEST) as part:
        save_file({name: value.cpu() for name, value in tensors.items()}, part)


def score_trial(
    recipe: Finetune, data: Data, how: Execution, floors: dict[str, Figures], trial: Trial
) -> dict[str, Any]:
    """`scores_of` the trial's best epoch; of one that was scored what was found."""
    path = folder_of(recipe, trial) / SCORES
    if not path.is_file():
        head = load_trained(recipe, data, trial.seed, path.with_name(BEST))
        head.model.to(how.device)
        write_json(path, scores_of(recipe, head, data, floors))
    return read_json(path)


def save_best(recipe: Finetune, data: Data, how: Execution, trial: Trial, scored: dict[str, Any]) -> dict[str, Any]:
    """Saves the trial's model in the folder `model`; returns what is measured of it."""
    out = Path(recipe.out)
    if not (out / "model").is_dir():
        head = load_trained(recipe, data, trial.seed, folder_of(recipe, trial) / BEST)
        save_model(head, data.base_dir, with_cuts(head.settings, scored), out)
    head = open_head(out / "model", how.device, recipe.compute_dtype)
    return {
        **latency(head, data.development),
        "device": how.device,
        "peak_memory_gib": round(outputs.peak_memory_bytes(how.device) / GIB, 2),
        "execution": how.model_dump(mode="json"),
    }


def need_bytes(recipe: Finetune, sizes: Sizes, rows: int) -> int:
    """Memory of a step with so many full windows at a time; an estimate, which no card has measured.

    Weights in fp32, of what is trained gradients and AdamW's two states too; of each token and layer with gradients
    what autograd keeps of some 16 results as wide as the hidden states and 6 as wide as the inner layer.
    """
    width = 4 if recipe.compute_dtype == "float32" else 2
    layer = width * (16 * sizes.hidden + 6 * sizes.intermediate)
    return 4 * sizes.all + 12 * sizes.trained + rows * recipe.max_tokens * layer * max(1, sizes.layers) + CONTEXT_BYTES


def choose_execution(recipe: Finetune, sizes: Sizes, card: Card) -> Execution:
    """As many windows at a time as have at most MICRO_BATCH_TOKENS and are estimated to fit the card."""
    memory_gib = recipe.execution.memory_gib or (card.memory_bytes or 0) / GIB
    rows = max(1, MICRO_BATCH_TOKENS[card.device] // recipe.max_tokens)
    while memory_gib and rows > 1 and need_bytes(recipe, sizes, rows) > USABLE_SHARE * memory_gib * GIB:
        rows //= 2
    rows = recipe.execution.micro_batch_rows or rows
    return Execution(micro_batch_rows=rows, device=card.device, memory_gib=recipe.execution.memory_gib)
