"""Removes what publishers and databases add to an abstract: its label, copyright notices, licences, lists of keywords.

A notice is cut only from the end or the beginning, and only where no word between its first sign and its last can
belong to a sentence: all are capitalised, numbers, links, the name of an owner, or among the words and phrases that
notices are made of. So "we discuss copyright" stays.
"""

import re

from nsllm_lite.corpus.texts.words import PATTERNS, WORDS

WINDOW_CHARS = 700  # the longest notice met, a licence in full, has about 500
MAX_KEYWORD_WORDS = 6

_LABEL = re.compile(rf"\s*(?:{PATTERNS['label']})")
# In small letters; without one of them there is nothing to cut.
_HINTS = ("©", "(c)", "copyright", "reserved", "published ", "licen", "open access", "database record", "truncated")
_HINTS += ("keyword", "key word", "index terms", "doi:", "doi.org/10.", "doi 10.", "? 20", "?20", "\ufffd 20", "ó 20")
_HINTS += ("for this article", "online version", "public domain", "responsib", "permission", "advance online")
_HINTS += ("derechos", "direitos", "droits", "版权", "版權")
# Each hint, and of those that share a part only this: few windows hold one.
_PARTS = ("doi", "?", "key", "online", "publi")
_IN_ASCII = (*_PARTS, *(hint for hint in _HINTS if hint.isascii() and not any(part in hint for part in _PARTS)))
# No alternative begins with a blank or another small letter than c, d, h and p: most characters are passed at once.
_START = re.compile(rf"(?![abe-gi-oq-z ])(?:{PATTERNS['notice']}|(?P<doi>{PATTERNS['notice_doi']}))")
_LEAD = re.compile(rf"\s*(?:{PATTERNS['leading_notice']})")
_LEAD_SHORT = re.compile(PATTERNS["leading_short"])
LEAD_CHARS = 500
_LEAD_END = re.compile(  # of a sentence, not behind an initial ("S. Karger") or an abbreviation
    r"(?<!\s[A-Z])(?<!\bSt)(?<!\bCo)(?<!\bU\.S)(?<!\bNo)(?:[.!\]](?:\s+(?=[^\sa-z])|(?=[A-Z][a-z]))|。\s*)|\n|$"
)
_PHRASES = re.compile(PATTERNS["notice_phrases"])
_SIGNED = re.compile(
    rf"(?:{PATTERNS['copyright_sign']})[\s©]{{0,3}}(?:\([cC]\)\s?)?(?:(?:19|20)\d\d)?,?\s+(?:[Bb]y\s)?"
)
_OWNER_END = re.compile(r"[.;](?=\s|$)|\s(?=Publi|Production|All [Rr]ights|Tous|Todos|Alle|©|\([cC]\))|$")
OWNER_CHARS = 160
_FOREIGN = re.compile(rf"\b(?:{PATTERNS['foreign_owner']})")
_NO_OWNER = WORDS["english"] - WORDS["in_owners"]
_LINK = re.compile(r".*(?:://|@)|www\.|[Dd][Oo][Ii]:|[\w-]+\.(?:com|org|net)/|10\.\d{4,9}/")
_SMALL_WORD = re.compile(r"(?<![\w.])[^\W\d_A-Z][\w.-]*")
_COMPANY = re.compile(PATTERNS["owner"])
_OWNER = re.compile(rf"(?:19|20)\d\d|{PATTERNS['owner']}")
_REFERENCE = re.compile(  # "Cancer Res; 78(5); 1214-24." between the last sentence and the notice
    r"(?<=[.!?])\s+\(?[A-Z][\w&]*\.?(?: (?:\(?[A-Z][\w&]*\)?\.?,?|of|and|in|the|for|Part)){0,8}[ ;:,.]*"
    r"(?:(?:19|20)\d\d|\d{1,4}\s*[;:(])[\d\s;:,.()–-]{0,40}(?:[A-Z]?\d{1,6}(?:[–-][A-Z]?\d{1,6})?)?[.)]*$"
)
_KEYWORDS = re.compile(
    r"(?:(?<=[.!?)\]”\"])\s+|\n\s*|^)(?:Key\s?words?(?: and phrases)?|KEY\s?WORDS?|Index [Tt]erms)"
    r"\s?[:.—–-]\s*(\S[^\0]*)$"
)
_KEYWORDS_BEFORE = re.compile(  # an abstract: one sentence, with a mark between two of its items
    r"(?:Key\s?words?(?: and phrases)?|KEY\s?WORDS?|Index [Tt]erms)\s?[:.—–-]\s*([^.\n]{1,400})(?:\.\s+(?=[A-Z])|\n\s*)"
)
OPENING_CHARS = 60  # of an abstract, by which a second copy of it is found
_LABEL_BEHIND = re.compile(r"\b(?:Abstract|ABSTRACT|Summary|SUMMARY)\s?[:.]?\s*$")
_PUNCTUATION = re.compile(r"[^\w\s]*")
_CHINESE = re.compile(r"[（(]?[\u4e00-\u9fff]{0,4}(?:版权|版權|著作权|著作權)[^。a-z]{0,40}(?:。[^。a-z]{0,40}){0,2}$")
_SEPARATOR = re.compile(r"[,;:·•.\n/|()]|\s[-–—]\s")


def without_label(text: str) -> str:
    """The abstract without the word "Abstract" or "Summary" before it; the word alone stays."""
    label = _LABEL.match(text)
    return text[label.end() :] if label and label.end() < len(text) else text


