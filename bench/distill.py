"""Is a student better that learnt its teacher's relations, or one that was trained on masked tokens for as long?

    python bench/distill.py --teacher models/all-minilm-l6-v2 --real DATA             real abstracts and real entities
    python bench/distill.py --teacher DIR --seconds 20 --seeds 2 --without-ner        the bundled sample, to try it

The student is the teacher's layers 1, 3 and 5 (--layers). Arms, which begin with the very same weights:

    relations       `nsllm-lite distill` for so many CPU seconds (--seconds, by the time of its steps, measured first)
    masked tokens   `nsllm-lite mlm` on these layers for as many, on the same rows
    cut             the layers as they are

Then all are treated alike: the same short stage of `nsllm-lite mlm`, and its loss and top-1 on masked tokens of
held-out papers. A head is drawn from the seed where an arm has none yet; `masked tokens` has its own already, and is
also measured with one drawn anew, as the others have it. And, from the model before that stage, `nsllm-lite finetune`
for named entities on two sets under DATA, on the first --sentences of their training files; strict F1 on their test
files. The teacher's row is that of all its layers.

A seed sets the data order, the new heads and dropout. Words such as distill.optimizer.learning_rate=1e-3,
mlm.mask_share=0.15, stage.budget.steps=50 or ner.epochs=2 change single values. Writes distill.json, .md and .png into
--out. The figures of a finished arm stand in --units from then on and are not made again; a killed one begins again,
so that its time is that of all its steps.
"""

import argparse
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ablations import compare, plot, table
from chains import NANO, first_sentences, real_sources
from units import Figures, Units

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.cli import run_step
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.tokenizer import load_auto_tokenizer
from nsllm_lite.formats.weights import fingerprint_weights, model_files, read_header
from nsllm_lite.models.encoder import HEADS, load_body
from nsllm_lite.models.extension import with_layers
from nsllm_lite.recipe import load as recipes
from nsllm_lite.train.encoders import save_encoder

ENTITIES = {"SciERC": "scibert/data/ner/sciie", "Matscholar": "ner_matscholar"}  # set -> folder under DATA
FILES = {"data": "train", "development": "dev", "test": "test"}  # what the names of a set's files begin with
ARMS = ("relations", "masked tokens", "cut")
TEACHER = "teacher, all layers"
STEP_TOKENS = 2_048
DEFAULTS: dict[str, dict[str, Any]] = {
    "distill": {"optimizer.learning_rate": 5e-4},
    "mlm": {"optimizer.learning_rate": 3e-4, "mask_share": 0.15},
    "stage": {"optimizer.learning_rate": 2e-4, "mask_share": 0.15, "budget.steps": 40},
    "ner": {"epochs": 3, "learning_rate": 1e-4, "max_tokens": 128, "stride": 32, "patience": None},
}
CALIBRATED = (2, 6)  # steps of the two runs whose difference is the time of a step

Found = dict[str, dict[str, list[float]]]  # arm -> measure -> one value a seed


def corpus_of(teacher: Path, real: Path | None, out: Path) -> Path:
    """Rows of the teacher's tokenizer; made once."""
    values = yaml.safe_load((NANO / "corpus.yaml").read_text())
    tokenizer = load_auto_tokenizer(teacher)
    values |= {"tokenizer": str(teacher), "train_tokenizer": None, "out": str(out / "corpus"), "row_tokens": 256}
    values |= {"end_of_text": tokenizer.sep_token or tokenizer.eos_token}
    if real:
        held = {"share": 0.2, "general_share": 0.2, "max_papers": 200, "seed": 0}
        values |= {**real_sources(real), "heldout": held}
    run_step(recipes.validate(values, "corpus of the bench"))
    return out / "corpus"


def cut_teacher(teacher: Path, layers: list[int], out: Path) -> Path:
    """The layers alone, as a model folder."""
    if not (out / "cut/model").is_dir():
        (out / "cut").mkdir(parents=True, exist_ok=True)
        save_encoder(with_layers(load_body(teacher), layers), teacher, out / "cut")
    return out / "cut/model"


