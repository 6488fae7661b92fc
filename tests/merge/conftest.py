"""A pico base with an adapter, and small slices."""

import shutil
from pathlib import Path

import pytest
import torch

from nsllm_lite.formats import weights
from nsllm_lite.recipe.merge import Merge
from tests.merge.make import make_adapter, make_base, make_recipe


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """A bf16 Qwen3 base and a plain adapter; tests that change them work on copies."""
    folder = tmp_path_factory.mktemp("pair")
    base = make_base(folder / "base")
    return base, make_adapter(base, folder / "adapter")


@pytest.fixture
def copied(pair, tmp_path) -> tuple[Path, Path, Merge]:
    base, adapter = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in pair)
    return base, adapter, make_recipe(base, adapter, tmp_path / "out")


@pytest.fixture(autouse=True)
def pico_sized(monkeypatch):
    """The fewest rows a slice, so that pico tensors are cut too; one thread, as more only wait for each other here."""
    monkeypatch.setattr(weights, "SLICE_BYTES", 4096)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
