"""LaTeX as authors write it: their own macros, many files, publishers' styles, and what is no paper."""

import io
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsllm_lite.corpus.files.opening import UNREADABLE, Unread
from nsllm_lite.corpus.sources import latex
from nsllm_lite.formats.documents import Document


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
    document = paper(r"""
\title[Short]{Tin whiskers\thanks{By X.}\\ at low $T_c$}
\author{A. N. Other} \affiliation{Nowhere}
\begin{abstract}We grow \emph{tin}.\end{abstract}
\keywords{tin}
\maketitle
Before all.
\part*{One}
\section[Intro]{\label{sec:a}Introduction}
New\footnote{A note.} words.

\begin{figure}[h]\includegraphics{x}\caption{Hidden \begin{tabular}{c}a\end{tabular}}\end{figure}
\begin{table*}Hidden\end{table*}
\begin{algorithm}Hidden\end{algorithm}
\begin{lstlisting}
Hidden \end{document} % \begin{figure}
\end{lstlisting}
\subsection*{Growth}
\paragraph{Vacuum.} We pumped.
\section{Acknowledgements} Hidden
\subsection{Hidden too}
\appendix
\section{Proof}
It holds.
\begin{acknowledgments}Hidden\end{acknowledgments}
\begin{thebibliography}{9}\bibitem{a} Hidden.\end{thebibliography}
""")
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
    ("front", "title"),
    [
        (r"\twocolumn[\icmltitle{A title}\icmlauthor{X}{y}\vskip 0.3in]\begin{abstract}A.\end{abstract}", "A title"),
        (r"\begin{frontmatter}\title{A title}\ead{a@b}\begin{abstract}A.\end{abstract}\begin{keyword}k\end{keyword}"
         r"\end{frontmatter}", "A title"),
        (r"\begin{titlepage}\begin{center}{\large\bf A\\ title}\\ X. Y\end{center}\begin{abstract}A.\end{abstract}"
         r"\end{titlepage}", "A title"),
        (r"\title{A title}\maketitle \section*{Abstract} A. \newpage", "A title"),
    ],
)  # fmt: skip
def test_front_matter_of_many_styles(front, title):
    document = paper(front + "\n\\section{Results}\nIt grew.")
    assert (document.title, document.abstract) == (title, "A.")
    assert [(s.heading, s.text) for s in document.sections] == [("Results", "It grew.")]


def test_acknowledgments_as_a_declaration_end_at_the_next_heading():
    assert [s.heading for s in paper(r"\section{A} a \acknowledgments Hidden \section{B} b").sections] == ["A", "B"]


def test_lists_theorems_and_quotes():
    preamble = r"\newtheorem{thm}{Theorem}[section]"
    assert text(r"""Thus:
\begin{itemize}[noitemsep]
\item one
\item[(b)] two

more of two
\begin{enumerate}\item deep\end{enumerate}
\end{itemize}
\begin{description}\item[Tin] is a metal.\end{description}
\begin{thm}[Main]\label{x} Tin is good.\end{thm}
\begin{proof}Trivial.\end{proof}
""", preamble) == (
        "Thus:\n\n- one\n- two more of two\n- deep\n\n- Tin: is a metal.\n\n"
        "Theorem (Main). Tin is good.\n\nProof. Trivial."
    )  # fmt: skip


def test_a_line_that_leaves_nothing_ends_no_paragraph():
    assert (
        text("one\n% comment\n\\label{x}\n\\newcommand{\\y}{z}\n\\iffalse no\n\nno \\fi\ntwo % end\n\nthree")
        == "one two\n\nthree"
    )


