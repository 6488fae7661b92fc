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
from safetensors import safe_open

from nsllm_lite import cli
from nsllm_lite.artifact import disk as disks
from nsllm_lite.errors import RunError
from nsllm_lite.recipe import load as recipes
from tests.corpus.small import prose, sample, values, write_lines
from tests.evals.conftest import make_talker
from tests.faults.tell import tell
from tests.merge.make import make_adapter, make_base
from tests.patching import patch_uses
from tests.raising import assert_error

PAGE = 4096
mounts = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")


class Disk:
    """A file system in memory with so many bytes free for files."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={PAGE}", "small", str(folder)], check=True)

    def resize(self, num_bytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={num_bytes}", str(self.folder)], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


def require_whole(out) -> int:
    """Opens every file that has its final name; returns how many there are."""
    found = [path for path in out.rglob("*") if path.is_file() and not any(".part" in name for name in path.parts)]
    for path in found:
        if path.suffix == ".json":
            assert json.loads(path.read_bytes()) is not None, path
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                assert all(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 (not a dict)
        elif path.suffix == ".parquet":
            pq.read_table(path)
        elif path.suffix == ".arrow":
            pa.memory_map(str(path)).size()
        elif path.suffix == ".png":
            Image.open(path).verify()
    return len(found)


def contents(folder):
    """All that a run left, but for times, which step of the way was printed where, and its own name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(bytes(folder), b"OUT")
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("times.json", "trainer_log.jsonl", "run.json") and path.suffix != ".png"
    }


def complaint_of(asked) -> RunError | None:
    """None where the verb got to its end."""
    try:
        cli.run_step(asked)
    except RunError as error:
        return error
    return None


def grow_until_it_fits(disk, asked, step_bytes, monkeypatch) -> int:
    """How many tries ended in the error."""
    patch_uses(monkeypatch, disks.require_disk, lambda *args: None)
    tries, size = 0, PAGE
    while True:
        disk.resize(size)
        if complaint := complaint_of(asked):
            assert_error(complaint, "disk-full", asked.out)
        else:
            return tries
        assert not os.path.exists(f"{asked.out}/manifest.json")
        for folder in (disk.folder / "out", disk.folder / "out.partial"):
            require_whole(folder)
        tries += 1
        size += step_bytes
        assert tries < 300


def as_on_a_large_disk(disk, asked, monkeypatch, tmp_path, step_bytes) -> int:
    large = asked.model_copy(update={"out": str(tmp_path / "large/out")})
    cli.run_step(large)
    small = asked.model_copy(update={"out": str(disk.folder / "out")})
    tries = grow_until_it_fits(disk, small, step_bytes, monkeypatch)
    assert contents(disk.folder / "out") == contents(tmp_path / "large/out")
    return tries


@pytest.fixture
def asked(pico, pico_recipe, tmp_path):
    """A function from a verb to a small recipe of it; each writes to `out` in the test's folder."""

    def corpus() -> dict:
        write_lines(tmp_path / "papers.jsonl", [sample(number) for number in range(40)])
        write_lines(tmp_path / "general.jsonl", [{"id": f"g{i}", "text": prose(5000 + i)} for i in range(20)])
        return values(tmp_path, "out", [{"name": "papers", "path": str(tmp_path / "papers.jsonl")}])

    def merge() -> dict:
        base = make_base(tmp_path / "base")
        adapter = make_adapter(base, tmp_path / "adapter")
        return {
            "kind": "merge", "base": str(base), "adapter": str(adapter), "out": str(tmp_path / "out"),
            "base_weights": "original", "then_requantize": False, "shard_bytes": 60_000,
        }  # fmt: skip

    def scores() -> dict:
        (tmp_path / "talker").mkdir()
        model = make_talker(tmp_path / "talker")
        models = [{"name": "talker", "path": str(model), "modes": ["few-shot"]}]
        return {
            "kind": "eval", "models": models, "out": str(tmp_path / "out"), "seed": 0, "tasks": "bundled",
            "max_items": 2,
        }  # fmt: skip

    made = {"corpus": corpus, "train": lambda: pico_recipe().model_dump(), "merge": merge, "eval": scores}
    return lambda verb: recipes.validate(made[verb](), "test")


# The pages by which the disk grows: a few tries each, and in the slow ring a try for every page or two
FEW = {"corpus": 24, "train": 48, "merge": 12}
MANY = {"corpus": 1, "train": 2, "merge": 1, "eval": 3}


@mounts
@pytest.mark.parametrize(
    ("verb", "pages"), [*FEW.items(), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in MANY.items())]
)
def test_a_disk_that_fills_loses_nothing(disk, asked, monkeypatch, tmp_path, verb, pages):
    tries = as_on_a_large_disk(disk, asked(verb), monkeypatch, tmp_path, pages * PAGE)
    tell(f"disk full, {verb}", tries)
    assert tries >= (3 if (verb, pages) in FEW.items() else 20)
