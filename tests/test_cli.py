"""The door, as a user meets it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from nsllm_lite import cli
from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.commands import stories
from nsllm_lite.errors import RunError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def fails(capsys, code: str, *words: str, status: int = 2) -> str:
    """What is printed to stderr by a command that ends with `status` and the error `code`."""
    assert cli.main(list(words)) == status
    text = capsys.readouterr().err
    assert f" [{code}]" in text
    return text


def test_unknown_recipe_key(capsys, at_root):
    text = fails(capsys, "recipe-invalid", "train", "recipes/nano/phase1.yaml", "optimizer.lerning_rate=1e-4")
    assert re.search(r"optimizer\.lerning_rate: .*`learning_rate`.* \[key-unknown\]", text)


def test_recipe_of_another_kind(capsys, at_root):
    for verb in ("corpus", "eval"):
        text = fails(capsys, "recipe-of-other-kind", verb, "recipes/nano/phase1.yaml")
        assert "recipes/nano/phase1.yaml" in text
        assert "`nsllm-lite train`" in text


def test_a_task_file_without_its_task(capsys):
    assert "--file mine.json" in fails(capsys, "task-file-form", "eval", "DIR", "--file", "mine.json")


def test_a_launcher_of_several_processes(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    fails(capsys, "verb-not-distributed", "runs")


def test_missing_corpus(capsys, at_root):
    text = fails(capsys, "input-path-missing", "phase1", "--corpus", "no/such/papers", "--recipes", "recipes/nano")
    assert "CORPUS=no/such/papers" in text


def test_corpus_without_a_card(capsys, at_root, tmp_path):
    assert "RECIPES=recipes/nano" in fails(capsys, "card-missing", "phase1", "--corpus", str(tmp_path))


def test_a_large_model_is_not_started_on_a_cpu(capsys, at_root, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=200 * GIB))
    text = fails(capsys, "execution-needs-card", "phase1", "--recipes", "recipes/qwen3", "--out", str(tmp_path))
    assert "8.2 B" in text
    assert cli.main(["plan", "--recipes", "recipes/qwen3", "--out", str(tmp_path)]) == 0
    assert "Download   15.3 GiB" in capsys.readouterr().out


def test_a_plan_that_does_not_fit(capsys, at_root, tmp_path, monkeypatch):
    """The nearest size that fits is named where memory is short, and only there."""
    words = ("plan", "recipes/qwen3", "--out", str(tmp_path))
    assert "SIZE=4b" in fails(capsys, "run-does-not-fit", *words, "--size", "8b", "--vram", "8")
    compiled = ("phase1.execution.compile=true", "phase1.execution.dequantised=false")
    text = fails(capsys, "execution-not-compilable", *words[:2], *compiled, *words[2:], "--vram", "24")
    assert "SIZE=" not in text
    assert "'no/such'" in fails(capsys, "plan-model-not-found", *words, "--model", "no/such")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * GIB))
    assert "5.0 free" in fails(capsys, "run-disk-too-small", *words)


@pytest.mark.parametrize(
    ("words", "code", "quoted"),
    [
        (("phase1", "phase_1.budget.steps=5"), "setting-step-unknown", ("'phase_1'", "mean phase1?")),
        (("phase1", "phase1.out=x"), "setting-path-derived", ("phase1.out=x",)),
        (("instruct", "sft.heldout=[]"), "setting-path-derived", ("sft.heldout=[]",)),
        (("plan", "--model", ".", "base.seed=1"), "setting-step-unknown", ("'base'",)),
        (("phase1", "--only", "report"), "only-matches-no-step", ("report", "phase1")),
    ],
)
def test_settings_that_would_change_nothing_are_refused(capsys, at_root, tmp_path, words, code, quoted):
    text = fails(capsys, code, *words, "--out", str(tmp_path))
    assert all(value in text for value in quoted)
    assert not list(tmp_path.iterdir())


def test_phase_2_without_phase_1(capsys, at_root, tmp_path):
    text = fails(capsys, "run-model-missing", "phase2", "--out", str(tmp_path / "run"))
    assert f"{tmp_path}/run/model1" in text
    assert "make phase1" in text


def test_instruct_without_phase_2(capsys, at_root, tmp_path):
    text = fails(capsys, "run-model-missing", "instruct", "--out", str(tmp_path / "run"))
    assert f"{tmp_path}/run/model2" in text
    assert "make two-phase" in text
    for path in (ROOT / "recipes/nano").glob("*.yaml"):
        if path.stem != "sft":
            (tmp_path / path.name).write_text(path.read_text())
    words = ("instruct", "--recipes", str(tmp_path), "--out", str(tmp_path / "run"))
    assert f"{tmp_path}." in fails(capsys, "tuning-recipes-missing", *words)


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


def test_merge_asks_for_its_folders(capsys):
    text = fails(capsys, "recipe-invalid", "merge", "--base", "x")
    assert re.findall(r"- (\w+): .* \[key-missing\]", text) == ["adapter", "out"]


def test_a_stopped_run_exits_with_3(capsys, monkeypatch, tmp_path, pico_recipe):
    from nsllm_lite.train import cpt

    def stops(recipe):
        raise RunError("loss-not-finite", "Step 7: loss nan")

    def runs_out(recipe):
        raise torch.OutOfMemoryError("CUDA out of memory")

    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(pico_recipe().model_dump(mode="json")))
    monkeypatch.setattr(cpt, "train", stops)
    assert "Step 7: loss nan" in fails(capsys, "loss-not-finite", "train", str(path), status=3)
    monkeypatch.setattr(cpt, "train", runs_out)
    assert "execution.micro_batch_rows=1" in fails(capsys, "card-out-of-memory", "train", str(path), status=3)


def test_two_files_and_four_frames_to_the_optimizer_step(pico_recipe, tmp_path, monkeypatch):
    """Makefile -> cli.py -> train(), whose body has the step."""
    assert "@$(NSLLM) phase1" in (ROOT / "Makefile").read_text()
    found, take = [], torch.optim.AdamW.step

    def step(*args, **options):
        found.append([frame.filename for frame in traceback.extract_stack() if "/nsllm_lite/" in frame.filename])
        return take(*args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(pico_recipe().model_dump(mode="json", exclude_none=True)))
    assert cli.main(["train", str(path)]) == 0
    ours = found[0]
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
    path.write_text(
        json.dumps([{"instruction": "", "input": "the same", "output": word} for word in ("a b c", "d e f")])
    )
    found = as_json(capsys, "audit", str(path))
    assert found["files"]["file.json"]["duplicates"]["conflicting_rows"] == [0, 1]
    assert "1  rows repeat " in found["stderr"]


def test_doctor_as_json_also_where_a_check_fails(capsys, monkeypatch):
    from nsllm_lite.commands import doctor

    def ill(patient):
        raise doctor.BrokenError("a broken thing", "mend it")

    monkeypatch.setattr(doctor, "CHECKS", {"fine": lambda patient: "good"})
    found = as_json(capsys, "doctor")
    assert found["checks"] == [{"check": "fine", "verdict": "pass", "seen": "good", "to_do": ""}]
    assert found["failed"] == []
    assert found["versions"]["torch"].startswith("2.")
    monkeypatch.setattr(doctor, "CHECKS", {"ill": ill})
    found = as_json(capsys, "doctor", code=3)
    assert found["checks"] == [{"check": "ill", "verdict": "FAIL", "seen": "a broken thing", "to_do": "mend it"}]
    assert found["failed"] == ["ill"]
    assert "ill" in found["stderr"]
    assert "[doctor-checks-failed]" in found["stderr"]


def test_eval_as_json(capsys, monkeypatch):
    from nsllm_lite.evals import evaluate

    def scored(recipe):
        print(f"scoring {recipe.models[0].path}")
        return {"scores": [{"value": 0.5, "low": float("nan")}]}

    monkeypatch.setattr(evaluate, "evaluate", scored)
    found = as_json(capsys, "eval", "DIR")
    assert found == {"scores": [{"value": 0.5, "low": None}], "stderr": "scoring DIR\n"}


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

    def full(folder):
        raise OSError(28, "No space left on device")

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
