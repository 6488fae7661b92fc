"""A first step that does not fit the card starts again with a leaner execution; nothing else does."""

from pathlib import Path

import pytest
import torch

from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.errors import UserError
from nsllm_lite.models.device import Card
from nsllm_lite.models.execution import USABLE_SHARE
from nsllm_lite.train import cpt, setup
from nsllm_lite.train.fallback import LEANER, Attempt, until_it_fits
from tests.train.test_cpt import assert_same_run, metrics


@pytest.fixture
def small_card(monkeypatch):
    """(card memory planned with at each start); the CPU, as a card that takes a step only with all layers recomputed.

    Yields a dict: "planned", and "in", the function of `cpt` in which memory runs out.
    """
    seen = {"planned": [], "in": "add_gradients", "after": 0, "calls": 0}
    choose, cpu = cpt.choose, Card("cpu", 10**9, "a card", 10**9)
    monkeypatch.setattr(setup, "find_device", lambda asked: cpu)

    def planned(recipe, size, row_tokens, card):
        seen["planned"].append(card.memory_bytes)
        how = choose(recipe, size, row_tokens, card)
        return how.model_copy(update={"recompute_layers": min(2, len(seen["planned"]) - 1)})

    monkeypatch.setattr(cpt, "choose", planned)
    for name in ("add_gradients", "evaluate"):
        function = getattr(cpt, name)

        def limited(*args, name=name, function=function, **options):
            seen["calls"] += name == seen["in"]
            if name == seen["in"] and len(seen["planned"]) < 3 and seen["calls"] > seen["after"]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return function(*args, **options)

        monkeypatch.setattr(cpt, name, limited)
    return seen


@pytest.mark.parametrize("where", ["add_gradients", "evaluate"])
def test_the_first_step_falls_back_until_it_fits(pico, pico_recipe, tmp_path, small_card, capsys, where):
    small_card["in"] = where
    deep = {"model": str(pico / "deep")}
    recipe = pico_recipe(**deep)
    cpt.train(recipe)
    assert small_card["planned"][0] == 10**9 > max(small_card["planned"][1:])
    assert read_json(Path(recipe.out) / "execution.json")["recompute_layers"] == 2
    printed = capsys.readouterr().out
    assert printed.count("starting again with a leaner execution") == 2
    assert "recompute_layers 0 -> 1" in printed
    undisturbed = pico_recipe(
        out=str(tmp_path / "undisturbed"), execution=recipe.execution.model_dump() | {"recompute_layers": 2}, **deep
    )
    small_card["planned"] += [None] * 3
    cpt.train(undisturbed)
    assert_same_run(recipe.out, undisturbed.out)


def test_a_later_step_that_does_not_fit_ends_the_run(pico_recipe, small_card):
    small_card["after"] = 2
    recipe = pico_recipe()
    with pytest.raises(torch.OutOfMemoryError):
        cpt.train(recipe)
    assert len(small_card["planned"]) == 1
    assert metrics(recipe.out)[-1]["step"] == 2


def test_it_ends_where_there_is_no_leaner_execution(monkeypatch, capsys):
    runs = []

    class Run:
        own_tokens = 0
        team = type("Team", (), {"size": 1})

    @until_it_fits
    def train(recipe, attempt: Attempt):
        runs.append(attempt.card_bytes)
        if len(runs) == 3:
            raise UserError("execution-memory-too-small", "This run needs more.", "", "")
        attempt.begin(Run, {"weights": 1000})
        raise torch.OutOfMemoryError("CUDA out of memory, the card's own words")

    with pytest.raises(torch.OutOfMemoryError, match="the card's own words"):
        train("recipe")
    assert runs == [None, *[int(LEANER * 1000 / USABLE_SHARE)] * 2]


def test_of_several_processes_none_starts_again_alone():
    class Run:
        own_tokens = 0
        team = type("Team", (), {"size": 2})

    starts = []

    @until_it_fits
    def train(recipe, attempt: Attempt):
        starts.append(recipe)
        attempt.begin(Run, {})
        raise torch.OutOfMemoryError("out")

    with pytest.raises(torch.OutOfMemoryError):
        train("recipe")
    assert len(starts) == 1
