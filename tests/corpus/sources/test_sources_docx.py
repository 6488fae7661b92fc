"""Word documents: headings by styles, formulas, citations, what is left out, and files that are not to be trusted."""

import io
import zipfile

import pytest

from nsllm_lite.corpus.files import docx as parts
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.sources import docx
from nsllm_lite.formats.documents import Document
from tests.corpus.sources.reading import outline_of, read_path, titles

TRANSITIONAL = "http://schemas.openxmlformats.org"
STRICT = "http://purl.oclc.org/ooxml"
ABSTRACT = "We grew films of tin on copper at five temperatures, and measured how long their whiskers were."
STYLES = """
<w:style w:type="paragraph" w:styleId="T"><w:name w:val="Title"/></w:style>
<w:style w:type="paragraph" w:styleId="H1"><w:name w:val="heading 1"/></w:style>
<w:style w:type="paragraph" w:styleId="Mine"><w:name w:val="My head"/><w:basedOn w:val="H1"/></w:style>
<w:style w:type="paragraph" w:styleId="Sub"><w:name w:val="Unter"/><w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style>
<w:style w:type="paragraph" w:styleId="SubSub"><w:name w:val="U2"/><w:basedOn w:val="Sub"/></w:style>
<w:style w:type="paragraph" w:styleId="Cap"><w:name w:val="caption"/></w:style>
<w:style w:type="paragraph" w:styleId="A"><w:name w:val="A"/><w:basedOn w:val="B"/></w:style>
<w:style w:type="paragraph" w:styleId="B"><w:name w:val="B"/><w:basedOn w:val="A"/></w:style>
"""


UP, DOWN = (f'<w:vertAlign w:val="{place}script"/>' for place in ("super", "sub"))


def run(text, properties=""):
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def p(*runs, style="", properties=""):
    style = f'<w:pStyle w:val="{style}"/>' if style else ""
    inner = "".join(one if one.startswith("<") else run(one) for one in runs)
    return f"<w:p><w:pPr>{style}{properties}</w:pPr>{inner}</w:p>"


def word(body, styles=STYLES, family=TRANSITIONAL, main="word/document.xml", head=""):
    """A document as bytes."""
    own = "/wordprocessingml/2006/main" if family == TRANSITIONAL else "/wordprocessingml/main"
    math = "/officeDocument/2006/math" if family == TRANSITIONAL else "/officeDocument/math"
    spaces = f'xmlns:w="{family}{own}" xmlns:m="{family}{math}" xmlns:mc="urn:mc" xmlns:wps="urn:wps"'
    kinds = f"{family}/officeDocument/relationships"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (
            ("[Content_Types].xml", "<Types/>"),
            (
                "_rels/.rels",
                f'<Relationships><Relationship Type="{kinds}/officeDocument" Target="{main}"/></Relationships>',
            ),
            (main, f"{head}<w:document {spaces}><w:body>{body}</w:body></w:document>"),
            ("word/styles.xml", f"<w:styles {spaces}>{styles}</w:styles>"),
        ):
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return content.getvalue()


def read(body, **how):
    return docx.read(io.BytesIO(word(body, **how)), Place("s", "f#1"))


def blocks(*paragraphs):
    return list(parts.blocks_in(io.BytesIO(word("".join(paragraphs)))))


PAPER = (
    p("Whiskers of tin", style="T"), p("Ann Fox", run("1", UP), ", Bo Ito"),
    p("Abstract", style="Mine"), p(ABSTRACT), p("Introduction", style="H1"), p("Known."),
    p("Experimental", style="Mine"), p("Growth", style="SubSub"), p("We waited."), p("Results", style="H1"),
    p("They grew [1]."), p("References", style="H1"), p("[1] Fox A. On tin. doi:10.1000/Tin.1"),
)  # fmt: skip


@pytest.mark.parametrize("how", [{}, {"family": STRICT}, {"main": "word/document2.xml"}])
def test_headings_are_known_by_the_outline_of_their_styles_in_both_families(tmp_path, how):
    (tmp_path / "x.dat").write_bytes(word("".join(PAPER), **how))
    (paper,) = read_path(tmp_path / "x.dat")
    assert (paper.title, paper.abstract, paper.authors) == ("Whiskers of tin", ABSTRACT, ("Ann Fox", "Bo Ito"))
    assert outline_of(paper) == [
        ((), "Introduction", "Known."), ((), "Experimental", ""), (("Experimental",), "Growth", "We waited."),
        ((), "Results", "They grew."),
    ]  # fmt: skip
    assert paper.references == ("doi:10.1000/tin.1",)


