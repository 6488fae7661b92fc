"""Workbooks and HTML tables: which sheet and row hold papers, and what a hostile file costs."""

import csv
import io
import signal
import sys
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from xml.sax.saxutils import escape

import pytest

from nsllm_lite.corpus.files import streams, webtables, workbooks
from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.sources import excel
from tests.corpus.sources.reading import DATA, read, read_path, titles
from tests.raising import raises

SEEDS = DATA.parents[1] / "faults/seeds/read/excel"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def xlsx(**sheets):
    """A workbook of sheets, each a list of rows or the XML of its rows."""
    texts = {
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r" '
        f'Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>'
        + "".join(f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(sheets, 1))
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
        + "".join(
            f'<Relationship Id="r{n}" Type="{OFFICE}/worksheet" Target="worksheets/{name}.xml"/>'
            for n, name in enumerate(sheets, 1)
        )
        + "</Relationships>",
    }
    for name, rows in sheets.items():
        body = rows if isinstance(rows, str) else "".join(map(_row, rows))
        texts[f"xl/worksheets/{name}.xml"] = f'<worksheet xmlns="{MAIN}"><sheetData>{body}</sheetData></worksheet>'
    with zipfile.ZipFile(content := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    return content.getvalue()


def _row(cells):
    return "<row>" + "".join(f'<c t="inlineStr"><is><t>{cell}</t></is></c>' for cell in cells) + "</row>"


HEADER = ["Title", "Abstract", "DOI"]
PAPERS = [HEADER, ["Tin", "It grows.", "10.1000/a"], ["", "", ""], HEADER, ["Lead", "It creeps.", ""]]


def read_book(tmp_path, content, name="x.xlsx", **changes):
    (tmp_path / name).write_bytes(content)
    return read_path(tmp_path / name, **changes)


def test_each_sheet_is_read_from_its_own_header(tmp_path):
    """Whatever stands above it; a sheet without papers is a line of the ledger, an empty one is nothing."""
    other = [["About the data"], ["Abstract", "Title", "Year"], ["It melts.", "Zinc", "2001"]]
    found = read_book(tmp_path, xlsx(one=PAPERS, two=other, three=[["Notes"], ["Buy tin"]], four=[]))
    assert titles(found) == ["Tin", "Lead", "Zinc", "not_this_format"]
    assert [record.origin for record in found] == ["x.xlsx/one#1", "x.xlsx/one#2", "x.xlsx/two#1", "x.xlsx/three#0"]
    assert [found[0].doi, found[2].abstract, found[2].date] == ["10.1000/a", "It melts.", "2001"]
    assert "'three'" in found[3].message
    assert "'Notes'" in found[3].message


def test_a_workbook_may_be_packed_and_have_names_of_the_users_own(tmp_path):
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        archive.writestr("a/b.xlsx", xlsx(one=PAPERS))
        archive.writestr("xl/notes.csv", "title,abstract\nZinc,It melts.\n")
    assert titles(read_book(tmp_path, packed.getvalue(), "papers.zip")) == ["Tin", "Lead", "Zinc"]
    own = xlsx(one=[["my papers"], ["headline", "summary", "n"], ["Tin", "It grows.", "1"]])
    assert "headline" not in titles(read_book(tmp_path, own))
    (found,) = read_book(tmp_path, own, form="fields", fields={"title": "headline", "abstract": "summary"})
    assert (found.title, found.abstract) == ("Tin", "It grows.")
    (absent,) = read_book(tmp_path, own, form="fields", fields={"title": "head", "abstract": "text"})
    assert absent.reason == "not_this_format"


def test_an_opendocument_sheet_is_a_workbook_too(tmp_path):
    kind, urn = "application/vnd.oasis.opendocument.spreadsheet", "urn:oasis:names:tc:opendocument:xmlns"
    names = "".join(f' xmlns:{name}="{urn}:{name}:1.0"' for name in ("office", "table", "text", "manifest"))
    cell = '<table:table-cell office:value-type="string"><text:p>{}</text:p></table:table-cell>'
    rows = "".join(f"<table:table-row>{''.join(map(cell.format, row))}</table:table-row>" for row in PAPERS)
    sheet = f'<office:spreadsheet><table:table table:name="one">{rows}</table:table></office:spreadsheet>'
    entry = f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{kind}"/>'
    with zipfile.ZipFile(content := io.BytesIO(), "w") as archive:
        archive.writestr("mimetype", kind)
        body = f"<office:body>{sheet}</office:body>"
        archive.writestr("content.xml", f"<office:document-content{names}>{body}</office:document-content>")
        archive.writestr("META-INF/manifest.xml", f"<manifest:manifest{names}>{entry}</manifest:manifest>")
    assert titles(read_book(tmp_path, content.getvalue(), "x.ods")) == ["Tin", "Lead"]


@pytest.mark.parametrize("name", ["stated-scopus.csv", "stated-cnki.csv", "stated-dimensions.csv", "stated-wos.txt"])
def test_a_databases_table_gives_the_same_papers_as_a_workbook(tmp_path, name):
    """Scopus, CNKI, Dimensions and Web of Science: all that the table states of them."""
    path = SEEDS.with_name("table") / name
    text = path.read_text(encoding="gb18030" if "cnki" in name else "utf-8-sig")
    rows = [
        [escape(cell) for cell in row] for row in csv.reader(io.StringIO(text), delimiter=",\t"[name.endswith("txt")])
    ]
    expected = read_path(path)
    found = read_book(tmp_path, xlsx(one=rows))
    assert [replace(one, origin="") for one in found] == [replace(one, origin="") for one in expected]
    assert all(one.abstract and one.authors and one.date for one in found)
    assert found


def test_dates_and_numbers_are_read_as_they_are_shown(tmp_path):
    first, second = read_path(SEEDS / "stated-wos.xls")
    assert (first.id, first.date, second.id, second.date) == (
        "doi:10.1000/tin.9",
        "2019-03-12",
        "pmid:12345678",
        "2018",
    )
    (found,) = read_path(SEEDS / "valid-dimensions.xlsx")
    assert (found.id, found.date) == ("pmid:9", "2019-03-12")


FAR = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'  # 512 GiB
DEEP = "<row><c t='inlineStr'><is><t>" + "a" * (1 << 24) + "bcd</t></is></c></row>"


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (xlsx(far=FAR), "unreadable_file", "save it as CSV"),
        (xlsx(one=DEEP), "unreadable_file", "longer than 16 Mi characters"),
        (xlsx(one=PAPERS)[:-60], "unreadable_file", ""),
        (workbooks.COMPOUND + bytes(600), "not_this_format", "no workbook that can be read"),
        (xlsx(one="<row><c>"), "unreadable_file", "the sheet cannot be read"),
    ],
    ids=range(5),
)
def test_what_ends_its_reading_costs_the_file_alone(tmp_path, content, reason, words):
    found = read_book(tmp_path, content)
    assert all(isinstance(record, Unread) for record in found)
    assert found[-1].reason == reason
    assert words in found[-1].message


