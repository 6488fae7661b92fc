"""`nsllm-lite mlm`: an encoder trained on masked tokens, from a recipe to a model folder.

Read `mlm` from the top: inputs, model, optimizer, resume, then the loop. A step's loss is the sum over all its masked
tokens divided by their number, however its rows are cut into micro-batches. The loss of a masked token is given beside
two floors: that of a table of the words alone, and of a table of the word before.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from nsllm_lite.artifact import integrity, interrupts
from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.step import BESIDE
from nsllm_lite.errors import UserError
from nsllm_lite.formats.rows import Row, Rows
from nsllm_lite.formats.tokenizer import load_auto_tokenizer, load_tokenizer, require_savable
from nsllm_lite.formats.weights import fingerprint_settings, fingerprint_weights
from nsllm_lite.kernels.linear_cross_entropy import IGNORE
from nsllm_lite.models import extension, heldout
from nsllm_lite.models.causal import autocast
from nsllm_lite.models.device import CONTEXT_BYTES
from nsllm_lite.models.encoder import PackedEncoder, build_encoder, head_parameters, load_encoder, positions_of
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.recipe.mlm import Mlm
from nsllm_lite.recipe.train import Execution
from nsllm_lite.train import encoders, guards, outputs, setup
from nsllm_lite.train.encoder_report import masked_report
from nsllm_lite.train.fallback import Fallback
from nsllm_lite.train.gradients import Gradients
from nsllm_lite.train.inputs import require_apart, require_rows_for, require_same_tokenizer
from nsllm_lite.train.keywords import Keywords
from nsllm_lite.train.masked_scores import Asked, floors, masking_of, micro_batches, score, score_as_it_was
from nsllm_lite.train.masking import Masking
from nsllm_lite.train.new_rows import OnlyNewRows
from nsllm_lite.train.order import StepOrder
from nsllm_lite.train.plot import plot_losses
from nsllm_lite.train.processes import Processes
from nsllm_lite.train.training_run import TrainingRun

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

AS_IT_WAS = "base, its own tokenizer"  # held-out figures before the first step, where the vocabulary is another's


@dataclass(frozen=True, slots=True)
class MlmInputs:
    """Everything a run reads, checked to exist and to fit together."""

    rows: Rows
    heldout: dict[str, list[Row]]  # "masked": of papers, and "general" where the recipe names such
    base_dir: Path | None  # None: the model is built from nothing
    tokenizer_dir: Path
    masking: Masking
    hashes: dict[str, str | None]
    size: encoders.Size | None = None  # known when the model is there


def mlm(recipe: Mlm) -> dict[str, Any]:
    """Runs `recipe` to its end, continuing where an earlier run stopped; returns the manifest's results.

    Raises:
        UserError: an input is missing or does not fit the others.
        RunError: the loss or the gradient is not finite, or general text is forgotten; the last good checkpoint stays.
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
    model, new, changes = make_model(recipe, inputs)
    inputs, row_tokens = replace(inputs, size=encoders.Size.of(model)), inputs.rows.totals.row_tokens
    encoders.require_fitting(model, len(inputs.masking.ordinary), row_tokens)
    need = partial(need_bytes, recipe, model.config, inputs.size.params)
    choose = partial(encoders.choose_execution, need=need, row_tokens=row_tokens, card=card)
    how = choose(recipe)
    run.begin(budget.steps, inputs, Fallback(recipe, how, need(how.micro_batch_rows * row_tokens), card, choose))

    lm = PackedEncoder(model).to(how.device).train()
    encoders.tell_dropout(lm, built=recipe.build is not None)
    only_new = OnlyNewRows(model, new) if recipe.train_only == "new" else None
    gradients = Gradients(lm, getattr(torch, recipe.compute_dtype))
    optimizer = setup.make_optimizer(recipe.optimizer, setup.parameter_groups(lm, recipe.optimizer))
    order = StepOrder(inputs.rows, None, budget.tokens_per_step // row_tokens, 0, recipe.seed)
    print(outputs.data_words(budget, inputs.rows.totals, order))
    torch.manual_seed(recipe.seed)  # of dropout, wherever the model came from

    run.resume(lm, optimizer, partial(evaluate, run, recipe, inputs, lm, how), dict)
    with run.steps() as steps:
        for step in steps:
            run.begin_step()
            rows = order.rows(step)
            learning_rate = setup.set_learning_rate(optimizer, run.lr_factor(step))
            loss = add_gradients(lm, rows, inputs.masking, step, how, recipe.compute_dtype)
            if only_new:
                only_new.drop_gradients()
            grad_norm = gradients.clip(recipe.optimizer.max_grad_norm)
            names = [name for row in rows for name in row.doc_ids]
            run.require_finite(loss, grad_norm, "documents", names)
            run.require_gradients()
            optimizer.step()
            if only_new:
                only_new.restore()
            gradients.zero()
            run.log(loss, learning_rate, grad_norm, sum(len(row.input_ids) for row in rows), names)
            run.keep()

    encoders.save_encoder(lm.model, inputs.tokenizer_dir, run.out)
    plot_losses(recipe, budget.steps)
    lines = run.metrics.lines()
    results = {
        "steps": budget.steps,
        "tokens": lines[-1]["tokens"],
        "epochs": order.epochs(budget.steps),
        "parameters": inputs.size.params,
        **changes,
        "floors": floors(inputs.rows, inputs.heldout["masked"], inputs.masking),
        **outputs.summarise_losses(lines),
    }
    measured = outputs.speed_and_memory(how, run.own_tokens, run.own_seconds)
    write_atomic(run.out / "report.md", masked_report(results))
    run.finish(results, measured)
    outputs.print_summary(recipe, results, measured, f" ({results['epochs']:.2f} x the papers)")
    print_scores(results)
    return results


def read_inputs(recipe: Mlm) -> MlmInputs:
    """Opens every input. Raises UserError where one is missing, empty, or of another tokenizer, or the tokenizer has no
    token for what is masked."""
    evaluation = recipe.evaluation
    named = {"domain_rows": evaluation.domain_rows, "general_rows": evaluation.general_rows}
    rows, held_out = Rows(Path(recipe.rows)), {key: Rows(Path(name)) for key, name in named.items() if name}
    require_rows_for(recipe.budget, [rows, *held_out.values()])
    encoders.require_heldout(held_out)
    base_dir = None if recipe.build else resolve_model(recipe.model)
    own_tokenizer = recipe.build.tokenizer if recipe.build else recipe.extend_vocabulary
    tokenizer_dir = Path(own_tokenizer) if own_tokenizer else base_dir
    tokenizer = load_auto_tokenizer(tokenizer_dir)
    hashes: dict[str, str | None] = {"rows": rows.sha256} | {key: of.sha256 for key, of in held_out.items()}
    if base_dir:
        hashes |= {"base": fingerprint_weights(base_dir), f"{BESIDE}base": fingerprint_settings(base_dir)}
    if own_tokenizer:
        hashes["tokenizer"] = integrity.sha256_file(tokenizer_dir / "tokenizer.json")
    if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
        found = f"The tokenizer of {tokenizer_dir} has no mask token, or none for padding."
        todo = "Train one with `nsllm-lite tokenizer` and train.model=encoder, and build the corpus with it."
        raise UserError("mlm-no-mask-token", found, "An encoder learns to tell masked tokens.", todo)
    require_savable(tokenizer_dir)
    require_same_tokenizer(rows, tokenizer_dir)
    masking = masking_of(tokenizer, recipe.mask_share, recipe.seed)
    if recipe.documents:
        keywords = Keywords(Path(recipe.documents), load_tokenizer(tokenizer_dir))
        print(f"Keywords: {len(keywords):,} papers of {recipe.documents} state some")
        masking = replace(masking, keyword_share=recipe.keyword_share, keywords=keywords.places)
        hashes["documents"] = integrity.sha256_file(Path(recipe.documents) / integrity.FILES)
    curves = {"domain_rows": "masked", "general_rows": "general"}
    return MlmInputs(
        rows=rows,
        heldout={curves[key]: heldout.sample_rows(of, evaluation.max_rows) for key, of in held_out.items()},
        base_dir=base_dir,
        tokenizer_dir=tokenizer_dir,
        masking=masking,
        hashes=hashes,
    )


def require_sound(inputs: MlmInputs) -> None:
    """Raises UserError where rows are not what was written, or a document is both trained on and held out."""
    inputs.rows.require_sound(len(inputs.masking.ordinary))
    held_out = [row for rows in inputs.heldout.values() for row in rows]
    require_apart(inputs.rows, {name for row in held_out for name in row.doc_ids})


def make_model(recipe: Mlm, inputs: MlmInputs) -> tuple["PreTrainedModel", extension.NewRows, dict[str, Any]]:
    """(the model with the changes that the recipe states, what of it was added, what of that the results tell)"""
    if recipe.build:
        return build_encoder(recipe.build, recipe.seed), {}, {}
    new: extension.NewRows = {}
    told: dict[str, Any] = {}
    model = load_encoder(inputs.base_dir, recipe.seed if recipe.new_head else None)
    if recipe.layers:
        model = extension.with_layers(model, recipe.layers)
    if recipe.extend_vocabulary:
        of = extension.vocabulary_of(inputs.base_dir, inputs.tokenizer_dir, model.config.model_type)
        model, added = extension.with_vocabulary(model, of)
        new |= added
        told["vocabulary"] = of.counts()
        counts = ", ".join(f"{count:,} {name}" for name, count in of.counts().items())
        print(f"Tokens of {inputs.tokenizer_dir}, by how their rows were made: {counts}")
    if recipe.max_positions:
        before = positions_of(model)
        model, added = extension.with_positions(model, recipe.max_positions)
        told["texts_beyond"] = require_texts_beyond(recipe, before, inputs.rows)
        new |= added
    if recipe.new_head:
        own, parameters = head_parameters(model), dict(model.named_parameters())
        new |= {name: torch.ones(len(parameters[name]), dtype=torch.bool) for name in own}
        print(f"The head for masked tokens is new, drawn from seed {recipe.seed}: {len(own)} tensors")
    return model, new, told


def require_texts_beyond(recipe: Mlm, positions: int, rows: Rows) -> int:
    """How many texts are longer than the model takes. Raises UserError where none is: the new positions would stay the
    copies that they begin as."""
    beyond = rows.longer_than(positions)
    if not beyond:
        found = (
            f"max_positions {recipe.max_positions:,}, but no text in {rows.path} has more than {positions:,} tokens."
        )
        todo = (
            "Build the corpus with that row_tokens and longer texts (phase2 has sections), or leave max_positions out."
        )
        raise UserError("mlm-positions-not-reached", found, "Positions that no text reaches are not trained.", todo)
    told = f"{positions:,} before, {recipe.max_positions:,} now; {beyond:,} texts or pieces reach the new ones"
    print(f"Positions: {told}")
    return beyond


def need_bytes(recipe: Mlm, config: "PretrainedConfig", num_params: int, tokens: int) -> int:
    """Memory of a step with so many tokens at a time; an estimate, which no card has measured.

    Weights, gradients and AdamW's two states in fp32; of each token and layer `encoders.layer_bytes`; the logits of the
    masked tokens in fp32, three times.
    """
    layer = encoders.layer_bytes(recipe.compute_dtype, config.hidden_size, config.intermediate_size)
    logits = 3 * 4 * config.vocab_size * recipe.mask_share
    return 16 * num_params + int(tokens * (layer * config.num_hidden_layers + logits)) + CONTEXT_BYTES


def add_gradients(
    lm: PackedEncoder, rows: Sequence[Row], masking: Masking, step: int, how: Execution, dtype: str
) -> float:
    """Adds those of the step's masked tokens; returns its loss."""
    batches = list(micro_batches(rows, masking, step, how))
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


def evaluate(run: TrainingRun, recipe: Mlm, inputs: MlmInputs, lm: PackedEncoder, how: Execution) -> None:
    """Logs held-out figures; before the first step also those of a base whose tokenizer is replaced. Raises RunError on
    forgetting."""
    asked = Asked.of(inputs.masking, load_tokenizer(inputs.tokenizer_dir))
    figures = {name: score(lm, rows, asked, how, recipe.compute_dtype) for name, rows in inputs.heldout.items()}
    if recipe.extend_vocabulary and not recipe.new_head and run.done == 0:
        papers = inputs.heldout["masked"]
        of_base = (inputs.base_dir, papers, inputs.tokenizer_dir, inputs.masking, how, recipe.compute_dtype)
        figures[AS_IT_WAS] = score_as_it_was(*of_base)
    run.log_heldout(figures)
    guards.check_forgetting(recipe.evaluation, run.done, run.metrics.lines()[0]["heldout"], figures, run.out)


def print_scores(results: dict[str, Any]) -> None:
    before, after = results["heldout"]["before"], results["heldout"]["after"]
    for name in after:
        one, other = before[name].get("all"), after[name].get("all")
        if one and other:
            low, high = other["interval"]
            print(f"  held-out {name} tokens ({other['tokens']:,} of {other['papers']:,} papers): loss ", end="")
            print(f"{one['loss']:.4f} -> {other['loss']:.4f} ({low:.4f} to {high:.4f}), ", end="")
            low, high = other["top1_interval"]
            print(f"told right {one['top1']:.1%} -> {other['top1']:.1%} ({low:.1%} to {high:.1%})")
    if AS_IT_WAS in before:
        of = [one["all"] for one in (before[AS_IT_WAS], before["masked"], after["masked"])]
        told = ["{:.3f} ({:.3f} to {:.3f})".format(one["bits_per_byte"], *one["bits_per_byte_interval"]) for one in of]
        print("  bits a byte of masked text: the base with its own tokenizer {}, begun {}, now {}".format(*told))
    for name, of in results["floors"].items():
        print(f"  floor, {name}: loss {of['loss']:.4f}, told right {of['top1']:.1%}")
