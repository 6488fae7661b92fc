"""The bundled sample corpus is what README says it is."""

import re
from collections import Counter

import pytest

from nsllm_lite import recipe
from nsllm_lite.corpus import sources
from nsllm_lite.corpus.texts.render import experimental_sections, phase2_text
from nsllm_lite.document import Document

DISCIPLINES = {"Computer Science", "Physics", "Chemistry", "Biology", "Medicine"}
MOVES = {"Background", "Objective", "Methods", "Results", "Conclusions"}


def bundled(name: str, general: bool) -> list[Document]:
    source = recipe.Source(name="s", path=f"bundled:{name}")
    return [d for file in sources.files_of(source) for d in sources.read(source, file, general)]


@pytest.fixture(scope="module")
def papers() -> list[Document]:
    return bundled("papers", general=False)


def test_ten_papers_of_each_discipline(papers):
    assert Counter(p.discipline for p in papers) == dict.fromkeys(DISCIPLINES, 10)
    assert len({p.id for p in papers}) == 50


def test_every_abstract_sentence_is_tagged(papers):
    for paper in papers:
        assert {label for label, _ in paper.moves} == MOVES, paper.id
        assert paper.abstract == " ".join(sentence for _, sentence in paper.moves)


def test_every_paper_has_an_experimental_section_that_is_found(papers):
    for paper in papers:
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


def test_general_english():
    passages = bundled("general", general=True)
    assert len(passages) >= 30
    assert sum(len(p.text.split()) for p in passages) > 13_000
    assert len({p.title for p in passages}) == len(passages)
