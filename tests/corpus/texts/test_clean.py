import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.corpus.texts import clean
from nsllm_lite.corpus.texts.clean import clean_abstract, clean_document, clean_line, clean_text
from nsllm_lite.formats.documents import Document, Section

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "golden_clean.jsonl").read_text().splitlines()]
GROUPS = defaultdict(list)
for pair in GOLDEN:
    GROUPS[pair["group"]].append((pair["text"], pair["clean"]))
PAPER = Document("a", "s", "f#1", title="On tin", abstract="Tin grows whiskers under stress.")


@pytest.mark.parametrize("group", GROUPS)
def test_golden(group):
    for text, expected in GROUPS[group]:
        assert clean_abstract(text) == expected
        assert clean_abstract(expected) == expected


def test_the_golden_table_is_whole():
    assert len(GOLDEN) >= 380
    assert len(GROUPS) >= 20


def test_labels_and_notices_are_cut_from_abstracts_alone():
    text = "Summary: Tin. (C) 2014 Elsevier Ltd."
    assert clean_abstract(text) == "Tin."
    assert clean_text(text) == clean_line(text) == text


def test_every_field_is_cleaned():
    document = clean_document(
        replace(
            PAPER,
            title="A\n  <i>B</i>",
            abstract="Tin. All rights reserved.",
            sections=(Section("1.\u00a0Aim", "x &lt; y\n", ("Up\n",), "intro"),),
            moves=(("M\n", " x  y. © 2014 Elsevier Ltd."),),
            discipline=" Physics",
            id="a\udcff",
            origin="b&amp;c<i>-\udcff#1",
        )
    )
    assert (document.title, document.abstract, document.discipline) == ("A B", "Tin.", "Physics")
    assert document.sections == (Section("1. Aim", "x < y", ("Up",), "intro"),)
    assert document.moves == (("M", "x y."),)
    assert (document.id, document.origin) == ("a\ufffd", "b&amp;c<i>-\ufffd#1")  # names are not text


def test_a_word_elsewhere_in_the_paper_settles_a_hyphen():
    broken = replace(PAPER, abstract="We took meas-\nure and wave- lengths of thin-\nfilm.")
    assert clean_document(broken).abstract == "We took meas-ure and wave- lengths of thin-film."
    evidence = (Section("", "To measure the wavelengths of a thin-film."),)
    assert (
        clean_document(replace(broken, sections=evidence)).abstract == "We took measure and wavelengths of thin-film."
    )


def test_a_line_is_clean_after_its_paragraphs_are_joined():
    assert clean_line("A\n\n<p>B</p>") == "A B"
    assert clean_line(clean_line("Â\n\n0")) == clean_line("Â\n\n0")


@pytest.mark.parametrize("count", [1, 2, 4, 5, 17, 40, 999])
@pytest.mark.parametrize("form", ["a {} b", "{}", "{}textbf{{x}}", "$x{}y$"])
def test_a_row_of_backslashes_is_cleaned_at_once(count, form):
    once = clean_text(form.format("\\" * count))
    assert clean_text(once) == once
    assert len(once) < 20


def test_lost_characters_are_left_to_be_counted():
    assert clean_document(replace(PAPER, title="(cid:3)n \ue5f8 \ufffd")).title.count(clean.LOST) == 3


PIECES = [pair["text"] for pair in GOLDEN] + [
    "&amp;", "&#38;", "lt;", "<", "i>", "</i>", "<p>", "<sub>", "</sub>", "<math>", "</math>", "\\", "'", '"', "{", "}",
    "\\'e", "\\v", "c", "$", "$$", "\\(", "\\)", "-", "- ", "-\n", "\n- ", "\n", " ", "tion", "oper", "Ã", "Â", "â€",
    "\xa0", "\x85", "\x80", "\u00ad", "ﬁ", "e", "\u0301", "\u200d", "\u2028", "(cid:1", "©", "(c)", " 2014 Elsevier",
    "Copyright", "Keywords: ", "Abstract", ": ", "Å", "±", "\ud835", "\udc00", "\ue001", "\x00",
    "\\emph{", "{\\it ", "\\cite{a}", "\\footnote{", "\\ ", "\\[", "\\item ", "(cid:173)", "(cid:12)", "GLYPH<9>",
    "/C0 ", "/H9251", "<U+", "00AD>", "& ", "deg;", "(p) over bar", "<less than>",
    "? 2020 ", "DOI: 10.1234/a", "版权所有", " IEEE. ",
]  # fmt: skip
PARTS = st.one_of(st.sampled_from(PIECES), st.text(max_size=2))
TEXTS = st.one_of(st.text(), st.lists(PARTS, max_size=20).map("".join))


@given(TEXTS)
def test_cleaning_is_idempotent_and_writable(text):
    for function in (clean_abstract, clean_text, clean_line):
        cleaned = function(text)
        assert function(cleaned) == cleaned
        cleaned.encode()


LEADS_AND_FOLLOWERS = "ÂÃÅâÎÏÐð±²³°é€™œ\xa0–’“„‚…ƒ¶ЂрґαφΔ≥√┬│\ufffd\x1a ?ab"


@given(st.text(alphabet=LEADS_AND_FOLLOWERS, max_size=12))
def test_what_the_cheap_look_passes_ftfy_would_not_change(text):
    assert clean._MOJIBAKE.search(text) or ftfy.fix_encoding(text) == text


HOSTILE = [
    "<", "<p a=", "<<i>", "<sub>", "<math>", "<sup><sub>", "&amp;", "\\'", '\\"Ab ', "$ ", "\\(", "\\documentclass ",
    "a@", "a- b", "ab-\ncd ", "\n ", " \n- ", "Ã", "Å±", "a\u0301", "\u00ad\n", "(cid:", "©", "(c) ", "Keywords: a, ",
    "A", "All rights reserved. ", "J. ", "\ud800", "\ue000", "\x85",
    "\\emph{", "}", "\\cite{a} ", "\\footnote{x}", "$ \n", "\n  \\[", "\\item[", "a(cid:12)b", "a\u00ad b", "/C1",
    "a/C0 6", "/uni00AD", "& deg;", "(a) over", "© 2019 A. ",
    "© 2019 Sociedad a ", "doi: 10.1234/a ", "版权。", "\\documentclass{a}", "we. ",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.timed
def test_hostile_text_takes_linear_time(piece):
    text = "Abstract " + piece * (30_000 // len(piece)) + " © 2014"
    started = time.process_time()
    clean_abstract(text)
    assert time.process_time() - started < 5  # a quadratic step takes ten seconds and more
