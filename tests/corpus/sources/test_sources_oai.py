"""OAI-PMH answers, arXiv's Atom feeds, and what both look like inside JSON."""

import io
import json
import time
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from nsllm_lite.corpus.files import elements, replies
from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.sources import arxiv, atom, conference, jats, oai, pubmed
from nsllm_lite.formats.documents import Document

OAI = "http://www.openarchives.org/OAI/2.0/"
HEADER = "<header><identifier>{id}</identifier><setSpec>physics:hep-ex</setSpec></header>"
FIELDS = """<title>Dust
  on tin</title><categories>math.AG hep-th</categories><comments>9 pages</comments>
<doi>10.1000/TIN 10.1000/ZINC</doi><abstract>  We weigh
an x-
ray of $a&lt;b$.
  Then we rest.
</abstract>"""
ARXIV = f'<arXiv xmlns="http://arxiv.org/OAI/arXiv/"><id>math/0309001</id>{FIELDS}</arXiv>'
RAW = f'<arXivRaw xmlns="x"><id>math/0309001</id><version version="v2"><date>d</date></version>{FIELDS}</arXivRaw>'
ABSTRACT = "We weigh\nan x-ray of $a<b$.\n\nThen we rest."


def read(reader, content):
    return list(reader.read(io.StringIO(content), "s", "f"))


def record(metadata, identifier="oai:arXiv.org:math/0309001"):
    return f"<record>{HEADER.format(id=identifier)}<metadata>{metadata}</metadata></record>"


def answer(content, verb="ListRecords"):
    body = f"<{verb}>{content}</{verb}>" if verb else content
    return f'<?xml version="1.0"?><OAI-PMH xmlns="{OAI}"><request verb="{verb}">u</request>{body}</OAI-PMH>'


def dublin_core(content, identifier="oai:ir.example.org:77"):
    names = 'xmlns:oai_dc="http://www.openarchives.org/OAI/2.0/oai_dc/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    return record(f"<oai_dc:dc {names}>{content}</oai_dc:dc>", identifier)


def reprefixed(xml):
    """The same XML as ElementTree saves it: every name with a prefix, every prefix declared at the root."""
    return ElementTree.tostring(ElementTree.fromstring(xml), encoding="unicode")


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
    deleted = '<record><header status="deleted"><identifier>oai:x:1</identifier></header></record>'
    nameless = '<record><header status="deleted"><!-- nothing --></header></record>'
    no_metadata = f"<record>{HEADER.format(id='oai:x:3')}</record>"
    found = read(
        oai,
        answer(deleted + nameless + no_metadata)
        + answer('<error code="noRecordsMatch"/>', "")
        + answer('<error code="badArgument">No such\n date</error>', "")
        + answer("<header><identifier>oai:x:4</identifier></header>", "ListIdentifiers")
        + answer("<repositoryName>R</repositoryName>", "Identify")
        + answer("<set><setSpec>bi</setSpec></set>", "ListSets")
        + answer(record(ARXIV).removesuffix("</record>") + record(ARXIV) + "<record/>"),
    )
    told = [r.message if isinstance(r, Unread) else r.id for r in found]
    words = (
        "oai:x:1", "without identifier", "oai:x:3", "error: noRecordsMatch", "error: badArgument No such date",
        " ListIdentifiers ", " Identify ", " ListSets ", "cut short", "arxiv:math/0309001", "empty",
    )  # fmt: skip
    for said, expected in zip(told, words, strict=True):
        assert expected in said
    assert [r.reason for r in found if isinstance(r, Unread)][:3] == ["deleted", "deleted", "unreadable"]
    assert [r.origin for r in found] == [f"f#{n}" for n in range(1, 12)]
    assert [r.message for r in read(oai, answer(""))] == [oai.NO_RECORD]