def test_styles_of_journals():
    names = {
        "PT": "paper title",
        "AB": "MDPI_1.7_abstract",
        "FC": "figure caption",
        "TH": "table head",
        "AT": "Abstract Title",
    }
    styles = "".join(f'<w:style w:styleId="{key}"><w:name w:val="{name}"/></w:style>' for key, name in names.items())
    body = (
        p("Tin whiskers", style="PT"), p("We wait.", style="AB"), p("And see.", style="AB"), p("x", style="FC"),
        p("TABLE I. x"), p("x", style="TH"), p("Methods", properties='<w:outlineLvl w:val="0"/>'), p("We waited."),
    )  # fmt: skip
    paper = read("".join(body), styles=styles)
    assert (paper.title, paper.abstract) == ("Tin whiskers", "We wait.\n\nAnd see.")
    assert outline_of(paper) == [((), "Methods", "We waited.")]
    assert read(p("T", style="PT") + p("Abstract", style="AT") + p("We wait."), styles=styles).abstract == "We wait."


def test_a_structured_abstract_and_one_in_two_languages():
    styles = STYLES + '<w:style w:styleId="AB"><w:name w:val="Abstract"/></w:style>'
    parts = [p("Background", style="SubSub"), p("Tin grows."), p("Methods", style="SubSub"), p("We grew forty.")]
    text = [p("Introduction", style="H1"), p("x"), p("Methods", style="H1"), p("We waited.")]
    found = read("".join([p("T", style="T"), p("Abstract", style="H1"), *parts, *text]))
    assert found.moves == (("Background", "Tin grows."), ("Methods", "We grew forty."))
    assert outline_of(found) == [((), "Introduction", "x"), ((), "Methods", "We waited.")]
    spanish = p("Resumen: " + "Crecimos películas de estaño sobre cobre y las medimos cada día. " * 3, style="AB")
    body = "".join(
        [p("T", style="T"), spanish, p("Keywords: a"), p(ABSTRACT + " We did so for the tin.", style="AB"), *text]
    )
    for languages, begin in ((("en",), "We grew"), (("es",), "Crecimos"), ((), "Crecimos")):
        found = docx.read(io.BytesIO(word(body, styles=styles)), Place("s", "f#1", languages))
        assert found.abstract.startswith(begin)
        assert [s.heading for s in found.sections] == ["Introduction", "Methods"]


def test_bold_lines_are_headings_where_their_words_say_so():
    bold = "<w:b/>"
    body = [
        p(ABSTRACT),
        p(run("2. Growth", bold)),
        p("a."),
        p(run("Methods", bold)),
        p("b."),
        p(run("Tin", bold)),
        p("c."),
    ]
    assert [b.level for b in blocks(*body)] == [0, parts.LOWEST, 0, parts.LOWEST, 0, 0, 0]
    assert blocks(p(run("Methods", '<w:b w:val="0"/>')))[0].level == 0
    assert blocks(p("Loop", style="A"))[0].level == 0
    assert blocks(p("Body", style="H1", properties='<w:outlineLvl w:val="9"/>'))[0].level == 0


@pytest.mark.parametrize(
    ("paragraph", "text"),
    [
        (p("a", "<w:del><w:r><w:delText>x</w:delText></w:r></w:del>", f"<w:ins>{run('b')}</w:ins>"), "ab"),
        (p(f"<w:moveFrom>{run('x')}</w:moveFrom>", f"<w:moveTo>{run('a')}</w:moveTo>"), "a"),
        (p("a", run("x", "<w:vanish/>"), "<w:r><w:tab/><w:t>b</w:t><w:noBreakHyphen/><w:t>c</w:t></w:r>"), "a b-c"),
        (p("a", "<mc:AlternateContent><mc:Choice>" + run("b") + "</mc:Choice><mc:Fallback>" + run("x")
           + "</mc:Fallback></mc:AlternateContent>"), "ab"),
        (p("a", f"<w:r><w:drawing><w:txbxContent>{p('x')}</w:txbxContent></w:drawing></w:r>"), "a"),
        (p("a", '<w:r><w:footnoteReference w:id="1"/></w:r>', f"<w:hyperlink>{run('b')}</w:hyperlink>"), "ab"),
        (p('<w:r><w:sym w:font="Symbol" w:char="F061"/></w:r>', "-tin, CO", run("2", DOWN), " at 10", run("-", UP),
           run("5", UP), " Pa"),
         "α-tin, CO₂ at 10⁻⁵ Pa"),
        (p("a", "<w:smartTag>" + run("b") + "</w:smartTag>"), "ab"),
        (p("x", style="Cap") + p("Figure 1. x") + f"<w:tbl><w:tr><w:tc>{p('x')}</w:tc></w:tr></w:tbl>" + p("a"), "a"),
        ("<w:sdt><w:sdtContent>" + p("a") + "</w:sdtContent></w:sdt>", "a"),
    ],
)  # fmt: skip
def test_what_a_paragraph_shows(paragraph, text):
    assert [block.text for block in blocks(paragraph)] == [text]


