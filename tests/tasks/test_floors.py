"""The floors on items whose scores are known by hand."""

from dataclasses import replace
from itertools import combinations_with_replacement, permutations, product

import numpy as np
import pytest

from nsllm_lite.formats.documents import Document
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks import floors
from nsllm_lite.tasks.answers import rouge_l
from nsllm_lite.tasks.items import item_of
from nsllm_lite.tasks.scores import Results, compare, mean
from nsllm_lite.tasks.sets import make_set
from nsllm_lite.tasks.task import Making, all_tasks
from tests.raising import raises
from tests.tasks.test_every_task import EVAL


def test_majority():
    assert floors.majority(["a", "b", "a", "c"]) == 0.5


def test_naive_bayes_learns_words_and_needs_enough_of_them():
    texts = [f"{'gold' if number % 2 else 'iron'} ore {number}" for number in range(40)]
    labels = ["ab"[number % 2] for number in range(40)]
    assert floors.cross_validated(floors.bayes(), texts, labels, 0) == {"a": 1.0, "b": 1.0}
    with raises("floors-few-texts", floors.FOLDS):
        floors.cross_validated(floors.bayes(), ["x"] * 4 + ["y"] * 9, ["a"] * 4 + ["b"] * 9, 0)


def test_the_best_cuts_by_place():
    places = [0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.9, 1.0]
    labels = ["c", "c", "c", "a", "a", "c", "b", "b"]
    order, predicted = floors.position(places, labels)
    assert order == ["c", "a", "b"]
    assert predicted.tolist() == ["c", "c", "c", "a", "a", predicted[5], "b", "b"]
    assert sum(predicted == np.array(labels)) == 7
    shuffled = [6, 2, 4, 0, 7, 5, 1, 3]
    again = floors.position([places[n] for n in shuffled], [labels[n] for n in shuffled])[1]
    assert again.tolist() == [predicted[n] for n in shuffled]
    with raises("floors-many-labels", 7):
        floors.position(range(7), list("abcdefg"))


def test_items_at_one_place_are_not_cut_apart():
    labels = list("aaabbb")
    assert floors.position([0.5] * 6, labels)[1].tolist() in (["a"] * 6, ["b"] * 6)
    predicted = floors.position([0, 0.5, 0.5, 0.5, 0.5, 1], labels)[1].tolist()
    assert predicted[1:5] in (["a"] * 4, ["b"] * 4)
    assert (predicted[0], predicted[5]) == ("a", "b")


@pytest.mark.parametrize("max_items", [None, 60])
def test_the_place_of_a_sentence_is_that_in_its_whole_abstract(max_items):
    """Abstracts of 3 or 9 sentences in thirds: the place tells the move, also where few sentences are sampled."""
    moves = ("Background", "Methods", "Results")
    items = []
    for paper in range(40):
        parts = tuple((move, "It is so. " * (1 + 2 * (paper % 2))) for move in moves)
        document = Document(f"d{paper}", "s", "f", "T", "A.", moves=parts)
        made = [one.item for one in all_tasks()["moves"].of_paper(document, Making([], 100))]
        assert [one["sentence"] for one in made] == list(range(1, made[0]["sentences"] + 1))
        items += [item_of(one | {"input": f"{one['input']} {one['id']}"}, len(items) + n) for n, one in enumerate(made)]
    recipe = recipes.validate(EVAL | {"max_items": max_items}, "x")
    one = make_set("m", all_tasks()["moves"], tuple(items), (), recipe, "x")
    assert len(one.items) == (max_items or 240)
    assert one.task.floors(one, 0)["place in the abstract"] == {"macro_f1": 1.0, "accuracy": 1.0}
    unplaced = replace(one, items=(*one.items[1:], replace(one.items[0], place=None)))
    assert "place in the abstract" not in one.task.floors(unplaced, 0), "no floor rather than a wrong one"
    for place in ((None, None), (4, 3), ("1", 3), (0, 2)):
        record = {"input": "x", "output": "y"} | dict(zip(("sentence", "sentences"), place, strict=True))
        assert item_of(record, 0).place is None


@pytest.mark.parametrize("seed", range(10))
def test_no_other_cuts_are_better(seed):
    draw = np.random.default_rng(seed)
    labels = draw.choice(list("abc"), 12).tolist()
    places = draw.random(12).tolist()
    _, predicted = floors.position(places, labels)
    in_order = [labels[place] for place in np.argsort(places)]
    best = 0
    for (one, two), names in product(combinations_with_replacement(range(13), 2), permutations("abc")):
        tried = names[0] * one + names[1] * (two - one) + names[2] * (12 - two)
        best = max(best, sum(a == b for a, b in zip(tried, in_order, strict=True)))
    assert sum(predicted == np.array(labels)) == best


def test_rules_for_titles():
    text = "Tin grows. In this paper, we present a cure for tin whiskers that works! More."
    assert floors.first_sentence(text) == "Tin grows."
    assert floors.first_words(text, 3) == "Tin grows. In"
    assert floors.after_cue(text, 5) == "a cure for tin whiskers"
    assert floors.after_cue("No cue here at all", 2) == "No cue"


@pytest.mark.parametrize(
    ("predicted", "reference", "score"),
    [
        ("the cat sat", "the cat sat", 1.0), ("a b c d", "a c", 2 * 2 / 6), ("The CAT-sat!", "cat sat down", 2 * 2 / 6),
        ("x", "y", 0.0), ("", "y", 0.0), ("b a", "a b", 0.5),
        ("Теплопроводность графена", "теплопроводность", 2 / 3), ("β-Ga2O3", "α-Ga2O3", 0.5),
    ],
)  # fmt: skip
def test_rouge_l(predicted, reference, score):
    assert rouge_l(predicted, reference) == pytest.approx(score)


def test_a_model_that_does_not_beat_its_floor_is_told():
    """Of 20 items the floor is right on 16, one model on the 4 others alone, one on the same but two, one on all."""
    floor = Results(None, np.repeat([1.0, 0.0], [16, 4]))
    below, level, above = 1 - floor.given, floor.given.copy(), np.ones(20)
    level[:2] = 0

    def words(given: np.ndarray) -> str:
        return floors.lost_to("it", "a table", "F1", compare(floor, Results(None, given), mean, 0))

    assert words(below).startswith("**it is below the floor a table** in F1: -0.600 [")
    assert words(level).startswith("it cannot be told from the floor a table in F1: -0.100 [")
    assert words(floor.given).startswith("it cannot be told from the floor a table in F1: +0.000 [+0.000, +0.000]")
    assert words(np.ones(20)).startswith("it cannot be told"), "4 of 20 changed: p is 1 / 8"
    higher = Results(None, np.repeat([0.0, 1.0], [8, 12]))
    assert floors.lost_to("it", "a table", "F1", compare(higher, Results(None, above), mean, 0)) == ""
