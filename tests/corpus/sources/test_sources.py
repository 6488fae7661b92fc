"""Each format as its files really come: whole, broken, packed, saved under the wrong name."""

import gzip
import io
import json

import pytest

from nsllm_lite.corpus import identity, sources
from nsllm_lite.corpus.files import elements
from nsllm_lite.corpus.files.opening import NOT_THIS_FORMAT, Unread, read_each
from nsllm_lite.corpus.sources import arxiv, jats, pubmed, text
from nsllm_lite.formats.documents import Document
from tests.corpus.sources.reading import example, read, read_path, titles
from tests.raising import raises

JATS = example("jats.xml")


def pubmed_set(*articles):
    prologue = '<?xml version="1.0"?>\n<!DOCTYPE PubmedArticleSet>\n'
    return f"{prologue}<PubmedArticleSet>{''.join(articles)}</PubmedArticleSet>"


def article(pmid, title="T.", abstract="<AbstractText>A.</AbstractText>"):
    content = f"<ArticleTitle>{title}</ArticleTitle>\n<Abstract>{abstract}</Abstract>"
    citation = f'<PMID Version="1">{pmid}</PMID>\n<Article>{content}</Article>'
    return f"<PubmedArticle><MedlineCitation>{citation}</MedlineCitation></PubmedArticle>"


# ---------------------------------------------------------------------------------------------------------- arXiv


def test_arxiv_lines_array_and_daily_form_name_the_same_paper():
    lines = '{"id": "hep-th/9901001v2", "title": "A", "abstract": "  x-\\nray\\n  New"}\n{"id": "2501.1"\n{"id": "25"}'
    first, broken, empty = read(arxiv, lines)
    assert (first.id, first.origin) == ("arxiv:hep-th/9901001", "f#1")
    assert first.abstract == "x-\nray\n\nNew"  # an indented paragraph; broken words are for the cleaning
    assert broken.reason == "unreadable"
    assert empty.title == ""
    array = json.dumps([{"id": "hep-th/9901001", "title": "A", "abstract": "x"}, 7, {"id": "1"}], indent=1)
    found, number, nameless = read(arxiv, array)
    assert found.id == first.id
    assert "a int where a record" in number.message
    assert nameless.id == "s:f#3"
    (daily,) = read(
        arxiv, '{"id": "http://arxiv.org/abs/2503.1v1", "title": "t", "summary": "s", "categories": ["cs.CV"]}'
    )
    assert (daily.abstract, daily.discipline) == ("s", "Computer Science")


def test_a_cut_off_array_is_read_as_far_as_it_goes():
    *found, rest = read(arxiv, '[{"id": "2501.00001", "title": "a"}, {"id": "2501.00002", "ti')
    assert [d.id for d in found] == ["arxiv:2501.00001"]
    assert "nothing read from here on" in rest.message


# ---------------------------------------------------------------------------------------------------------- PubMed


def test_pubmed_keeps_labels_as_moves_and_inline_text():
    abstract = (
        '<AbstractText Label="AIM" NlmCategory="OBJECTIVE">CO<sub>2</sub> at <i>10</i><sup>-5</sup> '
        "&lt; &mu;g.</AbstractText>"
        '<AbstractText Label="FINDINGS" NlmCategory="UNASSIGNED">In <mml:math><mml:msup><mml:mi>x</mml:mi>'
        "<mml:mn>2</mml:mn></mml:msup></mml:math>.</AbstractText>"
    )
    (document,) = read(pubmed, pubmed_set(article(1, "[A <b>bold</b> title].", abstract)))
    assert document.title == "A bold title"
    assert document.abstract == "CO₂ at 10⁻⁵ < μg. In x²."
    assert [label for label, _ in document.moves] == ["OBJECTIVE", "FINDINGS"]


def test_one_broken_record_costs_itself_alone():
    cut = article(2)[:60]
    bad = article(3).replace("</Article>", "")
    found = read(pubmed, pubmed_set(article(1), cut, bad, article(4)) + pubmed_set(article(5)) + article(6)[:-30])
    assert [r.id if isinstance(r, Document) else r.reason for r in found] == [
        "pmid:1", "unreadable", "unreadable", "pmid:4", "pmid:5", "unreadable",
    ]  # fmt: skip


