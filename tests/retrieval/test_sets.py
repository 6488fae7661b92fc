"""Test collections in each form, and judgements of what is not there."""

import json
from pathlib import Path

import pytest

from nsllm_lite.retrieval.sets import read_retrieval
from tests.raising import raises

DOCUMENTS = {"d1": ("Ice", "It melts."), "d10": ("", "Cells divide."), "d2": ("Empty", "")}
QUERIES = {"q1": "ice", "q2": "cells", "q3": "unjudged", "q4": "bad"}
TEST = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td10\t0\nq2\td10\t1\nq4\td1\t0\n"


def beir(folder: Path, documents=DOCUMENTS, queries=QUERIES, **splits: str) -> Path:
    (folder / "qrels").mkdir(exist_ok=True)
    lines = [{"_id": name, "title": title, "text": text} for name, (title, text) in documents.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"_id": name, "text": text} for name, text in queries.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, text in (splits or {"test": TEST}).items():
        (folder / f"qrels/{name}.tsv").write_text(text)
    return folder


def smart(folder: Path, rel: str, numbers=("001", "004"), names=("x.all.2", "x.qry", "xqrel")) -> Path:
    body = ".I 1\n.T\nOld ice\n.A\nA. Body\n.W\nmelts\nslowly .\n.I 2\n.T\n\n.W\ncells divide\n"
    asked = "".join(f".I {number}\n.W\n{text}\n" for number, text in zip(numbers, ("ice", "cells"), strict=True))
    for name, text in zip(names, (body, asked, rel), strict=True):
        (folder / name).write_text(text)
    return folder


def test_beir(tmp_path):
    found = read_retrieval(beir(tmp_path, test=TEST, dev="q3\td2\t1\n"))
    assert found.document_ids == ("d2", "d10", "d1")  # in falling order
    assert found.documents == ("Empty", "Cells divide.", "Ice It melts.")
    assert found.test.ids == ("q1", "q2")
    assert found.test.grades == ({2: 2, 1: 0}, {1: 1})
    assert found.development.ids == ("q3",)
    assert any("1 (q4)" in note for note in found.notes)
    assert any(note.startswith("test: 1 of 4 queries") for note in found.notes)


def test_a_query_that_is_a_document_has_it_as_its_own_unless_it_is_judged_relevant(tmp_path):
    queries = {"d1": "Ice It melts.", "d2": "empty", "q": "cells", "d10": "cells divide"}
    text = "d1\td10\t1\nd1\td1\t0\nd2\td2\t1\nq\td1\t1\nd10\td1\t2\n"
    found = read_retrieval(beir(tmp_path, queries=queries, test=text))
    assert found.test.ids == ("d1", "d2", "q", "d10")
    assert found.test.own == (2, -1, -1, 1)
    assert any("2 of 4 queries are documents" in note for note in found.notes)


def test_equal_numbers_of_the_other_collections_mean_nothing(tmp_path):
    found = read_retrieval(smart(tmp_path, "1 2 1\n4 1 1\n"))
    assert found.test.ids[0] in found.document_ids
    assert found.test.own == (-1, -1)


def test_the_hash_is_of_what_is_read(tmp_path):
    before = read_retrieval(beir(tmp_path)).sha256
    (tmp_path / "README.md").write_text("x")
    assert read_retrieval(tmp_path).sha256 == before
    beir(tmp_path, test=TEST.replace("d1\t2", "d1\t3"))
    assert read_retrieval(tmp_path).sha256 != before


@pytest.mark.parametrize(
    ("rel", "grades"),
    [
        ("1 1 2\n4 2 -1\n4 1 4\n", ({1: 2}, {0: -1, 1: 4})),  # query, document, grade
        ("1 0 1 1\n4 0 2 1\n", ({1: 1}, {0: 1})),  # TREC
        ("  1   1\t0\t0.000000\n 4 2 0 0.000000\n", ({1: 1}, {0: 1})),  # CISI
    ],
)
def test_the_three_forms_of_judgements(tmp_path, rel, grades):
    found = read_retrieval(smart(tmp_path, rel))
    assert found.documents == ("cells divide", "Old ice melts slowly .")
    assert found.test.ids == ("1", "4")
    assert found.test.grades == grades
    assert not found.notes


