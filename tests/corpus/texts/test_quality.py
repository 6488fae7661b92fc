import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsllm_lite.corpus.texts import quality
from nsllm_lite.corpus.texts.quality import reason_to_drop
from nsllm_lite.formats.documents import Document, Section

PROSE = "Thin films of tin grow whiskers when they are kept under stress, and the rate of growth depends on the grains."
PAPER = Document("a", "s", "f#1", title="On the growth of tin", abstract=PROSE)
METHODS = (Section("Methods", PROSE + " We measured it."),)


def reason(**changes):
    return reason_to_drop(replace(PAPER, **changes))


def test_a_paper_is_kept():
    assert reason() == reason(sections=METHODS) == reason(abstract="", sections=METHODS) == ""


@pytest.mark.parametrize("title", ["", "[Not Available].", "[Title unknown.]", "Untitled", "-", "No title", "N/A"])
def test_no_title(title):
    assert reason(title=title) == "no_title"


@pytest.mark.parametrize("title", ["Na", "Untitled works of art, dated by tin", "Not available drugs: a survey", "Å"])
def test_a_short_or_odd_title_is_one(title):
    assert reason(title=title) == ("no_title" if title == "Na" else "")  # sodium alone names no paper


@pytest.mark.parametrize(
    "title",
    [
        "WITHDRAWN: On tin", "Withdrawn", "RETRACTED ARTICLE: On tin", "[Retracted] On tin", "Retraction: On tin",
        "Retraction Note to: On tin", "Retraction notice", "Notice of Retraction: On tin",
        "Expression of Concern: On tin", "This paper has been withdrawn", "Retracted: On tin",
        "Retraction to “On tin”",
    ],
)  # fmt: skip
def test_withdrawn_by_title(title):
    assert reason(title=title) == "withdrawn"


@pytest.mark.parametrize(
    "title",
    [
        "Why are papers retracted? A study of 300 cases", "Retraction of the tongue in lizards",
        "Drugs withdrawn from use", "Retracted tips in force microscopy", "Withdrawal symptoms of nicotine",
        "Expressions of concern in speech",
    ],
)  # fmt: skip
def test_not_withdrawn_by_title(title):
    assert reason(title=title) == ""


def test_withdrawn_by_abstract():
    assert reason(abstract="This paper has been withdrawn by the author due to an error.") == "withdrawn"
    assert reason(abstract="Retracted.") == "withdrawn"
    study = "We asked why a paper is retracted. The causes are errors, fraud and doubts that differ by field. "
    assert (
        reason(abstract=study + PROSE + " A survey of editors shows who decides. " + "It names further causes. " * 8)
        == ""
    )
    assert reason(abstract=PROSE + " The drug was withdrawn.") == ""


@pytest.mark.parametrize(
    "title",
    [
        "Erratum: On tin [J. Tin 12, 3 (2001)]", "Corrigendum to “On tin”", "Errata", "Correction: On tin",
        "Corrections", "Correction to: On tin", "Author Correction: On tin", "Publisher’s Correction",
        "Author's reply", "Authors' response", "The authors reply", "Reply", "In reply",
        "Response to the letter by A. Smith", "Letter to the Editor", "Editorial", "Editorial: tin in the news",
        "Guest editorial - tin", "Editorial Board", "Editors' note", "From the Editor", "Front Matter",
        "Front Matter: Volume 1234", "Back cover", "Table of Contents", "Contents", "Index", "Author Index",
        "Subject index to volume 12", "Masthead", "Preface", "Foreword", "In this issue", "Issue Information",
        "Book Reviews", "Book review: Tin and its uses", "Obituary: A. Smith (1920-2001)", "Announcements",
        "Call for Papers", "Acknowledgement to reviewers", "List of participants", "Instructions for authors",
        "Correspondence", "Abstracts", "Correction to “On tin”",
    ],
)  # fmt: skip
def test_not_research(title):
    assert reason(title=title) == "not_research"


@pytest.mark.parametrize(
    "title",
    [
        "Index theorems on manifolds", "Refractive index of tin", "Corrections to scaling in the Ising model",
        "Index 2 fields", "Correction of lens errors by annealing", "Correction to the Casimir force of tin",
        "Error correction", "Newsprint", "Comment on “Growth of tin”", "Reply to “Comment on growth of tin”",
        "Response of tin to stress", "Fronts in tin", "Front propagation in tin", "Back to the roots",
        "Editorial decisions and bias in peer review: a study of tin", "Contents of tin in soils",
        "Preface cards in decision aids", "Letters as stimuli", "Prefaces to tin: a history", "Covering maps",
        "Abstracts of tin papers as training text", "Correspondence principles in tin", "Content analysis",
        "Author responses to reviews: a corpus", "Announcement effects in markets", "Reply trees in forums",
    ],
)  # fmt: skip
def test_research_though_the_title_sounds_like_a_notice(title):
    assert reason(title=title) == ""


