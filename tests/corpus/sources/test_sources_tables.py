"""Tables as their programs and their users really write them, and records with a map of their fields."""

import csv
import io
import json
import random
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsllm_lite.corpus.files import parquet, streams, tables
from nsllm_lite.corpus.files.opening import NOT_THIS_FORMAT, UNREADABLE, UNREADABLE_FILE, Unread
from nsllm_lite.corpus.sources import fields, table, wos
from nsllm_lite.formats.documents import Document
from nsllm_lite.recipe.corpus import Fields
from tests.corpus.sources.reading import damaged, example, read

WOS = "PT\tAU\tTI\tLA\tAB\tDI\tSC\tUT\tPM"
PAPERS = Fields(title="headline", abstract="body.summary", id="uid", doi="doi", discipline="area", language="la")


def rows(content):
    return list(tables.iter_rows(io.StringIO(content)))


def cells(content):
    return [list(row.values()) if isinstance(row, dict) else row for row in rows(content)]


def mapped(content, by=PAPERS):
    return list(fields.read(io.StringIO(content), by, "s", "f"))


def as_parquet(columns, **options):
    file = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), file, **options)
    file.seek(0)
    return file


def read_parquet(file, by=None):
    return list(fields.read_parquet(file, by, "s", "f"))


# ------------------------------------------------------------------------------------------------------------ rows


@pytest.mark.parametrize("delimiter", list(tables.DELIMITERS))
def test_the_delimiter_is_found_and_quotes_hold_it_and_line_ends(delimiter):
    content = f'id{delimiter}"a{delimiter} b, c; d"\n1{delimiter}"x{delimiter}\n\n""y"" | ; ,"\n\n2{delimiter}\n'
    first, second = rows(content)
    assert first == {"id": "1", f"a{delimiter} b, c; d": f'x{delimiter}\n\n"y" | ; ,'}
    assert list(second.values()) == ["2", ""]


def test_a_tab_file_without_quoting_keeps_its_quotes_and_all_its_rows():
    content = 'a\tb\tc\n1\t"Tin" and "lead"\t3\t\n2\t"unclosed\t4\n3\t"whole"\t5\t\n4\t"has ""doubled"" ones"\t6\n'
    assert [row[1] for row in cells(content)] == ['"Tin" and "lead"', '"unclosed', "whole", 'has "doubled" ones']


def test_what_does_not_fit_the_header_is_a_message_and_not_a_guess():
    assert cells("a,b\n1,2\n3\n4,5,6\n7,8,\n") == [
        ["1", "2"],
        "the row at line 3 has 1 cells, the header has 2",
        "the row at line 4 has 3 cells, the header has 2",
        "the row at line 5 has 3 cells, the header has 2",  # may be a comma that was not quoted
    ]
    assert cells("a,b\n1,2,\n3,4,\n5,6,7\n")[:2] == [["1", "2"], ["3", "4"]]  # here every row ends with a comma
    assert "has 3 cells" in cells("a,b\n1,2,\n3,4,\n5,6,7\n")[2]


def test_an_unclosed_quote_costs_its_row_at_most():
    after = "".join(f'{n},"good, yes",{n}\n' for n in range(50)) + "".join(f"{n},plain,{n}\n" for n in range(50))
    lost, *rest = cells(f'a,b,c\n1,"x, y, z\n{after}')
    assert lost == f"the row at line 2: {tables.BROKEN_QUOTE}"
    assert len(rest) == 100
    assert all(isinstance(row, list) for row in rest)
    kept, *rest = cells(f'a,b,c\n1,"x,y\n{after}')  # without commas in it nothing is lost at all
    assert (kept, len(rest)) == (["1", '"x', "y"], 100)
    *rest, lost = cells(f'a,b,c\n{after}1,"x, y, z\nand')
    assert (len(rest), lost) == (100, f"the row at lines 102 to 103: {tables.BROKEN_QUOTE}")
    no_quotes = "".join(f"{n},plain,{n}\n" for n in range(99)) + "short,row\n"
    lost, *rest = cells(f'a,b,c\n1,"x, y, z\n{no_quotes}')
    assert [isinstance(row, list) for row in rest] == [True] * 99 + [False]


