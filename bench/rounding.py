"""What a merge loses: both phases' adapters merged in every way, as 16-bit models and as the NF4 that a phase holds.

    python bench/rounding.py                                            the nano chain
    python bench/rounding.py --recipes recipes/smollm2 --real DATA      a pretrained model, real files
    python bench/rounding.py --stories DATA                             a real Llama of 0.26 M parameters, real papers

    fp32                  the sums as they are: base + adapter, which the others are compared with
    nearest               each sum becomes the nearest bf16, as in PEFT
    stochastic            either neighbour, the nearer the likelier; another draw for each seed of the training
    dequantized, nearest  the update is added to the NF4 rounding of the base, which training saw

Both phases are trained as the recipes say, over several seeds; phase 2 on the merge to the nearest. Of each merge: the
loss on held-out rows of the phase's own text and of general text; the Kullback-Leibler divergence of its predictions
from those of fp32, in nats a token; and what share of the update is in the weights. `auto` would take the better of
nearest and dequantized. Words such as phase1.budget.steps=200 change single recipe values. Writes rounding.json, .md
and .png into --out. What is finished is skipped when the same command is given again, and a killed run continues.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from ablations import REAL_NANO, as_it_stands, judge, mean_and_range, seeded, two_phases
from chains import add_options, parsed, prepare, recipe_folder
from drift import convert_stories, stories_recipes

from nsllm_lite.artifact.disk import save_picture, write_atomic
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.cli import run_step
from nsllm_lite.commands.stories import Run
from nsllm_lite.formats.rows import Row, Rows, in_groups
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import PackedLM, collate
from nsllm_lite.models.loading import load_base
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.merge import Merge

FP32, NEAREST, STOCHASTIC, DEQUANTIZED = "fp32", "nearest", "stochastic", "dequantized, nearest"
WAYS = {
    FP32: {"dtype": "float32"},
    NEAREST: {"dtype": "bfloat16"},
    STOCHASTIC: {"dtype": "bfloat16", "rounding": "stochastic"},
    DEQUANTIZED: {"dtype": "bfloat16", "base_weights": "dequantized"},
}
HELD = {"16 bits": "none", "NF4": "nf4"}  # how the merged model is held -> quantisation
SETS = {"phase 1": {"own": "phase1", "general": "general"}, "phase 2": {"own": "phase2", "general": "general"}}
ROWS_AT_ONCE = 4

Found = dict[str, dict[str, list[float]]]  # "phase 1, nearest, NF4" -> measure -> one value a seed


class Reference:
    """What fp32 predicts, kept as hidden states and the head that makes logits of them."""

    def __init__(self, lm: PackedLM, sets: dict[str, list[Row]]):
        self.head = lm.head_VH.detach()
        with torch.no_grad(), heldout.evaluating(lm):
            self.hidden = {name: [lm.hidden(batch) for batch in batches(rows)] for name, rows in sets.items()}

    def divergence(self, lm: PackedLM, name: str, rows: list[Row]) -> float:
        """Mean KL(fp32 || lm) of the next token, in nats."""
        total, count = 0.0, 0
        with torch.no_grad(), heldout.evaluating(lm):
            for batch, hidden in zip(batches(rows), self.hidden[name], strict=True):
                other = lm.hidden(batch)
                for begin in range(0, len(hidden), 256):
                    part = slice(begin, begin + 256)
                    right = lm.logits_form.of(hidden[part] @ self.head.T).log_softmax(-1)
                    told = lm.logits_form.of(other[part] @ lm.head_VH.T).log_softmax(-1)
                    total += float((right.exp() * (right - told)).sum(-1).double().sum())
                count += len(hidden)
        return total / count


def batches(rows: list[Row]) -> Iterator:
    return (collate(group, "cpu") for group in in_groups(rows, ROWS_AT_ONCE))


def load(folder: Path, quantisation: str) -> PackedLM:
    how = {"double_quantisation": True, "compute_dtype": "float32", "device": "cpu"}
    return PackedLM(load_base(folder, quantisation=quantisation, **how))


def measure(merge: Merge, to: Path, seed: int, sets: dict[str, list[Row]]) -> dict[str, dict[str, float]]:
    """{"nearest, NF4": {measure: value}, ...} of one adapter; the merged models are deleted again."""
    kept = to / "scores.json"
    inputs = {"adapter": str(merge.adapter), "rows": {name: len(rows) for name, rows in sets.items()}}
    if kept.is_file() and (before := read_json(kept))["inputs"] == inputs:
        return before["found"]
    found: dict[str, dict[str, float]] = {}
    reference = None
    for way, changes in WAYS.items():
        drawn = {"rounding_seed": seed} if way == STOCHASTIC else {}
        folder = to / way.replace(", ", "-")
        results = run_step(recipes.update(merge, out=str(folder), then_requantize=False, **changes, **drawn))
        for held, quantisation in HELD.items():
            lm = load(folder, quantisation)
            reference = reference or Reference(lm, sets)
            of = found[f"{way}, {held}"] = {
                "update kept": results["kept_share" if held == "16 bits" else "nf4_kept_share"]
            }
            for name, rows in sets.items():
                of[f"loss, {name}"] = heldout.score(lm, rows, ROWS_AT_ONCE, "cpu")["all"].loss
                of[f"KL, {name}"] = reference.divergence(lm, name, rows)
        if way == NEAREST:
            found["tensors"] = {n: of["kept_share"] for n, of in read_json(folder / "tensors.json").items()}
        shutil.rmtree(folder)
    write_json(kept, {"inputs": inputs, "found": found})
    return found


def run_seed(folder: Path, out: Path, settings: list[str], seed: int, model: str | None, max_rows: int) -> dict:
    """{"phase 1": `measure`'s, "phase 2": `measure`'s}"""
    chain = prepare(seeded(folder, out, settings, seed, model=model))
    two = two_phases(chain, out, seed)
    merges = {
        "phase 1": {"base": chain["phase1"].model, "adapter": f"{as_it_stands(out, seed)}/adapter"},
        "phase 2": {"base": f"{two}/model1", "adapter": f"{two}/phase2/adapter"},
    }
    return {
        phase: measure(
            recipes.update(chain["model1"], **merge),
            out / f"rounding/seed-{seed}" / phase.replace(" ", "-"),
            seed,
            held_out(chain, phase, max_rows),
        )
        for phase, merge in merges.items()
    }


def held_out(chain: Run, phase: str, max_rows: int) -> dict[str, list[Row]]:
    rows = Path(chain["corpus"].out) / "rows"
    return {name: heldout.sample_rows(Rows(rows / of / "heldout"), max_rows) for name, of in SETS[phase].items()}


def gather(by_seed: list[dict]) -> tuple[Found, dict[str, dict[str, float]]]:
    """(measures of each phase, way and holding, a value a seed; by phase the share kept of each tensor, a mean)"""
    found: Found = {}
    tensors: dict[str, dict[str, float]] = {}
    for phase in SETS:
        of_phase = [of_seed[phase] for of_seed in by_seed]
        tensors[phase] = {n: statistics.mean(of["tensors"][n] for of in of_phase) for n in of_phase[0]["tensors"]}
        for way in of_phase[0]:
            if way != "tensors":
                found[f"{phase}, {way}"] = {m: [of[way][m] for of in of_phase] for m in of_phase[0][way]}
    return found, tensors


def table(found: Found) -> str:
    measures = list(next(iter(found.values())))
    lines = [f"| | {' | '.join(measures)} |", f"|---|{'---:|' * len(measures)}"]
    for name, by_measure in found.items():
        cells = []
        for measured, values in by_measure.items():
            if measured.startswith("KL"):
                cells.append(f"{statistics.mean(values):.2e}")
            else:
                cells.append(mean_and_range(values))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(found: Found) -> str:
    """Each way minus nearest, paired by seed."""
    lines = [f"| minus {NEAREST}, same seed | loss, own | loss, general |", "|---|---|---|"]
    for phase in SETS:
        for held in HELD:
            nearest = found[f"{phase}, {NEAREST}, {held}"]
            for way in (FP32, STOCHASTIC, DEQUANTIZED):
                of = found[f"{phase}, {way}, {held}"]
                cells = []
                for measured in ("loss, own", "loss, general"):
                    differences = [a - b for a, b in zip(of[measured], nearest[measured], strict=True)]
                    cells.append(f"{mean_and_range(differences, '+', 5)}: {judge(differences)}")
                lines.append(f"| {phase}, {way}, {held} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(tensors: dict[str, dict[str, float]], png: Path) -> None:
    """The share of the update that rounding to the nearest keeps: layers down, modules across, a panel a phase."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(1, len(tensors), sharey=True)
    for axes, (phase, shares) in zip(panels, tensors.items(), strict=True):
        cells = {}
        for name, share in shares.items():
            place, _, module = name.removesuffix(".weight").rpartition(".")
            cells[int(next(part for part in place.split(".") if part.isdigit())), module] = share
        modules = list(dict.fromkeys(module for _, module in cells))
        layers = sorted({layer for layer, _ in cells})
        image = axes.imshow([[cells[n, m] for m in modules] for n in layers], vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(modules)), modules, rotation=45, ha="right")
        axes.set(title=phase, ylabel="layer" if axes is panels[0] else None)
    figure.colorbar(image, ax=panels, label="share of the update kept by rounding to the nearest bf16")
    save_picture(figure, png)


