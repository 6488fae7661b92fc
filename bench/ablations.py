"""What a setting is worth: training runs that differ in it alone, over several seeds.

    python bench/ablations.py replay                                        the nano chain
    python bench/ablations.py phases --real DATA                            real files under DATA, a tiny model
    python bench/ablations.py rates --recipes recipes/smollm2 --real DATA   a pretrained model, real files

    replay   Phase 1 with 0, 1, 5 and 20 % of its rows from general text, at equal total rows. Measured on adapter 1
             over NF4(base): held-out loss of abstracts and of general text, minus that of NF4(base).
    rates    Phase 1 with learning rates from 5e-5 to 1e-3, measured alike.
    ranks    Phase 1 with LoRA of rank 8 to 128 and alpha of twice the rank, measured alike.
    ways     Phase 1 as QLoRA, as LoRA on 16-bit weights and with all weights trained, at equal tokens. Measured on the
             16-bit model that it ends in (adapters merged).
    phases   Phase 1, merge, phase 2, merge; against the very rows those two runs saw (replay and repetitions
             included), mixed: in one phase of as many steps, with phase 2's warm-up and cosine over all of them, and
             one new adapter of the same rank, or of twice that rank, as two adapters have together; and in two phases
             with merges and schedules as they were, so that nothing but the order of the rows differs. (One cosine
             has a lower learning rate on average than a constant phase and a cosine: only the last arm is free of
             that.) Measured on the merged models, not quantised.

Of rates and ranks all arms have the first seed; the best, the worst and the recipe's own have all seeds. Of the two
rates for all weights the better one has all seeds. A seed sets the LoRA's start and the data order; corpus and base are
made once, and so is the run of the recipe as it stands, which several of these compare with. Words such as
phase1.checkpoint_steps=20 change single recipe values. Writes WHAT.json, WHAT.md and WHAT.png into --out. The figures
of a finished run stand in --units from then on and are not made again, and a killed run continues. bench/units/ has
those of SmolLM2-135M so far: budget.steps=30 budget.tokens=61440 evaluation.max_rows=40 in both phases.
"""

import argparse
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from chains import add_options, parsed, prepare, recipe_folder
from units import Figures, Units, inputs_of

from nsllm_lite.artifact.disk import save_picture, write_atomic
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.cli import run_step
from nsllm_lite.commands.stories import Run, load_run
from nsllm_lite.formats.rows import Row, Rows, write_rows
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import PackedLM
from nsllm_lite.models.loading import load_base
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Train
from nsllm_lite.train.cpt import step_order
from nsllm_lite.train.inputs import read_inputs

# Arm -> words for phase 1. max_epochs would lower the share of replay where the general text is short: it is as asked
# here, and repetition is told.
ARMS = {
    "replay": {
        f"{share:.0%}": [f"replay.share={share}", "replay.max_epochs=1000000"] for share in (0, 0.01, 0.05, 0.2)
    },
    "rates": {rate: [f"optimizer.learning_rate={rate}"] for rate in ("5e-5", "1e-4", "2e-4", "4e-4", "1e-3")},
    "ranks": {f"rank {r}": [f"adapter.rank={r}", f"adapter.alpha={2 * r}"] for r in (8, 16, 32, 128)},
    "ways": {
        "QLoRA": ["quantisation=nf4"],
        "LoRA on 16 bits": ["quantisation=none"],
        **{
            f"all weights, {rate}": ["quantisation=none", "adapter=null", f"optimizer.learning_rate={rate}"]
            for rate in ("2e-5", "1e-4")
        },
    },
}
SWEEPS = ("rates", "ranks")  # arms that not all have every seed
SETS = {"abstracts": "phase1", "experiments": "phase2", "general": "general"}  # held-out set -> folder of rows
TWO = "two phases"
QUIET = ["samples.count=0", "evaluation.every_steps=1000000", "evaluation.max_rows=150"]  # measure at start and end
# With Qwen3's 151,936 tokens nearly all work is the head's: the base's step took 11 s on one core, and 0.6 s with the
# 4,096 that the real files get here. So more steps can be taken, and something is learnt in them.
REAL_NANO = [
    "corpus.tokenizer=null", "corpus.train_tokenizer={vocab_size: 4096}", "corpus.row_tokens=256",
    "base.budget.steps=160", f"base.budget.tokens={160 * 4096}", "base.evaluation.max_rows=64",
    *(f"{phase}.budget.{word}" for phase in ("phase1", "phase2") for word in ("tokens_per_step=2048", "tokens=409600")),
]  # fmt: skip