def test_quotes_that_were_not_doubled_are_text_where_the_row_still_fits():
    content = 'a,b,c\n1,"she said "hi, you" there",3\n2,"one\nand "two" and\nthree",4\n'
    assert cells(content) == [["1", 'she said "hi, you" there', "3"], ["2", 'one\nand "two" and\nthree', "4"]]
    assert cells('a, b\n1, "x, y" \n') == [["1", "x, y"]]  # blanks around quotes


def test_a_row_too_long_is_one_message(monkeypatch):
    monkeypatch.setattr(tables, "MAX_RECORD_CHARS", 1 << 10)
    lines = "".join(f"line {n} of a long cell\n" for n in range(500))
    whole, cell, line, last = cells(f'a,b\n0,1\n1,"{lines}"\n2,{"x" * 9_000}\n3,4\n')
    assert (whole, last) == (["0", "1"], ["3", "4"])
    assert cell == "the row at lines 3 to 503 is longer than 0 Mi characters"
    assert line == "line 504 is longer than 0 Mi characters"


def test_headers_as_they_come():
    assert rows("\ufeff\r\nsep=;\r\na;b\r\n1;2,3\r\n") == [{"a": "1", "b": "2,3"}]
    assert rows("a,a,\n1,2,3\na,a,\n4,5,6\n") == [
        {"a": "1", "a (2)": "2", "": "3"}, {"a": "4", "a (2)": "5", "": "6"},
    ]  # fmt: skip
    assert rows('text\n"one, two"\nthree\n') == [{"text": "one, two"}, {"text": "three"}]
    assert rows("") == rows("a,b\n") == []
    assert "header" in rows('"never closed\n1,2')[0]


# ---------------------------------------------------------------------------------------------------------- papers


def test_columns_are_known_by_their_names():
    (pubmed,) = read(table, example("pubmed.csv"))
    assert (pubmed.id, pubmed.title, pubmed.abstract) == ("pmid:41", "T", "")
    plain, nameless = read(table, example("scopus.csv"))
    assert (plain.id, plain.doi, plain.language) == ("doi:10.1234/x.1", "10.1234/x.1", "en")
    assert (nameless.id, nameless.abstract) == ("scopus:2-s2.0-1", "")
    (kaggle,) = read(table, example("kaggle.csv"))
    assert (kaggle.id, kaggle.discipline) == ("arxiv:2001.00001", "Computer Science")
    (semantic,) = read(table, example("semantic_scholar.csv"))
    assert (semantic.id, semantic.origin, semantic.discipline) == ("s:f#1", "f#1", "Materials Science")


def test_web_of_science_tab_rows():
    content = f'{WOS}\t\nJ\tIto\t"Tin" and "whiskers"\tEnglish\tThey "grow".\t10.1234/A\tChemistry\tWOS:01\t7\t\n'
    content += "J\tIto\tLead\t\t\t\t\tWOS:02\t\t\nJ\tIto\tGold\t\t\t\t\tMEDLINE:8\t\nJ\tcut\n"
    tin, lead, gold, cut = read(table, content)
    assert (tin.id, tin.title, tin.discipline) == ("pmid:7", '"Tin" and "whiskers"', "Chemistry")
    assert (tin.doi, tin.language, tin.abstract) == ("10.1234/a", "en", 'They "grow".')
    assert (lead.id, gold.id) == ("wos:02", "pmid:8")
    assert (cut.origin, cut.reason) == ("f#4", UNREADABLE)


def test_a_table_read_by_force_without_titles_counts_its_rows():
    rows = read(table, "a,b\n1,2\n3,4\n")
    assert [r.origin for r in rows] == ["f#1", "f#2"]
    assert all(r.message.endswith(" a, b") for r in rows)


# ---------------------------------------------------------------------------------------------------------- fields


