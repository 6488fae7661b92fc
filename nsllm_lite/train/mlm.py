"""`nsllm-lite mlm`: an encoder trained on masked tokens, from a recipe to a model folder.

Read `mlm` from the top: inputs, model, optimizer, resume, then the loop. A step's loss is the sum over all its masked
tokens divided by their number, however its rows are cut into micro-batches. The loss of a masked token is given beside
two floors: that of a table of the words alone, and of a table of the word before.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from nsllm_lite.artifact import integrity, interrupts
from nsllm_lite.artifact.disk import GIB, replace_folder
from nsllm_lite.artifact.step import BESIDE
from nsllm_lite.errors import UserError
from nsllm_lite.formats import weights
from nsllm_lite.formats.rows import Row, Rows, in_groups
from nsllm_lite.formats.tokenizer import load_auto_tokenizer, load_tokenizer, save_tokenizer
from nsllm_lite.formats.weights import fingerprint_settings, fingerprint_weights
from nsllm_lite.kernels.linear_cross_entropy import IGNORE
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import Batch, autocast, collate
from nsllm_lite.models.device import CONTEXT_BYTES, Card
from nsllm_lite.models.encoder import PackedEncoder, build_encoder, load_encoder, positions_of
from nsllm_lite.models.execution import USABLE_SHARE
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.recipe.mlm import Mlm
from nsllm_lite.recipe.train import Execution
from nsllm_lite.train import outputs, setup
from nsllm_lite.train.fallback import Fallback
from nsllm_lite.train.gradients import Gradients
from nsllm_lite.train.inputs import require_apart, require_rows_for, require_same_tokenizer
from nsllm_lite.train.keywords import Keywords
from nsllm_lite.train.masking import HELD_OUT, Masking
from nsllm_lite.train.order import StepOrder
from nsllm_lite.train.plot import plot_losses
from nsllm_lite.train.processes import Processes
from nsllm_lite.train.token_tables import TokenTables
from nsllm_lite.train.training_run import TrainingRun

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MICRO_BATCH_TOKENS = {"cpu": 4_096, "cuda": 16_384}
TABLE_TOKENS = 2_000_000  # of the training rows, from which the floors' tables are made


class Size(NamedTuple):
    """Numbers of a model, as `outputs.output_bytes` needs them."""

    params: int
    linear_params: int = 0


@dataclass(frozen=True, slots=True)
class MlmInputs:
    """Everything a run reads, checked to exist and to fit together."""

    rows: Rows
    heldout: list[Row]
    base_dir: Path | None  # None: the model is built from nothing
    tokenizer_dir: Path
    masking: Masking
    hashes: dict[str, str | None]
    size: Size | None = None  # known when the model is there


def mlm(recipe: Mlm) -> dict[str, Any]:
    """Runs `recipe` to its end, continuing where an earlier run stopped; returns the manifest's results.

    Raises:
        UserError: an input is missing or does not fit the others.
        RunError: the loss or the gradient is not finite; the last good checkpoint stays.
        OutOfMemoryError: the card ran out of memory, with the recipe of fewer rows at a time.
        interrupts.Stop: a signal, or time that is up; a checkpoint holds the last whole step.
    """
    started, budget = time.time(), recipe.budget
    inputs = read_inputs(recipe)
    card = setup.choose_card(recipe)
    run = TrainingRun(recipe, inputs.hashes, recipe.evaluation.every_steps, started, Processes())
    if (results := run.finished()) is not None:
        return results
    require_sound(inputs)
    model = load_encoder(inputs.base_dir) if inputs.base_dir else build_encoder(recipe.build, recipe.seed)
    require_fitting(model, inputs)
    inputs = replace(inputs, size=Size(sum(parameter.numel() for parameter in model.parameters())))
    row_tokens, of_model = inputs.rows.totals.row_tokens, {"config": model.config, "num_params": inputs.size.params}
    choose = partial(choose_execution, **of_model, row_tokens=row_tokens, card=card)
    how = choose(recipe)
    need = need_bytes(recipe, **of_model, tokens=how.micro_batch_rows * row_tokens)
    run.begin(budget.steps, inputs, Fallback(recipe, how, need, card, choose))

    lm = PackedEncoder(model).to(how.device).train()
    if lm.dropout_left_out:
        print(f"Attention's own dropout of {lm.dropout_left_out:g}, as the model's config has it, is left out.")
    gradients = Gradients(lm, getattr(torch, recipe.compute_dtype))
    optimizer = setup.make_optimizer(recipe.optimizer, setup.parameter_groups(lm, recipe.optimizer))
    order = StepOrder(inputs.rows, None, budget.tokens_per_step // row_tokens, 0, recipe.seed)
    print(outputs.data_words(budget, inputs.rows.totals, order))

    def evaluate() -> None:
        run.log_heldout({"masked": score(lm, inputs, how, recipe.compute_dtype)})

    run.resume(lm, optimizer, evaluate, dict)
    with run.steps() as steps:
        for step in steps:
            run.begin_step()
            rows = order.rows(step)
            learning_rate = setup.set_learning_rate(optimizer, run.lr_factor(step))
            loss = add_gradients(lm, rows, inputs.masking, step, how, recipe.compute_dtype)
            grad_norm = gradients.clip(recipe.optimizer.max_grad_norm)
            names = [name for row in rows for name in row.doc_ids]
            run.require_finite(loss, grad_norm, "documents", names)
            run.require_gradients()
            optimizer.step()
            gradients.zero()
            run.log(loss, learning_rate, grad_norm, sum(len(row.input_ids) for row in rows), names)
            run.keep()

    save_model(lm, inputs, run.out)
    plot_losses(recipe, budget.steps)
    lines = run.metrics.lines()
    results = {
        "steps": budget.steps,
        "tokens": lines[-1]["tokens"],
        "epochs": order.epochs(budget.steps),
        "parameters": inputs.size.params,
        "floors": floors(inputs),
        **outputs.summarise_losses(lines),
    }
    measured = outputs.speed_and_memory(how, run.own_tokens, run.own_seconds)
    run.finish(results, measured)
    outputs.print_summary(recipe, results, measured, f" ({results['epochs']:.2f} x the papers)")
    print_scores(results)
    return results


def read_inputs(recipe: Mlm) -> MlmInputs:
    """Opens every input. Raises UserError where one is missing, empty, or of another tokenizer, or the tokenizer has no
    token for what is masked."""
    rows, domain = Rows(Path(recipe.rows)), Rows(Path(recipe.evaluation.domain_rows))
    require_rows_for(recipe.budget, [rows, domain])
    base_dir = None if recipe.build else resolve_model(recipe.model)
    tokenizer_dir = base_dir or Path(recipe.build.tokenizer)
    tokenizer = load_auto_tokenizer(tokenizer_dir)
    hashes: dict[str, str | None] = {"rows": rows.sha256, "domain_rows": domain.sha256}
    if base_dir:
        hashes |= {"base": fingerprint_weights(base_dir), f"{BESIDE}base": fingerprint_settings(base_dir)}
    else:
        hashes["tokenizer"] = integrity.sha256_file(tokenizer_dir / "tokenizer.json")
    if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
        found = f"The tokenizer of {tokenizer_dir} has no mask token, or none for padding."
        todo = "Train one with `nsllm-lite tokenizer` and train.model=encoder, and build the corpus with it."
        raise UserError("mlm-no-mask-token", found, "An encoder learns to tell masked tokens.", todo)
    require_same_tokenizer(rows, tokenizer_dir)
    ordinary = np.ones(len(tokenizer), bool)
    ordinary[list(tokenizer.all_special_ids)] = False
    masking = Masking(recipe.mask_share, tokenizer.mask_token_id, ordinary, recipe.seed)
    if recipe.documents:
        keywords = Keywords(Path(recipe.documents), load_tokenizer(tokenizer_dir))
        print(f"Keywords: {len(keywords):,} papers of {recipe.documents} state some")
        masking = replace(masking, keyword_share=recipe.keyword_share, keywords=keywords.places)
        hashes["documents"] = integrity.sha256_file(Path(recipe.documents) / integrity.FILES)
    return MlmInputs(
        rows=rows,
        heldout=heldout.sample_rows(domain, recipe.evaluation.max_rows),
        base_dir=base_dir,
        tokenizer_dir=tokenizer_dir,
        masking=masking,
        hashes=hashes,
    )


def require_sound(inputs: MlmInputs) -> None:
    """Raises UserError where rows or base are not what was written, or a document is both trained on and held out."""
    if inputs.base_dir:
        weights.require_sound(inputs.base_dir)
    inputs.rows.require_sound(len(inputs.masking.ordinary))
    require_apart(inputs.rows, {name for row in inputs.heldout for name in row.doc_ids})


def require_fitting(model: Any, inputs: MlmInputs) -> None:
    """Raises UserError where the model has fewer tokens than the rows, or takes shorter texts."""
    vocab, row_tokens = model.config.vocab_size, inputs.rows.totals.row_tokens
    if vocab < len(inputs.masking.ordinary):
        found = f"The model knows {vocab:,} tokens, its tokenizer {len(inputs.masking.ordinary):,}."
        raise UserError("mlm-vocabulary-differs", found, "Name the tokenizer that the model was trained with.")
    if positions_of(model) < row_tokens:
        found = (
            f"The model takes texts of {positions_of(model):,} tokens; a row, and so a text, may have {row_tokens:,}."
        )
        raise UserError("mlm-positions-few", found, "Build the corpus with a lower row_tokens, or take another model.")


def need_bytes(recipe: Mlm, config: "PretrainedConfig", num_params: int, tokens: int) -> int:
    """Memory of a step with so many tokens at a time; an estimate, which no card has measured.

    Weights, gradients and AdamW's two states in fp32; of each token and layer what autograd keeps of some 16 results as
    wide as the hidden states and 6 as wide as the inner layer; the logits of the masked tokens in fp32, three times.
    """
    width = 4 if recipe.compute_dtype == "float32" else 2
    layer = width * (16 * config.hidden_size + 6 * config.intermediate_size)
    logits = 3 * 4 * config.vocab_size * recipe.mask_share
    return 16 * num_params + int(tokens * (layer * config.num_hidden_layers + logits)) + CONTEXT_BYTES


def choose_execution(
    recipe: Mlm, config: "PretrainedConfig", num_params: int, row_tokens: int, card: Card
) -> Execution:
    """As many rows at a time as divide a step, have at most MICRO_BATCH_TOKENS and are estimated to fit the card."""
    count = recipe.budget.tokens_per_step // row_tokens
    memory_gib = recipe.execution.memory_gib or (card.memory_bytes or 0) / GIB
    fitting = [1] + [
        rows
        for rows in range(2, count + 1)
        if count % rows == 0
        and rows * row_tokens <= MICRO_BATCH_TOKENS[card.device]
        and (
            not memory_gib
            or need_bytes(recipe, config, num_params, rows * row_tokens) <= USABLE_SHARE * memory_gib * GIB
        )
    ]
    rows = recipe.execution.micro_batch_rows or fitting[-1]
    return Execution(micro_batch_rows=rows, device=card.device, memory_gib=recipe.execution.memory_gib)


def masked(rows: Sequence[Row], masking: Masking, step: int, first: int, device: str) -> Batch:
    """Rows as a batch whose targets are the masked tokens themselves."""
    ids, targets = masking.of_rows(rows, step, first)
    batch = collate(rows, "cpu")
    return replace(batch, input_ids=torch.from_numpy(ids), targets=torch.from_numpy(targets)).to(device)


def micro_batches(
    rows: Sequence[Row], masking: Masking, step: int, how: Execution
) -> Iterator[tuple[Sequence[Row], Batch]]:
    first = 0
    for group in in_groups(list(rows), how.micro_batch_rows):
        yield group, masked(group, masking, step, first, how.device)
        first += len(group)


def add_gradients(
    lm: PackedEncoder, rows: Sequence[Row], masking: Masking, step: int, how: Execution, dtype: str
) -> float:
    """Adds those of the step's masked tokens; returns its loss."""
    batches = [batch for _, batch in micro_batches(rows, masking, step, how)]
    num_targets = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
    loss = torch.zeros((), device=how.device)
    for batch in batches:
        told = batch.targets != IGNORE
        with autocast(how.device, dtype):
            logits = lm.logits(lm.hidden(batch)[told])
        part = functional.cross_entropy(logits.float(), batch.targets[told], reduction="sum") / max(1, num_targets)
        part.backward()
        loss += part.detach()
        interrupts.raise_if_requested()
    return float(loss)