# ---------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("tex", "plain"),
    [
        (r"Erd\H{o}s, \v Cech, Fran\c{c}ois, na\"{\i}ve, Stra\ss e, \O rsted, \AA, \'Etienne, G\"odel, \o",
         "Erdős, Čech, François, naïve, Straße, Ørsted, Å, Étienne, Gödel, ø"),
        (r"``x'' `y' --- 1--2 don't \ldots\ 50\% \& \$5 a\_b Mr.~X 3\,K G\@.",
         "“x” 'y' — 1–2 don't … 50% & $5 a_b Mr. X 3 K G."),
        (r"\textbf{bold {\it and} \textcolor{red}{red}}\hspace{1cm}x\vskip 2pt plus 1fil y", "bold and red x y"),
        (r"\verb|\foo{%$|, \url{http://a.b/c_d%20e~f#g-h}, \href{http://x.y/%20}{site}",
         r"\foo{%$, http://a.b/c_d%20e~f#g-h, site"),
        (r"\SI{10}{\kelvin}, \qty{1.5e-5}{\milli\bar}, \num{3e4}, \SI{5}{\percent}, \SIlist{1;2}{\um}",
         "10 K, 1.5 × 10⁻⁵ mbar, 3 × 10⁴, 5%, 1 and 2 µm"),
        (r"\unit{\kilo\meter\per\second\squared}, \SIrange{1}{2}{m/s}, \si{m.s^{-1}}", "km s⁻², 1–2 m s⁻¹, m s⁻¹"),
        (r"\ce{H2O}, \ce{SO4^2-}, \ce{^{13}C}, \ce{2H2 + O2 -> 2H2O}, \ion{H}{2}",
         "H₂O, SO₄²⁻, ¹³C, 2H₂ + O₂ → 2H₂O, H II"),
        (r"10$^{-5}$ H$_2$O 3$\,^{\circ}$C 5$\pm$2 $\mu$m 4\textsuperscript{th}", "10⁻⁵ H₂O 3 °C 5±2 µm 4th"),
        (r"\gls{mc} \anything[x]{kept} \emph{also}", "MC kept also"),
    ],
)  # fmt: skip
def test_words(tex, plain):
    assert text(tex, r"\newacronym{mc}{MC}{Monte Carlo}") == plain


@pytest.mark.parametrize(
    ("tex", "plain"),
    [
        (r"Tin grows~\cite{a,b} fast \citep[see][p.~3]{a}, \cite{a}--\cite{b}.", "Tin grows fast."),
        (r"As in \cite{a}, see Ref.~\cite{b}. \cite{a} showed it. Done. \cite{a} Next.",
         "As in [citation], see Ref. [citation]. [citation] showed it. Done. Next."),
        (r"\citet{ito} and \citeauthor{ito} saw it, unlike \citet{none}.",
         "Ito & Sato (1998) and Ito & Sato saw it, unlike [citation]."),
        (r"It rose (see \cite{a} and Fig.~\ref{fig:x}) by 2 (left panel of Fig.~\ref{x}).", "It rose by 2."),
        (r"It rose (by 3, \citealt{a}).", "It rose (by 3)."),
        (r"Eqs.~(\ref{eq:a}) and (\ref{eq:b}) give \eqref{c}, \S\ref{d}, \cref{tab:x}, on page~\pageref{p}.",
         "Eqs. give Equation, Section, Table."),
    ],
)  # fmt: skip
def test_citations_and_references(tex, plain):
    bibliography = r"\begin{thebibliography}{9}\bibitem[Ito \& Sato(1998)Ito and Sato]{ito} Ito.\end{thebibliography}"
    assert text(tex, f_bbl=bibliography) == plain
    assert text(tex + bibliography) == plain


# ---------------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize(
    ("tex", "plain"),
    [
        (r"a \(x^2\) b \[ y = 1 \label{a} \quad . \] c $$z$$", "a $x^2$ b $$ y = 1. $$ c $$ z $$"),
        ("\\begin{equation}\n  E &= mc^2 % not this\n  \\label{e}\n\\end{equation}", "$$ E &= mc^2 $$"),
        (r"\begin{align} a &= b \nonumber\\[2pt] &= \begin{cases}1 & 2\\3\end{cases} \end{align}",
         r"$$ \begin{aligned} a &= b \\ &= \begin{cases}1 & 2\\3\end{cases} \end{aligned} $$"),
        (r"\begin{eqnarray*} a &=& b \end{eqnarray*}", "$$ a = b $$"),
        (r"\begin{gather}a\\b\end{gather}\begin{multline}c\\d\end{multline}",
         r"$$ \begin{gathered} a \\ b \end{gathered} $$ $$ c d $$"),
        (r"$T=\SI{1e3}{\m\per\s}$ and $\text{if $x$}$", r"$T=1 \times 10^{3}\,\mathrm{m\,s^{-1}}$ and $\text{if $x$}$"),
        ("It costs $5.\n\nThen $y$.", "It costs $5.\n\nThen $y$."),
    ],
)  # fmt: skip
def test_formulas(tex, plain):
    assert text(tex) == plain


