"""What few-shot likelihood can get out of a small model: examples, prompts and calibrations, beside the floors.

    python bench/prompts.py MODEL --file moves=Move-Recognition.json --file multiple_choice=MMLU-stem.json
    python bench/prompts.py MODEL --file multiple_choice=ARC.jsonl --items 200

Every set is asked with 0, half as many, as many and twice as many examples as its task takes, and in these ways:

    as eval asks    the task's prompt; multiple choice lists its options and asks for a letter
    bare            without the instruction: examples and item alone
    by text         multiple choice only: the options are not listed, and each option's own words are the answer

The likelihood of an answer is taken as it is (raw); less its likelihood behind inputs that say nothing (calibrated,
`eval --calibrate`); less its mean over the scored items, which needs all of them but no gold answers (batch); or, by
text, a byte of the answer (per byte). Printed are accuracy or macro-F1 with a 95 % interval, the share of the commonest
answer, the highest floor, and by how many standard errors the score lies above it. A record may also be in ARC's form
{"question": {"stem", "choices"}, "answerKey"}. What is finished is kept in --out and skipped.
"""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.evals.calibration import EMPTY_INPUTS
from nsllm_lite.models.engines import open_engine
from nsllm_lite.models.generate import Engine
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import EvalExecution
from nsllm_lite.tasks import scores
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.sets import apart, load_sets
from nsllm_lite.tasks.task import TaskSet

SEED = 0


class Way(NamedTuple):
    """A prompt for each item, and the texts that may follow it."""

    prompts: list[str]
    answers: list[list[str]]
    empty: list[list[str]]  # for each item, prompts that say nothing


def ways(of: TaskSet, shots: tuple[Item, ...]) -> Iterator[tuple[str, Way]]:
    task = of.task
    options = [list(task.options(item, of.labels)) for item in of.items]

    def blank(item: Item, text: str) -> Item:
        return replace(item, input=text)

    def asked(item: Item) -> str:
        return task.few_shot_prompt(item, shots)

    def bare(item: Item) -> str:
        examples = "".join(f"{task.question(shot)} {shot.answer}\n\n" for shot in shots)
        return f"{examples}{task.question(item)}"

    for name, prompt in (("as eval asks", asked), ("bare", bare)):
        empty = [[prompt(blank(item, text)) for text in EMPTY_INPUTS] for item in of.items]
        yield name, Way([prompt(item) for item in of.items], [[f" {o}" for o in row] for row in options], empty)
    if task.cloze(of.items[0]) is None:
        return
    prompts, answers = zip(*(task.cloze(item, shots) for item in of.items), strict=True)
    empty = [[task.cloze(blank(item, text), shots)[0] for text in EMPTY_INPUTS] for item in of.items]
    yield "by text", Way(list(prompts), [[f" {answer}" for answer in row] for row in answers], empty)


