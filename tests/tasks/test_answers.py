"""What is read out of a model's text, and what counts as equal."""

import pytest

from nsllm_lite.tasks.answers import is_equal, parse_label, parse_letter, parse_line, parse_result

DISCIPLINES = ("Biology", "Chemistry", "Computer Science", "Medicine", "Physics")
MOVES = ("Background", "Conclusions", "Methods", "Objective", "Results")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Physics", "Physics"),
        (" physics.", "Physics"),
        ("The answer is **Computer Science**.", "Computer Science"),
        ("<think>Chemistry or Physics? Chemistry.</think>\nBiology", "Biology"),
        ("It could be Chemistry.\n\nFinal answer: Biology", "Biology"),
        ("This abstract is about physics", "Physics"),
        ("Between Biology and Chemistry", None),
        ("Biophysics", None),
        ("", None),
        ("<think>Physics it is", None),  # cut off while reasoning
    ],
)
def test_labels(text, label):
    assert parse_label(text, DISCIPLINES) == label


def test_a_label_in_the_singular():
    assert parse_label("Conclusion", MOVES) == "Conclusions"
    assert parse_label("The objective.", MOVES) == "Objective"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("D. The fourth", "D"),
        ("A) first", "A"),
        ("The answer is (B).", "B"),
        ("A is wrong, so the correct answer is: D", "D"),
        ("\\boxed{C}", "C"),
        ("Reasoning at length.\n\nB", "B"),
        ("A photon has no charge.", None),  # an article, not a choice
        ("<think>B</think>\n\nC", "C"),
        ("Either (A) or (B)", None),
        ("Only (B) follows from it, as shown", "B"),
        ("", None),
        ("E", None),
        ("The answer is a photon, so C.", "C"),
        ("The correct option is a bit hidden: (C)", "C"),
        ("The answer is a photon.", None),
        ("The answer is not A.", None),
        ("The answer is b.", "B"),
        ("The answer is (b), a photon", "B"),
        ("answer: b) a photon", "B"),
        ("\\boxed{c}", "C"),
    ],
)
def test_letters(text, letter):
    assert parse_letter(text, "ABCD") == letter


def test_a_letter_that_the_question_does_not_have():
    assert parse_letter("D", "ABC") is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("On light\nIt is fast", "On light"),
        ('**Title:** "On light"', "On light"),
        ("<think>hm</think>\n\nTitle: On light", "On light"),
        ("\n \n", None),
    ],
)
def test_lines(text, line):
    assert parse_line(text) == line


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("42", "42"),
        ("So \\boxed{\\frac{1}{2}} and then \\boxed{x^{2}+1}", "x^{2}+1"),
        ("It is long.\nThe answer is $4.76$.", "$4.76$"),
        ("First 3\nthen 5", "then 5"),
        ("<think>\\boxed{3}</think> 7", "7"),
        ("\\boxed{3", "\\boxed{3"),
        ("  ", None),
    ],
)
def test_results(text, result):
    assert parse_result(text) == result


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("0.5", "\\frac{1}{2}"),
        ("1/2", "0.5"),
        ("$x+1$", "1+x"),
        ("4.760", "4.76"),
        ("2 n \\ln(n)", "2n\\ln n"),
        ("1.6e-19", "1.6 × 10⁻¹⁹"),
        ("−2", "-2"),
        ("10,000", "10000"),
        ("Mitochondria", "mitochondria."),
        ("sodium  chloride", "Sodium chloride"),
        ("No", "no"),
        ("DNA", "dna"),
        ("2 electrons", "2 Electrons"),
        ("5 mW", "5mW"),
        ("10^2", "10²"),
        ("10 000", "10,000"),
        ("10\\,000", "10000"),
        ("2 1/2", "2.5"),
        ("2½", "2\\frac{1}{2}"),
        ("xⁿ", "x^n"),
    ],
)
def test_equal(answer, right):
    assert is_equal(answer, right)
    assert is_equal(right, answer)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("4.75", "4.76"), ("act", "cat"), ("(1,2)", "(2,1)"), ("", "3"), ("x", "x^2"), ("9^{9^{9^{9}}}", "3"),
        ("102", "10²"), ("1019", "10¹⁹"), ("x2", "x²"), ("xn", "xⁿ"), ("3 4", "34"), ("3 4", "7"),
        ("2 1/2", "21/2"), ("2½", "21/2"), ("Co", "CO"), ("CO2", "Co2"), ("5 mW", "5 MW"), ("5.0 mW", "5 MW"),
        ("5 Mbar", "5 mbar"), ("5 m/s", "5 M/s"), ("MeV", "meV"), ("x^2", "X^2"), ("\\Delta x", "\\delta x"),
    ],
)  # fmt: skip
def test_not_equal(answer, right, monkeypatch):
    monkeypatch.setattr("nsllm_lite.tasks.answers.COMPARE_SECONDS", 1)
    assert not is_equal(answer, right)
