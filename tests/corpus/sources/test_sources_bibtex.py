"""BibTeX of databases, anthologies and people, and the same papers in three formats."""

import io
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.latex.plain import plain
from nsllm_lite.corpus.sources import bibtex, ris, wos
from nsllm_lite.formats.documents import Document

SAME_WOS = """FN Clarivate Analytics Web of Science
VR 1.0
PT J
AU Müller, K
TI Whiskers of tin & copper: growth on Müller's
   plates
LA English
AB At p < 0.05 they grow.
DI 10.1000/TIN.1
UT WOS:000000000000001
ER

PT J
TI Naïve counts
LA French
AB Half of them, 50%.
UT WOS:000000000000002
ER

PT J
TI No abstract
AB [No abstract available]
DI 10.1000/tin_3
UT WOS:000000000000003
ER

EF
"""
SAME_RIS = """TY  - JOUR
AU  - Müller, K
TI  - Whiskers of tin & copper: growth on Müller's plates
LA  - English
AB  - At p < 0.05 they grow.
DO  - 10.1000/TIN.1
AN  - WOS:000000000000001
N1  - Times Cited:  5
ER  -

TY  - JOUR
T1  - Naïve counts
LA  - French
N2  - Half of them,
50%.
AN  - WOS:000000000000002
ER  -

TY  - JOUR
TI  - No abstract
AB  - No abstract available.
DO  - https://doi.org/10.1000/tin_3
AN  - WOS:000000000000003
ER  -
"""
SAME_BIB = r"""
@article{ WOS:000000000000001,
Author = {M{\"u}ller, K.},
Title = {{Whiskers of tin \& copper: growth on M\"uller's
   plates}},
Language = {{English}},
Abstract = {{At p $<$ 0.05 they grow.}},
DOI = {{10.1000/TIN.1}},
Unique-ID = {{WOS:000000000000001}},
}

@article{key2, title = "Na{\"\i}ve counts", language = "French", abstract = {Half of them, 50\%.},
  unique-id = {WOS:000000000000002}}
@inproceedings(WOS:000000000000003, title = {{N}o abstract}, doi = {10.1000/tin\_3},
  abstract = {[No abstract available]})
"""


def read(reader, content):
    return list(reader.read(io.StringIO(content), "s", "f"))


def brief(content):
    return [r.title if isinstance(r, Document) else r.reason for r in read(bibtex, content)]


def test_one_paper_is_one_document_in_every_format():
    """But for the discipline, which Web of Science's RIS does not state."""
    first, *others = (
        [replace(d, origin="", source="") for d in read(reader, content)]
        for reader, content in ((wos, SAME_WOS), (ris, SAME_RIS), (bibtex, SAME_BIB))
    )
    assert [d.id for d in first] == ["doi:10.1000/tin.1", "wos:000000000000002", "doi:10.1000/tin_3"]
    assert others == [first, first]


def test_values_macros_and_what_is_no_record():
    content = r"""% Encoding: UTF-8
@comment{ @article{no, title={Not a record}} }
@comment{jabref-meta:
  @article{no, title={Nor this}}
}
@preamble{"\newcommand{\x}{y}" # {z}}
@string{tin = "Journal of {Tin}"} @string(both = tin # " and " # {Lead})
@Article{a, title = both # ": " # {an {{N}ested} "title"}, year = 2001, month = jan,,
  abstract = "He said {"}yes{"}.

  Then no."}
text between, someone@example.org, @proceedings{b, booktitle = {Proceedings}}@misc{,title={No key}}
@misc{title = {No key at all} year = 3}
"""
    found = read(bibtex, content)
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
    assert brief(content) == ["First", "unreadable", "Third", "Fourth"]


def test_braces_that_are_escaped_and_comments_that_never_end():
    assert brief(r"@book{a, title = {The set [0, 1\} of}}") == ["The set [0, 1} of"]
    assert brief("@comment{ never closed {\n@book{a, title = {A}}\n@comment no braces\n@book{b, title={B}}") == [
        "A",
        "B",
    ]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (
            "eprint = {1706.05459}, archivePrefix = {arXiv}, primaryClass = {astro-ph.IM}, doi = {10.1000/a}",
            "1706.05459",
        ),
        ("journal = {arXiv preprint arXiv:1706.05459}", "1706.05459"),
        ("url = {http://arxiv.org/abs/1706.05459v2}", "1706.05459"),
        ("url = {https://www.scopus.com/inward/record.uri?eid=2-s2.0-850&x=y}", "scopus:2-s2.0-850"),
        ("url = {https://doi.org/10.1000/A}", "doi:10.1000/a"),
        ("pmid = {12}, doi = {10.1000/A}", "pmid:12"),
        ("eprinttype = {pubmed}, eprint = {12}", "pmid:12"),
        ("eprint = {1706}", "s:f#1"),
    ],
)
def test_names(fields, name):
    (document,) = read(bibtex, f"@article{{k, title = {{T}}, {fields}}}")
    assert document.id.removeprefix("arxiv:") == name
    assert document.discipline == ("Physics" if "astro" in fields else "")


