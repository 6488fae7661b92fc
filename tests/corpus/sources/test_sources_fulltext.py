"""Readers of sectioned full text: TEI, S2ORC, unarXive, and what JATS files do beyond the plain case."""

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.elements import iter_elements
from nsllm_lite.corpus.files.linebreaks import BREAK, Lines
from nsllm_lite.corpus.files.opening import read_each
from nsllm_lite.corpus.files.outline import Outline
from nsllm_lite.corpus.sources import jats, s2orc, tei, unarxive
from nsllm_lite.formats.documents import Document
from tests.corpus.sources.reading import damaged, example, outline_of, read

GROBID = example("grobid.xml")
UNARXIVE, S2ORC_2019 = json.loads(example("unarxive.json")), json.loads(example("s2orc_2019.json"))


def offsets(text, **parts):
    """The present form of S2ORC; each part is a list of (words, attributes)."""
    annotations = {
        kind: json.dumps(
            [{"start": text.index(w), "end": str(text.index(w) + len(w)), "attributes": a} for w, a in spans]
        )
        for kind, spans in parts.items()
    }
    content = {"text": text, "annotations": {**annotations, "formula": None}}
    return {"corpusid": 5, "externalids": {"arxiv": "2212.00001v2", "doi": None}, "content": content}


# ------------------------------------------------------------------------------------------------------------- TEI


@pytest.mark.parametrize("prefix", ["", "tei:"])
def test_grobid_sections_with_and_without_namespace(prefix):
    content = GROBID
    if prefix:
        content = content.replace(' xmlns="http://www.tei-c.org/ns/1.0"', "").replace("</", "\0").replace("<?", "\1")
        content = content.replace("<", "<tei:").replace("\0", "</tei:").replace("\1", "<?")
    (paper,) = read(tei, content)
    assert tei.recognise(content)
    assert (paper.id, paper.doi, paper.language) == ("doi:10.1234/tin.5", "10.1234/tin.5", "en")
    assert (paper.title, paper.abstract) == ("Tin whiskers", "They grow.")
    assert outline_of(paper) == [
        ((), "Introduction", "Known since and by (Ito, 1998) seen."),
        ((), "Methods", ""),
        (
            ("Methods",),
            "Growth",
            "We waited. Area is given by: A = r 2 where r is small, see 2.\n\nMore waiting.",
        ),
    ]


def test_grobid_training_lines_are_joined_and_titleless():
    (paper,) = read(tei, example("grobid_training.xml"))
    assert (paper.title, paper.language, paper.id) == ("", "fr", "s:f#1")
    assert outline_of(paper) == [
        ((), "", "Hard x-ray science of long-range order, and e-beams. A long-range order.\n\ncontinued here."),
        ((), "2. Methods", "loose 3 words"),
        (("2. Methods",), "2.1 Sub", "Sets:\n\n- one\n- two\n\nE = m c 2 ,\n\nNext."),
    ]


def test_other_tei_nests_chooses_its_language_and_comes_many_to_a_file():
    nested, bare, empty, structured = read(tei, example("tei_corpus.xml"))
    assert (nested.title, nested.abstract, nested.language) == ("Étain", "L'étain.", "fr")
    assert outline_of(nested) == [((), "Un", "a $x^2$"), (("Un",), "Deux", "- b\n- c")]
    assert (bare.title, outline_of(bare)) == ("Bare", [((), "", "d")])
    assert (empty.origin, empty.reason) == ("f#3", "unreadable")
    assert structured.moves == (("Aim", "Why."), ("Results", "What."))
    assert structured.abstract == "Why. What."


def test_compounds_keep_the_hyphen_at_a_lines_end():
    lines = Lines(f"peer reviewed science is root{BREAK} mean square")
    for cut, joined in (
        ("peer-|reviewed", "peer-reviewed"),  # both stand alone in the text
        ("sci-|ence", "science"),
        ("the DNA-| bound 10-|fold", "the DNA-bound 10-fold"),
        ("root-|mean-|square", "root-mean-square"),
    ):
        assert lines.join(cut.replace("|", BREAK)) == joined


# ----------------------------------------------------------------------------------------------------------- S2ORC


