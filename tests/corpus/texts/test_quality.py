import time
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.corpus.texts.quality import reason_to_drop
from nsllm_lite.formats.documents import Document, Section
from tests.corpus.small import DATA

PROSE = "Thin films of tin grow whiskers when they are kept under stress, and the rate of growth depends on the grains."
PAPER = Document("a", "s", "f#1", title="On the growth of tin", abstract=PROSE)
METHODS = (Section("Methods", PROSE + " We measured it."),)
STUDY = "We asked why a paper is retracted. The causes are errors, fraud and doubts that differ by field. "
LONG = f"{STUDY}{PROSE} A survey of editors shows who decides. " + "It names further causes. " * 8
NAMES = "Li, X.; Wu, Y.; Smith, A. B.; Jones, C. D.; Brown, E.; Müller, F.; Rossi, G. H.; Silva, J. K.; Novak, L."
LINES = "Page of tin\n\nTin is a metal that melts\n\nPage of tin\n\nIt grows whiskers in air\n\nPage of tin"
LINES += "\n\nand they can be as long as a finger when the metal is old"
DELIMITED = r"\[ a \] $ b $ $$ c $$ \[ d \] \begin{x} e \end{x} \begin{x} $ f $".replace(" ", "\n\n")
CASES = [
    (field, reason, text)
    for field, texts_by_reason in tomllib.loads((DATA / "quality.toml").read_text()).items()
    for reason, texts in texts_by_reason.items()
    for text in texts
]


def reason(**changes):
    return reason_to_drop(replace(PAPER, **changes))


def test_a_paper_is_kept():
    assert reason() == reason(sections=METHODS) == reason(abstract="", sections=METHODS) == ""


@pytest.mark.parametrize(("field", "expected", "text"), CASES)
def test_titles_and_abstracts(field, expected, text):
    assert reason(**{field: text}) == expected.replace("kept", "")


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        ("", {"abstract": "No abstract available.", "sections": METHODS}),  # the sections are of use
        ("", {"abstract": f"No abstract model fits. {PROSE}"}),
        ("withdrawn", {"abstract": "This paper has been withdrawn by the author due to an error."}),
        ("", {"abstract": LONG}),
        ("", {"abstract": f"{PROSE} The drug was withdrawn."}),
        ("", {"title": "Obituary of a star", "abstract": LONG}),
        ("", {"title": "Editor's Choice: On the growth of tin", "abstract": LONG}),
        ("title_is_abstract", {"title": "On tin", "abstract": "ON TIN."}),
        ("", {"title": "On tin", "abstract": "On tin we report."}),
        ("", {"title": "On tin", "abstract": "On tin.", "sections": METHODS}),
        ("not_text", {"abstract": "0.1 0.2 | 0.3 0.4 | 17 18 19 ab"}),
        ("", {"abstract": "рост 12 μm и 25 %"}),
        ("", {"abstract": f"{PROSE} 0.1 0.2 0.3"}),
        ("not_text", {"abstract": "12345 + 67890 = " * 30 + PROSE}),
        ("", {"abstract": r"Let $\alpha_{i,j} \le \frac{\partial u}{\partial t}$ be small. " * 2}),
        ("lost_characters", {"abstract": "We show that n\ufffd\ufffd2 for any m\ufffd\ufffd1 in a graph of tin."}),
        ("", {"abstract": f"{PROSE} H\ufffdlder."}),
        ("upper_case", {"abstract": PROSE.upper()}),
        ("", {"abstract": f"THIN FILMS OF TIN. {PROSE}"}),
        ("list", {"abstract": NAMES}),
        ("", {"abstract": f"In Japan, Korea, China, India, Peru, Chile and Spain, {PROSE}"}),
        ("repetition", {"abstract": " ".join([PROSE] * 3)}),
        ("", {"abstract": f"{PROSE} " + PROSE.replace("tin", "zinc").replace("whiskers", "hairs, and lead does")}),
        ("", {"sections": (Section("Introduction", PROSE),)}),  # a paper may say its abstract again
        # Of general text the body alone is judged.
        ("repetition", {"title": "", "abstract": "", "text": LINES}),
        ("", {"title": "", "abstract": "", "text": LINES.replace("Page", "Leaf", 1).replace("Page", "Side", 1)}),
        ("", {"abstract": f"{PROSE}\n\n{DELIMITED}"}),
        ("", {"title": "", "abstract": "", "text": PROSE}),
        ("", {"title": "Editorial", "abstract": "", "text": PROSE}),
        ("upper_case", {"title": "", "abstract": "", "text": PROSE.upper()}),
    ],
)
def test_rules_and_what_they_leave(expected, changes):
    assert reason(**changes) == expected


def test_a_script_without_capitals_is_no_list():
    assert reason(abstract="我们研究了 应力 作用下 锡薄膜 上晶须 的生长 " * 5) != "list"


@given(st.text(), st.text(), st.text())
def test_any_document_has_an_answer(title, abstract, text):
    assert isinstance(reason_to_drop(replace(PAPER, title=title, abstract=abstract, text=text)), str)


@pytest.mark.timed
def test_hostile_titles_and_texts_take_linear_time():
    started = time.process_time()
    pieces = ("a ", "A ", "- ", "[", "No abstract ", "correction ", "paper ", "withdrawn ", "1", "\ufffd", "x\n")
    for piece in (*pieces, "abstract is "):
        reason(title=piece * 20_000, abstract=piece * 20_000)
    assert time.process_time() - started < 5


def test_chinese_that_repeats_itself_is_repetition():
    sentence = "我们研究了应力作用下锡薄膜上晶须的生长，"
    assert reason(abstract=sentence * 8) == "repetition"
    assert reason(abstract=tomllib.loads((DATA / "encodings.toml").read_text())["zh"]["text"]) == ""
