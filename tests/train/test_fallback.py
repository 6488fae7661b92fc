"""A first step that does not fit the card starts again with a leaner execution; nothing else does."""

from pathlib import Path

import pytest
import torch

from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.cli import run_step
from nsllm_lite.errors import UserError
from nsllm_lite.models.device import Card
from nsllm_lite.models.execution import USABLE_SHARE
from nsllm_lite.recipe.train import Execution
from nsllm_lite.train import cpt, setup
from nsllm_lite.train.fallback import LEANER, Fallback, StepTooLargeError
from tests.train.test_cpt import assert_same_run, metrics

LAYERS = 2  # of the model, which fits the card only with all recomputed
CARD = Card("cpu", 10**10, "a card", 10**10)


@pytest.fixture
def small_card(monkeypatch):
    """The CPU as a card; "place" names the function of `cpt` that runs out of memory after "after" calls, "planned"
    are the bytes that each start planned with."""
    seen = {"planned": [], "place": "add_gradients", "after": 0, "calls": 0}
    choose = cpt.choose
    monkeypatch.setattr(setup, "find_device", lambda asked: CARD)

    def planned(recipe, size, row_tokens, card):
        seen["planned"].append(card.memory_bytes)
        how = choose(recipe, size, row_tokens, card)
        less = how.recompute_layers + (card.memory_bytes < CARD.memory_bytes)
        return how.model_copy(update={"recompute_layers": min(LAYERS, less)})

    monkeypatch.setattr(cpt, "choose", planned)
    for name in ("add_gradients", "evaluate"):
        function = getattr(cpt, name)

        def limited(*args, name=name, function=function, **options):
            how = next(value for value in args if isinstance(value, Execution))
            seen["calls"] += name == seen["place"]
            if name == seen["place"] and seen["calls"] > seen["after"] and how.recompute_layers < LAYERS:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return function(*args, **options)

        monkeypatch.setattr(cpt, name, limited)
    return seen


@pytest.mark.parametrize("place", ["add_gradients", "evaluate"])
def test_the_first_step_falls_back_until_it_fits(pico, pico_recipe, tmp_path, small_card, capsys, place):
    small_card["place"] = place
    recipe = pico_recipe(model=str(pico / "deep"))
    run_step(recipe)
    assert small_card["planned"][0] == 10**10 > max(small_card["planned"][1::2])
    assert read_json(Path(recipe.out) / "execution.json")["recompute_layers"] == LAYERS
    printed = capsys.readouterr().out
    assert printed.count("The first step ran out of memory with ") == LAYERS
    assert "recompute_layers 0 -> 1" in printed
    leaner = recipe.execution.model_dump() | {"recompute_layers": LAYERS}
    undisturbed = pico_recipe(model=str(pico / "deep"), out=str(tmp_path / "undisturbed"), execution=leaner)
    run_step(undisturbed)
    assert_same_run(recipe.out, undisturbed.out)


def test_a_later_step_that_does_not_fit_ends_the_run(pico_recipe, small_card):
    small_card["after"] = 2
    recipe = pico_recipe()
    with pytest.raises(torch.OutOfMemoryError):
        run_step(recipe)
    assert len(small_card["planned"]) == 1
    assert metrics(recipe.out)[-1]["step"] == 2


def fall_back(recipe, choose, has_trained: bool = False) -> None:
    fallback = Fallback(recipe, Execution(micro_batch_rows=1), 1000, CARD, choose)
    with fallback.on_first_step(lambda: has_trained):
        raise torch.OutOfMemoryError("CUDA out of memory, the card's own words")


def test_the_next_execution_is_chosen_for_less_memory_than_was_predicted(pico_recipe):
    asked = []
    with pytest.raises(StepTooLargeError) as caught:
        fall_back(pico_recipe(), lambda card: asked.append(card) or Execution(micro_batch_rows=1, recompute_layers=2))
    assert [card.memory_bytes for card in asked] == [int(LEANER * 1000 / USABLE_SHARE)]
    assert caught.value.leaner == pico_recipe(execution={"micro_batch_rows": 1, "recompute_layers": 2})


def refuse(card):
    raise UserError("execution-memory-too-small", "This run needs more.", "", "")


@pytest.mark.parametrize("choose", [refuse, lambda card: Execution(micro_batch_rows=1)], ids=["none fits", "none left"])
def test_without_a_leaner_execution_the_cards_own_error_is_told(pico_recipe, choose):
    with pytest.raises(torch.OutOfMemoryError, match="the card's own words"):
        fall_back(pico_recipe(), choose)


def test_after_a_step_and_among_several_processes_nothing_starts_again(pico_recipe):
    with pytest.raises(torch.OutOfMemoryError):
        fall_back(pico_recipe(), lambda card: Execution(micro_batch_rows=1, recompute_layers=2), has_trained=True)
