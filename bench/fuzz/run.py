"""Fuzzing: damaged and odd inputs for everything that reads, by mutation and guided by coverage.

    python -m bench.fuzz.run                       all targets, and a table at the end; status 1 if a promise broke
    python -m bench.fuzz.run --list                the targets
    python -m bench.fuzz.run "read latex" --runs 100000 --seconds 600 --seed 7
    python -m bench.fuzz.run rows --input FILE     one input again, with its traceback

A target promises that no bytes crash it, hang it, take much memory, unpickle, start a process (but the one that reads
workbooks), reach the network or write elsewhere; what else it promises stands in its function. Inputs that break one
are made small and go to --found.
"""

import argparse
import hashlib
import importlib.util
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from bench.fuzz.guard import CPU_SECONDS, Broken, guarded
from bench.fuzz.mutate import WORDS, mutate, smallest
from bench.fuzz.target import SEEDS, Target, seeds_of

MAX_GUIDED_BYTES = 4096
COMMAND = [sys.executable, "-m", "bench.fuzz.run"]
if __name__ == "__main__":  # before the package is imported, which the targets do
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MPLCONFIGDIR=tempfile.gettempdir(), TQDM_DISABLE="1")


def load(module: str) -> dict[str, Target]:
    return importlib.import_module(f"bench.fuzz.{module}").TARGETS


def everything() -> dict[str, Target]:
    return {**load("corpus"), **load("files"), **load("cli")}


def broken_by(target: Target, content: bytes, folder: Path) -> BaseException | None:
    """The promise that the input breaks, as an exception."""
    try:
        with guarded(folder):
            target.check(content, folder)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 (a panic in Rust is no Exception)
        return error
    return None


def place_of(error: BaseException) -> str:
    """Where it was raised: of equal places one input is kept."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "nsllm_lite" in frame.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {Path(last.filename).name}:{last.lineno}"


# ------------------------------------------------------------------------------------------------------- two ways


def run_mutated(name: str, target: Target, seed: str, runs: int, seconds: float, folder: Path, found: Path) -> dict:
    """Seeds, then mutations of them. The number of an input and `seed` decide it."""
    seeds = list(seeds_of(target).values())
    started, count, hangs, slowest = time.process_time(), 0, 0, 0.0
    broken: Counter[str] = Counter()
    while count < runs and time.process_time() - started < seconds:
        content = seeds[count] if count < len(seeds) else mutate(Random(f"{seed}/{name}/{count}"), seeds)
        (folder.parent / "current").write_bytes(content)
        begun = time.process_time()
        error = broken_by(target, content, folder)
        slowest = max(slowest, (time.process_time() - begun) * (count >= len(seeds)))  # the seeds also import
        count += 1
        if error:
            is_hang = isinstance(error, Broken) and error.hangs
            hangs += is_hang
            broken[place := place_of(error)] += 1
            if broken[place] == 1:
                if not is_hang:
                    content = smallest(content, lambda c, place=place: _breaks(target, c, folder, place))
                keep(found, target, content)
                print(f"{name}: {place}: {str(error)[:300]}", file=sys.stderr, flush=True)
    seconds = time.process_time() - started
    figures = {"inputs": count * target.inputs_each, "crashes": broken.total() - hangs, "hangs": hangs}
    return figures | {"seconds": seconds, "slowest": slowest}


def _breaks(target: Target, content: bytes, folder: Path, place: str) -> bool:
    error = broken_by(target, content, folder)
    return error is not None and place_of(error) == place


def keep(found: Path, target: Target, content: bytes) -> Path:
    path = found / target.seeds / f"found-{hashlib.sha256(content).hexdigest()[:8]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def guide(name: str, runs: int, seconds: float, seed: str, folder: Path) -> None:
    """libFuzzer's own loop, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=["nsllm_lite"]):
        target = load("corpus" if name.startswith("read ") or name == "texts" else "files")[name]

    def check(content: bytes) -> None:
        with guarded(folder):
            target.check(content, folder)

    words = folder.parent / "words"
    escaped = ["".join(f"\\x{byte:02x}" for byte in word) for word in WORDS if len(word) < 30]
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    corpus = folder.parent / "corpus"
    corpus.mkdir()
    options = {
        "runs": runs, "max_total_time": int(4 * seconds), "seed": int.from_bytes(seed.encode()[:3]) + 1,
        "timeout": int(3 * CPU_SECONDS), "rss_limit_mb": 4096, "max_len": MAX_GUIDED_BYTES, "dict": words,
        "artifact_prefix": f"{folder.parent}/artifact-", "print_final_stats": 1, "close_fd_mask": 1,
    }  # fmt: skip
    folders = [str(corpus), str(SEEDS / target.seeds)]
    atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), *folders], check)
    atheris.Fuzz()


# --------------------------------------------------------------------------------------------------------- processes