def test_macros_are_expanded_where_they_are_simple():
    preamble = r"""
\newcommand{\ket}[1]{\left|#1\right\rangle} \newcommand*\mean[2][x]{\langle #2\rangle_{#1}}
\def\be{\begin{equation}}\def\ee{\end{equation}} \DeclareMathOperator*{\argmin}{arg\,min}
\providecommand{\vx}{\mathbf{x}} \let\eps\varepsilon \newenvironment{eqn}[1]{\begin{equation}#1}{\end{equation}}
\def\Msun{\ifmmode M_\odot\else $M_\odot$\fi} \newcommand{\code}[1]{\textsf{#1}\xspace} \newcommand{\tool}{\code{tool}}
\newcommand{\T}{\ensuremath{\mathrm{T}}} \renewcommand{\section}[1]{\@startsection{#1}} \def\pair#1,#2;{#1}
"""
    assert text(
        r"$\ket{\psi}$ $\mean{p}$ $\mean[q]{p}$ $\argmin_x$ $\hat\vx$ $\eps n$ \be a\ee \begin{eqn}{b}c\end{eqn} "
        r"3 \Msun, $3\Msun$ \tool\ and \tool. \T, $A^\T$ \pair a,b;",
        preamble,
    ) == (
        r"$\left|\psi\right\rangle$ $\langle p\rangle_{x}$ $\langle p\rangle_{q}$ $\operatorname*{arg\,min}_x$ "
        r"$\hat{\mathbf{x}}$ $\varepsilon n$ $$ a $$ $$ bc $$ 3 $M_\odot$, $3{M_\odot}$ tool and tool. $\mathrm{T}$, "
        r"$A^{\mathrm{T}}$ a,b;"
    )


def test_conditionals_that_can_be_decided():
    preamble = r"\newif\ifdraft \newif\iflong \longtrue"
    assert (
        text(r"a \ifdraft no \iflong no \fi\else b \fi \iflong c \else no \fi $p \iff q$", preamble)
        == "a b c $p \\iff q$"
    )


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
    ("content", "reason", "said"),
    [
        ("% a part\n\\section{A}\nb", latex.LATEX_PART, "another file inputs it"),
        ("\\documentclass[main]{subfiles}\\begin{document}a\\end{document}", latex.LATEX_PART, "inputs it"),
        ("\\NeedsTeXFormat{LaTeX2e}\n\\ProvidesPackage{x}\\newcommand{\\a}{b}", latex.LATEX_PART, "style file"),
        ("\\documentclass[t]{beamer}\n\\begin{document}a\\end{document}", latex.NOT_A_PAPER, "slides"),
        ("\\documentclass{article}\\begin{document}Dear Editor, thanks.\\end{document}", latex.NOT_A_PAPER, "referees"),
        ("\\documentclass{article}\\title{Response to the referees}\\begin{document}a\\end{document}",
         latex.NOT_A_PAPER, "referees"),
        ("\\documentclass{article}\\begin{document}\\begin{table}a\\end{table}\\end{document}", UNREADABLE, "no text"),
        ("\\documentclass{article}\n\\title{Cut off", UNREADABLE, "no \\begin{document}"),
        ("\\magnification=1200\nHello\n\\bye", UNREADABLE, "plain TeX"),
    ],
)  # fmt: skip
def test_what_is_no_paper_says_why(content, reason, said):
    assert latex.recognise(content)
    (unread,) = read(content)
    assert (unread.origin, unread.reason) == ("f.tex#1", reason)
    assert said in unread.message


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
    assert (document.id, document.doi, document.language) == ("doi:10.1145/abc", "10.1145/abc", "french")