def test_queries_of_cranfield_are_known_by_their_place_and_its_grades_are_turned_round(tmp_path):
    found = read_retrieval(smart(tmp_path, "1 1 1\n2 2 4\n2 1 -1\n", names=("cran.all.1400", "cran.qry", "cranqrel")))
    assert found.test.ids == ("1", "2")
    assert found.test.grades == ({1: 4}, {0: 1, 1: 0})
    assert any("lack 1 (2)" in note for note in found.notes)


def test_judgements_of_what_is_not_there_are_refused(tmp_path):
    with raises("retrieval-ids-unknown", "2 (3, 7) of 3"):
        read_retrieval(smart(tmp_path, "1 1 1\n3 2 1\n7 1 1\n"))
    with raises("retrieval-ids-unknown", "1 (d7) of 2"):
        read_retrieval(beir(tmp_path, test="q1\td1\t1\nq1\td7\t1\n"))


@pytest.mark.parametrize(
    ("test", "code"),
    [
        ("q1\td1\n", "retrieval-line-unfit"),
        ("q1\td1\t1\nq1\td1\thigh\n", "retrieval-line-unfit"),
        ("q1\td1\t1\nq1\td1\t2\n", "retrieval-line-unfit"),
        ("q1\td1\t1.5\nq2\td10\t1\n", "retrieval-line-unfit"),
        ("q1\td1\tnan\nq2\td10\t1\n", "retrieval-line-unfit"),
        ("q1\td1\t1\nq2\td10\t" + "9" * 30 + "\n", "retrieval-line-unfit"),
        ("q1\td1\t1\nq2\td10\t" + "9" * 5000 + "\n", "retrieval-line-unfit"),
        ("q1\td1\t1\nq2\td10\t-1000000\n", "retrieval-line-unfit"),
        ("q1\td1\t0\n", "retrieval-nothing-relevant"),
    ],
)
def test_judgements_that_cannot_be_used(tmp_path, test, code):
    with raises(code, "test.tsv"):
        read_retrieval(beir(tmp_path, test=test))


def test_what_else_is_refused(tmp_path):
    with raises("retrieval-query-empty", "1 (q1)"):
        read_retrieval(beir(tmp_path, queries=QUERIES | {"q1": " "}))
    folder = beir(tmp_path)
    (folder / "corpus.jsonl").write_text('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n')
    with raises("retrieval-ids-repeat", "1 (a)"):
        read_retrieval(folder)
    (folder / "corpus.jsonl").write_text('{"text": "x"}\n')
    with raises("retrieval-line-unfit", "line 1"):
        read_retrieval(folder)
    (folder / "corpus.jsonl").write_text('{"_id": "x"}\n{"_id": "y", "text": "\\ud800"}\n')
    with raises("examples-file-unreadable", "line 2"):
        read_retrieval(folder)
    (folder / "corpus.jsonl").write_text('{"_id": "x"')
    with raises("examples-file-unreadable"):
        read_retrieval(folder)
    beir(folder, dev=TEST, train=TEST)
    (folder / "qrels/test.tsv").unlink()
    with raises("retrieval-folder-unfit", "dev, train"):
        read_retrieval(folder)
    with raises("retrieval-folder-unfit"):
        read_retrieval(folder / "qrels")
    with raises("retrieval-folder-unfit"):
        read_retrieval(folder / "nowhere")


def test_a_first_line_is_a_header_or_a_judgement(tmp_path):
    assert read_retrieval(beir(tmp_path, test="q1\td1\t2.0\n")).test.ids == ("q1",)
    assert read_retrieval(beir(tmp_path, test="query\tdocument\trelevance2\nq2\td10\t007\n")).test.grades == ({1: 7},)


def test_grades_of_smart_files_are_bounded(tmp_path):
    with raises("retrieval-line-unfit", "line 2"):
        read_retrieval(smart(tmp_path, "1 1 2\n4 2 " + "9" * 30 + "\n"))


def test_smart_files_without_numbers(tmp_path):
    smart(tmp_path, "1 1 1\n")
    (tmp_path / "x.qry").write_text("ice\n")
    with raises("retrieval-line-unfit", "x.qry"):
        read_retrieval(tmp_path)
