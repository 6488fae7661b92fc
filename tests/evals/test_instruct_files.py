"""Instruction files from a corpus: the right split, every item accounted for, nothing made where there is nothing."""

import json
from collections import Counter
from pathlib import Path

import pytest

from nsllm_lite.artifact.step import manifest_sha256, read_manifest
from nsllm_lite.corpus.build import build
from nsllm_lite.evals import instruct_files
from nsllm_lite.evals.instruct_files import disciplines_of, make_tasks
from nsllm_lite.formats.documents import Document, Section
from nsllm_lite.formats.papers import CorpusPapers
from nsllm_lite.formats.rows import Rows
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import Tasks
from nsllm_lite.tasks import classification
from nsllm_lite.tasks.from_papers import BUNDLED_QUESTIONS, document_items
from nsllm_lite.tasks.items import plain_prompt
from nsllm_lite.tasks.moves import move_of
from nsllm_lite.tasks.paper_title import paper_text
from tests.corpus.small import paper, prose, sample, values, write_lines, write_sources
from tests.evals.conftest import build_papers
from tests.raising import raises

LABELS = ["Background", "Objective", "Methods", "Results", "Conclusions"]


def tagged(number):
    """A paper with a discipline and one sentence of each move."""
    abstract = [[label, prose(100 * number + place, 15)] for place, label in enumerate(LABELS)]
    return {**sample(number), "discipline": ("Physics", "Biology")[number % 2], "abstract": abstract}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """20 full papers with moves, 8 abstracts without, a duplicate of a full paper, and general text."""
    folder = tmp_path_factory.mktemp("corpus")
    twin = {**tagged(3), "id": "sample:twin"}
    abstracts = [paper(50 + i, categories="none") for i in range(8)]
    sources = write_sources(folder, full=[*map(tagged, range(20)), twin], arxiv=abstracts)
    changes = {"heldout": {"share": 0.25, "general_share": 0.25, "max_papers": 10, "seed": 1}}
    build(recipes.validate({**values(folder, "out", sources), **changes}, "test"))
    return folder / "out"


def question(number, about, **changes):
    record = {"id": f"q{number}", "paper": about, "kind": "multiple choice", "question": f"Which {number}?"}
    return {**record, "choices": ["one", "two", "three", "four"], "answer": "BCAD"[number % 4], **changes}


def tasks_of(corpus, out, questions=(), **changes) -> Tasks:
    asked = {"kind": "tasks", "out": str(out), "corpus": str(corpus), "questions": [str(q) for q in questions]}
    return recipes.validate({**asked, "max_per_task": 1000, "max_paper_chars": 10_000, "seed": 0, **changes}, "test")


def items_in(out, split) -> dict[str, list[dict]]:
    return {p.stem: [json.loads(line) for line in p.open()] for p in sorted((out / split).glob("*.jsonl"))}


