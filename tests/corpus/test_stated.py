"""What papers state about themselves, in every format; and what cannot be read of it costs nothing else."""

import datetime
import io
import json
import re
import time
import tomllib
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsllm_lite.corpus import build, sources
from nsllm_lite.corpus.files import tagged
from nsllm_lite.corpus.sources import arxiv, bibtex, fields, oai, ris, wos
from nsllm_lite.corpus.stated import records
from nsllm_lite.corpus.stated.dates import as_date, dated
from nsllm_lite.corpus.stated.names import as_names
from nsllm_lite.corpus.stated.terms import as_categories, as_language, as_reference, as_references, as_terms
from nsllm_lite.corpus.texts.clean import clean_document
from nsllm_lite.corpus.texts.entities import unescape
from nsllm_lite.formats.documents import (
    STATED,
    TERMS,
    TEXTUAL,
    Document,
    documents_in,
    parquet_writer,
    read_documents,
    table_of,
)
from nsllm_lite.formats.rows import Rows
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.corpus import Fields
from tests.corpus.small import paper, values, write_sources
from tests.corpus.sources.reading import DATA, damaged, read, read_path

SEEDS = DATA.parents[1] / "faults/seeds/read"
EXPECTED = tomllib.loads((DATA / "stated.toml").read_text())
MAP = EXPECTED.pop("map")
EMPTY = {name: () if name in TERMS else "" for name in STATED}
ISO = re.compile(r"(\d{4}(-\d\d(-\d\d)?)?)?")


def stated(document):
    return {name: getattr(document, name) for name in STATED}


def read_seed(name, path=None):
    own = {"form": "fields", "fields": MAP} if name.startswith("fields/") else {}
    return read_path(path or SEEDS / name, **own)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_format_gives_what_its_file_states(name):
    found = [stated(clean_document(document)) for document in read_seed(name)]
    lists = [{key: tuple(v) if key in TERMS else v for key, v in paper.items()} for paper in EXPECTED[name]]
    assert found == [EMPTY | paper for paper in lists]


def test_every_file_has_its_expectation():
    assert set(EXPECTED) == {f"{path.parent.name}/{path.name}" for path in SEEDS.glob("*/stated*")}
    forms = {name.split("/")[0] for name in EXPECTED}
    assert forms == {*sources.READERS, "fields", "docx"} - {"sample", "text"}  # which state nothing


# --------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("value", "date"),
    [
        *[(text, "2019-03-12") for text in (
            "2019-03-12", "2019-03-12T01:02:03Z", "2019/03/12/", "20190312", "2019 Mar 12", "12 March 2019",
            "March 12th, 2019", "Tue, 12 Mar 2019 19:18:42 GMT", "12.03.2019", "2019.03.12", "2019年3月12日",
            1552348800000, 1552348800, "1552348800", "2019031215", 2019031215, "20190312150159",
            [2019, 3, 12], {"date-parts": [["2019", "3", "12"]]},
            {"year": 2019, "month": "mar", "day": 12}, datetime.date(2019, 3, 12),
            datetime.datetime(2019, 3, 12, 5), "2019-03-12 00:00:00",
        )],
        *[(text, "2019-03") for text in (
            "2019-03", "2019 Mar-Apr", "Mar 2019", "03/2019", "2019-03-00", "2019 Mar 32",
            "2019年3月", "2019年3月第1期",
        )],
        *[(text, "2019") for text in (
            2019, 2019.0, "2019", "2019.0", "[2019]", "2019///", "2019 Spring", "Summer 2019", "12/03/2019",
            "2019-13-45", "2019-2020", [["2019", None]], "2019年", "2019 年", "2019年第3期", "2019年3期", "2019,45(03)",
        )],
        ("13/03/2019", "2019-03-13"),
        ("2019-02-30", "2019-02"),
        (2019134567, "2033-12-25"),  # seconds: there is no month 13
        *[(text, "") for text in (
            "c2019", "0000", "n.d.", "", "in press", "199", "99999", "2019a", 0, -1, 1e300, float("nan"), float("inf"),
            True, 2019.5, None, [], {}, [[[[[["2019"]]]]]], "9" * 5000, b"2019", "20191345678", "\\today",
        )],
    ],
    ids=str,
)  # fmt: skip
def test_dates_are_as_fine_as_they_are_certain(value, date):
    assert as_date(value) == date


