"""Continued pretraining: the whole run, from a recipe to an adapter (or, with `adapter: none`, to a model).

Read `train` from the top: inputs, model, optimizer, resume, then the loop with the optimizer step in sight. A step's
loss is the sum over all its target tokens divided by their number, however its rows are cut into micro-batches.
"""

import json
import math
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tokenizers import Tokenizer
from torch import nn

from nsllm_lite import execution, heldout, run
from nsllm_lite import model as models
from nsllm_lite import recipe as recipes
from nsllm_lite.rows import Row, Rows, in_groups
from nsllm_lite.train import checkpoint, samples
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
    run.require_disk(out, output_bytes(recipe, inputs.size), "checkpoints and the result")

    # The model and what is trained in it
    accelerator = Accelerator(cpu=how.device == "cpu", mixed_precision=precision(recipe))
    if accelerator.num_processes > 1:
        raise ValueError("Training runs as one process on one GPU: start it without `accelerate launch`.")
    lm = models.PackedLM(make_model(recipe, inputs, how))
    trained = [parameter for parameter in lm.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(recipe.optimizer, trained)
    order = step_order(recipe, inputs)
    budget = recipe.budget

    def evaluate(step: int) -> dict[str, Any]:
        with accelerator.autocast():
            figures = {
                name: {
                    source: score.figures()
                    for source, score in heldout.score(lm, rows, how.micro_batch_rows, how.device).items()
                }
                for name, rows in inputs.heldout.items()
            }
        log.write({"step": step, "tokens": tokens, "heldout": figures})
        return figures

    # Resume, or the state before the first step
    log = Log(out / "metrics.jsonl")
    first_step, tokens, domain_tokens = 0, 0, 0
    if latest := checkpoint.newest(out / "checkpoints"):
        first_step, progress = checkpoint.load(latest, lm, optimizer)
        tokens, domain_tokens = progress["tokens"], progress["domain_tokens"]
        log.keep_until(first_step)
        print(f"{out}: continuing after step {first_step} of {budget.steps}")
    else:
        log.keep_until(-1)
        evaluate(0)
        write_before(recipe, inputs, lm, out)

    # The loop
    lm.train()
    progress_bar = run.progress(budget.steps, first_step, str(out), "step")
    loop_started, loop_tokens = time.perf_counter(), 0
    for step in range(first_step, budget.steps):
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
        loop_tokens += step_tokens
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
        speed = loop_tokens / (time.perf_counter() - loop_started)
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
    loop_seconds = time.perf_counter() - loop_started

    # What is left behind
    save_result(recipe, inputs, lm, out)
    write_after(recipe, inputs, lm, out)
    plot_losses(out / "metrics.jsonl", out / "loss.png", f"{out}: {budget.steps} steps")
    results = summarise(recipe, inputs, log.lines(), domain_tokens, order)
    measured = {
        "loop_tokens_per_s": round(loop_tokens / loop_seconds, 1) if loop_tokens else None,
        "peak_memory_gib": round(peak_memory_bytes(how.device) / run.GIB, 2),
        "execution": how.model_dump(mode="json"),
    }
    run.finish(out, "train", identity, inputs.hashes, results, started, measured)
    print_summary(out, results, measured)
    return results


# -------------------------------------------------------------------------------------------------------- inputs


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything a run reads, found to exist and to fit together."""

    rows: Rows
    replay: Rows | None
    heldout: dict[str, list[Row]]  # "domain" and "general"
    heldout_rows: Rows
    base_dir: Path | None  # None: the model is built from nothing
    tokenizer_dir: Path
    size: execution.ModelSize
    hashes: dict[str, str | None]

    @property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.tokenizer_dir)


def read_inputs(recipe: recipes.Train) -> Inputs:
    """Opens every input.

    Raises:
        ValueError: one is missing, empty, or belongs to another tokenizer.
    """
    rows = Rows(Path(recipe.rows))
    domain, general = Rows(Path(recipe.evaluation.domain_rows)), Rows(Path(recipe.evaluation.general_rows))
    replay = Rows(Path(recipe.replay.rows)) if recipe.replay else None
    if not len(rows):
        raise ValueError(f"{rows.path} holds no rows: nothing to train on. Look at ledger.json of its corpus.")
    all_rows = [opened for opened in (rows, domain, general, replay) if opened is not None]
    if len({opened.totals.tokenizer_sha256 for opened in all_rows}) > 1:
        raise ValueError(
            f"Rows of different tokenizers: {', '.join(str(r.path) for r in all_rows)}. Make them in one "
            "`nsllm-lite corpus` run."
        )
    row_tokens = rows.totals.row_tokens
    if recipe.budget.tokens_per_step % row_tokens:
        raise ValueError(
            f"budget.tokens_per_step {recipe.budget.tokens_per_step} is not a multiple of the rows' {row_tokens} "
            f"tokens. Take {max(1, recipe.budget.tokens_per_step // row_tokens) * row_tokens}."
        )
    hashes: dict[str, str | None] = {"rows": rows.sha256, "domain_rows": domain.sha256, "general_rows": general.sha256}
    if replay is not None:
        hashes["replay_rows"] = replay.sha256
    if recipe.build:
        base_dir, tokenizer_dir = None, Path(recipe.build.tokenizer)
        hashes["tokenizer"] = run.sha256_file(tokenizer_dir / "tokenizer.json")
        size = build_size(recipe.build, tokenizer_dir)
    else:
        base_dir = tokenizer_dir = models.resolve_model(recipe.model)
        hashes["base"] = run.fingerprint_weights(base_dir)
        size = execution.read_size(base_dir)
    highest = max(int(rows[i].input_ids.max()) for i in range(0, len(rows), max(1, len(rows) // 64)))
    if max(highest, rows.totals.end_of_text_id) >= size.vocab:
        raise ValueError(
            f"{rows.path} holds token {max(highest, rows.totals.end_of_text_id)}, but the model knows {size.vocab}: "
            "the corpus was tokenised for another model. Build it again with `tokenizer=` set to this model."
        )
    max_rows = recipe.evaluation.max_rows
    return Inputs(
        rows=rows,
        replay=replay if replay is not None and len(replay) else None,
        heldout={
            "domain": heldout.sample_rows(domain, max_rows),
            "general": heldout.sample_rows(general, max_rows),
        },
        heldout_rows=domain,
        base_dir=base_dir,
        tokenizer_dir=tokenizer_dir,
        size=size,
        hashes=hashes,
    )


def build_size(shape: recipes.ModelShape, tokenizer_dir: Path) -> execution.ModelSize:
    return execution.ModelSize(
        layers=shape.num_layers,
        hidden=shape.hidden_size,
        intermediate=shape.intermediate_size,
        query=shape.num_heads * shape.head_dim,
        key_value=shape.num_kv_heads * shape.head_dim,
        vocab=load_tokenizer(tokenizer_dir).get_vocab_size(),
        tied=shape.tied_embeddings,
    )


def load_tokenizer(directory: Path) -> Tokenizer:
    if (directory / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(directory / "tokenizer.json"))
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, trust_remote_code=False).backend_tokenizer


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

        use_liger_kernels(model)
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


# ------------------------------------------------------------------------------------------------------- outputs


class Log:
    """`metrics.jsonl`: one line a step {step, tokens, loss, learning_rate, grad_norm} and one an evaluation
    {step, tokens, heldout: {domain|general: {source: {loss, bits_per_byte, tokens}}}}; the same in every run."""

    def __init__(self, path: Path):
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def keep_until(self, step: int) -> None:
        """Drops what a killed run wrote after its last checkpoint, a half-written line included."""
        kept = []
        for line in self.path.read_text().splitlines() if self.path.is_file() else []:
            try:
                kept += [line] if json.loads(line)["step"] <= step else []
            except json.JSONDecodeError:
                break
        run.write_atomic(self.path, "".join(line + "\n" for line in kept))

    def write(self, line: dict[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        with open(self.path, "a") as file:
            file.flush()


def save_result(recipe: recipes.Train, inputs: Inputs, lm: models.PackedLM, out: Path) -> None:
    """The adapter with the identity of its base, or the trained model with its tokenizer; whole or absent."""
    final = out / ("adapter" if recipe.adapter else "model")
    part = final.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    lm.model.save_pretrained(part)
    if recipe.adapter:
        (part / "README.md").unlink(missing_ok=True)
        run.write_json(
            part / "training.json",
            {
                "base": recipe.model,
                "base_fingerprint": inputs.hashes["base"],
                "quantisation": recipe.quantisation,
                "double_quantisation": recipe.double_quantisation,
                "compute_dtype": recipe.compute_dtype,
            },
        )
    else:
        for path in inputs.tokenizer_dir.glob("*.json"):
            if "tokenizer" in path.name:
                shutil.copy(path, part / path.name)
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)


def write_before(recipe: recipes.Train, inputs: Inputs, lm: models.PackedLM, out: Path) -> None:
    openings = samples.prompts(inputs.heldout_rows, recipe.samples.count, recipe.samples.prompt_tokens)
    before = samples.continuations(lm, openings, recipe.samples.new_tokens, inputs.rows.totals.end_of_text_id)
    run.write_json(out / "samples.json", {"openings": openings, "before": before})


def write_after(recipe: recipes.Train, inputs: Inputs, lm: models.PackedLM, out: Path) -> None:
    saved = json.loads((out / "samples.json").read_text())
    after = samples.continuations(lm, saved["openings"], recipe.samples.new_tokens, inputs.rows.totals.end_of_text_id)
    samples.write_samples(out / "samples.md", inputs.tokenizer, saved["openings"], saved["before"], after)


def output_bytes(recipe: recipes.Train, size: execution.ModelSize) -> int:
    """Disk a run needs: its checkpoints and the result."""
    trained = size.lora_params(recipe.adapter) if recipe.adapter else size.params
    state_bytes = 4 + execution.OPTIMIZER_BYTES[recipe.optimizer.name]
    return trained * (state_bytes * (recipe.keep_checkpoints + 1) + 4)


def summarise(
    recipe: recipes.Train, inputs: Inputs, lines: list[dict], domain_tokens: int, order: StepOrder
) -> dict[str, Any]:
    losses = [line["loss"] for line in lines if "loss" in line]
    evaluations = [line for line in lines if "heldout" in line]
    available = inputs.rows.totals.num_tokens
    tail = losses[-max(1, len(losses) // 20) :]
    return {
        "steps": recipe.budget.steps,
        "tokens": lines[-1]["tokens"],
        "domain_tokens": domain_tokens,
        "available_tokens": available,
        "coverage": domain_tokens / available,
        "replay_share": float(order.replay_share),
        "first_loss": losses[0],
        "last_loss": sum(tail) / len(tail),
        "heldout": {"before": evaluations[0]["heldout"], "after": evaluations[-1]["heldout"]},
    }


def peak_memory_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_summary(out: Path, results: dict[str, Any], measured: dict[str, Any]) -> None:
    print(
        f"{out}: {results['steps']} steps, {results['tokens']:,} tokens "
        f"({results['coverage']:.2f} x the {results['available_tokens']:,} domain tokens there are), "
        f"{measured['loop_tokens_per_s']} tokens/s, peak {measured['peak_memory_gib']} GiB"
    )
    for name in results["heldout"]["before"]:
        before, after = (results["heldout"][when][name].get("all") for when in ("before", "after"))
        if before and before["tokens"]:
            print(
                f"  held-out {name:<8} loss {before['loss']:.4f} -> {after['loss']:.4f}   "
                f"bits per byte {before['bits_per_byte']:.4f} -> {after['bits_per_byte']:.4f}"
            )
