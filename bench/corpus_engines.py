"""The reading stage by `shards.run_stage`, datatrove and Ray: seconds, memory, and what a killed worker costs.

    python bench/corpus_engines.py [--num N] [--repeats N] [--kill]

All run the same 16 tasks of synthetic abstracts (those of corpus_scale.py), each way in a fresh process; the best of
the repeats is shown, memory as the highest sum of proportional set sizes (PSS) over all processes. `--kill` shows
instead what happens when a worker is killed with SIGKILL in the middle of a task, and how much a second run does again.
"""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from corpus_scale import recipe_of, write_abstracts

NUM_TASKS = 16
GIVEN_UP_SECONDS = 60
NEEDS = {"run_stage": (), "datatrove": ("datatrove",), "datatrove_ray": ("datatrove", "ray")}
NEEDS |= {"ray": ("ray",), "ray_data": ("ray",)}
WAYS = [("run_stage", 1), ("run_stage", 2), ("datatrove", 1), ("datatrove", 2)]
WAYS += [("datatrove_ray", 2), ("ray", 2), ("ray_data", 2)]


def answer(function: Callable, tasks: list, folder: Path, number: int, *_: object) -> None:
    """Does one task if it is not done, and notes that it did."""
    from nsllm_lite.artifact.json_files import write_json

    if not (folder / f"tasks/{number:05d}.json").is_file():
        write_json(folder / f"tasks/{number:05d}.json", function(tasks[number]))


def do(function: Callable, fatal: Path | None, done: Path, task: tuple) -> dict:
    """The task; where `fatal` names a file that is not there yet, task 5 makes it and dies."""
    if fatal and task.number == 5 and not fatal.exists():
        fatal.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with open(done, "a") as file:
        file.write(f"{task.number}\n")
    return function(task)


def run_way(way: str, workers: int, folder: Path, kill: bool) -> None:
    from nsllm_lite.corpus import shards
    from nsllm_lite.corpus.ingest import ingest
    from nsllm_lite.recipe import load as recipes

    recipe = recipes.validate(recipe_of(folder, workers, None), "bench")
    shards.TASK_BYTES = (folder / "abstracts.json").stat().st_size // NUM_TASKS + 1
    tasks = shards.read_tasks(recipe)
    fatal = folder / "fatal" if kill else None
    function = partial(do, partial(ingest, recipe, folder / "read"), fatal, folder / "done")
    one = partial(answer, function, tasks, folder)
    (folder / "tasks").mkdir(exist_ok=True)
    if way == "run_stage":
        sizes = [task.num_bytes for task in tasks]
        shards.run_stage(shards.Stage("reading", function, tasks, sizes, folder / "tasks"), workers)
    elif way == "datatrove":
        from datatrove.executor.local import LocalPipelineExecutor

        step = lambda data, rank, world_size: one(rank)  # noqa: E731
        LocalPipelineExecutor([step], len(tasks), workers, str(folder / "logs")).run()
    else:
        run_ray(way, workers, folder, one, tasks)


def run_ray(way: str, workers: int, folder: Path, one: Callable, tasks: list) -> None:
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, logging_level="error", log_to_driver=False)
    if way == "ray":
        remote = ray.remote(num_cpus=1)(lambda number: one(number))
        ray.get([remote.remote(number) for number in range(len(tasks))])
    elif way == "ray_data":
        from ray import data

        def row(item: dict) -> dict:
            one(item["id"])
            return item

        data.range(len(tasks), override_num_blocks=len(tasks)).map(row, num_cpus=1).materialize()
    else:
        from datatrove.executor.ray import RayPipelineExecutor

        step = lambda data, rank, world_size: one(rank)  # noqa: E731
        memory = {"logging_dir": str(folder / "logs"), "mem_per_cpu_gb": 1}
        RayPipelineExecutor([step], len(tasks), workers, **memory).run()
    ray.shutdown()


# ---------------------------------------------------------------------------------------------------------- measuring


