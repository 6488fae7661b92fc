import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsllm_lite.corpus.texts import language
from nsllm_lite.corpus.texts.language import language_of, reason

ENGLISH = (
    "We study how thin films of tin grow whiskers when they are kept under stress. The growth rate was "
    "measured at four temperatures and compared with a model of grain boundary diffusion, which explains "
    "both the delay and the length."
)
OTHERS = {
    "fr": "Nous étudions la croissance de filaments sur des couches minces d'étain soumises à une contrainte. La "
    "vitesse a été mesurée à quatre températures et comparée à un modèle de diffusion aux joints de grains.",
    "de": "Wir untersuchen das Wachstum von Fäden auf dünnen Schichten aus Zinn, die unter Spannung stehen. Die "
    "Geschwindigkeit wurde bei vier Temperaturen gemessen und mit einem Modell der Diffusion verglichen.",
    "es": "Estudiamos el crecimiento de filamentos en capas delgadas de estaño sometidas a tensión. La velocidad "
    "se midió a cuatro temperaturas y se comparó con un modelo de difusión en los límites de grano.",
    "it": "Studiamo la crescita di filamenti su strati sottili di stagno sottoposti a tensione. La velocità è "
    "stata misurata a quattro temperature e confrontata con un modello di diffusione ai bordi dei grani.",
    "pt": "Estudamos o crescimento de filamentos em camadas finas de estanho sob tensão. A velocidade foi medida a "
    "quatro temperaturas e comparada com um modelo de difusão nos contornos de grão, que explica os atrasos.",
    "nl": "Wij onderzoeken de groei van draden op dunne lagen van tin die onder spanning staan. De snelheid werd "
    "bij vier temperaturen gemeten en vergeleken met een model van de diffusie langs korrelgrenzen.",
    "pl": "Badamy wzrost włókien na cienkich warstwach cyny poddanych naprężeniu. Szybkość wzrostu zmierzono w "
    "czterech temperaturach i porównano z modelem dyfuzji po granicach ziaren, który wyjaśnia opóźnienie.",
    "ru": "Мы изучаем рост нитей на тонких слоях олова, находящихся под напряжением. Скорость роста измерена при "
    "четырёх температурах и сравнена с моделью диффузии по границам зёрен.",
    "zh": "我们研究了应力作用下锡薄膜上晶须的生长。在四种温度下测量了生长速率，并与晶界扩散模型进行了"
    "比较，该模型解释了延迟和长度。实验结果表明，应力是晶须生长的主要驱动力，温度升高会加快生长"
    "速率，但会缩短晶须的最终长度。",
}
FORMULAS = (
    " where $\\alpha_{ij} = \\sum_k x_k y_{kj}$ and $\\beta < 10^{-5}$, see https://example.org/whiskers "
    "(Na₂SO₄, 25 °C)."
)


@pytest.fixture
def no_library(monkeypatch):
    def refuse():
        raise AssertionError("the library is slow and was not needed")

    monkeypatch.setattr(language, "_identifier", refuse)


@pytest.mark.parametrize("text", [ENGLISH, ENGLISH.upper(), ENGLISH + FORMULAS * 2, ENGLISH.replace("tin", "Sn") * 50])
def test_clear_english_is_known_without_the_library(no_library, text):
    assert language_of(text)[0] == "en"
    assert language_of(text)[1] > 0.9


def test_foreign_names_leave_a_paper_english(no_library):
    assert language_of(ENGLISH * 2 + " We follow de Broglie and van der Waals.")[0] == "en"


@pytest.mark.parametrize("code", OTHERS)
def test_other_languages(code):
    found, confidence = language_of(OTHERS[code])
    assert found == code
    assert confidence >= language.MIN_CONFIDENCE
    assert language_of(OTHERS[code] + FORMULAS)[0] == code


def test_reason_names_what_is_not_allowed():
    assert reason(ENGLISH, ("en",)) == ""
    assert reason(OTHERS["fr"], ("en",)) == "language:fr"
    assert reason(OTHERS["fr"], ("en", "fr")) == ""
    assert reason(ENGLISH, ("fr",)) == "language:en"


@pytest.mark.parametrize("text", ["", "Sn whiskers", "$" + "x_1 + " * 80 + "y$", "1.5 2.5 " * 100, "=-" * 400])
def test_what_cannot_be_told_is_not_dropped(text):
    assert language_of(text) == ("", 0.0)
    assert reason(text, ("en",)) == ""


def test_a_guess_drops_nothing(monkeypatch):
    class Unsure:
        def classify(self, text):
            return "fr", language.MIN_CONFIDENCE - 0.01

    monkeypatch.setattr(language, "_identifier", Unsure)
    assert language_of(OTHERS["fr"])[0] == "fr"
    assert reason(OTHERS["fr"], ("en",)) == ""


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_any_text_has_an_answer(text):
    code, confidence = language_of(text)
    assert code == "" or 2 <= len(code) <= 3
    assert 0 <= confidence <= 1
    assert language_of(text) == (code, confidence)
