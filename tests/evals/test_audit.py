"""Each finding of the auditor on small files that have it, and on clean ones that have not."""

import json
import re

import pytest

from nsllm_lite import cli
from nsllm_lite.evals import audit
from nsllm_lite.tasks.items import Item, choices_of, stem_of
from nsllm_lite.tasks.multiple_choice import TASK as MULTIPLE_CHOICE
from tests.raising import raises


def items(*rows):
    return [Item(number, text, output, choices_of(text)) for number, (text, output) in enumerate(rows)]


def write(path, rows, lines=False):
    records = [{"instruction": "x", "input": text, "output": output} for text, output in rows]
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
    return path


def test_duplicates_and_what_contradicts_itself():
    found = audit.duplicates(items(("A b.", "x"), ("a  B", "y"), ("A b.", "x"), ("c", "x"), ("d", "y"), ("D!", "y")))
    assert (found["exact"], found["normalised"]) == (1, 3)
    assert found["rows"] == [[0, 1, 2], [4, 5]]
    assert (found["conflicting"], found["conflicting_rows"]) == (1, [0, 1, 2])
    assert found["ceiling"] == pytest.approx(5 / 6)


def test_the_same_input_under_another_instruction_is_another_question():
    rows = [Item(number, "", str(number), {}, f"What is {number}?") for number in range(4)]
    found = audit.duplicates([*rows, Item(4, "A text.", "x", {}, "Name it."), Item(5, "A text.", "y", {}, "Date it.")])
    assert (found["exact"], found["normalised"], found["conflicting"], found["ceiling"]) == (0, 0, 0, 1.0)


def test_characters():
    rows = items(
        ("lost \ufffd\ufffd here", "and \ufffd"), ("cafÃ© au lait", "x"),
        ("a plain text of letters that goes on, Ҧ", "x"),
        ("Łódź, Ångström, Müller, naïve, α-decay, 5 µm, Târgu Mureș", "x"), ("Это русский текст", "x"),
    )  # fmt: skip
    found = audit.examine(rows)["characters"]
    assert (found["lost_inputs"], found["lost_outputs"], found["lost_characters"]) == ([0], [0], 3)
    assert found["repairable"] == [1]
    assert found["strange_letters"] == [2]


def test_forms():
    rows = items(
        ("a tt-PIR scheme", "x"), ("phase II of 5 mm (ii), $n\\geq 2$", "x"), ("see https://x.org", "x"),
        ("We show that the tin whiskers grow fast.", "The tin whiskers grow"), ("2+2?", "<think>so</think>\n4"),
    )  # fmt: skip
    assert audit.examine(rows)["forms"] == {
        "doubled_letters": [0], "glued_latex": [], "urls": [2], "answer_in_input": [3], "reasoning_in_output": [4],
    }  # fmt: skip
    assert audit.examine(items(("for n≥2n\\geq 2 we", "x")))["forms"]["glued_latex"] == [0]
    assert rows[4].answer == "4"


QUESTION = "Which?\nI. one\nII. two\nChoices:\n(A): I only\n(B): II only\n(C): {}\n(D): {}\n"


def test_multiple_choice():
    rows = items(
        (QUESTION.format("I and II", "none"), "C"), (QUESTION.format("both", "both"), "D"), ("Q?\nA. x\nB. y", "B"),
    )  # fmt: skip
    assert [list(item.choices) for item in rows] == [list("ABCD"), list("ABCD"), ["A", "B"]]
    assert rows[0].choices["A"] == "I only"
    assert audit.kind_of(rows) == "multiple choice"
    third = pytest.approx(1 / 3)
    assert audit.multiple_choice(rows) == {
        "options": {2: 1, 4: 2}, "letters": {"B": 1, "C": 1, "D": 1}, "equal_options": [1], "gold_is_longest": third,
        "majority": third,
    }  # fmt: skip


