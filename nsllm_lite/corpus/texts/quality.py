"""Rules that drop a cleaned document from all phases, each with a reason, measured on real dumps.

The limits have a margin to the values of 17,000 real abstracts, so that a rule drops broken documents and not unusual
ones. Repetition and symbols are judged in the spirit of Rae et al., "Scaling Language Models" (Gopher, 2021),
table A1, loosened for texts of 100 words, where a mathematician's abstract repeats its terms.
"""

import math
import re
import string
from itertools import islice

from nsllm_lite.corpus.shingles import words_of
from nsllm_lite.corpus.texts.clean import LOST
from nsllm_lite.corpus.texts.words import PATTERNS
from nsllm_lite.formats.documents import Document
from nsllm_lite.formats.scripts import UNSPACED

BODY_CHARS = 20_000  # enough to recognise a table, a listing or a list of names
MIN_WORDS = 20  # shares of fewer words say nothing
MIN_LETTER_SHARE = 0.5  # of characters that are not white space; the TeX of mathematicians stays above 0.6
MIN_LATIN_SHARE = 0.3  # of all bytes are ASCII letters, also among the initials and stops of a list of names
MAX_LOST_SHARE = 0.01  # one character in a hundred is one in each sentence: its formulas are gone
MAX_UPPER_SHARE = 0.5  # of ASCII letters; 0.2 is the most that a real abstract has
MIN_SMALL_WORD_SHARE = 0.3  # words in small letters; 0.4 is the least of real abstracts, 0.32 of real prose
MAX_REPEATED_SHARE = 0.4  # word 5-grams that stood there before; 0.3 is the most that a real abstract has
MIN_REPEATED_LINES = 4
MAX_REPEATED_LINE_SHARE = 0.3  # Gopher's limit
NOTICE_CHARS = 400  # a notice of withdrawal is short; a long abstract may study retracted papers

_NOT_LETTERS = re.compile(r"[\W\d_]+")
_NO_TITLE = re.compile(rf"\W*+({PATTERNS['no_title']})?\W*+", re.IGNORECASE)
_WITHDRAWN_TITLE = re.compile(PATTERNS["withdrawn_title"], re.IGNORECASE)
_WITHDRAWN_ABSTRACT = re.compile(PATTERNS["withdrawn_abstract"], re.IGNORECASE)
_NOT_RESEARCH = re.compile(rf"\W*+(?:{PATTERNS['not_research']})", re.IGNORECASE)
_INTRODUCED = re.compile(rf"\W*+(?:{PATTERNS['introduced']})", re.IGNORECASE)
_NOT_RESEARCH_ABSTRACT = re.compile(rf"\W*+(?:{PATTERNS['not_research_abstract']})", re.IGNORECASE)
# Lines that only open or close a formula say nothing of repetition.
_DELIMITER = re.compile(r"\\[\[\]]|\$\$?|\\(?:begin|end)\{[^{}]*\}(?:\{[^{}]*\})?|\\(?:left|right)\W{1,3}|[{}&\\.,]+")
_PLACEHOLDER = re.compile(rf"\W*+(?:{PATTERNS['placeholder']})\W*", re.IGNORECASE | re.DOTALL)
_UPPER, _LOWER = string.ascii_uppercase.encode(), string.ascii_lowercase.encode()


def reason_to_drop(document: Document) -> str:
    """The first rule that the document breaks; empty where it breaks none. `render` checks the length."""
    if not document.text and (reason := _reason_of_paper(document)):
        return reason
    main = document.text or "\n\n".join(section.text for section in document.sections)
    body = f"{document.abstract}\n\n{main}"[:BODY_CHARS].strip()
    words = body.split()
    if reason := _reason_of_body(body, words):
        return reason
    if main and document.abstract:  # a paper may say its abstract again
        body = main[:BODY_CHARS]
        words = body.split()
    return "repetition" if _is_repetitive(body, words) else ""


def _reason_of_paper(document: Document) -> str:
    title, abstract = document.title, document.abstract
    if _NO_TITLE.fullmatch(title):
        return "no_title"
    if _WITHDRAWN_TITLE.match(title) or (len(abstract) < NOTICE_CHARS and _WITHDRAWN_ABSTRACT.search(abstract[:200])):
        return "withdrawn"
    if _NOT_RESEARCH.match(title) or (len(abstract) < NOTICE_CHARS and _INTRODUCED.match(title)):
        return "not_research"
    if not document.sections and abstract:
        if _NOT_RESEARCH_ABSTRACT.match(abstract):
            return "not_research"
        if _PLACEHOLDER.fullmatch(abstract):
            return "placeholder"
        if len(abstract) < 2 * len(title) and words_of(abstract) == words_of(title):
            return "title_is_abstract"
    return ""


def _reason_of_body(body: str, words: list[str]) -> str:
    if LOST in body and body.count(LOST) > MAX_LOST_SHARE * len(body):
        return "lost_characters"
    encoded = body.encode(errors="replace")
    num_lower = len(encoded) - len(encoded.translate(None, _LOWER))  # where they are most, capitals decide nothing
    num_upper = 0 if 2 * num_lower > len(encoded) else len(encoded) - len(encoded.translate(None, _UPPER))
    num_letters = num_upper + num_lower
    if num_letters <= len(encoded) / 2:  # numbers and signs may outweigh the letters, of whatever script
        solid = "".join(body.split())
        if len(_NOT_LETTERS.sub("", solid)) < MIN_LETTER_SHARE * len(solid):
            return "not_text"
    if len(words) < MIN_WORDS:
        return ""
    is_latin = num_letters > MIN_LATIN_SHARE * len(encoded)  # what follows asks for small and capital letters
    if is_latin and num_upper > MAX_UPPER_SHARE * num_letters:
        return "upper_case"
    least = math.ceil(MIN_SMALL_WORD_SHARE * len(words))  # most texts have as many in their first half
    is_list = is_latin and next(islice(filter(str.islower, words), least - 1, None), None) is None
    return "list" if is_list else ""


def _is_repetitive(body: str, words: list[str]) -> bool:
    """Whether word 5-grams, or whole lines, stood there before; where most words are new, 5-grams are too."""
    if not body.isascii() and UNSPACED.search(body):
        words = words_of(body)
    if len(words) >= MIN_WORDS and len(set(words)) < 0.6 * len(words):
        fivegrams = list(zip(*(words[n:] for n in range(5)), strict=False))
        if len(fivegrams) - len(set(fivegrams)) > MAX_REPEATED_SHARE * len(fivegrams):
            return True
    lines = [line for line in body.split("\n") if line and not _DELIMITER.fullmatch(line)] if "\n" in body else []
    return len(lines) >= MIN_REPEATED_LINES and len(lines) - len(set(lines)) > MAX_REPEATED_LINE_SHARE * len(lines)