def without_boilerplate(text: str) -> str:
    """The abstract without a label or notices before it and without notices and keywords after it."""
    text = without_label(text)
    text = text[_lead(text) :]
    keywords = _KEYWORDS_BEFORE.match(text)
    if keywords and _are_keywords(keywords[1]):
        text = text[keywords.end() :]
    end = len(text)
    while end:
        cut = _cut(text, max(0, end - WINDOW_CHARS), end)
        if cut == end:
            break
        end = cut
    return text[:end]


def once(text: str) -> str:
    """An abstract once that its source holds twice, one copy behind the other or within it, a notice between them."""
    place = text.find(text[:OPENING_CHARS], OPENING_CHARS) if len(text) > 3 * OPENING_CHARS else -1
    if place < 0:
        return text
    first, second = without_boilerplate(_LABEL_BEHIND.sub("", text[:place])), text[place:]
    before, rest = _solid(first), _solid(second)
    num = (len(before) + len(rest)) // 2  # of one copy, where the other stands around it
    if before == rest:
        return second
    if before + rest[num:] == rest[:num]:
        letters = [n for n in range(place, len(text)) if text[n].isalnum()]
        end = letters[num - 1] + 1
        return text[place : end + len(_PUNCTUATION.match(text, end)[0])]
    if len(before) >= OPENING_CHARS and (rest.startswith(before) or _is_copy(first, second)):
        return second if len(second) >= len(first) else first  # either may be cut short
    if before.startswith(rest) and len(rest) > 0.5 * len(before):
        return first
    return text


def _is_copy(first: str, second: str) -> bool:
    """Whether two texts have nine of ten words in common."""
    one, other = set(first.split()), set(second.split())
    return len(one & other) >= 0.9 * max(len(one), len(other), 20)


def _solid(text: str) -> str:
    """Letters and digits alone."""
    return "".join(filter(str.isalnum, text))


def _lead(text: str) -> int:
    """Where the text begins behind the notices before it."""
    if not (found := _LEAD.match(text)):
        return 0
    place, after = 0, found.end()
    while place < len(text):
        end = place
        for stop in _LEAD_END.finditer(text, after, place + LEAD_CHARS):
            part = text[place : stop.end()]
            if (_OWNER.search(part) or (place and _START.match(part))) and _is_notice(part):
                end = stop.end()
                break
        if end == place:
            break
        place = after = end
    one = None if place else _LEAD_SHORT.match(text)
    return one.end() if one else place


def _cut(text: str, start: int, end: int) -> int:
    """Where text[start:end] ends without its last notice or list of keywords."""
    window = text[start:end].rstrip()
    small = window.lower()
    if (small.isascii() and not _holds_one(small, _IN_ASCII)) or not _holds_one(small, _HINTS):
        return end
    keywords = _KEYWORDS.search(window)
    is_whole = keywords and (keywords.start() or not _KEYWORDS_BEFORE.match(window))
    if is_whole and _are_keywords(keywords[1]):
        return start + len(window[: keywords.start()].rstrip())
    for found in _START.finditer(window):
        before = window[: found.start()].rstrip()
        # A sentence ends before the sign, or the sign is one that nothing but a notice begins with.
        ends_here = not before or before[-1] in ".!?)]}>\"'”’%;:,*$。！？" or found[0].endswith(("©", "(c)", "(C)"))
        if found["doi"]:
            ends_here = not before or before[-1] in '.!?)]}"”' or "\n" in window[len(before) : found.start() + 1]
        if ends_here and _is_notice(window[found.start() :]):
            reference = _REFERENCE.search(before[-160:])
            if reference:
                before = before[: len(before) - len(before[-160:]) + reference.start()]
            return start + len(before)
    return end


def _holds_one(text: str, hints: tuple[str, ...]) -> bool:
    for hint in hints:  # noqa: SIM110 (takes half the time of any())
        if hint in text:
            return True
    return False


def _are_keywords(text: str) -> bool:
    return all(len(item.split()) <= MAX_KEYWORD_WORDS for item in _SEPARATOR.split(text))


def _is_notice(text: str) -> bool:
    if len(text) > 3 and text[:3] in ("(c)", "(C)") and not _OWNER.search(text):
        return False  # an item of a list: (a) ..., (b) ..., (c) Si
    if text[:1] in "?\ufffdÓ" and not _COMPANY.search(text):
        return False  # a sign that was no ©
    if not text.isascii() and _CHINESE.match(text):
        return True
    text = _without_owners(_PHRASES.sub(" ", text))
    text = " ".join(word for word in text.split() if not _LINK.match(word))
    small = (word for word in _SMALL_WORD.findall(text) if len(word) > 1 and word.islower())  # not "cE-Bs"
    return all(word.strip(".-") in WORDS["notices"] for word in small)


def _without_owners(text: str) -> str:
    """A notice without the names of owners in other languages, whose small words no list holds."""
    parts, place = [], 0
    for signed in _SIGNED.finditer(text):
        if signed.start() < place:
            continue
        end = _OWNER_END.search(text, signed.end()).start()
        owner = text[signed.end() : end]
        if len(owner) <= OWNER_CHARS and _FOREIGN.search(owner) and _NO_OWNER.isdisjoint(owner.split()):
            parts.append(text[place : signed.end()])
            place = end
    return "".join((*parts, text[place:]))