class Bench:
    """What all arms share: teacher, layers, rows, and the words for each kind of step."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.teacher, self.out = args, args.teacher, args.out
        self.corpus = corpus_of(args.teacher, args.real, args.out)
        self.cut = cut_teacher(args.teacher, args.layers, args.out)
        self.words = {name: dict(of) for name, of in DEFAULTS.items()}
        for setting in args.settings:
            name, _, word = setting.partition(".")
            key, _, value = word.partition("=")
            self.words[name][key] = yaml.safe_load(value)

    def recipe(self, file: str, words: str, out: Path, steps: int | None, **changes: Any) -> Any:
        """Of recipes/nano/FILE.yaml, with the bench's rows and the values of `words`."""
        values = recipes.changed(yaml.safe_load((NANO / f"{file}.yaml").read_text()), self.words[words])
        steps = steps or values["budget"]["steps"]
        rows = self.corpus / "rows/phase1"
        values |= {
            "out": str(out),
            "rows": str(rows / "train"),
            "budget": {"steps": steps, "tokens_per_step": STEP_TOKENS, "tokens": steps * STEP_TOKENS},
            "evaluation": {"domain_rows": str(rows / "heldout"), "every_steps": 10**6, "max_rows": self.args.max_rows},
            "schedule": {"shape": "cosine", "warmup_steps": steps // 10, "final_share": 0.1},
            "checkpoint_steps": 100,
        }
        return recipes.validate(values | changes, f"{words} of the bench")

    def training(self, arm: str, out: Path, steps: int, seed: int, **changes: Any) -> Any:
        """The recipe of an arm."""
        heads = load_body(self.teacher).config.num_attention_heads
        if arm == "relations":
            of = {"teacher": str(self.teacher), "layers": self.args.layers, "relation_heads": heads}
            return self.recipe("distill", "distill", out, steps, seed=seed, **of, **changes)
        return self.masked(self.cut, "mlm", out, steps, seed, **changes)

    def masked(self, model: Path, words: str, out: Path, steps: int | None, seed: int, **changes: Any) -> Any:
        of = {"build": None, "model": str(model), "new_head": not has_head(model), "seed": seed}
        return self.recipe("mlm", words, out, steps, **of, **changes)

    def inputs(self, **more: Any) -> dict[str, Any]:
        """What figures depend on."""
        rows = {name: Rows(self.corpus / "rows/phase1" / name).sha256 for name in ("train", "heldout")}
        asked = {"seconds": self.args.seconds, "layers": self.args.layers, "max_rows": self.args.max_rows}
        ner = dict.fromkeys(sorted(self.sets()), self.args.sentences) if not self.args.without_ner else {}
        return {
            "teacher": fingerprint_weights(self.teacher),
            "rows": rows,
            "words": self.words,
            "ner": ner,
            **asked,
            **more,
        }

    def sets(self) -> dict[str, Path]:
        return {} if self.args.real is None else {name: self.args.real / folder for name, folder in ENTITIES.items()}


def has_head(model: Path) -> bool:
    """Whether a folder of ours, or another's, stores a head for masked tokens."""
    heads = {name for parts in HEADS.values() for name in parts}
    return any(name.split(".")[0] in heads for file in model_files(model) for name in read_header(model / file))


def cpu_seconds(recipe: Any) -> float:
    started = time.process_time()
    run_step(recipe)
    return time.process_time() - started


def steps_of(bench: Bench, arm: str) -> Figures:
    """How many steps an arm makes in the CPU seconds, from two short runs."""
    with tempfile.TemporaryDirectory() as folder:
        taken = [
            cpu_seconds(bench.training(arm, Path(folder) / str(steps), steps, seed=0)) for steps in (1, *CALIBRATED)
        ][1:]  # the first also loads libraries
    of_step = max(1e-3, (taken[1] - taken[0]) / (CALIBRATED[1] - CALIBRATED[0]))
    return {"calibrated": {"steps": max(2, round(bench.args.seconds / of_step)), "seconds_a_step": of_step}}


def figures_of(bench: Bench, arm: str, steps: int, seed: int) -> Figures:
    """Trains an arm, gives it the short stage, and fine-tunes it."""
    out = bench.out / f"seed-{seed}" / arm.replace(" ", "-")
    model, trained = (bench.teacher if arm == TEACHER else bench.cut), {"CPU seconds": 0.0, "tokens": 0.0}
    if arm in ("relations", "masked tokens"):
        shutil.rmtree(out / "trained", ignore_errors=True)
        recipe = bench.training(arm, out / "trained", steps, seed)
        trained["CPU seconds"] = cpu_seconds(recipe)
        trained["tokens"] = run_step(recipe)["tokens"]
        model = out / "trained/model"
    stage = bench.masked(model, "stage", out / "stage", None, seed)
    after = run_step(stage)["heldout"]["after"]["masked"]["all"]
    measured = {"masked loss": after["loss"], "masked top-1": after["top1"], "masked loss, head anew": after["loss"]}
    if has_head(model):
        save_encoder(load_body(model), model, out / "body")
        anew = bench.masked(out / "body/model", "stage", out / "stage-anew", None, seed)
        measured["masked loss, head anew"] = run_step(anew)["heldout"]["after"]["masked"]["all"]["loss"]
    for name, data in bench.sets().items() if not bench.args.without_ner else ():
        measured[f"F1, {name}"] = entity_f1(bench, model, data, out / name, seed)
    return {"measured": measured, "trained": trained}


def entity_f1(bench: Bench, model: Path, data: Path, out: Path, seed: int) -> float:
    """Strict F1 on a set's test file of the model fine-tuned on its training file."""
    files = {word: next(path for path in sorted(data.iterdir()) if path.name.startswith(name))
             for word, name in FILES.items()}  # fmt: skip
    files["data"] = first_sentences(files["data"], bench.args.sentences, bench.out / f"first-{data.name}.txt")
    values = yaml.safe_load((NANO / "finetune.yaml").read_text()) | bench.words["ner"]
    values |= {"task": "ner", "model": str(model), "data": [str(files.pop("data"))], "out": str(out), "seed": seed}
    values |= {word: str(path) for word, path in files.items()}
    return run_step(recipes.validate(values, "finetune of the bench"))["seeds"][0]["scores"]["f1"]["value"]


def run(bench: Bench, units: Units) -> tuple[Found, Found]:
    """(what was measured, what was trained) by arm."""
    found, trained = {}, {}
    for seed in range(bench.args.seeds):
        for arm in (*ARMS, TEACHER):
            steps = 0
            if arm in ("relations", "masked tokens"):
                inputs = bench.inputs(arm=arm, what="calibrated")
                steps = int(
                    units.of(f"distill, steps of {arm}", inputs, partial(steps_of, bench, arm))["calibrated"]["steps"]
                )
            inputs = bench.inputs(arm=arm, seed=seed, steps=steps)
            figures = units.of(f"distill, {arm}, seed {seed}", inputs, partial(figures_of, bench, arm, steps, seed))
            for of_arm, values in ((found, figures["measured"]), (trained, figures["trained"])):
                for name, value in values.items():
                    of_arm.setdefault(arm, {}).setdefault(name, []).append(value)
    return found, trained


def intervals(found: Found) -> tuple[dict[str, list[float]], str]:
    """({measure: mean, low and high of relations - masked tokens}, the same in words); 95 % by Student's t."""
    from scipy.stats import t

    told, words = {}, []
    for name, values in found["relations"].items():
        differences = np.subtract(values, found["masked tokens"][name])
        mean, count = float(differences.mean()), len(differences)
        half = float(t.ppf(0.975, count - 1) * differences.std(ddof=1) / count**0.5) if count > 1 else float("nan")
        told[name] = [mean, mean - half, mean + half]
        better = -mean if "loss" in name else mean
        verdict = f"relations {'win' if better > 0 else 'lose'}" if abs(mean) > half else "no difference beyond chance"
        words.append(f"| {name} | {mean:+.4f} | {mean - half:+.4f} to {mean + half:+.4f} | {verdict} |")
    head = "| relations - masked tokens | mean | 95 % (t, over seeds) | |\n|---|---:|---:|---|"
    return told, "\n".join((head, *words))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KIND.KEY=VALUE")
    parser.add_argument("--teacher", type=Path, required=True, metavar="DIR")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--real", type=Path, metavar="DATA", help="a folder of real files")
    parser.add_argument("--seconds", type=float, default=600, help="CPU seconds of each training (default: 600)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-rows", type=int, default=64, help="held-out rows (default: 64)")
    parser.add_argument("--without-ner", action="store_true")
    parser.add_argument("--sentences", type=int, default=1500, help="of an entities' training file (default: 1500)")
    parser.add_argument("--out", type=Path, default=Path("runs/distill-bench"))
    parser.add_argument("--units", type=Path, metavar="FILE", help="finished arms' figures (default: OUT/units.jsonl)")
    args = parser.parse_intermixed_args()
    if odd := [word for word in args.settings if word.partition(".")[0] not in DEFAULTS or "=" not in word]:
        parser.error(f"{odd[0]}: a word begins with one of {', '.join(DEFAULTS)} and a point, and has a =")
    return args


def main() -> None:
    args = parsed()
    bench = Bench(args)
    found, trained = run(bench, Units(args.units or args.out / "units.jsonl"))
    told, verdict = intervals(found)
    title = f"{len(args.layers)} layers: a teacher's relations against masked tokens, {args.seconds:g} CPU seconds each"
    seeds = f"{args.seeds} seed{'s' * (args.seeds > 1)}"
    parts = [f"## {title}", f"Mean (smallest to largest) over {seeds}.", table(found, trained, ""), verdict,
             compare(found, "masked tokens")]  # fmt: skip
    text = "\n\n".join(parts) + "\n"
    write_json(args.out / "distill.json", {"seeds": args.seeds, "found": found, "trained": trained, "minus": told})
    write_atomic(args.out / "distill.md", text)
    plot(found, args.out / "distill.png", f"{title} (mean and full range over {seeds})", "")
    print(f"\n{text}\n{args.out / 'distill'}.json, .md, .png")


if __name__ == "__main__":
    main()
