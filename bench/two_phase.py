"""Does each phase help beyond chance? Both phases over several seeds, on the sample or on real files.

    python bench/two_phase.py                       the bundled sample, recipes/nano
    python bench/two_phase.py --real DATA           real files and the Qwen3 tokenizer under DATA, a tiny model

The corpus and the base are made once; a seed sets the LoRA's start and the data order of both phases. Exits with 1 when
a phase's fall in held-out domain loss is not more than twice the spread (largest - smallest) over the seeds.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from chains import moved, prepare, recipe_folder

from nsllm_lite.cli import run_step
from nsllm_lite.commands.stories import load_run


def run_seeds(folder: Path, out: Path, seeds: list[int]) -> dict[str, list[tuple[float, float]]]:
    """(held-out domain loss before, after) of each phase for each seed. Finished parts are taken as they are."""
    losses: dict[str, list[tuple[float, float]]] = {"phase1": [], "phase2": []}
    for seed in seeds:
        words = {phase: [f"seed={seed}"] for phase in losses}
        joined = moved(prepare(load_run(folder, out=str(out), overrides=words)), out, out / f"seed-{seed}")
        for train, merge in ((joined["phase1"], joined["model1"]), (joined["phase2"], joined["model2"])):
            heldout = run_step(train)["heldout"]
            losses[Path(train.out).name].append(
                tuple(heldout[when]["domain"]["all"]["loss"] for when in ("before", "after"))
            )
            run_step(merge)
        if seed == seeds[0]:
            run_step(joined["report"])
    return losses


def verdict(losses: dict[str, list[tuple[float, float]]]) -> bool:
    """Prints the table; True when every phase helps by more than twice the spread."""
    good = True
    columns = ("phase", "before", "after, by seed", "fall (smallest)", "spread over seeds", "fall / spread")
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for phase, pairs in losses.items():
        after = [b for _, b in pairs]
        fall = min(a - b for a, b in pairs)
        spread = max(after) - min(after)
        good &= fall > 2 * spread
        before = ", ".join(sorted({f"{a:.4f}" for a, _ in pairs}))
        print(
            f"| {phase} | {before} | {', '.join(f'{b:.4f}' for b in after)} | {fall:.4f} | {spread:.4f} | "
            f"{fall / spread if spread else float('inf'):.0f} |"
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, metavar="DATA")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="keep the runs here (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, recipe_folder(args.real) as folder:
        out = args.out or Path(temporary) / "runs"
        return 0 if verdict(run_seeds(folder, out, args.seeds)) else 1


if __name__ == "__main__":
    sys.exit(main())