def test_a_year_and_what_is_finer_elsewhere():
    assert [dated("2019", *finer) for finer in (["MAR"], ["MAR 12"], ["3 12"], ["MAR-APR"], ["2019/03/12/"])] == [
        "2019-03", "2019-03-12", "2019-03-12", "2019-03", "2019-03-12",
    ]  # fmt: skip
    assert dated("2019", "2021-01-01", "WIN", "13 40") == "2019"  # of another year, or of none
    assert dated("n.d.", "MAR") == ""


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("C. Balázs, E. L. Berger, C.-P. Yuan", ("C. Balázs", "E. L. Berger", "C.-P. Yuan")),
        ("Ann Fox (MIT, Boston), Bo Ito (1) and Cy Ray", ("Ann Fox", "Bo Ito", "Cy Ray")),
        ("Tin Collaboration: A. Fox, B. Ito, et al.", ("Tin Collaboration", "A. Fox", "B. Ito")),
        ("Pan, Y., Yu, C.-D., Zhang, X.", ("Pan, Y.", "Yu, C.-D.", "Zhang, X.")),
        ("Pan, Yu (57193); Yu, Chao (571931)", ("Pan, Yu", "Yu, Chao")),
        ("Fox A, Ito B, Ray CD.", ("Fox A", "Ito B", "Ray CD")),
        ("Ito K, Fox A.", ("Ito K", "Fox A")),
        ("Ann Fox, Bo C.", ("Ann Fox", "Bo C.")),
        ("Fox, Ann", ("Fox, Ann",)),
        ("Fox, Ann and Ito, Bo", ("Fox, Ann", "Ito, Bo")),
        ("Martin King, Jr., Bo Ito", ("Martin King, Jr.", "Bo Ito")),
        ("['Marx, Karl', \"O'Hara, Bo\"]", ("Marx, Karl", "O'Hara, Bo")),
        ("张三；李四", ("张三", "李四")),
        ("张三，李四", ("张三", "李四")),
        (["张三；李四"], ("张三", "李四")),
        (["张三,李四", "王五"], ("张三", "李四", "王五")),
        (["张三，李四、王五"], ("张三", "李四", "王五")),
        (["张三, 李四, 王五"], ("张三", "李四", "王五")),
        (["山田, 太郎", "Zhang, San"], ("山田, 太郎", "Zhang, San")),
        ("M&uuml;ller, K.; Ito, B.", ("Müller, K.", "Ito, B.")),
        ([{"author": {"display_name": "Ann Fox"}}], ("Ann Fox",)),
        ([{"last": "Ito", "first": "Bo", "middle": ["C."], "suffix": "Jr."}], ("Ito, Bo C., Jr.",)),
        ({"author": [{"fullName": "Fox A"}, {"collectiveName": "Tin Group"}]}, ("Fox A", "Tin Group")),
        ([1, None, "", ["Ann Fox", ["Bo Ito"]], {"x": 1}, {"name": 3}], ("Ann Fox", "Bo Ito")),
        (7, ()),
    ],
    ids=str,
)  # fmt: skip
def test_names(value, names):
    assert as_names(value) == names


def test_thousands_of_authors_and_a_group():
    many = [f"Name{n}, Given" for n in range(3000)]
    assert as_names([*many, "Tin Collaboration"]) == (*many, "Tin Collaboration")
    assert as_names("; ".join(many)) == tuple(many)
    line = "".join(f"AU  - {name}\n" for name in many)
    assert read(ris, f"TY  - JOUR\nTI  - T\n{line}ER  - \n")[0].authors == tuple(many)