def test_sheets_before_a_hostile_one_are_kept(tmp_path):
    assert titles(read_book(tmp_path, xlsx(one=PAPERS, far=FAR))) == ["Tin", "Lead", "unreadable_file"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, "reader-killed"), (signal.SIGXCPU, "")])
def test_a_process_that_is_killed_from_outside_is_no_fault_of_its_file(tmp_path, monkeypatch, sent, code):
    """One that used up its time is."""
    (tmp_path / "end.py").write_text(f"import os\nos.kill(os.getpid(), {int(sent)})\n")
    monkeypatch.setattr(workbooks, "COMMAND", [sys.executable, str(tmp_path / "end.py")])
    with raises(code) if code else nullcontext():
        assert titles(read_book(tmp_path, xlsx(one=PAPERS))) == ["unreadable_file"]


def test_html_tables():
    (found,) = read_path(SEEDS / "stated-cnki.xls")
    assert found.title == "铜上的锡须"
    assert "Cu<sub>6</sub>Sn<sub>5</sub>\xa0膜，\n" in found.abstract  # for the cleaning of texts
    page = "<table><tr><td>Title<td>Abstract</tr><TR><td><p>Tin &lt; 1</p><td>It<br>grows.<td></TR><tr><td>a<td>b<td>c"
    tin, long = read(excel, page)
    assert (tin.title, tin.abstract) == ("Tin < 1", "It\ngrows.")
    assert "a row has 3 cells, the header has 2" in long.message
    assert not excel.recognise("<html><body><p>News</p><table><tr><td>Title</td><td>Price</td></tr></table>")
    assert titles(read(excel, "<table><tr><td>a</td></tr></table>")) == ["unreadable"]


@pytest.mark.parametrize("chars", [1, 7, 64, 1 << 20])
def test_rows_are_the_same_however_a_file_comes_in_pieces(monkeypatch, chars):
    monkeypatch.setattr(webtables, "CHUNK_CHARS", chars)
    text = "<p>x</p>" * 20 + "<table><tr id=1><td>a</td><td class='x'>b</td></tr>\n<tr><th>c</th></tr></table>"
    assert list(webtables.iter_rows(io.StringIO(text))) == [["a", "b"], ["c"]]


def test_a_row_without_an_end_has_a_bound(monkeypatch):
    monkeypatch.setattr(webtables, "MAX_ROW_CHARS", 10_000)
    monkeypatch.setattr(webtables, "CHUNK_CHARS", 1_000)
    text = "<tr><td>" + "a" * 30_000 + "<tr><td>b</td></tr>"
    *messages, last = webtables.iter_rows(io.StringIO(text))
    assert len(messages) == 1
    assert last == ["b"]


def test_a_long_text_in_many_rows_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 16)
    monkeypatch.setattr(streams, "MAX_RATIO", 2)
    *papers, line = read_book(tmp_path, xlsx(one=[HEADER, *([f"T{n}", "a" * 5_000, ""] for n in range(40))]))
    assert [paper.title for paper in papers] == [f"T{n}" for n in range(13)]
    assert "nothing is read from here on" in line.message
