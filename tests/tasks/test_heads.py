"""The door to the tasks of models with a head: what is given, what is chosen on development items, unknown labels."""

import numpy as np
import pytest

from nsllm_lite.formats.examples import Example
from nsllm_lite.tasks import heads
from nsllm_lite.tasks.entities import Sentence
from nsllm_lite.tasks.heads import Cuts
from nsllm_lite.tasks.scores import compare
from nsllm_lite.tasks.spans import Answer, Question


def value(figures, name):
    results, metric = figures[name]
    return metric(results)


def test_words_are_given_as_a_text_with_their_places():
    sentence = Sentence(("tin", "whiskers", "grow"), ("B-M", "I-M", "O"))
    assert heads.given("ner", [sentence]) == (["tin whiskers grow"], None, [[(0, 3), (4, 12), (13, 17)]])
    assert heads.labels_in("ner", [sentence]) == ("O", "B-M", "I-M")


def test_a_question_has_no_answer_above_the_threshold_of_the_development_items():
    """Margins 5 and 1 are of right answers, 2 and -3 of questions without one: an answer from 3 on gives 3 of 4."""
    answered = [Question(str(n), "?", "tin lead", (Answer("tin", 0),)) for n in range(2)]
    items = [*answered, *(Question(str(n), "?", "tin lead", ()) for n in range(2, 4))]
    said = [("tin", 5.0), ("tin", 1.0), ("lead", 2.0), ("lead", -3.0)]
    cuts = heads.cuts_of("qa", items, said, ())
    assert value(heads.figures("qa", items, said, (), cuts), "f1") == 0.75
    assert value(heads.figures("qa", items, said, (), Cuts(no_answer=-10.0)), "f1") == 0.5
    assert value(heads.figures("qa", items, said, (), Cuts(no_answer=10.0)), "f1") == 0.5


def test_labels_that_the_model_does_not_know_are_not_found():
    several = [Example(1, "x", ("a",)), Example(2, "y", ("a", "new"))]
    said = np.array([[0.9], [0.8]])
    cuts = heads.cuts_of("multilabel", several[:1], said[:1], ("a",))
    found = heads.figures("multilabel", several, said, ("a",), cuts)
    assert value(found, "ap a") == 1.0
    assert value(found, "ap new") == 0.5, "of two that are alike one has it"
    assert value(found, "micro_f1") == 2 * 1 / (1 + 3)  # 0.9 is the threshold: one right, one said, three there
    assert value(heads.figures("multilabel", several, said, ("z",), cuts), "ap a") == 1.0, "all alike, all have it"
    single = [Example(1, "x", ("a",)), Example(2, "y", ("new",))]
    found = heads.figures("classification", single, ["a", "a"], ("a", "b"), Cuts())
    assert value(found, "accuracy") == 0.5
    assert value(found, "f1 new") == 0.0
    tagged = [Sentence(("tin", "ore"), ("B-M", "B-New"))]
    found = heads.figures("ner", tagged, [["B-M", "O"]], ("O", "B-M", "I-M"), Cuts())
    assert value(found, "recall") == 0.5


def test_a_model_can_be_compared_with_its_highest_floor_whatever_labels_it_knows():
    """Items have a label `a` that neither the model nor its training texts know."""
    train = [Example(n, f"tin {n}", ("b", "c")[n % 2 : n % 2 + 1]) for n in range(8)]
    items = [Example(1, "tin 0", ("b",)), Example(2, "tin 1", ("c", "a")), Example(3, "tin", ("b",))]
    floors = heads.floors("multilabel", items, train, 0, ("b", "c"))
    values = {rule: value(of, "mean_ap") for rule, of in floors.items()}
    assert heads.highest(floors, "mean_ap") == max(values, key=values.get)
    said = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    own, how = heads.figures("multilabel", items, said, ("b", "c"), Cuts())["mean_ap"]
    assert how(own) == pytest.approx((1 + 1 + 1 / 3) / 3)
    for of in floors.values():
        assert compare(of["mean_ap"][0], own, how, 0).value == how(own) - value(of, "mean_ap")