def test_a_map_of_fields_reads_json_lines_arrays_and_tables_alike():
    first = {"uid": "7", "headline": "T", "body": {"summary": ["B", None, "C"]}, "doi": "doi:10.1234/X", "area": ["x"]}
    second = {"uid": 8, "headline": "U", "body": None, "la": "EN", "body.summary": None}
    one, two, broken = mapped("\n" + json.dumps(first) + "\n" + json.dumps(second) + '\n{"uid": \n')
    assert one == Document(
        "doi:10.1234/x", "s", "f#1", "T", "B\n\nC", discipline="x", doi="10.1234/x",
    )  # fmt: skip
    assert (two.id, two.abstract, two.language, broken.reason) == ("s:8", "", "en", UNREADABLE)
    assert mapped(json.dumps([first, second], indent=1)) == [one, two]
    content = 'uid,headline,body.summary,doi,area,la\n7,T,"B\n\nC",doi:10.1234/X,x,\n8,U,,,,EN\n'
    assert mapped(content) == mapped(content.replace(",", "\t")) == [one, two]


def test_ids_of_the_users_own_are_known_for_what_they_are():
    names = ["arXiv:2001.00001v3", "PMID: 12", "https://doi.org/10.1234/A", "x-1", None]
    found = mapped("".join(json.dumps({"t": "text", "i": name}) + "\n" for name in names), Fields(text="t", id="i"))
    assert [d.id for d in found] == ["arxiv:2001.00001", "pmid:12", "doi:10.1234/a", "s:x-1", "s:f#5"]
    assert {d.text for d in found} == {"text"}
    by = Fields(text="t", discipline="d")
    found = mapped("".join(f'{{"t": "text", "d": "{d}"}}\n' for d in ("math.CO cs.CG", "Law", "physics of law")), by)
    assert [d.discipline for d in found] == ["Mathematics", "Law", "physics of law"]


def test_a_field_that_no_record_has_is_named_with_its_nearest():
    (found,) = mapped('{"Headline": "T", "body": {"sumary": "B"}, "uid": 1}\n' * 3)
    assert (found.origin, found.reason) == ("f#0", NOT_THIS_FORMAT)
    for words in (
        "no field headline or body.summary;",
        ": Headline, body, body.sumary, uid;",
        " Headline or body.sumary?",
    ):
        assert words in found.message
    (found,) = mapped("uid,headline,body.summary,doi,area,lang\n1,T,B,,,\n")
    assert found.message.startswith("no field la;")
    assert ": uid, headline," in found.message
    (found,) = mapped('{"t": "a", "DOI": "10.1234/x", "year": 2001}\n', Fields(text="t", doi="doi", date="jahr"))
    assert found.message == "no field doi; the fields are: t, DOI, year; did you mean DOI?"
    # JSON may leave out what is null: only many records without a DOI show that there is none
    text = Fields(text="t", doi="doi")
    assert isinstance(mapped('{"t": "a"}\n' * 999, text)[0], Document)
    assert "no field doi" in mapped('{"t": "a"}\n' * 1000, text)[0].message
    late = '{"x": 1}\n' * 500 + '{"t": "a", "doi": null}\n' * 500
    assert [d.text for d in mapped(late, text)] == [""] * 500 + ["a"] * 500


def test_objects_and_deep_lists_are_no_text():
    body, deep, other = mapped(
        '{"t": {"a": 1}}\n{"t": [[[[[["x"]]]]]]}\n{"t": [["p", 1], "q", NaN]}\n', Fields(text="t")
    )
    assert body.message.startswith("t holds an object")
    assert body.message.endswith(" a")
    assert deep.message.startswith("t holds lists")
    assert other.text == "p\n\n1\n\nq"
    (sections,) = mapped('{"body": [{"t": "one"}, {"x": 1}, {"t": "two"}]}', Fields(text="body.t"))
    assert sections.text == "one\n\ntwo"


# --------------------------------------------------------------------------------------------------------- Parquet


