from dataclasses import replace

import pytest

from nsllm_lite.corpus.clean import clean_document, clean_text, reason_to_drop
from nsllm_lite.document import Document

PAPER = Document("a", "s", "f#1", title="On tin", abstract="Tin grows whiskers under stress.")


@pytest.mark.parametrize(
    "text",
    [
        "5 µm ± 2 Å at 25 °C",
        "1.54 Å±0.02 Å",
        "10⁻⁵ cm² H₂O Ca²⁺ × · ½ ﬁ",
        "Ø±3 mm, TGF-ß²",
        "Å² Å³ 5 Å°",
        "α–β → γ ≤ ∞",
        "naïve café",
    ],
)
def test_symbols_of_science_survive_unchanged(text):
    assert clean_text(text) == text


def test_mojibake_is_repaired_and_the_rest_settled():
    assert clean_text("donâ€™t Â±5 Î±-helix CafÃ©") == "don’t ±5 α-helix Café"
    assert clean_text("e\u0301 p &amp;lt; 1\u00a0µm\x07 so\u00adft \u200bx\ud800") == "é p < 1 µm soft x\ufffd"
    assert clean_text(" one \r\ntwo\n \n\n three\n- a\n- b ") == "one two\n\nthree\n- a\n- b"


def test_all_fields_are_cleaned():
    document = clean_document(replace(PAPER, title="A\n  B", moves=(("M\n", " x  y "),), origin="\udcff#1"))
    assert (document.title, document.moves, document.origin) == ("A B", (("M", "x y"),), "\ufffd#1")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"title": ""}, "no_title"),
        ({"title": "WITHDRAWN: On tin"}, "withdrawn"),
        ({"abstract": "This paper has been withdrawn by the author due to an error."}, "withdrawn"),
        ({"abstract": "We study why papers are retracted. " * 20}, ""),
        ({"abstract": "0.1 0.2 | 0.3 0.4 | 17 18 19 ab"}, "not_text"),
        ({"title": "", "abstract": "", "text": "General text needs no title."}, ""),
    ],
)
def test_reasons_to_drop(changes, reason):
    assert reason_to_drop(replace(PAPER, **changes)) == reason
