"""Continued pretraining: the whole run, from a recipe to an adapter (or, with `adapter: none`, to a model).

Read `train` from the top: inputs, model, optimizer, resume, then the loop with the optimizer step in sight. A step's
loss is the sum over all its target tokens divided by their number, however its rows are cut into micro-batches.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nsllm_lite.artifact import interrupts
from nsllm_lite.errors import UserError
from nsllm_lite.formats.rows import Row, in_groups
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import Batch, PackedLM, autocast, collate
from nsllm_lite.models.device import Card
from nsllm_lite.models.execution import choose, memory, require_card
from nsllm_lite.recipe.train import Execution, Train
from nsllm_lite.train import guards, outputs, setup
from nsllm_lite.train.fallback import Fallback
from nsllm_lite.train.gradients import Gradients
from nsllm_lite.train.inputs import Inputs, read_inputs
from nsllm_lite.train.order import StepOrder, order_of
from nsllm_lite.train.plot import plot_losses
from nsllm_lite.train.prefetch import steps_ahead
from nsllm_lite.train.processes import Processes
from nsllm_lite.train.tracking import Trackers, TrainerLog, make_accelerator
from nsllm_lite.train.training_run import TrainingRun


def train(recipe: Train, make_run: Callable[..., TrainingRun] = TrainingRun) -> dict[str, Any]:
    """Runs `recipe` to its end, continuing where an earlier run stopped; returns the manifest's results. Another
    `make_run` puts the same steps to another use (`find_lr.py`).

    Raises:
        UserError: an input is missing or does not fit the others.
        RunError: the loss or the gradient is not finite; the last good checkpoint stays.
        OutOfMemoryError: the card ran out of memory, with the recipe of a leaner execution.
        interrupts.Stop: a signal, or time that is up; a checkpoint holds the last whole step.
    """
    started, budget = time.time(), recipe.budget
    inputs = read_inputs(recipe)
    card = setup.choose_card(recipe)
    team = Processes(make_accelerator(recipe, card.device))
    run = make_run(recipe, inputs.hashes, recipe.evaluation.every_steps, started, team)
    if (results := run.finished()) is not None:
        if inputs.overlay and team.is_first:
            plot_losses(recipe, budget.steps, inputs.overlay)
            print(f"{run.out}: loss.png drawn again over {recipe.overlay}")
        return results
    inputs.require_sound()
    how = choose_execution(recipe, inputs, card, team.size)
    need = memory(recipe, inputs.size, inputs.rows.totals.row_tokens, how, card)
    choose_again = partial(choose_execution, inputs=inputs, card=card, num_processes=team.size)
    run.begin(budget.steps, inputs, Fallback(recipe, how, sum(need.values()), card, choose_again))
    trackers = Trackers(team.accelerator, recipe)

    # The model and what is trained in it
    lm = PackedLM(setup.make_model(recipe, inputs, how), how.head).train()
    team.start_equal([parameter for parameter in lm.parameters() if parameter.requires_grad])
    gradients = Gradients(lm, getattr(torch, recipe.compute_dtype))
    optimizer = setup.make_optimizer(recipe.optimizer, setup.parameter_groups(lm, recipe.optimizer))
    scaler = torch.amp.GradScaler(how.device, enabled=recipe.compute_dtype == "float16")
    order = step_order(recipe, inputs)
    team.print(outputs.data_words(budget, inputs.rows.totals, order))

    # Resume, or the state before the first step
    def carried() -> dict[str, Any]:
        return {"tokens": run.tokens, "domain_tokens": domain_tokens, "scaler": scaler.state_dict()}

    views = [TrainerLog(run.out / "trainer_log.jsonl", budget.steps, order.epochs), trackers]
    loaded = run.resume(lm, optimizer, partial(evaluate, run, recipe, inputs, lm, how), carried, views)
    domain_tokens = loaded.get("domain_tokens", 0)
    scaler.load_state_dict(loaded.get("scaler", scaler.state_dict()))

    # The loop
    def cut(rows: list[Row]) -> list[Sequence[Row]]:
        return list(in_groups(team.share(rows), how.micro_batch_rows))  # those of this process

    with run.steps() as steps, closing(steps_ahead(steps, order.rows, cut, how.device)) as ahead:
        for step in steps:
            run.begin_step()
            rows, batches = next(ahead)
            learning_rate = setup.set_learning_rate(optimizer, run.lr_factor(step))
            while True:
                with gradients.of_step():
                    loss = float(team.add(add_gradients(lm, scaler, rows, batches, how, recipe.compute_dtype)))
                team.add(gradients.flat)
                scaler.unscale_(optimizer)
                grad_norm = gradients.clip(recipe.optimizer.max_grad_norm)
                if not math.isfinite(loss) or math.isfinite(grad_norm) or scaler.get_scale() <= 1:
                    break
                scaler.update()  # fp16 has overflowed: again with a smaller scale
                gradients.zero()
                batches = (collate(micro_rows, how.device) for micro_rows in cut(rows))
            names = [name for row in rows for name in row.doc_ids]
            run.require_finite(loss, grad_norm, "documents", names)
            run.require_gradients()
            scaler.step(optimizer)
            scaler.update()
            gradients.zero()

            domain_rows = rows[: len(rows) - order.replay_rows(step)]
            domain_tokens += sum(len(row.input_ids) for row in domain_rows)
            num_tokens = sum(len(row.input_ids) for row in rows)
            run.log(loss, learning_rate, grad_norm, num_tokens, names)
            run.keep()

    # What is left behind
    if not team.is_first:
        team.wait()
        return {}
    outputs.save_result(recipe, inputs, lm, run.out)
    outputs.write_after(recipe, inputs, lm, run.out)
    plot_losses(recipe, budget.steps, inputs.overlay)
    trackers.finish()
    results = outputs.summarise(recipe, inputs, run.metrics.lines(), domain_tokens, order)
    measured = outputs.measure(recipe, inputs, how, card, run.own_tokens, run.own_seconds, team.size)
    sent = {"all_reduced_bytes_a_step": gradients.flat.nbytes} if team.size > 1 else {}
    run.finish(results, measured | {"processes": team.size} | sent)
    coverage = f" ({results['coverage']:.2f} x the {results['available_tokens']:,} domain tokens there are)"
    outputs.print_summary(recipe, results, measured, coverage)
    outputs.print_heldout(results)
    return results


def add_gradients(
    lm: PackedLM, scaler: torch.amp.GradScaler, rows: list[Row], batches: Iterable[Batch], how: Execution, dtype: str
) -> Tensor:
    """Adds those of this process's `batches` of the step's `rows`; returns its part of the step's loss."""
    num_targets = sum(row.num_targets for row in rows)
    loss = torch.zeros((), device=how.device)
    for batch in batches:
        with autocast(how.device, dtype):
            micro_loss = lm(batch.to(how.device)) / num_targets
        scaler.scale(micro_loss).backward()
        loss += micro_loss.detach()
        interrupts.raise_if_requested()
    return loss


