"""Answers of services as JSON: OpenAlex and Europe PMC."""

import json

import pytest

from nsllm_lite.corpus.sources import europepmc, openalex
from nsllm_lite.corpus.texts.clean import clean_document
from tests.corpus.sources.reading import DATA, read, read_path, titles

SEEDS = DATA.parents[1] / "faults/seeds/read"

# ------------------------------------------------------------------------------------------------------- OpenAlex


def work(index, **fields):
    (found,) = read(openalex, {"title": "T", "abstract_inverted_index": index, **fields})
    return found


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ({"We": [0, 3], "grow": [1], "tin.": [2, 4]}, "We grow tin. We tin."),
        ({"b": [10**30], "a": [5]}, "a b"),  # a far place takes no memory
        (json.dumps({"b": [1], "a": [0]}), "a b"),  # the snapshot's as text
        ({"IndexLength": 2, "InvertedIndex": {"b": [1], "a": [0]}}, "a b"),
        ({"InvertedIndex": [0], "is": [1]}, "InvertedIndex is"),
        (None, ""),
        ("", ""),
        ({}, ""),
    ],
)
def test_an_abstract_is_put_together_from_the_places_of_its_words(index, text):
    assert work(index).abstract == text


@pytest.mark.parametrize("index", [["a"], 3, {"a": ["0"]}, {"a": None}, "{", "[" * 10**5])
def test_a_broken_index_is_no_abstract(index):
    assert "abstract_inverted_index cannot be read" in work(index).message


def test_answers_works_and_names():
    first, second = read_path(SEEDS / "openalex/valid-answer.json")
    assert (first.id, first.doi, first.discipline) == ("pmid:9", "10.1000/tin.9", "Physics")
    assert (second.id, second.title, second.date) == ("arxiv:1801.00001", "Whiskers of lead", "2018")
    assert (second.authors, second.venue) == ((), "arXiv (Cornell University)")
    assert (second.categories, second.keywords) == (("Lead",), ())  # OpenAlex's keywords are no author's
    assert work(None, id="https://openalex.org/W20000").id == "openalex:w20000"
    pages = [{"results": [{"title": "A", "authorships": 3}, 7]}, {"results": []}, {"id": "x", "works_count": 2}]
    assert titles(read(openalex, "\n".join(map(json.dumps, pages)))) == ["A", "unreadable", "unreadable"]


# ----------------------------------------------------------------------------------------------------- Europe PMC


def test_headings_become_moves():
    (found,) = map(clean_document, read_path(SEEDS / "europepmc/stated.json"))
    assert found.abstract == (
        "Whiskers of tin grow on plated copper at room temperature. "
        "Their length was measured with a microscope every day for six weeks at 10⁵ Pa."
    )
    assert [label for label, _ in found.moves] == ["BACKGROUND", "METHODS"]
    assert (found.id, found.doi, found.title) == ("pmid:9", "10.1000/tin.9", "Whiskers of tin on copper")


@pytest.mark.parametrize(
    ("text", "moves", "abstract"),
    [
        (
            "<h4>Aims</h4>To look. <h4>IL-6 &amp; tin: </h4>High.",
            (("OBJECTIVE", "To look."), ("IL-6 &amp; tin", "High.")),
            "To look. High.",
        ),
        ("Before.<h4>Aims</h4>To look.<h4>Results</h4>Seen.", (), "Before.\n\nTo look.\n\nSeen."),
        ("<h4>Abstract</h4>One part.<h4>Results</h4> ", (), "One part."),
        ("AIM: To look. RESULTS: Seen.", (("OBJECTIVE", "To look."), ("RESULTS", "Seen.")), "To look. Seen."),
    ],
)
def test_headings_are_labels_whatever_they_say(text, moves, abstract):
    (found,) = read(europepmc, {"title": "T", "abstractText": text})
    assert (found.moves, found.abstract) == (moves, abstract)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"id": "12", "source": "MED", "pmid": None}, "pmid:12"),
        ({"id": "12", "source": "MED", "doi": "10.1/x", "pmid": "13"}, "pmid:13"),
        ({"id": "PPR9", "source": "PPR", "doi": "10.1101/x"}, "doi:10.1101/x"),
        ({"id": "PPR9", "source": "PPR"}, "europepmc:PPR/PPR9"),
        ({"id": "PMC77", "source": "PMC", "pmcid": "PMC77"}, "pmc:77"),
    ],
)
def test_results_are_named_by_what_they_state(fields, name):
    (found,) = read(europepmc, {"title": "T.", **fields})
    assert (found.id, found.title) == (name, "T")


def test_answers_single_results_and_what_is_none():
    found = read_path(SEEDS / "europepmc/valid.jsonl")
    assert titles(found) == ["Whiskers of tin on copper", "Whiskers of lead", "Whiskers of lead"]
    assert (found[1].abstract, found[1].venue) == ("", "bioRxiv")
    one = {"hitCount": 1, "result": {"id": "1", "source": "MED", "title": "T"}}
    assert europepmc.recognise(json.dumps(one))
    many = [one, {"resultList": {"result": [3, {}]}}, {"errCode": 404}]
    assert titles(read(europepmc, many)) == ["T", "unreadable", "unreadable", "unreadable"]
