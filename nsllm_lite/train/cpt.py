"""Continued pretraining: the whole run, from a recipe to an adapter (or, with `adapter: none`, to a model).

Read `train` from the top: inputs, model, optimizer, resume, then the loop with the optimizer step in sight. A step's
loss is the sum over all its target tokens divided by their number, however its rows are cut into micro-batches.
"""

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nsllm_lite import terminal
from nsllm_lite.artifact import interrupts
from nsllm_lite.artifact.disk import require_disk
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.artifact.step import begin, finish, is_finished, read_manifest
from nsllm_lite.errors import UserError
from nsllm_lite.formats.rows import Row, in_groups
from nsllm_lite.kernels.fused_layers import use_fused_layers
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import Batch, PackedLM, autocast, collate
from nsllm_lite.models.device import find_device, require_dtype
from nsllm_lite.models.execution import choose, require_card
from nsllm_lite.models.loading import build_base, load_base, recompute_layers
from nsllm_lite.models.lora import add_adapter, saved_parameters
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Execution, Optimizer, Schedule, Train, Training
from nsllm_lite.train import checkpoint, guards, outputs
from nsllm_lite.train.inputs import Inputs, read_inputs
from nsllm_lite.train.order import StepOrder, plan_replay
from nsllm_lite.train.plot import plot_losses, read_curve
from nsllm_lite.train.prefetch import steps_ahead
from nsllm_lite.train.processes import Processes
from nsllm_lite.train.spikes import SpikeLog
from nsllm_lite.train.tracking import Trackers, TrainerLog, make_accelerator


