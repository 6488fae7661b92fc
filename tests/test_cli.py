"""The door, as a user meets it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from nsllm_lite import cli
from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.commands import stories
from nsllm_lite.errors import RunError
from tests.raising import fails

ROOT = Path(__file__).parents[1]


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


REFUSED = (
    ("train recipes/nano/phase1.yaml --run OUT optimizer.lerning_rate=1e-4", "key-unknown",
     ("optimizer.lerning_rate: ", "`optimizer.learning_rate=1e-4`")),
    ("corpus recipes/nano/phase1.yaml", "recipe-of-other-kind", ("recipes/nano/phase1.yaml", "`nsllm-lite train`")),
    ("eval recipes/nano/phase1.yaml", "recipe-of-other-kind", ("recipes/nano/phase1.yaml", "`nsllm-lite train`")),
    ("eval DIR --file mine.json", "task-file-form", ("--file mine.json",)),
    ("merge --base x", "recipe-invalid", ("- adapter: ", "- out: ", " [key-missing]")),
    ("phase1 --corpus no/such/papers --recipes recipes/nano", "input-path-missing", ("CORPUS=no/such/papers",)),
    ("phase1 --corpus OUT", "card-missing", ("RECIPES=recipes/nano",)),
    ("phase2 --out OUT/run", "run-model-missing", ("OUT/run/model1", "make phase1")),
    ("instruct --out OUT/run", "run-model-missing", ("OUT/run/model2", "make two-phase")),
    # settings that would change nothing
    ("phase1 phase_1.budget.steps=5 --out OUT", "setting-step-unknown", ("'phase_1'", "mean phase1.budget.steps=5?")),
    ("phase1 phase1.out=x --out OUT", "setting-path-derived", ("phase1.out=x",)),
    ("instruct sft.heldout=[] --out OUT", "setting-path-derived", ("sft.heldout=[]",)),
    ("plan --model . base.seed=1 --out OUT", "setting-step-unknown", ("'base'",)),
    ("phase1 --only report --out OUT", "only-matches-no-step", ("report", "phase1")),
    # plans; the nearest size that fits is named where memory is short
    ("plan recipes/qwen3 --out OUT --size 8b --vram 8", "run-does-not-fit", ("SIZE=4b",)),
    (
        "plan recipes/qwen3 phase1.adapter.modules_to_save=[lm_head] --out OUT --size 4b",
        "adapter-head-tied", ("embed_tokens",),
    ),
    ("plan recipes/qwen3 --out OUT --model no/such", "plan-model-not-found", ("'no/such'",)),
)  # fmt: skip


@pytest.mark.parametrize(("line", "code", "quoted"), REFUSED)
def test_wrong_input_is_refused(capsys, at_root, tmp_path, line, code, quoted):
    text = fails(capsys, code, *line.replace("OUT", str(tmp_path)).split())
    for value in quoted:
        assert value.replace("OUT", str(tmp_path)) in text
    assert not list(tmp_path.iterdir())


def test_a_launcher_of_several_processes(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    fails(capsys, "verb-not-distributed", "runs")


def test_a_large_model_is_not_started_on_a_cpu(capsys, at_root, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=200 * GIB))
    words = ("--recipes", "recipes/qwen3", "--out", str(tmp_path))
    assert "8.2 B" in fails(capsys, "execution-needs-card", "phase1", *words)
    assert cli.main(["plan", *words]) == 0
    assert "Download   15.3 GiB" in capsys.readouterr().out
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * GIB))
    assert "5.0 free" in fails(capsys, "run-disk-too-small", "plan", *words)


def test_no_smaller_size_is_named_where_memory_is_not_short(capsys, at_root, tmp_path):
    words = ("phase1.execution.compile=true", "phase1.execution.dequantised=false", "--out", str(tmp_path))
    assert "SIZE=" not in fails(capsys, "execution-not-compilable", "plan", "recipes/qwen3", *words, "--vram", "24")


def test_instruct_with_recipes_that_have_no_tuning(capsys, at_root, tmp_path):
    shutil.copytree("recipes/nano", tmp_path / "own", ignore=shutil.ignore_patterns("sft.yaml"))
    words = ("instruct", "--recipes", f"{tmp_path}/own", "--out", str(tmp_path / "run"))
    assert f"{tmp_path}/own." in fails(capsys, "tuning-recipes-missing", *words)


def test_no_such_recipes(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = fails(capsys, "recipes-missing", "phase1", "--recipes", "recipes/none")
    assert "recipes/none:" in text
    assert "nsllm-lite init DIR" in text


def test_without_a_makefile_the_next_command_is_one_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(ROOT)
    assert stories.command("phase2", {"corpus": "p"}) == "make phase2 CORPUS=p"
    monkeypatch.chdir(tmp_path)
    assert stories.command("phase2", {"corpus": "p", "out": "o"}) == "nsllm-lite phase2 --corpus p --out o"
    assert stories.real_command().endswith("\n  nsllm-lite phase1 --corpus path/to/your/papers")


def test_an_interrupted_run_exits_with_130(capsys, monkeypatch, signals_heeded):
    monkeypatch.setattr(cli, "run_tool", lambda args: os.kill(os.getpid(), signal.SIGINT))
    assert cli.main(["doctor"]) == 130
    assert "SIGINT" in capsys.readouterr().err


def test_a_stopped_run_exits_with_3(capsys, monkeypatch, pico_yaml):
    from nsllm_lite.train import cpt

    monkeypatch.setattr(cpt, "train", Mock(side_effect=RunError("loss-not-finite", "Step 7: loss nan")))
    assert "Step 7: loss nan" in fails(capsys, "loss-not-finite", "train", pico_yaml, status=3)
    monkeypatch.setattr(cpt, "train", Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory")))
    assert "execution.micro_batch_rows=1" in fails(capsys, "card-out-of-memory", "train", pico_yaml, status=3)


def test_two_files_and_four_frames_to_the_optimizer_step(pico_yaml, monkeypatch):
    """Makefile -> cli.py -> train(), whose body has the step."""
    assert "@$(NSLLM) phase1" in (ROOT / "Makefile").read_text()
    stacks, take = [], torch.optim.AdamW.step

    def step(*args, **options):
        stacks.append([frame.filename for frame in traceback.extract_stack() if "/nsllm_lite/" in frame.filename])
        return take(*args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert cli.main(["train", pico_yaml]) == 0
    ours = stacks[0]
    assert len(ours) <= 4, ours
    assert [Path(name).name for name in dict.fromkeys(ours)] == ["cli.py", "cpt.py"]


def as_json(capsys, *words: str, code: int = 0) -> dict:
    """What stands on stdout, which must be one JSON object and nothing else."""
    assert cli.main([*words, "--json"]) == code
    told = capsys.readouterr()
    assert told.out.count("\n") == 1
    found = json.loads(told.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert isinstance(found, dict)
    return found | {"stderr": told.err}


def test_plan_as_json(capsys, at_root, tmp_path):
    found = as_json(capsys, "plan", "recipes/qwen3", "--vram", "24", "--all", "--out", str(tmp_path / "run"))
    assert found["model"] == "Qwen/Qwen3-8B-Base"
    assert found["card_bytes"] == 24 * GIB > sum(found["memory_bytes"].values())
    assert found["execution"]["micro_batch_rows"] >= 1
    assert found["hours"][f"{tmp_path}/run/phase1"] is None  # of a card without a name the speed is not known
    assert "Capacity " in found["stderr"]
    assert " chosen\n" in found["stderr"]


def test_audit_as_json(capsys, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps([{"input": "the same", "output": word} for word in ("a b c", "d e f")]))
    found = as_json(capsys, "audit", str(path))
    assert found["files"]["file.json"]["duplicates"]["conflicting_rows"] == [0, 1]
    assert "1  rows repeat " in found["stderr"]


def test_doctor_as_json_also_where_a_check_fails(capsys, monkeypatch):
    from nsllm_lite.commands import doctor

    def ill(patient):
        print("what it printed")
        raise doctor.BrokenError("a broken thing", "mend it")

    monkeypatch.setattr(doctor, "CHECKS", {"fine": lambda patient: "good"})
    found = as_json(capsys, "doctor")
    fine = {"check": "fine", "verdict": "pass", "seen": "good", "to_do": ""}
    assert (found["checks"], found["failed"]) == ([fine], [])
    assert found["versions"]["torch"].startswith("2.")
    monkeypatch.setattr(doctor, "CHECKS", {"fine": lambda patient: "good", "ill": ill})
    found = as_json(capsys, "doctor", code=3)
    ailing = {"check": "ill", "verdict": "FAIL", "seen": "a broken thing", "to_do": "mend it"}
    assert (found["checks"], found["failed"]) == ([fine, ailing], ["ill"])
    for words in ("pass  fine ", "FAIL  ill ", "-> mend it\nwhat it printed", "[doctor-checks-failed]"):
        assert words in found["stderr"]


def test_eval_as_json(capsys, monkeypatch):
    from nsllm_lite.evals import evaluate

    def scored(recipe):
        print(f"scoring {recipe.models[0].path}")
        return {"scores": [{"value": 0.5, "low": float("nan")}]}

    monkeypatch.setattr(evaluate, "evaluate", scored)
    told = {"scores": [{"value": 0.5, "low": None}], "stderr": "scoring DIR\n"}
    assert as_json(capsys, "eval", "DIR") == told


def test_merge_compare_as_json(capsys, monkeypatch):
    from nsllm_lite.merge import compare

    monkeypatch.setattr(compare, "open_inputs", lambda recipe: (None, []))
    monkeypatch.setattr(compare, "plan_merge", lambda *given: None)
    figures = {"loss": 2.0, "kl": 0.1, "top1": 0.9, "tokens": 10}
    names = ("base", compare.TRAINED, "original", "NF4(original)", "dequantized", "NF4(dequantized)")
    table = {name: figures | {"loss": loss} for name, loss in zip(names, (3, 2, 2.1, 2.2, 2, 2.5), strict=True)}
    monkeypatch.setattr(compare, "compare", lambda *given: table)
    found = as_json(capsys, "merge", "--base", "B", "--adapter", "A", "--compare")
    assert found["comparison"] == table
    assert found["lowest"] == {"to_serve_in_16_bits": "dequantized", "then_requantize": "original"}
    assert "| merged into dequantized | 2.0000 | 0.1000 | 90.0% |" in found["stderr"]


def test_files_that_cannot_be_opened_are_wrong_input_and_a_full_disk_is_not(capsys, monkeypatch, tmp_path):
    assert cli.main(["show", str(tmp_path / ("x" * 300))]) == 2
    assert "File name too long" in capsys.readouterr().err
    full = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr("nsllm_lite.commands.show.list_runs", full)
    assert cli.main(["runs", str(tmp_path)]) == 3
    told = capsys.readouterr().err
    assert told.startswith("nsllm-lite runs: ")
    assert "[Errno 28]" in told
    assert told.endswith(" [disk-full]\n")


def test_wrong_input_leaves_stdout_empty(capsys, tmp_path):
    assert cli.main(["runs", str(tmp_path / "none"), "--json"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert str(tmp_path / "none") in told.err


def test_a_reader_that_goes_away(tmp_path):
    """As with `| head`: no traceback, and the status a shell gives for it."""
    write_json(tmp_path / "merged/manifest.json", {"verb": "merge", "recipe": {}, "inputs": {}, "results": {}})
    command = [sys.executable, "-m", "nsllm_lite.cli", "runs", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        process.wait(60)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 141
