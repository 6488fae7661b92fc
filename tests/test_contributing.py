"""The examples of CONTRIBUTING.md work: their code is taken from the page, put where the page says, and run.

That of a task is in evals/test_a_new_task.py.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.corpus.small import paper
from tests.evals.conftest import build_papers

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
NSLLM = ("-m", "nsllm_lite.cli")
pytestmark = pytest.mark.processes


def code(start: str) -> str:
    """The block of code that begins with a comment `start`, without it."""
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", PAGE, re.M | re.S)
    return next(block for block in map(dedent, blocks) if block.startswith(start)).partition("\n")[2]


@pytest.fixture
def corpus(tmp_path):
    build_papers(tmp_path, "runs/nano/corpus", [paper(number) for number in range(30)])


@pytest.fixture
def package(tmp_path):
    """A copy of the package, to which the examples are added."""
    for name in ("nsllm_lite", "recipes"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(folder: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def insert(path: Path, before: str, text: str) -> None:
    content = path.read_text()
    assert content.count(before) == 1, before
    path.write_text(content.replace(before, text + before))


def test_the_reader(package):
    rooms = package / "nsllm_lite/corpus/sources"
    (rooms / "preprints.py").write_text(code("# nsllm_lite/corpus/sources/preprints.py"))
    insert(rooms / "__init__.py", "unarxive s2orc", "preprints ")
    insert(package / "nsllm_lite/recipe/corpus.py", '"auto", "pdf",', '"preprints", ')
    record = re.search(r'^ *(\{"preprint_doi".*\})$', PAGE, re.M)[1]
    (package / "dump.jsonl").write_text(record + "\n" + record.replace("123456", "654321") + "\n{\n")
    script = """
from nsllm_lite.corpus.sources import files_of, read
from nsllm_lite.recipe.corpus import Source
for form in ("auto", "preprints"):
    source = Source(name="mine", path="dump.jsonl", format=form)
    for found in read(source, files_of(source)[0], general=False):
        print(type(found).__name__, getattr(found, "id", ""), getattr(found, "discipline", ""))
"""
    papers = [f"Document doi:10.1101/2020.01.01.{number} biochemistry" for number in ("123456", "654321")]
    assert run(package, "-c", script).splitlines() == [*papers, "Unread  "] * 2


def test_the_kind_of_step(package, corpus):
    (package / "nsllm_lite/recipe/lengths.py").write_text(code("# nsllm_lite/recipe/lengths.py"))
    (package / "nsllm_lite/evals/lengths.py").write_text(code("# nsllm_lite/evals/lengths.py"))
    line = code("# nsllm_lite/recipe/kinds.py")
    kinds = package / "nsllm_lite/recipe/kinds.py"
    insert(kinds, "Recipe = (", f"from nsllm_lite.recipe.lengths import Lengths\n{line}\n")
    kinds.write_text(kinds.read_text().replace("    Corpus | ", "    Lengths | Corpus | "))
    insert(package / "nsllm_lite/cli.py", "TOOLS = {\n", code("# nsllm_lite/cli.py") + "\n")
    (package / "recipes/nano/lengths.yaml").write_text("kind: lengths\n")
    first, second = re.findall(r"^   nsllm-lite (.+)$", PAGE, re.M)
    assert run(package, *NSLLM, *first.split()) == ""
    assert "finished, skipped" in run(package, *NSLLM, *first.split())
    assert run(package, *NSLLM, *second.split()).startswith("lengths  lengths\n└─ corpus")
