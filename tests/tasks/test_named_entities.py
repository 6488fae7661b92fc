"""Entities from lines of words: where they stand, how they are scored, and that every sentence can be written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.tasks import entities
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.listed_words import lines_of, written
from nsllm_lite.tasks.named_entities import TASK, lines_from, placed, sentence_of
from tests.corpus.small import write_lines
from tests.raising import raises
from tests.tasks.test_listed_words import ENTITIES, set_of

TAGS = st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"])
SENTENCES = st.lists(st.tuples(st.sampled_from("xyz"), TAGS), min_size=1, max_size=9)


def item(text: str, answer: str) -> Item:
    return Item(0, text, answer, {})


@given(SENTENCES)
def test_every_sentence_can_be_written_and_is_scored_as_its_tags_are(sentence):
    """Of three words that repeat, so that most stand in the way of others."""
    tokens, raw = zip(*sentence, strict=True)
    tags = entities.as_iob2(raw)
    lines = lines_from(tokens, tags)
    assert [
        (one.start, one.start + len(one.words), one.kind.upper()) for one in placed(lines, tokens)
    ] == entities.entities(tags)
    asked = item(" ".join(tokens), written(lines))
    assert sentence_of(asked).tags == tags
    score = TASK.score(TASK.parse(asked.output, ()), asked)
    assert (score.value, score.exact) == (1.0, True)


@given(SENTENCES, st.lists(TAGS, min_size=9, max_size=9))
def test_the_score_is_that_of_the_tags(sentence, others):
    """An answer written from other tags has the entity F1 that these tags have."""
    tokens, raw = zip(*sentence, strict=True)
    gold, said = entities.as_iob2(raw), entities.as_iob2(others[: len(raw)])
    asked = set_of("named_entities", [(" ".join(tokens), written(lines_from(tokens, gold)))])
    answer = TASK.parse(written(lines_from(tokens, said)), ())
    right = entities.f1(entities.tallies([gold], [said], ["A", "B"]))
    assert TASK.results([answer], asked)["entity_f1"][0].given.shape == (1, 1, 3)
    assert TASK.figures([answer], asked)["entity_f1"] == pytest.approx(right)


def test_repeated_words_by_hand():
    """x stands at 0 and 3; only the second is an entity, so a line of O says where it is not."""
    tokens, tags = ("x", "of", "Sr", "x"), ("O", "O", "O", "B-MAT")
    assert lines_from(tokens, tags) == [("x", "O"), ("x", "B-MAT")]
    assert lines_from(tokens, ("O", "O", "B-MAT", "I-MAT")) == [("Sr", "B-MAT"), ("x", "I-MAT")], "a span stands alone"
    rows = [(" ".join(tokens), written(lines_from(tokens, tags))), *ENTITIES]
    asked = set_of("named_entities", rows)
    # x is given at its first place, Sr right, y nowhere; the second sentence has half an entity; none, and a false one
    answers = ["x : B-MAT", "lattice : B-PRO\nSr : B-MAT\ny : B-MAT", "elastic : B-PRO\nx : b-mat", "it : B-MAT"]
    figures = asked.task.figures(answers, asked)
    assert figures["entity_f1"] == pytest.approx(2 * 3 / (5 + 7))
    assert figures["f1"] == pytest.approx(2 * 5 / (6 + 7)), "of words: x is listed, and is a MAT"
    assert figures["exact"] == 0
    labels = asked.task.figures(["x : MAT", "none", None, "softening : I-PRO"], asked)
    assert labels["entity_f1"] == 0
    given = asked.task.results(["x : MAT", "none", None, "it : I-PRO"], asked)["entity_f1"][0].given[:, 0, 2]
    assert given.tolist() == [1, 0, 0, 0], "a label that is no tag is a false entity, a lone I- is in none"


def test_lines_out_of_order_take_the_first_free_place():
    found = placed(lines_of("y : B-A\nx : B-A\nx : B-B\nx : B-B"), ("x", "y", "x"))
    assert [(one.start, one.kind) for one in found] == [(1, "a"), (2, "a"), (0, "b"), (-1, "b")]


def test_floors_are_those_of_a_dictionary_of_entities():
    pool = [("grain size of x", "grain : B-PRO\nsize : I-PRO"), ("x of x", "x : B-MAT\nx : B-MAT")] * 3
    asked = set_of(
        "named_entities", [("the grain size", "grain : B-PRO\nsize : I-PRO"), ("Sr and x", "Sr : B-MAT")], pool
    )
    floors = asked.task.floors(asked, 0)
    assert floors["dictionary"]["entity_f1"] == pytest.approx(2 * 1 / (2 + 2))
    assert floors["always none"]["entity_f1"] == 0
    assert floors["always B-MAT"]["entity_f1"] == pytest.approx(2 * 1 / (2 + 6)), "each word alone is one"


def test_an_entity_that_is_not_in_its_sentence_is_refused():
    with raises("entities-not-in-sentence", "here", "record 0", "Sr"):
        TASK.fitted([item("Sr-doped", "Sr : B-MAT")], "here")
    assert TASK.fitted([item("Sr - doped", "Sr : B-MAT")], "here")


def test_a_label_that_is_no_tag_is_a_wrong_entity_and_no_gold(tmp_path):
    asked = set_of("named_entities", [("Li and steel", "Li : MAT\nsteel : PRO")])
    for answer in ("Li : banana\nsteel : qqq", "Li : MAT\nsteel : PRO", "Li : B-\nsteel : I-"):
        assert asked.task.figures([asked.task.parse(answer, ())], asked)["entity_f1"] == 0
        assert asked.task.score(answer, asked.items[0])[1:3] == (0.0, False)
    labels = ("MAT", "B-", "x-MAT", "b-MAT")
    rows = [{"question": f"Li {label}", "answer": f"Li : {label}"} for label in labels]
    write_lines(tmp_path / "gold.jsonl", rows)
    found = TASK.read_gold(tmp_path / "gold.jsonl")
    why = "a label of its answer is no O, B-TYPE or I-TYPE"
    assert [(one.reason, one.what) for one in found] == [(why, "MAT"), (why, "B-"), (why, "x-MAT"), ("", "")]
    write_lines(tmp_path / "gold.jsonl", rows[:1])
    with raises("gold-none-used", why, "MAT"):
        TASK.read_items(tmp_path / "gold.jsonl")
