"""Fuzzing in the tests: every seed through its target, some damage to each, and in the slow ring 200,000 inputs.

A seed named found-* once broke a promise; the others are whole files, all written by us.
"""

import json
import subprocess
from pathlib import Path
from random import Random

import pytest

from bench.fuzz import corpus, guard, run
from bench.fuzz.mutate import mutate
from bench.fuzz.target import SEEDS, Target, seeds_of

TARGETS = run.everything()


def never_ends():
    while True:
        pass


def test_each_target_has_seeds_and_each_seed_a_target():
    folders = {path.parent.relative_to(SEEDS).as_posix() for path in SEEDS.rglob("*") if path.is_file()}
    assert folders == {target.seeds for target in TARGETS.values()}


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "builds"])
def test_no_seed_breaks_a_promise(tmp_path, name):
    target = TARGETS[name]
    seeds = seeds_of(target)
    inputs = [*seeds.values(), *(mutate(Random(f"fast/{name}/{n}"), list(seeds.values())) for n in range(5))]
    if name == "command line":  # half a second each
        inputs = [content for seed, content in seeds.items() if seed.startswith(("found", "quick"))]
    for content in inputs:
        with guard.guarded(tmp_path):
            target.check(content, tmp_path)


def test_a_build_of_all_seeds_accounts_for_each(tmp_path):
    """Of every reader's files, whole and once damaged."""
    files = {
        f"{name.replace(' ', '-').replace('/', '-')}-{seed}": content
        for name, target in TARGETS.items() if name.startswith("read ") for seed, content in seeds_of(target).items()
    }  # fmt: skip
    damaged = {f"damaged-{name}": mutate(Random(name), [content]) for name, content in files.items()}
    corpus.account(files | damaged, tmp_path)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda folder: never_ends(), "of CPU"),
        (lambda folder: __import__("pickle").loads(b"cos\nsystem\n."), r"pickle\.find_class"),
        (lambda folder: (folder.parent / "outside").write_text(""), "outside"),
        (lambda folder: subprocess.run(["true"]), r"subprocess\.Popen"),
    ],
)
def test_the_guard_sees_what_no_input_may_do(tmp_path, monkeypatch, act, message):
    monkeypatch.setattr(guard, "CPU_SECONDS", 0.2)
    folder = tmp_path / "own"
    folder.mkdir()
    with pytest.raises(guard.Broken, match=message), guard.guarded(folder):
        act(folder)


def test_a_broken_promise_is_found_and_kept(tmp_path, monkeypatch):
    """A target that fails on a letter: the run's figures tell it, and the input is made small and kept."""

    def check(content: bytes, folder: Path) -> None:
        assert b"x" not in content

    (tmp_path / "own").mkdir()
    target = Target(check, "curves", 0)
    line = run.run_mutated("curves", target, "0", 200, 60, tmp_path / "own", tmp_path / "found")
    assert (line["inputs"], line["hangs"]) == (200, 0)
    assert line["crashes"] > 0
    assert [path.read_bytes() for path in (tmp_path / "found/curves").iterdir()] == [b"x"]


@pytest.mark.slow
def test_at_least_200_000_inputs_break_no_promise(tmp_path):
    """Ten minutes on one core that nothing else uses; without atheris the guided inputs are mutated ones instead."""
    command = [*run.COMMAND, "--found", str(tmp_path / "found"), "--json", str(tmp_path / "table.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SEEDS.parents[2])
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads((tmp_path / "table.json").read_text())
    assert not [line for line in lines if line["crashes"] or line["hangs"]]
    assert {line["target"] for line in lines} == TARGETS.keys()
    guided = {line["target"] for line in lines if line["by"] == "coverage" and line["inputs"] >= 500}
    assert guided == {name for name, target in TARGETS.items() if target.num_guided and run.has_atheris()}
    assert sum(line["inputs"] for line in lines) >= 200_000
