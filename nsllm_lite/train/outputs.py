"""What a training run leaves: the log, the adapter or model, samples, and the summary."""

import json
import os
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import GIB, replace_folder
from nsllm_lite.artifact.json_files import cut_lines, read_json, read_lines, write_json, write_sealed
from nsllm_lite.errors import WRITE_ELSEWHERE, UserError
from nsllm_lite.formats.rows import RowTotals
from nsllm_lite.formats.tokenizer import load_tokenizer, save_tokenizer
from nsllm_lite.formats.weights import require_sound
from nsllm_lite.models.causal import PackedLM
from nsllm_lite.models.device import Card, remember_speed
from nsllm_lite.models.execution import OPTIMIZER_BYTES, memory, trained_params
from nsllm_lite.models.loading import save_nf4
from nsllm_lite.models.sizes import ModelSize
from nsllm_lite.recipe.train import Budget, Execution, Train, Training
from nsllm_lite.train import samples
from nsllm_lite.train.inputs import Inputs
from nsllm_lite.train.order import StepOrder
from nsllm_lite.train.spikes import judge
from nsllm_lite.train.tracking import Trackers, TrainerLog

BASE_FILES = "base_files.json"
MAX_EPOCHS_UNREMARKED = 4  # beyond it repetition gains little. Source: Muennighoff et al., arXiv 2305.16264


