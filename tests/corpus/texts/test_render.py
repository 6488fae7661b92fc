from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsllm_lite.corpus.texts import render
from nsllm_lite.corpus.texts.render import COLUMNS, RENDER, texts_of
from nsllm_lite.formats.documents import Document, Section, parquet_writer, read_documents, table_of

PAPER = Document(
    "a", "s", "f#1", title="On tin", abstract="Tin grows.",
    sections=(
        Section("1 Introduction", "Long ago."),
        Section("2. Materials and Methods", ""),
        Section("Gel analysis", "We ran gels.", ("2. Materials and Methods",)),
        Section("Empty", "", ("2. Materials and Methods",)),
        Section("RESULTS", "It grew."),
        Section("Discussion", "Why?"),
        Section("Methods compared", "Others.", ("Discussion",)),
    ),
)  # fmt: skip


def test_phase_1_is_title_and_abstract():
    assert render.phase1_text(PAPER, 5) == ("On tin\n\nTin grows.", "")
    assert render.phase1_text(PAPER, 50) == ("", "too_short")
    assert render.phase1_text(replace(PAPER, abstract=""), 5) == ("", "no_abstract")


def test_phase_2_is_title_and_experimental_sections_under_their_headings():
    text, reason = render.phase2_text(PAPER, 5)
    assert text == "On tin\n\n2. Materials and Methods\n\nGel analysis\n\nWe ran gels.\n\nRESULTS\n\nIt grew."
    assert reason == ""
    assert render.phase2_text(PAPER, 500) == ("", "too_short")
    only = replace(PAPER, sections=(PAPER.sections[0], Section("Why frost matters", "It does.")))
    assert render.phase2_text(only, 5) == ("", "no_experimental_section")


def test_general_text_stands_under_its_title():
    assert render.general_text(Document("a", "s", "f#1", title="T", text="Body."), 3) == ("T\n\nBody.", "")
    assert render.general_text(Document("a", "s", "f#1", text="Body."), 9) == ("", "too_short")


DOCUMENTS = [
    Document("a", "s", "f#1", "Títle", "Abstract ± 1", (Section("Methods", "We did."),)),
    Document("b", "s", "f#2", "Other", "More", (Section("Results", "It was."), Section("", "x"))),
    Document("c", "s", "f#3", text="General text"),
    Document("d", "s", "f#4", title="Titled", text="general"),
    Document("e", "s", "f#5", title="Titled", abstract="an abstract as general text"),
]


def test_a_batch_says_what_each_document_says(tmp_path):
    with parquet_writer(tmp_path / "d.parquet") as writer:
        writer.write_table(table_of(DOCUMENTS))
    assert list(read_documents(tmp_path / "d.parquet")) == DOCUMENTS
    seen = 0
    for phase, text_of in RENDER.items():
        table = pq.read_table(tmp_path / "d.parquet", columns=COLUMNS[phase])
        fits = [not text_of(d, 1)[1] for d in DOCUMENTS]
        batch = table.combine_chunks().to_batches()[0].filter(pa.array(fits))
        assert texts_of(phase, batch, 1).to_pylist() == [text_of(d, 1)[0] for d in DOCUMENTS if not text_of(d, 1)[1]]
        seen += sum(fits)
    assert seen >= 8


@pytest.mark.parametrize(("character", "needed"), [("a", 200), ("铜", 80), ("の", 80), ("금", 100)])
def test_characters_count_as_much_as_they_say(character, needed):
    for num, reason in ((needed - 1, "too_short"), (needed, "")):
        assert render.phase1_text(replace(PAPER, abstract=character * num), 200)[1] == reason
        assert render.general_text(Document("a", "s", "f#1", text=character * num), 200)[1] == reason
        section = Section("Methods", character * num)
        assert render.phase2_text(replace(PAPER, sections=(section,)), 200)[1] == reason
