"""What shows a run elsewhere: TensorBoard, W&B by a stand-in, LLaMA-Factory's log, and another run's curve."""

import sys
from datetime import timedelta
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock

import accelerate.tracking
import pytest

from nsllm_lite.artifact.json_files import read_lines
from nsllm_lite.recipe import load as recipes
from nsllm_lite.train import cpt, setup, tracking
from nsllm_lite.train.plot import read_curve
from tests.raising import raises
from tests.train.test_cpt import metrics


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = reader.EventAccumulator(str(out / "tensorboard" / tracking.PROJECT)).Reload()
    return {tag: [(event.step, event.value) for event in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


@pytest.mark.parametrize("from_the_start", [True, False])
def test_tensorboard_shows_every_step_once_after_a_kill(pico_recipe, stop_before, from_the_start):
    pytest.importorskip("tensorboard")
    asked = pico_recipe(report_to=["tensorboard"])
    out = Path(asked.out)
    stop_before(cpt.train, asked if from_the_start else pico_recipe(), 8)
    if from_the_start:
        assert [step for step, _ in scalars(out)["train/loss"]] == list(range(1, 8))
    cpt.train(asked)
    found = scalars(out)
    for name in ("loss", "learning_rate", "grad_norm", "tokens"):
        assert found[f"train/{name}"] == [(line["step"], pytest.approx(line[name])) for line in metrics(out, "loss")]
    heldout = metrics(out, "heldout")
    assert [line["step"] for line in heldout] == [0, 4, 8, 12]
    for name, source in (("domain", "papers"), ("general", "all")):
        expected = [(line["step"], pytest.approx(line["heldout"][name][source]["loss"])) for line in heldout]
        assert found[f"heldout/{name}/{source}/loss"] == expected


@pytest.fixture
def wandb(monkeypatch):
    """What of W&B's client is used: a run that counts its steps, and refuses those it has passed."""
    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.runs, module.asked = {}, []

    def init(**options):
        module.asked.append(options)
        run = module.runs.setdefault(options["id"], SimpleNamespace(step=0, lines=[], num_finished=0))
        run.step = run.lines[-1][0] + 1 if run.lines else 0

        def log(values, step):
            assert step >= run.step
            run.step = step
            run.lines.append((step, values))

        run.log, run.finish = log, lambda: setattr(run, "num_finished", run.num_finished + 1)
        return run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [accelerate.tracking.LoggerType.WANDB])
    return module


def test_wandb_is_given_every_step_once_after_a_kill(pico_recipe, stop_before, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "papers")
    asked = pico_recipe(report_to=["wandb"])
    stop_before(cpt.train, asked, 8)
    cpt.train(asked)
    (run,) = wandb.runs.values()
    losses = [(step, values["train/loss"]) for step, values in run.lines if "train/loss" in values]
    assert losses == [(line["step"], line["loss"]) for line in metrics(asked.out, "loss")]
    assert [step for step, values in run.lines if "heldout/general/all/loss" in values] == [0, 4, 8, 12]
    assert run.num_finished == 1
    options = wandb.asked[-1]
    assert options["project"] == "papers"
    assert options["resume"] == "allow"
    assert options["config"] == recipes.identity(asked)


def test_wandb_without_a_login_stops_before_the_training(pico_recipe, wandb, monkeypatch):
    refusal = type("UsageError", (Exception,), {"__module__": "wandb.errors.errors"})
    monkeypatch.setattr(wandb, "init", Mock(side_effect=refusal("No API key configured")))
    monkeypatch.setattr(setup, "make_model", None)  # nothing long has begun
    with raises("wandb-not-started", "UsageError: No API key configured"):
        cpt.train(pico_recipe(report_to=["wandb"]))


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "tracking"), ("wandb", "wandb")])
def test_a_missing_tracker_is_named(pico_recipe, monkeypatch, name, extra):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda module: None)
    with raises("tracker-not-installed", name, f"nsllm-lite[{extra}]"):
        cpt.train(pico_recipe(report_to=[name]))


