"""A build that is killed, or done by several processes, ends in the files of one that ran undisturbed in one."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.corpus.small import digests, prose, sample, values, write_lines

# Small tasks, parts and shards, so that a few hundred papers make many of each; slow enough to be killed in between.
# Only the first is known to other processes too.
BUILD = """
import json, sys, time
from nsllm_lite import recipe, run
from nsllm_lite.corpus import build, pack, parts, shards
shards.TASK_BYTES = 20_000
if "--small-parts" in sys.argv:
    parts.PART_DOCUMENTS, pack.SHARD_DOCUMENTS = 23, 40
if "--slowly" in sys.argv:
    write = run.write_json
    run.write_json = lambda *args: (time.sleep(0.01), write(*args))
build.build(recipe.validate(json.load(open(sys.argv[1])), "test"))
"""


@pytest.fixture
def recipe_at(tmp_path):
    """A function from a name to the file of a recipe that builds there."""
    records = [{"id": f"2501.{i:05}", "title": prose(i, 5), "abstract": prose(500 + i)} for i in range(300)]
    records += [
        {**records[i], "id": f"2502.{i:05}", "abstract": records[i]["abstract"] + " Indeed."} for i in range(30)
    ]
    for number in range(8):
        write_lines(tmp_path / "arxiv" / f"{number}.jsonl", records[number::8])
    write_lines(tmp_path / "full.jsonl", [sample(i) for i in range(12)])
    write_lines(tmp_path / "general.jsonl", [{"id": f"g{i}", "text": prose(5000 + i)} for i in range(20)])

    def recipe_at(name, workers=1):
        sources = [{"name": n, "path": str(tmp_path / p)} for n, p in (("arxiv", "arxiv"), ("full", "full.jsonl"))]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**values(tmp_path, name, sources), "execution": {"workers": workers}}))
        return path

    return recipe_at


def start(path, *options):
    return subprocess.Popen([sys.executable, "-c", BUILD, str(path), *options], stdout=subprocess.DEVNULL)


def built(path, *options):
    assert start(path, *options).wait() == 0
    return digests(path.with_suffix(""))


def test_two_processes_make_the_same_files_as_one(recipe_at):
    one = built(recipe_at("one"))
    assert built(recipe_at("two", workers=2)) == one
    assert sum(name.startswith("documents/") for name in one) >= 5


def num_answers(work):
    try:
        return len(list(work.glob("*/*.json")))
    except FileNotFoundError:  # a finished build removes its work folder, perhaps while we look
        return 10**6


def killed_again_and_again(path, seed, kills, *options):
    """Builds at `path`, killing the process (and its workers) each time a few more answers are there."""
    rng = random.Random(seed)
    answers = path.with_suffix("") / "work"
    for _ in range(kills):
        before = num_answers(answers)
        process = start(path, "--slowly", *options)
        wanted = before + rng.randint(1, 6)
        while process.poll() is None and num_answers(answers) < wanted:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
    return built(path, *options)


def test_a_build_killed_in_the_middle_ends_in_the_same_files(recipe_at):
    one = built(recipe_at("one"), "--small-parts")
    assert sum(name.startswith("rows/phase1/train/data-") for name in one) > 3
    assert sum(name.startswith("documents/") for name in one) > 15
    assert killed_again_and_again(recipe_at("killed"), 1, 3, "--small-parts") == one


@pytest.mark.slow
def test_a_build_killed_many_times_ends_in_the_same_files(recipe_at):
    assert killed_again_and_again(recipe_at("one"), 2, 25, "--small-parts") == built(recipe_at("x"), "--small-parts")


@pytest.mark.slow
def test_processes_killed_many_times_end_in_the_same_files(recipe_at):
    assert killed_again_and_again(recipe_at("two", 2), 3, 12) == built(recipe_at("one"))