def test_each_paper_stands_in_one_split_and_every_item_is_accounted_for(corpus, tmp_path, capsys):
    lines = [question(i, f"sample:{i}") for i in range(20)]
    lines += [question(20, "sample:twin"), question(21, "sample:5", kind="open", answer="0.25")]
    write_lines(tmp_path / "questions.jsonl", lines)
    results = make_tasks(tasks_of(corpus, tmp_path / "out", [tmp_path / "questions.jsonl"]))
    train, test = (items_in(tmp_path / "out", split) for split in ("train", "test"))

    heldout, kept = (
        {name for i in range(len(rows)) for name in rows[i].doc_ids}
        for rows in (Rows(corpus / "rows/phase1" / split) for split in ("heldout", "train"))
    )
    assert heldout
    assert {item["document"] for items in test.values() for item in items} == heldout
    assert {item["document"] for items in train.values() for item in items} == kept
    assert "sample:twin" not in heldout | kept

    full_held = {name for name in heldout if name.startswith("sample:")}
    assert {item["document"] for item in test["multiple_choice"]} == full_held
    held = len(full_held)
    for task, num_train, num_test in (
        ("classification", 20 - held, held), ("moves", 5 * (20 - held), 5 * held), ("title", len(kept), len(heldout)),
        ("paper_title", 20 - held, held),
    ):  # fmt: skip
        assert (len(train[task]), len(test[task])) == (num_train, num_test), task
    reasons = {task: counts["left_out"] for task, counts in results["tasks"].items()}
    assert list(reasons.pop("multiple_choice").values()) == [1]  # its paper was dropped
    assert reasons == {
        "classification": {"no discipline": 8}, "moves": {"no moves": 8}, "title": {},
        "paper_title": {"no sections": 8}, "open": {},
    }  # fmt: skip
    for task, counts in results["tasks"].items():
        assert counts["train"] == len(train.get(task, []))
        assert counts["test"] == len(test.get(task, []))
    names = [item["id"] for items in (*train.values(), *test.values()) for item in items]
    assert len(set(names)) == len(names)
    assert "multiple_choice" in capsys.readouterr().out
    # the manifest is written, a second call does nothing, and the same call elsewhere writes the same bytes
    assert read_manifest(tmp_path / "out")["inputs"]["corpus"] == manifest_sha256(corpus)
    assert make_tasks(tasks_of(corpus, tmp_path / "out", [tmp_path / "questions.jsonl"])) == results
    assert "finished, skipped" in capsys.readouterr().out
    make_tasks(tasks_of(corpus, tmp_path / "twin", [tmp_path / "questions.jsonl"]))
    for path in (tmp_path / "out").glob("t*/*.jsonl"):
        assert path.read_bytes() == (tmp_path / "twin" / path.parent.name / path.name).read_bytes()


def test_the_items_say_what_they_should(corpus, tmp_path):
    write_lines(tmp_path / "questions.jsonl", [question(2, "sample:0")])
    make_tasks(tasks_of(corpus, tmp_path / "out", [tmp_path / "questions.jsonl"]))
    zero = tagged(0)
    abstract = " ".join(sentence for _, sentence in zero["abstract"])
    split = "test" if "sample:0" in (tmp_path / "out/test/title.jsonl").read_text() else "train"
    made = items_in(tmp_path / "out", split)
    assert made["classification"][0]["instruction"].endswith("one of: Biology, Physics.")
    by_task = {
        task: [(item["input"], item["output"]) for item in items if item["document"] == "sample:0"]
        for task, items in made.items()
    }
    ((whole, title),) = by_task.pop("paper_title")
    assert title == zero["title"]
    assert whole.startswith(abstract + "\n\nMethods\n\n")
    assert zero["sections"][1]["text"] in whole
    assert by_task == {
        "classification": [(abstract, "Physics")],
        "moves": [(sentence, label) for label, sentence in zero["abstract"]],
        "title": [(abstract, zero["title"])],
        "multiple_choice": [("Which 2?\nChoices:\n(A): one\n(B): two\n(C): three\n(D): four", "A")],
    }


def test_at_most_so_many_of_a_task_chosen_by_id_and_seed(corpus, tmp_path):
    results = make_tasks(tasks_of(corpus, tmp_path / "few", max_per_task=7))
    few = items_in(tmp_path / "few", "train")["moves"]
    make_tasks(tasks_of(corpus, tmp_path / "all"))
    all_moves = items_in(tmp_path / "all", "train")["moves"]
    assert len(few) == 7 < len(all_moves)
    assert [item for item in all_moves if item in few] == few, "the same items, in the same order"
    counts = results["tasks"]["moves"]
    assert counts["left_out"]["max_per_task"] == 100 - counts["train"] - counts["test"]
    make_tasks(tasks_of(corpus, tmp_path / "other", max_per_task=7, seed=1))
    assert items_in(tmp_path / "other", "train")["moves"] != few


def test_a_task_that_cannot_be_made_is_absent_and_said_to_be(tmp_path, capsys):
    build_papers(tmp_path, "corpus", [paper(i, categories="none") for i in range(12)])
    capsys.readouterr()
    make_tasks(tasks_of(tmp_path / "corpus", tmp_path / "out", [BUNDLED_QUESTIONS]))
    text = capsys.readouterr().out
    assert "absent: no discipline 12" in text
    assert "absent: no moves 12" in text
    assert "absent: its paper" in text
    assert set(items_in(tmp_path / "out", "train")) == {"title"}


