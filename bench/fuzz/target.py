"""A target: a function from bytes that raises where a promise is broken, and the seeds that damage starts from."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SEEDS = Path(__file__).parents[2] / "tests/faults/seeds"


class Target(NamedTuple):
    """`check(content, folder)` raises for a promise that was broken; it may write to `folder` alone.

    `num_mutated` and `num_guided` are the inputs of a long run: made by mutation, and guided by coverage (atheris).
    """

    check: Callable[[bytes, Path], None]
    seeds: str  # the folder of its seeds
    num_mutated: int
    num_guided: int = 0
    inputs_each: int = 1  # files behind one input


def seeds_of(target: Target) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((SEEDS / target.seeds).iterdir())}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """`folder` with these files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
