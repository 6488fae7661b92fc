"""Labels of listed words: every word counts, unknown labels and words are wrong, the public rule stands beside it."""

import random

import pytest

from nsllm_lite.recipe.evals import WORD_TASKS
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.listed_words import edit_distance, lines_of, nearest, written
from nsllm_lite.tasks.task import Task, TaskSet, all_tasks
from tests.tasks.test_every_task import mutilations

WORDS = [
    ("WORDS: x, Sr, x\nSENTENCE: x of Sr and x", "x : Value\nSr : Element\nx : Material"),
    ("WORDS: doped\nSENTENCE: It was doped.", "doped : Doping"),
    ("WORDS: Sr\nSENTENCE: Sr is there.", "Sr : Element"),
]
ENTITIES = [
    ("the lattice of Sr and x", "lattice : B-PRO\nSr : B-MAT"),
    ("elastic softening in x", "elastic : B-PRO\nsoftening : I-PRO\nx : B-MAT"),
    ("it was seen", "none"),
]
CLASSES = [("FIRST: Sr\nSECOND: 5\nSENTENCE: Sr, 5", "Target"), ("FIRST: a\nSECOND: b\nSENTENCE: a b", "Condition")]
ITEMS = dict.fromkeys(WORD_TASKS, WORDS) | {"named_entities": ENTITIES}
ITEMS |= dict.fromkeys(("relations", "sentence_class", "paper_class"), CLASSES)


def set_of(name: str, rows: list[tuple[str, str]], pool: list[tuple[str, str]] = ()) -> TaskSet:
    task: Task = all_tasks()[name]
    items, others = (tuple(Item(n, *row, {}) for n, row in enumerate(part)) for part in (rows, pool))
    return TaskSet(name, task, items, others, (), task.labels_of((*items, *others)))


@pytest.mark.parametrize("name", WORD_TASKS)
def test_gold_is_one_nothing_is_zero_and_nothing_is_more_than_gold(name):
    asked = set_of(name, ITEMS[name])
    task = asked.task
    for number, item in enumerate(asked.items):
        options = task.options(item, asked.labels)
        gold = task.score(task.parse(item.output, options), item)
        assert (gold.read, gold.value, gold.exact) == (True, 1.0, True)
        for text in ("", " \n", "[]", "{'x': 'Value'}", "[('x', 'Value')]"):
            assert task.score(task.parse(text, options), item)[:3] == (False, 0.0, False)
        for what, text in mutilations(item.answer, asked.items[number - 1].answer, options).items():
            answer = task.parse(text, options)
            score = task.score(answer, item)
            assert score.read == (answer is not None), what
            assert 0 <= score.value <= 1, what
            assert score.parts.keys() == gold.parts.keys() <= task.metrics.keys(), what
            row = [one.answer for one in asked.items]
            row[number] = answer
            figures = task.figures(row, asked)
            assert all(0 <= value <= 1 for value in figures.values()), what
    assert task.figures([item.answer for item in asked.items], asked) == dict.fromkeys(task.metrics, 1.0)
    assert task.figures([None] * len(asked.items), asked) == dict.fromkeys(task.metrics, 0.0)
    assert all(0 <= value < 1 for figures in task.floors(asked, 0).values() for value in figures.values())


def test_a_word_that_stands_twice_by_hand():
    """Gold is x Value, Sr Element, x Material, then doped Doping, then Sr Element: 5 words. The first x is right, Sr
    wrong (it is no Material), the second x has a label that is none, y is not listed; doped is right; Sr has none."""
    asked = set_of("entity_words", WORDS)
    answers = ["x : value\nSr : Material\nx : Materials\ny : Value", "doped : Doping", None]
    figures = asked.task.figures(answers, asked)
    assert figures["f1"] == pytest.approx(2 * 2 / (5 + 5))
    # Doping 1; Element 0 of 2 there; Material 0 of 1 there, 1 given; Value 1 right of 1 there and 2 given
    assert figures["macro_f1"] == pytest.approx((1 + 0 + 0 + 2 / 3) / 4)
    assert figures["exact"] == pytest.approx(1 / 3)
    # the public rule: the last x counts (Materials is brought to Material), the unread answer is left out
    assert figures["snapped"] == pytest.approx(2 * 2 / (3 + 4))
    first = asked.task.score(asked.task.parse(answers[0], ()), asked.items[0])
    assert (first.read, first.value, first.exact) == (True, pytest.approx(2 / 7), False)


def test_the_nearest_label_is_right_by_the_public_rule_alone():
    asked = set_of("entity_words", [WORDS[1]])
    figures = asked.task.figures(["doped : Dopping"], asked)
    assert (figures["f1"], figures["snapped"]) == (0.0, 1.0)
    assert nearest("coulombic efficiency", ["capacity", "coulombic efficiency"]) == "coulombic efficiency"
    assert nearest("b-mt", ["i-mat", "b-mat"]) == "b-mat"
    assert [edit_distance(*pair) for pair in (("", "abc"), ("kitten", "sitting"), ("a", "a"))] == [3, 3, 0]


