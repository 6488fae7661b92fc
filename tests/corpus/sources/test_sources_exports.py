"""What reference managers, CNKI and Wanfang export: EndNote, RefWorks, NoteExpress, E-Study and their tables."""

import pytest

from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.sources import endnote, enw, estudy, medline, noteexpress, refworks, ris, table
from nsllm_lite.formats.documents import Document
from tests.corpus.sources.reading import DATA, read, read_path, titles

SEEDS = DATA.parents[1] / "faults/seeds/read"
ABSTRACT = "采用溶胶凝胶法在玻璃上制备了氧化铜薄膜，测量了五个温度下薄膜的生长过程，发现带隙随膜厚增加而减小。"
CNKI = {
    refworks: "RT Journal Article\nSR 1\nA1 张三;李四;\nT1 铜的须\nJF 物理学报\nYR 2020\nvo 69\nAB {}\nDS CNKI\n\n",
    noteexpress: "{{Reference Type}}: Journal Article\n{{Title}}: 铜的须\n{{Author}}: 张三;李四;\n"
    "{{Journal}}: 物理学报\n{{Year}}: 2020\n{{Abstract}}: {}\n{{Database Provider}}: CNKI\n\n",
    enw: "%0 Journal Article\n%A 张三\n%A 李四\n%T 铜的须\n%J 物理学报\n%D 2020\n%X {}\n%W CNKI\n\n\n",
    estudy: "Title-题名: 铜的须\nAuthor-作者: 张三;李四;\nSource-刊名: 物理学报\nYear-年: 2020\nSummary-摘要: {}\n\n",
    table: "Title-题名,Author-作者,Source-文献来源,Year-年,Summary-摘要\n铜的须,张三;李四;,物理学报,2020,{}\n",
}


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("reader", CNKI, ids=lambda reader: reader.__name__.rpartition(".")[2])
def test_the_five_forms_give_the_same_paper(tmp_path, reader, encoding):
    """铜 alone among them is UTF-8 as well where it is GBK."""
    (tmp_path / "x.txt").write_bytes(CNKI[reader].format("<正>" + ABSTRACT).replace("\n", "\r\n").encode(encoding))
    (found,) = read_path(tmp_path / "x.txt")
    assert (found.title, found.abstract, found.date) == ("铜的须", ABSTRACT, "2020")
    assert (found.authors, found.venue) == (("张三", "李四"), "物理学报")


@pytest.mark.parametrize("name", ["enw/valid-cnki.enw", "refworks/valid-wanfang.txt", "noteexpress/valid-wanfang.net"])
def test_records_one_after_another(name):
    """Also where a file in GBK ends without a line end."""
    first, second = read_path(SEEDS / name)
    assert all(isinstance(record, Document) and len(record.abstract) > 60 for record in (first, second))
    assert {first.title, second.title} <= {"铜上的锡须", "铅须", "锌须", "Whiskers of lead"}


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        (refworks, "RT Journal\nT1 Tin\nAB It grows.\nT1 Lead\nAB It creeps."),
        (enw, "%0 Thesis\n%T Tin\n%X It grows.\n\n%T Lead\n%X It creeps."),
        (noteexpress, "{Reference Type}: Thesis\n{Title}: Tin\n{Abstract}: a\n{Title}: Lead\n"),
        (estudy, "SrcDatabase-来源库: 期刊\nTitle-题名: Tin\nSummary-摘要: a\nTitle-题名: Lead\n"),
        (ris, "TY  - JOUR\nT1  - Tin\nAB  - It grows.\n\nT1  - Lead\nAB  - It creeps.\nER  - \n"),
        (ris, "TY  - JOUR\nTI  - Tin\nAB  - It grows.\nTI  - Lead\nAB  - It creeps.\nER  - \n"),
        (medline, "PMID- 1\nTI  - Tin\nAB  - It grows.\nTI  - Lead\nAB  - It creeps.\nSO  - J Tin\n"),
    ],
)
def test_two_records_without_the_mark_between_them_are_not_joined(reader, content):
    (found,) = read(reader, content)
    assert isinstance(found, Unread)
    assert "two titles" in found.message


# ------------------------------------------------------------------------------------------------------- by format