Found = dict[str, dict[str, list[float]]]  # arm -> measure -> one value a seed
LOOKS = {
    "CPU seconds": "{:,.0f}", "tokens": "{:,.0f}", "replayed": "{:.2%}", "general text shown": "{:.2f} x",
    "papers shown": "{:.2f} x",
}  # fmt: skip
TITLES = {
    "replay": "Phase 1 by share of replay, at equal total rows",
    "rates": "Phase 1 by learning rate",
    "ranks": "Phase 1 by LoRA rank",
    "ways": "Phase 1 as QLoRA, as LoRA on 16 bits, and with all weights trained",
    "phases": "Two phases, and the same rows mixed: merged models",
}
MINUS_BASE = ("replay", *SWEEPS)  # what is measured there as a difference


def seeded(folder: Path, out: Path, settings: list[str], seed: int, *more: str, model: str | None = None) -> Run:
    """The chain of `seed`; `settings` are words for any step, `more` for both phases. `model` is the base where the
    recipes name none."""
    words: dict[str, list[str]] = {phase: list(QUIET) for phase in ("phase1", "phase2")}
    for setting in settings:
        step, _, word = setting.partition(".")
        words.setdefault(step, []).append(word)
    for phase in ("phase1", "phase2"):
        words[phase] += [f"seed={seed}", *more]
    return load_run(folder, model=model, out=str(out), overrides=words)


# ---------------------------------------------------------------------------------------------------------- arms


def run_arms(
    what: str, folder: Path, out: Path, settings: list[str], seeds: range, units: Units
) -> tuple[Found, Found]:
    """(losses, those of MINUS_BASE minus the base's; what was trained) by arm."""
    found: Found = {arm: {} for arm in ARMS[what]}
    trained: Found = {arm: {} for arm in ARMS[what]}
    chosen = set(ARMS[what])
    own = of_recipe(what, folder, out, settings)
    prepare(seeded(folder, out, settings, seeds[0]))
    for seed in seeds:
        for arm in [arm for arm in ARMS[what] if arm in chosen]:
            chain = seeded(folder, out, settings, seed, *ARMS[what][arm])
            to = as_it_stands(out, seed) if arm == own else f"{out}/{what}/seed-{seed}/{arm.replace(' ', '-')}"
            phase1 = recipes.update(chain["phase1"], out=to)
            measured = "adapter" if what in MINUS_BASE else "merged"
            inputs = inputs_of(measured, [phase1], phase1.model, chain["corpus"].out)
            figures = units.of(f"{what}, {arm}, seed {seed}", inputs, partial(figures_of, chain, phase1, measured))
            for of_arm, values in ((found, figures["losses"]), (trained, figures["trained"])):
                for name, value in values.items():
                    of_arm[arm].setdefault(name, []).append(value)
        if seed == seeds[0]:
            by_loss = sorted(found, key=lambda arm: found[arm]["abstracts"][0])
            if what in SWEEPS:
                chosen = {by_loss[0], by_loss[-1], reference_of(what, folder, out, settings)}
            elif what == "ways":
                chosen -= set([arm for arm in by_loss if arm.startswith("all weights")][1:])
    return found, trained


def figures_of(chain: Run, phase1: Train, measured: str) -> Figures:
    """Trains phase 1; its losses, and what it was trained on."""
    results = run_step(phase1)
    replayed = results["tokens"] - results["domain_tokens"]
    trained = {
        "tokens": results["tokens"],
        "replayed": replayed / results["tokens"],
        "general text shown": replayed / Rows(Path(phase1.replay.rows)).totals.num_tokens,
        "papers shown": results["coverage"],
    }
    return {"losses": of_training(results) if measured == "adapter" else of_model(chain, phase1), "trained": trained}


def of_recipe(what: str, folder: Path, out: Path, settings: list[str]) -> str | None:
    """The arm that changes nothing of the recipe."""
    own = seeded(folder, out, settings, 0)["phase1"]
    arms = ARMS[what].items()
    return next((arm for arm, words in arms if seeded(folder, out, settings, 0, *words)["phase1"] == own), None)


