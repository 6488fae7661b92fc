"""The floors on items whose scores are known by hand."""

from itertools import product

import numpy as np
import pytest

from nsllm_lite.tasks import floors
from nsllm_lite.tasks.answers import rouge_l
from tests.raising import raises


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


@pytest.mark.parametrize("seed", range(10))
def test_no_other_cuts_are_better(seed):
    draw = np.random.default_rng(seed)
    labels = draw.choice(list("abc"), 12).tolist()
    places = draw.random(12).tolist()
    _, predicted = floors.position(places, labels)
    in_order = [labels[place] for place in np.argsort(places)]
    best = 0
    for one, two in product(range(13), repeat=2):
        for names in ("abc", "acb", "bac", "bca", "cab", "cba"):
            if one <= two:
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
    ],
)  # fmt: skip
def test_rouge_l(predicted, reference, score):
    assert rouge_l(predicted, reference) == pytest.approx(score)