@pytest.mark.parametrize(
    "head",
    [
        "Once upon a time there was \\emph{tin}.",
        '{"abstract": "\\\\begin{document} \\\\cite{a}"}', "<p>\\section{a}</p>",
        "@article{a, title={\\section{x}}}", "[1]\n", "Write \\documentclass{article} first.", "# Notes\n\\begin{x}",
        "import re\n\\documentclass{a}", "a,b\n\\x,1",
    ],
)  # fmt: skip
def test_other_formats_are_not_claimed(head):
    assert not latex.recognise(head)


def test_a_part_that_begins_with_prose_is_known_by_its_commands():
    assert latex.recognise(
        "We now turn to tin.\n\n\\subsection{Growth}\nIt grows.\n\\begin{equation}\na\n\\end{equation}"
    )


# ---------------------------------------------------------------------------------------------------------- hostile

BOMB = "".join(f"\\def\\{chr(97 + n)}{{{(chr(92) + chr(98 + n)) * 10}}}" for n in range(12))
DOUBLING = "".join(f"\\def\\{chr(97 + n)}#1{{\\{chr(98 + n)}{{#1#1}}}}" for n in range(25))
SIZE = 60_000


@pytest.mark.parametrize("preamble", [BOMB, DOUBLING, r"\def\a{\a\a}", r"\def\a{\a}", r"\def\a#1{\a{#1x}}"])
@pytest.mark.timed
def test_a_macro_bomb_stays_unexpanded_and_costs_itself_alone(preamble):
    started = time.process_time()
    assert text(r"Before \a{}{} \zz{} after.", preamble + r"\def\zz{still}") == "Before still after."
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "unit",
    ["{", "}", "\\a{", "\\cite[", "\\begin{figure}", "\\begin{q}", "${$}", "$$a{", "\\(", "\\[a", "\\verb|a",
     "\\url{a{b", "\\def\\a{", "\\iffalse ", "\\textsuperscript{", "\\section{a ", "\\ce{",
     "(a\\cite{b} ", "\\ref{b}, ", "%\n", "\\",
     "\\usepackage[a", "\\documentclass[", "\\begin{verbatim}", "\\newcommand{\\a}[1]{", "\\begin{a}\\end{a}"],
)  # fmt: skip
@pytest.mark.timed
def test_hostile_files_take_no_time(unit):
    """A file sixteen times as long would still be read within two seconds."""
    body = unit * (SIZE // len(unit))
    content = (
        "\\documentclass{article}\\def\\a#1{#1}\\newenvironment{a}{\\begin{a}}{\\end{a}}\\begin{document}Text. " + body
    )
    started = time.process_time()
    latex.recognise(content)
    assert len(read(content)) == 1
    assert time.process_time() - started < 5


VALID = (
    r"\documentclass{article}\newcommand{\x}[1]{a #1}\begin{document}\title{T}\begin{abstract}A.\end{abstract}"
    "\n\\section{S}\nText $x$ \\x{y} \\cite{k} \\SI{1}{\\m} \\verb|v|.\n"
    "\\begin{itemize}\\item i\\end{itemize}\n\\end{document}"
)
TEX = st.lists(
    st.sampled_from([*"\\{}$%#&[]()~^_'\"` \n", "\\begin{", "\\end{", "\\def\\x", "\\x", "\\cite", "\\item",
                     "\\fi", "\\ifx", "\\'", "x",
                     "\\section", "\\ce", "\\SI", "\\ensuremath", "\\input{a}", "\\title", "\\verb",
                     "\ue010", "\ue142"])
).map("".join)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(), TEX), st.integers(0, len(VALID)), st.integers(0, 40))
def test_nothing_raises_and_every_file_gives_a_record(inserted, at, cut):
    for content in (inserted, VALID[:at] + inserted + VALID[at + cut :]):
        if content.strip():
            latex.recognise(content.lstrip())
        records = read(content, a_tex=inserted)
        assert isinstance(records[0], Document | Unread)
        assert len(records) == 1 or records[1].reason == latex.MISSING_INPUT
