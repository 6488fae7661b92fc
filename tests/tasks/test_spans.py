"""SQuAD2's scores by the official rules, offsets that are mended, and what is refused."""

import json

import pytest

from nsllm_lite.tasks import heads, spans
from nsllm_lite.tasks.spans import Answer, Question, read_questions
from tests.raising import raises

CONTEXT = "The ice melts at 0 °C. It floats."


def question(*answers: str, context: str = CONTEXT, name: str = "q") -> Question:
    return Question(name, "When does ice melt?", context, tuple(Answer(text, context.find(text)) for text in answers))


def squad(tmp_path, *asked: dict, context: str = CONTEXT):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": [{"context": context, "qas": list(asked)}]}]}))
    return path


def asked(answers: list, name: str = "q", **more) -> dict:
    return {"id": name, "question": "When?", "answers": [{"text": t, "answer_start": s} for t, s in answers], **more}


@pytest.mark.parametrize(
    ("gold", "given", "exact", "f1"),
    [
        ("the ice", "Ice!", 1, 1),
        ("ice melts", "ice floats", 0, 0.5),
        ("ice", "ice ice water", 0, 2 * 1 / 4),
        ("the", "", 1, 1),  # an article alone is nothing
        ("ice", "", 0, 0),
    ],
)
def test_normalised_scores_by_hand(gold, given, exact, f1):
    assert (spans.exact(gold, given), spans.f1(gold, given)) == (exact, pytest.approx(f1))


def test_the_best_gold_answer_counts_and_no_answer_is_empty():
    assert spans.score(question("The ice", "ice melts"), "ice melts") == (1, 1)
    assert spans.score(question(), "") == (1, 1)
    assert spans.score(question(), "ice") == (0, 0)


def test_parts_with_and_without_an_answer():
    found = spans.figures([question("ice"), question(), question()], ["ice", "", "ice"])
    assert {name: metric(rows) for name, (rows, metric) in found.items()} == {
        "f1": pytest.approx(2 / 3),
        "exact": pytest.approx(2 / 3),
        "f1 has answer": 1,
        "exact has answer": 1,
        "f1 no answer": 0.5,
        "exact no answer": 0.5,
    }
    assert set(spans.figures([question("ice")], ["ice"])) == {"f1", "exact"}


def test_the_threshold_of_no_answer_is_the_best_on_development():
    """Official totals: with the cut behind the k-th smallest value, those before it answer and the others do not."""
    rows = [question("ice"), question("ice"), question(), question()]
    given = ["ice", "ice", "ice", "ice"]
    assert spans.best_threshold(rows, given, [0.1, 0.3, 0.5, 0.9]) == pytest.approx(0.4)
    assert spans.best_threshold(rows[2:], given[2:], [0.5, 0.9]) < 0.5
    assert spans.best_threshold(rows[:2], given[:2], [0.5, 0.9]) >= 0.9
    assert spans.best_threshold(rows[1:], given[1:], [0.5, 0.5, 0.5]) < 0.5  # equal values are not cut apart


def test_development_questions_that_are_all_answered_refuse_no_later_one():
    """Nothing says how low a margin may be where the best choice is to answer everything."""
    rows = [question("ice")] * 5
    always = spans.best_threshold(rows, ["ice"] * 5, [-3.0, -2.9, -2.8, -2.7, -2.6])
    cuts = heads.Cuts(no_answer=json.loads(json.dumps(always, allow_nan=False)))
    for margins in ([2.9, 2.5, 2.0], [-40.0, -1e4, 0.0]):
        figures = heads.figures("qa", rows[:3], [("ice", margin) for margin in margins], (), cuts)
        assert {name: metric(found) for name, (found, metric) in figures.items()} == {"f1": 1, "exact": 1}


