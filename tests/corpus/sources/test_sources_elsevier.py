"""Elsevier's XML in its wrappings, by the rules of JATS."""

import json

import pytest

from nsllm_lite.corpus.sources import elsevier
from nsllm_lite.formats.documents import Document
from tests.corpus.sources.reading import DATA, outline_of, read

SEEDS = DATA.parents[1] / "faults/seeds/read/elsevier"
ANSWER, ARTICLE = ((SEEDS / name).read_text() for name in ("stated.xml", "valid.xml"))
CE = 'xmlns:ce="http://www.elsevier.com/xml/common/dtd"'
CONSYN = f"""<doc:document xmlns:doc="http://www.elsevier.com/xml/document/schema"
 xmlns:ja="http://www.elsevier.com/xml/ja/dtd"
 xmlns:rdf="r" xmlns:dc="d" xmlns:prism="p" {CE}><rdf:RDF><rdf:Description rdf:about="x"><dc:title>Tin</dc:title>
<prism:doi>10.1000/tin.11</prism:doi><prism:coverDisplayDate>March 2019</prism:coverDisplayDate>
<prism:publicationName>J. Tin</prism:publicationName></rdf:Description></rdf:RDF>%s</doc:document>"""
BARE = """<full-text-retrieval-response xmlns="http://www.elsevier.com/xml/svapi/article/dtd" xmlns:dc="d"
 xmlns:prism="p" xmlns:ce="c" xmlns:xocs="x" xmlns:bk="b"><coredata>
<dc:title>Gap of films</dc:title><prism:doi>10.5555/a1</prism:doi>
<dc:description>Abstract We grew films.</dc:description></coredata>%s</full-text-retrieval-response>"""
SECTION = "<ce:section><ce:section-title>Experimental</ce:section-title><ce:para>We grew.</ce:para></ce:section>"


def test_an_article_is_read_as_jats_is():
    (paper,) = read(elsevier, ARTICLE)
    assert (paper.id, paper.title, paper.date) == ("doi:10.1000/tin.10", "Gap of Cu₂O films", "2019")
    assert paper.moves == (("Aim", "To grow films."), ("Results", "They grew."))
    assert paper.abstract == "To grow films. They grew."
    assert [(s.parents, s.heading, s.text, s.kind) for s in paper.sections] == [
        ((), "Introduction", "Known since long.", "introduction"),
        ((), "Experimental", "", "materials-methods"),
        (
            ("Experimental",),
            "Growth of CH=CH",
            "As in [1], at 10⁻⁵ Pa (Ito, 1998), see Fig. 1. The gap is E_g = 2 where it is.\n\nSteps: one two",
            "materials-methods",
        ),
    ]


@pytest.mark.parametrize(
    ("inner", "sections"),
    [
        (f"<originalText><ce:sections>{SECTION}</ce:sections></originalText>", [((), "Experimental", "We grew.")]),
        (
            f"<originalText><xocs:doc><bk:chapter><ce:title>Gap of films</ce:title><ce:sections>{SECTION}</ce:sections>"
            "</bk:chapter></xocs:doc></originalText>",
            [((), "Experimental", "We grew.")],
        ),
        ("<originalText><xocs:doc><xocs:rawtext>Raw.</xocs:rawtext></xocs:doc></originalText>", []),
        ("", []),  # without the right to the full text
    ],
)
def test_an_answer_has_its_abstract_whatever_text_it_holds(inner, sections):
    (paper,) = read(elsevier, BARE % inner)
    assert (paper.title, paper.doi, paper.abstract[-14:]) == ("Gap of films", "10.5555/a1", "We grew films.")
    assert outline_of(paper) == sections


@pytest.mark.parametrize("root", ["article", "converted-article", "simple-article"])
def test_consyn_documents_state_their_metadata_in_rdf(root):
    head = "simple-head" if root.startswith("simple") else "head"
    parts = (
        f"<ja:{head}><ce:title>Own title</ce:title></ja:{head}><ja:body><ce:sections>{SECTION}</ce:sections></ja:body>"
    )
    article = f'<ja:{root} xml:lang="de">{parts}</ja:{root}>'
    (paper,) = read(elsevier, CONSYN % article)
    assert (paper.title, paper.doi, paper.venue, paper.date) == ("Own title", "10.1000/tin.11", "J. Tin", "2019-03")
    assert (paper.language, outline_of(paper)) == ("de", [((), "Experimental", "We grew.")])
    (bare,) = read(elsevier, CONSYN % "")
    assert (bare.title, bare.sections) == ("Tin", ())


