"""A disk that fills at any write: one clear error, nothing under a final name that is not whole, and nothing lost.

A small file system in memory grows by a few pages a try. Each try goes on from what the one before left, until there is
room for all; then everything is as on a large disk.
"""

import json
import os
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file

from nsllm_lite import cli
from nsllm_lite.artifact import disk as disks
from nsllm_lite.errors import RunError
from nsllm_lite.recipe import load as recipes
from tests.corpus.small import sample, values, write_sources
from tests.evals.conftest import make_talker
from tests.faults.kills import tell
from tests.merge.make import make_adapter, make_base, make_recipe
from tests.patching import patch_uses
from tests.raising import assert_error

PAGE = 4096
mounts = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


@pytest.fixture
def disk(tmp_path):
    """The folder of a file system in memory, of a page at first."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={PAGE}", "small", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


OPEN = {
    ".json": lambda path: json.loads(path.read_bytes()),
    ".safetensors": load_file,
    ".parquet": pq.read_table,
    ".arrow": lambda path: pa.memory_map(str(path)).size(),
    ".png": lambda path: Image.open(path).verify(),
}


def require_whole(out) -> None:
    """Opens every file that has its final name."""
    for path in out.rglob("*"):
        if path.suffix in OPEN and not any(".part" in name for name in path.parts):
            OPEN[path.suffix](path)


def contents(folder):
    """All that a run left, but for times, which step of the way was printed where, and its own name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(bytes(folder), b"OUT")
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("times.json", "trainer_log.jsonl", "run.json") and path.suffix != ".png"
    }


def grow_until_it_fits(disk, recipe, step_bytes) -> int:
    """How many tries ended in the error."""
    for tries in range(300):
        mount("-o", f"remount,size={PAGE + tries * step_bytes}", str(disk))
        try:
            cli.run_step(recipe)
        except RunError as error:
            assert_error(error, "disk-full", recipe.out)
        else:
            return tries
        assert not os.path.exists(f"{recipe.out}/manifest.json")
        for folder in (disk / "out", disk / "out.partial"):
            require_whole(folder)
    raise AssertionError("there is never room for all")


@pytest.fixture
def recipe_of(pico_recipe, tmp_path):
    """A function from a verb to a small recipe of it; each writes to `out` in the test's folder."""

    def corpus():
        sources = write_sources(tmp_path, papers=map(sample, range(40)))
        return recipes.validate(values(tmp_path, "out", sources), "corpus")

    def merge():
        base = make_base(tmp_path / "base")
        return make_recipe(base, make_adapter(base, tmp_path / "adapter"), tmp_path / "out", shard_bytes=60_000)

    def scores():
        (tmp_path / "talker").mkdir()
        models = [{"name": "talker", "path": str(make_talker(tmp_path / "talker")), "modes": ["few-shot"]}]
        rest = {"out": str(tmp_path / "out"), "seed": 0, "tasks": "bundled", "max_items": 2}
        return recipes.validate({"kind": "eval", "models": models, **rest}, "eval")

    return lambda verb: {"corpus": corpus, "train": pico_recipe, "merge": merge, "eval": scores}[verb]()


# The pages by which the disk grows: a few tries each, and in the slow ring a try for every page or two
FEW = {"corpus": 24, "train": 48, "merge": 12}
MANY = {"corpus": 1, "train": 2, "merge": 1, "eval": 3}


@mounts
@pytest.mark.parametrize(
    ("verb", "pages"),
    [*FEW.items(), *(pytest.param(*pair, marks=[pytest.mark.slow, pytest.mark.pictures]) for pair in MANY.items())],
)
def test_a_disk_that_fills_loses_nothing(disk, recipe_of, monkeypatch, tmp_path, verb, pages):
    recipe = recipe_of(verb)
    large, small = (recipe.model_copy(update={"out": str(folder / "out")}) for folder in (tmp_path / "large", disk))
    cli.run_step(large)
    patch_uses(monkeypatch, disks.require_disk, lambda *args: None)
    tries = grow_until_it_fits(disk, small, pages * PAGE)
    assert contents(disk / "out") == contents(tmp_path / "large/out")
    tell(f"disk full, {verb}", tries)
    assert tries >= (3 if (verb, pages) in FEW.items() else 20)
