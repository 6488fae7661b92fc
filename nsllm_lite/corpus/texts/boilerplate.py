"""Removes what publishers and databases add to an abstract: its label, copyright notices, licences, lists of keywords.

A notice is cut only from the end, and only where no word between its first sign and the end can belong to a sentence:
all are capitalised, numbers, links, or among the words that notices are made of. So "we discuss copyright" stays.
"""

import re

from nsllm_lite.corpus.texts.words import PATTERNS, WORDS

WINDOW_CHARS = 700  # the longest notice met, a licence in full, has about 500
MAX_KEYWORD_WORDS = 6

_LABEL = re.compile(rf"\s*(?:{PATTERNS['label']})")
# In small letters; without one of them there is nothing to cut.
_HINTS = ("©", "(c)", "copyright", "reserved", "published ", "licen", "open access", "database record", "truncated")
_HINTS += ("keyword", "key word", "index terms")
_START = re.compile(PATTERNS["notice"])
_LINK = re.compile(r".*(?:://|@)|www\.|doi:|10\.\d{4,9}/")
_SMALL_WORD = re.compile(r"(?<![\w.])[^\W\d_A-Z][\w.-]*")
_OWNER = re.compile(PATTERNS["owner"])
_REFERENCE = re.compile(  # "Cancer Res; 78(5); 1214-24." between the last sentence and the notice
    r"(?<=[.!?])\s+\(?[A-Z][\w&]*\.?(?: (?:\(?[A-Z][\w&]*\)?\.?,?|of|and|in|the|for|Part)){0,8}[ ;:,.]*"
    r"(?:(?:19|20)\d\d|\d{1,4}\s*[;:(])[\d\s;:,.()–-]{0,40}(?:[A-Z]?\d{1,6}(?:[–-][A-Z]?\d{1,6})?)?[.)]*$"
)
_KEYWORDS = re.compile(
    r"(?:(?<=[.!?)\]”\"])\s+|\n\s*|^)(?:Key\s?words?(?: and phrases)?|KEY\s?WORDS?|Index [Tt]erms)"
    r"\s?[:.—–-]\s*(\S[^\0]*)$"
)
_SEPARATOR = re.compile(r"[,;:·•.\n/|()]|\s[-–—]\s")


def without_label(text: str) -> str:
    """The abstract without the word "Abstract" or "Summary" before it; the word alone stays."""
    label = _LABEL.match(text)
    return text[label.end() :] if label and label.end() < len(text) else text


def without_boilerplate(text: str) -> str:
    """The abstract without a label before it and without notices and keywords after it."""
    text = without_label(text)
    end = len(text)
    while end:
        cut = _cut(text, max(0, end - WINDOW_CHARS), end)
        if cut == end:
            break
        end = cut
    return text[:end]


def _cut(text: str, start: int, end: int) -> int:
    """Where text[start:end] ends without its last notice or list of keywords."""
    window = text[start:end].rstrip()
    small = window.lower()
    if not any(hint in small for hint in _HINTS):
        return end
    keywords = _KEYWORDS.search(window)
    if keywords and all(len(item.split()) <= MAX_KEYWORD_WORDS for item in _SEPARATOR.split(keywords[1])):
        return start + len(window[: keywords.start()].rstrip())
    for found in _START.finditer(window):
        before = window[: found.start()].rstrip()
        # A sentence ends before the sign, or the sign is one that nothing but a notice begins with.
        ends_here = not before or before[-1] in ".!?)]}>\"'”’%;:,*$" or found[0].endswith(("©", "(c)", "(C)"))
        if ends_here and _is_notice(window[found.start() :]):
            reference = _REFERENCE.search(before[-160:])
            if reference:
                before = before[: len(before) - len(before[-160:]) + reference.start()]
            return start + len(before)
    return end


def _is_notice(text: str) -> bool:
    if len(text) > 3 and text[:3] in ("(c)", "(C)") and not _OWNER.search(text):
        return False  # an item of a list: (a) ..., (b) ..., (c) Si
    text = " ".join(word for word in text.split() if not _LINK.match(word))
    return all(word.strip(".-").lower() in WORDS["notices"] for word in _SMALL_WORD.findall(text) if len(word) > 1)