def test_s2orc_2019_and_what_resembles_it():
    (paper,) = read(s2orc, S2ORC_2019)
    assert (paper.id, paper.doi, paper.discipline) == ("pmid:12", "10.1234/x", "Art")
    assert (paper.title, paper.abstract) == ("Tin", "It grows.")
    assert outline_of(paper) == [
        ((), "II. Methods", "We saw a = b.\n\nMore."),
        (("II. Methods",), "A. Growth", "As in [2]"),
    ]
    parse = {**S2ORC_2019["grobid_parse"], "paper_id": "78", "_pdf_hash": "", "abstract": []}
    metadata = {"paper_id": "78", "title": "Tin", "abstract": "AIM: a ::: END: b", "has_pdf_parse": True}
    json_of_doc2json = {"paper_id": "2020", "header": {}, "title": "T", "abstract": "A", "pdf_parse": {
        "body_text": [{"section": "Up::Down", "sec_num": "1.1", "text": "t"}]}}  # fmt: skip
    first, second, third = read(s2orc, "\n".join(map(json.dumps, (parse, metadata, json_of_doc2json))))
    assert (first.id, first.title, len(first.sections)) == ("s2:78", "", 2)
    assert (second.id, second.abstract) == ("s2:78", "AIM: a END: b")
    assert (third.id, outline_of(third)) == ("s:f#3", [(("Up",), "Down", "t")])


def test_s2orc_by_offsets():
    text = "Tin Journal It grows. 1 Methods Growth We waited [3] , alone. a = b Nothing"
    record = offsets(
        text,
        title=[("Tin", {}), ("Journal", {})],
        abstract=[("It grows.", {})],
        sectionheader=[("Methods", {"n": "1"}), ("Growth", {"n": "1.1"}), ("Nothing", {"n": "2"})],
        paragraph=[("We waited [3] , alone.", {}), ("waited", {}), ("a = b", {})],
        bibref=[("[3]", {})],
    )
    (paper,) = read(s2orc, record)
    assert (paper.id, paper.title, paper.abstract) == ("arxiv:2212.00001", "Tin", "It grows.")
    assert outline_of(paper) == [((), "Methods", ""), (("Methods",), "Growth", "We waited, alone.\n\na = b")]
    assert read(s2orc, {**record, "body": record["content"], "content": None, "title": "New"})[0].title == "New"
    record["content"]["annotations"]["paragraph"] = "[{"
    assert "annotations cannot be read" in read(s2orc, record)[0].message


# -------------------------------------------------------------------------------------------------------- unarXive


def test_unarxive_placeholders_are_resolved_or_leave_no_trace():
    (paper,) = read(unarxive, UNARXIVE)
    assert (paper.id, paper.title, paper.abstract, paper.discipline) == (
        "arxiv:2212.00001", "Tin", "It grows.", "Mathematics",
    )  # fmt: skip
    formula = "x &=& \\text{for all small } y"
    assert outline_of(paper) == [
        (
            (),
            "On $_2$",
            f"As in [2], H$_2$O of ${formula}$, seen. So\n$${formula}$$\nby Theorem and Figure.\n"
            "[formula] and drawn from the same .",
        ),
        (("On $_2$",), "Sub", "- a\n- b"),
        ((), "Lost", "c"),  # section 2 has no text of its own and is not listed
        (("Lost",), "Run", "d e"),
    ]


def test_unarxive_relative_numbers_after_a_gap_have_no_parent():
    def section(heading, number, kind):
        return {"section": heading, "sec_number": number, "sec_type": kind, "text": heading}

    body = [section("A", "1", "section"), section("a", "1", "subsection"), section("B", "2", "section"),
            section("?", "1", "subsection"), section("D", "4", "section")]  # fmt: skip
    (paper,) = read(unarxive, {**UNARXIVE, "body_text": body})
    assert [s.parents for s in paper.sections] == [(), ("A",), (), (), ()]


# ------------------------------------------------------------------------------------------------------------ JATS


def test_jats_keeps_every_block_and_titles_without_sections():
    (paper,) = read(jats, example("jats_blocks.xml"))
    assert (paper.id, paper.language) == ("arxiv:2212.00001", "en")
    assert outline_of(paper) == [
        ((), "", "Before."), ((), "Methods", "We grew.\n\nx = 1"), ((), "Results", "Noted."), ((), "End", "$a$"),
        ((), "Loose", "Last."),
    ]  # fmt: skip


def test_jats_chooses_the_abstract_proper_and_the_papers_own_body():
    translated, reviewed = read(jats, example("jats_choices.xml"))
    assert (translated.doi, translated.abstract) == ("10.1234/a", "Zinn")
    assert outline_of(translated) == [((), "", "Own.")]
    assert (reviewed.moves, reviewed.abstract, reviewed.sections) == ((("Aim", "a b"),), "a b", ())


