"""Whatever bytes a file holds: no reader raises, none takes long, and each file ends in at least one line."""

import gzip
import io
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsllm_lite import recipe
from nsllm_lite.corpus import sources
from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.texts import clean
from nsllm_lite.document import Document

PLAIN = settings(max_examples=40, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])


def parquet():
    sink = io.BytesIO()
    pq.write_table(pa.table({"title": ["T", "U"], "abstract": ["A b.", "C d."], "doi": ["10.1234/x", None]}), sink)
    return sink.getvalue()


def packed():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", VALID["arxiv"])
        archive.writestr("b/main.tex", VALID["latex"])
    return sink.getvalue()


VALID = {
    "arxiv": b'{"id": "2501.00001", "title": "T", "abstract": "A"}\n{"id": "2501.00002", "title": "U", "abstract": ""}',
    "oai": b"<OAI-PMH><ListRecords><record><metadata><arXiv><id>2501.00001</id><title>T</title><abstract>A</abstract>"
    b"</arXiv></metadata></record></ListRecords></OAI-PMH>",
    "atom": b'<feed xmlns="http://www.w3.org/2005/Atom"><entry><id>http://arxiv.org/abs/2501.00001v1</id><title>T</title>'
    b"<summary>A</summary></entry></feed>",
    "pubmed": b"<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>T</ArticleTitle>"
    b"<Abstract><AbstractText>A</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle></PubmedArticleSet>",
    "jats": b"<article><front><article-meta><article-id pub-id-type='doi'>10.1234/x</article-id><title-group>"
    b"<article-title>T</article-title></title-group><abstract><p>A</p></abstract></article-meta></front>"
    b"<body><sec><title>Methods</title><p>M <sup>2</sup></p></sec></body></article>",
    "tei": b"<TEI><teiHeader><fileDesc><titleStmt><title>T</title></titleStmt></fileDesc></teiHeader><text><body><div>"
    b"<head n='1'>Methods</head><p>M</p></div></body></text></TEI>",
    "wos": b"FN Clarivate\nVR 1.0\nPT J\nTI T\nAB A\n   more\nUT WOS:000000000000001\nER\n\nEF",
    "ris": b"TY  - JOUR\nTI  - T\nAB  - A\nDO  - 10.1234/x\nER  - \n",
    "bibtex": b"@article{k, title = {T {B}}, abstract = {A}, doi = {10.1234/x}}\n",
    "medline": b"PMID- 1\nTI  - T\nAB  - A\n      more\n\nPMID- 2\nTI  - U\nAB  - B\n",
    "table": b'pmid,title,abstract\n1,T,"A, b"\n2,U,C\n',
    "latex": b"\\documentclass{article}\\newcommand{\\x}{y}\\title{T}\\begin{document}\\begin{abstract}A\\end{abstract}"
    b"\\section{Methods}M $\\x$ \\cite{a}.\\end{document}",
    "conference": b'{"notes": [{"id": "x", "content": {"title": {"value": "T"}, "abstract": {"value": "A"}}}]}',
    "s2orc": json.dumps({
        "paper_id": "1", "metadata": {"title": "T"}, "abstract": [{"text": "A"}],
        "body_text": [{"section": "Methods", "text": "M", "cite_spans": []}],
    }).encode(),
    "unarxive": json.dumps({
        "paper_id": "2501.00001", "_source_name": "2501.00001.gz", "metadata": {"title": "T"}, "bib_entries": {},
        "abstract": {"text": "A"},
        "body_text": [{"section": "Methods", "content_type": "paragraph", "text": "M {{formula:x}}"}],
        "ref_entries": {"x": {"type": "formula", "latex": "y"}},
    }).encode(),
    "text": b"Once upon a time.\n\n = Heading = \n\nThere was @-@ a king.",
}  # fmt: skip
VALID |= {"gzip": gzip.compress(VALID["pubmed"]), "zip": packed(), "parquet": parquet()}


def read(path, content, general=False, form="auto"):
    path.write_bytes(content)
    source = recipe.Source(name="s", path=str(path), format=form)
    found = [r for file in sources.files_of(source) for r in sources.read(source, file, general)]
    assert found, "a file without a line"
    for record in found:
        assert isinstance(record, Unread | Document)
        if isinstance(record, Document):
            clean.clean_document(record)
        else:
            assert record.reason
            assert record.message
    return found


@pytest.mark.parametrize("form", [f for f in VALID if f not in ("gzip", "zip", "parquet")])
def test_each_example_is_read_by_its_own_reader(tmp_path, form):
    found = read(tmp_path / "x", VALID[form], general=form == "text")
    assert all(isinstance(record, Document) for record in found)
    forced = read(tmp_path / "x", VALID[form], form=form)
    assert [r.id for r in forced] == [r.id for r in found]


@PLAIN
@given(content=st.binary(max_size=400), general=st.booleans())
def test_any_bytes(tmp_path, content, general):
    read(tmp_path / "x", content, general)


@pytest.mark.parametrize("form", VALID)
@settings(PLAIN, max_examples=25)
@given(data=st.data())
def test_a_valid_file_with_bytes_changed_lost_or_added(tmp_path, form, data):
    content = bytearray(VALID[form])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        kind = data.draw(st.sampled_from(["cut", "drop", "add", "flip", "twice"]))
        if kind == "cut":
            content = content[:place]
        elif kind == "drop":
            del content[place : place + data.draw(st.integers(1, 9))]
        elif kind == "add":
            content[place:place] = data.draw(st.binary(max_size=9))
        elif kind == "flip" and place < len(content):
            content[place] ^= data.draw(st.integers(1, 255))
        elif kind == "twice":
            content += content[place:]
        content = content or bytearray(b" ")
    read(tmp_path / "x", bytes(content), general=form == "text")
    if form in sources.READERS:
        read(tmp_path / "x", bytes(content), form=form)
