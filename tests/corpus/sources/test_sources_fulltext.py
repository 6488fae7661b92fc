"""Readers of sectioned full text: TEI, S2ORC, unarXive, and what JATS files do beyond the plain case."""

import io
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.elements import iter_elements
from nsllm_lite.corpus.files.linebreaks import BREAK, Lines
from nsllm_lite.corpus.files.outline import Outline
from nsllm_lite.corpus.sources import jats, s2orc, tei, unarxive
from nsllm_lite.formats.documents import Document

GROBID = """<?xml version="1.0" encoding="UTF-8"?>
<TEI xml:space="preserve" xmlns="http://www.tei-c.org/ns/1.0"><teiHeader xml:lang="en"><fileDesc><titleStmt>
<title level="a" type="main">Tin <hi rend="italic">whiskers</hi></title></titleStmt><sourceDesc><biblStruct>
<idno type="DOI">10.1234/Tin.5</idno></biblStruct></sourceDesc></fileDesc>
<profileDesc><abstract><div xmlns="http://www.tei-c.org/ns/1.0"><p>They grow.</p></div></abstract></profileDesc>
</teiHeader><text xml:lang="en"><body>
<div xmlns="http://www.tei-c.org/ns/1.0"><head n="1">Introduction</head><p>Known since <ref type="bibr">[3]</ref> and by
<ref type="bibr">(Ito, 1998)</ref> seen <ref type="bibr">[4,</ref> <ref type="bibr">5]</ref> .</p></div>
<div><head n="2">Methods</head></div>
<div><head n="2.1">Growth</head><p><s>We waited.</s><s>Area is given by:</s></p>
<formula xml:id="formula_0">A = r 2 <label>(1)</label></formula><p>where r is small, see
<ref type="figure">2</ref>.<note place="foot">Unseen.</note></p></div>
<div><p>More waiting.</p></div>
<figure><head>Fig. 1</head><figDesc>A caption.</figDesc></figure></body>
<back><div type="references"><listBibl><biblStruct><title>Cited</title><idno type="DOI">10.9/x</idno></biblStruct>
</listBibl></div></back></text></TEI>"""
TRAINING = """<tei><teiHeader><fileDesc xml:id="0"/></teiHeader><text xml:lang="fr">
<p>H<lb/> ard x-ray sci-<lb/>ence of long-<lb/>range or-<lb/>der, and<lb/> e-<lb/>beams. A long-range order.<lb/></p>
<figure type="table"><p>Table 1</p></figure><p>continued here <ref type="biblio">1</ref> .<lb/></p>
<head level="1">2. Me-<lb/>thods<lb/></head> loose <ref type="figure">3</ref> words<lb/>
<head level="2">2.1 Sub<lb/></head><p>Sets:</p><item>• one<lb/></item> <item>two</item>
<formula>E = m c 2 ,<lb/> (<label>1</label>)<lb/></formula><p>Next.</p></text></tei>"""
UNARXIVE = {
    "paper_id": "2212.00001", "_source_hash": "ab", "discipline": "Physics",
    "metadata": {"id": "2212.00001", "title": "Tin", "abstract": "  It grows.\n", "categories": "math.PR", "doi": None},
    "abstract": {"section": "Abstract", "text": "Other."},
    "body_text": [
        {"section": "On {{formula:f1}}", "sec_number": "1", "sec_type": "section", "content_type": "paragraph",
         "text": "As in {{cite:b}}, H{{formula:f1}} O of {{formula:f2}} , seen {{cite:a}}, {{cite:b}}. So (see "
         "REF )\n{{formula:f2}} \nby Theorem REF (REF ) and Figure\xa0REF , , .\n{{figure:g}}{{formula:no}} "
         "{{formula:prose}} ."},
        {"section": "Sub", "sec_number": "1.1", "sec_type": "subsection", "content_type": "list", "text": "\na\n\nb\n"},
        {"section": "Lost", "sec_number": "2.1", "sec_type": "subsection", "content_type": "paragraph", "text": "c"},
        {"section": "Run", "sec_number": "1", "sec_type": "", "text": "d {{formula:empty}} e"},
    ],
    "bib_entries": {"a": {}, "b": {}},
    "ref_entries": {
        "f1": {"type": "formula", "latex": "_2"},
        "f2": {"type": "formula", "latex": "x &=& \\text{for all small } y"},
        "prose": {"type": "formula", "latex": " and drawn from the same "},
        "empty": {"type": "formula", "latex": "_"},
    },
}  # fmt: skip
S2ORC_2019 = {
    "paper_id": "77",
    "metadata": {"title": "Tin", "abstract": None, "doi": "10.1234/X", "pubmed_id": "12", "mag_field_of_study": "Art"},
    "s2_pdf_hash": "aa",
    "latex_parse": None,
    "grobid_parse": {
        "abstract": [{"text": "Abstract: It grows.", "cite_spans": []}],
        "body_text": [
            {"section": "II. Methods", "text": "We saw EQUATION [13, 15] .", "cite_spans": [
                {"start": 16, "end": 19}, {"start": 21, "end": 24}, {"start": 5, "end": 999}],
             "eq_spans": [{"start": 7, "end": 15, "text": "EQUATION", "raw_str": "a = b"}]},
            {"section": "II. Methods", "text": "More."},
            {"section": "A. Growth", "text": "As in [2]", "cite_spans": [{"start": 6, "end": 9}]},
        ],
    },
}  # fmt: skip


