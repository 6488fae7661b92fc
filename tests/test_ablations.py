"""The ablations of bench: what they compare is what they say, and a killed run continues."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from nsllm_lite.formats.rows import Row, Rows
from nsllm_lite.recipe import load as recipes
from nsllm_lite.train.order import StepOrder

ROOT = Path(__file__).parents[1]
FEW = [
    *("base.budget.steps=4", "base.budget.tokens=8192", "base.schedule.warmup_steps=1", "base.evaluation.max_rows=4"),
    *(f"base.build.{word}" for word in ("num_layers=1", "hidden_size=64", "intermediate_size=128", "head_dim=16")),
    *("phase1.budget.steps=8", "phase1.budget.tokens=8192", "phase2.budget.steps=3", "phase2.budget.tokens=3072"),
    *(f"{phase}.{word}" for phase in ("phase1", "phase2")
      for word in ("schedule.warmup_steps=1", "evaluation.max_rows=4", "checkpoint_steps=1")),
]  # fmt: skip


@pytest.fixture(scope="module")
def ablations():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        import ablations
    return ablations


def counted(rows: list[Row]) -> Counter:
    return Counter((row.input_ids.tobytes(), *row.doc_ids, *row.doc_sources, row.continued) for row in rows)


def test_every_arm_trains_on_the_very_rows_of_both_phases(ablations, pico, pico_recipe, tmp_path):
    phase1 = pico_recipe(seed=5)
    other = {"steps": 5, "tokens_per_step": 256, "tokens": 5 * 256}
    phase2 = recipes.update(phase1, rows=str(pico / "rows/papers/heldout"), budget=other, model="made later")
    arms = ablations.phase_arms({"phase1": phase1, "phase2": phase2}, tmp_path / "run", seed=5)
    assert list(arms) == ["two phases", "mixed, rank 8", "mixed, rank 16", "mixed, in two phases"]

    general, share = Rows(pico / "rows/general/train"), Fraction(15, 100)
    order1 = StepOrder(Rows(pico / "rows/papers/train"), general, 4, share, 5)
    order2 = StepOrder(Rows(pico / "rows/papers/heldout"), general, 4, share, 5)
    both = counted([row for step in range(12) for row in order1.rows(step)])
    both += counted([row for step in range(5) for row in order2.rows(step)])
    assert both.total() == 68
    assert max(both.values()) == 3  # the second phase's 8 rows are shown twice and more
    for name, phases in list(arms.items())[1:]:
        taken = [ablations.seen_rows(recipes.update(phase, model=str(pico / "base"))) for phase in phases]
        assert counted([row for rows in taken for row in rows]) == both, name
        assert [len(rows) for rows in taken] == ([68] if len(phases) == 1 else [48, 20])
    one, wide = arms["mixed, rank 8"][0], arms["mixed, rank 16"][0]
    assert one.model == str(pico / "base")
    assert (one.budget.steps, one.schedule, one.optimizer) == (17, phase2.schedule, phase2.optimizer)
    assert (wide.adapter.rank, wide.adapter.alpha) == (16, 32)
    # mixed: a step of the mixed run takes rows of both phases
    assert counted(taken[0]) & counted([order2.domain[i] for i in range(8)])

    uneven = recipes.update(phase2, budget={"steps": 5, "tokens_per_step": 512, "tokens": 5 * 512})
    with pytest.raises(ValueError, match=r"phase 1 takes 256 tokens a step and phase 2 512: .*alike"):
        ablations.phase_arms({"phase1": phase1, "phase2": uneven}, tmp_path / "run", 5)


def test_the_verdict_is_paired_by_seed(ablations):
    found = {
        "0%": {"abstracts": [1.0, 2.0, 3.0], "general": [1.0, 1.0, 1.0]},
        "5%": {"abstracts": [0.9, 1.9, 2.8], "general": [1.1, 0.9, 1.1]},
    }
    told = ablations.compare(found, "0%")
    assert "| 5% | -0.1333 (-0.2000 to -0.1000): lower, beyond the spread | " in told
    assert "+0.0333 (-0.1000 to +0.1000): no difference beyond the spread |" in told
    assert ablations.judge([0.2, 0.3]) == "higher, beyond the spread"
    assert ablations.judge([0.2]) == "one seed, no spread to compare with"


def test_what_a_finished_run_gave_is_not_made_again(ablations, pico, pico_recipe, tmp_path):
    """Whatever the unit's name and folders; but for other settings, rows or measures."""
    units, base = ablations.Units(tmp_path / "of/units.jsonl"), str(pico / "base")
    made = []

    def figures(phases: list, measured: str = "adapter") -> dict:
        inputs = ablations.inputs_of(measured, phases, base, str(pico))
        return units.of("a name", inputs, lambda: made.append(phases) or {"losses": {"abstracts": float(len(made))}})

    one = pico_recipe()
    assert figures([one]) == {"losses": {"abstracts": 1.0}} == figures([recipes.update(one, out="elsewhere")])
    assert len(made) == 1
    others = [
        ([recipes.update(one, seed=9)],),
        ([recipes.update(one, rows=str(pico / "rows/papers/heldout"))],),
        ([recipes.update(one, optimizer={**one.optimizer.model_dump(), "learning_rate": 0.5})],),
        ([one, one],),
        ([one], "merged"),
    ]
    assert [figures(*other)["losses"]["abstracts"] for other in others] == [2.0, 3.0, 4.0, 5.0, 6.0]
    line = json.loads(units.path.read_text().splitlines()[0])
    assert (line["unit"], line["figures"]) == ("a name", {"losses": {"abstracts": 1.0}})
    assert line["seconds"] >= 0