def test_dublin_core_of_any_repository():
    (document,) = read(
        oai,
        answer(
            dublin_core(
                '<dc:title xml:lang="fr">Étain</dc:title><dc:title xml:lang="en">Tin</dc:title>'
                "<dc:identifier>https://ir.example.org/77</dc:identifier><dc:identifier>DOI: 10.1000/A</dc:identifier>"
                '<dc:description xml:lang="fr">Un résumé bien plus long que tout autre texte.</dc:description>'
                '<dc:description xml:lang="en">Ph.D.</dc:description><dc:description xml:lang="en">A\n'
                "       short abstract.</dc:description><dc:language>fre</dc:language>"
            )
        ),
    )
    assert (document.id, document.doi) == ("doi:10.1000/a", "10.1000/a")
    assert (document.title, document.abstract, document.language) == ("Tin", "A short abstract.", "en")
    (document,) = read(oai, answer(dublin_core("<dc:title>T</dc:title><dc:language>ENG</dc:language>")))
    assert (document.id, document.abstract, document.language) == ("oai:ir.example.org:77", "", "eng")
    (document,) = read(
        oai,
        answer(
            dublin_core(
                "<dc:title>T</dc:title><dc:description>Comment: 12 pages, with all of the figures</dc:description>"
                "<dc:description>  One\n  Two</dc:description><dc:identifier>http://arxiv.org/abs/2501.00007v2</dc:identifier>",
                "oai:x:1",
            )
        ),
    )
    assert (document.id, document.abstract, document.discipline) == ("arxiv:2501.00007", "One\n\nTwo", "Physics")


def test_metadata_of_other_kinds():
    mods = (
        '<mods><relatedItem type="host"><titleInfo><title>Journal</title></titleInfo></relatedItem>'
        "<titleInfo><title>Tin</title></titleInfo><abstract>Soft.</abstract></mods>"
    )
    datacite = (
        "<resource><identifier identifierType='DOI'>10.1000/z</identifier><titles><title>Tin</title></titles>"
        "<descriptions><description descriptionType='TableOfContents'>One. Two. Three.</description>"
        "<description descriptionType='Abstract'>Soft.</description></descriptions></resource>"
    )
    article = (
        '<article xmlns:xlink="x"><front><article-meta><article-id pub-id-type="pmid">5</article-id><title-group>'
        "<article-title>Tin</article-title></title-group><abstract><p>Soft.</p></abstract></article-meta></front>"
        "<body><sec><title>Methods</title><p>Heat.</p></sec></body></article>"
    )
    marc = '<record xmlns="http://www.loc.gov/MARC21/slim"><datafield tag="245"/></record>'
    found = read(oai, answer("".join(record(m, "oai:x:9") for m in (mods, datacite, article, marc, "<epicur/>"))))
    assert [(d.id, d.title, d.abstract) for d in found[:3]] == [
        ("oai:x:9", "Tin", "Soft."), ("doi:10.1000/z", "Tin", "Soft."), ("pmid:5", "Tin", "Soft."),
    ]  # fmt: skip
    assert [s.heading for s in found[2].sections] == ["Methods"]
    marc, other = found[3:]
    assert marc.message == oai.MARC
    assert other.message.startswith("oai:x:9: ")
    assert other.message.endswith(" (epicur)")


# ---------------------------------------------------------------------------------------------------------- Atom


ENTRY = """<entry><id>http://arxiv.org/abs/cond-mat/0101001v3</id><title>Tin &amp; lead</title>
<summary>  One line
and more.
  Two.</summary><category term="math.AG" scheme="x"/><arxiv:primary_category term="physics.chem-ph"/>
<arxiv:comment>9 pages</arxiv:comment><arxiv:doi>10.1000/Q</arxiv:doi></entry>"""
ERROR = """<entry><id>https://arxiv.org/api/errors#bad</id><title>Error</title><summary>bad
id</summary></entry>"""


def feed(*entries):
    return (
        '<?xml version="1.0"?><feed xmlns:arxiv="http://arxiv.org/schemas/atom" xmlns="http://www.w3.org/2005/Atom">'
        f"<id>https://arxiv.org/api/x</id><title>arXiv Query</title>{''.join(entries)}</feed>"
    )