def read(reader, content):
    return list(reader.read(io.StringIO(content if isinstance(content, str) else json.dumps(content)), "s", "f"))


def outline_of(document):
    return [(s.parents, s.heading, s.text) for s in document.sections]


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
    (paper,) = read(tei, TRAINING)
    assert (paper.title, paper.language, paper.id) == ("", "fr", "s:f#1")
    assert outline_of(paper) == [
        ((), "", "Hard x-ray science of long-range order, and e-beams. A long-range order.\n\ncontinued here."),
        ((), "2. Methods", "loose 3 words"),
        (("2. Methods",), "2.1 Sub", "Sets:\n\n- one\n- two\n\nE = m c 2 ,\n\nNext."),
    ]


def test_other_tei_nests_chooses_its_language_and_comes_many_to_a_file():
    one = """<TEI><teiHeader><fileDesc><titleStmt><title xml:lang="en">Tin</title><title xml:lang="fr">Étain</title>
    </titleStmt></fileDesc><profileDesc><langUsage><language ident="FR"/></langUsage>
    <abstract xml:lang="en"><p>Tin.</p></abstract><abstract xml:lang="fr"><p>L'étain.</p></abstract></profileDesc>
    </teiHeader><text><body><div><head>Un</head><p>a <formula notation="TeX">x^2</formula></p><div><head>Deux</head>
    <list><item>b<list><item>c</item></list></item></list></div></div></body></text></TEI>"""
    bare = (
        "<TEI><text><front><docTitle><titlePart>Bare</titlePart></docTitle></front><body><p>d</p></body></text></TEI>"
    )
    first, second, empty = read(tei, f"<teiCorpus><teiHeader/>{one}{bare}<TEI><x/></TEI></teiCorpus>")
    assert (first.title, first.abstract, first.language) == ("Étain", "L'étain.", "fr")
    assert outline_of(first) == [((), "Un", "a $x^2$"), (("Un",), "Deux", "- b\n- c")]
    assert (second.title, outline_of(second)) == ("Bare", [((), "", "d")])
    assert (empty.origin, empty.reason) == ("f#3", "unreadable")


def test_tei_abstract_with_headings_gives_moves():
    parts = "<div><head>Aim:</head><p>Why.</p></div><div><head>Results</head><p>What.</p></div>"
    (paper,) = read(tei, f"<TEI><teiHeader><profileDesc><abstract>{parts}</abstract></profileDesc></teiHeader></TEI>")
    assert paper.moves == (("Aim", "Why."), ("Results", "What."))
    assert paper.abstract == "Why. What."


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


def article(body, meta="", attributes="", after=""):
    return (
        f"<article {attributes}><front><article-meta><title-group><article-title>T</article-title></title-group>{meta}"
        f"</article-meta></front>{body}{after}</article>"
    )


def test_jats_keeps_every_block_and_titles_without_sections():
    body = """<body><p>Before.</p><title>Methods</title><p>We <bold>grew</bold>.</p><preformat>x = 1</preformat>
    <title>Results</title><notes><p>Noted.</p></notes><sig-block><sig>Ito</sig></sig-block><ref-list><ref>R</ref>
    </ref-list><sec sec-type="extra"><title>End</title><disp-formula><alternatives><tex-math>$a$</tex-math><math>
    <mi>a</mi></math></alternatives></disp-formula><title>Loose</title><p>Last.</p></sec></body>"""
    (paper,) = read(jats, article(body, '<article-id pub-id-type="arxiv">2212.00001</article-id>', 'xml:lang="EN"'))
    assert (paper.id, paper.language) == ("arxiv:2212.00001", "en")
    assert outline_of(paper) == [
        ((), "", "Before."), ((), "Methods", "We grew.\n\nx = 1"), ((), "Results", "Noted."), ((), "End", "$a$"),
        ((), "Loose", "Last."),
    ]  # fmt: skip