def test_lists_and_numbered_headings():
    item = '<w:numPr><w:numId w:val="1"/></w:numPr>'
    found = blocks(p("One", style="H1", properties=item), p("a", properties=item), p("b", properties=item), p("c"))
    assert found == [(1, "One"), (0, "- a\n- b"), (0, "c")]


def field(instruction, result):
    chars = {kind: f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>' for kind in ("begin", "separate", "end")}
    return (
        f"{chars['begin']}<w:r><w:instrText>{instruction}</w:instrText></w:r>{chars['separate']}{result}{chars['end']}"
    )


def test_citations_of_reference_managers_go_and_cross_references_stay():
    zotero = field("ADDIN ZOTERO_ITEM CSL_CITATION {}", run("[3, 4]"))
    tag = '<w:sdtPr><w:tag w:val="MENDELEY_CITATION_v3_x"/></w:sdtPr>'
    mendeley = f"<w:sdt>{tag}<w:sdtContent>{run('[5]')}</w:sdtContent></w:sdt>"
    text = p("Known ", zotero, ", as in ", mendeley, ", see ", field("REF _1", run("Figure 2")), ".", run("6,7", UP))
    (section,) = read(p("T", style="T") + p("Methods", style="H1") + text).sections
    assert section.text == "Known, as in [5], see Figure 2."


def m(name, *inner):
    parts = (one if one.startswith("<") else f"<m:r><m:t>{one}</m:t></m:r>" for one in inner)
    return f"<m:{name}>{''.join(parts)}</m:{name}>"


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (m("f", m("num", "a", "+", "b"), m("den", "c")) , "(a+b)/c"),
        (m("sSup", m("e", "x"), m("sup", "2")) + m("r", "<m:t>=</m:t>") + m("sSub", m("e", "E"), m("sub", "g")),
         "x² = E_g"),
        (m("rad", m("deg"), m("e", "x")) + m("rad", m("deg", "3"), m("e", "y")), "√(x)(y)^(1/3)"),
        (m("nary", '<m:naryPr><m:chr m:val="∑"/></m:naryPr>', m("sub", "i"), m("sup", "n"), m("e", "x")), "∑_iⁿ x"),
        (m("d", '<m:dPr><m:begChr m:val="["/><m:endChr m:val="]"/></m:dPr>', m("e", "x")), "[x]"),
        (m("acc", '<m:accPr><m:chr m:val="¯"/></m:accPr>', m("e", "x")), "x̄"),
        (m("func", m("fName", "sin"), m("e", "x")), "sinx"),
        ("<m:e>" * 150 + "</m:e>" * 150, ""),
    ],
)  # fmt: skip
def test_formulas_become_text(formula, text):
    found = blocks(p("It is ", f"<m:oMath>{formula}</m:oMath>", " here."))
    assert found[0].text == " ".join(f"It is {text} here.".split())


def test_a_document_in_an_archive_and_a_zip_that_only_begins_as_one(tmp_path):
    with zipfile.ZipFile(tmp_path / "papers.zip", "w") as archive:
        archive.writestr("a/one.docx", word("".join(PAPER)))
        archive.writestr("b.txt", "x")
    assert titles(read_path(tmp_path / "papers.zip")) == ["Whiskers of tin", "not_this_format"]
    with zipfile.ZipFile(tmp_path / "papers.zip", "w") as archive:
        archive.writestr("word/two.jsonl", '{"id": "0704.0001", "title": "T", "abstract": "A"}')
    assert titles(read_path(tmp_path / "papers.zip")) == ["T"]