def train(recipe: Train) -> dict[str, Any]:
    """Runs `recipe` to its end, continuing where an earlier run stopped; returns the manifest's results.

    Raises:
        UserError: an input is missing or does not fit the others.
        RunError: the loss or the gradient is not finite; the last good checkpoint stays.
        stop.Stop: a signal, or time that is up; a checkpoint holds the last whole step.
    """
    started = time.time()
    out = Path(recipe.out)
    inputs = read_inputs(recipe)
    identity = recipes.identity(recipe)
    device, card_bytes, card = find_device(recipe.execution.device)
    require_dtype(recipe.compute_dtype, device)
    accelerator = make_accelerator(recipe, device)
    team = Processes(accelerator)
    overlay = read_curve(Path(recipe.overlay)) if recipe.overlay else None

    def plot() -> None:
        plot_losses(out / "metrics.jsonl", out / "loss.png", f"{out}: {recipe.budget.steps} steps", overlay=overlay)

    if is_finished(out, identity, inputs.hashes):
        if team.is_first:
            print(f"{out}: finished, skipped" + (f"; loss.png drawn again over {recipe.overlay}" if overlay else ""))
            if overlay:
                plot()
        team.leave()
        return read_manifest(out)["results"]
    inputs.require_sound()
    how = choose_execution(recipe, inputs, device, card_bytes, team.size)
    if team.is_first:
        begin(out, identity, inputs.hashes)
        freeze_execution(out, card, how)
        outputs.keep_base(out, inputs.base_dir)
        require_disk(out, outputs.output_bytes(recipe, inputs.size), "checkpoints and the result")
        trackers = Trackers(accelerator, recipe)
    team.wait()

    # The model and what is trained in it
    lm = PackedLM(make_model(recipe, inputs, how), how.head)
    trained = [parameter for parameter in lm.parameters() if parameter.requires_grad]
    team.start_equal(trained)
    optimizer = make_optimizer(recipe.optimizer, parameter_groups(lm, recipe.optimizer))
    scaler = torch.amp.GradScaler(how.device, enabled=recipe.compute_dtype == "float16")
    order = step_order(recipe, inputs)
    budget = recipe.budget
    if team.is_first:
        outputs.print_data(budget, inputs.rows.totals, order)

    def evaluate(step: int) -> None:
        if not team.is_first:
            return
        with autocast(how.device, recipe.compute_dtype):
            scores = {
                name: heldout.score(lm, rows, how.micro_batch_rows, how.device) for name, rows in inputs.heldout.items()
            }
        figures = {name: {source: score.figures() for source, score in by.items()} for name, by in scores.items()}
        log.write({"step": step, "tokens": tokens, "heldout": figures})
        guards.check_forgetting(recipe.evaluation, step, log.lines()[0]["heldout"], figures, out)

    def is_due(every_steps: int) -> bool:
        return done % every_steps == 0 or done == budget.steps

    def save() -> None:
        nonlocal saved
        if team.is_first:
            log.sync()
            progress = {"tokens": tokens, "domain_tokens": domain_tokens, "scaler": scaler.state_dict()}
            checkpoint.save(out / "checkpoints", done, lm, optimizer, progress)
            checkpoint.rotate(out / "checkpoints", done, recipe.keep_checkpoints)
            saved = done

    def save_last_step() -> None:
        """For a stop within a step."""
        if done > saved:
            save()

    def micro_batches(rows: list[Row]) -> list[Sequence[Row]]:
        """This process's part of a step's rows."""
        return list(in_groups(team.share(rows), how.micro_batch_rows))

    def compute_gradients(rows: list[Row], batches: Iterable[Batch]) -> tuple[float, float]:
        """The step's loss and the norm of its gradient, which is then clipped."""
        targets = sum(row.num_targets for row in rows)
        loss = torch.zeros((), device=how.device)
        for batch in batches:
            with autocast(how.device, recipe.compute_dtype):
                micro_loss = lm(batch.to(how.device)) / targets
            scaler.scale(micro_loss).backward()
            loss += micro_loss.detach()
            interrupts.raise_if_requested()
        team.add_gradients(trained)
        scaler.unscale_(optimizer)
        grad_norm = nn.utils.clip_grad_norm_(trained, recipe.optimizer.max_grad_norm)
        return float(team.add(loss)), float(grad_norm)

    # Resume, or the state before the first step
    views = [TrainerLog(out / "trainer_log.jsonl", budget.steps, order.epochs), trackers] if team.is_first else []
    log = outputs.Log(out / "metrics.jsonl", views)
    first_step = done = saved = tokens = domain_tokens = 0
    if latest := checkpoint.newest(out / "checkpoints"):
        first_step, progress = checkpoint.load(latest, lm, optimizer)
        done = saved = first_step
        tokens, domain_tokens = progress["tokens"], progress["domain_tokens"]
        scaler.load_state_dict(progress["scaler"])
        if team.is_first:
            log.keep_until(first_step)
            checkpoint.rotate(out / "checkpoints", first_step, recipe.keep_checkpoints)
            print(f"{out}: continuing after step {first_step} of {budget.steps}")
            if is_due(recipe.evaluation.every_steps) and not log.has_heldout(done):  # stopped before its end
                evaluate(done)
    elif team.is_first:
        log.keep_until(-1)
        evaluate(0)
        outputs.write_before(recipe, inputs, lm, out)

    # The loop
    watch = SpikeLog(out, recipe, log.lines()) if team.is_first else None
    lm.train()
    progress_bar = terminal.progress(budget.steps, first_step, str(out), "step", disable=not team.is_first)
    train_seconds, train_tokens = 0.0, 0
    unreached = {name: parameter for name, parameter in lm.named_parameters() if parameter.requires_grad}
    steps = range(first_step, budget.steps)
    ahead = steps_ahead(steps, order.rows, micro_batches, how.device)
    with closing(ahead), interrupts.deferred(save_last_step, alone=team.size == 1):
        for step in steps:
            step_started = time.perf_counter()
            rows, batches = next(ahead)
            factor = lr_factor(recipe.schedule, step, budget.steps)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor

            loss, grad_norm = compute_gradients(rows, batches)
            # fp16 has overflowed: again with a smaller scale
            while math.isfinite(loss) and not math.isfinite(grad_norm) and scaler.get_scale() > 1:
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                again = (collate(micro_rows, how.device) for micro_rows in micro_batches(rows))
                loss, grad_norm = compute_gradients(rows, again)
            guards.require_finite(step + 1, loss, grad_norm, rows, out)
            if unreached:
                unreached = guards.check_gradients_reach(unreached, first_step, step)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

            done = step + 1
            step_tokens = sum(len(row.input_ids) for row in rows)
            tokens += step_tokens
            train_tokens += step_tokens
            train_seconds += time.perf_counter() - step_started
            domain_tokens += sum(len(row.input_ids) for row in rows[: len(rows) - order.replay_rows(step)])
            line = {"step": done, "tokens": tokens, "loss": loss}
            line |= {"learning_rate": recipe.optimizer.learning_rate * factor, "grad_norm": grad_norm}
            if team.is_first:
                log.write(line)
                watch.see(done, loss, [name for row in rows for name in row.doc_ids])
            speed = train_tokens / train_seconds
            progress_bar.set_postfix_str(f"loss {loss:.4f}, {speed:,.0f} tok/s", refresh=False)
            progress_bar.update()
            if is_due(recipe.evaluation.every_steps):
                evaluate(done)
            if is_due(recipe.checkpoint_steps) or interrupts.take_save():
                save()
            team.stop_if_asked()
    progress_bar.close()

    # What is left behind
    if not team.is_first:
        team.leave()
        return {}
    outputs.save_result(recipe, inputs, lm, out)
    outputs.write_after(recipe, inputs, lm, out)
    plot()
    trackers.finish()
    results = outputs.summarise(recipe, inputs, log.lines(), domain_tokens, order)
    measured = outputs.measure(recipe, inputs, how, card, train_tokens, train_seconds) | {"processes": team.size}
    finish(out, "train", identity, inputs.hashes, results, started, measured)
    outputs.print_summary(recipe, results, measured)
    team.leave()
    return results


