"""The package with the oldest releases that pyproject.toml allows, and with those that Colab has.

The slow tests make each environment with pip, which must reach an index: 2 GB of disk and 10 minutes each on two
cores. torch is the one at hand in both.
"""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["tracking"]
TEST_TOOLS = ("pytest", "hypothesis")
TESTS = ("tests/merge", "tests/kernels", "tests/train", "tests/models")


def pins(name: str) -> list[str]:
    lines = (ROOT / f"tests/constraints-{name}.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_the_oldest_are_the_bounds_that_are_declared():
    def key(requirement: str) -> tuple[str, Version]:
        parsed = Requirement(requirement)
        (bound,) = parsed.specifier
        return canonicalize_name(parsed.name), Version(bound.version)

    declared = {key(requirement) for requirement in NEEDED}
    assert {key(pin) for pin in pins("oldest")} == {one for one in declared if one[0] != "torch"}


def call(*words: str | Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([str(word) for word in words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module", params=["oldest", "colab"])
def python(request, tmp_path_factory) -> Path:
    """An environment's interpreter. On Colab pip replaces what is too old there, but not torch, as in the notebooks."""
    if request.param == "oldest" and sys.version_info[:2] != (3, 11):
        pytest.skip("the oldest releases have no wheels for a newer Python")
    folder = tmp_path_factory.mktemp(request.param)
    call(sys.executable, "-m", "venv", folder)
    python, torch, listed = folder / "bin/python", folder / "torch.txt", folder / "pins.txt"
    torch.write_text(f"torch=={version('torch').split('+')[0]}\n")
    listed.write_text("\n".join(pins(request.param)))
    install = (python, "-m", "pip", "install", "--quiet", "-c", torch)
    if request.param == "oldest":
        call(*install, "-c", listed, *NEEDED, *TEST_TOOLS)
    else:
        call(*install, "torch", "-r", listed)
        call(*install, *NEEDED, *TEST_TOOLS)
    call(python, "-m", "pip", "check")
    return python


@pytest.mark.slow
def test_the_machine_check_passes(python):
    assert "Nothing failed." in call(python, "-m", "nsllm_lite.cli", "doctor").stdout


@pytest.mark.slow
def test_the_small_run_gives_a_model(python, tmp_path):
    call(python, "-m", "nsllm_lite.cli", "phase1", "--out", tmp_path / "run")
    assert (tmp_path / "run/model1/model.safetensors").is_file()


@pytest.mark.slow
def test_the_tests_of_what_these_packages_do_pass(python):
    call(python, "-m", "pytest", "-p", "no:cacheprovider", *TESTS)
