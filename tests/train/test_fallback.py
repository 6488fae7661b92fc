"""A training that does not fit the card goes on with a leaner execution."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.cli import run_step
from nsllm_lite.errors import UserError
from nsllm_lite.models.device import Card
from nsllm_lite.models.execution import USABLE_SHARE, choose, memory
from nsllm_lite.models.sizes import QWEN3
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Execution
from nsllm_lite.train import cpt, setup
from nsllm_lite.train.fallback import LEANER, Fallback, OutOfMemoryError
from tests.paths import load_whole
from tests.train.test_cpt import SHORT, assert_same_run

RECIPES = Path(__file__).parents[2] / "recipes"
LAYERS = 2  # of the model, which fits the card only with all recomputed
CARD = Card("cpu", 10**10, "a card", 10**10)


@pytest.fixture
def small_card(monkeypatch):
    """The CPU as a card; "place" names the function of `cpt` that runs out of memory after "after" calls, "planned" is
    the memory that each start planned with."""
    seen = {"planned": [], "place": "add_gradients", "after": 0, "calls": 0}
    choose = cpt.choose
    monkeypatch.setattr(setup, "find_device", lambda asked: CARD)

    def planned(recipe, size, row_tokens, card):
        gib = recipe.execution.memory_gib
        seen["planned"] += [gib] if gib not in seen["planned"] else []
        layers = min(LAYERS, seen["planned"].index(gib))
        return choose(recipe, size, row_tokens, card).model_copy(update={"recompute_layers": layers, "memory_gib": gib})

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


@pytest.mark.parametrize(
    ("place", "after"),
    [pytest.param("add_gradients", 0, marks=pytest.mark.slow), ("evaluate", 0), ("add_gradients", 6)],
)
def test_it_falls_back_until_it_fits(pico, pico_recipe, tmp_path, small_card, capsys, place, after):
    """In the first step, before it, and in a later one: then from the newest checkpoint."""
    small_card |= {"place": place, "after": after}
    budget = {"steps": 7, "tokens_per_step": 256, "tokens": 7 * 256} if after else SHORT
    changes = {"model": str(pico / "deep"), "budget": budget}
    recipe = pico_recipe(**changes)
    run_step(recipe)
    assert len(small_card["planned"]) == 1 + LAYERS
    assert small_card["planned"][0] is None
    frozen = read_json(Path(recipe.out) / "execution.json")
    assert (frozen["recompute_layers"], frozen["memory_gib"]) == (LAYERS, small_card["planned"][-1])
    printed = capsys.readouterr().out
    assert printed.count("The card ran out of memory with ") == LAYERS
    assert "recompute_layers 0 -> 1" in printed
    assert ("continuing after step 4" in printed) == (after > 0)
    leaner = recipe.execution.model_dump() | {"recompute_layers": LAYERS}
    undisturbed = pico_recipe(**changes, out=str(tmp_path / "undisturbed"), execution=leaner)
    small_card["after"] = 10**6
    run_step(undisturbed)
    assert_same_run(recipe.out, undisturbed.out)


def test_a_run_that_is_continued_remembers_what_did_not_fit(monkeypatch, pico_recipe, tmp_path):
    card = Card("cuda", 20 * GIB, "a card", 20 * GIB)
    monkeypatch.setattr(setup, "find_device", lambda asked: card)
    monkeypatch.setattr(setup, "require_kernels", lambda device: None)
    recipe = pico_recipe()
    assert setup.choose_card(recipe) == card
    for memory_gib in (16.5, None):  # the second start is not told again
        Path(recipe.out).mkdir(exist_ok=True)
        setup.freeze_execution(Path(recipe.out), "a card", Execution(micro_batch_rows=1, memory_gib=memory_gib))
        assert setup.choose_card(recipe).memory_bytes == int(16.5 * GIB)
    monkeypatch.setattr(setup, "find_device", lambda asked: card._replace(name="another"))
    assert setup.choose_card(recipe).memory_bytes == 20 * GIB


def test_each_execution_on_a_real_card_needs_less_than_the_one_before():
    """The planner's own choices, each of which runs out, down to the leanest."""
    recipe, size = load_whole(RECIPES / "qwen3/phase1.yaml", base="Qwen/Qwen3-8B-Base"), QWEN3["8b"][2]
    recipe = recipes.update(recipe, execution={"micro_batch_rows": 1})
    card, needs = Card("cuda", int(23.5 * GIB), "NVIDIA GeForce RTX 4090", int(23.5 * GIB)), []
    while True:
        how = choose(recipe, size, 4096, card)
        needs.append(sum(memory(recipe, size, 4096, how, card).values()))
        try:
            fall_back(recipe, lambda asked: choose(asked, size, 4096, card), how, needs[-1])
        except OutOfMemoryError as error:
            recipe = error.leaner
        except torch.OutOfMemoryError:
            break
    assert len(needs) > 6
    assert all(later <= LEANER * former for former, later in pairwise(needs))
    assert needs[-1] < 11 * GIB, "all layers recomputed"


ONE_ROW = Execution(micro_batch_rows=1)


def fall_back(recipe, choose, how=ONE_ROW, need_bytes=1000, alone=True, words="CUDA out of memory"):
    with Fallback(recipe, how, need_bytes, CARD, choose).where_it_runs_out(alone):
        raise (torch.OutOfMemoryError if "CUDA" in words else RuntimeError)(f"{words}, the card's own words")


def refuse(recipe):
    raise UserError("execution-memory-too-small", "This run needs more.", "", "")


@pytest.mark.parametrize(
    "choose", [refuse, lambda recipe: Execution(micro_batch_rows=1)], ids=["none fits", "none left"]
)
def test_without_a_leaner_execution_the_cards_own_error_is_told(pico_recipe, choose):
    with pytest.raises(torch.OutOfMemoryError, match="the card's own words"):
        fall_back(pico_recipe(), choose)


def test_among_several_processes_none_starts_again_and_other_errors_pass(pico_recipe):
    def leaner(recipe):
        return Execution(micro_batch_rows=1, recompute_layers=2)

    with pytest.raises(torch.OutOfMemoryError):
        fall_back(pico_recipe(), leaner, alone=False)
    with pytest.raises(RuntimeError, match="shapes differ"):
        fall_back(pico_recipe(), leaner, words="shapes differ")
    for words in ("CUBLAS_STATUS_ALLOC_FAILED", "Triton Error [CUDA]: out of memory"):
        with pytest.raises(OutOfMemoryError) as caught:
            fall_back(pico_recipe(), leaner, words=words)
        assert caught.value.leaner.execution.memory_gib == pytest.approx(LEANER * 1000 / USABLE_SHARE / GIB)
