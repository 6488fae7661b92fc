"""Answers that are longer than a limit: counted, with the best scores that are left, by hand."""

import re

import pytest

from nsllm_lite.tasks.answer_limits import best_score, limit_note, within
from nsllm_lite.tasks.spans import Answer, Question

CONTEXT = "tin whiskers grow fast from the pure plating ."


def tokens(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", text)]


def question(*answers: str) -> Question:
    return Question("q", "what ?", CONTEXT, tuple(Answer(text, CONTEXT.find(text)) for text in answers))


def test_tokens_of_an_answer_are_all_that_it_touches():
    assert within(tokens(CONTEXT), (0, 12)) == [(0, 3), (4, 12)]
    assert within(tokens(CONTEXT), (5, 14)) == [(4, 12), (13, 17)]
    assert within(tokens(CONTEXT), (3, 4)) == []


def test_the_best_part_of_a_long_answer():
    """Two of four words: F1 2 * 2 / (2 + 4). Where an article is all that is too much, the rest is exact."""
    assert best_score(question("tin whiskers grow fast"), tokens, 2) == (0, pytest.approx(2 / 3))
    assert best_score(question("the pure plating"), tokens, 2) == (1, 1)


def test_what_cannot_be_given_is_told_with_what_is_left():
    """Of four questions one loses its exact match and a third of its F1."""
    asked = [question("tin whiskers grow fast"), question("tin", "whiskers grow fast"), question("steam"), question()]
    note = limit_note(asked, tokens, 2)
    assert note.startswith("1 questions have answers of more than max_answer_tokens=2 tokens alone")
    assert "of the 3 with an answer need 4 at most" in note
    assert note.endswith("exact match is 0.750 at most, F1 0.917")
    assert "exact" not in limit_note(asked, tokens, 2, is_scored=False)
    assert limit_note(asked, tokens, 4) == limit_note([question()], tokens, 1) == ""