def test_terms_categories_and_languages():
    assert as_terms("tin; lead, zinc;; tin") == ("tin", "lead, zinc")
    assert as_terms("tin, lead", None, ["zinc; iron", {"term": "gold"}, 3]) == ("tin", "lead", "zinc", "iron", "gold")
    assert as_terms("['tin', 'lead']", "C & D", "&lt;i&gt;Homo&lt;/i&gt;") == ("tin", "lead", "C & D", "<i>Homo</i>")
    assert as_categories("math.AG hep-th", ["cs.CL"]) == ("math.AG", "hep-th", "cs.CL")
    assert as_categories("Physics; Tin and lead") == ("Physics", "Tin and lead")
    languages = (
        "English",
        "eng",
        "EN",
        "en-GB",
        "ger",
        "deu",
        "German; English",
        "['fr']",
        "ngerman",
        "zh_Hans",
        "Chinese",
    )
    assert [as_language(one) for one in languages] == ["en"] * 4 + ["de"] * 3 + ["fr", "de", "zh", "zh"]
    assert [as_language(one) for one in ("und", "mul", "Klingon", "", "xx", "e" * 9999)] == [""] * 6


@pytest.mark.parametrize(
    ("entry", "reference"),
    [
        ("https://doi.org/10.1000/Tin.1", "doi:10.1000/tin.1"),
        ("Ito, K. Tin. J. (2001) doi:10.1016/S0140-6736(05)12345-6.", "doi:10.1016/s0140-6736(05)12345-6"),
        ("Ito, K. (see 10.1000/tin.1).", "doi:10.1000/tin.1"),
        ("10.48550/arXiv.1901.00001", "arxiv:1901.00001"),
        ("Ray, arXiv:hep-th/9901001v2 [hep-th]", "arxiv:hep-th/9901001"),
        ("Ito K, 2001, J TIN", "Ito K, 2001, J TIN"),
        ({"ids": {"pubmed_id": "12"}, "title": "On tin"}, "pmid:12"),
        ({"DOI": "none", "article-title": "On tin", "unstructured": "Ito, On tin"}, "On tin"),
        ({"externalIds": None, "title": None}, ""),
        ({"title": ["On", 3], "doi": [["x"]]}, "On"),
        (3, ""),
    ],
    ids=str,
)
def test_references(entry, reference):
    assert as_references([entry, entry]) == ((reference,) if reference else ())


def test_an_id_stated_apart_comes_first():
    assert as_reference("Ito 10.1000/x", pmid="12.0", title="T") == "pmid:12"
    assert as_reference("", doi="10.1000/X", pmid="12") == "doi:10.1000/x"


# -------------------------------------------------------------------------------------------- nothing breaks a record


def check(document):
    """Types as declared, and fit for Parquet."""
    assert ISO.fullmatch(document.date)
    assert re.fullmatch("([a-z]{2})?", document.language)
    assert all(type(getattr(document, name)) is (tuple if name in TERMS else str) for name in STATED)
    assert all(isinstance(term, str) and term for name in TERMS for term in getattr(document, name))
    assert list(documents_in(table_of([document]).to_batches()[0])) == [document]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.sampled_from(["c2019", "0000", "n.d.", "<i>A</i> Fox", "Fox,", " and ", ";", "['a', 'b", "\ud800", "a\x00b"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["name", "family", "given", "title", "DOI", "ids", "date-parts", "year", "value", "created"]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
KEYS = sorted({
    *records._DATES, *records._YEARS, *records._AUTHORS, *records._VENUES, *records._CATEGORIES, *records._KEYWORDS,
    *records._REFERENCES, "authors_parsed", "versions", "primary_category", "categories", "month", "day", "language",
})  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=6))
def test_any_values_of_a_flat_record_leave_its_text(values):
    (document,) = [arxiv.document({"title": "T", "abstract": "A", **values}, sources.opening.Place("s", "f#1"))]
    assert (document.title, document.abstract) == ("T", "A")
    check(clean_document(document))


