"""BibTeX of databases, anthologies and people, and the same papers in three formats."""

import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.latex.notation import plain
from nsllm_lite.corpus.sources import bibtex, ris, wos
from nsllm_lite.formats.documents import Document
from tests.corpus.sources.reading import damaged, example, read, read_path, titles

PLAIN = tomllib.loads(example("latex.toml"))["plain"]


def test_one_paper_is_one_document_in_every_format():
    """But for the discipline, which Web of Science's RIS does not state."""
    first, *others = (
        [replace(d, origin="", source="") for d in read(reader, example(name))]
        for reader, name in ((wos, "same.wos.txt"), (ris, "same.ris"), (bibtex, "same.bib"))
    )
    assert [d.id for d in first] == ["doi:10.1000/tin.1", "wos:000000000000002", "doi:10.1000/tin_3"]
    assert others == [first, first]


def test_values_macros_and_what_is_no_record():
    found = read(bibtex, example("values.bib"))
    assert [d.title for d in found] == [
        'Journal of Tin and Lead: an Nested "title"', "Proceedings", "No key", "No key at all",
    ]  # fmt: skip
    assert found[0].abstract == 'He said "yes".\n\nThen no.'


@pytest.mark.parametrize(
    "broken",
    [
        "@article{b, title = {Un{closed, year = 2001}\n",
        '@article{b, title = "A "quoted" word"}\n',
        "@article{b, title = {Too many}}, abstract = {lost}}\n",
        "@article{b, title = {No end}\n",
        "@article{b, what is this}\n",
        "@article{b, title = {One line {}, year = 1} ",  # the next entry begins on the same line
    ],
)
def test_a_broken_entry_costs_itself_alone(broken):
    content = "@book{a, title = {First}}\n" + broken + "@book{c, title = {Third}}\n@book{d, title = {Fourth}}\n"
    assert titles(read(bibtex, content)) == ["First", "unreadable", "Third", "Fourth"]


def test_braces_that_are_escaped_and_comments_that_never_end():
    assert titles(read(bibtex, r"@book{a, title = {The set [0, 1\} of}}")) == ["The set [0, 1} of"]
    content = "@comment{ never closed {\n@book{a, title = {A}}\n@comment no braces\n@book{b, title={B}}"
    assert titles(read(bibtex, content)) == ["A", "B"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("eprint = {1706.05459}, archivePrefix = {arXiv}, doi = {10.1000/a}", "arxiv:1706.05459"),
        ("journal = {arXiv preprint arXiv:1706.05459}", "arxiv:1706.05459"),
        ("url = {http://arxiv.org/abs/1706.05459v2}", "arxiv:1706.05459"),
        ("url = {https://www.scopus.com/inward/record.uri?eid=2-s2.0-850&x=y}", "scopus:2-s2.0-850"),
        ("url = {https://doi.org/10.1000/A}", "doi:10.1000/a"),
        ("pmid = {12}, doi = {10.1000/A}", "pmid:12"),
        ("eprinttype = {pubmed}, eprint = {12}", "pmid:12"),
        ("eprint = {1706}", "s:f#1"),
        ("note = {https://doi.org/10.1000/reply}, pmid = {0}", "s:f#1"),
        ("note = {arXiv:1706.05459}", "arxiv:1706.05459"),
        ("research-areas = {{Engineering; Cell Biology}}", "Biology"),
        ("primaryClass = {astro-ph.IM}", "Physics"),
    ],
)
def test_names_and_disciplines(fields, expected):
    (document,) = read(bibtex, f"@article{{k, title = {{T}}, {fields}}}")
    assert (document.discipline or document.id) == expected


@pytest.mark.parametrize("case", PLAIN, ids=[case["text"] for case in PLAIN])
def test_latex_becomes_characters(case):
    assert plain(case["tex"]) == case["text"]


@given(data=st.data())
def test_no_entry_is_lost_without_a_word(data):
    words = st.sampled_from(["{", "}", '"', "@", "\\", "#", ",", "=", "\n@misc{x,", "é", "\n", "$"])
    content = damaged(data, example("same.bib"), words)
    found = read(bibtex, content)
    assert all(isinstance(r, Document | Unread) for r in found)
    begun = sum(line.startswith(("@article{", "@inproceedings(", "@misc{")) for line in content.split("\n"))
    assert len(found) >= begun


@given(st.text(alphabet=st.sampled_from("@abc{}()\"\\#,= \n$~-'é")))
def test_any_text_is_made_plain_without_an_error(content):
    plain(content)


def test_macros_of_macros_fill_no_memory():
    content = '@string{a0 = "lol"}\n' + "".join(f"@string{{a{i} = a{i - 1} # a{i - 1}}}\n" for i in range(1, 60))
    (document,) = read(bibtex, content + "@misc{b, title = a59}")
    assert len(document.title) <= bibtex.MAX_MACRO_CHARS


def test_macros_side_by_side_fill_no_memory_either():
    content = f'@string{{a = "{"lol " * 2_000}"}}\n@misc{{b, title = a{"#a" * 5_000}}}\n@misc{{c, title = a}}'
    bomb, whole = read(bibtex, content)
    assert f"over {bibtex.MAX_EXPANDED_CHARS:,} characters" in bomb.message
    assert whole.title.startswith("lol lol")


@pytest.mark.parametrize("kind", ["mvbook", "preprint", "inproceedings", "Thesis", "hardware"])
def test_a_file_is_known_by_an_entry_of_any_type(tmp_path, kind):
    title = "title = {Whiskers of tin}\n"
    (tmp_path / "a.bib").write_text(f"@{kind}{{ito2001,\n  {title}}}\n")
    (tmp_path / "b.bib").write_text(f" @{kind} (ito:1,{title})\n")
    (tmp_path / "c.bib").write_text(f"@{kind}{{a, AUTHOR=a, {title}}}\n")
    assert titles(read_path(tmp_path)) == ["Whiskers of tin"] * 3
    for text in ("@media{a, b}", "@Override(a) b = {", "@user, see {x, y = z}", "@param {x, y"):
        assert not bibtex.recognise(text)
