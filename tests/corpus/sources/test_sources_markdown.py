"""Markdown of PDF converters: what is a paper, its front, its sections, and what is left out."""

import io

import pytest

from nsllm_lite.corpus.files.markdown import blocks_in, plain
from nsllm_lite.corpus.files.opening import Place
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


@pytest.mark.parametrize(
    "headings",
    [
        ("## Abstract", "### Background", "### **Methods**", "### Results:", "## Introduction", "## Methods"),
        ("# Abstract", "## Introduction", "## Methods", "## Results", "# Introduction", "# Methods"),
        ("## Abstract", "## Background", "## Methods", "## Results", "## 1. Background", "## 2. Methods"),
        ("## Abstract", "## Background", "## Methods", "## Results", "## Background", "## Methods"),
        ("## Abstract", "### Background", "### Methods", "### Results", "## Tin and its use", "## Methods"),
        ("Abstract", "Background", "Methods", "Results", "Introduction", "Methods"),
    ],
)
def test_the_headings_of_a_structured_abstract_are_the_labels_of_moves(headings):
    abstract, *parts, intro, methods = headings
    texts = ("Tin grows [1].", "We grew forty.", "They grew.")
    paper = "# Own title\n\nAnn Fox, Bo Ito\n\n" + abstract + "\n\n"
    paper += "".join(f"{part}\n\n{text}\n\n" for part, text in zip(parts, texts, strict=True))
    paper += f"{intro}\n\nKnown.\n\n{methods}\n\nWe waited.\n\n## References\n\n1. A\n"
    (found,) = read(markdown, paper)
    assert found.abstract == "Tin grows. We grew forty. They grew."
    labels = [part.strip("#* :") for part in parts]
    assert found.moves == tuple(zip(labels, (texts[0].replace(" [1]", ""), *texts[1:]), strict=True))
    assert [(s.heading, s.text) for s in found.sections] == [
        (intro.strip("# "), "Known."), (methods.strip("# "), "We waited."),
    ]  # fmt: skip
    assert found.references == ("A",)


@pytest.mark.parametrize(
    "headings",
    [
        ("# Abstract", "## 1. Introduction", "## 2. Methods", "# References"),
        ("# Abstract", "## Introduction", "## Methods", "# Discussion"),
        ("# Abstract", "## Methods", "## Results", "# Discussion"),
        ("## Abstract", "## Background", "## Methods", "## Discussion"),
        ("## Abstract", "## Tin and its use", "## Methods", "## Summary"),
    ],
)
def test_sections_behind_an_abstract_are_none_of_it(headings):
    paper = "# Own title\n\n" + "".join(f"{heading}\n\n{LONG}{heading[-3:]}.\n\n" for heading in headings)
    (found,) = read(markdown, paper)
    assert (found.abstract, found.moves) == (f"{LONG}act.", ())
    assert [s.heading for s in found.sections] == [h.strip("# ") for h in headings[1:] if "References" not in h]


CHINESE = "我们在五个温度下在铜板上生长锡膜，并每天测量每根晶须的长度，持续六周。"


@pytest.mark.parametrize(
    ("labels", "between"),
    [
        (("## 摘要\n\n", "## Abstract\n\n"), "# Whiskers of tin\n\nAnn Fox, Bo Ito\n\n"),
        (("摘 要：", "**Abstract:** "), ""),
        (("## 摘要\n\n", "Abstract—"), ""),
    ],
)
@pytest.mark.parametrize(
    ("language", "keywords"), [("en", ("tin", "copper")), ("zh", ("锡", "铜")), (None, ("锡", "铜"))]
)
def test_of_two_abstracts_the_one_in_a_wanted_language_is_kept(labels, between, language, keywords):
    text = (
        f"# 锡晶须\n\n{labels[0]}{CHINESE}\n\n关键词：锡；铜\n\n{between}{labels[1]}{LONG}\n\nKeywords: tin; copper\n\n"
    )
    text += "## 1 引言\n\nx\n\n## 2 方法\n\ny\n\n## 5 Summary\n\nz\n"
    (record,) = markdown.records(io.StringIO(text))
    found = markdown.document(record, Place("s", "f#1", (language,) if language else ()))
    assert (found.title, found.abstract) == ("锡晶须", LONG.strip() if language == "en" else CHINESE)
    assert found.keywords == keywords
    assert [s.heading for s in found.sections] == ["1 引言", "2 方法", "5 Summary"]


def test_the_labels_of_other_languages_and_headings_that_only_begin_as_labels():
    text = "# Growth of Tin\n\nResumen: Medimos.\n\nPalabras clave: estaño, cobre\n\n"
    text += "## Introducción\n\nx\n\n## Keyword spotting\n\ny\n\n## Referencias\n\n1. A\n"
    (found,) = read(markdown, text)
    assert (found.abstract, found.keywords, found.references) == ("Medimos.", ("estaño", "cobre"), ("A",))
    assert [s.heading for s in found.sections] == ["Introducción", "Keyword spotting"]
    assert markdown.recognise("# Tin\n\n**Resumen.** Medimos.\n\n## Introduction\n\nx")
    assert not markdown.recognise("# Tin\n\nabstract syntax trees\n\n## Introduction\n\nx")
    text = "# Keyword spotting\n\n## Summary\n\nWe wait.\n\n## Keywords\n\nkeyword spotting; tin\n\n"
    text += "## Keyword lists\n\ny\n"
    (found,) = read(markdown, text)
    assert (found.title, found.keywords) == ("Keyword spotting", ("keyword spotting", "tin"))
    assert [s.heading for s in found.sections] == ["Keyword lists"]


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


def test_a_fence_ends_with_its_like_and_one_that_never_ends_at_the_next_heading():
    text = "```a``` is here.\n\n```` b\n```\n# x\n`````\nc\n\n~~~ ``` ~~~\n# y\n~~~ z\n~~~\n\n"
    text += "# D\n\n```python\nx #1\ny\n# E\n\n```python\ny\n\n# F\n\ng"
    assert [tuple(b) for b in blocks_in(text)] == [
        (0, "```a``` is here."), (0, "c"), (1, "D"), (1, "E"), (1, "F"), (0, "g")
    ]  # fmt: skip


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
