"""BibTeX, as databases, anthologies and people write it: a document an entry, LaTeX turned into characters.

@string is resolved, @comment and @preamble are no records. An entry that cannot be read, most often because of its
braces, does not affect others: the next begins at the next line with "@type{".

bibtexparser 2.1.0 is not used: it holds the whole file in memory and takes three times the time (20,000 entries of
15 MB: 3.0 s, here 1.0 s), does not read entries without a key, leaves "a # b" unresolved, joins the fields on both
sides of a missing comma, and silently loses an entry that begins on the line of a broken one.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, TextIO

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.tagged import another_in, iter_lines, paragraphs, stated
from nsllm_lite.corpus.latex.notation import plain
from nsllm_lite.corpus.stated.dates import dated
from nsllm_lite.corpus.stated.terms import as_categories, as_references, as_terms, cited
from nsllm_lite.formats.documents import Document, as_doi

MAX_ENTRY_CHARS = 1 << 24
MAX_COMMENT_CHARS = 1 << 20  # an @comment that is not closed by then ends with its line
MAX_MACRO_CHARS, MAX_MACROS = 10_000, 10_000  # macros may hold macros: without a bound a short file fills the memory
MAX_EXPANDED_CHARS = 1 << 17  # of the macros in one entry, which are names of journals and months

_TYPES = (
    "article|book|booklet|collection|comment|conference|dataset|electronic|inbook|incollection|inproceedings|manual|"
    "mastersthesis|misc|online|patent|periodical|phdthesis|preamble|proceedings|report|software|string|techreport|"
    "thesis|unpublished"
)
_KEY_AND_FIELD = r"[^\s,={}]{1,200},\s*+[\w-]++\s*+=\s*+[{\"\w]"  # show an entry of any type
_FIRST = re.compile(
    rf"(?:^|[\n\r])[ \t]*@(?:(?:{_TYPES})[ \t]*[{{(]|[a-z]{{2,30}}[ \t]*[{{(]{_KEY_AND_FIELD})", re.IGNORECASE
)
_PROLOGUE_LINES = 5  # of free text before the first entry, such as a tool's greeting
_BRACES = re.compile("[{}]")
_NAME_MARKS = re.compile(r"[{}]|(?<=\s)and(?=\s)", re.IGNORECASE)
_COMMENT = re.compile(r"\s*@\s*comment\s*\{", re.IGNORECASE)
_START = re.compile(r"\s*@\s*([A-Za-z]+)\s*[{(]")
_ENTRY = re.compile(r"@\s*([A-Za-z]+)\s*([{(])")
_NEXT = re.compile(rf"@\s*({_TYPES})\s*([{{(])(?=\s*[^\s,={{}}]{{1,200}}\s*,)", re.IGNORECASE)
_KEY = re.compile(r"\s*+([^,={}\n]{0,300}+)(?:,|(?=[})]))")
_GAP = re.compile(r"[\s,]*")
_FIELD = re.compile(r"([^\s=,{}()\"#@]+)\s*=\s*")
_WORD = re.compile(r"[^\s,{}()\"#=]+")
_JOIN = re.compile(r"\s*#\s*")
_GOES_ON = re.compile(r"\s*+,?\s*+[A-Za-z][\w-]*\s*=\s*[{\"]")
# BibTeX counts every brace; where its count does not come out, braces and quotes after a backslash are passed over.
_MARKS = (re.compile(r'[{}"]'), re.compile(r'\\.|[{}"]', re.DOTALL))


class Entry(NamedTuple):
    key: str
    fields: dict[str, str]  # names in lower case

    def line(self, name: str) -> str:
        return " ".join(plain(self.fields.get(name, "")).split())

    def names(self, name: str) -> tuple[str, ...]:
        """Authors, which BibTeX parts by "and" outside of braces."""
        text = self.fields.get(name, "")
        found, depth, start = [], 0, 0
        for mark in _NAME_MARKS.finditer(text):
            depth += (mark[0] == "{") - (mark[0] == "}")
            if depth <= 0 and mark[0] not in "{}":
                found.append(text[start : mark.start()])
                start = mark.end()
        written = (" ".join(plain(one).split()) for one in [*found, text[start:]])
        return tuple(one for one in written if one and one != "others")

    def codes(self, *names: str) -> list[str]:
        """The fields as identifiers and addresses, which hold no blanks, and LaTeX only where it escapes a sign."""
        return [re.sub(r"[\s\\{}]", "", self.fields.get(name, "")) for name in names]


class _BrokenEntry(Exception):  # noqa: N818
    """What is wrong with the entry being read."""


def recognise(head: str) -> bool:
    first = None if head[0] in "<{[\\#`" or "@" not in head else _FIRST.search(head)
    if first is None:
        return False
    prologue = [line for line in head[: first.start()].splitlines() if line.strip() and not line.startswith("%")]
    return len(prologue) <= _PROLOGUE_LINES and not any(line.lstrip().startswith(("```", "\\")) for line in prologue)


def document(entry: Entry, place: Place) -> Document:
    arxiv, pmid, accession = _identifiers(entry)
    notes = [note for note in entry.codes("note") if not as_doi(note)]  # which may be of a reply or a first edition
    ids = identity.ids_of({"ids": [*entry.codes("doi", "url", "ee", "bdsk-url-1", "pmid", "pmcid"), *notes]})
    areas = [entry.line(name) for name in ("research-areas", "web-of-science-categories")]
    return place.paper(
        arxiv=arxiv or ids.arxiv,
        pmid=pmid or ids.pmid,
        doi=ids.doi,
        accession=accession or ids.accession,
        title=entry.line("title") or entry.line("booktitle"),
        abstract=stated(paragraphs(plain(entry.fields.get("abstract", "")).splitlines())),
        discipline=identity.first(identity.discipline_of_areas, areas)
        or identity.discipline_of(entry.line("primaryclass")),
        language=entry.line("language") or entry.line("langid"),
        date=dated(
            entry.line("year") or entry.line("date"), f"{entry.line('month')} {entry.line('day')}", entry.line("date")
        ),
        authors=entry.names("author"),
        venue=entry.line("journal") or entry.line("journaltitle") or entry.line("booktitle"),
        categories=as_terms(areas[1], parted=";") or as_categories(entry.line("primaryclass")),
        keywords=as_terms(entry.line("keywords") or entry.line("author_keywords")),
        references=_references(entry),
    )


def _references(entry: Entry) -> tuple[str, ...]:
    """Web of Science gives each a line of its own, Scopus parts them by ";"."""
    if stated := entry.fields.get("cited-references"):
        return cited(" ".join(line.split()).removesuffix(".") for line in plain(stated).split("\n"))
    return as_references(entry.line("references"))


def _identifiers(entry: Entry) -> tuple[str, str, str]:
    """(arXiv id, PMID, accession number). The first is from `eprint` where its archive is arXiv, an arXiv address, or a
    journal such as "arXiv preprint arXiv:1"; the others are as PubMed, Web of Science and Scopus state them."""
    archive, kind, journal = (entry.line(name) for name in ("archiveprefix", "eprinttype", "journal"))
    eprint, doi, url, pmid, number = entry.codes("eprint", "doi", "url", "pmid", "unique-id")
    arxiv = identity.arxiv_id(eprint) if (archive or kind).lower() == "arxiv" else ""
    arxiv = arxiv or identity.first(identity.marked_arxiv_id, (eprint, doi, url, journal.rpartition(" ")[2]))
    if pmid or kind.lower() == "pubmed":
        return arxiv, pmid or eprint, ""
    return arxiv, *identity.stated_accession(number or entry.key, url)


def records(stream: TextIO) -> Iterator[Entry | str]:
    """Every entry, or a message in place of one that cannot be read."""
    macros: dict[str, str] = {}
    lost = ""  # a message about what stands between the entries
    for chunk in _chunks(stream):
        place, end, pattern = 0, len(chunk), _ENTRY
        while start := pattern.search(chunk, place):
            if pattern is _ENTRY:
                lost = lost or another_in(chunk[place : start.start()])
            else:
                following = _NEXT.search(chunk, start.end())
                end = following.start() if following else len(chunk)
            try:
                place, entry = _parse(chunk, start, end, macros)
            except _BrokenEntry as error:
                if start[1].lower() != "comment":  # one without an end is text
                    yield f"@{start[1]} {chunk[start.end() : start.end() + 40].split(',')[0].strip()!r}: {error}"
                # Further entries on its line are each read up to the next, so that no text is read over and over.
                place, pattern = start.end(), _NEXT
                continue
            if entry:
                yield entry
        if pattern is _ENTRY:
            lost = lost or another_in(chunk[place:])
    if lost:
        yield lost


def _chunks(stream: TextIO) -> Iterator[str]:
    """The file cut before each line that begins an entry."""
    chunk: list[str] = []
    size = 0
    for line in _outside_comments(stream):
        if chunk and (_START.match(line) or size > MAX_ENTRY_CHARS):
            yield "".join(chunk)
            chunk, size = [], 0
        chunk.append(line)
        size += len(line)
    yield "".join(chunk)


def _outside_comments(stream: TextIO) -> Iterator[str]:
    """The lines without each @comment that begins a line, over as many lines as its braces are open."""
    held: list[str] = []
    size = depth = 0
    for line in iter_lines(stream):
        begins = None if held else _COMMENT.match(line)
        if not (held or begins):
            yield line
            continue
        depth, rest = _after_comment(line, begins.end() if begins else 0, 1 if begins else depth)
        held.append(line)
        size += len(line)
        if not depth or size > MAX_COMMENT_CHARS:
            yield from held[1:] if depth else [rest]
            held, size = [], 0
    yield from held[1:]


def _after_comment(line: str, place: int, depth: int) -> tuple[int, str]:
    """(braces open, text after the last one closed) at the end of a line of an @comment."""
    for brace in _BRACES.finditer(line, place):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return 0, line[brace.end() :]
    return depth, ""


def _parse(text: str, start: re.Match[str], end: int, macros: dict[str, str]) -> tuple[int, Entry | None]:
    """(place after it, the entry); no entry where it is a comment, a preamble or a macro. A _BrokenEntry where it
    cannot be read, whether escaped braces count or not."""
    try:
        return _Parser(text, end, _MARKS[0], macros).entry(start)
    except _BrokenEntry:
        with suppress(_BrokenEntry):
            return _Parser(text, end, _MARKS[1], macros).entry(start)
        raise


class _Parser:
    """One entry of `text`, read from left to right without a step back."""

    def __init__(self, text: str, end: int, marks: re.Pattern[str], macros: dict[str, str]) -> None:
        self.text, self.end, self.marks, self.macros = text, end, marks, macros
        self.place = self.num_expanded = 0

    def entry(self, start: re.Match[str]) -> tuple[int, Entry | None]:
        kind, self.place = start[1].lower(), start.end()
        if kind == "comment":
            return self._closing("}") + 1, None
        is_record = kind not in ("string", "preamble")
        key = self._match(_KEY) if is_record else None
        if kind == "preamble":
            self._value()
        fields = self._fields("}" if start[2] == "{" else ")")
        if kind == "string" and len(self.macros) < MAX_MACROS:
            self.macros.update((name, value) for name, value in fields.items() if len(value) <= MAX_MACRO_CHARS)
        return self.place, Entry(key[1].strip() if key else "", fields) if is_record else None

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.place, self.end)
        if found:
            self.place = found.end()
        return found

    def _fields(self, closer: str) -> dict[str, str]:
        fields: dict[str, str] = {}
        while True:
            self._match(_GAP)
            if self.place >= self.end:
                raise _BrokenEntry("it is not closed; a brace or a quote is open")
            if self.text[self.place] == closer:
                self.place += 1
                if _GOES_ON.match(self.text, self.place, self.end):
                    raise _BrokenEntry("fields follow its closing brace; a brace too many stands before it")
                return fields
            field = self._match(_FIELD)
            if not field:
                raise _BrokenEntry(f"no field begins at {self.text[self.place : self.place + 40]!r}")
            fields.setdefault(field[1].lower(), self._value())

    def _value(self) -> str:
        parts: list[str] = []
        while True:
            opening = self.text[self.place : self.place + 1]
            if opening in ("{", '"') and self.place < self.end:
                self.place += 1
                close = self._closing("}" if opening == "{" else '"')
                parts.append(self.text[self.place : close])
                self.place = close + 1
            elif word := self._match(_WORD):
                parts.append(self.macros.get(word[0].lower(), word[0]))
                self.num_expanded += len(parts[-1])
                if self.num_expanded > MAX_EXPANDED_CHARS:
                    raise _BrokenEntry(f"its macros have over {MAX_EXPANDED_CHARS:,} characters")
            if not self._match(_JOIN):
                return "".join(parts)

    def _closing(self, closer: str) -> int:
        """Where the value that began before `place` ends: at `closer` outside of all inner braces."""
        depth = 0
        for mark in self.marks.finditer(self.text, self.place, self.end):
            if mark[0] == closer and not depth:
                return mark.start()
            if mark[0] == "{":
                depth += 1
            elif mark[0] == "}" and depth:
                depth -= 1
        raise _BrokenEntry("it is not closed; a brace or a quote is open")