def as_it_stands(out: Path, seed: int) -> str:
    """Where phase 1 of the recipe itself is written."""
    return f"{out}/as-it-stands/seed-{seed}"


def reference_of(what: str, folder: Path, out: Path, settings: list[str]) -> str:
    """The arm that the others are compared with: of a sweep the recipe's own, else the first."""
    return (of_recipe(what, folder, out, settings) if what in SWEEPS else None) or next(iter(ARMS[what]))


def of_training(results: dict) -> dict[str, float]:
    """Held-out losses after the training minus those before."""
    before, after = (results["heldout"][when] for when in ("before", "after"))
    names = {"abstracts": "domain", "general": "general"}
    return {measure: after[name]["all"]["loss"] - before[name]["all"]["loss"] for measure, name in names.items()}


def of_model(chain: Run, phase1: Train) -> dict[str, float]:
    """Held-out losses of the 16-bit model that phase 1 ends in."""
    model = f"{phase1.out}/model"
    if phase1.adapter:
        model = f"{phase1.out}-merged"
        run_step(recipes.update(chain["model1"], base=phase1.model, adapter=f"{phase1.out}/adapter", out=model))
    return score(model, chain["corpus"].out, phase1.evaluation.max_rows)


# -------------------------------------------------------------------------------------------------------- phases


def seen_rows(phase: Train) -> list[Row]:
    """The rows of all steps of a run, in its order, replay and repetitions included."""
    order = step_order(phase, read_inputs(phase))
    return [row for step in range(phase.budget.steps) for row in order.rows(step)]


def write_mixed(rows: list[Row], like: Path, to: Path) -> str:
    """Writes rows made with the tokenizer of those at `like`; the training that reads them shuffles them."""
    totals = Rows(like).totals
    write_rows(to, rows, replace(totals, num_rows=0, num_tokens=0, num_pieces=0, num_bytes=0))
    return str(to)


def phase_arms(chain: Run, to: Path, seed: int) -> dict[str, list[Train]]:
    """Arm -> its training runs, each starting from the merge of the one before.

    Raises:
        ValueError: the phases take steps of different sizes.
    """
    first, second = chain["phase1"].budget, chain["phase2"].budget
    if first.tokens_per_step != second.tokens_per_step:
        raise ValueError(
            f"phase 1 takes {first.tokens_per_step} tokens a step and phase 2 {second.tokens_per_step}: one phase for "
            "both needs one size. Set phase1.budget.tokens_per_step and phase2.budget.tokens_per_step alike."
        )
    starts_at_base = recipes.update(chain["phase2"], model=chain["phase1"].model)
    seen = [*seen_rows(chain["phase1"]), *seen_rows(starts_at_base)]
    num_first = first.steps * first.tokens_per_step // Rows(Path(chain["phase1"].rows)).totals.row_tokens
    dealt = np.random.default_rng([seed, 2]).permutation(len(seen))
    parts = {"all": seen, "first": [seen[i] for i in dealt[:num_first]], "second": [seen[i] for i in dealt[num_first:]]}
    rows = {name: write_mixed(part, Path(chain["phase1"].rows), to / "rows" / name) for name, part in parts.items()}

    steps = first.steps + second.steps
    budget = {"steps": steps, "tokens_per_step": first.tokens_per_step, "tokens": first.tokens + second.tokens}
    mixed = recipes.update(starts_at_base, rows=rows["all"], budget=budget, replay=None)
    rank, alpha = chain["phase2"].adapter.rank, chain["phase2"].adapter.alpha
    wide = {**chain["phase2"].adapter.model_dump(), "rank": 2 * rank, "alpha": 2 * alpha}  # the same alpha / rank
    return {
        TWO: [chain["phase1"], chain["phase2"]],
        f"mixed, rank {rank}": [mixed],
        f"mixed, rank {2 * rank}": [recipes.update(mixed, adapter=wide)],
        "mixed, in two phases": [
            recipes.update(phase, rows=rows[part], replay=None)
            for phase, part in ((chain["phase1"], "first"), (chain["phase2"], "second"))
        ],
    }


