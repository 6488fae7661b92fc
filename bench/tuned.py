"""What continued pretraining is worth to the tasks: before and after it, and under the same instruction tuning.

    python bench/tuned.py --recipes recipes/smollm2 --real DATA [STEP.KEY=VALUE ...]

Base, phase 1 and phase 2 (merged) answer the tasks made of the corpus's held-out papers and the files of `eval`, in the
modes of its recipe. Then base and phase 2 are tuned on the same training items with the same recipe, and answer as
instructed: this is NSLLM's own comparison. Phases and tuning are repeated over several seeds; every model answers the
same items. Printed: scores, mean (smallest to largest) over the seeds, beside the highest floor; the difference to the
base in pairs by seed; the loss of held-out answers. Writes tuned.json and .md into --out. What is finished is skipped
when the same command is given again, and a killed run continues.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from ablations import judge, mean_and_range, seeded, two_phases
from chains import add_options, parsed, prepare, recipe_folder

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.cli import run_step
from nsllm_lite.evals.charts import best_floor
from nsllm_lite.recipe import load as recipes
from nsllm_lite.terminal import as_markdown

BASE, ONE, BOTH = "base", "phase 1", "phase 2"
Found = dict[tuple[str, str, str], dict[str, list[float]]]  # (set, metric, mode) -> model -> a value a seed


def run_seed(folder: Path, out: Path, settings: list[str], seed: int) -> dict[str, Any]:
    """{"eval": results.json of the untuned, "tuned": of the tuned, "answers": {model: loss of held-out answers}}"""
    chain = prepare(seeded(folder, out, settings, seed))
    base, two = chain["phase1"].model, two_phases(chain, out, seed)
    run_step(chain["tasks"])

    to = out / f"tuned/seed-{seed}"
    untuned = {BASE: base, ONE: f"{two}/model1", BOTH: f"{two}/model2"}
    scores = {"eval": evaluate(chain["eval"], untuned, to / "eval")}
    answers, tuned = {}, {}
    for name in (BASE, BOTH):
        here = to / name.replace(" ", "")
        sft = recipes.update(chain["sft"], model=untuned[name], out=f"{here}/sft", seed=seed)
        results = run_step(sft)
        answers[name] = {when: results["heldout"][when]["answers"]["all"]["loss"] for when in ("before", "after")}
        merge = {"base": untuned[name], "adapter": f"{here}/sft/adapter", "out": f"{here}/model", "heldout_rows": None}
        run_step(recipes.update(chain["model-sft"], **merge))
        tuned[name] = merge["out"]
    scores["tuned"] = evaluate(chain["eval-sft"], tuned, to / "eval-tuned", modes=["instruction"])
    return {**scores, "answers": answers}


def evaluate(recipe: Any, models: dict[str, str], to: Path, **more: Any) -> dict[str, Any]:
    listed = [{"name": name, "path": path, **more} for name, path in models.items()]
    run_step(recipes.update(recipe, models=listed, out=str(to)))
    return read_json(to / "results.json")


def gather(by_seed: list[dict[str, Any]], which: str) -> tuple[Found, dict[str, dict]]:
    """(the first metric of every set in every mode, what is said of each set)"""
    found: Found = defaultdict(lambda: defaultdict(list))
    about = {one["name"]: one for one in by_seed[0][which]["sets"]}
    for of_seed in by_seed:
        for row in of_seed[which]["scores"]:
            metric = about[row["set"]]["metrics"][0]
            found[row["set"], metric, row["mode"]][row["model"]].append(row[metric]["value"])
    return found, about


def table(found: Found, about: dict[str, dict]) -> str:
    models = list(next(iter(found.values())))
    heads = ("set", "asked", "items", "best floor", *models, f"{models[-1]} minus {models[0]}")
    lines = []
    for (name, metric, mode), by_model in found.items():
        rule, floor = best_floor(about[name], metric)
        differences = [b - a for a, b in zip(by_model[models[0]], by_model[models[-1]], strict=True)]
        verdict = judge(differences).replace("lower", "worse").replace("higher", "better")
        cells = (mean_and_range(by_model[model], digits=3) for model in models)
        told = f"{mean_and_range(differences, '+', 3)}: {verdict}"
        lines.append((f"{name}, {metric}", mode, str(about[name]["items"]), f"{floor:.3f} ({rule})", *cells, told))
    return as_markdown(heads, lines, right=heads[2:3])


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    args = parsed(parser, words, "runs/ablations")
    out = args.out
    with recipe_folder(args.real, args.recipes) as folder:
        by_seed = [run_seed(folder, out, args.settings, seed) for seed in range(args.seeds)]
    texts = [table(*gather(by_seed, which)) for which in ("eval", "tuned")]
    losses = [
        (name, *(mean_and_range([one["answers"][name][when] for one in by_seed]) for when in ("before", "after")))
        for name in (BASE, BOTH)
    ]
    told = as_markdown(("tuned from", "loss of held-out answers before", "after"), losses)
    text = (
        f"## The tasks\n\nMean (smallest to largest) over {args.seeds} seeds; the same items in each.\n\n{texts[0]}\n\n"
        f"## The same instruction tuning of base and phase 2\n\n{texts[1]}\n\n{told}\n\n"
        "Beyond the spread: the mean difference is larger than largest - smallest of the differences.\n"
    )
    write_json(out / "tuned.json", by_seed)
    write_atomic(out / "tuned.md", text)
    print(f"\n{text}\n{out / 'tuned'}.json, .md")


if __name__ == "__main__":
    main()