def likelihoods(engine: Engine, way: Way) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(of each item's answers, of the same behind inputs that say nothing), in nats"""
    found = dict(engine.rank(way.prompts, way.answers))
    distinct = list(dict.fromkeys((p, tuple(a)) for row, a in zip(way.empty, way.answers, strict=True) for p in row))
    prior = dict(engine.rank([p for p, _ in distinct], [list(a) for _, a in distinct]))
    of = {key: np.array(prior[number]) for number, key in enumerate(distinct)}

    def mean_of(row: list[str], answers: list[str]) -> np.ndarray:
        logits = np.array([of[p, tuple(answers)] for p in row])
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return np.log((shares / shares.sum(1, keepdims=True)).mean(0))

    priors = [mean_of(row, answers) for row, answers in zip(way.empty, way.answers, strict=True)]
    return [np.array(found[number]) for number in range(len(way.prompts))], priors


def rankings(way: Way, raw: list[np.ndarray], priors: list[np.ndarray]) -> Iterator[tuple[str, list[np.ndarray]]]:
    yield "raw", raw
    yield "calibrated", [one - prior for one, prior in zip(raw, priors, strict=True)]
    if len({len(one) for one in raw}) == 1 and len({tuple(row) for row in way.answers}) == 1:
        shares = np.exp(np.array(raw) - np.max(raw, axis=1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        yield "batch", [one - np.log(shares.mean(0)) for one in raw]
    else:
        sizes = [np.array([len(answer.encode()) for answer in row]) for row in way.answers]
        yield "per byte", [one / size for one, size in zip(raw, sizes, strict=True)]


def row_of(of: TaskSet, found: list[np.ndarray]) -> tuple[float, float, float, float, float]:
    """(score, low, high, share of the commonest answer, score above the highest floor in standard errors)"""
    options = [of.task.options(item, of.labels) for item in of.items]
    answers = [row[int(one.argmax())] for row, one in zip(options, found, strict=True)]
    name, (rows, metric) = next(iter(of.task.results(answers, of).items()))
    score = scores.estimate(rows, metric, SEED)
    floor = max(by[name] for by in of.task.floors(of, SEED).values())
    error = (score.high - score.low) / (2 * 1.96)
    commonest = Counter(answers).most_common(1)[0][1] / len(answers)
    return score.value, score.low, score.high, commonest, (score.value - floor) / error if error else 0.0


def plain_records(path: Path, to: Path) -> Path:
    """The file, or where it is in ARC's form one made of it in `to`."""
    first = path.read_text(encoding="utf-8").lstrip()[:400]
    if '"stem"' not in first:
        return path
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        choices = record["question"]["choices"]
        letters = {choice["label"]: letter for choice, letter in zip(choices, "ABCDEFGH", strict=False)}
        listed = "\n".join(f"({letters[choice['label']]}): {choice['text']}" for choice in choices)
        text = f"{record['question']['stem']}\nChoices:\n{listed}"
        rows.append({"instruction": "", "input": text, "output": letters[record["answerKey"]]})
    to.mkdir(parents=True, exist_ok=True)
    made = to / f"{path.stem}.json"
    made.write_text(json.dumps(rows), encoding="utf-8")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--file", action="append", required=True, metavar="TASK=PATH")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/prompts"))
    args = parser.parse_args()
    files = []
    for word in args.file:
        task, _, path = word.partition("=")
        made = plain_records(Path(path), args.out / "records")
        files.append({"name": Path(path).stem, "task": task, "path": str(made)})
    values = {"kind": "eval", "out": str(args.out), "tasks": None, "files": files, "seed": SEED}
    values |= {"models": [{"name": "m", "path": str(args.model)}]}
    sets = [split(of, args.items) for of in load_sets(recipes.validate(values, "bench/prompts.py"))]
    engine = None
    for of in sets:
        floors = of.task.floors(of, SEED)
        metric = next(iter(of.task.metrics))
        told = ", ".join(f"{rule} {by[metric]:.3f}" for rule, by in floors.items())
        print(f"\n{of.name}: {len(of.items)} items, {metric}; floors: {told}\n")
        print("| examples | prompt | ranking | score | 95 % | commonest answer | above the floor, errors |")
        print("|---:|---|---|---:|---|---:|---:|")
        for count in (0, of.task.shots // 2, of.task.shots, 2 * of.task.shots):
            shots = choose(of, count)
            for name, way in ways(of, shots):
                key = hashlib.sha256(json.dumps([str(args.model), *way]).encode()).hexdigest()[:16]
                kept = args.out / f"{key}.json"
                if not kept.is_file():
                    engine = engine or open_engine(str(args.model), device="cpu", how=EvalExecution())
                    write_json(kept, [[row.tolist() for row in part] for part in likelihoods(engine, way)])
                raw, priors = ([np.array(row) for row in part] for part in read_json(kept))
                for ranking, found in rankings(way, raw, priors):
                    score, low, high, commonest, above = row_of(of, found)
                    told = f"{score:.3f} | {low:.3f} to {high:.3f} | {commonest:.0%} | {above:+.1f}"
                    print(f"| {len(shots)} | {name} | {ranking} | {told} |", flush=True)


def choose(of: TaskSet, count: int) -> tuple[Item, ...]:
    return tuple(replace(of.task, shots=count).choose_shots(of.pool, SEED)) if count else ()


def split(of: TaskSet, count: int) -> TaskSet:
    """`count` items, spread evenly; the others may be examples."""
    places = set(np.linspace(0, len(of.items) - 1, min(count, len(of.items))).astype(int).tolist())
    items = tuple(item for number, item in enumerate(of.items) if number in places)
    others = (*of.pool, *(item for number, item in enumerate(of.items) if number not in places))
    return replace(of, items=items, pool=apart(others, items, of.task))


if __name__ == "__main__":
    main()
