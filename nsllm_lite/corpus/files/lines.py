"""What a line of a paper is by its words and its form: a heading, a label, a caption, a name.

And the sections of papers that were saved as lines of plain text, where a heading is known only by its form.
"""

import re
from collections.abc import Iterable

from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.outline import Outline, printed_number
from nsllm_lite.corpus.texts.words import PATTERNS
from nsllm_lite.formats.documents import Section
from nsllm_lite.formats.headings import Mark, mark

MAX_HEADING_CHARS = 120
MAX_HEADING_WORDS = 14
MAX_LABEL_CHARS = 40
_CAPTION = re.compile(
    r"(?:(?:Supplementary|Supporting|Extended Data|Additional)\s+)?(?:Fig(?:ure)?s?\.?|FIG(?:URE)?\.?|Tab(?:le)?\.?|"
    r"TABLE|Scheme|SCHEME|Box|Algorithm|File|Video|Movie)\s*"
    r"(?:[A-Z]?\d{1,3}[A-Za-z]?|[IVX]{1,5}\b)(?:\s*[.:|—–-]|\s+[A-Z\"“(]|\s*$)"
)
# The words before an abstract and before keywords, with the signs behind them.
ABSTRACT = re.compile(rf"(?:{PATTERNS['abstract_label']})\s*[.:：—–-]*\s*", re.IGNORECASE)
KEYWORDS = re.compile(rf"(?:{PATTERNS['keywords_label']})(?:\s*[:：.—–-]+\s*|\s+(?=\S)|$)", re.IGNORECASE)
# A label that a paragraph begins with: "Abstract. We grow", but not "Abstract algebra is".
RUN_IN = re.compile(rf"(?![a-z])(?i:{PATTERNS['abstract_label']})(?:\s*[.:：—–-]+\s*|\s+(?=[A-Z]))(?=\S)")
NO_TITLE = re.compile(PATTERNS["above_title"], re.IGNORECASE)
_FIRST = re.compile(rf"(?:1|I)?[. ]*(?:{PATTERNS['introduction']})\b|1[. ]", re.IGNORECASE)
_REFERENCES = re.compile(rf"(?:\d{{1,3}}\.?\s*|[IVX]{{1,4}}\.?\s+)?(?:{PATTERNS['references']})\W*", re.IGNORECASE)
_SPACED = re.compile(r"(?<!\w)(?:[^\W\d_] ){3,}[^\W\d_](?!\w)")
_PARTICLE = r"(?:van|von|de|der|den|del|della|dos|da|di|la|le|el|al|bin|ter|ten|y|e)"
_WORD = r"(?:al-|d['’])?[^\W\d_a-z][\w.'’-]*"  # of a name
_NAME = re.compile(
    rf"(?:{_PARTICLE}\s+)?{_WORD}(?:\s+(?:{_PARTICLE}|{_WORD})){{1,5}}(?:[\s,]*(?:\d{{1,3}}|[a-d]|[*†‡§¶#]))*"
)
_NOTICE = re.compile(
    r"(?i)open[- ]access article|creative commons|^\W*(?:copyright|\(c\))|©|\blicensee\b|all rights reserved|"
    r"correspond(?:ing author|ence (?:to|should|may)|ence:)|contributed equally|conceived and designed|e-?mail:|\w@\w|"
    r"^\W*(?:edited by|funding|academic editor|competing interests|publisher'?s note)\b|\b(?:received|accepted):?\s+\d"
)
_PARTS = frozenset((  # of abstracts, which `mark` does not know
    "background", "aim", "aims", "objective", "objectives", "purpose", "design", "setting", "conclusion", "conclusions",
    "participants", "interventions", "main outcome measures", "trial registration", "importance", "目的",
))  # fmt: skip
_ENDS = tuple(".,;:?!。，；：")


def is_caption(line: str) -> bool:
    """Whether it begins as the caption of a float does: "Figure 1. Growth", but not "Figure 1 shows growth"."""
    return bool(_CAPTION.match(line[:60]))


def is_heading(line: str) -> bool:
    """Whether the line has the form of a heading: short, without a sign at its end, and beginning as a title does."""
    if len(line) > MAX_HEADING_CHARS or "\t" in line or line.endswith(_ENDS) or is_caption(line):
        return False
    words = line[len(printed_number(line)) :].split()
    letters = re.sub(r"[\W\d_]", "", "".join(words))
    return len(letters) > 2 and len(words) <= MAX_HEADING_WORDS and (words[0][0].isupper() or not letters.isascii())


def is_name(line: str) -> bool:
    """Whether the line is the name of one person, with the marks of addresses behind it: "Ito Kenji 1*"."""
    return len(line) < MAX_HEADING_CHARS and bool(_NAME.fullmatch(line))


def is_notice(line: str) -> bool:
    """Whether the line is an address, or what a publisher adds: its dates, rights, funding."""
    return bool(_NOTICE.search(line[:300]))


def unspaced(text: str) -> str:
    """ "A B S T R A C T" as a word."""
    return _SPACED.sub(lambda found: found[0].replace(" ", ""), text)


def is_first_heading(heading: str) -> bool:
    """Whether its words alone make it the first of a text: "Introduction", or number 1."""
    return bool(_FIRST.match(heading))


def names_references(line: str) -> bool:
    """Whether the line is the heading of the list of references."""
    return bool(_REFERENCES.fullmatch(line))


def sections_of(lines: Iterable[str], num_references: int = 0) -> tuple[Section, ...]:
    """The sections of a body, of which each line is a heading, a paragraph, a caption or a row of a table.

    A caption, the line behind one that is only its number, and rows of tables are left out. A heading that stands last
    is none. Citations by number are settled where the paper has `num_references`.
    """
    outline = Outline()
    held = ""  # a heading, until a text follows
    captioned = False
    for line in filter(None, map(str.strip, lines)):
        if is_caption(line):
            captioned = not line.endswith(_ENDS) and len(line) < MAX_HEADING_CHARS // 2
            continue
        if captioned or line.count("\t") > 1:
            captioned = False
            continue
        if is_heading(line):
            if held:
                outline.begin(held, printed_number(held))
            held = line
            continue
        if held:
            outline.begin(held, printed_number(held))
            held = ""
        outline.add(citations.settle(citations.mark_bracketed(line, num_references)))
    return outline.sections()


def is_abstract_label(line: str) -> bool:
    """Whether a line is the label of a part of an abstract: "Background", "Methods:", "Aim"."""
    if len(line) > MAX_LABEL_CHARS:
        return False
    return line.rstrip(":").lower() in _PARTS or mark(line) in (Mark.METHODS, Mark.RESULTS, Mark.OTHER)