def train_and_merge(chain: Run, phases: list[Train], to: Path, first: str = "") -> tuple[str, int]:
    """(the last merged model, tokens trained in all); the first phase is written to `first` where this is named."""
    model, tokens = chain["phase1"].model, 0
    for number, phase in enumerate(phases, 1):
        train = recipes.update(phase, model=model, out=(number == 1 and first) or f"{to}/phase{number}")
        tokens += run_step(train)["tokens"]
        merge = chain["model2"] if number == len(phases) else chain["model1"]
        model = f"{to}/model{number}"
        run_step(recipes.update(merge, base=train.model, adapter=f"{train.out}/adapter", out=model))
    return model, tokens


def two_phases(chain: Run, out: Path, seed: int) -> Path:
    """Trains and merges both phases as the recipes stand; the folder with model1, phase2 and model2."""
    to = out / f"phases/seed-{seed}" / TWO.replace(" ", "-")
    train_and_merge(chain, [chain["phase1"], chain["phase2"]], to, as_it_stands(out, seed))
    return to


def score(directory: str, corpus: str, max_rows: int) -> dict[str, float]:
    """Held-out loss of the model in `directory` by set."""
    sets = {name: Rows(Path(corpus) / "rows" / folder / "heldout") for name, folder in SETS.items()}
    options = {"quantisation": "none", "double_quantisation": False, "compute_dtype": "float32", "device": "cpu"}
    lm = PackedLM(load_base(Path(directory), **options))
    return {
        name: heldout.score(lm, heldout.sample_rows(rows, max_rows), 4, "cpu")["all"].loss
        for name, rows in sets.items()
    }


def run_phases(
    folder: Path, out: Path, settings: list[str], seeds: range, only: list[str], units: Units
) -> tuple[Found, Found]:
    """(held-out losses of the merged models, what was trained) by arm, the base first."""
    found: Found = {}
    trained: Found = {}
    for seed in seeds:
        chain = prepare(seeded(folder, out, settings, seed))
        root, base, corpus = out / f"phases/seed-{seed}", chain["phase1"].model, chain["corpus"].out
        for arm, phases in {"base": [], **phase_arms(chain, root, seed)}.items():
            if only and arm not in ("base", TWO, *only):
                continue
            to = root / arm.replace(", ", "-").replace(" ", "-")
            first = as_it_stands(out, seed) if arm == TWO else ""
            max_rows = chain["phase2"].evaluation.max_rows
            inputs = inputs_of(f"merged, {max_rows} rows", phases, base, corpus)
            make = partial(figures_of_phases, chain, phases, to, first, max_rows)
            figures = units.of(f"phases, {arm}, seed {seed}", inputs, make)
            for of_arm, values in ((found, figures["losses"]), (trained, figures["trained"])):
                for name, value in values.items():
                    of_arm.setdefault(arm, {}).setdefault(name, []).append(value)
            tokens = figures["trained"]["tokens"]
            assert not phases or tokens == trained[TWO]["tokens"][seed], f"{to} trained {tokens} tokens: {trained[TWO]}"
    return found, trained


def figures_of_phases(chain: Run, phases: list[Train], to: Path, first: str, max_rows: int) -> Figures:
    """Trains and merges `phases`; the losses of the last merge, or of the base where there are none."""
    model, tokens = train_and_merge(chain, phases, to, first) if phases else (chain["phase1"].model, 0)
    return {"losses": score(model, chain["corpus"].out, max_rows), "trained": {"tokens": tokens}}


# ------------------------------------------------------------------------------------------------------- results


def mean_and_range(values: list[float], sign: str = "", digits: int = 4) -> str:
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def table(found: Found, trained: Found, sign: str) -> str:
    """Each arm's figures, mean (smallest to largest) over the seeds; what was trained as a mean."""
    measures, details = list(next(iter(found.values()))), list(next(iter(trained.values())))
    lines = [f"| | {' | '.join((*details, *measures))} |", f"|---|{'---:|' * (len(details) + len(measures))}"]
    for arm, by_measure in found.items():
        told = (LOOKS[name].format(statistics.mean(values)) for name, values in trained[arm].items())
        lines.append(f"| {' | '.join((arm, *told, *(mean_and_range(v, sign) for v in by_measure.values())))} |")
    return "\n".join(lines)


