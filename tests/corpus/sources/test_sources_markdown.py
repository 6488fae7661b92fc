"""Markdown of PDF converters: what is a paper, its front, its sections, and what is left out."""

import pytest

from nsllm_lite.corpus.files.markdown import blocks_in, plain
from nsllm_lite.corpus.sources import markdown
from tests.corpus.sources.reading import DATA, outline_of, read, read_path, titles

SEEDS = DATA.parents[1] / "faults/seeds/read/markdown"
MARKER, IEEE = ((SEEDS / name).read_text() for name in ("stated.md", "valid.md"))
LONG = "We grew films of tin on copper at five temperatures and measured every day how long their whiskers were, " * 2


def test_a_paper_of_marker():
    (paper,) = read(markdown, MARKER)
    assert (paper.doi, paper.title, paper.abstract[-10:]) == (
        "10.1000/tin.9",
        "Whiskers of tin on copper",
        "six weeks.",
    )
    assert outline_of(paper) == [
        ((), "1. Introduction", "Known since long. It is $x_1 * y_2 * z$, and CO₂ at 10⁻⁵ Pa."),
        ((), "2. Methods", ""),
        (
            ("2. Methods",),
            "2.1. Growth of whiskers",
            "As in [2], we waited (Fox, 1998), see Figure 1.\n\n$$a = b \\tag{1}$$\n\nwhere it is.\n\n- one\n- two",
        ),
        ((), "3. Results", "They grew."),
    ]


def test_a_paper_of_mineru_whose_headings_have_one_level():
    (paper,) = read(markdown, IEEE)
    assert (paper.title, paper.authors, paper.abstract[:8]) == (
        "Gap of oxide films",
        ("B. Abel", "C. Cain"),
        "Whiskers",
    )
    assert [(s.parents, s.heading) for s in paper.sections] == [
        ((), "I. INTRODUCTION"), ((), "II. METHODS"), (("II. METHODS",), "A. Growth"), ((), "III. RESULTS"),
    ]  # fmt: skip


FRONTS = {
    "journal": ("At Tin\n\n# Journal of Tin\n\n# Own title\n\nAnn Fox a, Bo Ito b\n\n# A R T I C L E I N F O\n\n"
                "Keywords: tin, lead\n\n# A B S T R A C T\n\nWe wait.\n\n# 1. Introduction\n\nx\n"),
    "run-in": "# Own title\n\nAnn Fox, Bo Ito\n\n**Abstract.** We wait.\n\n*Keywords*: tin, lead\n\n## Methods\n\nx\n",
    "kind": "# RESEARCH ARTICLE\n\n# Own title\n\nAnn Fox<sup>1,2</sup> and Bo Ito$^{3}$\n\n## Summary\n\nWe wait.\n\n"
            "## Keywords\n\ntin; lead\n\n## Introduction\n\nx\n",
    "lines": "Own title\n\nAnn Fox, Bo Ito\n\nAbstract\n\nWe wait.\n\nKeywords: tin; lead\n\n1 Introduction\n\nx\n",
}  # fmt: skip


@pytest.mark.parametrize("name", FRONTS)
def test_fronts(name):
    (paper,) = read(markdown, FRONTS[name])
    assert (paper.title, paper.abstract, paper.authors) == ("Own title", "We wait.", ("Ann Fox", "Bo Ito"))
    assert paper.keywords == ("tin", "lead")
    assert [s.text for s in paper.sections] == ["x"]


def test_a_paper_without_the_word_abstract_and_with_methods_behind_its_references():
    text = f"# Tin whiskers\n\nAnn Fox<sup>1</sup>\n\nCopyright {LONG}\n\n{LONG}\n\nFirst words.\n\n"
    text += "# Results\n\nThey grew.\n\n"
    text += (
        "# Discussion\n\nYes.\n\n# 5. Summary\n\nNo.\n\n# References\n\n1. A\n2. B\n\n# Methods\n\nWe waited.[2]\n\n"
    )
    text += "# Acknowledgements\n\nx\n\n# Figures\n\nx\n"
    (paper,) = read(markdown, text)
    assert (paper.abstract, paper.references) == (LONG.strip(), ("A", "B"))
    assert outline_of(paper) == [
        ((), "", "First words."), ((), "Results", "They grew."), ((), "Discussion", "Yes."), ((), "5. Summary", "No."),
        ((), "Methods", "We waited."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("**a** *b* __c__ _d_ ***e*** snake_case 2*3*4", "a b c d e snake_case 2*3*4"),
        ("a\\_b \\[x\\] \\# [text](http://a_b.c/(d)) ![x](y.png)", "a_b [x] # text"),
        ("\\(x_1\\) and \\[y = 2\\]", "$x_1$ and $$y = 2$$"),
        ("$a*b*c$ and *d*", "$a*b*c$ and d"),
        ("H<sub>2</sub>O, 10<sup>3</sup> <span id='a'></span>x<br>", "H₂O, 10³ x"),
        ("x[^1] <!-- y", "x <!-- y"),
    ],
)
def test_the_words_of_a_line(text, written):
    assert plain(text) == written


def test_what_is_left_out_between_paragraphs():
    parts = ("a", "```\nx\n# y\n```", "<table>\n<tr><td>x\n</td></tr></table>", "|x|\n|-|", "<!-- image -->", "* * *",
             "Table 1: x", "[^1]: x", "{4}----", "![](x)", "b\nc", "\\[\nd\n\\]", "1. e\n f\n2. g", "---")  # fmt: skip
    assert [b.text for b in blocks_in("\n\n".join(parts))] == ["a", "b c", "$$d$$", "- e f\n- g"]


def test_what_has_no_end_takes_no_more_than_its_paragraph():
    text = "$$\na\n\nb\n\n<table>\nx\n\n# C\n\nd\n\n\\[\ne"
    assert [tuple(b) for b in blocks_in(text)] == [(0, "a"), (0, "b"), (1, "C"), (0, "d"), (0, "e")]


def test_markdown_that_is_no_paper_or_too_long_and_general_text(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("# Tool\n\n## Abstract\n\nWe do.\n\n## Usage\n\nRun it.\n")
    assert titles(read_path(tmp_path / "README.md")) == ["not_this_format"]
    (tmp_path / "paper.md").write_text(MARKER)
    assert [record.text[:4] for record in read_path(tmp_path / "paper.md", general=True)] == ["![]("]
    assert titles(read(markdown, "\n \n")) == ["unreadable"]
    monkeypatch.setattr(markdown, "MAX_CHARS", 100)
    assert "over 100 characters" in read(markdown, MARKER)[0].message
