"""`nsllm-lite distill`: a small encoder that learns a larger one's self-attention relations, from a recipe to a folder.

Read `distill` from the top: inputs, teacher and student, optimizer, resume, then the loop. A step's loss is the mean
over all its tokens, however its rows are cut into micro-batches. Beside it stands the floor of a student to which all
tokens of a document are alike.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from nsllm_lite.artifact import interrupts
from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.step import BESIDE
from nsllm_lite.errors import UserError
from nsllm_lite.formats.rows import Row, Rows, in_groups
from nsllm_lite.formats.tokenizer import load_auto_tokenizer, load_tokenizer, require_savable
from nsllm_lite.formats.weights import fingerprint_settings, fingerprint_weights
from nsllm_lite.kernels.relations import add_relation_gradients, relation_divergences, uniform_divergences
from nsllm_lite.models import extension, heldout
from nsllm_lite.models.causal import autocast, collate
from nsllm_lite.models.device import CONTEXT_BYTES
from nsllm_lite.models.encoder import build_encoder, load_body
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.relations import RelationEncoder
from nsllm_lite.recipe.distill import Distill, uneven
from nsllm_lite.recipe.mlm import EncoderShape
from nsllm_lite.recipe.train import Execution
from nsllm_lite.tasks.scores import quotient_interval
from nsllm_lite.train import encoders, outputs, setup
from nsllm_lite.train.encoder_report import relations_report
from nsllm_lite.train.fallback import Fallback
from nsllm_lite.train.gradients import Gradients
from nsllm_lite.train.inputs import require_apart, require_rows_for, require_same_tokenizer
from nsllm_lite.train.order import StepOrder
from nsllm_lite.train.plot import plot_losses
from nsllm_lite.train.processes import Processes
from nsllm_lite.train.training_run import TrainingRun

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Bodies(NamedTuple):
    """Encoders without heads; the teacher up to the layer that is learnt."""

    teacher: "PreTrainedModel"
    student: "PreTrainedModel"


@dataclass(frozen=True, slots=True)
class DistillInputs:
    """Everything a run reads, checked to exist and to fit together."""

    rows: Rows
    heldout: list[Row]
    base_dir: Path  # the teacher's
    student_dir: Path | None
    num_tokens: int  # of the tokenizer
    hashes: dict[str, str | None]
    size: encoders.Size | None = None  # of the student; known when it is there


def distill(recipe: Distill) -> dict[str, Any]:
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
    bodies = make_models(recipe, inputs)
    inputs, row_tokens = replace(inputs, size=encoders.Size.of(bodies.student)), inputs.rows.totals.row_tokens
    for body in bodies:
        encoders.require_fitting(body, inputs.num_tokens, row_tokens)
    need = partial(need_bytes, recipe, bodies, row_tokens)
    choose = partial(encoders.choose_execution, need=need, row_tokens=row_tokens, card=card)
    how = choose(recipe)
    run.begin(budget.steps, inputs, Fallback(recipe, how, need(how.micro_batch_rows * row_tokens), card, choose))

    teacher = RelationEncoder(bodies.teacher).to(how.device).eval().requires_grad_(False)
    student = RelationEncoder(bodies.student).to(how.device).train()
    encoders.tell_dropout(student.encoder, built=recipe.build is not None)
    gradients = Gradients(student, getattr(torch, recipe.compute_dtype))
    optimizer = setup.make_optimizer(recipe.optimizer, setup.parameter_groups(student, recipe.optimizer))
    order = StepOrder(inputs.rows, None, budget.tokens_per_step // row_tokens, 0, recipe.seed)
    print(outputs.data_words(budget, inputs.rows.totals, order))
    torch.manual_seed(recipe.seed)  # of dropout, wherever the student came from

    def evaluate() -> None:
        run.log_heldout({"relations": score(teacher, student, inputs.heldout, recipe, how)})

    run.resume(student, optimizer, evaluate, dict)
    with run.steps() as steps:
        for step in steps:
            run.begin_step()
            rows = order.rows(step)
            learning_rate = setup.set_learning_rate(optimizer, run.lr_factor(step))
            loss = add_gradients(teacher, student, rows, recipe, how)
            grad_norm = gradients.clip(recipe.optimizer.max_grad_norm)
            names = [name for row in rows for name in row.doc_ids]
            run.require_finite(loss, grad_norm, "documents", names)
            run.require_gradients()
            optimizer.step()
            gradients.zero()
            run.log(loss, learning_rate, grad_norm, sum(len(row.input_ids) for row in rows), names)
            run.keep()

    encoders.save_encoder(student.whole(), inputs.base_dir, run.out)
    plot_losses(recipe, budget.steps)
    lines = run.metrics.lines()
    results = {
        "steps": budget.steps,
        "tokens": lines[-1]["tokens"],
        "epochs": order.epochs(budget.steps),
        "parameters": inputs.size.params,
        "teacher_parameters": encoders.Size.of(bodies.teacher).params,
        **outputs.summarise_losses(lines),
    }
    measured = outputs.speed_and_memory(how, run.own_tokens, run.own_seconds)
    write_atomic(run.out / "report.md", relations_report(results))
    run.finish(results, measured)
    outputs.print_summary(recipe, results, measured, f" ({results['epochs']:.2f} x the papers)")
    print_scores(results)
    return results


def read_inputs(recipe: Distill) -> DistillInputs:
    """Opens every input. Raises UserError where one is missing, empty, or of another tokenizer than the teacher's."""
    rows, domain = Rows(Path(recipe.rows)), Rows(Path(recipe.evaluation.domain_rows))
    require_rows_for(recipe.budget, [rows, domain])
    encoders.require_heldout({"domain_rows": domain})
    teacher_dir = resolve_model(recipe.teacher)
    student_dir = resolve_model(recipe.student) if recipe.student else None
    hashes: dict[str, str | None] = {"rows": rows.sha256, "domain_rows": domain.sha256}
    for label, folder in (("teacher", teacher_dir), ("student", student_dir)):
        if folder:
            hashes |= {label: fingerprint_weights(folder), f"{BESIDE}{label}": fingerprint_settings(folder)}
    require_savable(teacher_dir)
    require_same_tokenizer(rows, teacher_dir)
    if student_dir:
        require_tokenizer_of(teacher_dir, student_dir)
    return DistillInputs(
        rows=rows,
        heldout=heldout.sample_rows(domain, recipe.evaluation.max_rows),
        base_dir=teacher_dir,
        student_dir=student_dir,
        num_tokens=len(load_auto_tokenizer(teacher_dir)),
        hashes=hashes,
    )


