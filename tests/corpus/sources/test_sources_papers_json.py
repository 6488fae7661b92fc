"""Papers as JSON: arXiv's ids and categories in all their forms, and the lists of conferences."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.sources import arxiv, conference
from nsllm_lite.corpus.texts.clean import clean_document
from tests.corpus.sources.reading import damaged, read


def paper(**fields):
    (document,) = read(arxiv, {"title": "T", "abstract": "A", **fields})
    return document


# ---------------------------------------------------------------------------------------------------------- arXiv


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("0704.0001", "0704.0001"),
        ("2501.00001v12", "2501.00001"),
        (2501.00001, "2501.00001"),
        ("math.GT/0309136v1", "math/0309136"),
        ("cond-mat/9901001", "cond-mat/9901001"),
        ("oai:arXiv.org:quant-ph/9901001", "quant-ph/9901001"),
        ("arXiv:2501.00001v1 [cs.CL]", "2501.00001"),
        ("http://export.arxiv.org/abs/hep-th/9901001v2", "hep-th/9901001"),
        ("https://www.arxiv.org/pdf/2501.00001v1.pdf", "2501.00001"),
        ("https://doi.org/10.48550/arXiv.2501.00001", "2501.00001"),
        ("2513.00001", ""),  # there is no thirteenth month
        ("handle/1234567", ""),
        ("05PCDMN4Dk", ""),
        ("x" * 10_000, ""),
        (None, ""),
    ],
)
def test_arxiv_ids(stated, name):
    assert paper(id=stated).id == (f"arxiv:{name}" if name else "s:f#1")


def test_papers_that_are_not_arxivs_are_named_by_what_they_state():
    assert paper(id=7, doi="https://doi.org/10.1000/ABC").id == "doi:10.1000/abc"
    assert paper(id=7, doi="10.48550/arXiv.2501.00001").id == "arxiv:2501.00001"
    assert paper(id="0704.0001", doi="10.1000/A 10.1000/B").doi == "10.1000/a"
    assert paper(DOI="10.1000/a", pmid="77").id == "pmid:77"
    assert paper(id="Bk1", site="https://openreview.net/forum?id=Bk1").id == "openreview:Bk1"
    assert paper(doi="none", language="EN").language == "en"


@pytest.mark.parametrize(
    ("stated", "discipline"),
    [
        ({"categories": "math.AG hep-th"}, "Mathematics"),
        ({"categories": ["68T50", "I.2.7; H.5.2", "cs.CL"]}, "Computer Science"),
        ({"categories": "['physics.med-ph', 'cs.CV']"}, "Medicine"),
        ({"categories": "alg-geom math.AG"}, "Mathematics"),
        ({"categories": "cmp-lg"}, "Computer Science"),
        ({"categories": "chao-dyn nlin.CD"}, "Physics"),
        ({"categories": "Deep Learning; Vision"}, ""),
        ({"categories": None}, ""),
        ({"primary_category": "q-bio.NC", "categories": ["cs.LG", "q-bio.NC"]}, "Biology"),
        ({"id": "astro-ph/9901001"}, "Physics"),
    ],
)
def test_the_broad_field_is_that_of_the_first_category_of_arxiv_or_of_an_old_id(stated, discipline):
    assert paper(**stated).discipline == discipline


def test_only_arxiv_marks_paragraphs_by_indents():
    text = "an x-\nray.\n  It is seen"
    assert paper(id="2501.00001", abstract=text).abstract == "an x-\nray.\n\nIt is seen"
    assert paper(id="a1", abstract=text).abstract == text


FORMULAS = [
    (r"\begin{align*}", r"\end{align*}"), (r"\begin{math}", r"\end{math}"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$"),
]  # fmt: skip


@pytest.mark.parametrize(("opening", "closing"), FORMULAS)
def test_a_displayed_formula_stays_in_the_paragraph_of_its_sentence(opening, closing):
    lines = ["We solve", opening, "u &= f,", "- v &= g", closing, "where $g$ is\ngiven.", "Then we rest."]
    text = "\n  ".join(lines)
    whole = clean_document(paper(id="2501.00001", abstract=text)).abstract
    assert whole == f"We solve {opening} u &= f, - v &= g {closing} where $g$ is given.\n\nThen we rest."
    ended = text.replace("- v &= g", "v = g.").replace("where", "Here")
    assert clean_document(paper(id="2501.00001", abstract=ended)).abstract.count("\n\n") == 2


def test_hyphens_at_ends_of_lines_follow_one_rule():
    text = "We compare one-\nand two-layer films, give explana-\ntions for the sys-\ntems and use x-\nrays."
    expected = "We compare one- and two-layer films, give explanations for the systems and use x-rays."
    assert clean_document(paper(id="2501.00001", abstract=text)).abstract == expected


def test_what_is_no_text_is_no_text():
    assert paper(abstract=float("nan"), summary="S").abstract == "S"
    assert paper(abstract={"a": 1}).abstract == ""
    assert paper(title=["One", None, "Two"]).title == "One Two"


# ---------------------------------------------------------------------------------------------------------- conferences

V1 = {"id": "n1", "content": {"title": "T", "abstract": "A", "keywords": ["k"]}, "details": {"replies": [{"title": 1}]}}
V2 = {"id": "n1", "content": {"title": {"value": "T"}, "abstract": {"value": "A"}, "venue": {"value": "Withdrawn"}}}
FLAT = {"id": "n1", "title": "T", "track": "main", "status": "Reject", "abstract": "A"}


@pytest.mark.parametrize(
    "content",
    [
        {"notes": [V1], "count": 1},
        {"count": 1, "notes": [V2]},
        [V1],
        V2,
        {"2018": {"papers": [V1]}, "meta": {"by": "me"}},
        {"title": "A list of papers", "papers": [V1]},
    ],
    ids=["api1", "api2", "array", "line", "deep", "titled-list"],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_openreview_notes(content, indent):
    head = json.dumps(content, indent=indent)
    assert conference.recognise(head)
    assert not arxiv.recognise(head)
    *above, document = read(conference, head)
    assert (document.id, document.title, document.abstract) == ("openreview:n1", "T", "A")
    assert [d.title for d in above] == (["A list of papers"] if "title" in content else [])


def test_papers_under_their_names_and_in_lists_of_other_services():
    document, other = read(conference, {"p1": FLAT, "p2": {"title": {"value": "U"}, "abstract": None}})
    assert [(d.id, d.title, d.abstract) for d in (document, other)] == [("s:f#1", "T", "A"), ("s:f#2", "U", "")]
    nested = {"message": {"items": [{"title": ["T"], "abstract": "A", "DOI": "10.1000/x"}]}}
    assert [d.id for d in read(conference, nested)] == ["doi:10.1000/x"]


def test_a_flat_list_is_the_same_to_both_readers():
    assert read(arxiv, [FLAT, FLAT]) == read(conference, [FLAT, FLAT])
    bare = {key: value for key, value in FLAT.items() if key != "abstract"}
    document, _ = read(conference, [bare, bare])
    assert (document.title, document.abstract) == ("T", "")


def test_every_entry_of_a_list_is_accounted_for():
    *papers, number, nameless, inner = read(conference, {"notes": [V1, V2, 7, {"id": "x"}, {"papers": [FLAT]}]})
    assert [p.id for p in papers] == ["openreview:n1", "openreview:n1"]
    assert number.message.startswith("a int without a title")
    assert nameless.message.startswith("a dict without a title")
    assert inner.title == "T"
    (nothing,) = read(conference, {"name": "NotFoundError", "errors": [{"code": 1}]})
    assert nothing.message.endswith(" name, errors")


@given(st.integers(0, 2), st.data())
def test_a_damaged_line_costs_no_other(line, data):
    lines = [json.dumps(record) for record in ({"notes": [V1]}, V2, FLAT)]
    lines[line] = lines[line][0] + "".join(damaged(data, lines[line][1:], st.text(max_size=2)).split())
    for reader in (conference, arxiv):
        assert len(read(reader, "\n".join(lines))) >= 3
    found = read(conference, "\n".join(lines))
    assert sum(not isinstance(record, Unread) and record.title == "T" for record in found) >= 2
