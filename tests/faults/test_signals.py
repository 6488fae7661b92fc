"""Ctrl-C, SIGTERM, SIGHUP and time that is up: what was done is kept, and the same command ends as if undisturbed."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from nsllm_lite import cli
from nsllm_lite.artifact import interrupts, json_files
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import PackedLM
from tests.conftest import pico_values
from tests.corpus.small import digests, sample, values, write_sources
from tests.faults.kills import contents, differences, tell
from tests.test_two_phase import FEW
from tests.train.test_cpt import SAMPLED

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("signals_heeded")
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGALRM: 75, signal.SIGKILL: -9}


def left(out: Path) -> dict[str, bytes]:
    """What must not differ: metrics, the adapter, the manifest but for its own path."""
    names = ("metrics.jsonl", "adapter/adapter_model.safetensors", "manifest.json", "samples.md")
    return {name: (out / name).read_bytes().replace(bytes(out), b"OUT") for name in names}


def words(pico: Path, out: Path, **changes) -> list[str]:
    """Writes a recipe beside `out`; returns the words that train it."""
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**pico_values(pico, out), "samples": SAMPLED, **changes}))
    return ["train", str(path)]


@pytest.fixture
def command(pico, tmp_path):
    return lambda out, **changes: words(pico, tmp_path / out, **changes)


@pytest.fixture(scope="module")
def undisturbed(pico, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "whole"
    assert cli.main(words(pico, out)) == 0
    return left(out)


def send_at(monkeypatch, place, count: int, signum: int):
    """`signum` during the `count`th call of `place`, a class and the name of its method."""
    method, calls = getattr(*place), itertools.count(1)

    def calling(*args, **options):
        result = method(*args, **options)
        if next(calls) == count:
            os.kill(os.getpid(), signum)
        return result

    monkeypatch.setattr(*place, calling)


def saved_steps(out: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*"))


# 12 steps of two micro-batches; evaluations at 0, 4, 8 and 12 of four; checkpoints at 4, 8 and 12
FORWARD, EVALUATED, STEPPED = (PackedLM, "forward"), (heldout, "collate"), (torch.optim.AdamW, "step")


@pytest.mark.parametrize(
    ("signum", "place", "count", "step"),
    [
        (signal.SIGTERM, FORWARD, 13, 6),  # in the first half of step 7
        pytest.param(signal.SIGINT, FORWARD, 14, 6, marks=pytest.mark.slow),  # in the second half
        (signal.SIGHUP, STEPPED, 7, 7),
        (signal.SIGTERM, FORWARD, 2, None),  # before anything was done
        (signal.SIGALRM, EVALUATED, 7, 4),  # after step 4, before its checkpoint
        (signal.SIGTERM, STEPPED, 12, 12),
    ],
)
def test_training_stops_within_the_step_and_keeps_the_last_one(
    command, undisturbed, tmp_path, monkeypatch, capsys, signum, place, count, step
):
    words = command("stopped")
    with monkeypatch.context() as patch:
        send_at(patch, place, count, signum)
        assert cli.main(words) == STATUS[signum]
    assert "same command continues" in capsys.readouterr().err
    assert max(saved_steps(tmp_path / "stopped"), default=None) == step
    assert not (tmp_path / "stopped/manifest.json").exists()
    assert cli.main(words) == 0
    assert left(tmp_path / "stopped") == undisturbed


def test_a_signal_may_ask_for_a_checkpoint_and_no_more(command, tmp_path, monkeypatch):
    words = command("whole", keep_checkpoints=9)
    with monkeypatch.context() as patch:
        send_at(patch, FORWARD, 13, signal.SIGUSR1)
        assert cli.main([*words, "--save-on-signal", "USR1"]) == 0
    assert saved_steps(tmp_path / "whole") == [4, 7, 8, 12]


def test_hours_that_are_up_end_a_run_that_goes_on(command, tmp_path, monkeypatch):
    """In the recipe's own time: a step takes a tenth of a second, there are 1,000, and two seconds are given."""
    forward = PackedLM.forward
    monkeypatch.setattr(PackedLM, "forward", lambda *args: (time.sleep(0.05), forward(*args))[1])
    budget = {"steps": 1000, "tokens_per_step": 256, "tokens": 256_000}
    assert cli.main([*command("out", budget=budget), "--max-hours", f"{3 / 3600}"]) == 75
    assert 1 < saved_steps(tmp_path / "out")[-1] < 40
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_other_work_is_cut_at_once_and_continues(tmp_path, monkeypatch, capsys):
    sources = write_sources(tmp_path, papers=map(sample, range(12)))
    for out in ("whole", "cut"):
        (tmp_path / f"{out}.yaml").write_text(yaml.safe_dump(values(tmp_path, out, sources)))
    assert cli.main(["corpus", str(tmp_path / "whole.yaml")]) == 0
    with monkeypatch.context() as patch:
        send_at(patch, (json_files, "write_atomic"), 6, signal.SIGTERM)
        assert cli.main(["corpus", str(tmp_path / "cut.yaml")]) == 143
    assert "by SIGTERM; the same command continues" in capsys.readouterr().err
    assert not (tmp_path / "cut/manifest.json").exists()
    assert cli.main(["corpus", str(tmp_path / "cut.yaml")]) == 0
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


