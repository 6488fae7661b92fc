"""The bundled sample corpus is what README says it is."""

import json
import re
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from nsllm_lite.corpus.texts.render import phase2_text
from nsllm_lite.formats.documents import Document
from nsllm_lite.formats.headings import experimental_sections
from nsllm_lite.tasks.table_text import read_table
from nsllm_lite.tasks.task import all_tasks
from tests.corpus.sources.reading import read_path

DISCIPLINES = {"Computer Science", "Physics", "Chemistry", "Biology", "Medicine"}
MOVES = {"Background", "Objective", "Methods", "Results", "Conclusions"}


@pytest.fixture(scope="module")
def papers() -> list[Document]:
    return read_path("bundled:papers")


@pytest.fixture(scope="module")
def questions() -> list[dict]:
    folder = resources.files("nsllm_lite") / "sample/questions"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".jsonl")), key=lambda f: f.name)
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def word_runs(text: str, num_words: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + num_words]) for i in range(len(words) - num_words + 1)}


def test_twenty_papers_of_each_discipline(papers):
    assert Counter(p.discipline for p in papers) == dict.fromkeys(DISCIPLINES, 20)
    assert len({p.id for p in papers}) == len({p.title for p in papers}) == 100


def test_every_abstract_sentence_is_tagged_and_every_paper_has_an_experimental_section(papers):
    for paper in papers:
        assert {label for label, _ in paper.moves} == MOVES, paper.id
        assert paper.abstract == " ".join(sentence for _, sentence in paper.moves)
        text, reason = phase2_text(paper, 200)
        assert not reason, paper.id
        assert len(text.split()) > 100
    some_left_out = sum(len(experimental_sections(p)) < len(p.sections) for p in papers)
    assert some_left_out >= 10  # introductions, limitations and the like are not phase 2's


def test_symbols_of_real_papers_are_there(papers):
    text = " ".join(p.abstract + " ".join(s.text for s in p.sections) for p in papers)
    for symbol in ("±", "µ", "Å", "°C", "×", "≤", "≈", "₂", "⁻¹", "$"):
        assert symbol in text or (symbol == "µ" and "μ" in text), symbol
    assert re.search(r"\$[^$]*\\[a-z]+[^$]*\$", text), "LaTeX"


def test_questions_of_each_discipline_come_from_papers_of_it(papers, questions):
    counts = Counter((q["discipline"], q["kind"]) for q in questions)
    assert counts == {(d, kind): n for d in DISCIPLINES for kind, n in (("multiple choice", 20), ("open", 10))}
    assert len({q["id"] for q in questions}) == len({q["question"] for q in questions}) == 150
    disciplines = {p.id: p.discipline for p in papers}
    for q in questions:
        assert disciplines[q["paper"]] == q["discipline"], q["id"]
    asked = Counter(q["paper"] for q in questions if q["kind"] == "multiple choice")
    assert asked == dict.fromkeys(disciplines, 1)  # one from each paper


def test_multiple_choice_does_not_give_itself_away(questions):
    questions = [q for q in questions if q["kind"] == "multiple choice"]
    letters = Counter((q["discipline"], q["answer"]) for q in questions)
    assert letters == {(d, letter): 5 for d in DISCIPLINES for letter in "ABCD"}
    longest = Counter()
    for q in questions:
        assert len(set(q["choices"])) == len(q["choices"]) == 4, q["id"]
        right = q["choices"]["ABCD".index(q["answer"])]
        longest[q["discipline"]] += all(len(right) > len(c) for c in q["choices"] if c != right)
    assert max(longest.values()) <= 0.3 * 20, longest


def test_open_answers_are_short(questions):
    questions = [q for q in questions if q["kind"] == "open"]
    for q in questions:
        assert set(q) == {"id", "paper", "discipline", "kind", "question", "answer"}, q["id"]
        assert q["answer"].strip() == q["answer"] != "", q["id"]
        assert len(q["answer"]) <= 40, q["id"]
    with_figures = Counter(q["discipline"] for q in questions if re.search(r"\d|\\", q["answer"]))  # numbers, formulas
    assert min(with_figures[d] for d in DISCIPLINES) >= 7


def test_questions_do_not_quote_their_papers(papers, questions):
    runs = {p.id: word_runs(" ".join([p.title, p.abstract, *(s.text for s in p.sections)]), 8) for p in papers}
    for q in questions:
        for text in (q["question"], *q.get("choices", [])):
            assert not word_runs(text, 8) & runs[q["paper"]], q["id"]


def test_general_english():
    passages = read_path("bundled:general", general=True)
    assert all(passage.text for passage in passages)
    assert len(passages) >= 30
    assert sum(len(p.text.split()) for p in passages) > 13_000
    assert len({p.title for p in passages}) == len(passages)


def test_fifty_sentences_and_tables_with_their_facts():
    """Every fact of doping stands in its sentence, every index in its table; a document is in one split."""
    folder = Path(str(resources.files("nsllm_lite") / "sample/materials"))
    documents, counts = {}, {}
    for split in ("train", "test"):
        for name in ("doping", "table_roles"):
            task = all_tasks()[name]
            found = task.read_gold(folder / split / f"{name}.jsonl")
            assert not any(one.reason or one.repairs for one in found)
            counts[name, split] = len(found)
            for item in (one.item for one in found):
                documents.setdefault(item["document"], set()).add(split)
                facts = task.facts(json.loads(item["output"]))
                if name == "doping":
                    assert all(text in item["input"] for field in task.texts for text in facts[field])
                else:
                    table = read_table(item["input"])
                    sizes = {"row": len(table.rows), "col": len(table.rows[0])}
                    for field in (one for one in facts if one.endswith("_index")):
                        assert all(place < sizes[field.split("_")[1]] for place in facts[field])
    assert sum(counts.values()) == 50
    assert all(len(splits) == 1 for splits in documents.values())
