"""What is read out of a model's text, and what counts as equal: the cases of data/tasks/answers.toml and answers.tsv.

A row of the latter has the task, whether the prompt ends in <think>, the letters or labels, the answer (⏎: a line end)
and what is read from it.
"""

import time
import tomllib
from pathlib import Path

import pytest

from nsllm_lite.tasks.answers import is_equal, parse_label, parse_line, parse_result, rouge_l
from nsllm_lite.tasks.items import choices_of, open_thinking
from nsllm_lite.tasks.letters import parse_letter

DATA = Path(__file__).parents[1] / "data/tasks"
CASES = tomllib.loads((DATA / "answers.toml").read_text(encoding="utf-8"))
ROWS = [line.split("\t") for line in (DATA / "answers.tsv").read_text(encoding="utf-8").splitlines()[1:]]
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


@pytest.mark.parametrize("kind", PARSERS)
def test_what_is_read(kind):
    for text, answer in CASES[kind]:
        assert PARSERS[kind](text) == (answer or None), text


READERS = {
    "letters": parse_letter,
    "labels": lambda text, labels: parse_label(text, labels.split()),
    "results": lambda text, _: parse_result(text),
    "lines": lambda text, _: parse_line(text),
}


@pytest.mark.parametrize("asked", READERS)
def test_answers_as_models_write_them(asked):
    rows = [row[1:] for row in ROWS if row[0] == asked]
    assert rows
    for prompt, options, text, reading in rows:
        told = open_thinking("<user>?<assistant><think>\n" if prompt == "think" else "<think></think>\n\n")
        assert (READERS[asked](told + text.replace("⏎", "\n"), options) or "unread") == reading, text


def test_letters_alike_to_re_only_are_no_label():
    assert parse_label("Bıology", ("Biology", "Physics")) is None


def test_a_chinese_title_scores_by_its_characters():
    assert rouge_l("光的速度", "光的速度") == 1
    assert rouge_l("光速", "光的速度") == pytest.approx(2 / 3)


HOSTILE = [
    "A and ", "A、", "answer is A, ", "((A) ", "\\boxed{", "\\text{", "<answer>", "<think>", " ", "\n", "\t", "_", "*",
    "选A", "not A but ", "I think ", "A. x ", "if ", "C) because A is ", "Between A and B, ",
    "\nNote: a", ". ", "不是、",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.timed
def test_a_hostile_answer_is_read_in_linear_time(piece):
    text = "answer:" + piece * (100_000 // len(piece)) + "x"
    started = time.process_time()
    parse_letter(text, "ABCDEFGHIJ"), parse_label(text, DISCIPLINES), parse_line(text), parse_result(text)
    choices_of(text)
    assert time.process_time() - started < 10  # of a quadratic step minutes


def test_what_is_equal_and_what_is_not(monkeypatch):
    for answer, right in CASES["equal"]:
        assert is_equal(answer, right), (answer, right)
        assert is_equal(right, answer), (answer, right)
    monkeypatch.setattr("nsllm_lite.tasks.answers.COMPARE_SECONDS", 1)
    for answer, right in CASES["not_equal"]:
        assert not is_equal(answer, right), (answer, right)
