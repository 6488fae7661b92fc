"""`nsllm-lite eval` of encoders: heads for entities, questions, classes and pairs, and retrieval, beside their floors.

What a model says of a file is written to `predictions/` whole, so that a stopped evaluation continues behind it; all
scores are computed from these files at the end.
"""

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nsllm_lite import terminal
from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.artifact.step import BESIDE, begin, finish, finished
from nsllm_lite.evals import encoder_report, retrieval
from nsllm_lite.evals.doubts import warnings_of
from nsllm_lite.evals.encoder_results import DENSE, FUSED, UNTRAINED, Row, Told, results_of
from nsllm_lite.evals.encoder_sets import EncoderSet, kind_of, read_set, require_matches
from nsllm_lite.formats.weights import fingerprint_embedder_settings, fingerprint_weights
from nsllm_lite.models.device import find_device
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import LABELLED, Eval
from nsllm_lite.safety import as_file_name
from nsllm_lite.tasks import classes, entities, heads
from nsllm_lite.tasks.answer_limits import limit_note
from nsllm_lite.tasks.heads import Cuts

if TYPE_CHECKING:
    from nsllm_lite.models.heads import Head


class Scoring(NamedTuple):
    """One evaluation; `notes` are filled while it runs, by the name of a set, `lexical` are its rankings by words."""

    out: Path
    seed: int
    device: str
    compute_dtype: str
    notes: dict[str, list[str]]
    lexical: dict[str, dict[str, retrieval.Rankings]]

    def kept(self, model: str, name: str, make: Callable[[], Any]) -> Any:
        """A JSON value of predictions, made and written where it is not there yet."""
        path = self.out / "predictions" / as_file_name(model) / f"{as_file_name(name)}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, make())
        return read_json(path)


def is_of_encoders(recipe: Eval) -> bool:
    """Whether `recipe` is scored here: by its tasks, or because its labelled files are given to classifiers."""
    if recipe.of_encoders or not recipe.files or any(file.task != LABELLED for file in recipe.files):
        return recipe.of_encoders
    folders = [Path(one.path) for one in recipe.models]
    return all(folder.is_dir() and kind_of(folder) in (LABELLED, "multilabel") for folder in folders)


def score_encoders(recipe: Eval) -> dict[str, Any]:
    """Scores every model on the files of its task; writes results.json, report.md and scores.png. Raises UserError
    where a file or a model is broken, or one is for none of the others, before anything starts."""
    recipe.require_of_encoders()
    started, out = time.time(), Path(recipe.out)
    sets = [read_set(file, recipe) for file in recipe.files]
    folders = {one.name: resolve_model(one.path) for one in recipe.models}
    require_matches(folders, sets)
    inputs: dict[str, str | None] = {f"set:{one.name}": one.sha256 for one in sets}
    inputs |= {f"model:{name}": fingerprint_weights(folder) for name, folder in folders.items()}
    inputs |= {f"{BESIDE}model:{name}": fingerprint_embedder_settings(folder) for name, folder in folders.items()}
    identity = recipes.identity(recipe)
    if (results := finished(out, identity, inputs)) is not None:
        terminal.markdown((out / "report.md").read_text(encoding="utf-8"))
        return results
    card, notes = find_device(recipe.execution.device), {one.name: list(one.notes) for one in sets}
    for one in sets:
        print(*(f"{one.name}: {note}" for note in one.notes), sep="\n")
    begin(out, identity, inputs)
    lexical = {one.name: retrieval.floors(one.collection, recipe.seed) for one in sets if one.collection}
    dtype = "bfloat16" if card.device == "cuda" and card.has_bfloat16 else "float32"
    run = Scoring(out, recipe.seed, card.device, dtype, notes, lexical)

    mine_of = {name: [one for one in sets if one.task == kind_of(folder)] for name, folder in folders.items()}
    rows, about, speeds = [], {}, {}
    for name, folder in folders.items():
        mine = mine_of[name]
        about[name], speeds[name], found = (_retrieve if mine[0].collection else _predict)(run, name, folder, mine)
        rows += found
        gc.collect()
    ranked, told = ([row for row in rows if isinstance(row, kind)] for kind in (Row, Told))
    path_of = {file.name: file.path for file in recipe.files}
    asked = {name: [path_of[one.name] for one in mine if not one.collection] for name, mine in mine_of.items()}
    warnings = warnings_of(recipe, asked)
    results = results_of(sets, ranked, told, lexical, recipe.seed) | {"models": about, "warnings": warnings}
    for row in results["sets"]:
        row["notes"] = list(dict.fromkeys(notes[row["name"]]))
    write_json(out / "results.json", results)
    text = encoder_report.markdown(results, speeds)
    write_atomic(out / "report.md", text + "\n")
    encoder_report.picture(results, out / "scores.png")
    terminal.markdown(text)
    print(f"\n{out}: report.md, results.json, scores.png")
    finish(out, "eval", identity, inputs, results, started, {"models": speeds})
    return results


Scored = tuple[dict[str, Any], dict[str, Any], list[Row | Told]]  # what the model is, its time of a query, its answers