def test_the_public_rule_is_scikit_learns_f1_over_the_known_labels():
    from sklearn.metrics import f1_score

    rng, labels = random.Random(0), ["element", "material", "value"]
    rows, answers = [], []
    for _ in range(30):
        words = [(rng.choice("abcd"), rng.choice(labels)) for _ in range(rng.randint(1, 4))]
        said = [(word if rng.random() < 0.8 else "z", rng.choice([*labels, "Matérial"])) for word, _ in words]
        rows.append(("?", written(words)))
        answers.append(None if rng.random() < 0.2 else written(said))
    asked = set_of("entity_words", rows)
    gold, given = [], []
    for (_, output), answer in zip(rows, answers, strict=True):
        if answer is not None:
            there, said = (dict(lines_of(text)) for text in (output, answer))
            for word in there | said:
                gold.append(there.get(word, "O"))
                given.append("material" if said.get(word) == "Matérial" else said.get(word, "O"))
    assert asked.task.figures(answers, asked)["snapped"] == pytest.approx(
        f1_score(gold, given, labels=labels, average="micro")
    )


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a : X\n b:Y \nprose\nempty:\n: Z", [("a", "X"), ("b", "Y")]),
        (": : X\na:b : Y\nc  d :  e  f", [(":", "X"), ("a:b", "Y"), ("c d", "e f")]),
        ("", []),
    ],
)
def test_lines(text, lines):
    assert lines_of(text) == lines
    assert lines_of(written(lines)) == lines


def test_none_is_an_answer_and_reasoning_is_not():
    task = all_tasks()["entity_words"]
    parsed = [task.parse(text, ()) for text in ("None.", "I do not know", "<think>a : X</think>b : Y", "<think>a : X")]
    assert parsed == ["none", None, "b : Y", None]


def test_floors_by_hand():
    """Of the pool the commonest label is Element, x is Value and y is unknown."""
    pool = [("?", "x : Value\nx : Value\nSr : Element"), ("?", "Sr : Element\nCo : Element")] * 3
    asked = set_of("entity_words", [("?", "x : Value\ny : Element"), ("?", "y : Value\nSr : Element")], pool)
    floors = asked.task.floors(asked, 0)
    assert {rule: figures["f1"] for rule, figures in floors.items()} == {
        "always none": 0.0, "always Element": 0.5, "dictionary": 0.75,
    }  # fmt: skip
    alone = set_of("entity_words", [("?", f"x : {label}") for label in ("A", "A", "A", "A", "B")])
    assert alone.task.floors(alone, 0)["dictionary"]["f1"] == 0.8, "a fifth is labelled by the other four"


def test_the_labels_stand_in_the_prompt_and_answers_may_have_several_lines():
    asked = set_of("entity_words", WORDS)
    assert asked.labels == ("Doping", "Element", "Material", "Value")
    prompt = asked.task.chat_prompt(asked.items[0], asked.labels)
    assert prompt.endswith("x of Sr and x\n\nLabels: Doping, Element, Material, Value.")
    shots = asked.task.few_shot_prompt(asked.items[0], asked.items[1:2])
    assert "\nLabels: doped : Doping\n\nWords: WORDS: x, Sr, x\n" in shots
    assert asked.task.stop == "\n\n"


def test_a_word_with_o_is_one_of_the_words_that_are_told_apart():
    asked = set_of("entity_words", [("WORDS: Li, Li\nSENTENCE: Li and Li", "Li : O\nLi : B-MAT")])
    figures = [asked.task.figures([answer], asked)["f1"] for answer in ("Li : O\nLi : B-MAT", "Li : B-MAT\nLi : O")]
    assert figures == [1.0, 0.0]


def test_the_commonest_label_is_of_the_items_where_the_pool_is_the_examples():
    rows = [("?", "x : A"), ("?", "y : A"), ("?", "z : B")]
    asked = set_of("entity_words", rows, [("?", "u : B"), ("?", "v : B")])
    assert asked.task.floors(asked, 0)["always A"]["f1"] == pytest.approx(2 / 3)
    many = set_of("entity_words", rows, [("?", "u : B")] * 5)
    assert many.task.floors(many, 0)["always B"]["f1"] == pytest.approx(1 / 3)


def test_floors_of_a_label_none_and_of_no_labels_at_all():
    asked = set_of("entity_words", [("?", "x : none"), ("?", "y : A\nz : none")])
    floors = asked.task.floors(asked, 0)
    assert (floors["always none"]["f1"], floors["always the label none"]["f1"]) == (0, pytest.approx(2 / 3))
    blank = set_of("named_entities", ENTITIES[2:])
    assert blank.task.floors(blank, 0).keys() == {"always none", "dictionary"}