def require_tokenizer_of(teacher: Path, student: Path) -> None:
    """Raises UserError where a token of one is none of the other, or has another number."""
    theirs, own = (load_tokenizer(folder).get_vocab() for folder in (teacher, student))
    if odd := sorted(token for token in {*theirs, *own} if theirs.get(token) != own.get(token)):
        shown = ", ".join(f"{token!r} is {theirs.get(token)} and {own.get(token)}" for token in odd[:3])
        found = (
            f"{len(odd):,} tokens differ between the teacher's tokenizer ({teacher}, {len(theirs):,} tokens) and the "
        )
        found += f"student's ({student}, {len(own):,}): {shown}."
        needed = "Relations are between tokens, which have to be the same ones."
        todo = "Name a student of this tokenizer, or give the teacher that of the student first: nsllm-lite mlm with "
        todo += "extend_vocabulary=DIR."
        raise UserError("distill-tokenizers-differ", found, needed, todo)


def require_sound(inputs: DistillInputs) -> None:
    """Raises UserError where rows are not what was written, or a document is both trained on and held out."""
    inputs.rows.require_sound(inputs.num_tokens)
    require_apart(inputs.rows, {name for row in inputs.heldout for name in row.doc_ids})


def make_models(recipe: Distill, inputs: DistillInputs) -> Bodies:
    """Raises UserError where the relation heads do not divide a width."""
    teacher = load_body(inputs.base_dir)
    if recipe.layers:
        student = extension.with_layers(teacher, recipe.layers)
    elif inputs.student_dir:
        student = load_body(inputs.student_dir)
    else:
        shape = EncoderShape(**recipe.build.model_dump(), tokenizer=str(inputs.base_dir))
        student = build_encoder(shape, recipe.seed).base_model
    if recipe.teacher_layer:
        teacher = extension.with_layers(teacher, range(1, recipe.teacher_layer + 1))
    bodies = Bodies(teacher, student)
    for name, body in bodies._asdict().items():
        if body.config.hidden_size % recipe.relation_heads:
            raise uneven(f"the {name}'s width", body.config.hidden_size, recipe.relation_heads)
    return bodies


