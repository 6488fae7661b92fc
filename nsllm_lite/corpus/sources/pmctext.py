"""Plain text of PubMed Central, as its collections for text mining have it: one article between lines `==== Front`,
`==== Body` and `==== Refs`.

The front has a line each for journal, numbers, title, authors, abstract and notices, and does not say which is which:
the title is the line before the first that looks like a name, behind the numbers; the abstract is what is written in
sentences behind it, without notices. In the body short lines without a sign at their end are headings. Captions, rows
of tables, and the list of references are left out of the text, and citations by number where the list is that long.

Source: PMC Open Access Subset, oa_bulk/*/txt (ncbi.nlm.nih.gov/pmc/tools/openftlist).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.lines import is_abstract_label, is_name, is_notice, sections_of
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.sources import jats
from nsllm_lite.corpus.stated.dates import dated
from nsllm_lite.corpus.stated.moves import labelled
from nsllm_lite.corpus.stated.terms import as_reference, as_terms, different
from nsllm_lite.formats.documents import Document

MAX_CHARS = 1 << 24  # of one article
HEAD_LINES = 40  # of the front, in which the title stands
MAX_KEYWORD_CHARS = 60
SENTENCE_WORDS = 12  # an abstract's line has so many, or is a label
MARK = "==== "
_DOI = re.compile(r"10\.\d{4,9}/\S+")
_NUMBER = re.compile(r"[\w./-]*\d[\w./-]*", re.ASCII)  # an ISSN, a PMID, PMC's, the publisher's own
_ADDRESS = re.compile(r"(?:\d{1,2}|[a-d*†‡§¶#])\s*[A-Z]")  # with the mark of those who work there
_SENTENCE_END = tuple('.?!)"”。')
_RUN_TOGETHER = re.compile(r"\d{4}-\d{3}[\dXx]|10\.\d{4,9}/")  # a front of old, all on one line: none is its title
_DATE = re.compile(r"(?:(?:(\d{1,2}) )?(\d{1,2}) )?((?:19|20)\d\d)")  # JATS has them in this order: day, month, year
_ENTRY = re.compile(r"(?:\[?\d{1,4}[\].)]?\s+)?(.+)", re.DOTALL)


class Article(NamedTuple):
    front: list[str]
    body: list[str]
    refs: list[str]


def recognise(head: str) -> bool:
    return head.startswith(("==== Front\n", "==== Body\n"))


def records(stream: TextIO) -> Iterator[Article | str]:
    """Articles may follow each other in a file; what stands under other marks (`==== Back`) is left out."""
    article, chars = Article([], [], []), 0
    part: list[str] = []
    for line in iter(stream.readline, ""):
        chars += len(line)
        line = line.strip("\ufeff\n ")
        if line == f"{MARK}Front" and any(article):
            yield article if chars <= MAX_CHARS else _too_long()
            article, chars = Article([], [], []), 0
        if line.startswith(MARK):
            part = article._asdict().get(line.removeprefix(MARK).strip().lower(), [])
        elif chars <= MAX_CHARS:
            part.append(line)
    if any(article):
        yield article if chars <= MAX_CHARS else _too_long()


def _too_long() -> str:
    return f"an article of over {MAX_CHARS:,} characters"


def document(article: Article, place: Place) -> Document | Unread:
    front = [line.strip() for line in article.front if line.strip()]
    refs = [line.strip() for line in article.refs if line.strip()]
    cited = different(as_reference(_ENTRY.fullmatch(line)[1]) for line in refs if line.lower() != "references")
    title = _place_of_title(front)
    end = next((n for n in range(title + 1, len(front)) if not is_name(front[n])), len(front))
    moves, abstract = _abstract(front[end:])
    return place.paper(
        **_ids(front[:title])._asdict(),
        title="".join(line for line in front[title : title + 1] if not _RUN_TOGETHER.search(line)),
        abstract=abstract,
        sections=sections_of(article.body, len(cited)),
        moves=moves,
        date=next((_date(found) for line in front[end:] if (found := _DATE.fullmatch(line))), ""),
        authors=tuple(re.sub(r"[\s,]*(?:\d|[*†‡§¶#]).*", "", line) for line in front[title + 1 : end]),
        venue=_venue(front[:title]),
        keywords=_keywords(front[end:]),
        references=cited,
    )


def _date(line: re.Match) -> str:
    day, month, year = line.groups("")
    return dated(year, f"{month} {day}")


def _place_of_title(front: list[str]) -> int:
    """Behind the last of the numbers, and of the names of kinds and subjects there: the line before the first name."""
    heads = front[:HEAD_LINES]
    begin = next((n + 1 for n, line in enumerate(heads) if _DOI.fullmatch(line)), 0)
    begin = begin or max((n + 1 for n, line in enumerate(heads[:20]) if _NUMBER.fullmatch(line)), default=0)
    rest = [
        n for n in range(begin, len(heads)) if not jats.KIND.fullmatch(heads[n]) and not _NUMBER.fullmatch(heads[n])
    ]
    before_names = (n for n in rest if not is_name(heads[n]) and is_name("".join(heads[n + 1 : n + 2])))
    long_enough = (n for n in rest if len(heads[n].split()) > 2)
    return next(before_names, next(long_enough, rest[0] if rest else len(front)))


def _ids(before: list[str]) -> identity.Ids:
    """Of the lines before the title: a DOI, a number of PubMed, or one of PMC."""
    pmc = next((line for line in before if re.fullmatch(r"PMC\d{4,9}", line)), "")
    pmid = next((line for line in before if re.fullmatch(r"[1-9]\d{6,7}", line, re.ASCII)), "")
    doi = next((line for line in before if _DOI.fullmatch(line)), "")
    return identity.ids_of({"doi": doi, "pmid": pmid, "pmc": pmc})


def _venue(before: list[str]) -> str:
    """The last of the journal's names, before its ISSN: those before that are short."""
    issn = next((n for n, line in enumerate(before) if re.fullmatch(r"\d{4}-\d{3}[\dXx]", line)), 1)
    return next((line for line in reversed(before[:issn]) if not _NUMBER.fullmatch(line)), "")


def _abstract(rest: list[str]) -> tuple[tuple[tuple[str, str], ...], str]:
    """(moves, text) of the lines of sentences; the moves where each has a label before it."""
    parts: list[tuple[str, list[str]]] = []
    label = ""
    for line in rest:
        if line.lower().startswith(("author summary", "keywords", "plain language summary")):
            break
        if line.lower().rstrip(":") == "abstract":
            parts, label = [], ""
        elif is_abstract_label(line):
            label = line
        elif label or (_is_sentences(line) and not is_notice(line)):
            parts.append((label, [line]))
            label = ""
    return labelled(parts)


def _is_sentences(line: str) -> bool:
    return len(line.split()) >= SENTENCE_WORDS and line.endswith(_SENTENCE_END) and not _ADDRESS.match(line)


def _keywords(rest: list[str]) -> tuple[str, ...]:
    """In the line that begins with the word, or in the short ones behind it."""
    place = next((n for n, line in enumerate(rest) if line.lower().startswith("keywords")), None)
    if place is None:
        return ()
    own = rest[place][len("keywords") :].strip(" :")
    behind = rest[place + 1 : place + 20]
    short = (line for line in behind if len(line) < MAX_KEYWORD_CHARS and not is_notice(line))
    return as_terms(own, parted=";,") or as_terms(*short, parted=";")
