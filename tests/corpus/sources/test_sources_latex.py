"""LaTeX as authors write it: their own macros, many files, publishers' styles, and what is no paper."""

import io
import time
import tomllib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.corpus import sources
from nsllm_lite.corpus.files.opening import NOT_A_PAPER, UNREADABLE, Unread
from nsllm_lite.corpus.latex.flatten import MAX_INPUTS, Flattener
from nsllm_lite.corpus.sources import latex
from nsllm_lite.formats.documents import Document
from tests.corpus.sources.reading import damaged, example, read_path

CASES = tomllib.loads(example("latex.toml"))


def read(content, file="f.tex", **files):
    return list(
        latex.read(io.StringIO(content), "s", file, lambda name: files.get(name.replace("/", "_").replace(".", "_")))
    )


def paper(body, preamble="", **files):
    head = f"\\documentclass{{article}}\n{preamble}\n\\begin{{document}}\n"
    (document,) = read(f"{head}{body}\n\\end{{document}} after the end", **files)
    return document


def text(body, preamble="", **files):
    """The text of a paper without headings."""
    (section,) = paper(body, preamble, **files).sections
    return section.text


# ---------------------------------------------------------------------------------------------------------- structure


def test_title_abstract_sections_and_what_is_left_out():
    (document,) = read(example("paper.tex"))
    assert (document.id, document.origin) == ("s:f.tex#1", "f.tex#1")
    assert (document.title, document.abstract) == ("Tin whiskers at low $T_c$", "We grow tin.")
    assert [(*s.parents, s.heading, s.text) for s in document.sections] == [
        ("", "Before all."),
        ("One", ""),
        ("One", "Introduction", "New words."),
        ("One", "Introduction", "Growth", ""),
        ("One", "Introduction", "Growth", "Vacuum", "We pumped."),
        ("Appendix", "Proof", "It holds."),
    ]


def test_abstract_of_five_arguments_is_labelled():
    document = paper(r"\title{T}\subtitle{II. Dust} \abstract{Why.}{}{How.}{What.}{So.} \section{A} b")
    assert (document.title, document.abstract) == ("T: II. Dust", "Why. How. What. So.")
    assert document.moves == (("Context", "Why."), ("Methods", "How."), ("Results", "What."), ("Conclusions", "So."))


@pytest.mark.parametrize(
    "front",
    [
        r"\twocolumn[\icmltitle{A title}\icmlauthor{X}{y}\vskip 0.3in]\begin{abstract}A.\end{abstract}",
        r"\begin{frontmatter}\title{A title}\ead{a@b}\begin{abstract}A.\end{abstract}\begin{keyword}k\end{keyword}"
        r"\end{frontmatter}",
        r"\begin{titlepage}\begin{center}{\large\bf A\\ title}\\ X. Y\end{center}\begin{abstract}A.\end{abstract}"
        r"\end{titlepage}",
        r"\title{A title}\maketitle \section*{Abstract} A. \newpage",
    ],
    ids=["conference", "journal", "titlepage", "section"],
)
def test_front_matter_of_many_styles(front):
    document = paper(front + "\n\\section{Results}\nIt grew.")
    assert (document.title, document.abstract) == ("A title", "A.")
    assert [(s.heading, s.text) for s in document.sections] == [("Results", "It grew.")]


def test_acknowledgments_as_a_declaration_end_at_the_next_heading():
    assert [s.heading for s in paper(r"\section{A} a \acknowledgments Hidden \section{B} b").sections] == ["A", "B"]


# ---------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("case", CASES["paper"], ids=lambda case: case["text"])
def test_latex_becomes_text(case):
    assert text(case["tex"], case.get("preamble", r"\newacronym{mc}{MC}{Monte Carlo}")) == case["text"]


@pytest.mark.parametrize("case", CASES["citations"], ids=lambda case: case["text"])
def test_citations_and_references(case):
    bibliography = r"\begin{thebibliography}{9}\bibitem[Ito \& Sato(1998)Ito and Sato]{ito} Ito.\end{thebibliography}"
    assert text(case["tex"], f_bbl=bibliography) == case["text"]
    assert text(case["tex"] + bibliography) == case["text"]


# ---------------------------------------------------------------------------------------------------------- files


def test_inputs_are_read_in_place_and_missing_ones_named():
    main = r"""\documentclass{article} \input{nowhere} \usepackage{own} \input macros
\begin{document} \section{A} One. \include{parts/b} \import{parts}{c} \input{gone} Last. \end{document}"""
    document, missing = read(
        main,
        parts_b_tex=r"\documentclass[../main]{subfiles}\begin{document}\section{B} Two \x. \input{main}\input{parts/b}"
        r"\end{document}",
        parts_c_tex=r"Three \y.",
        macros_tex=r"\newcommand{\x}{tins}",
        own_sty=r"\ProvidesPackage{own}\newcommand{\y}{irons}",
        main_tex="",
    )
    assert [(s.heading, s.text) for s in document.sections] == [("A", "One."), ("B", "Two tins. Three irons. Last.")]
    assert (missing.reason, missing.origin) == (latex.MISSING_INPUT, "f.tex#2")
    assert missing.message.endswith(": gone")


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        ("% a part\n\\section{A}\nb", latex.LATEX_PART, "another file inputs it"),
        ("\\documentclass[main]{subfiles}\\begin{document}a\\end{document}", latex.LATEX_PART, "inputs it"),
        ("\\NeedsTeXFormat{LaTeX2e}\n\\ProvidesPackage{x}\\newcommand{\\a}{b}", latex.LATEX_PART, "style file"),
        ("\\documentclass[t]{beamer}\n\\begin{document}a\\end{document}", NOT_A_PAPER, "slides"),
        ("\\documentclass{article}\\begin{document}Dear Editor, thanks.\\end{document}", NOT_A_PAPER, "referees"),
        ("\\documentclass{article}\\title{Response to the referees}\\begin{document}a\\end{document}",
         NOT_A_PAPER, "referees"),
        ("\\documentclass{article}\\begin{document}\\begin{table}a\\end{table}\\end{document}", UNREADABLE, "no text"),
        ("\\documentclass{article}\n\\title{Cut off", UNREADABLE, "no \\begin{document}"),
        ("\\magnification=1200\nHello\n\\bye", UNREADABLE, "plain TeX"),
    ],
)  # fmt: skip
def test_what_is_no_paper_says_why(content, reason, words):
    assert latex.recognise(content)
    (unread,) = read(content)
    assert (unread.origin, unread.reason) == ("f.tex#1", reason)
    assert words in unread.message


