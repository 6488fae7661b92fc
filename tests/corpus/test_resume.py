"""What becomes of the processes of a build: none outlives it, and their ends and errors are told apart."""

import os
import subprocess
import sys

import pytest

from nsllm_lite.corpus import shards, sources
from nsllm_lite.recipe.corpus import Source
from tests.raising import raises

pytestmark = pytest.mark.processes


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