@pytest.mark.slow
@pytest.mark.pictures
def test_shares_are_trained_as_asked(ablations, tmp_path, capsys):
    """Also where the recipe would repeat the general text too often and lower them."""
    ablations.main(["replay", "--seeds", "1", "--out", str(tmp_path), *FEW, "phase1.replay.max_epochs=0.01"])
    result = json.loads((tmp_path / "replay.json").read_text())
    arms = ["0%", "1%", "5%", "20%"]
    replayed = [result["trained"][arm]["replayed"][0] for arm in arms]
    assert replayed == pytest.approx([0, 0, 1 / 32, 6 / 32], abs=0.02)  # of 32 rows, by tokens
    losses = [result["found"][arm]["general"][0] for arm in arms]
    assert losses[0] == losses[1] != losses[2] != losses[3]
    assert (tmp_path / "replay.png").stat().st_size > 10_000
    assert (tmp_path / "replay.md").read_text() in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_command_continues(tmp_path):
    """`phases` killed in the middle of its second arm ends with the figures of a run that was not."""
    script = ROOT / "bench/ablations.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def start(out: Path) -> subprocess.Popen:
        command = [sys.executable, str(script), "phases", "--seeds", "1", "--out", str(out), *FEW]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    whole = start(tmp_path / "whole")
    assert "mixed, in two phases" in whole.communicate()[0]
    assert whole.returncode == 0
    killed = start(tmp_path / "killed")
    checkpoints = tmp_path / "killed/phases/seed-0/mixed-rank-16/phase1/checkpoints"
    while killed.poll() is None and not list(checkpoints.glob("step-??????")):
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -9
    assert not (checkpoints.parent / "manifest.json").exists()
    again = start(tmp_path / "killed")
    text = again.communicate()[0]
    assert again.returncode == 0
    assert "seed-0/mixed-rank-16/phase1: continuing after step" in text
    assert "seed-0/two-phases" not in text  # its figures are known
    assert (tmp_path / "killed/phases.json").read_bytes() == (tmp_path / "whole/phases.json").read_bytes()
    found = json.loads((tmp_path / "whole/phases.json").read_text())["found"]
    assert len({arm["abstracts"][0] for arm in found.values()}) == 5  # the base and four arms