@pytest.mark.parametrize(
    "abstract",
    [
        "No abstract available.", "[No abstract available]", "n/a", "N/A", "Abstract", "Abstract not available",
        "None", "[Figure: see text].", "Not available", "No abstract is available", "Abstract is missing.",
        "See full text", "This article has no abstract", "Lorem ipsum dolor sit amet, consectetur.",
    ],
)  # fmt: skip
def test_placeholder(abstract):
    assert reason(abstract=abstract) == "placeholder"
    assert reason(abstract=abstract, sections=METHODS) == ""  # the sections are of use


@pytest.mark.parametrize(
    "abstract", ["No abstract model fits. " + PROSE, "None of the films broke.", "Abstract games."]
)
def test_not_a_placeholder(abstract):
    assert reason(abstract=abstract) == ""


def test_title_is_abstract():
    assert reason(title="On tin", abstract="ON TIN.") == "title_is_abstract"
    assert reason(title="On tin", abstract="On tin we report.") == ""
    assert reason(title="On tin", abstract="On tin.", sections=METHODS) == ""


def test_not_text():
    assert reason(abstract="0.1 0.2 | 0.3 0.4 | 17 18 19 ab") == "not_text"
    assert reason(abstract="рост 12 μm и 25 %") == ""
    assert reason(abstract=PROSE + " 0.1 0.2 0.3") == ""
    assert reason(abstract="12345 + 67890 = " * 30 + PROSE) == "not_text"
    assert reason(abstract="Let $\\alpha_{i,j} \\le \\frac{\\partial u}{\\partial t}$ be small. " * 2) == ""


def test_lost_characters():
    assert (
        reason(abstract="We show that n\ufffd\ufffd2 for any m\ufffd\ufffd1 in the graph of tin whiskers here.")
        == "lost_characters"
    )
    assert reason(abstract=PROSE + " H\ufffdlder.") == ""


def test_upper_case():
    assert reason(abstract=PROSE.upper()) == "upper_case"
    assert reason(abstract="THIN FILMS OF TIN. " + PROSE) == ""


def test_list():
    names = "Li, X.; Wu, Y.; Smith, A. B.; Jones, C. D.; Brown, E.; Müller, F.; Rossi, G. H.; Silva, J. K.; Novak, L."
    assert reason(abstract=names) == "list"
    assert reason(abstract="In Japan, Korea, China, India, Peru, Chile and Spain, " + PROSE) == ""
    assert reason(abstract="我们研究了 应力 作用下 锡薄膜 上晶须 的生长 " * 5) != "list"  # a script without capitals


def test_a_paper_may_say_its_abstract_again():
    assert reason(sections=(Section("Introduction", PROSE),)) == ""


def test_repetition():
    assert reason(abstract=" ".join([PROSE] * 3)) == "repetition"
    assert reason(abstract=PROSE + " " + PROSE.replace("tin", "zinc").replace("whiskers", "hairs, and lead does")) == ""
    lines = "\n\n".join(
        ["Page of tin", "Tin is a metal that melts", "Page of tin", "It grows whiskers in air", "Page of tin"]
    )
    text = lines + "\n\nand they can be as long as a finger when the metal is old"
    assert reason(title="", abstract="", text=text) == "repetition"
    assert reason(title="", abstract="", text=text.replace("Page", "Leaf", 1).replace("Page", "Side", 1)) == ""


def test_general_text_is_asked_only_about_its_body():
    assert reason(title="", abstract="", text=PROSE) == reason(title="Editorial", abstract="", text=PROSE) == ""
    assert reason(title="", abstract="", text=PROSE.upper()) == "upper_case"


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text(), st.text())
def test_any_document_has_an_answer(title, abstract, text):
    assert isinstance(reason_to_drop(replace(PAPER, title=title, abstract=abstract, text=text)), str)


@pytest.mark.timed
def test_hostile_titles_and_texts_take_linear_time():
    started = time.process_time()
    for piece in (
        "a ",
        "A ",
        "- ",
        "[",
        "No abstract ",
        "correction ",
        "paper ",
        "withdrawn ",
        "1",
        "\ufffd",
        "x\n",
        "abstract is ",
    ):
        reason(title=piece * 20_000, abstract=piece * 20_000)
    assert time.process_time() - started < 5


def test_the_limits_are_named():
    assert 0 < quality.MAX_LOST_SHARE < quality.MIN_SMALL_WORD_SHARE < quality.MIN_LETTER_SHARE < 1
