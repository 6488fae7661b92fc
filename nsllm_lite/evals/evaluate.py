"""`nsllm-lite eval`: scores of models on tasks, with intervals, floors and ceilings.

Each answer is written to `predictions/` at once, so that a stopped evaluation continues there; all scores are computed
from these files at the end.
"""

import gc
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nsllm_lite import terminal
from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.json_files import cut_lines, read_json, read_lines, read_object, sha256_json, write_json
from nsllm_lite.artifact.step import BESIDE, begin, finish, finished
from nsllm_lite.errors import UserError
from nsllm_lite.evals import calibration, charts
from nsllm_lite.evals.audit import duplicates
from nsllm_lite.evals.doubts import warnings_of
from nsllm_lite.evals.encoders import is_of_encoders, score_encoders
from nsllm_lite.formats.tokenizer import apart
from nsllm_lite.formats.weights import fingerprint_settings, fingerprint_weights, require_sound
from nsllm_lite.models.device import find_device
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import Eval, EvaluatedModel
from nsllm_lite.safety import as_file_name, render_chat, require_plain_model
from nsllm_lite.tasks import scores
from nsllm_lite.tasks.items import Item, open_thinking, plain_prompt
from nsllm_lite.tasks.sets import load_sets
from nsllm_lite.tasks.task import Task, TaskSet

if TYPE_CHECKING:
    from nsllm_lite.models.generate import Engine

FEW_SHOT, CALIBRATED, CLOZE, INSTRUCTION = "few-shot", "calibrated", "cloze", "instruction"
CONSTRAINED = {FEW_SHOT: f"{FEW_SHOT}, constrained", INSTRUCTION: f"{INSTRUCTION}, constrained"}
MODES = (FEW_SHOT, CALIBRATED, CLOZE, CONSTRAINED[FEW_SHOT], INSTRUCTION, CONSTRAINED[INSTRUCTION])


class Asked(NamedTuple):
    """One model on one set in one mode."""

    model: str
    mode: str
    set: TaskSet

    def path(self, out: Path) -> Path:
        name = f"{as_file_name(self.set.name)}.{as_file_name(self.mode)}.jsonl"
        return out / "predictions" / as_file_name(self.model) / name


class Prediction(NamedTuple):
    """The answer to one item; None where none could be read from `text`, which begins with the tag of reasoning where
    the prompt ends in that."""

    item: int
    answer: str | None
    text: str


def evaluate(recipe: Eval) -> dict[str, Any]:
    """Has every model answer every item; writes results.json, report.md, radar.png and bars.png; returns the results.
    Raises UserError where a model or a file is missing, or does not fit. Encoders are scored by `encoders`."""
    if is_of_encoders(recipe):
        return score_encoders(recipe)
    started, out, sets = time.time(), Path(recipe.out), load_sets(recipe)
    inputs: dict[str, str | None] = {f"set:{one.name}": one.sha256 for one in sets}
    folders = {one.name: Path(one.path) for one in recipe.models}
    local = {name: folder for name, folder in folders.items() if folder.is_dir()}  # hub ids are taken by their names
    inputs |= {f"model:{name}": fingerprint_weights(local[name]) if name in local else None for name in folders}
    inputs |= {f"{BESIDE}model:{name}": fingerprint_settings(folder) for name, folder in local.items()}
    for name, base in {name: base_beside(folder) for name, folder in local.items()}.items():
        if base:
            inputs[f"{BESIDE}base of {name}"] = sha256_json([fingerprint_weights(base), fingerprint_settings(base)])
    identity = recipes.identity(recipe)
    if (results := finished(out, identity, inputs)) is not None:
        terminal.markdown(charts.markdown(read_json(out / "results.json"), all_differences=False))
        return results
    for folder in local.values():
        require_sound(folder)
    device, doubts = find_device(recipe.execution.device).device, warnings_of(recipe)
    require_askable(recipe, sets, out)
    begin(out, identity, inputs)

    asked, measured = [], {}
    for one in recipe.models:
        done, figures = ask(one, sets, out, device, recipe)
        asked += done
        measured[one.name] = figures
    results = score_all(asked, sets, recipe, out, device) | {"notes": notes_of(recipe, out), "warnings": doubts}
    write_json(out / "results.json", results)
    write_atomic(out / "report.md", charts.markdown(results) + "\n")
    charts.radar(results, out / "radar.png")
    charts.bars(results, out / "bars.png")
    terminal.markdown(charts.markdown(results, all_differences=False))
    print(f"\n{out}: report.md, results.json, radar.png, bars.png")
    finish(out, "eval", identity, inputs, results, started, {"models": measured})
    return results


