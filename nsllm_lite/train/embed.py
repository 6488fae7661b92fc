"""`nsllm-lite embed`: a bi-encoder trained on pairs of texts, from a recipe to a folder of sentence-transformers.

Read `embed` from the top: inputs, pairs, model, optimizer, resume, then the loop. What a step is made of stands in
`embed_plan`, its loss in `embed_loss`, the scores on held-out papers in `embed_scores`.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.step import BESIDE, manifest_sha256
from nsllm_lite.errors import UserError
from nsllm_lite.formats.papers import CorpusPapers
from nsllm_lite.formats.weights import fingerprint_embedder_settings, fingerprint_weights
from nsllm_lite.models.device import CONTEXT_BYTES, Card
from nsllm_lite.models.embedding import open_embedder
from nsllm_lite.models.execution import USABLE_SHARE
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.loading import without_report
from nsllm_lite.recipe.embed import Embed
from nsllm_lite.recipe.train import Execution
from nsllm_lite.train import embed_outputs, embed_report, outputs, setup
from nsllm_lite.train.embed_loss import LOSS_ROWS, CachedEmbedder, make_loss
from nsllm_lite.train.embed_model import open_to_train
from nsllm_lite.train.embed_plan import AllPairs, Plan, table_of
from nsllm_lite.train.embed_scores import HeldoutScores
from nsllm_lite.train.embed_teacher import TeacherTexts
from nsllm_lite.train.encoders import Size, layer_bytes
from nsllm_lite.train.fallback import Fallback
from nsllm_lite.train.gradients import Gradients
from nsllm_lite.train.pair_files import read_pairs
from nsllm_lite.train.pairs import Asked, make_pairs
from nsllm_lite.train.plot import plot_losses
from nsllm_lite.train.processes import Processes
from nsllm_lite.train.texts import TextWriter
from nsllm_lite.train.training_run import TrainingRun

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS_AT_A_TIME = {"cpu": 16, "cuda": 64}


@dataclass(frozen=True, slots=True)
class EmbedInputs:
    """Where everything that a run reads lies, checked to exist."""

    papers: CorpusPapers
    base_dir: Path
    teacher_dir: Path | None
    hashes: dict[str, str | None]
    size: Size | None = None  # known when the model is there


def embed(recipe: Embed) -> dict[str, Any]:
    """Runs `recipe` to its end, continuing where an earlier run stopped; returns the manifest's results.

    Raises:
        UserError: an input is missing or does not fit the others, or the corpus does not give the pairs asked for.
        RunError: the loss or the gradient is not finite; the last good checkpoint stays.
        OutOfMemoryError: the card ran out of memory, with the recipe of fewer texts at a time.
        interrupts.Stop: a signal, or time that is up; a checkpoint holds the last whole step.
    """
    started = time.time()
    inputs = read_inputs(recipe)
    card = setup.choose_card(recipe)
    run = TrainingRun(recipe, inputs.hashes, recipe.evaluation.every_steps, started, Processes())
    if (results := run.finished()) is not None:
        return results
    model = open_to_train(inputs.base_dir, recipe.max_tokens, recipe.dimensions)
    with without_report():
        teacher = open_embedder(inputs.teacher_dir, card.device) if inputs.teacher_dir else None
    work = run.out / "work"
    with leaving_nothing(run):
        pairs, plan, heldout = prepare(recipe, inputs, work)
    inputs = replace(inputs, size=Size.of(model))
    choose = partial(choose_execution, model=model, card=card)
    how = choose(recipe)
    need = need_bytes(recipe, model, how.micro_batch_rows)
    run.begin(recipe.num_steps, inputs, Fallback(recipe, how, need, card, choose))

    model = model.to(how.device)
    taught = TeacherTexts(teacher, pairs.texts, plan.used_texts(), work) if teacher else None
    loss = make_loss(recipe, model)
    embedder = CachedEmbedder(model, how.micro_batch_rows, recipe.compute_dtype, recipe.seed)
    gradients = Gradients(model, getattr(torch, recipe.compute_dtype))
    optimizer = setup.make_optimizer(recipe.optimizer, setup.parameter_groups(model, recipe.optimizer))
    counts = run.resume(
        model, optimizer, lambda: run.log_heldout({"pairs": heldout.score(embedder)}), lambda: counts
    ) or {"texts": 0, "cut": 0, "easy": 0}
    with run.steps() as steps:
        for step in steps:
            run.begin_step()
            batch = plan.batch(step)
            learning_rate = setup.set_learning_rate(optimizer, run.lr_factor(step))
            columns = [[pairs.texts[number] for number in column.tolist()] for column in batch.columns]
            labels = taught.of(batch.columns) if taught else None
            done = embedder.add_gradients(loss, columns, labels, step)
            grad_norm = gradients.clip(recipe.optimizer.max_grad_norm)
            run.require_finite(done.loss, grad_norm, "documents", batch.names)
            run.require_gradients()
            optimizer.step()
            gradients.zero()
            counts["texts"] += done.num_texts
            counts["cut"] += done.num_cut
            counts["easy"] += batch.num_easy
            run.log(done.loss, learning_rate, grad_norm, done.num_tokens, batch.names)
            run.keep()

    lines = run.metrics.lines()
    results = {
        "steps": recipe.num_steps,
        "tokens": lines[-1]["tokens"],
        "epochs_by_stage": plan.epochs(),
        "parameters": inputs.size.params,
        "dimensions": model.get_embedding_dimension(),
        "pairs": embed_outputs.counts_of(pairs),
        "texts_cut": counts["cut"] / counts["texts"],
        "easy_negatives": counts["easy"],
        "floors": heldout.floors,
        "teacher": heldout.score(teacher) if teacher else None,
        **outputs.summarise_losses(lines),
    }
    results = embed_report.with_differences(results, recipe.seed)
    embed_outputs.save_model(recipe, model, inputs.hashes, results, run.out, pairs.some_texts())
    embed_report.write_report(results, lines, run.out)
    plot_losses(recipe, recipe.num_steps, unit="pair")
    measured = outputs.speed_and_memory(how, run.own_tokens, run.own_seconds)
    shutil.rmtree(work, ignore_errors=True)
    run.finish(results, measured)
    outputs.print_summary(recipe, results, measured, "")
    print(embed_report.summary_of(results))
    return results


def read_inputs(recipe: Embed) -> EmbedInputs:
    """Raises UserError where the corpus, the model, the teacher or a file of pairs is missing."""
    papers, base_dir = CorpusPapers(Path(recipe.corpus)), resolve_model(recipe.model)
    teacher_dir = resolve_model(recipe.teacher.model) if recipe.teacher else None
    hashes: dict[str, str | None] = {"corpus": manifest_sha256(Path(recipe.corpus))}
    hashes |= {"base": fingerprint_weights(base_dir), f"{BESIDE}base": fingerprint_embedder_settings(base_dir)}
    if teacher_dir:
        hashes |= {"teacher": fingerprint_weights(teacher_dir)}
        hashes |= {f"{BESIDE}teacher": fingerprint_embedder_settings(teacher_dir)}
    for number, stage in enumerate(recipe.stages, 1):
        if stage.file:
            hashes[f"pairs {number}"] = integrity.sha256_file(Path(stage.file))
    return EmbedInputs(papers, base_dir, teacher_dir, hashes)


@contextmanager
def leaving_nothing(run: TrainingRun) -> Iterator[None]:
    """The run's folder, in which nothing stays of a run that is refused before its first step. Raises UserError where
    what is in it is not of this run."""
    is_new = run.claim()
    try:
        yield
    except UserError:
        if is_new:
            shutil.rmtree(run.out / "work", ignore_errors=True)
            (run.out / "run.json").unlink()
            with suppress(OSError):  # where there is a hidden file in it
                run.out.rmdir()
        raise


def prepare(recipe: Embed, inputs: EmbedInputs, work: Path) -> tuple[AllPairs, Plan, HeldoutScores]:
    """The pairs, told as a table, and what is made of them."""
    pairs = all_pairs(recipe, inputs, work)
    print(table_of(pairs.corpus))
    for number, found in pairs.files.items():
        told = [f"{len(found.pairs):,} pairs", *(f"{n:,} left out, {why}" for why, n in found.left_out.items())]
        print(f"{recipe.stages[number].file}: {'; '.join([*told, *found.notes])}")
    plan = Plan(recipe, pairs)
    print("\n".join(plan.notes), end="\n" * bool(plan.notes))
    return pairs, plan, HeldoutScores(recipe, pairs)


def all_pairs(recipe: Embed, inputs: EmbedInputs, work: Path) -> AllPairs:
    """Reads the corpus and the files of pairs; their texts lie in `work`."""
    asked = Asked(recipe.sentences_per_paper, recipe.max_citing, recipe.seed)
    with TextWriter(work / "texts.arrow") as writer:
        corpus = make_pairs(inputs.papers, asked, writer)
        heldout = {writer.keys[number] for number in corpus.heldout_texts().tolist()}
        names, files = list(corpus.names), {}
        for number, stage in enumerate(recipe.stages):
            if stage.file:
                files[number] = read_pairs(Path(stage.file), writer, len(names), heldout)
                names += files[number].names
    return AllPairs(writer.opened(), corpus, files, names)


def need_bytes(recipe: Embed, model: "SentenceTransformer", texts: int) -> int:
    """Memory of a step with so many texts at a time; an estimate, which no card has measured.

    Weights, gradients and AdamW's two states in fp32; of each token and layer `layer_bytes`; all embeddings of a step,
    and their similarities.
    """
    config = model.transformers_model.config
    inner = getattr(config, "intermediate_size", 4 * config.hidden_size)
    layer = layer_bytes(recipe.compute_dtype, config.hidden_size, inner)
    counts = [stage.hard_negatives.count if stage.hard_negatives else 0 for stage in recipe.stages]
    batch = max(stage.batch_pairs * (2 + count) for stage, count in zip(recipe.stages, counts, strict=True))
    of_batch = 4 * batch * (4 * config.hidden_size + 8 * LOSS_ROWS)
    of_texts = texts * recipe.max_tokens * layer * config.num_hidden_layers
    return 16 * Size.of(model).params + of_texts + of_batch + CONTEXT_BYTES


def choose_execution(recipe: Embed, model: "SentenceTransformer", card: Card) -> Execution:
    """TEXTS_AT_A_TIME texts, or fewer where the card's memory is estimated not to do."""
    memory_gib = recipe.execution.memory_gib or (card.memory_bytes or 0) / GIB
    texts = recipe.execution.micro_batch_rows or TEXTS_AT_A_TIME[card.device]
    while not recipe.execution.micro_batch_rows and memory_gib and texts > 1:
        if need_bytes(recipe, model, texts) <= USABLE_SHARE * memory_gib * GIB:
            break
        texts //= 2
    return Execution(micro_batch_rows=texts, device=card.device, memory_gib=recipe.execution.memory_gib)