@given(values=st.dictionaries(st.sampled_from([*STATED]), ANYTHING, max_size=4))
def test_any_values_of_mapped_fields_leave_the_text(values):
    content = json.dumps({"title": "T", "abstract": "A", **values})
    own = Fields(title="title", abstract="abstract", **{name: name for name in STATED})
    (document,) = fields.read(io.StringIO(content), own, "s", "f")
    assert (document.title, document.abstract) == ("T", "A")
    check(clean_document(document))


BINARY = ("excel/stated-wos.xls", "docx/stated.docx")  # the first starts a process, the other is no text


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in BINARY])
@settings(max_examples=12)
@given(data=st.data())
def test_a_damaged_file_gives_documents_or_says_why(tmp_path_factory, name, data):
    words = st.sampled_from(
        ["\x00", "<", ">", '"', "{", "}", "[]", "null", "&#0;", "10.1/", ";", ",", "\n", "and", "<sup>x</sup>"]
    )
    path = tmp_path_factory.mktemp("damaged") / "x"
    content = (SEEDS / name).read_text(errors="surrogateescape")
    path.write_text(damaged(data, content, words), errors="surrogateescape")
    found = read_seed(name, path)
    assert found
    for record in found:
        if isinstance(record, Document):
            check(clean_document(record))


@pytest.mark.timed
@pytest.mark.parametrize(
    "text", [" " * 10**6 + "x", "1" * 10**6 + "x", "(" * 10**6, "10.1234/" + ")" * 10**6, "\n," * 10**6], ids=range(5)
)
def test_long_values_take_linear_time(text):
    started = time.process_time()
    fields = {"authors": f"A;{text}", "author": text, "date": text, "references": text, "keywords": text, "venue": text}
    arxiv.document({"title": "T", "abstract": "A", "language": text, **fields}, sources.opening.Place("s", "f#1"))
    read(bibtex, f"@article{{a, author = {{{text}}}, references = {{{text}}}, title = {{T}}}}")
    assert time.process_time() - started < 10


def test_arxivraw_without_dates_states_none():
    (one,) = read(oai, "<arXivRaw><id>1903.00012</id><version/><title>T</title><abstract>A</abstract></arXivRaw>")
    assert (one.title, one.date, one.authors) == ("T", "", ())


def test_a_value_that_parquet_cannot_give_costs_only_itself(tmp_path):
    columns = {"title": ["T", "U"], "abstract": ["A", "B"], "authors": [[{"name": "Ann Fox"}], None]}
    columns["date"] = pa.array([10**17, 1552348800000000], pa.timestamp("us"))
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    first, second = read_path(tmp_path / "p.parquet")
    assert (first.title, first.date, first.authors) == ("T", "", ("Ann Fox",))
    assert (second.title, second.date, second.authors) == ("U", "2019-03-12", ())


def test_what_stands_beside_the_text_costs_no_tagged_record(monkeypatch):
    text = "PT J\nTI T\nAB A\nAU Fox, A\n   Ito, B\nNRGLUED\n   more\nCR Ray C, 2001\nER\n"
    (one,) = read(wos, text)
    assert (one.title, one.authors, one.references) == ("T", ("Fox, A", "Ito, B", "more"), ("Ray C, 2001",))
    monkeypatch.setattr(tagged, "MAX_RECORD_CHARS", 500)
    (one,) = read(wos, text.replace("CR ", "CR " + "x\n   " * 9))
    assert (one.title, one.authors, one.references) == ("T", ("Fox, A", "Ito, B", "more"), ())


# ------------------------------------------------------------------------------------------------------- on its way


def test_fields_are_read_only_where_they_are_asked_for_and_may_be_absent(tmp_path):
    whole = Document(
        "a", "s", "f#1", "T", "A", date="2019", authors=("Fox, A", "Ito, B"), references=("On tin",), language="en"
    )
    with parquet_writer(tmp_path / "d.parquet") as writer:
        writer.write_table(table_of([whole]))
    bare = replace(whole, **EMPTY)
    assert list(read_documents(tmp_path / "d.parquet")) == [whole]
    assert list(read_documents(tmp_path / "d.parquet", TEXTUAL)) == [bare]
    assert [d.title for d in read_documents(tmp_path / "d.parquet", ("title",))] == [whole.title]
    (found,) = read_documents(tmp_path / "d.parquet", ("sections", "moves"))
    assert (found.id, found.sections, found.moves) == ("", whole.sections, whole.moves)
    old = pq.read_table(tmp_path / "d.parquet").select([*TEXTUAL, "language"])
    pq.write_table(old, tmp_path / "old.parquet")
    assert list(read_documents(tmp_path / "old.parquet")) == [replace(bare, language="en")]


