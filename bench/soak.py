"""The nano chain again and again in one process: memory, open files and threads stay flat, every result is the same.

    python -m bench.soak --minutes 30                  the bundled sample
    python -m bench.soak --minutes 30 --data FOLDER    a folder of real files as the corpus

A line a loop, then the slope of the resident memory over the later half, when caches are full.
"""

import argparse
import contextlib
import ctypes
import gc
import hashlib
import io
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nsllm_lite import cli

ROOT = Path(__file__).parents[1]
MOST_MIB_A_LOOP = 5.0  # a model of nano that was kept would be 11, and a loop loads more than twenty
DIFFER = ("times.json", "trainer_log.jsonl")  # dates and durations, nothing else
FEW = [
    *("base.budget.steps=8", "base.budget.tokens=16384", "base.schedule.warmup_steps=1"),
    *(f"{phase}.budget.{key}" for phase in ("phase1", "phase2") for key in ("steps=6", "tokens=6144")),
    *(f"{phase}.schedule.warmup_steps=1" for phase in ("phase1", "phase2")),
    *(f"{name}.evaluation.max_rows=4" for name in ("base", "phase1", "phase2")),
    *("report.max_rows=4", "corpus.max_drop_share=1", "corpus.execution.workers=1"),
    *("tasks.max_per_task=20", "eval.max_items=2"),
]  # one process, so that what leaks while reading leaks here


class Loop(NamedTuple):
    seconds: float
    resident_mib: float
    files: int
    threads: int
    digest: str


def once(out: Path, data: Path | None) -> Loop:
    started = time.monotonic()
    words = ["--recipes", str(ROOT / "recipes/nano"), "--out", str(out), *(["--corpus", str(data)] if data else [])]
    for verb in ("two-phase", "eval-run"):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = cli.main([verb, *words, *FEW])
        assert status == 0, said.getvalue()
    digest = digest_of(out)
    shutil.rmtree(out)
    seconds = time.monotonic() - started
    return Loop(seconds, resident_mib(), len(os.listdir("/proc/self/fd")), threading.active_count(), digest)


def digest_of(out: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name not in DIFFER:
            digest.update(str(path.relative_to(out)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def resident_mib() -> float:
    """After giving back what is free: what the allocator only keeps for later is no leak."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def soak(minutes: float, data: Path | None) -> list[Loop]:
    """Loops until the time is up, four times at the least."""
    end = time.monotonic() + 60 * minutes
    loops: list[Loop] = []
    with tempfile.TemporaryDirectory() as scratch:
        while len(loops) < 4 or time.monotonic() < end:
            loops.append(found := once(Path(scratch) / "run", data))
            print(
                f"loop {len(loops):3}  {found.seconds:6.1f} s  {found.resident_mib:8.1f} MiB  {found.files} files  "
                f"{found.threads} threads  {found.digest[:12]}",
                flush=True,
            )
    return loops


def verdict(loops: list[Loop]) -> dict[str, float | bool]:
    """Of the later half the slope of a line through the resident memory, and whether nothing else changed."""
    late = loops[len(loops) // 2 :]
    slope = float(np.polyfit(range(len(late)), [loop.resident_mib for loop in late], 1)[0])
    same = {
        "same_results": len({loop.digest for loop in loops}) == 1,
        "same_files": len({loop.files for loop in late}) == 1,
        "same_threads": len({loop.threads for loop in late}) == 1,
    }
    return {"mib_a_loop": slope, **same, "passed": all(same.values()) and slope < MOST_MIB_A_LOOP}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    loops = soak(args.minutes, args.data)
    judged = verdict(loops)
    print(
        f"{len(loops)} loops in {sum(loop.seconds for loop in loops) / 60:.1f} min; {loops[-1].resident_mib:.0f} MiB "
        f"at the end, {judged['mib_a_loop']:+.2f} MiB a loop; same results: {judged['same_results']}, open files: "
        f"{judged['same_files']}, threads: {judged['same_threads']}"
    )
    sys.exit(0 if judged["passed"] else 1)