def test_discipline_from_research_areas():
    (document,) = read(bibtex, "@article{k, title={T}, research-areas = {{Engineering; Cell Biology}}}")
    assert document.discipline == "Biology"


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        (r"Ivezi{\'c}, {\v{Z}}eljko and Cs{\'a}nyi G\'{a}bor \c{c} \v s \H{o} na\"{\i}ve {\^\i}le", None),
        (r"{\O}rsted \o re stra{\ss}e \L{}\'od\'z \aa{}ngstr\"om", "Ørsted øre straße Łódź ångström"),
        (r"a \& b 50\% \#1 \$5 x\_y \{z\}", "a & b 50% #1 $5 x_y {z}"),
        (r"M.~P. costs ~5, 1--2 --- ``so''", "M. P. costs ~5, 1–2 — “so”"),
        (r"$\frac{a}{b}$ at $>$ 3 $\alpha$, \textbeta{} and \textfoo", r"$\frac{a}{b}$ at > 3 α, β and \textfoo"),
        (r"the $S$ matrix in $O(n)$, $i$ of $\beta$", r"the $S$ matrix in $O(n)$, $i$ of β"),
        (r"\emph{In situ} {\it x} H\textsubscript{2}O 10\textsuperscript{-5}", "In situ x H₂O 10⁻⁵"),
        (r"Mathematica{\textregistered} \textquotesingle{}s", "Mathematica® 's"),
        ("nothing to do - at all", "nothing to do - at all"),
    ],
)
def test_latex_becomes_characters(tex, text):
    assert plain(tex) == (text or "Ivezić, Željko and Csányi Gábor ç š ő naïve île")


def test_recognised_by_content():
    for head in (SAME_BIB.lstrip(), "% Encoding: UTF-8\n\n@Comment{x}\n", "Made by JabRef 2.9.\n\n@ARTICLE{a,\n"):
        assert bibtex.recognise(head)
    readme = "# Tool\n\nCite:\n```\n@article{a,\n title={b}\n}\n```\n"
    for head in (
        readme,
        "import x\n@dataclass(frozen=True)\n",
        "\\documentclass{a}\n@article{",
        "me@article.org",
        "{",
        "@",
    ):
        assert not bibtex.recognise(head)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_entry_is_lost_without_a_word(data):
    content = SAME_BIB
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 30)))
    parts = st.lists(
        st.sampled_from(["{", "}", '"', "@", "\\", "#", ",", "=", "\n@misc{x,", "é", "\n", "$"]), max_size=5
    )
    content = content[:start] + "".join(data.draw(parts)) + content[end:]
    found = read(bibtex, content)
    assert all(isinstance(r, Document | Unread) for r in found)
    begun = sum(line.startswith(("@article{", "@inproceedings(", "@misc{")) for line in content.split("\n"))
    assert len(found) >= begun


@given(st.text(alphabet=st.sampled_from("@abc{}()\"\\#,= \n$~-'é")))
def test_any_text_is_read_without_an_error(content):
    read(bibtex, "@article{a, title = {" + content + "}}")
    read(bibtex, content)
    plain(content)


@pytest.mark.parametrize(
    "unit", ["@a{", "@misc{a,", "{", '"', "\\", "$", " ", "\n", "a ", "@comment{", "@comment{\n", "#a"]
)
@pytest.mark.parametrize("before", ["", "@misc{", "@misc{a, title = {", "@misc{a, title = {b}}"])
@pytest.mark.timed
def test_no_input_takes_long(before, unit):
    started = time.process_time()
    read(bibtex, before + unit * (60_000 // len(unit)))
    assert time.process_time() - started < 5


def test_macros_of_macros_fill_no_memory():
    content = '@string{a0 = "lol"}\n' + "".join(f"@string{{a{i} = a{i - 1} # a{i - 1}}}\n" for i in range(1, 60))
    (document,) = read(bibtex, content + "@misc{b, title = a59}")
    assert len(document.title) <= bibtex.MAX_MACRO_CHARS