def test_refworks_lines_and_names():
    first, second = read_path(SEEDS / "refworks/valid-wanfang.txt")
    assert first.abstract.endswith(" PD patients go on.")  # a line that only looks tagged
    assert (first.id, first.language, first.keywords) == ("pmid:12", "zh", ("锡须", "电镀铜"))
    assert (first.authors, second.venue) == (("张三", "Fox, Ann"), "Lead 2018")
    assert read(refworks, "RT Journal\nT1 T\nAN WOS:0001\nUL https://arxiv.org/abs/2101.00001\n")[0].id == (
        "arxiv:2101.00001"
    )


@pytest.mark.parametrize("signs", ["；", ",", "，", "; "])
def test_names_in_one_field_are_parted(signs):
    names = signs.join(("张三", "李四"))
    for reader, form in (
        (noteexpress, "{{Reference Type}}: Thesis\n{{Author}}: {}\n{{Title}}: T\n"),
        (ris, "AU  - {}\nTI  - T\n"),
    ):
        assert read(reader, form.format(names))[0].authors == ("张三", "李四")


def test_estudy_records_begin_with_the_first_field_or_behind_a_blank_line():
    first, second, third = read_path(SEEDS / "estudy/valid-chosen.txt")
    assert [one.title for one in (first, second, third)] == ["铜上的锡须", "铅须", "锌须"]
    assert (first.id, first.date, second.authors) == ("doi:10.1000/xi.9", "2020-05-15", ("王五",))
    assert not second.abstract.startswith("<")


def test_enw_names_and_continued_lines():
    (found,) = read(
        enw, "%0 Journal Article\n%T Tin\nwhiskers\n%X It grows.\n\nSlowly.\n%M 12\n%W PubMed\n%B Proc. Tin\n"
    )
    assert (found.id, found.title, found.venue) == ("pmid:12", "Tin whiskers", "Proc. Tin")
    assert found.abstract == "It grows.\n\nSlowly."
    (found,) = read(enw, "%0 Journal Article\n%T Tin\n%2 PMC123\n%A Ito, Kenji\n%A Tin Group,\n%A Tin,, of Lead\n")
    assert (found.id, found.authors) == ("pmc:123", ("Ito, Kenji", "Tin Group", "Tin, of Lead"))


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        (noteexpress, "{Reference Type}: Thesis\n{Title}: T\n{Abstract}: It grows.\n{Custom 1}: of mine\n"),
        (enw, "%0 Thesis\n%T T\n%X It grows.\n%f Figure of mine\n"),
    ],
)
def test_a_field_that_is_not_read_ends_the_one_above(reader, content):
    assert read(reader, content)[0].abstract == "It grows."


def test_endnote_xml():
    (found,) = read_path(SEEDS / "endnote/stated.xml")
    assert (found.title, found.id) == ("Whiskers of tin on CuSO₄", "doi:10.1000/tin.9")
    assert found.abstract.endswith("every day for 10.⁵ s & more.")
    assert titles(read_path(SEEDS / "endnote/valid-zotero.xml")) == ["Whiskers of lead", "Whiskers of zinc"]
    people = "<contributors><authors><author>Ito, Kenji</author><author>Tin Group,</author></authors></contributors>"
    record = f"<record><titles><title>Tin</title></titles>{people}<custom2>PMC123</custom2></record>"
    (found,) = read(endnote, f"<xml><records>{record}</records></xml>")
    assert (found.id, found.authors) == ("pmc:123", ("Ito, Kenji", "Tin Group"))
    nested = "<xml><records><record><a/></record><record><titles><title>Tin</titles></record><record><titles/></record>"
    assert titles(read(endnote, nested)) == ["unreadable", "unreadable", ""]


def test_dimensions_has_a_line_above_its_header():
    (found,) = read_path(SEEDS / "table/stated-dimensions.csv")
    assert (found.id, found.doi) == ("pmid:9", "10.1000/tin.9")
    saved_again = "About the data: Exported on May 02, 2024. Criteria: tin,,\nRank,Title,Abstract\n1,Tin,It grows.\n"
    assert titles(read(table, saved_again)) == ["Tin"]
