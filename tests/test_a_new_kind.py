"""A new kind of step is one file, one recipe type and a line in each of two tables: nothing else knows of it."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nsllm_lite import cli
from nsllm_lite.recipe.kinds import KINDS

TOY = '''
"""Counts the letters of a text, one a moment."""

import time
from pathlib import Path
from typing import Literal

from nsllm_lite import cli
from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.step import begin, finish, finished
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.kinds import KINDS, Input, Kind
from nsllm_lite.recipe.values import Name, Strict


class Letters(Strict):
    kind: Literal["letters"]
    out: Name
    text: Name
    letters: Name = "abcdefgh"
    execution: None = None


def count(recipe: Letters) -> dict:
    out, identity = Path(recipe.out), recipes.identity(recipe)
    inputs = {"text": sha256_file(Path(recipe.text) / "manifest.json")}
    if (results := finished(out, identity, inputs)) is not None:
        return results
    out.mkdir(parents=True, exist_ok=True)
    begin(out, identity, inputs)
    done = out / "done.txt"
    so_far = done.read_text() if done.is_file() else ""
    for letter in recipe.letters[len(so_far):]:
        so_far += letter
        write_atomic(done, so_far)
        print(so_far, flush=True)
        while Path("hold").exists():
            time.sleep(0.05)
    finish(out, "letters", identity, inputs, {"letters": len(so_far)}, time.time())
    return {"letters": len(so_far)}


KINDS["letters"] = Kind(
    Letters, "count the letters of a text", lambda recipe: [Input("text", recipe.text, "text", "manifest")]
)
cli.VERBS["letters"] = "toy:count"
'''
START = "import sys, toy; sys.exit(toy.cli.main())"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a recipe of the toy kind; this process knows that kind."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "letters.yaml").write_text("kind: letters\nout: runs/x/letters\ntext: runs/x/text\n")
    before = tmp_path / "runs/x/text"
    before.mkdir(parents=True)
    manifest = {"verb": "letters", "recipe": {"kind": "letters"}, "inputs": {}, "versions": {}, "results": {}}
    (before / "manifest.json").write_text(json.dumps(manifest))
    (before / "times.json").write_text('{"started": "2026-01-02T03:04:05Z", "finished": "2026-01-02T03:04:06Z"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("toy")
    yield tmp_path
    del sys.modules["toy"], KINDS["letters"], cli.VERBS["letters"]


def test_a_new_kind(folder, capsys):
    def told(*words: str, status: int = 0) -> str:
        assert cli.main(list(words)) == status
        captured = capsys.readouterr()
        return captured.out + captured.err

    for words, expected in ((["--help"], "count the letters of a text"), (["letters", "--help"], "--run DIR")):
        with pytest.raises(SystemExit):
            cli.main(words)
        assert expected in capsys.readouterr().out
    assert ": text: " in told("letters", "letters.yaml", "text=null", status=2)

    # killed in the middle, while nobody else may write there; then it continues, and then it is finished
    (folder / "hold").touch()
    paths = os.pathsep.join((str(folder), str(Path(__file__).parents[1])))
    command = [sys.executable, "-c", START, "letters", "letters.yaml"]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, text=True, stdout=subprocess.PIPE) as slow:
        assert slow.stdout.readline() == "a\n"
        assert "[run-locked]" in told("letters", "letters.yaml", status=2)
        slow.send_signal(signal.SIGKILL)
    (folder / "hold").unlink()
    begun = json.JSONDecoder().raw_decode(told("runs", "runs", "--json"))[0]["runs"]
    assert [(row["step"], row["state"]) for row in begun] == [("letters", "finished"), ("letters", "unfinished")]
    printed = told("letters", "letters.yaml")
    assert "abcdefgh\n" in printed
    assert not printed.startswith("a\n")
    assert "finished, skipped" in told("letters", "letters.yaml")
    assert "[finished-result-differs]" in told("letters", "letters.yaml", "letters=abc", status=2)

    # it has a place in the lineage, with its input hashed again
    shown = told("show", "runs/x/letters", "--html", "page.html")
    assert shown.startswith("letters  letters\n└─ text  letters\n")
    assert "Of 1 inputs 1 were hashed" in shown
    assert "text  letters" in (folder / "page.html").read_text()
    manifest = json.loads((folder / "runs/x/letters/manifest.json").read_text())
    assert (manifest["results"], list(manifest["inputs"])) == ({"letters": 8}, ["text"])
    damaged = {**manifest, "recipe": {"kind": "letters", "text": 5}}
    damaged.pop("seal")
    (folder / "runs/x/letters/manifest.json").write_text(json.dumps(damaged))
    assert "[file-damaged]" in told("show", "runs/x/letters", status=2)