def test_a_corpus_counts_what_its_documents_state_and_its_rows_do_not_change(tmp_path):
    says = {"authors": ["Fox, A"], "year": 2019, "keywords": "tin; lead", "references": ["10.1000/x"], "language": "EN"}
    papers = [paper(n) for n in range(30)]
    told = [{**one, **(says if n % 2 else {})} for n, one in enumerate(papers)]
    again = {**papers[1], "authors": ["Other, B"], "journal": "J. Tin"}  # a duplicate adds nothing to the paper kept
    results, rows, documents = {}, {}, {}
    for name, given_papers in (("bare", [*papers, papers[1]]), ("told", [*told, again])):
        out = tmp_path / name / "out"
        made = values(tmp_path / name, "out", write_sources(tmp_path / name, one=given_papers))
        results[name] = build.build(recipes.validate(made, "test"))
        rows[name] = [Rows(out / f"rows/{phase}/train").sha256 for phase in ("phase1", "general")]
        documents[name] = [d for d in read_documents(out / "documents") if d.source == "one"]
    assert rows["told"] == rows["bare"]
    assert [replace(d, **EMPTY) for d in documents["told"]] == [replace(d, **EMPTY) for d in documents["bare"]]
    assert results["bare"]["stated"]["one"] == dict.fromkeys(STATED, 0)
    counts = dict.fromkeys(("authors", "date", "keywords", "references", "language"), 15)
    assert results["told"]["stated"] == {"one": dict.fromkeys(STATED, 0) | counts, "general": dict.fromkeys(STATED, 0)}
    kept = next(d for d in documents["told"] if d.id == "arxiv:2501.00001")
    assert (kept.authors, kept.venue, kept.references) == (("Fox, A",), "", ("doi:10.1000/x",))


# ------------------------------------------------------------------------------------------------------- entities

ENDLESS = "&#" + "1" * 5_000 + ";"


def test_a_number_that_is_no_character_is_read_as_one_that_is_lost():
    text = "a&#945;&#x3B1;&#00000000065;&#99999999;&#xfffffff;&#x0000000041;&amp;&beta;"
    assert unescape(text) == "aααA\ufffd\ufffdA&β"
    for number in ("1" * 5_000, "0" * 5_000 + "65", "x" + "f" * 5_000, "1" * 5_000 + "x"):
        assert unescape(f"a&#{number};b&amp;")[1] == "\ufffd"
        assert unescape(f"a&#{number};b&amp;").endswith("b&")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ris", f"TY  - JOUR\nTI  - T\nKW  - x{ENDLESS}\nER  - \n\nTY  - JOUR\nTI  - U\nER  - \n"),
        ("a.bib", f"@article{{k, title = {{T}}, keywords = {{x{ENDLESS}}}}}\n@article{{l, title = {{U}}}}"),
        ("a.csv", f"title,abstract,authors\nT,A,x{ENDLESS}\nU,A,b\n"),
        (
            "a.json",
            json.dumps([{"id": str(n), "title": t, "abstract": "A", "authors": ENDLESS} for n, t in enumerate("TU")]),
        ),
        ("a.xls", f"<table><tr><td>Title<td>Abstract</tr><tr><td>T<td>{ENDLESS}</tr><tr><td>U<td>A</tr></table>"),
        ("a.html", f"<table><tr><td>Title<td>Abstract<td>{ENDLESS}</tr><tr><td>T<td>A</tr><tr><td>U<td>A</tr></table>"),
    ],
)
def test_an_endless_entity_costs_nothing_in_any_format(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert [document.title for document in read_path(tmp_path / name)] == ["T", "U"]
