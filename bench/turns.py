"""Loops that are compared by speed: each run is a process of its own, so that its peak memory can be told, and they
take turns, so that what else the machine does meets all of them."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

from nsllm_lite.recipe.kinds import Recipe

Found = dict[str, list[dict[str, float]]]  # loop -> of each round tokens_per_s and peak_gib


def main(
    parser: argparse.ArgumentParser,
    script: str,
    loops: Sequence[str],
    steps: int,
    recipe_of: Callable[[argparse.Namespace, str], Recipe],
    run_one: Callable[[str, Recipe], dict[str, float]],
) -> None:
    """The options that all such benches have, with `steps` as their default; prints the table, or, as a process that
    was started for one of the `loops`, the figures of that."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--loops", nargs="+", choices=loops, default=list(loops))
    parser.add_argument("--one", choices=loops, help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args()
    if args.one:
        with tempfile.TemporaryDirectory() as folder:
            print("\n" + json.dumps(run_one(args.one, recipe_of(args, f"{folder}/out"))))
    else:
        print(table(take_turns(script, args.loops, args.rounds)))


def take_turns(script: str, loops: Sequence[str], rounds: int) -> Found:
    """Runs `script` with this process's words and --one LOOP, which prints its figures as the last line."""
    found: Found = {loop: [] for loop in loops}
    for number in range(rounds):
        for loop in loops if number % 2 == 0 else reversed(loops):
            command = [sys.executable, script, *sys.argv[1:], "--one", loop]
            printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[loop].append(json.loads(printed.splitlines()[-1]))
        speeds = ", ".join(f"{loop} {values[-1]['tokens_per_s']:,.0f}" for loop, values in found.items())
        print(f"round {number + 1}, tokens/s: {speeds}", flush=True)
    return found


def table(found: Found) -> str:
    """Medians, and of the rounds' ratios of time, the first loop's over each, the median (smallest to largest)."""
    first = next(iter(found))
    lines = [f"\n| | tokens/s, median | peak GiB | time, {first} / this |", "|---|---:|---:|---:|"]
    for loop, values in found.items():
        speed, peak = (statistics.median(value[key] for value in values) for key in ("tokens_per_s", "peak_gib"))
        ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(values, found[first], strict=True)]
        told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {loop} | {speed:,.0f} | {peak:.1f} | {told} |")
    return "\n".join(lines)