def test_entities_of_a_file_are_never_resolved(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("TOP SECRET")
    path = tmp_path / "papers.xml"
    bomb = f'<!DOCTYPE PubmedArticleSet [<!ENTITY a "LOL"><!ENTITY f SYSTEM "file://{secret}">]>'
    path.write_text(f"{bomb}<PubmedArticleSet>{article(1, 'x &a; &f; y')}</PubmedArticleSet>")
    line, document = read_path(path)
    assert document.title == "x &a; &f; y"
    assert (line.origin, line.reason) == ("papers.xml#0", "entities_refused")
    assert "declares entities" in line.message


# ---------------------------------------------------------------------------------------------------------- JATS


def test_jats_sections_headings_and_what_is_left_out():
    (document,) = read(jats, JATS)
    assert (document.id, document.title) == ("doi:10.1234/abc", "Tin whiskers")
    assert document.abstract == "We watched. They grew."
    assert document.moves == (("Methods", "We watched."), ("Results", "They grew."))
    intro, above, growth = document.sections
    assert (intro.heading, above.heading, above.text) == ("Introduction", "What we did", "")
    assert (growth.parents, growth.kind) == (("What we did",), "materials|methods")
    assert growth.text == ("At 10⁻⁵ Pa, as in [3], by Ito (Ito, 1998) for Vmax, see Figure 1.\n\n- one\n- two\n- deep")


def test_formulas_are_text_and_pictures_of_formulas_say_so():
    def text_in(inner):
        (element,) = elements.iter_elements(io.StringIO(f"<article><p>{inner}</p></article>"), ("article",))
        return elements.text_of(element)

    tex = r"\documentclass{x}\begin{document}$E = mc^2$\end{document}"
    assert text_in(
        f"<inline-formula><alternatives><graphic/><tex-math>{tex}</tex-math></alternatives></inline-formula>"
    ) == ("$E = mc^2$")
    assert text_in("<inline-formula><inline-graphic/></inline-formula> is") == "[formula] is"
    below = "<mml:mrow><mml:mi>b</mml:mi><mml:mo>+</mml:mo><mml:mn>1</mml:mn></mml:mrow>"
    frac = f"<mml:mfrac><mml:mi>a</mml:mi>{below}</mml:mfrac>"
    assert text_in(f"<disp-formula><mml:math>{frac}</mml:math></disp-formula>") == "a/(b+1)"
    assert (
        text_in("CD11b<sup>high</sup> 10<sup>3.5</sup> Ca<sup>2+</sup> 4<sup>th</sup>") == "CD11b^high 10^3.5 Ca²⁺ 4th"
    )


# ---------------------------------------------------------------------------------------------------------- text


def test_plain_text_loses_nothing_but_white_space():
    content = "\n = Tin = \n\n" + "Tin is a metal . " * 400 + "\n\n = Lead = \n\n" + "x" * 9000 + "\n\nshort\n"
    passages = [d.text for d in read(text, content)]
    assert all(len(p) <= text.PASSAGE_CHARS for p in passages)
    assert "".join("".join(passages).split()) == "".join(content.split())
    assert any(p.lstrip().startswith("= Lead =") for p in passages)


# ---------------------------------------------------------------------------------------------------------- files


def test_formats_are_known_by_content_not_by_name(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text(pubmed_set(article(1)))
    (tmp_path / "b.json").write_text(json.dumps(pubmed_set(article(2))))  # XML saved as one JSON string
    (tmp_path / "c.dat").write_bytes(gzip.compress(b'{"id": "2501.00001", "title": "t", "abstract": "a"}\n'))
    (tmp_path / "sub" / "d.xml").write_text(JATS)
    (tmp_path / "e.xml").write_text("")
    (tmp_path / "f.xml").write_text("<!DOCTYPE html><html><body>Busy</body></html>")
    (tmp_path / "README.md").write_text("# Read me")
    (tmp_path / "tool.py").write_text("import os")
    (tmp_path / "g.gz").write_bytes(gzip.compress(b'{"title": "t", "abstract": "a"}\n' * 9000)[:-40])
    packed = bytearray(gzip.compress(b'{"title": "t", "abstract": "a"}\n' * 9000))
    packed[10] = 0xFF  # no such kind of block
    (tmp_path / "i.gz").write_bytes(packed)
    (tmp_path / "h.xml").write_text("<PubmedArticleSet></PubmedArticleSet>")
    (tmp_path / ".hidden").write_text("{}")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = {}
    for record in read_path(tmp_path):
        found[record.origin.rsplit("#")[0]] = record.id if isinstance(record, Document) else record.reason
    assert found == {
        "a.txt": "pmid:1", "b.json": "pmid:2", "c.dat": "arxiv:2501.00001", "sub/d.xml": "doi:10.1234/abc",
        "e.xml": "unreadable_file", "f.xml": "not_this_format", "README.md": "not_this_format",
        "tool.py": "not_this_format", "g.gz": "unreadable_file", "h.xml": "unreadable_file",
        "i.gz": "unreadable_file",
    }  # fmt: skip


def test_a_stated_format_is_held_to(tmp_path):
    (tmp_path / "a.xml").write_text(JATS)
    (record,) = read_path(tmp_path, form="pubmed")
    assert record.message.startswith("read as pubmed, ")
    (tmp_path / "a.xml").write_text(f"{'Dear reader, ' * 9000}{article(7)}")  # not seen from its beginning
    assert read_path(tmp_path)[0].reason == NOT_THIS_FORMAT
    assert read_path(tmp_path, form="pubmed")[0].id == "pmid:7"


@pytest.mark.parametrize(
    ("encoding", "prologue"), [("latin-1", '<?xml version="1.0" encoding="ISO-8859-1"?>'), ("utf-16", "")]
)
def test_other_encodings(tmp_path, encoding, prologue):
    (tmp_path / "a.xml").write_bytes((prologue + pubmed_set(article(1, "Ångström"))[21:]).encode(encoding))
    (document,) = read_path(tmp_path)
    assert document.title == "Ångström"


def test_plain_text_is_general_text_only(tmp_path):
    (tmp_path / "a.txt").write_text("Once upon a time.")
    assert isinstance(read_path(tmp_path, general=False)[0], Unread)
    assert read_path(tmp_path, general=True)[0].text == "Once upon a time."


def test_a_source_that_does_not_exist(tmp_path):
    (tmp_path / "papers").mkdir()
    with raises("source-absent", f"{tmp_path}/paper.", f"{tmp_path}/papers?"):
        read_path(tmp_path / "paper")
    with raises("source-empty", tmp_path / "papers"):
        read_path(tmp_path / "papers")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"externalIds": {"DOI": "10.5555/A1", "ArXiv": "2001.00001", "PubMed": "12", "PubMedCentral": "9"}},
            ("2001.00001", "12", "10.5555/a1", "pmc:9"),
        ),
        ({"external_ids": [{"type": "doi", "value": "https://doi.org/10.5555/a1."}]}, ("", "", "10.5555/a1", "")),
        ({"identifier": ["arXiv:2001.00001v2", "PMID: 12"]}, ("2001.00001", "12", "", "")),
        ({"identifier": [{"type": "doi", "id": "10.5555/a1"}, {"type": "pissn", "id": "1234-5678"}]},
         ("", "", "10.5555/a1", "")),
        ({"ids": {"openalex": "https://openalex.org/W2741809807", "pmid": "https://pubmed.ncbi.nlm.nih.gov/12"}},
         ("", "12", "", "openalex:w2741809807")),
        ({"url": "http://arxiv.org/abs/hep-th/9901001v3", "pmid": 12.0}, ("hep-th/9901001", "12", "", "")),
        ({"url": "https://onlinelibrary.wiley.com/doi/full/10.1002/adma.1?x=1"}, ("", "", "10.1002/adma.1", "")),
        ({"pmcid": "https://www.ncbi.nlm.nih.gov/pmc/articles/PMC9/"}, ("", "", "", "pmc:9")),
        ({"doi": "DOI: 10.1002%2F(SICI)1:1<1::AID-1>3.0.CO;2-1"},
         ("", "", "10.1002/(sici)1:1<1::aid-1>3.0.co;2-1", "")),
        ({"url": "https://doi.org/10.5555/other", "doi": "10.5555/a1", "pmid": "0"}, ("", "", "10.5555/a1", "")),
        ({"urls": ["https://doi.org/10.5555/data", "https://x.org"], "pmid": 12}, ("", "12", "", "")),
        ({"urls": ["https://doi.org/10.5555/a1", "https://x.org"]}, ("", "", "10.5555/a1", "")),
        ({"url": "https://www.science.org/doi/10.1126/a.1.full.pdf", "pmid": "0012", "pmcid": "PMC0"},
         ("", "12", "10.1126/a.1", "")),
        ({"url": "https://www.pnas.org/doi/10.1073/a.1.full", "corpusid": 0}, ("", "", "10.1073/a.1", "")),
        ({"references": ["10.5555/other"], "id": 7, "doi": None}, ("", "", "", "")),
    ],
)  # fmt: skip
def test_identifiers_in_every_form(record, expected):
    assert identity.ids_of(record) == expected