@pytest.mark.parametrize(
    ("file", "arxiv_id"),
    [
        ("a/2501.01234v2/main.tex", "2501.01234"), ("0704.0001.tex", "0704.0001"),
        ("x/hep-th9901001/p.tex", "hep-th/9901001"),
        ("math.GT/0309136/p.tex", "math/0309136"), ("2501.01234.gz", "2501.01234"), ("2501.01234/supplement.tex", ""),
        ("2513.01234.tex", ""), ("paper1234567.tex", ""),
    ],
)  # fmt: skip
def test_arxiv_ids_in_names(file, arxiv_id):
    (document,) = read("\\documentclass{article}\\begin{document}Some text.\\end{document}", file)
    assert document.id == (f"arxiv:{arxiv_id}" if arxiv_id else f"s:{file}#1")


def test_doi_and_language_as_stated():
    document = paper(
        r"\acmDOI{10.1145/ABC} Texte.", "%\\usepackage[german]{babel}\n\\usepackage[english, french]{babel}"
    )
    assert (document.id, document.doi, document.language) == ("doi:10.1145/abc", "10.1145/abc", "fr")


# ---------------------------------------------------------------------------------------------------------- hostile

BOMB = "".join(f"\\def\\{chr(97 + n)}{{{(chr(92) + chr(98 + n)) * 10}}}" for n in range(12))
DOUBLING = "".join(f"\\def\\{chr(97 + n)}#1{{\\{chr(98 + n)}{{#1#1}}}}" for n in range(25))


@pytest.mark.parametrize("preamble", [BOMB, DOUBLING, r"\def\a{\a\a}", r"\def\a{\a}", r"\def\a#1{\a{#1x}}"])
@pytest.mark.timed
def test_a_macro_bomb_stays_unexpanded_and_costs_itself_alone(preamble):
    started = time.process_time()
    assert text(r"Before \a{}{} \zz{} after.", preamble + r"\def\zz{still}") == "Before still after."
    assert time.process_time() - started < 5


@pytest.mark.parametrize("command", [r"\input{part}", r"\usepackage{part}", r"\usepackage{./part}", r"\input{none}"])
def test_a_file_that_is_input_over_and_over_is_decoded_once(tmp_path, monkeypatch, command):
    body = rf"\begin{{document}}\begin{{abstract}}Abstract.\end{{abstract}}{command * 3_000} Text.\end{{document}}"
    (tmp_path / "main.tex").write_text(r"\documentclass{article}" + body)
    (tmp_path / "part.tex").write_text("é ")
    (tmp_path / "part.sty").write_text(r"\def\a{é}")
    calls = Counter()
    inner = sources.decoded
    monkeypatch.setattr(sources, "decoded", lambda content, stated: calls.update([content]) or inner(content, stated))
    papers = [one for one in read_path(tmp_path) if isinstance(one, Document)]
    assert [paper.abstract for paper in papers] == ["Abstract."]
    assert set(calls.values()) <= {1}


def test_inputs_have_a_bound_whether_they_are_there_or_not():
    asked = []
    Flattener(lambda name: asked.append(name)).run("".join(rf"\input{{n{n}}}\usepackage{{s{n}}}" for n in range(3_000)))
    assert len(asked) <= 2 * MAX_INPUTS


def test_a_style_is_read_once_as_tex_does():
    asked = []
    Flattener(lambda name: asked.append(name) or r"\def\a{b}").run(r"\usepackage{mine, other}" * 50)
    assert asked == ["mine.sty", "other.sty"]


TEX = st.sampled_from(
    [*"\\{}$%#&[]()~^_'\"` \n", "\\begin{", "\\end{", "\\def\\x", "\\x", "\\cite", "\\item", "\\fi", "\\ifx", "\\'",
     "x", "\\section", "\\ce", "\\SI", "\\ensuremath", "\\input{a}", "\\title", "\\verb", "\ue010", "\ue142"]
)  # fmt: skip


@given(st.data())
def test_nothing_raises_and_every_file_gives_a_record(data):
    inserted = data.draw(st.text() | st.lists(TEX).map("".join))
    for content in (inserted, damaged(data, example("paper.tex"), TEX)):
        records = read(content, a_tex=inserted)
        assert isinstance(records[0], Document | Unread)
        assert len(records) == 1 or records[1].reason == latex.MISSING_INPUT
