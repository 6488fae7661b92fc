"""Labels, average precision and thresholds, by hand and against scikit-learn."""

import numpy as np
import pytest

from nsllm_lite.formats.examples import Example, Examples
from nsllm_lite.tasks import classes
from nsllm_lite.tasks.scores import estimate
from tests.raising import raises


def file(*labels, multi: bool = False) -> Examples:
    return Examples(
        "a.jsonl", tuple(Example(n, f"word{n}", tuple(one.split())) for n, one in enumerate(labels)), (), multi
    )


def values(figures: dict) -> dict[str, float]:
    return {name: metric(rows) for name, (rows, metric) in figures.items()}


def test_labels():
    assert classes.labels_of(file("b", "a"), file("c")) == ("a", "b", "c")
    with raises("labels-too-few"):
        classes.labels_of(file("a", "a"))
    with raises("labels-mixed"):
        classes.labels_of(file("a", "b"), file("a b", multi=True))


def test_single_figures_by_hand():
    found = values(classes.single_figures(["a", "a", "b", "c"], ["a", "b", "b", None], ("a", "b", "c")))
    assert found["accuracy"] == 0.5
    assert found["f1 a"] == pytest.approx(2 / 3)
    assert found["f1 b"] == pytest.approx(2 / 3)
    assert found["f1 c"] == 0
    assert found["macro_f1"] == pytest.approx(4 / 9)
    with raises("label-unknown", "['c']"):
        classes.single_figures(["c"], ["a"], ("a",))


def test_labels_that_a_model_does_not_know_are_told():
    assert not classes.unseen(["a", "b"], ["a", "b"])
    assert classes.unseen(["a", "b", "b"], ["a"]).endswith("b (2)")


def test_average_precision_by_hand():
    """Right at places 1 and 3: (1/1 + 2/3) / 2. Equal scores stand at one place: 2 of 4 right there."""
    gold = np.array([1, 0, 1, 0], bool)
    assert classes.average_precision(gold, np.array([0.9, 0.8, 0.7, 0.1])) == pytest.approx((1 + 2 / 3) / 2)
    assert classes.average_precision(gold, np.zeros(4)) == pytest.approx(0.5)
    assert np.isnan(classes.average_precision(gold & False, np.zeros(4)))


def test_average_precision_is_that_of_scikit_learn():
    from sklearn.metrics import average_precision_score, f1_score

    rng = np.random.default_rng(0)
    gold = rng.random((200, 3)) < [0.5, 0.2, 0.05]
    scores = np.round(rng.random((200, 3)) + 0.4 * gold, 1)  # many are equal
    thresholds = np.array([0.5, 0.7, 0.9])
    found = values(classes.multi_figures(gold, scores, thresholds, "abc"))
    assert found["mean_ap"] == pytest.approx(average_precision_score(gold, scores, average="macro"))
    assert found["ap c"] == pytest.approx(average_precision_score(gold[:, 2], scores[:, 2]))
    for average in ("micro", "macro"):
        theirs = f1_score(gold, scores >= thresholds, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(theirs)


def test_thresholds_are_chosen_label_by_label():
    gold = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    scores = np.array([[0.9, 0.1, 0.2], [0.6, 0.3, 0.3], [0.4, 0.2, 0.2], [0.1, 0.15, 0.1]])
    found = classes.best_thresholds(gold, scores)
    assert found == pytest.approx([0.5, 0.175, classes.THRESHOLD])
    assert values(classes.multi_figures(gold, scores, found, "abc"))["macro_f1"] == 1


def test_a_resample_without_a_rare_label_is_left_out():
    gold = np.zeros((12, 2), bool)
    gold[0, 0] = gold[:, 1] = True
    rows, metric = classes.multi_figures(gold, gold.astype(float), np.array([0.5, 0.5]), "ab")["ap a"]
    assert estimate(rows, metric, seed=0) == (1, 1, 1)


def test_scores_that_are_no_numbers():
    with raises("scores-not-finite"):
        classes.multi_figures(np.ones((1, 1), bool), np.array([[np.nan]]), np.array([0.5]), "a")


def texts(label: str, count: int, first: int = 0) -> list[Example]:
    return [Example(n, f"{label} is told here {first + n}", (label,)) for n in range(count)]


def test_floors_of_single_labels_learn_from_training_texts_else_from_other_fifths():
    test = texts("red", 6) + texts("blue", 5)
    found = classes.single_floors(test, texts("blue", 3) + texts("red", 2), seed=0)
    assert found == {"always blue": ["blue"] * 11, "TF-IDF words": ["red"] * 6 + ["blue"] * 5}
    assert classes.single_floors(test, (), seed=0)["TF-IDF words"] == ["red"] * 6 + ["blue"] * 5
    assert classes.single_floors(test, texts("red", 3), seed=0)["TF-IDF words"] == ["red"] * 11


def test_a_rare_label_takes_no_floor_away():
    """The four texts of `rare` are in folds of their own, and one of `lone` is never learnt before it is asked. In
    order or by label, the folds are the same share of each label."""
    test = texts("red", 50) + texts("blue", 50) + texts("rare", 4) + texts("lone", 1)
    found = classes.single_floors(test, (), seed=0)
    assert set(found) == {"always red", "TF-IDF words"}
    assert found["TF-IDF words"][:104] == ["red"] * 50 + ["blue"] * 50 + ["rare"] * 4
    assert found["TF-IDF words"][104] != "lone"
    assert classes.fold_of(["a"] * 5 + ["b"] * 4 + ["c"] + ["a"] * 5) == [0, 0, 1, 1, 2, 0, 1, 2, 3, 0, 2, 3, 3, 4, 4]
    assert (
        classes.rare_note(test)
        == "labels of fewer than 5 texts, for which floors learn from the others: lone (1), rare (4)"
    )
    assert not classes.rare_note(test[:100])
    assert classes.single_floors(texts("red", 1) + texts("blue", 1), (), seed=0)["TF-IDF words"] == ["red"] * 2


def test_floors_of_several_labels():
    test = texts("red", 2) + texts("blue", 2)
    train = texts("blue", 3) + texts("red", 1)
    found = classes.multi_floors(test, train, ("blue", "green", "red"), seed=0)
    assert found["how often a label is"][0] == pytest.approx([0.75, 0, 0.25])
    words = found["TF-IDF words"]
    assert (words[:2, 2] > words[2:, 2]).all()
    assert (words[2:, 0] > words[:2, 0]).all()
    assert not words[:, 1].any()
    assert classes.multi_floors(test, (), ("blue", "red"), seed=0)["TF-IDF words"].shape == (4, 2)