def test_one_paper_in_records_of_other_forms_is_one(tmp_path):
    text = {"title": "Gap of oxide films", "abstract": "We grew films of copper oxide on glass."}
    write = (tmp_path / "a.json").write_text
    write(json.dumps({"data": [{"externalIds": {"DOI": "10.5555/a1", "ArXiv": "2001.00001"}, **text}]}))
    (found,) = read_path(tmp_path / "a.json")
    assert (found.id, found.doi) == ("arxiv:2001.00001", "10.5555/a1")
    write(json.dumps({"identifier": ["https://doi.org/10.5555/A1"], **text}))
    assert read_path(tmp_path / "a.json")[0].doi == found.doi


# ---------------------------------------------------------------------------------------------------------- what fails


def test_an_error_over_one_record_costs_that_record():
    def make(record, place):
        if record == 1:
            int("1" * 5_000)
        if record == 2:
            raise RecursionError("too deep")
        return place.paper(title=str(record))

    assert titles(read_each(range(4), "s", "f", make)) == ["0", "unreadable", "unreadable", "3"]


def test_an_error_in_knowing_a_format_costs_the_file(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text('{"id": "2501.00001", "title": "t", "abstract": "a"}')
    (tmp_path / "b.txt").write_text("Once upon a time.")

    def recognise(head):
        raise ValueError("too long")

    monkeypatch.setattr(sources.READERS["latex"], "recognise", recognise)
    assert titles(read_path(tmp_path)) == ["t", "unreadable_file"]


# ---------------------------------------------------------------------------------------------------------- XML


def texts_in(content, tags=("article",)):
    found = elements.iter_elements(io.StringIO(content), tags)
    return [one if isinstance(one, str) else elements.text_of(one) for one in found]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<article>a</article\n><article>b</article \t>", ["a", "b"]),
        ('<j:article xmlns:j="urn:j"><j:p>a</j:p></j:article>', ["a"]),
        ('<s xmlns:foo="u"><article>x <foo:bar foo:at="see: foo:y">y</foo:bar></article></s>', ["x y"]),
        ('<x:s xmlns:x="u"><x:article>a</x:article><x:article>b</x:article\n></x:s>', ["a", "b"]),
        ("<article>a<é:b>x</é:b></article>", ["ax"]),
        ('<article>a <q:article xmlns:q="u">b</q:article></article>', ["a b"]),
    ],
)
def test_xml_as_its_rules_allow_it(content, expected):
    assert texts_in(content) == expected


