"""PDFs as files: how one is known, what names the paper, and a reading process that a hostile file ends."""

import io
import json
import os
import signal
import time
import zipfile
import zlib

import pyarrow.parquet as pq
import pytest

from bench import pdf as bench
from nsllm_lite.corpus import build
from nsllm_lite.corpus.files.pdf.characters import PdfError
from nsllm_lite.corpus.files.pdf.worker import WORKER, Worker
from nsllm_lite.corpus.sources import detect, pdf
from nsllm_lite.recipe.corpus import Corpus
from tests.corpus.small import digests, prose, values, write_sources
from tests.corpus.sources.printing import Piece, pdf_of, printed, stream
from tests.corpus.sources.reading import read_path, titles
from tests.corpus.sources.test_sources_pdf import ABSTRACT, begun, filled
from tests.raising import raises

PRISM = (
    b"<x:xmpmeta><prism:doi>10.1234/TIN.9</prism:doi><prism:publicationName>J Tin</prism:publicationName></x:xmpmeta>"
)


def a_paper(**how):
    return filled(begun()).pdf(**how)


def read_bytes(content, name="paper"):
    return next(pdf.read(io.BytesIO(content), "s", name))


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\r\n \0", b"\x01\x02 mac \0"])
def test_a_pdf_is_known_by_its_first_bytes(tmp_path, before):
    (tmp_path / "paper").write_bytes(before + a_paper())
    assert [paper.title for paper in read_path(tmp_path / "paper", form="latex")] == ["Growth of whiskers on tin"]


def test_other_files_are_no_pdf(tmp_path):
    assert detect(b'{"text": "%PDF-1.4"}', "o", "x", True) == "text"
    (tmp_path / "x.pdf").write_text("<!DOCTYPE html><html><body>A paper</body></html>")
    assert "an HTML page" in read_path(tmp_path / "x.pdf")[0].message
    assert titles(read_path(tmp_path / "x.pdf", form="pdf")) == ["not_this_format"]


def test_pdfs_in_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "papers.zip", "w") as archive:
        archive.writestr("a/1", a_paper())
        archive.writestr("a/2.pdf", a_paper()[:300])
    first, second = read_path(tmp_path / "papers.zip")
    assert (first.title, first.origin) == ("Growth of whiskers on tin", "papers/a/1#1")
    assert (second.reason, second.message[:4]) == ("broken", "PDF:")


def test_what_names_a_paper():
    stamped = begun().heading("1. Methods").prose(prose(1, 60))
    stamp = b"BT /body 12 Tf 0 1 -1 0 20 200 Tm (arXiv:2001.00001v2 [cs.LG] 2 Jan 2020) Tj ET"
    content = stamped.pdf().replace(b"\nendstream", b"\n" + stamp + b"\nendstream", 1)
    found = read_bytes(content)
    assert (found.id, found.date) == ("arxiv:2001.00001", "2019-03-03")
    packet = read_bytes(a_paper() + PRISM)
    assert (packet.id, packet.venue) == ("doi:10.1234/tin.9", "J Tin")
    assert read_bytes(a_paper()).id == "doi:10.1234/tin.1"
    assert read_bytes(a_paper(), "papers/2001.00002v1.pdf").id == "arxiv:2001.00002"
    assert packet.abstract == ABSTRACT


def test_values_of_the_packet_are_xml():
    packet = PRISM.replace(b"TIN.9", b"1(2)1:TIN&lt;9&gt;2.0;2-#").replace(b"J Tin", b"Tin &amp; Lead")
    found = read_bytes(a_paper() + packet)
    assert (found.id, found.venue) == ("doi:10.1234/1(2)1:tin<9>2.0;2-#", "Tin & Lead")


def test_a_paper_without_sections_keeps_its_abstract_and_other_text_is_none():
    lone = begun(label="Summary")
    assert (read_bytes(lone.pdf()).abstract, read_bytes(lone.pdf()).sections) == (ABSTRACT, ())
    letter = printed(
        [[Piece(50, 700 - 12 * n, line) for n, line in enumerate(["Dear Ann,", prose(1, 9), prose(2, 9)])]]
    )
    assert read_bytes(letter).reason == "not_a_paper"


def test_the_score_of_a_paper(tmp_path):
    names = [f"bmc_{n}.pdf" for n in range(6)]
    truth = {"title": "Growth of whiskers on tin", "abstract": ABSTRACT, "sections": []}
    headings = ("Introduction", "Methods", "Results")
    truth["sections"] = [[[], heading, prose(n, 110)] for n, heading in enumerate(headings)]
    for name in names:
        (tmp_path / name).write_bytes(a_paper())
        (tmp_path / name).with_suffix(".truth.json").write_text(json.dumps(truth))
    parts = [bench.papers(tmp_path, which) for which in ("looked-at", "aside")]
    assert sorted(path.name for part in parts for path in part) == names
    assert [len(part) for part in parts] == [3, 3]
    found, _ = bench.read(tmp_path / names[0])
    assert {value for key, value in bench.score(found, truth).row.items() if "," not in key} == {1.0}
    truth["sections"][1][2] += " seals" * 110
    scores = bench.score(found, truth).row
    assert (scores["m+r P"], scores["m+r R"]) == (1.0, pytest.approx(2 / 3, abs=0.01))