PATIENT = """
import sys, time
from nsllm_lite.artifact import interrupts
with interrupts.listening(), interrupts.deferred(lambda: None):
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(signum):
    process = subprocess.Popen([sys.executable, "-c", PATIENT], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.send_signal(signum)
    time.sleep(interrupts.SAME_S + 0.2)
    assert process.poll() is None
    process.send_signal(signum)
    assert process.wait(5) == -signum


def test_one_signal_that_two_pass_on_is_one():
    reached = []
    stopped = pytest.raises(interrupts.Stop, match="SIGINT")
    with stopped, interrupts.listening(), interrupts.deferred(lambda: reached.append("kept")):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("on")
        interrupts.raise_if_requested()
        reached.append("further")
    assert reached == ["on", "kept"]


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.listening():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("signums", [(signal.SIGKILL,), (signal.SIGTERM, signal.SIGINT)], ids=str)
def test_signals_at_random_moments_of_the_chain(tmp_path, signums):
    """`phase1` with ten signals on its way: it ends within 30 s each time, and the result is the same."""
    words = ["phase1", *FEW, "phase1.checkpoint_steps=1", "--recipes", str(ROOT / "recipes/nano"), "--out", "run"]

    def start(folder: Path) -> subprocess.Popen:
        folder.mkdir(exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
        with open(folder / "log", "w") as log:
            command = [sys.executable, "-m", "nsllm_lite.cli", *words]
            return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)

    def wait(process: subprocess.Popen) -> int:
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # tells where it is
            process.wait()
            pytest.fail((stopped / "log").read_text()[-6000:])

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    began = time.monotonic()
    assert start(whole).wait() == 0
    whole_seconds = time.monotonic() - began
    moments, longest, num_stopped = random.Random(5), 0.0, 0
    for number in range(10):
        process = start(stopped)
        time.sleep(5 + moments.random() * whole_seconds / 20)  # imports take about five; what was done is kept
        signum = signums[number % len(signums)]
        process.send_signal(signum)
        sent = time.monotonic()
        status = wait(process)
        longest = max(longest, time.monotonic() - sent)
        assert status in (0, STATUS[signum])
        num_stopped += status != 0
    assert start(stopped).wait() == 0
    tell(f"{', '.join(signum.name for signum in signums)}, phase1", num_stopped, f"longest {longest:.1f} s")
    assert num_stopped >= 5
    ends = [contents(folder / "run") for folder in (whole, stopped)]
    assert [line for line in differences(*ends) if "checkpoints" not in line] == []  # a signal has one made