def base_beside(folder: Path) -> Path | None:
    """The base's folder that an adapter names, where it is one; the hub's are taken by their names."""
    settings = folder / "adapter_config.json"
    base = Path(str(read_object(settings).get("base_model_name_or_path"))) if settings.is_file() else None
    return base if base and base.is_dir() else None


def _notes(out: Path, model: str) -> Path:
    return out / "predictions" / as_file_name(model) / "notes.json"


def require_askable(recipe: Eval, sets: list[TaskSet], out: Path) -> None:
    """Before the first model answers, which can take hours, looks for all that the later ones and the scores need.
    Raises UserError where one of it is not there, or a chat template refuses the tasks."""
    from nsllm_lite.models.engines import find_model
    from nsllm_lite.models.grammar import require_grammars

    if recipe.encoder:
        from nsllm_lite.evals.bert_score import BertScore

        BertScore.require(Path(recipe.encoder))
    schemas = schemas_of(sets) if recipe.constrain else []
    if recipe.constrain and not schemas:
        names = ", ".join(f"{one.name} ({one.task.name})" for one in sets)
        found = f"constrain, but no answer is JSON of a schema: {names}."
        raise UserError(
            "eval-nothing-to-constrain", found, "Leave constrain out, or add such a task, as --file doping=FILE."
        )
    for one in recipe.models:
        modes = modes_of(one, recipe)
        if modes and not any(_missing(each, out) for each in pairs(one.name, modes, sets, recipe)):
            continue
        told = {"quantisation": one.quantisation, "tokenizer_from": recipe.tokenizer_from}
        found = find_model(one.path, how=recipe.execution, **told)
        require_plain_model(found.folder)
        tokenizer = found.load_tokenizer()
        if tokenizer.chat_template and INSTRUCTION in (modes or [INSTRUCTION]):
            for each in sets:
                as_told(tokenizer, each.task, each.items[0], each.labels)
        if schemas:
            require_grammars(tokenizer if recipe.execution.backend == "transformers" else None, schemas)


def schemas_of(sets: list[TaskSet]) -> list[dict[str, Any]]:
    """The different schemas of all items."""
    found = (one.task.answer_schema(item) for one in sets for item in one.items)
    return list({json.dumps(schema): schema for schema in found if schema is not None}.values())


def modes_of(about: EvaluatedModel, recipe: Eval) -> list[str] | None:
    """The modes a model is asked in, as its recipe or a stopped evaluation says."""
    kept = Path(recipe.out) / "predictions" / as_file_name(about.name) / "modes.json"
    return about.modes or recipe.modes or (read_json(kept) if kept.is_file() else None)


def pairs(model: str, modes: Sequence[str], sets: list[TaskSet], recipe: Eval) -> list[Asked]:
    """All that a model is asked. What is asked few-shot may be calibrated, and asked as cloze; what has a schema may be
    asked with its grammar as well."""
    whole = []
    for mode in modes:
        whole += [(mode, one) for one in sets]
        if mode == FEW_SHOT and recipe.calibrate:
            whole += [(CALIBRATED, one) for one in sets if one.task.is_ranked]
        if mode == FEW_SHOT and recipe.cloze:
            whole += [(CLOZE, one) for one in sets if one.task.cloze(one.items[0])]
        if recipe.constrain:
            whole += [(CONSTRAINED[mode], one) for one in sets if schemas_of([one])]
    return [Asked(model, mode, one) for mode, one in whole]


