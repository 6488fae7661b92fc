"""What is read out of a model's text, and what counts as equal: the cases of data/tasks/answers.toml."""

import tomllib
from pathlib import Path

import pytest

from nsllm_lite.tasks.answers import is_equal, parse_label, parse_letter, parse_line, parse_result

CASES = tomllib.loads((Path(__file__).parents[1] / "data/tasks/answers.toml").read_text(encoding="utf-8"))
DISCIPLINES = ("Biology", "Chemistry", "Computer Science", "Medicine", "Physics")
MOVES = ("Background", "Conclusions", "Methods", "Objective", "Results")
PARSERS = {
    "labels": lambda text: parse_label(text, DISCIPLINES),
    "moves": lambda text: parse_label(text, MOVES),
    "letters": lambda text: parse_letter(text, "ABCD"),
    "three_letters": lambda text: parse_letter(text, "ABC"),
    "lines": parse_line,
    "results": parse_result,
}


@pytest.mark.parametrize(("kind", "text", "answer"), [(kind, *case) for kind in PARSERS for case in CASES[kind]])
def test_what_is_read(kind, text, answer):
    assert PARSERS[kind](text) == (answer or None)


@pytest.mark.parametrize(("answer", "right"), CASES["equal"])
def test_equal(answer, right):
    assert is_equal(answer, right)
    assert is_equal(right, answer)


@pytest.mark.parametrize(("answer", "right"), CASES["not_equal"])
def test_not_equal(answer, right, monkeypatch):
    monkeypatch.setattr("nsllm_lite.tasks.answers.COMPARE_SECONDS", 1)
    assert not is_equal(answer, right)