def test_damaged_documents_and_bombs_are_one_line_of_the_ledger(tmp_path, monkeypatch):
    whole = word("".join(PAPER))
    head = '<!DOCTYPE a [<!ENTITY b "c">]>'
    monkeypatch.setattr(parts, "MAX_HELD", 20_000)
    for content, message in (
        (word(p("a"), head=head), "DOCTYPE"),
        (word("<w:p>" + "<w:r/>" * 20_001 + "</w:p>"), "over 20,000 elements"),
        (word("".join(PAPER), main="word/x.xml").replace(b"word/x.xml", b"word/y.xml"), "no word/x.xml"),
        (word("<w:p>"), "Word document"),
        (word(""), "no text"),
        (whole.replace(b"PK\x05\x06", b"PK\x05\x05"), "BadZipFile"),
    ):
        (tmp_path / "x").write_bytes(content)
        (found,) = read_path(tmp_path / "x")
        assert not isinstance(found, Document)
        assert message in found.message
    many = word(p("a") * 4000)  # each paragraph has few
    (tmp_path / "x").write_bytes(many)
    assert isinstance(read_path(tmp_path / "x")[0], Document)
    monkeypatch.setattr(parts, "MAX_XML_BYTES", 10_000)
    assert "10,000 bytes" in read_path(tmp_path / "x")[0].message


# ------------------------------------------------------------------------------------------------------- hostile


def mark_of(kind):
    return f'<w:fldChar w:fldCharType="{kind}"/>'


def test_fields_have_bounds_of_depth_and_of_their_instruction(tmp_path):
    deep = (mark_of("begin") + mark_of("separate")) * 14_000 + "<w:t>a</w:t>" * 14_000
    (tmp_path / "x").write_bytes(word(f"<w:p><w:r>{deep}</w:r></w:p>"))
    assert "over 50 fields, one in another" in read_path(tmp_path / "x")[0].message
    kept = parts._Field()
    for _ in range(2_000):
        kept.instruct("ADDIN ZOTERO_ITEM " + "x" * 182)
    kept.begin()
    assert kept.cites
    assert len(kept._instruction) < parts.MAX_INSTRUCTION + 200


def test_a_citation_whose_instruction_is_in_many_runs():
    instruction = "".join(f"<w:instrText>{part}</w:instrText>" for part in ("ADDIN ", "ZOTERO", "_ITEM {", "x" * 900))
    cited = f"<w:r>{mark_of('begin')}{instruction}{mark_of('separate')}<w:t>[3]</w:t>{mark_of('end')}</w:r>"
    (block,) = parts.blocks_in(io.BytesIO(word(p("Known ", cited, run(" well.")))))
    assert "\ue000" in block.text


def test_runs_of_two_kinds_in_turn_are_each_read_once():
    runs = [run("x"), run("2", UP)] * 5_000
    (block,) = parts.blocks_in(io.BytesIO(word(p(*runs))))
    assert len(block.text) > 10_000


@pytest.mark.parametrize("beside", ['<a b="c"/> ', "<a><b/></a>", "<?a b?>"])
def test_elements_beside_paragraphs_are_counted(tmp_path, monkeypatch, beside):
    monkeypatch.setattr(parts, "MAX_HELD", 20_000)
    body = f"<w:y>{p('a')}{beside * 15_000}</w:y>" * 4  # few behind each paragraph
    (tmp_path / "x").write_bytes(word(body))
    assert "over 20,000 elements" in read_path(tmp_path / "x")[0].message
    cleared = f"{p('a')}{beside * 5_000}" * 8
    (tmp_path / "x").write_bytes(word(cleared))
    assert isinstance(read_path(tmp_path / "x")[0], Document)


def test_a_table_of_many_cells_is_passed_over_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MAX_HELD", 20_000)
    row = "<w:tr>" + f"<w:tc><w:tcPr/>{p('a')}</w:tc>" * 50 + "</w:tr>"
    (tmp_path / "x").write_bytes(word("".join(PAPER) + f"<w:tbl><w:tblPr/>{row * 200}</w:tbl>" * 5))
    assert isinstance(read_path(tmp_path / "x")[0], Document)


def test_a_document_that_is_packed_without_a_bound_is_refused(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(word("".join(PAPER)))) as whole, zipfile.ZipFile(content, "w") as archive:
        for name in whole.namelist():
            method = zipfile.ZIP_BZIP2 if name == "word/document.xml" else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), whole.read(name), method)
    (tmp_path / "x").write_bytes(content.getvalue())
    assert "packed by bzip2" in read_path(tmp_path / "x")[0].message
