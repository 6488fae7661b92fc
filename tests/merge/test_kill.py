"""A merge killed with kill -9 at any point leaves nothing, or what a second call completes to the same bytes."""

import json
import random
import subprocess
import sys

import pytest

from tests.merge.make import make_adapter, make_base

# Counts what the merge does to the disk and dies at the `at`th: before it, or half-way through a write. Each attempt
# is a fork of one process that has imported everything and has no other thread.
ATTEMPTS = """
import bitsandbytes, hashlib, json, os, shutil, signal, sys
from pathlib import Path
from nsllm_lite import recipe, run, weights
from nsllm_lite.merge import write
import nsllm_lite.merge.merge
merging = sys.modules["nsllm_lite.merge.merge"]
base, adapter, out, points = sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])
weights.SLICE_BYTES, write.SYNC_BYTES = 4096, 20_000
asked = recipe.Merge(kind="merge", base=base, adapter=adapter, out=str(out), base_weights="dequantized",
                     double_quantisation=True, then_requantize=True, shard_bytes=60_000)
events = 0

def counted(call, at, half=None):
    def counting(*arguments, **options):
        global events
        events += 1
        if events == at:
            if half:
                half(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return counting

def attempt(at):
    "The exit status, and how many events there were."
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        write.put = counted(write.put, at, lambda file, data: file.write(bytes(data)[: len(data) // 2]))
        os.fsync, os.replace = counted(os.fsync, at), counted(os.replace, at)
        Path.rename, Path.replace = counted(Path.rename, at), counted(Path.replace, at)
        shutil.copyfile = counted(shutil.copyfile, at)
        sys.stdout = sys.stderr = open(os.devnull, "w")
        merging.merge(asked)
        os.write(writer, str(events).encode())
        os._exit(0)
    os.close(writer)
    status = os.waitpid(child, 0)[1]
    told = os.read(reader, 20)
    os.close(reader)
    return status, int(told or 0)

def digests():
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir() if p.name != "times.json"}

status, num_events = attempt(0)
assert status == 0, status
whole, results = digests(), []
for share in points:
    shutil.rmtree(out)
    at = 1 + int(share * num_events)
    killed, _ = attempt(at)
    partial = Path(str(out) + ".partial")
    begun = any(p.stat().st_size for p in partial.glob("*.safetensors")) if partial.is_dir() else False
    left = "out" if out.exists() else "begun" if begun else "partial" if partial.exists() else "nothing"
    is_whole = digests() == whole if out.exists() else None
    again, events_again = attempt(0)
    results.append({"at": at, "killed": killed, "left": left, "is_whole": is_whole, "again": again,
                    "equal": digests() == whole, "share_again": events_again / num_events,
                    "partial_gone": not partial.exists()})
print(json.dumps(results))
"""


def kill_at(tmp_path, points):
    base = make_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter")
    command = [sys.executable, "-c", ATTEMPTS, str(base), str(adapter), str(tmp_path / "out"), json.dumps(points)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    for result in results:
        assert result["killed"] == 9, result
        assert result["again"] == 0, result
        assert result["equal"], result
        assert result["partial_gone"], result
        assert result["is_whole"] in (None, True), result
    return results


def test_killed_at_a_few_points(tmp_path):
    results = kill_at(tmp_path, [0.0, 0.4, 0.8, 0.999])
    assert {"begun"} <= {result["left"] for result in results}
    assert results[2]["share_again"] < 0.6  # it goes on, and does not begin anew


@pytest.mark.slow
def test_killed_at_random_points(tmp_path):
    rng = random.Random(4)
    results = kill_at(tmp_path, [rng.random() for _ in range(40)])
    assert sum(result["left"] == "begun" for result in results) >= 25