def test_the_trainer_log_has_the_fields_of_llama_factory(pico_recipe, stop_before, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(tracking, "time", SimpleNamespace(monotonic=lambda: now.__setitem__(0, now[0] + 60) or now[0]))
    asked = pico_recipe()
    log = Path(asked.out) / "trainer_log.jsonl"
    stop_before(cpt.train, asked, 8)
    assert read_lines(log)[-1]["current_steps"] == 7
    before = [line for line in read_lines(log) if line["current_steps"] <= 4]
    now[0] += 86_400  # a day until it is continued
    cpt.train(asked)
    found = read_lines(log)
    assert found[: len(before)] == before
    steps = [line for line in found if "loss" in line]
    fields = ["current_steps", "total_steps", "loss", "lr", "epoch", "percentage", "elapsed_time", "remaining_time"]
    assert [list(line) for line in steps] == [fields] * 12
    ours = [(line["loss"], line["learning_rate"]) for line in metrics(asked.out, "loss")]
    assert [(line["loss"], line["lr"]) for line in steps] == ours
    assert [line["percentage"] for line in steps[:3]] == [8.33, 16.67, 25.0]
    assert steps[-1]["epoch"] == pytest.approx((12 * 4 - 7) / 40)  # of 48 rows 7 are replay, of 40 domain rows
    assert [line["current_steps"] for line in found if "eval_loss" in line] == [0, 4, 8, 12]
    times = [tracking.DURATION.validate_python(line["elapsed_time"]) for line in found]
    assert times == sorted(times)
    assert times[-1] < timedelta(hours=1)  # by the clock of this test: the day between does not count
    assert steps[-1]["remaining_time"] == "0:00:00"


def test_times_are_read_as_they_are_written():
    for time in (timedelta(seconds=1968), timedelta(days=9, seconds=78_558), timedelta(days=1, seconds=1)):
        assert tracking.DURATION.validate_python(str(time)) == time


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, each as {label: [(x, y), ...]}."""
    from matplotlib.figure import Figure

    figures = []

    def keep(figure, path, **options):
        figures.append({line.get_label(): list(map(tuple, line.get_xydata())) for line in figure.axes[0].lines})
        Path(path).write_bytes(b"picture")

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_another_runs_curve_lies_over_this_runs_length(pico_recipe, drawn, capsys):
    other = Path(__file__).parents[1] / "data/train/trainer_log.jsonl"  # its last line has no loss
    results = cpt.train(pico_recipe())
    cpt.train(pico_recipe(overlay=str(other)))  # finished: only the picture is drawn again
    assert f"drawn again over {other}" in capsys.readouterr().out
    label = "train/trainer_log.jsonl, 10 steps drawn to this run's length"
    assert label not in drawn[0]
    assert drawn[1][label] == [(results["tokens"] / 2, 2.5), (results["tokens"], 2.0)]
    # a log of our own has tokens: it is drawn where it was
    cpt.train(pico_recipe(overlay=f"{pico_recipe().out}/metrics.jsonl"))
    assert drawn[2]["out/metrics.jsonl"] == drawn[2]["training"]


@pytest.mark.parametrize("text", ["", "not JSON", '{"step": 1}\n', "[1]\n", '{"current_steps": 1, "loss": 2}\n'])
def test_a_log_without_a_curve_is_refused_before_the_run(pico_recipe, tmp_path, text):
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with raises("overlay-no-curve", path):
        cpt.train(pico_recipe(overlay=str(path)))
    assert not (tmp_path / "out").exists()
    with raises("overlay-no-curve", tmp_path / "absent.jsonl", "FileNotFoundError"):
        read_curve(tmp_path / "absent.jsonl")


def test_the_others_wait_longer_than_nccl_would(monkeypatch, pico_recipe):
    """While the first process evaluates; NCCL's own limit is ten minutes, a slow card's evaluation takes as long."""
    asked = {}
    monkeypatch.setattr(tracking, "Accelerator", lambda **options: asked.update(options))
    tracking.make_accelerator(pico_recipe(), "cuda")
    (patience,) = asked["kwargs_handlers"]
    assert patience.to_kwargs() == {"timeout": timedelta(hours=2)}