class Log:
    """`metrics.jsonl`: one line a step {step, tokens, loss, learning_rate, grad_norm} and one an evaluation
    {step, tokens, heldout: {domain|general: {source: {loss, bits_per_byte, tokens}}}}; the same in every run.

    `views` show the same lines elsewhere (`tracking.py`).
    """

    def __init__(self, path: Path, views: Sequence[Trackers | TrainerLog] = ()):
        self.path, self.views = path, views

    def lines(self) -> list[dict[str, Any]]:
        return read_lines(self.path)

    def keep_until(self, step: int) -> None:
        """Drops what a killed run wrote after its last checkpoint, a half-written line included."""
        if step > 0 and not any(line.get("step") == step for line in self.lines()):
            found = f"{self.path} is damaged: it does not reach step {step}, of which there is a good checkpoint."
            todo = f"Restore it from a copy; only to begin anew delete {self.path.parent}."
            raise UserError("log-behind-checkpoint", found, todo)
        kept = cut_lines(self.path, step)
        for view in self.views:
            view.restart(kept)

    def write(self, line: dict[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        for view in self.views:
            view.write(line)

    def has_heldout(self, step: int) -> bool:
        return any("heldout" in line and line["step"] == step for line in self.lines())

    def sync(self) -> None:
        """fsync: the log must be on disk before a checkpoint is written."""
        with open(self.path, "a") as file:
            os.fsync(file.fileno())


def keep_base(out: Path, base_dir: Path | None) -> None:
    """Records the hashes of the base's files. Raises UserError where they are damaged, or not those that a continued
    run began with."""
    if base_dir is None:
        return
    found = require_sound(base_dir)
    path = out / BASE_FILES
    before = read_json(path) if path.is_file() else found
    if changed := sorted(name for name in {*found, *before} if found.get(name) != before.get(name)):
        found = f"{base_dir / changed[0]} is not the file that {out} began with."
        todo = f"Fetch or copy it again to continue, or {WRITE_ELSEWHERE}."
        raise UserError("base-changed-in-run", found, "Its bytes have changed since.", todo)
    write_sealed(path, found)


def save_result(recipe: Training, inputs: Inputs, lm: PackedLM, out: Path) -> None:
    """The adapter with the identity of its base, or the trained model with its tokenizer; whole or absent."""
    final = out / ("adapter" if recipe.adapter else "model")
    part = final.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    for config in lm.model.peft_config.values() if recipe.adapter else ():
        config.target_modules = sorted(config.target_modules)  # a set, whose order differs from process to process
    # PEFT's "auto" would read the base's config again, perhaps from the hub, and fail with it after the last step
    lm.model.save_pretrained(part, **({"save_embedding_layers": False} if recipe.adapter else {}))
    if recipe.adapter:
        (part / "README.md").unlink(missing_ok=True)
        about = recipe.model_dump(include={"quantisation", "double_quantisation", "compute_dtype", "products"})
        about |= {"base": recipe.model, "base_fingerprint": inputs.hashes["base"]}
        if recipe.kind == "sft":
            about |= {"template": recipe.template, "end_of_text_id": inputs.end_id}  # how it is asked, where it ends
        about |= {"device": next(lm.parameters()).device.type, "base_files": read_json(out / BASE_FILES)}
        write_json(part / "training.json", about)
        if recipe.quantisation == "nf4":
            save_nf4(lm.model, part)
    else:
        save_tokenizer(inputs.tokenizer_dir, part)
    files = {path.name for path in part.iterdir()}
    weights = {name for name in files if name.endswith(".safetensors")}
    integrity.record(part, files if recipe.adapter else weights.union(integrity.BESIDE_WEIGHTS))
    replace_folder(part, final)


def write_before(recipe: Train, inputs: Inputs, lm: PackedLM, out: Path) -> None:
    openings = samples.prompts(inputs.heldout_rows, recipe.samples.count, recipe.samples.prompt_tokens)
    before = samples.continuations(lm, openings, recipe.samples.new_tokens, inputs.rows.totals.end_of_text_id)
    write_json(out / "samples.json", {"openings": openings, "before": before})


def write_after(recipe: Train, inputs: Inputs, lm: PackedLM, out: Path) -> None:
    saved, end_id = read_json(out / "samples.json"), inputs.rows.totals.end_of_text_id
    after = samples.continuations(lm, saved["openings"], recipe.samples.new_tokens, end_id)
    head = ["# Continuations of held-out papers", "", "Greedy decoding; the papers were not trained on."]
    columns = {"Prompt": saved["openings"], "Before": saved["before"], "After": after}
    samples.write_samples(out / "samples.md", load_tokenizer(inputs.tokenizer_dir), head, columns)


def output_bytes(recipe: Training, size: ModelSize) -> int:
    """Disk a run needs: its checkpoints and the result."""
    state_bytes = 4 + OPTIMIZER_BYTES[recipe.optimizer.name]
    scales = size.linear_params // 64 if recipe.quantisation == "nf4" else 0  # as NF4 held them, a byte each
    return trained_params(recipe, size) * (state_bytes * (recipe.keep_checkpoints + 1) + 4) + scales


def summarise(recipe: Train, inputs: Inputs, lines: list[dict], domain_tokens: int, order: StepOrder) -> dict[str, Any]:
    available = inputs.rows.totals.num_tokens
    return {
        "steps": recipe.budget.steps,
        "tokens": lines[-1]["tokens"],
        "bytes": order.num_bytes(recipe.budget.steps),
        "domain_tokens": domain_tokens,
        "available_tokens": available,
        "coverage": domain_tokens / available,
        "replay_share": float(order.replay_share),
        **summarise_losses(lines),
    }


def summarise_losses(lines: list[dict]) -> dict[str, Any]:
    """First loss and last (the mean of the last twentieth), spikes and high-rate warning, held-out losses."""
    losses = [line["loss"] for line in lines if "loss" in line]
    evaluations = [line["heldout"] for line in lines if "heldout" in line]
    tail = losses[-max(1, len(losses) // 20) :]
    found = judge(lines)
    return {
        "first_loss": losses[0],
        "last_loss": sum(tail) / len(tail),
        "spikes": len(found.spikes),
        "learning_rate_too_high": {"step": found.too_high_step, "why": found.too_high} if found.too_high else None,
        "heldout": {"before": evaluations[0], "after": evaluations[-1]},
    }


def print_summary(recipe: Training, results: dict[str, Any], measured: dict[str, Any], of_tokens: str) -> None:
    """Length, speed and memory of the run, and what seems wrong with it; `of_tokens` says more of its tokens."""
    predicted = f" ({measured['predicted_memory_gib']} predicted)" if "predicted_memory_gib" in measured else ""
    print(
        f"{recipe.out}: {results['steps']} steps, {results['tokens']:,} tokens{of_tokens}, "
        f"{measured['train_tokens_per_s'] or '-'} tokens/s, peak {measured['peak_memory_gib']} GiB{predicted}"
    )
    if results["spikes"]:
        print(f"  {results['spikes']} spikes of the loss, named in {recipe.out}/spikes.jsonl")
    if too_high := results["learning_rate_too_high"]:
        print(
            f"  The learning rate seems too high (optimizer.learning_rate={recipe.optimizer.learning_rate:g}): at step "
            f"{too_high['step']}, {too_high['why']}"
        )


def data_words(budget: Budget, totals: RowTotals, order: StepOrder) -> str:
    """Tokens, rows, epochs and replay share of the run, in words."""
    domain_rows = budget.steps * order.rows_per_step * (1 - order.replay_share)
    epochs = float(domain_rows / totals.num_rows)
    words = (
        f"Data: {totals.num_tokens:,} domain tokens in {totals.num_rows:,} rows ({totals.fill:.1%} full); "
        f"{budget.steps} steps show them {epochs:.2f} times, with {float(order.replay_share):.1%} replay"
    )
    if epochs > MAX_EPOCHS_UNREMARKED:
        words += (
            f"\n  More than {MAX_EPOCHS_UNREMARKED} times: watch the held-out loss; fewer budget.steps or more papers "
            "would be better used."
        )
    return words


def speed_and_memory(how: Execution, tokens: int, seconds: float) -> dict[str, Any]:
    return {
        "train_tokens_per_s": round(tokens / seconds, 1) if tokens else None,
        "peak_memory_gib": round(peak_memory_bytes(how.device) / GIB, 2),
        "execution": how.model_dump(mode="json"),
    }


def measure(
    recipe: Train, inputs: Inputs, how: Execution, card: Card, tokens: int, seconds: float, num_processes: int
) -> dict[str, Any]:
    """Speed and memory of the run; on a GPU also the predicted memory. The speed of one card is stored for plans."""
    measured = speed_and_memory(how, tokens, seconds)
    if how.device == "cuda":
        predicted = memory(recipe, inputs.size, inputs.rows.totals.row_tokens, how, card)
        in_torch = sum(predicted.values()) - predicted["CUDA context"]  # which torch does not count
        measured["predicted_memory_gib"] = round(in_torch / GIB, 2)
        measured["memory_error"] = round(in_torch / peak_memory_bytes(how.device) - 1, 3)
        if tokens:
            remember_speed(card.name, inputs.size, tokens / seconds / num_processes, recipe.products)
    return measured


def peak_memory_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_heldout(results: dict[str, Any]) -> None:
    for name in results["heldout"]["before"]:
        before, after = (results["heldout"][when][name].get("all") for when in ("before", "after"))
        if before and before["tokens"]:
            print(
                f"  held-out {name:<8} loss {before['loss']:.4f} -> {after['loss']:.4f}   "
                f"bits per byte {before['bits_per_byte']:.4f} -> {after['bits_per_byte']:.4f}"
            )