def score(lm: PackedEncoder, inputs: MlmInputs, how: Execution, dtype: str) -> dict[str, dict[str, float | int]]:
    """{source or "all": {"loss": nats a masked token, "top1": share told right, "tokens"}} of the held-out rows."""
    sums: dict[str, list[float]] = {}
    with torch.no_grad(), heldout.evaluating(lm):
        for rows, batch in micro_batches(inputs.heldout, inputs.masking, HELD_OUT, how):
            told = batch.targets != IGNORE
            with autocast(how.device, dtype):
                logits = lm.logits(lm.hidden(batch)[told]).float()
            targets = batch.targets[told]
            losses = functional.cross_entropy(logits, targets, reduction="none").double().cpu().numpy()
            right = (logits.argmax(1) == targets).cpu().numpy()
            sources = np.repeat(*_sources(rows))[told.cpu().numpy()]
            for key in ("all", *np.unique(sources)):
                inside = np.ones(len(sources), bool) if key == "all" else sources == key
                of = sums.setdefault(str(key), [0.0, 0, 0])
                of[0], of[1], of[2] = of[0] + losses[inside].sum(), of[1] + right[inside].sum(), of[2] + inside.sum()
            interrupts.raise_if_requested()
    return {
        key: {"loss": float(nats / count), "top1": float(hits / count), "tokens": int(count)}
        for key, (nats, hits, count) in sums.items()
    }