@pytest.mark.parametrize(
    ("line", "quoted"),
    [
        (question(0, "p", answer="E"), "'E', the choices are A, B, C, D"),
        (question(0, "p", choices="Iron", answer="B"), "choices is no list"),
        (question(0, "p", kind="essay"), "kind is 'essay'"),
        (question(0, "p", kind="open", answer=0.5), "output is no text"),
        ({"id": "x"}, "KeyError: 'paper'"),
        (b"{", "JSONDecodeError"),
        (b"\xff", "UnicodeDecodeError"),
        (b"[" * 100_000, "RecursionError"),
    ],
)
def test_a_line_that_is_no_question(corpus, tmp_path, line, quoted):
    path = tmp_path / "q.jsonl"
    write_lines(path, [question(1, "p")])
    with open(path, "ab") as file:
        file.write(line if isinstance(line, bytes) else json.dumps(line).encode())
    with raises("questions-line-unfit", f"{path}, line 2:", quoted):
        make_tasks(tasks_of(corpus, tmp_path / "out", [path]))


def test_what_is_missing_is_refused(corpus, tmp_path, monkeypatch):
    with raises("corpus-absent", tmp_path / "nowhere"):
        make_tasks(tasks_of(tmp_path / "nowhere", tmp_path / "out"))
    with raises("questions-absent", "no/such"):
        make_tasks(tasks_of(corpus, tmp_path / "out", ["no/such"]))
    monkeypatch.setattr(instruct_files, "document_items", lambda *_: {})
    with raises("tasks-none-made", corpus):
        make_tasks(tasks_of(corpus, tmp_path / "out"))
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize(
    ("heading", "move"),
    [
        ("METHODS", "Methods"), ("Materials and methods:", "Methods"), ("Aims", "Objective"), ("Context", "Background"),
        ("CONCLUSION.", "Conclusions"), ("Main results", "Results"), ("Methods and findings", ""), ("and", ""),
        ("Funding", ""),
    ],
)  # fmt: skip
def test_headings_of_structured_abstracts(heading, move):
    assert move_of(heading) == move


def test_a_part_of_several_sentences_is_one_item_each():
    text = "We grew E. coli at 3.5 g. The yield rose, as J. R. Smith found. It fell later."
    document = Document("d", "s", "f#1", "T", text, moves=(("RESULTS", text), ("Funding", "None.")))
    made = document_items(document, [], 100)["moves"]
    assert [m.item["input"] for m in made if m.item] == [
        "We grew E. coli at 3.5 g.", "The yield rose, as J. R. Smith found.", "It fell later.",
    ]  # fmt: skip
    assert Counter(m.reason for m in made) == {"": 3, "another heading": 1}


def test_a_long_paper_is_cut_at_a_paragraph_or_a_word():
    sections = (Section("Methods", "one two three"), Section("Results", "four five six"))
    document = Document("d", "s", "f#1", "T", "Abstract.", sections)
    whole = "Abstract.\n\nMethods\n\none two three\n\nResults\n\nfour five six"
    assert paper_text(document, 1000) == paper_text(document, len(whole)) == whole
    assert paper_text(document, len(whole) - 1) == whole.removesuffix("\n\nfour five six")
    assert paper_text(Document("d", "s", "f#1", "T", "one two three", sections), 9) == "one two"
    assert paper_text(Document("d", "s", "f#1", "T", "Abstract."), 100) == ""


def test_of_many_disciplines_the_commonest_are_asked_for(corpus, monkeypatch):
    assert disciplines_of(CorpusPapers(corpus)) == ["Biology", "Physics"]
    for module in (classification, instruct_files):
        monkeypatch.setattr(module, "MAX_LABELS", 1)
    assert disciplines_of(CorpusPapers(corpus)) == [], "one label asks nothing"
    document = Document("d", "s", "f#1", "T", "A.", discipline="Alchemy")
    for labels, reason in (
        (["Physics"], "not one of the 1 commonest disciplines"),
        ([], "all have the same discipline"),
    ):
        assert document_items(document, labels, 100)["classification"] == [(None, reason)]


def test_the_plain_prompt():
    assert plain_prompt("Do this.", " A text.\n") == "Do this.\n\nA text.\n\nAnswer:\n"
    assert plain_prompt("What is this?", "") == "What is this?\n\nAnswer:\n"
