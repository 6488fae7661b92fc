"""OAI-PMH answers, arXiv's Atom feeds, and what both look like inside JSON."""

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.corpus.files import elements, replies
from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.sources import atom, oai
from nsllm_lite.formats.documents import Document
from tests.corpus.sources.reading import damaged, example, read

FIELDS = example("arxiv_fields.xml")
ARXIV = f'<arXiv xmlns="http://arxiv.org/OAI/arXiv/"><id>math/0309001</id>{FIELDS}</arXiv>'
RAW = f'<arXivRaw xmlns="x"><id>math/0309001</id><version version="v2"><date>d</date></version>{FIELDS}</arXivRaw>'
ABSTRACT = "We weigh\nan x-\nray of $a<b$.\n\nThen we rest."
ATOM = example("atom.xml")
NO_ENTRIES = ATOM[: ATOM.index("<entry>")] + "</feed>"


def record(metadata):
    header = "<header><identifier>oai:arXiv.org:math/0309001</identifier><setSpec>physics:hep-ex</setSpec></header>"
    return f"<record>{header}<metadata>{metadata}</metadata></record>"


def answer(content, verb="ListRecords"):
    request = f'<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><request verb="{verb}">u</request>'
    return f'<?xml version="1.0"?>{request}<{verb}>{content}</{verb}></OAI-PMH>'


def reprefixed(xml):
    """The same XML as ElementTree saves it: every name with a prefix, every prefix declared at the root."""
    return ElementTree.tostring(ElementTree.fromstring(xml), encoding="unicode")


def messages(records):
    return [record.message if isinstance(record, Unread) else record.id for record in records]


# ---------------------------------------------------------------------------------------------------------- OAI-PMH


@pytest.mark.parametrize(
    "content",
    [
        answer(record(ARXIV)),
        answer(record(RAW), "GetRecord"),
        reprefixed(answer(record(ARXIV))),
        f"<ListRecords>{record(FIELDS)}</ListRecords>",
        record(ARXIV),
        f"<records>{ARXIV}</records>",
        RAW,
        json.dumps({"status_code": 200, "body": answer(record(ARXIV))}, indent=1),
        json.dumps({"request": None, "body": {"string": "\n" + answer(record(ARXIV))}}),
    ],
    ids=["arXiv", "arXivRaw", "prefixes", "no-namespace", "bare-record", "bare-arXiv", "bare-raw", "json", "cassette"],
)
def test_the_same_paper_in_every_envelope(content):
    assert oai.recognise(content)
    (document,) = read(oai, content)
    assert (document.id, document.origin) == ("arxiv:math/0309001", "f#1")
    assert " ".join(document.title.split()) == "Dust on tin"
    assert document.abstract == ABSTRACT
    assert (document.discipline, document.doi) == ("Mathematics", "10.1000/tin")


def test_every_answer_of_a_file_is_accounted_for():
    found = read(oai, example("oai_answers.xml"))
    words = (
        "oai:x:1", "without identifier", "oai:x:3", "error: noRecordsMatch", "error: badArgument No such date",
        " ListIdentifiers ", " Identify ", " ListSets ", "cut short", "arxiv:math/0309001", "empty",
    )  # fmt: skip
    for message, expected in zip(messages(found), words, strict=True):
        assert expected in message
    assert [r.reason for r in found if isinstance(r, Unread)][:3] == ["deleted", "deleted", "unreadable"]
    assert [r.origin for r in found] == [f"f#{n}" for n in range(1, 12)]
    assert messages(read(oai, answer(""))) == [oai.NO_RECORD]


def test_dublin_core_of_any_repository():
    bilingual, bare, commented = read(oai, example("oai_dc.xml"))
    assert (bilingual.id, bilingual.doi) == ("doi:10.1000/a", "10.1000/a")
    assert (bilingual.title, bilingual.abstract, bilingual.language) == ("Tin", "A short abstract.", "en")
    assert (bare.id, bare.abstract, bare.language) == ("oai:ir.example.org:77", "", "en")
    assert (commented.id, commented.abstract, commented.discipline) == ("arxiv:2501.00007", "One\n\nTwo", "Physics")


def test_metadata_of_other_kinds():
    *found, marc, other = read(oai, example("oai_kinds.xml"))
    assert [(d.id, d.title, d.abstract) for d in found] == [
        ("oai:x:9", "Tin", "Soft."), ("doi:10.1000/z", "Tin", "Soft."), ("pmid:5", "Tin", "Soft."),
    ]  # fmt: skip
    assert [s.heading for s in found[2].sections] == ["Methods"]
    assert marc.message == oai.MARC
    assert other.message.startswith("oai:x:9: ")
    assert other.message.endswith(" (epicur)")


# ---------------------------------------------------------------------------------------------------------- Atom


@pytest.mark.parametrize("content", [ATOM, json.dumps({"body": ATOM}), reprefixed(ATOM)])
def test_a_feed_and_its_error(content):
    assert atom.recognise(content)
    assert not oai.recognise(content)
    paper, error = read(atom, content)
    assert (paper.id, paper.title, paper.doi) == ("arxiv:cond-mat/0101001", "Tin & lead", "10.1000/q")
    assert (paper.abstract, paper.discipline) == ("One line\nand more.\n\nTwo.", "Chemistry")
    assert error.message.endswith(" error: bad id")


def test_feeds_in_records_of_json():
    lines = [{"body": NO_ENTRIES}, {"status_code": 500}, {"body": NO_ENTRIES.replace("</feed>", "<entry>")}]
    empty, not_xml, cut = messages(read(atom, "\n".join(map(json.dumps, lines))))
    assert empty == atom.NO_ENTRY
    assert "no XML" in not_xml
    assert "no </entry>" in cut


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_names_cut_by_the_seam_of_two_chunks(monkeypatch, chunk):
    monkeypatch.setattr(elements, "CHUNK_CHARS", chunk)
    monkeypatch.setattr(replies, "HEAD_BYTES", chunk)
    assert read(atom, reprefixed(ATOM))[0].doi == "10.1000/q"
    found = read(oai, '<OAI-PMH><error code="a"/></OAI-PMH>' + answer(record(ARXIV)))
    assert [type(r) for r in found] == [Unread, Document]


# ---------------------------------------------------------------------------------------------------------- damage


@given(st.data())
def test_damage_never_raises_and_never_loses_a_record(data):
    whole = "<!---->" + answer(record(ARXIV) + record(RAW)) + example("oai_dc.xml") + ATOM
    content = damaged(data, whole, st.text(alphabet='<>/&;"\\{}[]:x é\n', max_size=12))
    for form in (content, json.dumps({"body": content})):
        for reader, tag in ((oai, "<record>"), (atom, "<entry>")):
            assert len(read(reader, form)) >= content.count(tag)