def test_a_feed_its_errors_and_its_replies():
    for content in (feed(ENTRY, ERROR), json.dumps({"body": feed(ENTRY, ERROR)}), reprefixed(feed(ENTRY, ERROR))):
        assert atom.recognise(content)
        assert not oai.recognise(content)
        paper, error = read(atom, content)
        assert (paper.id, paper.title, paper.doi) == ("arxiv:cond-mat/0101001", "Tin & lead", "10.1000/q")
        assert (paper.abstract, paper.discipline) == ("One line\nand more.\n\nTwo.", "Chemistry")
        assert error.message.endswith(" error: bad id")
    lines = [{"body": feed()}, {"status_code": 500}, {"body": feed(ENTRY)}, {"body": feed(ENTRY[:90])}]
    found = read(atom, "\n".join(map(json.dumps, lines)))
    empty, not_xml, paper, cut = (r.message if isinstance(r, Unread) else r.id for r in found)
    assert (empty, paper) == (atom.NO_ENTRY, "arxiv:cond-mat/0101001")
    assert "no XML" in not_xml
    assert "no </entry>" in cut


def test_escapes_of_other_json_writers_and_feeds_of_others():
    assert atom.recognise('{"a": "<b>", "body": "\\n\\u003c?xml version=\\"1.0\\"?>\\u003cfeed id=\\"arxiv.org\\">"}')
    assert not atom.recognise('<feed xmlns="http://www.w3.org/2005/Atom"><title>News of the day</title></feed>')
    assert not oai.recognise("<records><record><title>T</title></record></records>")


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_names_cut_by_the_seam_of_two_chunks(monkeypatch, chunk):
    monkeypatch.setattr(elements, "CHUNK_CHARS", chunk)
    monkeypatch.setattr(replies, "HEAD_BYTES", chunk)
    assert read(atom, reprefixed(feed(ENTRY)))[0].doi == "10.1000/q"
    found = read(oai, answer('<error code="a"/>', "") + answer(record(ARXIV)))
    assert [type(r) for r in found] == [Unread, Document]


# ---------------------------------------------------------------------------------------------------------- all


HOSTILE = [
    "<OAI-PMH>" + "<record " * 120_000,
    "<OAI-PMH><record>" + "<a" * 500_000,
    "<OAI-PMH><record><" + "a" * 999_000 + ":b>",
    "<feed>arxiv.org" + "<entry>" * 120_000,
    '["' + '\\"' * 500_000 + "\\",
    "[" + '"<a' * 300_000,
    '{"title": "' + "\\n  " * 200_000 + '", "id": "' + "a-" * 200_000 + '"}',
    "{" * 1_000_000,
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.timed
def test_a_megabyte_made_to_be_slow(content):
    for reader in (arxiv, oai, atom, conference):
        started = time.process_time()
        reader.recognise(content[:65_536])
        assert read(reader, content) or reader is arxiv
        assert time.process_time() - started < 5


WHOLE = answer(record(ARXIV) + record(RAW) + dublin_core("<dc:title>T</dc:title>")) + feed(ENTRY, ERROR)


@given(st.integers(0, len(WHOLE)), st.integers(0, 300), st.text(alphabet='<>/&;"\\{}[]:x é\n', max_size=12))
@hypothesis(max_examples=60, deadline=None)
def test_damage_never_raises_and_never_loses_a_record(start, length, put):
    damaged = "<!---->" + WHOLE[:start] + put + WHOLE[start + length :]
    for content in (damaged, json.dumps({"body": damaged})):
        for reader, tag in ((oai, "<record>"), (atom, "<entry>")):
            reader.recognise(content)
            assert len(read(reader, content)) >= damaged.count(tag)


@given(st.text(), st.sampled_from(["", "<", "<OAI-PMH><record>", '{"body": "<feed>', '{"title": ', '[{"notes": [']))
@hypothesis(max_examples=60, deadline=None)
def test_any_text_is_read_without_raising(text, begun):
    content = begun + text
    for reader in (arxiv, oai, atom, conference):
        if content.strip():
            reader.recognise(content.lstrip("\ufeff \t\r\n") or "x")
        assert all(isinstance(r, Document | Unread) for r in read(reader, content))


def test_no_file_is_two_readers_own():
    heads = {
        arxiv: '{"id": "2501.00001", "title": "t", "abstract": "a"}',
        oai: answer(record(ARXIV)),
        atom: feed(ENTRY),
        conference: '{"notes": [{"content": {"title": "t", "abstract": "a"}}]}',
        jats: "<article><front></front></article>",
        pubmed: "<PubmedArticleSet></PubmedArticleSet>",
    }
    for head in heads.values():
        assert [r for r in heads if r.recognise(head)] == [r for r, own in heads.items() if own == head]