FORMS = [
    "A．1\nB．2", "A、1\nB、2", "A：1\nB：2", "(A) 1\n(B) 2", "(A): 1\n(B): 2", "(a) 1\n(b) 2", "  Ａ. 1\n  Ｂ. 2",
    "A. 1  B. 2", "A. 1 B. 2", "（A）1（B）2", "A.1；B.2", "- **A.** 1\n- **B.** 2", "[A] 1\n[B] 2",
    "Option A: 1\nOption B: 2", "A. s\nB. t\nC. u\nOf these?\nA. 1\nB. 2", "(A) 1 (B) both (A) and (B)",
]  # fmt: skip
GOLD = ["B", "b", "(B)", "（Ｂ）", "B. 2", "B) 2", "答案：B", "<think>A?</think>\n\\boxed{B}"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gold", GOLD)
def test_audit_and_evaluation_agree_on_what_is_multiple_choice(form, gold):
    rows = items((f"下列？{form}" if "（" in form else f"Which?\n{form}", gold))
    assert list(rows[0].choices) == ["A", "B"]
    assert audit.kind_of(rows) == "multiple choice"
    assert audit.examine(rows)["choices"]["letters"] == {"B": 1}
    assert [item.answer for item in MULTIPLE_CHOICE.fitted(rows, "x")] == ["B"]


def test_lines_of_two_options_and_letters_that_are_none():
    assert choices_of("?\nA. 1 B. 2\nC. 3 D. 4") == {"A": "1", "B": "2", "C": "3", "D": "4"}
    assert choices_of("?\nA. 1\nB. 2 C. 3\nD. 4") == {"A": "1", "B": "2", "C": "3", "D": "4"}
    for text in (
        "Vitamin A. B. subtilis",
        "P(A) = 1, P(B) = 0",
        "pair A, B; (b - a)(c - a)",
        "ACAC (A), oBligations(B)",
    ):
        assert choices_of(text) == {}


def test_gold_that_names_no_option_or_two_is_unfit_to_both():
    unfit = [("?\nA. 1\nB. 2", gold) for gold in ("B. 1", "D", "A and B", "2", "not B", "")]
    for row in unfit:
        assert audit.kind_of(items(row)) == "free text"
        with raises("task-answer-unfit", "x: record 0"):
            MULTIPLE_CHOICE.fitted(items(row), "x")
    found = audit.examine(items(*[("?\nA. 1\nB. 2", "B")] * 6, *unfit))
    assert (found["kind"], found["choices"]["unfit"]) == ("multiple choice", list(range(6, 12)))
    assert any(count == "6" and "eval refuses" in words for count, words in audit.words_of(found))


def labelled(count=60):
    """Words tell the one label, the look of the text another, nothing the third."""
    rows = []
    for number in range(count):
        rows.append((f"gold and silver {'abcdefg'[number % 7]} ore", "metal"))
        rows.append((f"ROCK {number}; ROCK {number + 1}", "stone"))
        rows.append((f"some café {'abcdefg'[number % 7]} ore", "food"))
    return rows


def test_classes_floor_and_shortcut():
    rows = items(*labelled())
    assert audit.kind_of(rows) == "classification"
    found = audit.classification(rows)
    assert found["labels"] == {"food": 60, "metal": 60, "stone": 60}
    assert found["majority"] == pytest.approx(1 / 3)
    assert found["non_ascii"] == {"food": 1.0, "metal": 0.0, "stone": 0.0}
    assert found["words"]["macro_f1"] == pytest.approx(1.0)
    assert found["look"]["f1"]["stone"] == pytest.approx(1.0)
    letters_only = items(*((f"{'gold' if number % 2 else 'iron'} ore", "ab"[number % 2]) for number in range(80)))
    found = audit.classification(letters_only)
    assert found["words"]["macro_f1"] == pytest.approx(1.0)
    assert found["look"]["macro_f1"] < 0.7
    few = items(("a", "x"), ("b", "y"), ("c", "x"))
    assert "words" not in audit.classification(few)
    assert audit.kind_of(few) == "free text"


def test_masking_leaves_the_look_only():
    assert audit.masked("An Å in 10 µm: (VEGF)") == "Aa \x01 aa 00 \x01a: (AAAA)"


SENTENCE = "They short circuits after years, and nobody knows the"
ABSTRACT = f"Tin whiskers grow from plated films. {SENTENCE} exact reason why."


def test_leakage_by_sentence():
    here = items((SENTENCE, "x"), ("Tin whiskers", "y"), ("Other words.", "z"))
    assert audit.leaked(here, items(("nothing", "x"), (ABSTRACT, "x"))) == [(0, 1, pytest.approx(38 / 54, abs=0.2))]
    assert audit.leaked(items((ABSTRACT, "x")), here) == []


def test_the_command(tmp_path, capsys):
    one = write(tmp_path / "one.json", [*labelled(), (ABSTRACT, "stone"), (ABSTRACT.upper(), "metal")])
    two = write(tmp_path / "two.jsonl", [(SENTENCE, "a")], lines=True)
    assert cli.main(["audit", str(one), str(two), "--out", str(tmp_path / "audit.json")]) == 0
    text = capsys.readouterr().out
    for line in (r"one\.json: 182 rows", r" *1 .*2 rows.*99\.5%", r"two\.jsonl: 1 of 1 .*one\.json"):
        assert re.search(f"^{line}", text, re.M), line
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["between"] == [{"in": "one.json", "of": "two.jsonl", "rows": [[0, 180]]}]
    assert found["files"]["one.json"]["duplicates"]["conflicting_rows"] == [180, 181]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "items-file-unreadable"), (b"[{", "items-file-unreadable"), (b"\xff", "items-file-unreadable"),
        (b"[]", "items-file-empty"), (b'[{"input": "x"}]', "items-record-unfit"), (b"[3]", "items-record-unfit"),
        (b'[{"input": "x", "output": "A", "choices": ["a"]}]', "items-record-more"),
    ],
)  # fmt: skip
def test_files_that_are_none(tmp_path, content, code):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with raises(code, path):
        audit.audit([path])