def test_answers_in_json_have_no_sections():
    core = {
        "dc:title": "Tin", "dc:description": "\n Abstract\n We\n wait.", "prism:doi": "10.1000/tin.12",
        "prism:coverDate": "2019-03-12", "dc:creator": [{"@_fa": "true", "$": "Fox, A."}],
        "dcterms:subject": [{"$": "tin"}],
    }  # fmt: skip
    answer = {"coredata": core, "originalText": "serial JL Tin", "scopus-id": 3}
    first, second, nothing = read(elsevier, [{"full-text-retrieval-response": answer}, answer, {"coredata": 3}])
    assert (first.doi, first.title, first.date) == ("10.1000/tin.12", "Tin", "2019-03-12")
    assert first.abstract == "Abstract We wait."  # whose label cleaning takes away
    assert (second.authors, second.keywords, second.sections) == (("Fox, A.",), ("tin",), ())
    assert nothing.reason == "unreadable"
    one = {
        "dc:title": "T",
        "dc:creator": {"$": "Fox, A."},
        "dcterms:subject": {"$": "tin"},
        "pii": "S0000-0000(19)30001-2",
    }
    printed, indexed, plain = read(
        elsevier,
        [
            {"coredata": one, "originalText": ""},
            {"coredata": one, "scopus-eid": "2-s2.0-85"},
            {"coredata": {"dc:title": "T", "dc:creator": ["Fox, A.", 3, {"a": 1}], "dcterms:subject": "tin"}},
        ],
    )
    assert (printed.id, indexed.id, plain.id) == ("pii:S0000000019300012", "scopus:2-s2.0-85", "s:f#3")
    assert {(paper.authors, paper.keywords) for paper in (printed, indexed, plain)} == {(("Fox, A.",), ("tin",))}
    assert elsevier.recognise(json.dumps({"full-text-retrieval-response": answer}))


TRANSLATED = f"""<article xmlns="http://www.elsevier.com/xml/ja/dtd" {CE} xml:lang="es"><head>
<ce:title>Estaño</ce:title>
<ce:alt-title xml:lang="en">Tin</ce:alt-title>
<ce:abstract class="author" xml:lang="en"><ce:abstract-sec><ce:simple-para>It grows.</ce:simple-para></ce:abstract-sec>
</ce:abstract>
<ce:abstract class="author"><ce:abstract-sec><ce:simple-para>Crece.</ce:simple-para></ce:abstract-sec></ce:abstract>
<ce:keywords xml:lang="es"><ce:keyword><ce:text>estaño</ce:text></ce:keyword></ce:keywords>
<ce:keywords xml:lang="en"><ce:keyword><ce:text>tin</ce:text></ce:keyword></ce:keywords></head>
<body><ce:sections>{SECTION}</ce:sections></body></article>"""


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        (("en",), ("en", "Tin", "It grows.", ("tin",), 0)),
        (("es", "en"), ("es", "Estaño", "Crece.", ("estaño",), 1)),
        (("de",), ("es", "Estaño", "Crece.", ("estaño",), 1)),
        ((), ("es", "Estaño", "Crece.", ("estaño",), 1)),
    ],
)
def test_of_an_article_with_translations_the_language_is_read_that_is_wanted(languages, expected):
    (paper,) = read(elsevier, TRANSLATED, languages)
    assert (paper.language, paper.title, paper.abstract, paper.keywords, len(paper.sections)) == expected


def test_several_answers_in_a_file_and_a_damaged_one():
    found = read(elsevier, ANSWER + ANSWER.replace("</ja:body>", "") + ANSWER)
    assert [isinstance(one, Document) for one in found] == [True, False, True]
    assert read(elsevier, "<full-text-retrieval-response><a/></full-text-retrieval-response>")[0].reason == "unreadable"
    (paper,) = read(elsevier, ANSWER.replace("<prism:doi>10.1000/tin.9</prism:doi>", "").replace("10.1000/tin.9", "x"))
    assert paper.id == "scopus:2-s2.0-85000000001"
