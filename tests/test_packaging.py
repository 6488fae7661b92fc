"""What is installed elsewhere: without torch, from a wheel, for an older driver, without a network."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "recipes/nano/corpus.yaml"


def call(*words: str | Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import nsllm_lite
from nsllm_lite.cli import main
print([main(words) for words in COMMANDS])
"""


@pytest.mark.processes
def test_the_corpus_needs_no_torch(tmp_path):
    commands = [
        ["corpus", str(CORPUS), f"out={tmp_path / 'corpus'}"],
        ["train", str(ROOT / "recipes/nano/phase1.yaml"), "--run", "runs/nano"],
        ["show", str(tmp_path / "corpus")],  # does not wait for torch either
    ]
    done = call(sys.executable, "-c", WITHOUT_TORCH.replace("COMMANDS", repr(commands)))
    assert done.stdout.endswith("[0, 2, 0]\n"), done.stderr
    assert (tmp_path / "corpus/rows/phase1/train/rows.json").is_file()
    assert "[torch-missing]" in done.stderr


def test_extras():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"eval", "notebooks", "wandb", "tracking", "dev", "gpu"} <= set(extras)
    tested = {name for extra in ("eval", "tracking", "cluster", "encoders") for name in extras[extra]}
    assert tested <= set(extras["dev"])  # what has tests comes with the tests


# ------------------------------------------------------------------------------------------------------------ make

CU126 = "torch>=2.10 --index-url https://download.pytorch.org/whl/cu126"


@pytest.fixture
def make(tmp_path):
    """A function that calls make with a stand-in for Python, and returns what that was asked."""
    log, wheels = tmp_path / "log", tmp_path / "wheels"

    def run(*words: str, status: int = 0) -> list[str]:
        log.write_text("")
        given = (f"PYTHON={ROOT}/tests/data/python.sh", f"VENV={tmp_path}/venv", f"WHEELHOUSE={wheels}", "EXTRAS=dev")
        environment = {key: value for key, value in os.environ.items() if key not in ("TORCH", "MAKEFLAGS")}
        environment |= {"FAKE_LOG": str(log), "FAKE_WHEELS": str(wheels)}
        done = call("make", "-C", ROOT, *given, *words, env=environment)
        assert done.returncode == status, done.stderr
        asked = [line for line in log.read_text().splitlines() if " pip " in line]
        return [line.removeprefix("-m pip --quiet --disable-pip-version-check ") for line in asked] or [done.stderr]

    return run


def test_setup_takes_the_torch_it_is_told_to_and_remembers_it(make, tmp_path):
    venv = tmp_path / "venv"
    install = f"install -c {venv}/constraints.txt -e .[dev]"
    assert make("setup") == [install]
    assert (venv / "constraints.txt").read_text() == (ROOT / "constraints.txt").read_text()
    assert make("setup", f"TORCH={CU126}") == ["uninstall -y torch", f"install {CU126}", install]
    pins = (venv / "constraints.txt").read_text().splitlines()
    assert [pin for pin in pins if pin.startswith("torch==")] == ["torch==2.11.0+cu126"]
    assert len(pins) == len((ROOT / "constraints.txt").read_text().splitlines())
    assert make("setup", f"TORCH={CU126}") == [install]  # it is there
    (venv / "ready").unlink()
    assert make("setup") == [install]  # and stays there
    assert "torch==2.11.0+cu126" in (venv / "constraints.txt").read_text()


def test_a_wheelhouse_for_an_older_driver(make, tmp_path):
    wheels = tmp_path / "wheels"
    rest = f"wheel --wheel-dir {wheels} --find-links {wheels} -c {wheels}/constraints.txt .[dev,gpu] setuptools>=77"
    (told,) = make("install-offline", status=2)
    assert "run make wheelhouse" in " ".join(told.split())
    assert make("wheelhouse") == [f"wheel --wheel-dir {wheels} -c constraints.txt torch", rest]
    assert make("wheelhouse", f"TORCH={CU126}") == [f"wheel --wheel-dir {wheels} {CU126}", rest]
    assert (wheels / "constraints.txt").read_text().splitlines()[-1] == "torch==2.11.0+cu126"
    assert not (ROOT / "wheels").exists()
    assert make("install-offline") == [
        f"install --no-index --find-links {wheels} -c {wheels}/constraints.txt -e .[dev,gpu]"
    ]
    assert "up to date" not in make("setup")[0]
    assert make("setup") == [""]  # nothing is left to fetch


# ----------------------------------------------------------------------------------------------------------- wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that is made from the sdist, as `make dist` does it, but of what is installed here alone."""
    source, work = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("nsllm_lite", "recipes"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_{}(r'{}'))"
    sdist = call(sys.executable, "-c", build.format("sdist", work), cwd=source, check=True).stdout.split()[-1]
    with tarfile.open(work / sdist) as archive:
        archive.extractall(work / "unpacked", filter="data")
    unpacked = next((work / "unpacked").iterdir())
    made = call(sys.executable, "-c", build.format("wheel", work), cwd=unpacked, check=True).stdout.split()[-1]
    return work / made


@pytest.mark.processes
def test_the_wheel_holds_the_package_and_its_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    tracked = call("git", "ls-files", "nsllm_lite", cwd=ROOT, check=True).stdout.split()
    recipes = [f"nsllm_lite/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").glob("*/*.yaml")]
    assert {*tracked, *recipes} - {"nsllm_lite/recipes"} <= names  # which is a link here
    assert len(recipes) >= 17
    assert not [name for name in names if name.startswith("tests")]
    assert "Provides-Extra: notebooks" in metadata
    assert "License-Expression: Apache-2.0" in metadata


@pytest.mark.slow
def test_the_wheel_works_outside_the_clone(wheel, tmp_path):
    """In a clean environment that sees this one's packages, but not this project."""
    venv = tmp_path / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", venv, check=True)
    site = next((venv / "lib").glob("python*")) / "site-packages"
    packages = [folder for folder in sys.path if folder.endswith("-packages")]
    (site / "packages_of_the_tests.pth").write_text("\n".join(packages))
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin/python", "install", "--no-index", "--no-deps")
    call(*pip, wheel, check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def there(*words: str | Path) -> str:
        done = call(*words, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = there(venv / "bin/python", "-c", "import nsllm_lite; print(nsllm_lite.__file__)")
    assert Path(where.strip()).is_relative_to(venv)
    there(venv / "bin/nsllm-lite", "phase1", "--only", "corpus", "--out", "made")
    assert (tmp_path / "made/corpus/manifest.json").is_file()
    assert "Nothing failed." in there(venv / "bin/nsllm-lite", "doctor")


def test_no_pattern_repeats_a_group_possessively():
    """Python 3.11.0 to 3.11.4 match that wrongly where the group backtracks (gh-106052); (?>...) is right."""
    files = [path for path in (ROOT / "nsllm_lite").rglob("*") if path.suffix in (".py", ".toml")]
    lines = [line for path in files for line in path.open()]
    assert len(lines) > 20_000
    assert not [line for line in lines if re.search(r"\)(?:[*+?]|\{[\d,]+\})\+", line)]