def test_parquet_by_its_columns_and_by_a_map():
    columns = {
        "PMID": [1.0, None], "Title": [b"T", b"U"], "abstract": ["A", None], "authors": [["a", "b"], None],
        "body": [{"t": ["p", "q"]}, None], "when": [date(2000, 1, 1), None],
    }  # fmt: skip
    first, second = read_parquet(as_parquet(columns))
    assert (first.id, first.title, first.abstract) == ("pmid:1", "T", "A")
    assert (second.id, second.title, second.abstract) == ("s:f#2", "U", "")
    by = Fields(text="body.t", id="when")
    assert [(d.id, d.text) for d in read_parquet(as_parquet(columns), by)] == [
        ("s:2000-01-01", "p\n\nq"),
        ("s:f#2", ""),
    ]
    (absent,) = read_parquet(as_parquet(columns), Fields(text="body.t", id="pmid"))
    assert absent.message.startswith("no field pmid;")
    assert absent.message.endswith(" PMID?")
    (inner,) = read_parquet(as_parquet({"body": [{"t": "p"}]}), Fields(text="body.x"))
    assert inner.message.startswith("no field body.x;")
    assert ": body, body.t;" in inner.message
    (other,) = read_parquet(as_parquet({"smiles": ["C"], "title": ["x"]}))
    assert (other.origin, other.reason) == ("f#0", NOT_THIS_FORMAT)
    assert " smiles, title;" in other.message


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [
        ("pmid", 12345678.0, "pmid:12345678"), ("pmid", Decimal(12345678), "pmid:12345678"),
        ("pmid", float("nan"), "s:f#1"), ("id", 704.0001, "arxiv:0704.0001"), ("id", 2101.0021, "arxiv:2101.00210"),
        ("id", "2101.00210", "arxiv:2101.00210"), ("id", 1412.1234, "arxiv:1412.1234"),
    ],
)  # fmt: skip
def test_identifiers_that_became_numbers(column, value, name):
    columns = {column: [value], "title": ["T"], "abstract": ["A"]}
    (paper,) = read_parquet(as_parquet(columns))
    assert paper.id == name
    (mapped_paper,) = read_parquet(as_parquet(columns), Fields(title="title", abstract="abstract", id=column))
    assert mapped_paper.id == name.replace("pmid", "s")


@pytest.mark.parametrize(
    ("year", "month", "early", "date"),
    [
        ("2019", "MAR 12", "DEC 2018", "2019-03-12"),
        ("2019", "", "MAR 2019", "2019-03"),
        ("", "", "DEC 2018", "2018-12"),
        ("2019", "", "DEC 2018", "2019"),
    ],
)
def test_a_table_of_web_of_science_says_what_its_tagged_lines_say(year, month, early, date):
    values = {"AU": "Ito, Kenji", "CA": "Tin and Lead Group", "TI": "T", "PY": year, "PD": month, "EA": early}
    values |= {"UT": "WOS:01"}
    long = {"AU": "Authors", "CA": "Group Authors", "TI": "Article Title", "PY": "Publication Year"}
    long |= {"PD": "Publication Date", "EA": "Early Access Date", "UT": "UT (Unique WOS ID)"}
    columns = list(values), [long[name] for name in values]
    tables = ["\t".join(names) + "\n" + "\t".join(values.values()) + "\n" for names in columns]
    lines = "".join(f"{name} {value}\n" for name, value in values.items() if value)
    for (found,) in (read(wos, f"PT J\n{lines}ER\n"), *(read(table, content) for content in tables)):
        assert (found.authors, found.date) == (("Ito, Kenji", "Tin and Lead Group"), date)


