"""Tags of every scheme become IOB2, answers are read strictly, and F1 is that of seqeval in its strict mode."""

import json
import warnings

import numpy as np
import pytest

from nsllm_lite.tasks import entities as ner
from nsllm_lite.tasks.entities import Sentence, read_entities
from nsllm_lite.tasks.scores import compare, estimate
from tests.raising import raises


def read(tmp_path, text: str, name: str = "a.txt"):
    (tmp_path / name).write_text(text)
    return read_entities(tmp_path / name)


def scored(gold: list[str], given: list[str]) -> float:
    rows = [row.split() for row in gold], [row.split() for row in given]
    kinds = sorted({tag[2:] for side in rows for row in side for tag in row if tag != "O"})
    return ner.f1(ner.tallies(*rows, kinds))


def test_an_answer_that_begins_with_i_is_no_entity():
    """seqeval's default gives 1.0 here."""
    assert scored(["B-X I-X"], ["I-X I-X"]) == 0
    assert scored(["B-X I-X"], ["B-X I-X"]) == 1


def test_tags_that_begin_no_entity_are_counted():
    assert ner.num_unbegun([["I-X", "I-X", "O", "I-X"], ["B-X", "I-X", "I-Y"]]) == 3  # one follows another


def test_f1_by_hand():
    """Gold has 3 entities and the answers 3, of which one has both right bounds and the right type."""
    assert scored(["B-X I-X O B-Y", "B-X"], ["B-X I-X O B-X", "O"]) == pytest.approx(2 * 1 / (3 + 2))
    assert scored(["B-X I-X I-X"], ["B-X I-X O"]) == 0
    assert scored(["B-X B-X"], ["B-X I-X"]) == 0


def test_f1_is_that_of_seqeval():
    from seqeval.metrics import classification_report, f1_score
    from seqeval.scheme import IOB2

    rng = np.random.default_rng(0)
    tags = np.array(["O", "B-X", "I-X", "B-Y", "I-Y"])
    given = [list(tags[rng.integers(5, size=rng.integers(1, 9))]) for _ in range(200)]
    gold = [
        list(ner.as_iob2(row)) if rng.random() < 0.6 else list(ner.as_iob2(rng.choice(tags, len(row)))) for row in given
    ]
    rows = ner.tallies(gold, given, ("X", "Y"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = f1_score(gold, given, mode="strict", scheme=IOB2)
        report = classification_report(gold, given, mode="strict", scheme=IOB2, output_dict=True)
    assert 0.2 < theirs < 0.9
    assert ner.f1(rows) == pytest.approx(theirs)
    assert ner.macro_f1(rows) == pytest.approx(report["macro avg"]["f1-score"])
    assert ner.by_type(rows) == pytest.approx([report[kind]["f1-score"] for kind in "XY"])
    assert ner.precision(rows) == pytest.approx(report["micro avg"]["precision"])
    assert ner.recall(rows) == pytest.approx(report["micro avg"]["recall"])


def test_intervals_and_differences_are_over_sentences():
    gold = [["B-X"]] * 30 + [["B-Y"]] * 10
    good, bad = gold, [["B-X"]] * 20 + [["O"]] * 20
    rows, other = (ner.tallies(gold, given, ("X", "Y")) for given in (good, bad))
    found = estimate(other, ner.f1, seed=0)
    assert found.value == pytest.approx(2 * 20 / 60)
    assert found.low < found.value < found.high
    assert compare(other, rows, ner.f1, seed=0).p < 0.01
    of_y = ner.figures(other, ("X", "Y"))["f1 Y"]
    assert of_y[1](of_y[0]) == 0
    with raises("ner-tags-uneven"):
        ner.tallies([["O", "O"]], [["O"]], ())


@pytest.mark.parametrize(
    ("given", "expected", "scheme"),
    [
        ("I-X I-X B-X O I-Y I-X", "B-X I-X B-X O B-Y B-X", "IOB1"),
        ("B-X I-X B-X O B-Y B-X", "B-X I-X B-X O B-Y B-X", "IOB2"),
        ("B-X E-X S-X O S-Y S-X", "B-X I-X B-X O B-Y B-X", "IOBES"),
        ("B-X L-X U-X O U-Y U-X", "B-X I-X B-X O B-Y B-X", "BILOU"),
        ("B I O", "B-entity I-entity O", "IOB2"),
    ],
)
def test_schemes_are_found_and_converted(given, expected, scheme):
    assert " ".join(ner.as_iob2(given.split())) == expected
    assert ner.scheme_of([given.split()]) == (scheme, 0)


def test_a_file_of_iob1_in_four_columns(tmp_path):
    found = read(
        tmp_path, "-DOCSTART- NN O O\n\nOld NN O I-X\nice NN O I-X\nmelts NN O O\n\n-DOCSTART- NN O O\n\nice NN O I-X\n"
    )
    assert found.items == (
        Sentence(("Old", "ice", "melts"), ("B-X", "I-X", "O"), "1"),
        Sentence(("ice",), ("B-X",), "2"),
    )
    assert found.notes == ("IOB1, read as IOB2",)


def test_broken_tags_are_mended_and_counted(tmp_path):
    """I- after O, and after another type, in a file in which entities begin with B-."""
    found = read(tmp_path, "a\tB-X\nb\tI-Y\nc\tO\nd\tI-X\n")
    assert found.items[0].tags == ("B-X", "B-Y", "O", "B-X")
    assert [note[:2] for note in found.notes] == ["2 "]


def test_words_without_a_tag_comments_and_words_of_blanks(tmp_path):
    words = "".join(f"w{n} O\n" for n in range(200))
    found = read(tmp_path, f"# id 1\n{words}% \nMPa m B-X\n# O\n")
    assert found.items[0].words[-3:] == ("%", "MPa m", "#")
    assert found.items[0].tags[-3:] == ("O", "B-X", "O")
    assert any("202" in note for note in found.notes)
    assert any(note.startswith("1 lines") for note in found.notes)
    with raises("ner-tags-missing", "lines 1 (1)"):
        read(tmp_path, "% \nice B-X\nmelts O\n")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a\tO\nb\tO\n", "ner-no-entities"),
        ("", "ner-file-unfit"),
        ("alone\nwords\n", "ner-file-unfit"),
        ("a\tB-X\nb\tnoun\n", "example-unfit"),
        ("a\tx\tB-X\nb\tx\tO\nc\tx\ty\tO\n", "example-unfit"),
    ],
)
def test_files_of_something_else(tmp_path, text, code):
    with raises(code):
        read(tmp_path, text)