def _sources(rows: Sequence[Row]) -> tuple[list[str], list[int]]:
    """(source, tokens) of each document."""
    return [name for row in rows for name in row.doc_sources], [n for row in rows for n in row.doc_lengths]


def floors(inputs: MlmInputs) -> dict[str, dict[str, float]]:
    """Loss and top-1 on the same masked tokens of tables that were counted on the training rows."""
    mask_id, seen, rows = inputs.masking.mask_id, 0, []
    for number in range(len(inputs.rows)):
        rows.append(inputs.rows[number].input_ids)
        seen += len(rows[-1])
        if seen >= TABLE_TOKENS:
            break
    tables = TokenTables(rows, inputs.masking.ordinary)
    told: dict[str, list[tuple[float, bool]]] = {"words": [], "word before": []}
    for place, row in enumerate(inputs.heldout):
        ids, targets = inputs.masking.of(row, HELD_OUT, place)
        for at in np.flatnonzero(targets != IGNORE).tolist():
            left = int(ids[at - 1]) if at and ids[at - 1] != mask_id else None
            told["words"].append(tables.words(int(targets[at])))
            told["word before"].append(tables.word_before(left, int(targets[at])))
    means = {name: np.mean(values, axis=0).tolist() for name, values in told.items() if values}
    return {name: {"loss": loss, "top1": top1} for name, (loss, top1) in means.items()}


def save_model(lm: PackedEncoder, inputs: MlmInputs, out: Path) -> None:
    """The model with its tokenizer, in `out/model`; whole or absent."""
    part = out / "model.part"
    lm.model.save_pretrained(part)
    save_tokenizer(inputs.tokenizer_dir, part)
    names = {path.name for path in part.iterdir()}
    integrity.record(part, {name for name in names if name.endswith(".safetensors")}.union(integrity.BESIDE_WEIGHTS))
    replace_folder(part, out / "model")


def print_scores(results: dict[str, Any]) -> None:
    before, after = (results["heldout"][when]["masked"]["all"] for when in ("before", "after"))
    print(f"  held-out masked tokens ({after['tokens']:,}): loss {before['loss']:.4f} -> {after['loss']:.4f}, ", end="")
    print(f"told right {before['top1']:.1%} -> {after['top1']:.1%}")
    for name, of in results["floors"].items():
        print(f"  floor, {name}: loss {of['loss']:.4f}, told right {of['top1']:.1%}")