def test_floors():
    found = {name: rule(question("0 °C")) for name, rule in spans.FLOORS.items()}
    assert found == {
        "never an answer": "",
        "first sentence": "The ice melts at 0 °C.",
        "sentence of most words": "The ice melts at 0 °C.",
    }
    second = question("It", context="It floats. Then the ice may melt.")
    assert spans.nearest_sentence(second) == "Then the ice may melt."


def test_answers_are_moved_to_where_they_stand_and_counted(tmp_path):
    context = "ice and ice and water"
    path = squad(
        tmp_path,
        asked([("ice", 0)], "right"),
        asked([("ice", 9)], "near"),
        asked([(" water ", 17)], "blank"),
        asked([("steam", 0)], "gone"),
        context=context,
    )
    found = read_questions(path)
    starts = {one.id: one.answers[0] for one in found.items}
    assert starts == {
        "right": Answer("ice", 0),
        "near": Answer("ice", 8),
        "blank": Answer("water", 16),
        "gone": Answer("steam", -1),
    }
    moved, lost = found.notes
    assert "2 (near, blank)" in moved
    assert "1 (gone)" in lost


@pytest.mark.parametrize(
    ("one", "code"),
    [
        (asked([("ice", 4)], is_impossible=True), "qa-question-unfit"),
        (asked([], is_impossible=False), "qa-question-unfit"),
        (asked([]) | {"question": " "}, "qa-question-unfit"),
        (asked([("ice", "4")]), "qa-question-unfit"),
        (asked([], is_impossible="perhaps"), "qa-question-unfit"),
        (asked([]) | {"answers": None}, "qa-question-unfit"),
        ({"id": "q", "question": "When?", "answer": [{"text": "ice", "answer_start": 4}]}, "qa-question-unfit"),
        ({"id": "q"}, "qa-question-unfit"),
        ({"question": "When?"}, "qa-file-unfit"),
    ],
)
def test_questions_that_contradict_themselves_are_named(tmp_path, one, code):
    with raises(code, "a.json"):
        read_questions(squad(tmp_path, one))


def test_a_question_has_no_answer_only_where_that_is_stated(tmp_path):
    bare = {"id": "bare", "question": "When?", "is_impossible": True}
    found = read_questions(squad(tmp_path, bare, asked([])))
    assert [one.answers for one in found.items] == [(), ()]
    records = [{"question": "When?", "context": CONTEXT, "answers": None, "answer": "ice", "is_impossible": ""}]
    records += [records[0] | {"answers": ["ice"], "answer": None}, records[0] | {"is_impossible": "FALSE"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    assert [one.answers for one in read_questions(path).items] == [(Answer("ice", 4),)] * 3
    path.write_text(path.read_text() + json.dumps(records[0] | {"answer": None, "is_impossible": ""}) + "\n")
    with raises("example-unfit", "line 4"):
        read_questions(path)


def test_a_file_that_is_not_json(tmp_path):
    (tmp_path / "a.json").write_text('{"data": [')
    with raises("examples-file-unreadable", "a.json"):
        read_questions(tmp_path / "a.json")


def test_ids_that_stand_twice(tmp_path):
    with raises("qa-ids-repeat", "1 (q)"):
        read_questions(squad(tmp_path, asked([]), asked([])))


def test_records_in_every_form_of_answers(tmp_path):
    forms = ["ice", ["ice"], [{"text": "ice", "answer_start": 4}], {"text": ["ice"], "answer_start": [4]}, [], None]
    records = [{"question": "When?", "context": CONTEXT, "answers": form, "is_impossible": not form} for form in forms]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    found = read_questions(tmp_path / "a.jsonl")
    assert [one.answers for one in found.items] == [(Answer("ice", 4),)] * 4 + [()] * 2
    assert found.items[1].id == "line 2"
    (tmp_path / "a.jsonl").write_text(json.dumps(records[3] | {"answers": {"text": ["ice"], "answer_start": []}}))
    with raises("example-unfit", "line 1"):
        read_questions(tmp_path / "a.jsonl")
