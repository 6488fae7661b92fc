"""BioC and PMC's plain text: what passages and lines are, and where they leave it open."""

import json

import pytest

from nsllm_lite.corpus.files.citations import mark_bracketed, settle
from nsllm_lite.corpus.files.lines import is_caption, is_heading, is_name, sections_of
from nsllm_lite.corpus.sources import bioc, pmctext
from tests.corpus.sources.reading import DATA, outline_of, read

SEEDS = DATA.parents[1] / "faults/seeds/read"
COLLECTION = json.loads((SEEDS / "bioc/stated.json").read_text())[0]
XML = (SEEDS / "bioc/valid.xml").read_text()
TEXT, CASE = ((SEEDS / "pmctext" / name).read_text() for name in ("stated.txt", "valid.txt"))


def passage(kind, text, section="", **infons):
    return {"infons": {"type": kind, "section_type": section, **infons}, "text": text}


@pytest.mark.parametrize(
    "content", [[COLLECTION], COLLECTION, COLLECTION["documents"][0], {"PubTator3": COLLECTION["documents"]}]
)
def test_bioc_sections_in_every_wrapping(content):
    (paper,) = read(bioc, content)
    assert (paper.id, paper.doi, paper.title) == ("pmid:32000001", "10.1000/tin.9", "Whiskers of tin on copper")
    assert [(s.parents, s.heading, s.text, s.kind) for s in paper.sections] == [
        ((), "Introduction", "Known since long.", "intro"),
        ((), "What we did", "", "methods"),
        (("What we did",), "Growth", "As in [2], at 10 Pa; benzo[1,2]furan was used, and see (Fox, 1998).", "methods"),
        ((), "Results", "They grew within [0, 1] and [1, 9].", "results"),
    ]


def test_bioc_abstracts_of_pubmed_and_their_sentences():
    (paper,) = read(bioc, XML)
    assert (paper.id, paper.title, paper.venue, paper.date) == ("pmid:32000002", "Tin in mice", "J Tin", "2019")
    assert (paper.abstract[-19:], paper.authors) == ("It was slow < fast.", ("Fox A", "Ito B"))
    parts = [passage("front", "T", "TITLE"), *(passage(*one, "ABSTRACT") for one in (
        ("abstract_title_1", "Aim:"), ("abstract", "a"), ("abstract_title_1", "End"), ("abstract", "b")))]  # fmt: skip
    (structured,) = read(bioc, {"id": "7", "infons": {}, "passages": parts})
    assert (structured.moves, structured.abstract) == ((("Aim", "a"), ("End", "b")), "a b")


def test_bioc_references_without_a_title():
    entry = passage("ref", "", "REF", name_0="surname:Ito;given-names:K", source="J Tin", year="2001", volume="3")
    (paper,) = read(
        bioc, {"passages": [passage("front", "T", "TITLE"), entry, passage("ref", "On tin", "REF", year="2")]}
    )
    assert paper.references == ("Ito, K, J Tin, 2001, 3", "On tin")


def test_bioc_with_types_alone():
    kinds = (
        ("front", "T"),
        ("abstract", "A"),
        ("title_1", "Methods"),
        ("title_2", "Growth"),
        ("paragraph", "a"),
        ("ref", "R"),
    )
    (paper,) = read(bioc, {"passages": [{"infons": {"type": kind}, "text": text} for kind, text in kinds]})
    assert (paper.title, paper.abstract) == ("T", "A")
    assert outline_of(paper) == [((), "Methods", ""), (("Methods",), "Growth", "a")]


def test_bioc_text_without_headings_and_what_is_no_document():
    lost = [passage("front", "T", "TITLE"), passage("paragraph", "a", "METHODS"), passage("paragraph", "b", "RESULTS")]
    (paper,) = read(bioc, {"id": "7000001", "passages": lost})
    assert paper.id == "s:f#1"  # a number of PubMed or of PMC
    assert [(s.text, s.kind) for s in paper.sections] == [("a", "methods"), ("b", "results")]
    broken = [{"documents": [3, {"id": 1, "passages": "x"}, {"passages": [{"infons": [], "text": 2}, 5]}]}, {"a": 1}]
    messages = [getattr(record, "message", "") for record in read(bioc, broken)]
    assert [bool(message) for message in messages] == [True, True, False, True]


def test_pmc_text_with_the_lines_of_a_real_front():
    (paper,) = read(pmctext, TEXT)
    assert (paper.id, paper.doi, paper.title) == ("pmid:32000001", "10.1000/tin.9", "Whiskers of tin on copper")
    assert (paper.abstract[:15], paper.abstract[-10:]) == ("Whiskers of tin", "six weeks.")
    assert outline_of(paper) == [
        ((), "Introduction", "Known since long."), ((), "Methods", ""),
        (("Methods",), "Growth of whiskers", "As in [2], at 10 Pa.\n\nFigure 2 shows more of it."),
        ((), "Results", "They grew."),
    ]  # fmt: skip