TRANSLATED = example("jats_translated.xml")
SUB = re.compile(r"<sub-article.*</sub-article>")
OWN, ENGLISH = ("Estanho", "Cresce.", ["Métodos"]), ("Tin", "It grows.", ["Methods"])


@pytest.mark.parametrize(
    ("content", "wanted", "expected"),
    [
        (TRANSLATED, ("en",), ENGLISH),
        (SUB.sub("", TRANSLATED), ("en",), ("Tin", "It grows.", [])),  # no Portuguese sections in an English corpus
        (re.sub("<trans-.*</trans-[^>]*>", "", TRANSLATED), ("en",), ENGLISH),  # both are in the sub-article
        (TRANSLATED, (), OWN),
        (TRANSLATED, ("de",), OWN),
        (TRANSLATED, ("en", "pt"), OWN),
        (TRANSLATED.replace('<article xml:lang="pt"', "<article"), ("en",), OWN),
        (SUB.sub("", TRANSLATED), ("es",), ("", "Crece.", [])),  # no Portuguese title either
    ],
)  # fmt: skip
def test_jats_reads_the_translation_that_is_wanted(content, wanted, expected):
    (paper,) = read_each(jats.records(io.StringIO(content)), "s", "f", jats.document, wanted)
    assert (paper.title, paper.abstract, [s.heading for s in paper.sections]) == expected


def test_jats_leaves_out_what_is_not_shown_and_identifiers_in_citations():
    (paper,) = read(jats, example("jats_citation.xml"))
    assert paper.abstract == "Glass and Pane [J. Glass 04 (2015) 163.] grew films."


# ----------------------------------------------------------------------------------------------------- parts of these


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("grew (fast {1}).", "grew (fast)."),
        ("grew ({1}; Ito) fast", "grew (Ito) fast"),
        ("(Ito; {1}) grew", "(Ito) grew"),
        ("grew (e.g., {1}, {2})", "grew (e.g., 1, 2)"),
        ("Ito et al. [{1}]. So", "Ito et al. So"),
        ("as in [{1}–{2}].", "as in [1–2]."),
    ],
)
def test_citations_leave_brackets_in_pairs(text, settled):
    marked = text.replace("{1}", citations.mark("1")).replace("{2}", citations.mark("2"))
    assert citations.settle(marked) == settled


def test_outline_tells_parents_from_numbers_letters_and_names():
    outline = Outline()
    headings = "I:I.|a:A|b:B|V:V|c:A|App:A|App 2:B|d:B.1|Results:|e:|f:|Methods:|g:|lone:7.1|hostile:" + "1." * 9999
    for heading, _, number in (line.partition(":") for line in headings.split("|")):
        outline.begin(heading, number)
        if heading != "Results":
            outline.add("text")
    assert {s.heading: s.parents for s in outline.sections() if s.parents} == {
        "a": ("I",), "b": ("I",), "c": ("V",), "d": ("App 2",), "e": ("Results",), "f": ("Results",),
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------------- hostile input

OPENING = {
    "grobid.xml": (tei, r"<(?:TEI|tei)(?=[\s>])"),
    "grobid_training.xml": (tei, r"<(?:TEI|tei)(?=[\s>])"),
    "jats_blocks.xml": (jats, r"<article(?=[\s>])"),
}


def test_cut_records_are_each_reported():
    messages = list(iter_elements(io.StringIO(f"<TEI><TEI>{GROBID[39:]}<TEI><p>"), ("TEI",)))
    assert [m.partition(":")[2] if isinstance(m, str) else m.tag for m in messages] == [
        " another begins inside it", " another begins inside it", "TEI", " no </TEI> follows",
    ]  # fmt: skip


@given(st.sampled_from(sorted(OPENING)), st.data())
def test_each_element_that_opens_is_read_or_reported(name, data):
    reader, opening = OPENING[name]
    content = damaged(data, example(name), st.text(max_size=20))
    records = read(reader, content)
    assert len(records) == len(re.findall(opening, content))
    assert all(isinstance(r, Document) or (r.reason == "unreadable" and r.message) for r in records)


KEYS = st.sampled_from(
    [*UNARXIVE, *S2ORC_2019, "content", "text", "annotations", "paragraph", "section", "start", "end"]
)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_records_of_any_shape_are_read_or_reported(value):
    record = {"paper_id": "1", "content": value, "body_text": value, "metadata": value, "externalids": value}
    for reader in (s2orc, unarxive):
        assert len(read(reader, record)) == 1