def ask(
    about: EvaluatedModel, sets: list[TaskSet], out: Path, device: str, recipe: Eval
) -> tuple[list[Asked], dict[str, Any]]:
    """Answers the missing items of one model; returns all its (set, mode) pairs, and timings."""
    import torch

    from nsllm_lite.models.engines import open_engine

    engine, started, items = None, time.perf_counter(), 0
    modes = modes_of(about, recipe)
    if not modes or any(_missing(one, out) for one in pairs(about.name, modes, sets, recipe)):
        held = {"quantisation": about.quantisation, "tokenizer_from": recipe.tokenizer_from}
        engine = open_engine(about.path, device=device, how=recipe.execution, constrain=recipe.constrain, **held)
        is_told = engine.tokenizer.chat_template or engine.tuned_in == "plain"
        modes = modes or [FEW_SHOT, *([INSTRUCTION] if is_told else [])]
        write_json(out / "predictions" / as_file_name(about.name) / "modes.json", modes)
        write_json(_notes(out, about.name), engine.notes)
        for note in engine.notes:
            print(f"{about.name}: {note}.")
    done = pairs(about.name, modes, sets, recipe)
    for one in done:
        if missing := _missing(one, out):
            items += missing
            _answer(one, engine, recipe)
    figures: dict[str, Any] = {}
    if engine:
        seconds = time.perf_counter() - started
        figures = {"seconds": round(seconds, 1), "items": items, "forward_tokens": engine.forward_tokens}
        if engine.num_cut:
            print(f"{about.name}: {engine.num_cut} prompts were longer than its window and lost their beginning")
        if engine.num_short:
            print(f"{about.name}: for {engine.num_short} answers its window leaves less room than the task gives")
    del engine
    gc.collect()
    torch.cuda.empty_cache()
    return done, figures


def _missing(asked: Asked, out: Path) -> int:
    """How many items have no answer yet."""
    return len(asked.set.items) - len({prediction.item for prediction in read_predictions(asked.path(out))})


def read_predictions(path: Path) -> list[Prediction]:
    """The whole lines of a file of predictions; the item of one that was cut off is answered again."""
    return [Prediction(**line) for line in read_lines(path)]


def _answer(asked: Asked, engine: "Engine", recipe: Eval) -> None:
    """Appends a prediction for each missing item."""
    out = Path(recipe.out)
    path = asked.path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {line["item"] for line in cut_lines(path)}
    what, total = f"{asked.model}: {asked.set.name}, {asked.mode}", len(asked.set.items)
    with open(path, "a", encoding="utf-8") as file, terminal.progress(total, len(done), what, "item") as bar:
        if asked.mode == CALIBRATED:
            predictions = _calibrate(asked, done, engine, out)
        else:
            predictions = _predict(asked, done, engine, recipe.chat_tokens)
        for prediction in predictions:
            file.write(json.dumps(prediction._asdict(), ensure_ascii=False) + "\n")
            file.flush()
            bar.update()


def _predict(asked: Asked, done: set[int], engine: "Engine", chat_tokens: int | None = None) -> Iterator[Prediction]:
    """The predictions of the items that are not `done`."""
    task, labels, shots, items = asked.set.task, asked.set.labels, asked.set.shots, asked.set.items
    options, generate, is_constrained = [task.options(item, labels) for item in items], engine.generate, False
    if asked.mode in CONSTRAINED.values():
        is_constrained, schemas = True, [task.answer_schema(item) for item in items]
        generate = partial(generate, schemas=schemas)
    if asked.mode in (FEW_SHOT, CLOZE, CONSTRAINED[FEW_SHOT]):
        prompts, said = [task.few_shot_prompt(item, shots) for item in items], options
        if asked.mode == CLOZE:
            prompts, said = zip(*(task.cloze(item, shots) for item in items), strict=True)
        if task.is_ranked and not is_constrained:
            for number, found in engine.rank(prompts, [[f" {words}" for words in row] for row in said], done):
                best = options[number][int(np.argmax(found))]
                yield Prediction(number, best, " ".join(f"{value:.4f}" for value in found))
            return
        answers = generate(prompts, task.new_tokens, [task.stop], done)  # with a grammar its own end counts alone
    else:
        room = task.chat_tokens if engine.tokenizer.chat_template else task.new_tokens  # plain: no reasoning first
        room = min(room, chat_tokens or room)
        prompts = [as_told(engine.tokenizer, task, item, labels) for item in items]
        rendered = bool(engine.tokenizer.chat_template)
        asked_texts = (task.chat_prompt(item, labels) for item in items)
        if held := rendered and sum(text != apart(engine.tokenizer, text) for text in asked_texts):
            print(f"{asked.set.name}: {held} items hold the name of a special token, which is written with a blank")
        answers = generate(prompts, room, [], done, rendered)
    for number, text in answers:
        if is_constrained and schemas[number] is not None:
            yield Prediction(number, task.parse(text, options[number]) if is_json(text) else None, text)
            continue
        text = open_thinking(prompts[number]) + text
        yield Prediction(number, task.parse(text, options[number]), text)


