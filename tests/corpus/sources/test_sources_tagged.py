"""Tagged lines as they really come: Web of Science, RIS and MEDLINE, whole, cut, run together, saved by other tools."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files import tagged
from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.sources import medline, ris, wos
from nsllm_lite.formats.documents import Document
from tests.corpus.sources.reading import damaged, example, read, read_path, read_stream, titles

WOS, RIS, MEDLINE = example("two.wos.txt"), example("two.ris"), example("two.nbib")


# ------------------------------------------------------------------------------------------------- Web of Science


def test_wos_fields_and_names():
    first, second = read(wos, WOS)
    assert (first.title, first.abstract, first.language) == ("Whiskers of tin on copper", "They grow.", "en")
    assert (first.id, first.doi, first.origin) == ("doi:10.1000/tin.1", "10.1000/tin.1", "f#1")
    assert first.discipline == "Physics"  # engineering is none of the broad fields
    assert (second.id, second.discipline) == ("wos:000000000000002", "Physics")
    assert identity.accession_of("MEDLINE:12") == ("12", "")
    assert identity.accession_of("ZOOREC:ZOOR1") == ("", "zoorec:ZOOR1")
    assert read(wos, WOS.replace("UT WOS:", "PM 77\nUT WOS:"))[0].id == "pmid:77"


@pytest.mark.parametrize(
    "content",
    [
        WOS.split("\n", 2)[2],  # no header
        WOS.replace("EF\n", ""),
        WOS.replace("ER\n", ""),
        "\ufeff" + WOS.replace("\n", "\r\n"),
        WOS.replace("\n", "\r"),
        WOS.replace("AU Ito", "AUIto"),  # nobody reads the authors
    ],
)
def test_wos_needs_no_more_than_the_beginnings_of_records(content):
    assert wos.recognise(content.lstrip("\ufeff"))
    assert titles(read(wos, content)) == ["Whiskers of tin on copper", "No doi"]


def test_wos_files_one_after_another_and_a_lost_first_line():
    content = WOS + "\ufeff" + WOS + WOS.split("PT J\n", 1)[1]
    assert len(read(wos, content)) == 6
    assert all(isinstance(r, Document) for r in read(wos, content))


def test_a_broken_wos_record_costs_itself_alone():
    glued = WOS.replace("TI Whiskers", "TIWhiskers")
    assert titles(read(wos, glued)) == ["unreadable", "No doi"]
    after_abstract = WOS.replace("CR Ito", "CRIto")
    assert titles(read(wos, after_abstract)) == ["unreadable", "No doi"]
    run_together = WOS.replace("ER\n\nPT S\n", "")
    assert "two titles" in read(wos, run_together)[0].message
    cut = WOS[: WOS.index(" doi")]
    assert "cut short" in read(wos, cut)[1].message


# ----------------------------------------------------------------------------------------------------------- RIS


def test_ris_fields_and_paragraphs():
    first, second = read(ris, RIS)
    assert (first.title, first.abstract) == ("Whiskers", "They grow. Slowly.\n\nThen they stop.")
    assert (first.id, first.doi, first.language) == ("doi:10.1000/tin.1", "10.1000/tin.1", "en")
    assert (second.id, second.title) == ("s:f#2", "Second")
    (both,) = read(ris, "TY  - JOUR\nTI  - Tin\nT1  - Tin: a metal\nT2  - J. Tin\nST  - Tin\nER  -\n")
    assert (both.title, both.venue) == ("Tin", "J. Tin")  # two tags of a title; other titles
    assert read(ris, "TY  - JOUR\nAB  -\nN2  - Other.\nER  -\n")[0].abstract == "Other."


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("AN  - WOS:0001", "wos:0001"),
        ("AN  - 21\nDP  - NLM", "pmid:21"),
        ("AN  - 2214991469; 51887\nDB  - PTSDpubs", "s:f#1"),  # nobody else counts so
        ("UR  - https://www.scopus.com/inward/record.uri?eid=2-s2.0-850&doi=x", "scopus:2-s2.0-850"),
        ("UR  - http://arxiv.org/abs/2101.00001v2", "arxiv:2101.00001"),
        ("DO  - 10.48550/arXiv.2101.00001", "arxiv:2101.00001"),
        ("AN  - WOS:0001\nL2  - http://dx.doi.org/10.1000/A", "doi:10.1000/a"),
    ],
)
def test_ris_names(lines, name):
    assert read(ris, f"TY  - JOUR\nTI  - T\n{lines}\nER  -\n")[0].id == name


def test_ris_between_and_around_records():
    ovid = "1.\n" + RIS.replace("ER  -\n", "ER  -\nNL  - J Tin\n\nLink to the text: http://x\n\n2.\n")
    assert ris.recognise(ovid)
    assert titles(read(ris, ovid)) == ["Whiskers", "Second"]
    assert titles(read(ris, RIS.replace("ER  -\n", ""))) == ["Whiskers", "Second"]
    assert titles(read(ris, RIS.replace("TY  - JOUR\n", "").replace("TY  - GEN\n", ""))) == ["Whiskers", "Second"]
    assert titles(read(ris, "AU  - A\nER  -\n" + RIS)) == ["", "Whiskers", "Second"]  # a record of nothing but authors
    assert titles(read(ris, RIS[: RIS.index("cond")])) == ["Whiskers", "unreadable"]


def test_ris_with_other_blanks_round_the_dash():
    assert titles(read(ris, RIS.replace("  - ", " - ").replace("T1 - ", "T1\t-  "))) == ["Whiskers", "Second"]
    text = read(ris, RIS.replace("Slowly.", "IL - 6 helps."))[0].abstract  # IL is no tag of RIS
    assert text.startswith("They grow. IL - 6 helps.")


# ------------------------------------------------------------------------------------------------------- MEDLINE


def test_medline_fields():
    first, second = read(medline, MEDLINE)
    assert (first.id, first.title, first.abstract) == ("pmid:101", "Whiskers of tin on copper", "They grow.")
    assert (first.doi, first.language, first.moves) == ("10.1000/tin.1", "en", ())
    assert second.title == "Second"


@pytest.mark.parametrize(
    ("issue", "online", "date"),
    [("2019", "20190312", "2019-03-12"), ("2019 Apr", "20190312", "2019-04"), ("", "20190312", "2019-03-12")],
)
def test_the_electronic_date_counts_where_it_is_finer(issue, online, date):
    assert read(medline, f"PMID- 1\nDP  - {issue}\nDEP - {online}\nTI  - T\nSO  - J\n")[0].date == date


def test_medline_records_need_no_blank_line_and_no_pmid():
    assert len(read(medline, MEDLINE.replace("\n\nPMID", "\nPMID"))) == 2
    nameless = read(medline, MEDLINE.replace("PMID- 102\n", "OWN - NLM\n"))
    assert [d.id for d in nameless] == ["pmid:101", "s:f#2"]
    assert titles(read(medline, MEDLINE[: MEDLINE.index("cond")])) == ["Whiskers of tin on copper", "unreadable"]


def test_medline_labels_are_moves_where_all_are_known():
    moves, text = medline.moves_of("AIM: To look. METHODS: We looked at DNA: all of it. KEY FINDINGS: It grew.")
    assert moves == (
        ("OBJECTIVE", "To look."), ("METHODS", "We looked at DNA: all of it."), ("KEY FINDINGS", "It grew."),
    )  # fmt: skip
    assert text == "To look. We looked at DNA: all of it. It grew."
    for unsure in (
        "RESULTS: One label.",
        "Before. AIM: Look. RESULTS: Seen.",
        "AIM: Look. TNF-ALPHA: High. RESULTS: S.",
    ):
        assert medline.moves_of(unsure) == ((), unsure)


# ------------------------------------------------------------------------------------------------------- all three

FORMS = [(wos, WOS, "PT "), (ris, RIS, "TY  -"), (medline, MEDLINE, "PMID-")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize(("reader", "content", "first"), FORMS)
def test_encodings_and_line_ends(reader, content, first, encoding):
    packed = io.BytesIO(content.replace("grow", "wächst").replace("\n", "\r").encode(encoding))
    found = read_stream(reader, io.TextIOWrapper(packed, encoding))
    assert len(found) == 2
    assert found[0].abstract.startswith("They wächst.")


@pytest.mark.parametrize(("reader", "content", "first"), FORMS)
@settings(max_examples=40)
@given(data=st.data())
def test_no_record_is_lost_without_a_word(reader, content, first, data):
    """Whatever is cut out of a file or put into it, each beginning of a record gives a document or a reason."""
    words = st.sampled_from(["\n", " ", "-", "PT J\n", "TY  - J\n", "PMID- 1\n", "ER", "TI", "AB  - ", "é", "\x00"])
    content = damaged(data, content, words)
    found = read(reader, content)
    assert all(isinstance(r, Document | Unread) for r in found)
    assert [r.origin for r in found] == [f"f#{n}" for n in range(1, len(found) + 1)]
    assert len(found) >= sum(line.startswith(first) for line in content.split("\n"))


def test_a_record_without_an_end_has_a_bound(monkeypatch):
    monkeypatch.setattr(tagged, "MAX_RECORD_CHARS", 10_000)
    broken, whole = read(ris, RIS.replace("Slowly.\n", "\n" * 1_000))
    assert "more than 10,000 characters" in broken.message
    assert whole.title == "Second"


# ------------------------------------------------------------------------------------------------------- two formats

ENTRY = "@article{ito2001,\n  title = {Whiskers of lead},\n  year = 2001\n}\n"
ONE = "TY  - JOUR\nTI  - Whiskers of tin\nAB  - They grow.\nER  - \n\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (ONE + ENTRY, ["Whiskers of tin", "unreadable"]),
        (ENTRY + ONE, ["Whiskers of tin", "unreadable"]),
        (ONE + ENTRY * 3 + ONE, ["Whiskers of tin", "Whiskers of tin", "unreadable"]),
        (ENTRY * 20 + ONE, ["Whiskers of lead"] * 20 + ["unreadable"]),
        (ONE + '{"title": "T"}\n', ["Whiskers of tin", "unreadable"]),
        ("%0 Journal Article\n%T Whiskers of tin\n%X Grow.\n\n" + ENTRY, ["Whiskers of tin", "unreadable"]),
        (ONE + "text\n" * 21 + ONE, ["Whiskers of tin", "Whiskers of tin", "unreadable"]),
        (ONE + "1.\nhttps://x.org\n\n" + ONE, ["Whiskers of tin"] * 2),
        (("2.\n" + ONE) * 30, ["Whiskers of tin"] * 30),
        ("Exported by a program on 1 May.\n" + ENTRY + "A comment, TY  - x\n" + ENTRY, ["Whiskers of lead"] * 2),
    ],
)
def test_what_is_passed_over_of_another_format_is_told_once(tmp_path, content, expected):
    (tmp_path / "a").write_text(content)
    assert titles(read_path(tmp_path / "a")) == expected
