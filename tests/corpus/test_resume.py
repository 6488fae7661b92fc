"""A build done by several processes ends in the files of one that ran in one, and none of them outlives the build."""

import json
import os
import subprocess
import sys

import pytest

from nsllm_lite.corpus import shards, sources
from nsllm_lite.recipe.corpus import Source
from tests.corpus.small import digests, make_papers, values
from tests.raising import raises

# Small tasks, so that a few hundred papers make many.
BUILD = """
import json, sys
from nsllm_lite.recipe import load as recipe
from nsllm_lite.corpus import build, shards
shards.TASK_BYTES = 20_000
build.build(recipe.validate(json.load(open(sys.argv[1])), "test"))
"""


def built(folder, name, workers):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**values(folder, name, make_papers(folder)), "execution": {"workers": workers}}))
    subprocess.run([sys.executable, "-c", BUILD, str(path)], stdout=subprocess.DEVNULL, check=True)
    return digests(folder / name)


def test_two_processes_make_the_same_files_as_one(tmp_path):
    one = built(tmp_path, "one", 1)
    assert built(tmp_path, "two", 2) == one
    assert sum(name.startswith("documents/") for name in one) >= 5


def test_a_process_that_lost_its_parent_takes_no_task(tmp_path):
    """Killed while it still imports, the parent cannot take it along; its tasks are those of the next run."""
    lines = "from nsllm_lite.corpus import shards; shards._be_a_worker({}); print('takes tasks')"
    for parent, output in (("__import__('os').getppid()", "takes tasks\n"), ("1 << 30", "")):
        done = subprocess.run([sys.executable, "-c", lines.format(parent)], capture_output=True, text=True, check=False)
        assert done.stdout == output, done.stderr


@pytest.mark.parametrize(
    ("function", "task", "code", "quoted"),
    [
        (os._exit, 1, "corpus-process-died", "reading"),
        (sources.files_of, Source(name="s", path="no/such"), "source-absent", "no/such"),
    ],
)
def test_the_death_and_the_error_of_a_worker_are_told_apart(tmp_path, function, task, code, quoted):
    stage = shards.Stage("reading", function, [task, task], [1, 1], tmp_path / "tasks")
    with raises(code, quoted):
        shards.run_stage(stage, 2)
