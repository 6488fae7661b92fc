"""Does a small pretrained model, tuned on published gold answers, extract more than rules that understand nothing?

    python bench/extraction.py --real DATA                             SmolLM2-135M on LLaMat's doping and MOF files
    python bench/extraction.py --real DATA --only doping --seeds 1 sft.epochs=0.1 eval.max_items=20     to try it

For each task: gold answers (`nsllm-lite tasks`), scores of the untuned model (--untuned: as an instruction, few-shot or
both; free alone, as under a grammar it fills its limit of tokens), then instruction tuning on the training file from
--model with each seed, the merge, and the scores of the test file, free and under the grammar of the schema. The table
has the floors (always empty, the commonest answer, a dictionary of the training file) and n; below it the difference to
each floor on the same items, with a permutation test.

Words such as sft.epochs=2, sft.optimizer.learning_rate=1e-4 or eval.max_items=20 change single values. Writes
extraction.json and .md into --out; what is finished is skipped when the same command is given again, and a killed
training continues.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml
from ablations import mean_and_range

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.cli import run_step
from nsllm_lite.evals.evaluate import Asked, read_predictions
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks import scores
from nsllm_lite.tasks.sets import load_sets
from nsllm_lite.terminal import as_markdown

RECIPES = Path(__file__).parents[1] / "recipes"
FILES = {"doping": "doping", "mof": "mof2", "mof_general": "mof1"}  # task -> files under DATA/llamat
TUNING = {
    "epochs": 2, "steps": None, "max_tokens": 1024, "optimizer.learning_rate": 2e-4, "examples_per_step": 8,
    "max_heldout_examples": 32, "evaluate_steps": 50, "checkpoint_steps": 20, "schedule.warmup_steps": 5,
    "samples.count": 0,
}  # fmt: skip
UNTUNED, MODES = "untuned", ("instruction", "instruction, constrained")


def evaluate(gold: Path, model: str, to: Path, words: list[str], **more: Any) -> dict[str, Any]:
    values = {"kind": "eval", "out": str(to), "tasks": str(gold), "seed": 0, "constrain": True, "chat_tokens": 256}
    values |= {"models": [{"name": "model", "path": model}], "execution": {"device": "cpu"}, **more}
    run_step(recipes.validate(recipes.overridden(values, words), "eval of the bench"))
    return read_json(to / "results.json")


def tuned(task: str, gold: Path, args: argparse.Namespace, seed: int) -> str:
    """The merged model of a tuning."""
    out = args.out / task / f"seed-{seed}"
    values = recipes.changed(yaml.safe_load((RECIPES / "smollm2/sft.yaml").read_text()), TUNING)
    values |= {"data": [str(gold / "train")], "heldout": [str(gold / "test")], "model": str(args.model)}
    values = recipes.overridden(values | {"out": str(out / "sft"), "seed": seed}, words_for("sft", args))
    run_step(recipes.validate(values, "sft of the bench"))
    merge = {"kind": "merge", "base": str(args.model), "adapter": str(out / "sft/adapter"), "out": str(out / "model")}
    run_step(recipes.validate(merge | {"base_weights": "original", "shard_bytes": 5_000_000_000}, "merge"))
    return str(out / "model")


def words_for(name: str, args: argparse.Namespace) -> list[str]:
    return [word.partition(".")[2] for word in args.settings if word.partition(".")[0] == name]


def measure(task: str, args: argparse.Namespace) -> dict[str, Any]:
    """{"scores": {row: {metric: a value a seed}}, "floors", "items", "over floors": lines of a table}"""
    stem, gold, words = FILES[task], args.out / task / "gold", words_for("eval", args)
    paths = {split: [str(args.real / f"llamat/{stem}_{split}.jsonl")] for split in ("train", "test")}
    made = {"kind": "tasks", "gold": [{"task": task} | paths], "out": str(gold), "seed": 0}
    run_step(recipes.validate(made | {"max_per_task": 10_000, "max_paper_chars": 10_000}, "tasks of the bench"))
    found: dict[str, dict[str, list[float]]] = {}
    untuned = evaluate(gold, str(args.model), args.out / task / UNTUNED, words, modes=args.untuned, constrain=False)
    folders = {UNTUNED: [args.out / task / UNTUNED], "tuned": []}
    add(found, UNTUNED, untuned)
    for seed in range(args.seeds):
        folder = args.out / task / f"seed-{seed}/eval"
        add(found, "tuned", evaluate(gold, tuned(task, gold, args, seed), folder, words, modes=["instruction"]))
        folders["tuned"].append(folder)
    (about,) = untuned["sets"]
    over = over_floors(task, gold, folders, words)
    return {"scores": found, "floors": about["floors"], "items": about["items"], "over floors": over}


def add(found: dict[str, dict[str, list[float]]], model: str, results: dict[str, Any]) -> None:
    for row in results["scores"]:
        into = found.setdefault(f"{model}, {row['mode']}", {})
        for metric in results["sets"][0]["metrics"]:
            into.setdefault(metric, []).append(row[metric]["value"])
        into.setdefault("unread", []).append(row["unread"])


def over_floors(task: str, gold: Path, folders: dict[str, list[Path]], words: list[str]) -> list[tuple[str, ...]]:
    """A line for each model, mode and floor: the difference in exact answers on the same items, for each seed."""
    asked = {"kind": "eval", "out": "x", "tasks": str(gold), "seed": 0, "models": [{"name": "model", "path": "x"}]}
    (one,) = load_sets(recipes.validate(recipes.overridden(asked, words), "eval of the bench"))
    lines = []
    rules = {rule: answers for rule, answers in one.task.rules(one, 0).items() if answers}
    for model, places in folders.items():
        for mode in MODES:
            if not all((Asked("model", mode, one).path(out)).is_file() for out in places):
                continue
            for rule, answers in rules.items():
                cells = []
                for out in places:
                    said = {p.item: p.answer for p in read_predictions(Asked("model", mode, one).path(out))}
                    rows = [
                        one.task.results(each, one)["exact"][0] for each in (answers, [said[n] for n in sorted(said)])
                    ]
                    difference = scores.compare(*rows, scores.mean, 0)
                    cells.append(f"{difference.words}, p {difference.p:.3f}")
                lines.append((f"{model}, {mode}", rule, "; ".join(cells)))
    return lines


def table(task: str, result: dict[str, Any]) -> str:
    metrics = list(next(iter(result["scores"].values())))
    rows = [(row, *(mean_and_range(of[metric]) for metric in metrics)) for row, of in result["scores"].items()]
    rows += [
        (f"floor: {rule}", *(f"{of[metric]:.3f}" if metric in of else "" for metric in metrics))
        for rule, of in result["floors"].items()
    ]
    text = as_markdown((f"{task}, {result['items']} items", *metrics), rows, right=metrics)
    over = as_markdown(("exact answers", "floor", "difference for each seed"), result["over floors"])
    return f"{text}\n\n{over}"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="STEP.KEY=VALUE")
    parser.add_argument("--real", type=Path, required=True, metavar="DATA", help="a folder of real files")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m"), metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=[*FILES], default=["doping", "mof"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--untuned", nargs="+", choices=["instruction", "few-shot"], default=["instruction"])
    parser.add_argument("--out", type=Path, default=Path("runs/extraction-bench"))
    args = parser.parse_intermixed_args(words)
    found = {task: measure(task, args) for task in args.only}
    text = "\n\n".join(table(task, result) for task, result in found.items()) + "\n"
    write_json(args.out / "extraction.json", found)
    write_atomic(args.out / "extraction.md", text)
    print(f"\n{text}\n{args.out}/extraction.json, .md")


if __name__ == "__main__":
    main()