@contextmanager
def recipes_of(args: argparse.Namespace) -> Iterator[tuple[Path, str | None, list[str]]]:
    """(recipe folder, base model where they name none, settings before those that were typed)"""
    if args.stories:
        with tempfile.TemporaryDirectory() as name:
            model = args.out / "stories260K"
            if not model.is_dir():
                convert_stories(args.stories / "weights_stories260K/data", model)
            yield stories_recipes(args.stories.resolve(), Path(name)), str(model), []
        return
    with recipe_folder(args.real, args.recipes) as folder:
        yield folder, None, REAL_NANO * bool(args.real and not args.recipes)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, stories=True)
    parser.add_argument("--max-rows", type=int, default=16, help="held-out rows of each set (default: 16)")
    args = parsed(parser, words, "runs/ablations")
    with recipes_of(args) as (folder, model, before):
        settings = [*before, *args.settings]
        by_seed = [run_seed(folder, args.out, settings, n, model, args.max_rows) for n in range(args.seeds)]
    found, tensors = gather(by_seed)
    seeds = f"{args.seeds} seed{'s' * (args.seeds > 1)}"
    text = (
        f"## What a merge loses\n\nLoss and KL in nats a token, mean (smallest to largest) over {seeds}; own: "
        f"held-out abstracts after phase 1, experiments after phase 2; at most {args.max_rows} rows each.\n\n"
        f"{table(found)}\n\n{verdicts(found)}\n\n"
        "Beyond the spread: the mean difference is larger than largest - smallest of the differences.\n"
    )
    write_json(args.out / "rounding.json", {"seeds": args.seeds, "found": found, "tensors": tensors})
    write_atomic(args.out / "rounding.md", text)
    plot(tensors, args.out / "rounding.png")
    print(f"\n{text}\n{args.out / 'rounding'}.json, .md, .png")


if __name__ == "__main__":
    main()