def test_spans_of_characters(tmp_path):
    text = "Old sea-ice melts."
    spans = [
        {"start": 4, "end": 11, "label": "X"},
        {"start": 8, "end": 11, "label": "Y"},
        {"start": 13, "end": 16, "label": "Y"},
    ]
    found = read(tmp_path, json.dumps({"text": text, "spans": spans, "paper": "p"}), "a.jsonl")
    assert found.items == (
        Sentence(("Old", "sea", "-", "ice", "melts", "."), ("O", "B-X", "I-X", "I-X", "B-Y", "O"), "p"),
    )
    assert len(found.notes) == 2  # one span is brought to its word's ends, one lies within another
    for start, end in ((0, 99), (3, 4), (5, 5)):
        spans = [{"start": start, "end": end, "label": "X"}]
        with raises("example-unfit", "line 1"):
            read(tmp_path, json.dumps({"text": text, "spans": spans}), "a.jsonl")


def test_the_dictionary_takes_the_longest_entity_and_its_commonest_type():
    train = [
        Sentence(("Sea", "ice"), ("B-X", "I-X")),
        Sentence(("ice", "ice"), ("B-Y", "B-Y")),
        Sentence(("ice",), ("B-X",)),
    ]
    test = [Sentence(("old", "sea", "ice", "ice"), ("O", "B-X", "I-X", "B-X"))]
    assert ner.dictionary_floor(test, train) == [["O", "B-X", "I-X", "B-Y"]]


def test_the_dictionary_of_other_fifths_does_not_know_its_own_sentence():
    test = [Sentence((f"word{n}",), ("B-X",)) for n in range(5)]
    assert ner.dictionary_floor(test) == [["O"]] * 5
    assert ner.dictionary_floor(test * 2) == [["B-X"]] * 10