def _predict(run: Scoring, name: str, folder: Path, sets: Sequence[EncoderSet]) -> Scored:
    """A model with a head."""
    from nsllm_lite.models.heads import open_head, said
    from nsllm_lite.models.query_time import query_time

    head, rows = open_head(folder, run.device, run.compute_dtype), []
    settings = head.settings
    for one in sets:
        given = heads.given(one.task, one.items)

        def answer(given: heads.Given = given) -> dict[str, Any]:
            told = said(head, *given)
            values = told.values.tolist() if isinstance(told.values, np.ndarray) else told.values
            return {"said": values, "windows": told.num_windows, "unseen": told.num_unseen}

        print(f"{name}: {one.name}, {one.num_items:,} items", flush=True)
        told = run.kept(name, one.name, answer)
        values = np.array(told["said"]) if one.task in ("multilabel", "pair") else told["said"]
        rows.append(Told(name, one.name, values, settings.labels, Cuts(settings.thresholds, settings.no_answer)))
        run.notes[one.name].extend(f"{name}: {note}" for note in _remarks(one, head, told))
    given = heads.given(sets[0].task, sets[0].items)

    def ask(place: int) -> Any:
        return said(head, *(None if part is None else [part[place]] for part in given))

    speed = run.kept(name, "speed", lambda: query_time(ask, len(given.texts), run.device))
    return _size(folder, head.model) | {"max_tokens": settings.max_tokens}, speed, rows


def _remarks(one: EncoderSet, head: "Head", told: dict[str, Any]) -> list[str]:
    """What is to be known about a model's answers."""
    from nsllm_lite.models.windows import token_spans

    settings, found = head.settings, []
    if one.task == "qa":
        found.append(limit_note(one.items, partial(token_spans, head.tokenizer), settings.max_answer_tokens))
    if one.task in (LABELLED, "multilabel"):
        found.append(classes.unseen([label for item in one.items for label in item.labels], settings.labels))
    if one.task == "ner":
        known = [label[2:] for label in settings.labels]
        found.append(classes.unseen([tag[2:] for item in one.items for tag in item.tags if tag[:2] == "B-"], known))
        unbegun = entities.num_unbegun(told["said"])
        found.append(f"{unbegun:,} tags I- follow no tag of their type, and are in no entity" if unbegun else "")
        found.append(f"{told['unseen']:,} words have no token of their own" if told["unseen"] else "")
    if one.task in ("multilabel", "pair") and not settings.thresholds:
        found.append("no threshold was chosen for it: 0.5")
    if several := sum(count > 1 for count in told["windows"]):
        found.append(f"{several:,} of {len(told['windows']):,} texts are longer than its window and cut into several")
    return [note for note in found if note]


def _retrieve(run: Scoring, name: str, folder: Path, sets: Sequence[EncoderSet]) -> Scored:
    """An embedder: as it is, fused with BM25, and untrained."""
    from nsllm_lite.models.embedding import open_embedder, untrained
    from nsllm_lite.models.query_time import query_time

    rows, queries = [], sets[0].collection.test.queries
    embedder = open_embedder(folder, run.device, run.compute_dtype)
    embedder.name = name
    size = _size(folder, embedder.model) | {"max_tokens": embedder.max_tokens, "dimensions": embedder.dimensions}

    def ask(place: int) -> Any:
        return embedder.encode([queries[place]], "query")

    speed = run.kept(name, "speed", lambda: query_time(ask, len(queries), run.device))
    for one in sets:
        dense = _rankings(run, name, one, embedder, one.name)
        rows.append(Row(name, DENSE, one.name, retrieval.figures(dense, one.collection)))
        both, weight, how = retrieval.fused(dense, run.lexical[one.name][retrieval.STEMMED], one.collection)
        rows.append(Row(name, FUSED, one.name, retrieval.figures(both, one.collection)))
        words = f"fused by reciprocal ranks with {retrieval.STEMMED}, the model's weight {weight:g}, {how}"
        run.notes[one.name].extend(f"{name}: {note}" for note in (*embedder.notes, words))
    twin = untrained(embedder, run.seed)
    for one in sets:
        found = _rankings(run, name, one, twin, f"{one.name}.untrained")
        rows.append(Row(name, UNTRAINED, one.name, retrieval.figures(found, one.collection)))
    return size, speed, rows


def _rankings(run: Scoring, name: str, one: EncoderSet, embedder: Any, place: str) -> retrieval.Rankings:
    def rank() -> dict[str, Any]:
        found, counts = retrieval.rank(embedder, one.collection)
        return counts | {"lines": retrieval.as_lines(found, one.collection)}

    told = run.kept(name, place, rank)
    if told["cut"]:
        words = f"documents are longer than its {embedder.max_tokens} tokens and cut"
        run.notes[one.name].append(f"{name}: {told['cut']:,} of {told['documents']:,} {words}")
    return retrieval.from_lines(told["lines"], one.collection)


def _size(folder: Path, model: Any) -> dict[str, Any]:
    files = [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "bytes": sum(file.stat().st_size for file in files)}