def need_bytes(recipe: Distill, bodies: Bodies, row_tokens: int, tokens: int) -> int:
    """Memory of a step with so many tokens at a time; an estimate, which no card has measured.

    As `mlm.need_bytes` has it, without logits; the teacher's weights and one layer of it; and the relations of one
    document of a whole row: three of row_tokens^2 shares a head, in fp32, of which some eight are held at once.
    """
    configs = [body.config for body in bodies]
    of_layer = [encoders.layer_bytes(recipe.compute_dtype, of.hidden_size, of.intermediate_size) for of in configs]
    held = tokens * (of_layer[0] + of_layer[1] * bodies.student.config.num_hidden_layers)
    params = [encoders.Size.of(body).params for body in bodies]
    relations = 8 * 4 * 3 * recipe.relation_heads * row_tokens**2
    return 4 * params[0] + 16 * params[1] + int(held) + relations + CONTEXT_BYTES


def add_gradients(
    teacher: RelationEncoder, student: RelationEncoder, rows: Sequence[Row], recipe: Distill, how: Execution
) -> float:
    """Adds those of the step's tokens; returns its loss."""
    share = 1 / sum(len(row.input_ids) for row in rows)
    loss = torch.zeros((), device=how.device)
    for group in in_groups(list(rows), how.micro_batch_rows):
        batch = collate(group, how.device)
        with autocast(how.device, recipe.compute_dtype):
            with torch.no_grad():
                wanted = teacher(batch)
            found = student(batch)
        loss += add_relation_gradients(wanted, found, batch.layout, recipe.relation_heads, share)
        interrupts.raise_if_requested()
    return float(loss)


def score(
    teacher: RelationEncoder, student: RelationEncoder, rows: Sequence[Row], recipe: Distill, how: Execution
) -> dict[str, dict[str, Any]]:
    """{source or "all": {"loss": nats a token, "interval": of 95 % over papers, "papers", "tokens", "floor": what a
    student would have to which all tokens of a document are alike}} of held-out rows."""
    papers: dict[tuple[str, str], np.ndarray] = defaultdict(
        lambda: np.zeros(3)
    )  # tokens, divergence, that of the floor
    with torch.no_grad(), heldout.evaluating(student):
        for group in in_groups(list(rows), how.micro_batch_rows):
            batch = collate(group, how.device)
            with autocast(how.device, recipe.compute_dtype):
                wanted, found = teacher(batch), student(batch)
            heads, lengths = recipe.relation_heads, np.diff(batch.layout.bounds)
            divergences = relation_divergences(wanted, found, batch.layout, heads)
            floor = uniform_divergences(wanted, batch.layout, heads)
            names = zip(batch.doc_sources, batch.doc_ids, strict=True)
            for name, length, divergence, even in zip(names, lengths, divergences, floor, strict=True):
                papers[name] += [length, float(divergence), float(even)]
            interrupts.raise_if_requested()
    figures = {}
    for key in ("all", *sorted({source for source, _ in papers})):
        tokens, nats, even = np.array([of for (source, _), of in papers.items() if key in ("all", source)]).T
        of_key = {"loss": float(nats.sum() / tokens.sum()), "floor": float(even.sum() / tokens.sum())}
        counts = {"papers": len(tokens), "tokens": int(tokens.sum())}
        figures[key] = of_key | counts | {"interval": list(quotient_interval(nats, tokens))}
    return figures


def print_scores(results: dict[str, Any]) -> None:
    before, after = (results["heldout"][when]["relations"]["all"] for when in ("before", "after"))
    print(
        f"  relations of {after['papers']:,} held-out papers, KL a token: {before['loss']:.4f} -> {after['loss']:.4f} "
        "({:.4f} to {:.4f})".format(*after["interval"])
    )
    print(f"  floor, all tokens alike: {after['floor']:.4f}")