def test_pmc_text_with_numbered_headings_and_a_short_front():
    (paper,) = read(pmctext, CASE)
    assert (paper.doi, paper.title, paper.authors) == ("10.5555/a1", "Gap of oxide films", ("B Abel",))
    assert (paper.abstract[:7], [s.heading for s in paper.sections]) == (
        "We grew", ["1. Introduction", "2. Methods", "3. Results"],
    )  # fmt: skip


def test_pmc_text_labels_of_an_abstract_and_several_articles():
    sentences = (
        "We looked at twelve mice for six weeks and more in a cage.",
        "They all grew by a third of what they weighed before it.",
    )
    labelled = (
        f"Background\n{sentences[0]}\nResults\n{sentences[1]}\nAuthor Summary\n{sentences[0] * 2}\n==== Body\nText."
    )
    first, second = read(pmctext, TEXT.partition("Abstract")[0] + labelled + "\n==== Back\nHidden.\n" + CASE)
    assert first.moves == (("Background", sentences[0]), ("Results", sentences[1]))
    assert [s.text for s in first.sections] == ["Text."]
    assert second.title == "Gap of oxide films"


def test_pmc_text_tells_sentences_from_addresses_and_notices():
    told = "All patients received one dose, and their funding, licences and accepted papers were counted for two years."
    lines = (
        "1 Department of Tin and of Lead, The Institute of Metals of the Free City of Copper.",
        "Received 12 March 2019.",
        "This is an open-access article under the terms of the licence, which permits use in any medium at all.",
        told,
    )
    (paper,) = read(pmctext, TEXT.partition("1 Institute")[0] + "\n".join(lines) + "\n==== Body\nText.")
    assert paper.abstract == told


def test_pmc_text_whose_front_is_one_line_has_no_title():
    front = (
        "==== Front\nJ TinJ. Tin1234-5678Tin Press 10.1000/tin.9Research ArticleWhiskers of tinFox Ann1\n==== Body\n"
    )
    (paper,) = read(pmctext, front + "Methods\nWe waited.")
    assert (paper.title, [s.text for s in paper.sections]) == ("", ["We waited."])


@pytest.mark.parametrize("kind", ["Errata", "Case Series", "Short Report", "Comments"])
def test_pmc_text_passes_over_the_kind_of_article(kind):
    (paper,) = read(pmctext, f"==== Front\nJ Tin\n10.1000/tin.9\n{kind}\nTin\n==== Body\nMethods\nWe waited.")
    assert paper.title == "Tin"


def test_pmc_text_of_an_endless_article(monkeypatch):
    monkeypatch.setattr(pmctext, "MAX_CHARS", 500)
    assert "over 500 characters" in read(pmctext, TEXT)[0].message


def test_lines_that_are_headings_names_and_captions():
    headings = ("Methods", "2.1 Growth of whiskers", "材料与方法", "Cell Culture, Transfection and Imaging")
    assert all(map(is_heading, headings))
    assert not any(map(is_heading, ("We waited.", "a\tb", "growth", "12", "Figure 2", "W " * 15, "See below:")))
    assert all(map(is_name, ("B Abel", "van Ito Kenji 12*", "Müller Karin B. 1")))
    assert not any(map(is_name, ("Gap of films", "Tin", "a b", "1 Institute of Tin")))
    assert all(map(is_caption, ("Figure 1. A", "Fig. 2: b", "Table S3", "TABLE 1 Data", "Scheme 2 | c")))
    assert not any(map(is_caption, ("Figure 1 shows", "Tables 1 and 2 list", "Figures are large")))
    assert sections_of(["Figure 1", "Its caption", "Methods", "Last"]) == ()


def test_printed_citations_go_where_the_paper_has_so_many_references():
    text = "Known [1], as in [2], by Ito [1, 3–4]; within [0, 1] or [5, 9], of bicyclo[2.1]heptane and benzo[1,2]furan."
    expected = "Known, as in [2], by Ito; within [0, 1] or [5, 9], of bicyclo[2.1]heptane and benzo[1,2]furan."
    assert settle(mark_bracketed(text, 4)) == expected
    assert mark_bracketed(text, 0) == text


@pytest.mark.parametrize(
    ("stated", "venue"),
    [
        ("J Tin. 2019 Mar 12;3:4", "J Tin"),
        ("J  Tin;\n 2019", "J Tin"),
        ("J Tin", "J Tin"),
        ("J Tin" + " " * 9_000_000 + "x 2019", "J Tin"),
    ],
)
def test_bioc_names_the_journal_alone(stated, venue):
    first = {"infons": {"journal": stated, "type": "title"}, "text": "T"}
    (paper,) = read(bioc, {"id": "1", "passages": [first]})
    assert paper.venue == venue