def step_order(recipe: Train, inputs: Inputs) -> StepOrder:
    """The data order, with the replay share lowered where the replay text would repeat too often."""
    rows_per_step = recipe.budget.tokens_per_step // inputs.rows.totals.row_tokens
    share = plan_replay(0, 1, inputs.rows, 1)
    if recipe.replay and recipe.replay.share:
        if inputs.replay is None:
            print(f"Replay: {recipe.replay.rows} holds no rows, so no general text is mixed in.")
        else:
            total = recipe.budget.steps * rows_per_step
            share = plan_replay(recipe.replay.share, recipe.replay.max_epochs, inputs.replay, total)
            if share < recipe.replay.share * 0.999:
                print(
                    f"Replay: lowered from {recipe.replay.share:.1%} to {float(share):.2%} of the rows, because "
                    f"{inputs.replay.totals.num_tokens:,} general tokens would repeat more than "
                    f"{recipe.replay.max_epochs:g} times. Give more general text (GENERAL=PATH)."
                )
    return StepOrder(inputs.rows, inputs.replay if share else None, rows_per_step, share, recipe.seed)


# ----------------------------------------------------------------------------------------- model, optimizer, rate


def choose_execution(
    recipe: Train, inputs: Inputs, device: str, card_bytes: int | None, num_processes: int
) -> Execution:
    """The execution for this card.

    Raises:
        UserError: the model does not fit, or the step has fewer rows than there are processes.
    """
    require_card(recipe, inputs.size, device)
    row_tokens = inputs.rows.totals.row_tokens
    if recipe.budget.tokens_per_step // row_tokens < num_processes:
        raise UserError(
            "train-too-many-processes",
            f"A step of {recipe.budget.tokens_per_step:,} tokens has fewer rows of {row_tokens:,} than there are "
            f"processes ({num_processes}).",
            "Every process needs a row.",
            "Start fewer, or raise budget.tokens_per_step.",
        )
    return choose(recipe, inputs.size, row_tokens, device, card_bytes)


def freeze_execution(out: Path, card: str, how: Execution) -> None:
    """Keeps the execution in `out/execution.json`; says so when a resume finds another."""
    frozen = {"card": card, **how.model_dump(mode="json")}
    path = out / "execution.json"
    before = read_json(path) if path.is_file() else {}
    old = {key: before.get(key, value) for key, value in frozen.items()}
    if changed := [f"{key} {old[key]} -> {value}" for key, value in frozen.items() if old[key] != value]:
        print(f"{out}: continuing with another execution ({', '.join(changed)}); losses may differ by rounding")
    write_json(path, frozen)


def make_model(recipe: Training, inputs: Inputs, how: Execution) -> nn.Module:
    """The model of the recipe on its device: built, or loaded and given its adapter."""
    if recipe.kind == "train" and recipe.build:
        model = build_base(recipe.build, inputs.tokenizer_dir, inputs.rows.totals.end_of_text_id, recipe.seed).to(
            how.device
        )
    else:
        model = load_base(
            inputs.base_dir,
            quantisation=recipe.quantisation,
            double_quantisation=recipe.double_quantisation,
            compute_dtype=recipe.compute_dtype if recipe.adapter else "float32",
            device=how.device,
            dequantised=bool(how.dequantised) and recipe.adapter is not None,
        )
        if recipe.adapter is None:
            model.requires_grad_(True)
    if how.device == "cuda" and not how.compile:
        from nsllm_lite.kernels.liger import use_liger_kernels

        swapped = use_liger_kernels(model)
        print(f"Liger kernels in {', '.join(f'{count} {name}' for name, count in sorted(swapped.items()))} modules")
    if how.recompute_layers:
        recompute_layers(model, how.recompute_layers)
    if recipe.adapter:
        model = add_adapter(model, recipe.adapter, recipe.model, recipe.seed)
        num_fused = use_fused_layers(model, recompute_cheap=bool(how.recompute_cheap), compiled=bool(how.compile))
        if how.compile and not num_fused:
            raise UserError(
                "train-layers-not-compilable",
                f"execution.compile=true, but no layer of {type(model.get_base_model()).__name__} can be compiled.",
                "Qwen3, Qwen2, Llama and Mistral with a plain LoRA can.",
                "Leave execution.compile out.",
            )
    return model


def parameter_groups(lm: nn.Module, recipe: Optimizer) -> list[dict[str, Any]]:
    """What is trained, by peak learning rate: the adapter (or the whole model), then embeddings and head."""
    saved = saved_parameters(lm)
    others = [p for name, p in lm.named_parameters() if p.requires_grad and name not in saved]
    groups = [{"params": others, "peak": recipe.learning_rate}]
    if saved:
        peak = recipe.embedding_learning_rate or recipe.learning_rate
        groups.append({"params": list(saved.values()), "peak": peak})
    return groups


def make_optimizer(recipe: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    options = {"lr": recipe.learning_rate, "betas": recipe.betas, "weight_decay": recipe.weight_decay}
    if recipe.name == "adamw":
        return torch.optim.AdamW(groups, **options)
    from bitsandbytes import optim

    return {"adamw8bit": optim.AdamW8bit, "paged_adamw8bit": optim.PagedAdamW8bit}[recipe.name](groups, **options)


def lr_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """The learning rate of `step` (from 0) as a share of the peak: linear warm-up, then constant or cosine."""
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    if schedule.shape == "constant":
        return 1.0
    done = (step - schedule.warmup_steps) / max(1, num_steps - schedule.warmup_steps)
    return schedule.final_share + (1 - schedule.final_share) * (1 + math.cos(math.pi * done)) / 2