def test_xml_that_no_prefix_mends_is_a_message():
    for content in ("<article>a <:b>c</:b></article>", "<article><a:b></article>", "<x:article>a</article>"):
        (message,) = texts_in(content)
        assert "XML" in message or "cut short" in message


# ---------------------------------------------------------------------------------------------------------- NUL bytes


@pytest.mark.parametrize("at", [0, 40, 200])
def test_a_nul_byte_loses_nothing(tmp_path, at):
    content = bytearray(b"TY  - JOUR\nTI  - Whiskers of tin\nAB  - They grow.\nER  - \n\n" * 20)
    content[at:at] = b"\0"
    (tmp_path / "a.ris").write_bytes(content)
    assert titles(read_path(tmp_path / "a.ris")) == ["Whiskers of tin"] * 20
    (tmp_path / "a.xml").write_bytes(pubmed_set(*map(article, range(1, 9))).encode().replace(b"T.", b"T\0.", 1))
    assert titles(read_path(tmp_path / "a.xml")) == ["T"] * 8


@pytest.mark.parametrize(
    "content",
    [b"TI" + b"\0" * 9 + b"a" * 500, b"\0\1\2\3\4\5\6" * 9, b"\0" + b"\1\2\3" + b"a" * 100, bytes(range(256)) * 20],
)
def test_what_has_more_of_them_is_binary(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    (line,) = read_path(tmp_path / "a")
    assert (line.reason, line.message) == (NOT_THIS_FORMAT, "binary data")