def judge(differences: list[float]) -> str:
    """`differences` are arm - reference in loss, one a seed: whether their mean exceeds their spread."""
    if len(differences) < 2:
        return "one seed, no spread to compare with"
    mean, spread = statistics.mean(differences), max(differences) - min(differences)
    if abs(mean) <= spread:
        return "no difference beyond the spread"
    return f"{'lower' if mean < 0 else 'higher'}, beyond the spread"


def compare(found: Found, reference: str) -> str:
    """Each arm minus the reference, paired by seed, with a verdict."""
    measures = list(found[reference])
    lines = [f"| minus {reference}, same seed | {' | '.join(measures)} |", f"|---|{'---|' * len(measures)}"]
    for arm, by_measure in found.items():
        if arm in (reference, "base"):
            continue
        cells = []
        for name, values in by_measure.items():
            differences = [value - other for value, other in zip(values, found[reference][name], strict=False)]
            cells.append(f"{mean_and_range(differences, '+')}: {judge(differences)}")
        lines.append(f"| {' | '.join((arm, *cells))} |")
    return "\n".join(lines)


def plot(found: Found, png: Path, title: str, ylabel: str) -> None:
    """A panel a measure, the arms side by side: mean, the full range over the seeds as bar, each seed as dot."""
    from matplotlib.figure import Figure

    arms = [arm for arm in found if arm != "base"]
    measures = list(found[arms[0]])
    figure = Figure(figsize=(1 + 3.4 * len(measures), 4.2), layout="constrained")
    for number, (axes, name) in enumerate(zip(figure.subplots(1, len(measures)), measures, strict=True)):
        values = [found[arm][name] for arm in arms]
        means = [statistics.mean(v) for v in values]
        bars = [[m - min(v) for m, v in zip(means, values, strict=True)]]
        bars += [[max(v) - m for m, v in zip(means, values, strict=True)]]
        axes.errorbar(range(len(arms)), means, yerr=bars, fmt="o", capsize=5, color=f"C{number}")
        for place, of_arm in enumerate(values):
            axes.plot([place + 0.15] * len(of_arm), of_arm, ".", color="0.5", markersize=4)
        axes.set_xticks(range(len(arms)), arms, rotation=20 if len(max(arms, key=len)) > 4 else 0)
        axes.margins(x=0.15)
        axes.set(title=f"held-out {name}", ylabel=ylabel if number == 0 else None)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save_picture(figure, png)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(TITLES))
    add_options(parser)
    parser.add_argument("--arms", nargs="+", default=[], help="of phases, beside two phases (default: all)")
    parser.add_argument("--units", type=Path, metavar="FILE", help="finished runs' figures (default: OUT/units.jsonl)")
    args = parsed(parser, words, "runs/ablations")
    out = args.out
    units = Units(args.units or out / "units.jsonl")
    with recipe_folder(args.real, args.recipes) as folder:
        settings = [*REAL_NANO * bool(args.real and not args.recipes), *args.settings]
        if args.what == "phases":
            reference, (found, trained) = TWO, run_phases(folder, out, settings, range(args.seeds), args.arms, units)
        else:
            found, trained = run_arms(args.what, folder, out, settings, range(args.seeds), units)
            reference = reference_of(args.what, folder, out, settings)
    legend, sign = ("Loss minus the base's", "+") if args.what in MINUS_BASE else ("Loss", "")
    legend += ", in nats per token"
    seeds = f"{args.seeds} seed{'s' * (args.seeds > 1)}"
    rule = "Beyond the spread: the mean difference is larger than largest - smallest of the differences."
    tables = f"{table(found, trained, sign)}\n\n{compare(found, reference)}\n\n{rule}"
    title = TITLES[args.what]
    text = f"## {title}\n\n{legend}: mean (smallest to largest) over {seeds}.\n\n{tables}\n"
    write_json(out / f"{args.what}.json", {"seeds": args.seeds, "found": found, "trained": trained})
    write_atomic(out / f"{args.what}.md", text)
    plot(found, out / f"{args.what}.png", f"{title} (mean and full range over {seeds})", legend)
    print(f"\n{text}\n{out / args.what}.json, .md, .png")


if __name__ == "__main__":
    main()