def is_json(text: str) -> bool:
    """Whether a constrained answer is whole, and not cut at its limit of tokens."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _calibrate(asked: Asked, done: set[int], engine: "Engine", out: Path) -> Iterator[Prediction]:
    """The predictions of the items that are not `done`, from the likelihoods of the few-shot ones."""
    raw = {found.item: found for found in read_predictions(asked._replace(mode=FEW_SHOT).path(out))}
    options = [asked.set.task.options(item, asked.set.labels) for item in asked.set.items]
    for number, prior in enumerate(calibration.priors(asked.set, options, engine)):
        if number not in done:
            found = np.array([float(word) for word in raw[number].text.split()]) - prior
            text = " ".join(f"{value:.4f}" for value in found)
            yield Prediction(number, options[number][int(found.argmax())], text)


def as_told(tokenizer: Any, task: Task, item: Item, labels: Sequence[str]) -> str:
    """The instruction in the model's chat template; where it has none, in the plain prompt that tuning uses."""
    if not tokenizer.chat_template:
        return plain_prompt(task.instruction_of(item), item.input)
    told = [{"role": "user", "content": apart(tokenizer, task.chat_prompt(item, labels))}]
    try:
        return render_chat(tokenizer, told, add_generation_prompt=True, enable_thinking=False)
    except ValueError as error:
        todo = f"Remove chat_template of that model, or set modes: [{FEW_SHOT}] for it."
        raise UserError("eval-chat-template-refused", f"The chat template refuses the prompt: {error}.", todo) from None


def score_all(asked: list[Asked], sets: list[TaskSet], recipe: Eval, out: Path, device: str) -> dict[str, Any]:
    """Scores with intervals, floors, ceilings and the differences between models, as results.json has them."""
    results: dict[str, Any] = {"sets": [_about(one, recipe) for one in sets], "scores": [], "differences": []}
    by_item: dict[tuple[str, str, str], dict[str, tuple[scores.Results, scores.Metric]]] = {}
    bert = None
    if recipe.encoder and any(one.task.is_prose for one in sets):
        from nsllm_lite.evals.bert_score import BertScore

        bert = BertScore(Path(recipe.encoder), device)
    for one in asked:
        predictions = {found.item: found for found in read_predictions(one.path(out))}
        answers = [predictions[number].answer for number in range(len(one.set.items))]
        found = one.set.task.results(answers, one.set)
        if bert and one.set.task.is_prose:
            values = bert.score([answer or "" for answer in answers], [item.answer for item in one.set.items])
            found["bert_score"] = (scores.Results(None, np.array(values)), scores.mean)
        by_item[one.model, one.mode, one.set.name] = found
        figures = {name: scores.estimate(row, metric, recipe.seed)._asdict() for name, (row, metric) in found.items()}
        results["scores"].append(
            {"model": one.model, "mode": one.mode, "set": one.set.name, "unread": answers.count(None), **figures}
            | one.set.task.told(
                [predictions[number].text for number in range(len(answers))], answers, one.set, recipe.seed
            )
        )
    for one in sets:
        for mode in MODES:
            there = [m.name for m in recipe.models if (m.name, mode, one.name) in by_item]
            for first, second in combinations(there, 2):
                rows, other = by_item[first, mode, one.name], by_item[second, mode, one.name]
                results["differences"] += [
                    {"set": one.name, "mode": mode, "first": first, "second": second, "metric": name}
                    | scores.compare(row, other[name][0], metric, recipe.seed)._asdict()
                    for name, (row, metric) in rows.items()
                    if name not in one.task.details
                ]
    return results


def _about(one: TaskSet, recipe: Eval) -> dict[str, Any]:
    task = one.task
    return {
        "name": one.name, "task": task.name, "title": task.title, "version": task.version, "items": len(one.items),
        "shots": len(one.shots),
        "metrics": [*task.metrics, *(["bert_score"] if recipe.encoder and task.is_prose else [])],
        "details": [*task.details], "floors": task.floors(one, recipe.seed), "ceiling": ceiling_of(one),
    }  # fmt: skip


def ceiling_of(task_set: TaskSet) -> float:
    """The accuracy that no model can exceed, because equal inputs have different answers."""
    return duplicates(task_set.items)["ceiling"] if "accuracy" in task_set.task.metrics else 1.0


def notes_of(recipe: Eval, out: Path) -> list[str]:
    """How the models were run, where that is not the usual way."""
    files = {one.name: _notes(out, one.name) for one in recipe.models}
    return [f"{name}: {note}." for name, path in files.items() if path.is_file() for note in read_json(path)]