def evaluate(run: TrainingRun, recipe: Train, inputs: Inputs, lm: PackedLM, how: Execution) -> None:
    """Logs held-out losses; before the first step also what the model writes. Raises RunError on forgetting."""
    figures = {}
    for name, rows in inputs.heldout.items():
        with autocast(how.device, recipe.compute_dtype):
            scores = heldout.score(lm, rows, how.micro_batch_rows, how.device, team=run.team)
        figures[name] = {source: score.figures() for source, score in scores.items()}
    run.log_heldout(figures)
    if not run.team.is_first:
        return
    guards.check_forgetting(recipe.evaluation, run.done, run.metrics.lines()[0]["heldout"], figures, run.out)
    if run.done == 0:
        outputs.write_before(recipe, inputs, lm, run.out)


def choose_execution(recipe: Train, inputs: Inputs, card: Card, num_processes: int) -> Execution:
    """Raises UserError where the model does not fit, or the step has fewer rows than there are processes."""
    require_card(recipe, inputs.size, card.device)
    row_tokens = inputs.rows.totals.row_tokens
    if recipe.budget.tokens_per_step // row_tokens < num_processes:
        found = f"A step of {recipe.budget.tokens_per_step:,} tokens has fewer rows of {row_tokens:,} than processes "
        found += f"({num_processes}); each needs a row."
        raise UserError("train-too-many-processes", found, "Start fewer, or raise budget.tokens_per_step.")
    return choose(recipe, inputs.size, row_tokens, card)


def step_order(recipe: Train, inputs: Inputs) -> StepOrder:
    """The data order; says where less replay text is mixed in than the recipe states."""
    order = order_of(recipe, inputs.rows, inputs.replay, recipe.budget.steps)
    if recipe.replay and recipe.replay.share:
        if inputs.replay is None:
            print(f"Replay: {recipe.replay.rows} holds no rows, so no general text is mixed in.")
        elif order.replay_share < recipe.replay.share * 0.999:
            share = float(order.replay_share)
            print(
                f"Replay: lowered from {recipe.replay.share:.1%} to {share:.2%} of the rows, because "
                f"{inputs.replay.totals.num_tokens:,} general tokens would repeat more than "
                f"{recipe.replay.max_epochs:g} times. Give more general text (GENERAL=PATH)."
            )
    return order
