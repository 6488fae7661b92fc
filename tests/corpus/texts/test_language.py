import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.corpus.texts import language
from nsllm_lite.corpus.texts.language import language_of, may_be_in_two, part_in, reason, sure_language
from tests.corpus.small import DATA

TEXTS = tomllib.loads((DATA / "languages.toml").read_text())
ENGLISH, FRENCH = TEXTS["en"], TEXTS["fr"]
FORMULAS = (
    " where $\\alpha_{ij} = \\sum_k x_k y_{kj}$ and $\\beta < 10^{-5}$, see https://example.org/whiskers "
    "(Na₂SO₄, 25 °C)."
)


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH, ENGLISH.upper(), ENGLISH + FORMULAS * 2, ENGLISH.replace("tin", "Sn") * 50,
        ENGLISH * 2 + " We follow de Broglie and van der Waals.",
    ],
)  # fmt: skip
def test_clear_english_is_known_without_the_library(monkeypatch, text):
    monkeypatch.setattr(language, "_identifier", lambda: pytest.fail("the library is slow and was not needed"))
    assert language_of(text)[0] == "en"
    assert language_of(text)[1] > 0.9


@pytest.mark.parametrize("code", TEXTS)
def test_languages(code):
    found, confidence = language_of(TEXTS[code])
    assert found == code
    assert confidence >= language.MIN_CONFIDENCE
    assert language_of(TEXTS[code] + FORMULAS)[0] == code


def test_reason_names_what_is_not_allowed():
    assert reason(sure_language(ENGLISH), ("en",)) == ""
    assert reason(sure_language(FRENCH), ("en",)) == "language:fr"
    assert reason(sure_language(FRENCH), ("en", "fr")) == ""
    assert reason(sure_language(ENGLISH), ("fr",)) == "language:en"


def test_an_abstract_in_two_languages_gives_the_half_that_is_wanted():
    for first, second in ((ENGLISH, FRENCH), (FRENCH, ENGLISH)):
        for gap in (" ", "", "\n\n", " Résumé. "):
            assert part_in(first + gap + second, ("en",)).removeprefix("Résumé. ") == ENGLISH
    eastern = "我们在空气中制备了锡薄膜，并测量了晶须的生长速度。结果表明应力决定了晶须的长度，"
    eastern += "温度越高生长越快，基底的影响很小。这对电子器件的可靠性很重要。"
    assert part_in(eastern + ENGLISH, ("en",)) == ENGLISH
    assert part_in(f"{ENGLISH}\n\n{eastern}", ("zh",)) == eastern
    for other in (eastern, *(TEXTS[code] for code in ("fr", "de", "ru"))):
        assert may_be_in_two(f"{ENGLISH} {ENGLISH}\n\n{other}")
        assert part_in(f"{ENGLISH} {ENGLISH}\n\n{other}", ("en",)) == f"{ENGLISH} {ENGLISH}"
    assert not may_be_in_two(ENGLISH * 3 + " after de Broglie and van der Waals" + FORMULAS)
    assert part_in(f"{ENGLISH} {FRENCH}", ("de",)) == part_in(FRENCH, ("en",)) == part_in("", ("en",)) == ""


@pytest.mark.parametrize("text", ["", "Sn whiskers", "$" + "x_1 + " * 80 + "y$", "1.5 2.5 " * 100, "=-" * 400])
def test_what_cannot_be_told_is_not_dropped(text):
    assert language_of(text) == ("", 0.0)
    assert reason(sure_language(text), ("en",)) == ""


def test_a_guess_drops_nothing(monkeypatch):
    class Unsure:
        def classify(self, text):
            return "fr", language.MIN_CONFIDENCE - 0.01

    monkeypatch.setattr(language, "_identifier", Unsure)
    assert language_of(FRENCH)[0] == "fr"
    assert reason(sure_language(FRENCH), ("en",)) == ""


@given(st.text(max_size=300))
def test_any_text_has_an_answer(text):
    code, confidence = language_of(text)
    assert code == "" or 2 <= len(code) <= 3
    assert 0 <= confidence <= 1
    assert language_of(text) == (code, confidence)


@pytest.mark.parametrize("code", ["zh", "ja", "ko"])
def test_eastern_languages_are_known_by_their_characters_with_numbers_between(code, monkeypatch):
    text = tomllib.loads((DATA / "encodings.toml").read_text())[code]["text"].replace(" ", "")
    monkeypatch.setattr(language, "_identifier", None)
    assert language_of(f"{text[:30]}500{text[30:]}") == (code, 1.0)
    assert reason(code, ["en", code]) == reason(code, []) == ""