def own_processes(mark: str) -> list[Path]:
    """All processes that have the mark in their environment: also those that Ray detaches."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append(process)
        except OSError:  # it ended, or is another's
            continue
    return found


def pss_mib(processes: list[Path]) -> float:
    total = 0
    for process in processes:
        try:
            lines = (process / "smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total / 1024


def run_fresh(way: str, workers: int, folder: Path, kill: bool) -> tuple[str, float, float, int]:
    """(how it ended, seconds, peak MiB, most processes at once)"""
    mark = f"ENGINES_BENCH={uuid.uuid4()}"
    command = [sys.executable, __file__, "--way", way, str(workers), "--folder", str(folder), *["--kill"] * kill]
    environment = {**os.environ, "ENGINES_BENCH": mark.partition("=")[2], "RAY_USAGE_STATS_ENABLED": "0"}
    started = time.perf_counter()
    with open(folder / "log", "a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        peak = most = 0
        while process.poll() is None and not (kill and time.perf_counter() - started > GIVEN_UP_SECONDS):
            alive = own_processes(mark)
            peak, most = max(peak, pss_mib(alive)), max(most, len(alive))
            time.sleep(0.25)
    seconds = time.perf_counter() - started
    ended = "hangs" if process.returncode is None else f"exit {process.returncode}"
    for path in own_processes(mark):  # of a hanging run
        try:
            os.kill(int(path.name), signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    return ended, seconds, peak, most


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in ("abstracts.json", "log"):
            subprocess.run(["rm", "-rf", str(path)], check=True)


def compare(ways: list[tuple[str, int]], folder: Path, repeats: int) -> None:
    best: dict[tuple[str, int], tuple] = {}
    for _ in range(repeats):
        for way in ways:
            empty(folder)
            ended, *figures = run_fresh(*way, folder, False)
            if ended != "exit 0":
                sys.exit(f"{way}: {ended}\n{(folder / 'log').read_text()[-3000:]}")
            assert len(list((folder / "tasks").glob("*.json"))) == NUM_TASKS
            best[way] = min(best.get(way, (float("inf"),)), tuple(figures))
    print(f"{'':<16} workers  seconds  / run_stage   MiB (PSS)  processes")
    for (name, workers), (seconds, peak, most) in best.items():
        ratio = seconds / best["run_stage", workers][0]
        print(f"{name:<16} {workers:>7} {seconds:8.1f} {ratio:12.2f} {peak:11,.0f} {most:10}")


def compare_kills(ways: list[tuple[str, int]], folder: Path) -> None:
    for way, workers in ways:
        if workers == 1:
            continue
        empty(folder)
        done, tasks = folder / "done", folder / "tasks"
        ended, seconds, *_ = run_fresh(way, workers, folder, True)
        first, kept = len(done.read_text().split()), len(list(tasks.glob("*.json")))
        again, *_ = run_fresh(way, workers, folder, True)
        second = len(done.read_text().split()) - first
        assert len(list(tasks.glob("*.json"))) == NUM_TASKS
        how = f"{ended} after {seconds:.0f} s, {kept} of {NUM_TASKS} tasks done"
        print(f"{way:<16} worker killed: {how}; run again: {again}, {second} tasks done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=24_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        import corpus_engines  # so that functions are pickled by a name that started processes can import

        return corpus_engines.run_way(args.way[0], int(args.way[1]), args.folder, args.kill)
    ways = []
    for way in WAYS:
        absent = [package for package in NEEDS[way[0]] if not importlib.util.find_spec(package)]
        if absent:
            print(f"{way[0]}: skipped, {absent[0]} is not installed")
        else:
            ways.append(way)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_abstracts(folder / "abstracts.json", args.num)
        mb = (folder / "abstracts.json").stat().st_size / 1e6
        print(f"{args.num:,} abstracts, {mb:,.0f} MB, {NUM_TASKS} tasks", flush=True)
        compare_kills(ways, folder) if args.kill else compare(ways, folder, args.repeats)
    return None


if __name__ == "__main__":
    main()