def test_keys_that_are_not_used_are_named_with_their_counts(tmp_path, capsys):
    records = [{"input": "x", "output": "y", "history": []} | ({"subject": 1} if n else {}) for n in range(3)]
    (tmp_path / "x.json").write_text(json.dumps(records))
    audit.audit([tmp_path / "x.json"])
    assert "not used: history (3), subject (2)" in capsys.readouterr().out


def test_a_file_named_twice(tmp_path):
    path = write(tmp_path / "good.json", [("a", "b")])
    with raises("audit-file-repeated"):
        audit.audit([path, path])


def test_the_place_of_sentences_and_the_lead_of_titles_are_floors(tmp_path, capsys):
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    abstracts, moves = [], []
    for number in range(30):
        sentences = [" ".join(f"{word}{number}{part}" for word in words) for part in "xyz"]
        abstracts.append((". ".join(sentences), f"{words[0]}{number}x {words[1]}{number}x of {number}"))
        moves += [(sentence, label) for sentence, label in zip(sentences, ("first", "mid", "last"), strict=True)]
    titles, labelled_moves = write(tmp_path / "titles.json", abstracts), write(tmp_path / "moves.json", moves)
    found = audit.audit([titles, labelled_moves], None)
    assert found["files"]["titles.json"]["titles"]["first 12 words"] == pytest.approx(2 * 2 / 16)
    assert found["between"][0]["position"]["order"] == ["first", "mid", "last"]
    assert found["between"][0]["position"]["macro_f1"] == pytest.approx(1.0)
    assert "accuracy 1.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("question", "stem"),
    [
        ("What is 2?\nChoices:\n(A): 0\n(B): 4\n", "What is 2?"),
        ("Is it so? A. yes  B. no", "Is it so?"),
        ("题目是什么？\n选项：\nA、甲\nB、乙", "题目是什么？"),
        ("Which vitamin?\nOptions: A) C B) D", "Which vitamin?"),
        ("Vitamin A or C?", "Vitamin A or C?"),
        ("It has these choices:", "It has these"),
    ],
)
def test_the_stem_is_what_stands_before_the_choices(question, stem):
    assert stem_of(question) == stem