def test_jats_chooses_the_abstract_proper_and_the_papers_own_body():
    meta = """<article-id pub-id-type="doi">10.1234/A</article-id><abstract abstract-type="teaser"><p>Wow</p></abstract>
    <abstract xml:lang="de"><p>Zinn</p></abstract><abstract abstract-type="structured" xml:lang="en"><sec><title>Aim
    </title><p>a</p><sec><p>b</p></sec></sec></abstract><trans-abstract><p>Étain</p></trans-abstract>"""
    review = '<sub-article article-type="decision-letter"><body><p>Revise.</p></body></sub-article>'
    inner = '<sub-article article-type="translation"><body><p>Own.</p></body></sub-article>'
    (paper,) = read(
        jats, article("", meta.replace(' xml:lang="de"', ' xml:lang="en"'), 'xml:lang="en"', review + inner)
    )
    assert (paper.doi, paper.abstract, outline_of(paper)) == ("10.1234/a", "Zinn", [((), "", "Own.")])
    (paper,) = read(
        jats,
        article("<body/>", meta.replace("<p>Zinn</p>", "").replace('xml:lang="de"', 'abstract-type="toc"'), "", review),
    )
    assert (paper.moves, paper.abstract, paper.sections) == ((("Aim", "a b"),), "a b", ())


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

XML = {
    "grobid": (tei, GROBID, r"<(?:TEI|tei)(?=[\s>])"),
    "training": (tei, TRAINING, r"<(?:TEI|tei)(?=[\s>])"),
    "jats": (jats, article("<body><sec><title>a</title><p>x <xref>1</xref></p></sec></body>"), r"<article(?=[\s>])"),
}
JSON = {"s2orc": (s2orc, json.dumps(S2ORC_2019)), "unarxive": (unarxive, json.dumps(UNARXIVE))}
PIECES = ["<ref type='bibr'>[1]</ref>(", "<lb/>", "<TEI>", "&a", " ", "(", "\ue000", "\ue000\ue001", "a-\ue002", "REF "]
PIECES += ["{{cite:", "{{formula:f1}}", "(REF ", ", ", "\\text{", "aa ,", "a", "<div><head>1.1.1</head></div>", "::: "]


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.timed
def test_no_long_line_takes_long(piece):
    line = piece * (100_000 // len(piece))
    record = json.loads(json.dumps(UNARXIVE))
    record["body_text"][0]["text"] = record["ref_entries"]["f1"]["latex"] = record["body_text"][0]["section"] = line
    parse = {"paper_id": "1", "title": line, "body_text": [{"section": line, "text": line}], "abstract": line}
    started = time.process_time()
    assert len(read(unarxive, record)) == len(read(s2orc, parse)) == 1
    assert read(tei, f"<TEI><text><body><p>{line}</p>{line}</body></text></TEI>")
    assert read(jats, article(f"<body><p>{line}</p></body>"))
    assert time.process_time() - started < 5


def test_cut_records_are_each_told_of():
    told = list(iter_elements(io.StringIO(f"<TEI><TEI>{GROBID[39:]}<TEI><p>"), ("TEI",)))
    assert [m.partition(":")[2] if isinstance(m, str) else m.tag for m in told] == [
        " another begins inside it", " another begins inside it", "TEI", " no </TEI> follows",
    ]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(XML)), st.data())
def test_each_element_that_opens_is_read_or_told_of(name, data):
    reader, valid, opening = XML[name]
    content = mutated(valid, data)
    records = read(reader, content)
    assert len(records) == len(re.findall(opening, content))
    assert all(isinstance(r, Document) or (r.reason == "unreadable" and r.message) for r in records)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(JSON)), st.data())
def test_mutated_json_is_read_or_told_of(name, data):
    reader, valid = JSON[name]
    content = mutated(valid, data)
    records = read(reader, content)
    assert all(isinstance(r, Document) or (r.reason == "unreadable" and r.message) for r in records)
    assert records or not content.startswith("{")


def mutated(valid, data):
    start = data.draw(st.integers(0, len(valid)))
    end = data.draw(st.integers(start, min(len(valid), start + 40)))
    return valid[:start] + data.draw(st.text(max_size=20)) + valid[end:]


KEYS = st.sampled_from(
    [*UNARXIVE, *S2ORC_2019, "content", "text", "annotations", "paragraph", "section", "start", "end"]
)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_records_of_any_shape_are_read_or_told_of(value):
    record = {"paper_id": "1", "content": value, "body_text": value, "metadata": value, "externalids": value}
    for reader in (s2orc, unarxive):
        assert len(read(reader, record)) == 1


def test_each_recognises_its_own_and_not_the_others():
    samples = {
        tei: [GROBID, TRAINING],
        jats: [article("")],
        unarxive: [json.dumps(UNARXIVE)],
        s2orc: [json.dumps(S2ORC_2019), json.dumps(offsets("a"), indent=1), '{"paper_id": "1", "body_text": []}'],
    }
    for reader in samples:
        for owner, contents in samples.items():
            if (reader, owner) != (s2orc, unarxive):  # asked after it
                assert all(reader.recognise(content) is (reader is owner) for content in contents)
