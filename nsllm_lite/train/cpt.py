"""Continued pretraining: the whole run, from a recipe to an adapter (or, with `adapter: none`, to a model).

Read `train` from the top: inputs, model, optimizer, resume, then the loop with the optimizer step in sight. A step's
loss is the sum over all its target tokens divided by their number, however its rows are cut into micro-batches.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from nsllm_lite import execution, heldout, run
from nsllm_lite import model as models
from nsllm_lite import recipe as recipes
from nsllm_lite.rows import Row, in_groups
from nsllm_lite.train import checkpoint, outputs
from nsllm_lite.train.inputs import Inputs, read_inputs
from nsllm_lite.train.order import StepOrder, plan_replay
from nsllm_lite.train.plot import plot_losses


def train(recipe: recipes.Train) -> dict[str, Any]:
    """Runs `recipe` to its end, continuing where an earlier run stopped; returns the manifest's results.

    Raises:
        ValueError: an input is missing or does not fit the others.
        RuntimeError: the loss or the gradient is not finite; the last good checkpoint stays.
    """
    started = time.time()
    out = Path(recipe.out)
    inputs = read_inputs(recipe)
    identity = recipes.identity(recipe)
    if run.is_finished(out, identity, inputs.hashes):
        print(f"{out}: finished, skipped")
        return run.read_manifest(out)["results"]
    run.begin(out, identity, inputs.hashes)
    how = choose_execution(recipe, inputs, out)
    run.require_disk(out, outputs.output_bytes(recipe, inputs.size), "checkpoints and the result")

    # The model and what is trained in it
    accelerator = Accelerator(cpu=how.device == "cpu", mixed_precision=precision(recipe))
    if accelerator.num_processes > 1:
        raise ValueError("Training runs as one process on one GPU: start it without `accelerate launch`.")
    lm = models.PackedLM(make_model(recipe, inputs, how))
    trained = [parameter for parameter in lm.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(recipe.optimizer, trained)
    order = step_order(recipe, inputs)
    budget = recipe.budget
    outputs.print_data(budget, inputs.rows.totals, order)

    def evaluate(step: int) -> None:
        with accelerator.autocast():
            scores = {
                name: heldout.score(lm, rows, how.micro_batch_rows, how.device) for name, rows in inputs.heldout.items()
            }
        figures = {name: {source: score.figures() for source, score in by.items()} for name, by in scores.items()}
        log.write({"step": step, "tokens": tokens, "heldout": figures})

    # Resume, or the state before the first step
    log = outputs.Log(out / "metrics.jsonl")
    first_step, tokens, domain_tokens = 0, 0, 0
    if latest := checkpoint.newest(out / "checkpoints"):
        first_step, progress = checkpoint.load(latest, lm, optimizer)
        tokens, domain_tokens = progress["tokens"], progress["domain_tokens"]
        log.keep_until(first_step)
        print(f"{out}: continuing after step {first_step} of {budget.steps}")
    else:
        log.keep_until(-1)
        evaluate(0)
        outputs.write_before(recipe, inputs, lm, out)

    # The loop
    lm.train()
    progress_bar = run.progress(budget.steps, first_step, str(out), "step")
    train_seconds, train_tokens = 0.0, 0
    for step in range(first_step, budget.steps):
        step_started = time.perf_counter()
        rows = order.rows(step)
        step_targets = sum(row.num_targets for row in rows)
        learning_rate = recipe.optimizer.learning_rate * lr_factor(recipe.schedule, step, budget.steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate

        loss = torch.zeros((), device=how.device)
        for micro_rows in in_groups(rows, how.micro_batch_rows):
            batch = models.collate(micro_rows, how.device)
            with accelerator.autocast():
                micro_loss = lm(batch) / step_targets
            accelerator.backward(micro_loss)
            loss += micro_loss.detach()
        grad_norm = nn.utils.clip_grad_norm_(trained, recipe.optimizer.max_grad_norm)
        require_finite(step + 1, float(loss), float(grad_norm), rows, out)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        done = step + 1
        step_tokens = sum(len(row.input_ids) for row in rows)
        tokens += step_tokens
        train_tokens += step_tokens
        train_seconds += time.perf_counter() - step_started
        domain_tokens += sum(len(row.input_ids) for row in rows[: len(rows) - order.replay_rows(step)])
        log.write(
            {
                "step": done,
                "tokens": tokens,
                "loss": float(loss),
                "learning_rate": learning_rate,
                "grad_norm": float(grad_norm),
            }
        )
        speed = train_tokens / train_seconds
        progress_bar.set_postfix_str(f"loss {float(loss):.4f}, {speed:,.0f} tok/s", refresh=False)
        progress_bar.update()
        if done % recipe.evaluation.every_steps == 0 or done == budget.steps:
            evaluate(done)
        if done % recipe.checkpoint_steps == 0 or done == budget.steps:
            log.sync()
            checkpoint.save(
                out / "checkpoints", done, lm, optimizer, {"tokens": tokens, "domain_tokens": domain_tokens}
            )
            checkpoint.rotate(out / "checkpoints", recipe.keep_checkpoints)
    progress_bar.close()

    # What is left behind
    outputs.save_result(recipe, inputs, lm, out)
    outputs.write_after(recipe, inputs, lm, out)
    plot_losses(out / "metrics.jsonl", out / "loss.png", f"{out}: {budget.steps} steps")
    results = outputs.summarise(recipe, inputs, log.lines(), domain_tokens, order)
    measured = {
        "train_tokens_per_s": round(train_tokens / train_seconds, 1) if train_tokens else None,
        "peak_memory_gib": round(outputs.peak_memory_bytes(how.device) / run.GIB, 2),
        "execution": how.model_dump(mode="json"),
    }
    run.finish(out, "train", identity, inputs.hashes, results, started, measured)
    outputs.print_summary(out, results, measured)
    return results


def step_order(recipe: recipes.Train, inputs: Inputs) -> StepOrder:
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


def choose_execution(recipe: recipes.Train, inputs: Inputs, out: Path) -> recipes.Execution:
    """The execution for this card, frozen in `out/execution.json`; says so when a resume finds another."""
    device, card_bytes, card = execution.find_device(recipe.execution.device)
    execution.require_card(recipe, inputs.size, device)
    how = execution.choose(recipe, inputs.size, inputs.rows.totals.row_tokens, device, card_bytes)
    frozen = {"card": card, **how.model_dump(mode="json")}
    path = out / "execution.json"
    if path.is_file() and (before := json.loads(path.read_text())) != frozen:
        changed = [f"{key} {before.get(key)} -> {frozen[key]}" for key in frozen if before.get(key) != frozen[key]]
        print(f"{out}: continuing with another execution ({', '.join(changed)}); losses may differ by rounding")
    run.write_json(path, frozen)
    return how


def precision(recipe: recipes.Train) -> str:
    return {"bfloat16": "bf16", "float32": "no"}[recipe.compute_dtype]


def make_model(recipe: recipes.Train, inputs: Inputs, how: recipes.Execution) -> nn.Module:
    """The model of the recipe on its device: built, or loaded and given its adapter."""
    if recipe.build:
        model = models.build_base(
            recipe.build, inputs.tokenizer_dir, inputs.rows.totals.end_of_text_id, recipe.seed
        ).to(how.device)
    else:
        model = models.load_base(
            inputs.base_dir,
            quantisation=recipe.quantisation,
            double_quantisation=recipe.double_quantisation,
            compute_dtype=recipe.compute_dtype if recipe.adapter else "float32",
            device=how.device,
        )
        if recipe.adapter is None:
            model.requires_grad_(True)
    if how.device == "cuda":
        from nsllm_lite.kernels.liger import use_liger_kernels

        swapped = use_liger_kernels(model)
        print(f"Liger kernels in {', '.join(f'{count} {name}' for name, count in sorted(swapped.items()))} modules")
    if how.recompute_layers:
        models.recompute_layers(model, how.recompute_layers)
    if recipe.adapter:
        model = models.add_adapter(model, recipe.adapter, recipe.model, recipe.seed)
    return model


def make_optimizer(recipe: recipes.Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    options = {"lr": recipe.learning_rate, "betas": recipe.betas, "weight_decay": recipe.weight_decay}
    if recipe.name == "adamw":
        return torch.optim.AdamW(parameters, **options)
    from bitsandbytes import optim

    return {"adamw8bit": optim.AdamW8bit, "paged_adamw8bit": optim.PagedAdamW8bit}[recipe.name](parameters, **options)


def lr_factor(schedule: recipes.Schedule, step: int, num_steps: int) -> float:
    """The learning rate of `step` (from 0) as a share of the peak: linear warm-up, then constant or cosine."""
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    if schedule.shape == "constant":
        return 1.0
    done = (step - schedule.warmup_steps) / max(1, num_steps - schedule.warmup_steps)
    return schedule.final_share + (1 - schedule.final_share) * (1 + math.cos(math.pi * done)) / 2


def require_finite(step: int, loss: float, grad_norm: float, rows: list[Row], out: Path) -> None:
    """Stops the run before a step that would poison the weights."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    documents = [name for row in rows for name in row.doc_ids]
    run.write_json(out / "nonfinite.json", {"step": step, "documents": documents})
    latest = checkpoint.newest(out / "checkpoints")
    shown = ", ".join(documents[:8]) + (f" and {len(documents) - 8} more" if len(documents) > 8 else "")
    raise RuntimeError(
        f"Step {step}: loss {loss}, gradient norm {grad_norm}. Stopped before the optimizer step; the last good "
        f"checkpoint is {latest or 'none yet'}. Documents of the batch: {shown} (all in {out / 'nonfinite.json'}). "
        "Look at those documents; if they are sound, lower optimizer.learning_rate and start into another folder."
    )