def test_damaged_parquet_costs_its_row_group():
    papers = {"title": [str(n) for n in range(90)], "abstract": [str(random.Random(n).random()) for n in range(90)]}
    content = bytearray(as_parquet(papers, row_group_size=30).getvalue())
    place = pq.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(1).column(1).dictionary_page_offset
    content[place : place + 200] = bytes(200)
    found = read_parquet(io.BytesIO(bytes(content)))
    assert [d.title for d in found if isinstance(d, Document)] == papers["title"][:30] + papers["title"][60:]
    (lost,) = (r for r in found if isinstance(r, Unread))
    assert "row group 1 " in lost.message
    assert " 30 of its rows " in lost.message
    for cut in (content[:50], content[:-9]):
        (whole,) = read_parquet(io.BytesIO(bytes(cut)))
        assert (whole.origin, whole.reason) == ("f#0", UNREADABLE_FILE)
    wrong = pa.StringArray.from_buffers(2, pa.array([0, 2, 4], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfeok"))
    bad, good = read_parquet(as_parquet({"title": wrong, "abstract": ["a", "b"]}))
    assert "UnicodeDecodeError" in bad.message
    assert good.title == "ok"


def test_a_large_text_stored_once_is_not_unpacked_for_all_rows_together(monkeypatch):
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 50, pa.int32()), pa.array(["x" * 100_000]))
    file = as_parquet({"title": text.cast(pa.string()), "abstract": ["a"] * 50}, use_dictionary=["title"])
    monkeypatch.setattr(parquet, "MAX_BATCH_BYTES", 250_000)
    sizes = []
    inner = parquet._rows
    monkeypatch.setattr(parquet, "_rows", lambda batch, beside: (sizes.append(batch.nbytes), inner(batch, beside))[1])
    assert len(read_parquet(file)) == 50
    assert max(sizes) < 250_000
    monkeypatch.setattr(parquet, "MAX_ROW_BYTES", 50_000)
    assert {r.message for r in read_parquet(file)} == {"the row is longer than 0 MiB"}


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_large_text_of_many_rows_has_a_bound(monkeypatch, kind):
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 50, pa.int32()), pa.array(["x" * 100_000]))
    columns = {"title": text.cast(kind), "abstract": ["a"] * 50}
    file = as_parquet(columns, use_dictionary=["title"], row_group_size=20)
    monkeypatch.setattr(parquet, "BATCH_ROWS", 4)
    monkeypatch.setattr(streams, "FREE_BYTES", 2_500_000)
    monkeypatch.setattr(streams, "MAX_RATIO", 2)
    *papers, line = read_parquet(file)
    assert len(papers) == 24
    assert "nothing is read from row group 1 on" in line.message


def test_a_value_that_unpacks_beyond_all_bounds_costs_its_row_group_unread(monkeypatch):
    columns = {"title": ["a", "b", "c"], "abstract": ["a", "x" * 1_000_000, "c"], "other": ["y" * 1_000_000] * 3}
    file = as_parquet(columns, row_group_size=1, compression="zstd")
    monkeypatch.setattr(parquet, "MAX_CHUNK_BYTES", 500_000)
    first, line, last = read_parquet(file)  # the other column is not read
    assert (first.title, last.title) == ("a", "c")
    assert "row group 1 is damaged" in line.message
    assert "refused as a bomb" in line.message


# ------------------------------------------------------------------------------------------------------- any input

VALID = 'id,title,abstract\n1,"A, b","c\n""d"""\n2,e,f\n3,"g",h\n'
SIGNS = st.sampled_from('ab,;\t|" \n\r{}[]é\0')


@given(st.data())
def test_any_text_is_read_and_every_line_accounted_for(data):
    content = data.draw(st.text(SIGNS, max_size=80)) if data.draw(st.booleans()) else damaged(data, VALID, SIGNS)
    for record in (*read(table, content), *mapped(content), *mapped(content, Fields(text="a"))):
        assert isinstance(record, Document | Unread)
    found = rows(content)
    kept = "".join("".join((*row, *row.values())) if isinstance(row, dict) else content for row in found)
    letters = {c for c in content.split("\n", 1)[-1] if c.isalnum()} if found else set()
    assert letters <= set(kept)


@given(
    st.sampled_from(tables.DELIMITERS),
    st.lists(st.lists(st.text(st.sampled_from('ab,;\t|" \né'), max_size=8), min_size=2, max_size=2), max_size=6),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_a_program_writes_by_the_rules_is_read_as_it_was(delimiter, body, quoting):
    body = [[str(n), *row] for n, row in enumerate(body)]
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerows([["n", "x", "y"], *body])
    if delimiter == "\t" and quoting == csv.QUOTE_MINIMAL:  # as likely not meant as quotes: see Dialect.quoted
        body = [row for row in body if not set('"\t\n') & set("".join(row))]
        found = [row for row in cells(file.getvalue()) if not set('"\t\n') & set("".join(row))]
        assert all(row in found for row in body)
    else:
        assert cells(file.getvalue()) == body


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(4, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
def test_any_damage_to_parquet_is_reported(changes):
    content = bytearray(PARQUET)
    for place, value in changes:
        content[4 + place % (len(content) - 4)] = value
    found = read_parquet(io.BytesIO(bytes(content)))
    num_read = sum(isinstance(r, Document) for r in found)
    assert num_read == 60 or any(isinstance(r, Unread) for r in found) or not found


PARQUET = as_parquet({"title": list(map(str, range(60))), "abstract": ["a"] * 60}, row_group_size=20).getvalue()
