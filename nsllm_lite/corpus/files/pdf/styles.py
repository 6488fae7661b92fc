"""Which lines are headings, and how deep: by their numbers, by the names that sections have, and by the styles learnt
from those.

Publishers' fonts have names such as AdvTT99c4c969, which do not say that they are bold: what tells a heading is that it
stands alone in a style that little of the text has. A heading may run into its paragraph ("2.1. Subjects. We took").
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from nsllm_lite.corpus.files.lines import names_references, unspaced
from nsllm_lite.corpus.files.outline import printed_number
from nsllm_lite.corpus.files.pdf.blocks import SAME_SIZE, Measures, is_caption
from nsllm_lite.corpus.files.pdf.lines import Line, Style
from nsllm_lite.corpus.texts.words import PATTERNS
from nsllm_lite.formats.headings import Mark, mark, plain
from nsllm_lite.formats.scripts import EASTERN

MAX_CHARS, MAX_WORDS, MAX_LINES = 180, 24, 4
MIN_TEXT_CHARS = 40  # of a line of text in a style of its own
MAX_SHARE = 0.06  # of the characters are in a style of headings
MIN_RUN_INS = 2
MAX_NUMBERED = 500
MAX_NUMBER = 30
MAX_NAME_WORDS, MAX_EASTERN_CHARS = 6, 16  # of the name of a section
MAX_SURE_NAME_WORDS = 3  # of a name that is the whole heading, with no second line
# Points between the sizes of a line and of the text: what is smaller by more than the first is no heading, by less than
# the second is as large, and larger by more than the third is set apart.
MAX_SMALLER, AS_LARGE, LARGER = 1.1, 0.3, 0.8
MAX_LEAD_SHARE = 0.3  # of a line, in a style of its own without a number: more leads into a paragraph
MAX_STEP = 1.6  # of the size: between the lines of one heading
MIN_LETTERS, MIN_EASTERN_LETTERS, MIN_LETTER_SHARE = 3, 2, 0.5
MIN_INDENT = 4  # points
FULL_SHARE, PROSE_SHARE = 0.1, 0.15  # of its column's width is free behind a line that is full, or of prose
MAX_LEAD_WORDS, MIN_LEAD_LETTERS, MAX_ASIDE_WORDS = 12, 4, 6  # of a heading that runs into its paragraph
MAX_LEAD_POINTS = 0.6  # between the sizes of such a line and of the text
MIN_OFTEN = 2  # headings in one look, where neither names nor numbers tell
_KNOWN = frozenset((Mark.METHODS, Mark.RESULTS, Mark.OTHER, Mark.NEVER))
_NUMBERED = re.compile(r"([1-9]\d?)(?:\.\d{1,2}){0,4}\.?\s*[^\W\d_]|[IVX]{1,5}\.\s+[^\W\d_]|[A-Z]\.\s+[^\W\d_]{2}")
_ARABIC = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,4})\.?\s*(?=[^\W\d])")
_SENTENCE_END = re.compile(r"[.!?:;。！？：；][\"'”’)\]]*$")
_NO_HEADING = re.compile(r"[=<>≤≥±∼∑∫√@]|https?://|www\.|\bet al\b|\d{4}[;:]\d")
_STATEMENT = re.compile(rf"(?:{PATTERNS['statements']})\b", re.IGNORECASE)
_RUN_IN_END = re.compile(r"[.．]$|[.:]\s*[—–-]$|[—–]$")


@dataclass(slots=True)
class Heading:
    first: int  # its lines' places
    last: int
    text: str
    level: int = 1
    rest: str = ""  # of its last line, where it runs into a paragraph


Key = tuple[str, float, bool, bool, bool]


def key_of(style: Style, text: str, run_in: bool = False) -> Key:
    return (style.font, round(style.size), style.bold, text.upper() == text and text.lower() != text, run_in)


class Headings:
    """Finds the headings among the lines of a paper."""

    def __init__(self, lines: Sequence[Line], measures: Measures, body: Style):
        self._lines, self._measures, self._body = lines, measures, body
        counts: Counter[Key] = Counter()
        for line in lines:
            counts[key_of(line.style, line.text)] += len(line.text)
        self._share = {key: count / max(1, counts.total()) for key, count in counts.items()}
        self._body_key = key_of(body, "")

    def find(self) -> list[Heading]:
        alone = self._alone()
        learnt = {self._key(heading) for heading in alone if self._is_sure(heading)}
        often = Counter(self._key(heading) for heading in alone)
        found = [h for h in alone if self._key(h) in learnt or self._is_sure(h) or self._is_likely(h, often)]
        found = self._with_text(found)
        taken = {place for heading in found for place in range(heading.first, heading.last + 1)}
        found += [heading for heading in self._run_in() if heading.first not in taken]
        found.sort(key=lambda heading: heading.first)
        has_numbers = self._has_numbers(found)
        found = self._in_sequence(found) if has_numbers else self._without_items(found)
        self._set_levels(found, _depth if has_numbers else lambda _: 0)
        return found

    # ---------------------------------------------------------------------------------------------- alone on a line

    def _alone(self) -> list[Heading]:
        """Whatever may be a heading by its look, one or more lines of a style of its own."""
        found, place = [], 0
        while place < len(self._lines):
            last = self._end_of(place) if self._may_begin(place) else -1
            text = " ".join(line.text for line in self._lines[place : last + 1])
            if last < 0 or not self._may_be(text, place, last):
                place += 1
                continue
            found.append(Heading(place, last, unspaced(text)))
            place = last + 1
        return found

    def _may_begin(self, place: int) -> bool:
        """Whether a heading may begin with this line, by its own look."""
        line = self._lines[place]
        if names_references(line.text) and not line.text[0].islower():
            return True
        if line.num_cells > 1 or line.size < self._body.size - MAX_SMALLER or is_caption(line, self._body.size):
            return False
        if self._leads_on(line):
            return False
        key = key_of(line.style, line.text)
        if key == self._body_key and not (self._is_numbered(line.text) or mark(line.text) in _KNOWN):
            return False
        is_common = self._share[key] > MAX_SHARE and line.size <= self._body.size + AS_LARGE
        return not is_common or (self._is_named(line.text) and self._stands_alone(place, place))

    def _leads_on(self, line: Line) -> bool:
        """Whether its first words are set apart from others that follow on it; a number alone leads into a heading."""
        number = printed_number(f"{line.lead} x")
        named = line.lead[len(number) :]
        if named.strip(" .") and (_RUN_IN_END.search(named) or named.endswith(":")):
            return True
        is_own = bool(line.lead and line.lead_style) and line.lead_style.font != line.style.font
        return is_own and not number and len(line.lead) > MAX_LEAD_SHARE * len(line.text)

    def _end_of(self, place: int) -> int:
        """The last line of the heading that begins here."""
        last = place
        while last + 1 < len(self._lines) and last - place + 1 < MAX_LINES:
            above, below = self._lines[last], self._lines[last + 1]
            same = (
                key_of(above.style, above.text) == key_of(below.style, below.text) != self._body_key and not below.lead
            )
            near = above.page == below.page and 0 < above.base - below.base < MAX_STEP * above.size
            if not (same and near and above.column == below.column) or self._is_numbered(below.text):
                break
            is_whole = mark(above.text) in _KNOWN and len(plain(above.text).split()) <= MAX_SURE_NAME_WORDS
            if is_whole or mark(below.text) in _KNOWN:
                break
            last += 1
        return last

    def _may_be(self, text: str, place: int, last: int) -> bool:
        """Whether these lines may be a heading, by their words and what stands around them."""
        if last + 1 == len(self._lines):
            return False
        if names_references(text):
            return True
        if not _has_words(text) or text[0].islower() or text[0] in "•\ufffd" or text.count("(") != text.count(")"):
            return False
        if self._goes_on(text, last):
            return False
        if text[-1:] in ",;-。" or (text.endswith(".") and not self._is_numbered(text)):
            return self._is_named(text)
        return self._stands_alone(place, last)

    def _goes_on(self, text: str, last: int) -> bool:
        """Whether the line below continues the sentence; below a numbered heading it may be that of a formula."""
        if not self._lines[last + 1].text[:1].islower():
            return False
        if not self._is_numbered(text):
            return True
        return ": " in text or self._is_full(self._lines[last])  # an item of a list

    def _is_full(self, line: Line, share: float = FULL_SHARE) -> bool:
        """Whether it ends at the right edge of its column, or within that share of its width."""
        left, right = self._measures.edges(line)
        return line.right > right - share * (right - left)

    def _stands_alone(self, place: int, last: int) -> bool:
        """Whether space is above it, or a sentence ended there; and no line of its style follows close."""
        if last + 1 == len(self._lines):
            return False
        line, below = self._lines[place], self._lines[last + 1]
        same = key_of(below.style, below.text) == key_of(line.style, line.text)
        if same and not self._measures.is_apart(self._lines[last], below):
            return False
        if self._has_space(place):
            return True
        above = self._lines[place - 1]
        ended = bool(_SENTENCE_END.search(above.text)) or self._is_named(above.text)
        return ended or abs(above.size - line.size) > SAME_SIZE

    def _has_space(self, place: int) -> bool:
        """Whether more than the usual space is above the line, or nothing."""
        return not place or self._measures.is_apart(self._lines[place - 1], self._lines[place])

    def _is_numbered(self, text: str) -> bool:
        number = _NUMBERED.match(text)
        return bool(number) and (number[1] is None or int(number[1]) <= MAX_NUMBER)

    def _is_named(self, text: str) -> bool:
        is_short = len(text) <= MAX_EASTERN_CHARS if EASTERN.search(text) else len(text.split()) <= MAX_NAME_WORDS
        return is_short and mark(unspaced(text)) in _KNOWN

    def _is_sure(self, heading: Heading) -> bool:
        return self._is_named(heading.text) or (
            self._is_numbered(heading.text) and self._key(heading) != self._body_key
        )

    def _is_likely(self, heading: Heading, often: Counter[Key]) -> bool:
        """Not named or numbered, but set apart as headings are: larger or bold, with space above, and not once."""
        line, body = self._lines[heading.first], self._body
        is_set_apart = line.size > body.size + LARGER or (line.style.bold and not body.bold)
        is_set_apart = is_set_apart or (line.style.font != body.font and line.size >= body.size - AS_LARGE)
        return is_set_apart and self._has_space(heading.first) and often[self._key(heading)] >= MIN_OFTEN

    def _with_text(self, headings: list[Heading]) -> list[Heading]:
        """Without labels in pictures: text or another heading follows a heading, unless its name makes it sure."""
        kept: list[Heading] = []
        for heading in reversed(headings):
            below = self._lines[heading.last + 1]
            is_long = len(below.text) > MIN_TEXT_CHARS and abs(below.size - self._body.size) < SAME_SIZE
            is_long = is_long and (self._is_full(below, PROSE_SHARE) or below.text[-1] in ".:?!。")
            is_text = below.num_cells == 1 and (is_long or self._share[key_of(below.style, below.text)] > MAX_SHARE)
            if is_text or self._is_sure(heading) or (kept and kept[-1].first == heading.last + 1):
                kept.append(heading)
        return kept[::-1]

    def _key(self, heading: Heading) -> Key:
        line = self._lines[heading.first]
        return key_of(line.style, heading.text, bool(heading.rest))

    # ------------------------------------------------------------------------------------------ run into a paragraph

    def _run_in(self) -> list[Heading]:
        found = []
        for place, line in enumerate(self._lines):
            lead, style = line.lead, line.lead_style
            if not lead or style is None or line.num_cells > 1 or not self._begins_paragraph(place):
                continue
            number = printed_number(f"{lead} x") if self._is_numbered(f"{lead} X") else ""
            is_own = key_of(style, "")[:3] != self._body_key[:3] or style.italic != self._body.italic
            bare = lead.rstrip(" .:—–-")
            if not is_own or len(bare.split()) > MAX_LEAD_WORDS or _NO_HEADING.search(bare):
                continue
            is_aside = mark(bare) is Mark.NEVER and style.bold and len(bare.split()) <= MAX_ASIDE_WORDS
            is_ended = _RUN_IN_END.search(lead) or (number and bare != number)
            if sum(map(str.isalpha, bare)) < MIN_LEAD_LETTERS or _STATEMENT.match(bare) or not (is_ended or is_aside):
                continue
            if is_caption(line, self._body.size):
                continue
            rest = line.text[len(lead) :].strip()
            if abs(line.size - self._body.size) < MAX_LEAD_POINTS and rest[:1] and not rest[0].islower():
                found.append(Heading(place, place, bare, rest=rest))
        often = Counter(self._key_of_lead(heading) for heading in found)
        return [
            h
            for h in found
            if self._is_numbered(h.text) or often[self._key_of_lead(h)] >= MIN_RUN_INS or mark(h.text) is Mark.NEVER
        ]

    def _key_of_lead(self, heading: Heading) -> Key:
        return key_of(self._lines[heading.first].lead_style, "", True)

    def _begins_paragraph(self, place: int) -> bool:
        line = self._lines[place]
        if self._has_space(place):
            return True
        above, (left, _) = self._lines[place - 1], self._measures.edges(line)
        return line.left > left + MIN_INDENT or not self._is_full(above) or above.style != line.style

    # ------------------------------------------------------------------------------------------------------- levels

    def _has_numbers(self, found: list[Heading]) -> bool:
        """Whether the paper numbers its sections: most of those with the names of main ones are numbered."""
        main = [bool(_depth(h.text)) for h in found if not h.rest and self._is_named(h.text)
                and mark(h.text) is not Mark.NEVER]  # fmt: skip
        return 2 * sum(main) >= len(main)

    def _without_items(self, found: list[Heading]) -> list[Heading]:
        """Without numbered ones in a style of their own: where sections are not numbered these are items of lists."""
        looks = {self._look(heading) for heading in found if not _depth(heading.text)}
        return [heading for heading in found if not _depth(heading.text) or self._look(heading) in looks]

    def _in_sequence(self, found: list[Heading]) -> list[Heading]:
        """Without numbered ones that are out of their order, as the items of lists are: the sequence of rising numbers
        stays that most headings alone on a line, in the style of most of their depth, are in."""
        numbered = [(place, _steps(h.text)) for place, h in enumerate(found) if _steps(h.text)]
        if len(numbered) > MAX_NUMBERED:
            return found
        looks: dict[int, Counter[Key]] = {}
        for place, steps in numbered:
            looks.setdefault(len(steps), Counter())[self._look(found[place])] += 1
        best: list[tuple[int, int]] = []  # (weight of the best sequence that ends here, the one before in it)
        for place, steps in numbered:
            usual = looks[len(steps)].most_common(1)[0][0] == self._look(found[place])
            before = ((best[n][0], n) for n in range(len(best)) if numbered[n][1] < steps)
            weight, last = max(before, default=(0, -1))
            best.append((weight + 1 + 2 * (not found[place].rest) + usual, last))
        last = max(range(len(best)), key=lambda n: best[n][0], default=-1)
        kept = set(range(len(found))) - {place for place, _ in numbered}
        while last >= 0:
            kept.add(numbered[last][0])
            last = best[last][1]
        return [heading for place, heading in enumerate(found) if place in kept]

    def _set_levels(self, found: list[Heading], depth_of: Callable[[str], int]) -> None:
        """By their numbers; of those without one by style: as deep as numbered ones of it, or else in order of size,
        below the style of those that have the names of main sections."""
        by_style: dict[Key, list[int]] = {}
        for heading in found:
            if depth := depth_of(heading.text):
                by_style.setdefault(self._look(heading), []).append(depth)
        levels = {look: int(median(depths)) for look, depths in by_style.items()}
        deepest = max(levels.values(), default=1)
        others = {self._look(h) for h in found if not depth_of(h.text)} - levels.keys()
        named = Counter(self._look(h) for h in found if self._is_named(h.text) and not (depth_of(h.text) or h.rest))
        if named and not levels:
            top = named.most_common(1)[0][0]
            levels |= {look: 1 for look in others if look == top or (look[1] > top[1] and not look[4])}
        ranked = sorted(others - levels.keys(), key=lambda look: (look[4], -look[1], not look[2], not look[3], look[0]))
        levels |= {look: depth for depth, look in enumerate(ranked, start=deepest + 1)}
        for heading in found:
            closes = mark(heading.text) in (Mark.OTHER, Mark.NEVER) and not heading.rest
            heading.level = depth_of(heading.text) or (1 if closes and by_style else levels[self._look(heading)])

    def _look(self, heading: Heading) -> Key:
        if heading.rest:
            return self._key_of_lead(heading)
        return self._key(heading)


def _has_words(text: str) -> bool:
    """Whether it is as long as headings are, and more letters than signs."""
    if len(text) > MAX_CHARS or len(text.split()) > MAX_WORDS or _NO_HEADING.search(text):
        return False
    letters = sum(c.isalpha() for c in text)
    least = MIN_EASTERN_LETTERS if EASTERN.search(text) else MIN_LETTERS
    return letters >= max(least, MIN_LETTER_SHARE * len(text.replace(" ", "")))


def _depth(text: str) -> int:
    """How deep a number says that a heading is: 2 for "2.1"; 0 where there is none."""
    if steps := _steps(text):
        return len(steps)
    number = printed_number(text).strip(".") if _NUMBERED.match(text) else ""
    return (2 if re.fullmatch("[A-HJ-UWYZ]", number) else 1) if number else 0


def _steps(text: str) -> tuple[int, ...]:
    """The numbers of "2.1 Seals", also without a blank behind them: (2, 1)."""
    found = _ARABIC.match(text)
    return tuple(map(int, found[1].split("."))) if found and _NUMBERED.match(text) else ()