def laughs():
    """Forms that draw the next one ten times, ten deep."""
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources 5 0 R >>",
        5: b"<< /XObject << /x 10 0 R >> >>",
        4: stream(b"/x Do " * 10),
        20: b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier >>",
    }
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << %s >>"
    objects[21] = stream(b"BT /f 9 Tf (ha) Tj ET", form % b"/Font << /f 20 0 R >>")
    for n in range(10, 20):
        objects[n] = stream(b"/x Do " * 10, form % (b"/XObject << /x %d 0 R >>" % (21 if n == 19 else n + 1)))
    return pdf_of(objects)


def bomb(mib):
    """A page whose content is so many MiB of blanks and one word."""
    packer = zlib.compressobj()
    packed = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(mib)) + packer.flush()
    content = printed([b"?"])
    return content.replace(stream(b"?"), stream(packed, b"/Filter /FlateDecode"))


@pytest.fixture
def strict():
    worker = Worker(cpu_s=1, memory_bytes=1 << 27)
    yield worker
    worker.close()


@pytest.mark.processes
@pytest.mark.parametrize("hostile", [laughs, lambda: bomb(300)], ids=["laughs", "bomb"])
def test_a_hostile_file_ends_alone(strict, hostile):
    started = time.monotonic()
    assert strict.read(a_paper())["title"] == "Growth of whiskers on tin"
    with pytest.raises(PdfError) as error:
        strict.read(hostile())
    assert error.value.reason == "too_large"
    assert strict.read(a_paper())["title"] == "Growth of whiskers on tin"
    assert time.monotonic() - started < 60


def test_a_process_that_is_killed_is_started_anew(strict):
    strict.read(a_paper())
    os.kill(strict._process.pid, signal.SIGSEGV)
    strict._process.wait()
    with pytest.raises(PdfError, match="SIGSEGV") as error:
        strict.read(a_paper())
    assert error.value.reason == "broken"
    assert strict.read(a_paper())["abstract"] == ABSTRACT
    assert WORKER is not strict


def test_one_that_is_killed_from_outside_ends_the_run_and_drops_no_file(strict):
    strict.read(a_paper())
    os.kill(strict._process.pid, signal.SIGKILL)
    strict._process.wait()
    with raises("reader-killed"):
        strict.read(a_paper())
    assert strict.read(a_paper())["abstract"] == ABSTRACT


def test_a_library_that_is_absent_is_no_fault_of_a_file(monkeypatch):
    monkeypatch.setattr("nsllm_lite.corpus.files.pdf.worker.find_spec", lambda _: None)
    with raises("pdfium-missing"):
        Worker().read(a_paper())


@pytest.mark.processes
def test_the_other_source_of_a_paper_is_kept_for_any_number_of_workers(tmp_path):
    folder = tmp_path / "pdf"
    folder.mkdir()
    for number in range(6):
        sheets = begun(title=f"Whiskers of tin {number}", doi=f"10.1234/tin.{number}")
        for n, heading in enumerate(("1. Introduction", "2. Methods", "3. Results")):
            sheets.heading(heading).prose(prose(10 * number + n, 60))
        (folder / f"{number}.pdf").write_bytes(sheets.pdf())
    article = (
        '<article><front><article-meta><article-id pub-id-type="doi">10.1234/tin.3</article-id><title-group>'
        f"<article-title>Whiskers of tin 3</article-title></title-group><abstract><p>{ABSTRACT}</p></abstract>"
        f"</article-meta></front><body><sec><title>Methods</title><p>{prose(31, 60)}</p></sec></body></article>"
    )
    (tmp_path / "jats.xml").write_text(article)
    sources = [
        *write_sources(tmp_path),
        {"name": "pdf", "path": str(folder)},
        {"name": "jats", "path": str(tmp_path / "jats.xml")},
    ]
    made = []
    for workers in (1, 2):
        chosen = {**values(tmp_path, f"out{workers}", sources), "max_drop_share": 1, "near_duplicate_jaccard": 1.0}
        build.build(Corpus(**chosen, execution={"workers": workers}))
        made.append(tmp_path / f"out{workers}")
    lines = pq.read_table(made[0] / "ledger.parquet").to_pylist()
    assert {(line["source"], line["reason"]) for line in lines if line["id"] == "doi:10.1234/tin.3"} >= {
        ("pdf", "same_id")
    }
    assert digests(made[0]) == digests(made[1])