def mutated_lines(names: list[str], asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line of figures for each target; one that ends its process counts as a crash, and the rest go on in another."""
    while names:
        with tempfile.TemporaryDirectory() as work:
            words = [f"--worker={work}", f"--seed={asked.seed}", f"--found={asked.found}", f"--seconds={asked.seconds}"]
            words += [f"--runs={asked.runs}"] if asked.runs is not None else []
            with subprocess.Popen([*COMMAND, *words, *names], stdout=subprocess.PIPE, text=True) as worker:
                for line in worker.stdout:
                    names.pop(0)
                    yield json.loads(line)
            if worker.returncode and names:
                name = names.pop(0)
                kept = keep(asked.found, everything()[name], (Path(work) / "current").read_bytes())
                print(f"{name}: the process ended with {worker.returncode}: {kept}", file=sys.stderr)
                figures = {"inputs": 0, "crashes": 1, "hangs": 0, "seconds": 0.0, "slowest": None}
                yield {"target": name, "by": "mutation", **figures}


def work_through(asked: argparse.Namespace) -> None:
    """The worker of `mutated_lines`."""
    targets = everything()
    out = os.fdopen(os.dup(1), "w")
    for name in asked.targets:
        target = targets[name]
        folder = Path(asked.worker) / "scratch"
        folder.mkdir(exist_ok=True)
        runs = target.num_mutated + (0 if has_atheris() else target.num_guided) if asked.runs is None else asked.runs
        line = run_mutated(name, target, asked.seed, runs, asked.seconds, folder, asked.found)
        print(json.dumps({"target": name, "by": "mutation", **line}), file=out, flush=True)


def guided_line(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    target = everything()[name]
    runs = target.num_guided if asked.runs is None else asked.runs
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "scratch").mkdir()
        words = [f"--guide={work}", f"--seed={asked.seed}", f"--runs={runs}", f"--seconds={asked.seconds}", name]
        started = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, errors="replace")
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime
        artifacts = sorted(Path(work).glob("artifact-*"))
        for path in artifacts:
            print(f"{name}: {keep(asked.found, target, path.read_bytes())}", file=sys.stderr)
    counted = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    hangs = sum(path.name.startswith("artifact-timeout") for path in artifacts)
    crashes = len(artifacts) - hangs
    if not counted or (done.returncode and not artifacts):
        crashes += 1
    if crashes or hangs:
        print(done.stderr[-3000:], file=sys.stderr)
    inputs = int(counted[1]) if counted else 0
    figures = {"inputs": inputs, "crashes": crashes, "hangs": hangs, "seconds": seconds, "slowest": None}
    return {"target": name, "by": "coverage", **figures}


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


# ------------------------------------------------------------------------------------------------------- the table


HEADS = f"{'target':<18} {'by':<9} {'inputs':>9} {'crashes':>8} {'hangs':>6} {'CPU s':>8}  slowest"


def row(line: dict[str, Any]) -> str:
    slowest = "" if line["slowest"] is None else f"{line['slowest']:.2f}"
    counts = f"{line['inputs']:>9,} {line['crashes']:>8} {line['hangs']:>6} {line['seconds']:>8.1f}"
    return f"{line['target']:<18} {line['by']:<9} {counts}  {slowest}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--list", action="store_true", help="the targets, with the inputs of a whole run")
    parser.add_argument("--by", choices=("mutation", "coverage"), help="one of the two ways (default: both)")
    parser.add_argument("--runs", type=int, help="inputs of each target and way (default: as --list says)")
    parser.add_argument("--seconds", type=float, default=600, help="of CPU, of each target and way at most (600)")
    parser.add_argument("--seed", default="0", help="other inputs (default: 0)")
    parser.add_argument("--found", type=Path, default="found", help="where inputs that broke a promise go (found)")
    parser.add_argument("--input", type=Path, help="try this file alone on the one TARGET")
    parser.add_argument("--json", type=Path, help="write the table's figures there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--guide", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.guide:
        guide(asked.targets[0], asked.runs, asked.seconds, asked.seed, Path(asked.guide) / "scratch")
    targets = everything()
    if unknown := set(asked.targets) - targets.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(targets)}")
    if asked.list:
        for name, target in targets.items():
            mutated = target.num_mutated * target.inputs_each
            print(f"{name:<18} {mutated:>8,} by mutation {target.num_guided:>8,} by coverage")
        return 0
    if asked.input:
        with tempfile.TemporaryDirectory() as work, guarded(Path(work)):
            targets[asked.targets[0]].check(asked.input.read_bytes(), Path(work))
        return 0
    asked.found = asked.found.absolute()
    if asked.worker:
        work_through(asked)
        return 0
    names = asked.targets or list(targets)
    guided = [name for name in names if targets[name].num_guided] if asked.by != "mutation" else []
    if guided and not has_atheris():
        print("atheris is not installed: nothing is guided by coverage, more is mutated", file=sys.stderr)
        guided = []
    lines = []
    print(HEADS, flush=True)
    mutated = mutated_lines(list(names), asked) if asked.by != "coverage" else ()
    for line in itertools.chain(mutated, (guided_line(name, asked) for name in guided)):
        lines.append(line)
        print(row(line), flush=True)
    sums = {key: sum(line[key] for line in lines) for key in ("inputs", "crashes", "hangs", "seconds")}
    slowest = max((line["slowest"] or 0 for line in lines), default=0)
    print(row({"target": "all", "by": "", **sums, "slowest": slowest}))
    if asked.json:
        asked.json.write_text(json.dumps(lines))
    return int(any(line["crashes"] or line["hangs"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
