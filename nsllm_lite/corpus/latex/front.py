r"""What a flattened LaTeX paper says of itself where it is clear: \author, \date, keywords, and \bibitem entries.

Authors are taken only where all of them look like names when footnotes, marks and addresses are gone; else there are
none. A reference is the DOI or arXiv id in its entry, else its title where \newblock or \bibinfo shows it, else the
entry as printed.
"""

import re
from collections.abc import Iterator
from typing import Any

from nsllm_lite.corpus.latex.verbatim import UNSHIELD
from nsllm_lite.corpus.latex.walk import Walker
from nsllm_lite.corpus.latex.words import WORDS, Citing
from nsllm_lite.corpus.stated.dates import as_date
from nsllm_lite.corpus.stated.names import split_names
from nsllm_lite.corpus.stated.terms import as_reference, as_terms

MAX_ARGUMENT = 20_000  # characters of \author and of keywords
MAX_ENTRY = 3_000
MAX_ENTRIES = 5_000

_BODY = re.compile(r"\\(?:section|chapter)(?![A-Za-z])")
_COMMANDS = re.compile(r"\\(author|date|keywords|begin\s*\{(?:IEEEkeywords|keywords?)\*?\})(?![A-Za-z])\s*")
_END_KEYWORDS = re.compile(r"\\end\s*\{(?:IEEEkeywords|keywords?)\*?\}")
_AND = re.compile(r"\\(?:and|And|AND|quad|qquad|sep)(?![A-Za-z])")
_ADDRESS = re.compile(r"\\\\|\\(?:address|affil|affiliation|institute|email|IEEEauthorblockA)(?![A-Za-z])|\n[ \t]*\n")
_MARKS = re.compile(
    r"\$[^$]{0,60}\$|\\textsuperscript\s*\{[^{}]*\}|\\(?:inst|fnmsep|thanksref|altaffilmark|orcid\w*)\s*\{[^{}]*\}"
)
_NAME = re.compile(r"(?:[^\W\d_]|['’.-])+(?:,? (?:[^\W\d_]|['’.-])+){1,5}")
_TRAILING = " *†‡§¶∗⋆,0123456789⁰¹²³⁴⁵⁶⁷⁸⁹"  # marks of addresses
_BIBITEM = re.compile(r"\\bibitem\s*(?:\[(?:[^\[\]]|\[[^\[\]]{0,300}\]){0,1000}\])?\s*\{[^{}]{1,200}\}")
_END = re.compile(r"\\end\s*\{thebibliography\}")
_TITLE = re.compile(r"\\bibinfo\s*\{title\}\s*\{((?:[^{}]|\{[^{}]*\}){1,600})\}")


class _Line(Citing):
    handlers = WORDS


def _line(tex: str) -> str:
    return _Line(tex, str).line(0, len(tex)).translate(UNSHIELD)


def stated_by(paper: Walker, bibliography: str) -> dict[str, Any]:
    """date, authors, keywords and references; `bibliography` is the text of its .bbl file."""
    text = paper.text
    body = _BODY.search(text)
    authors: list[str] = []
    found: dict[str, Any] = {}
    for command in _COMMANDS.finditer(text, 0, body.start() if body else len(text)):
        end, pos = None, command.end()
        if command[1].startswith("begin"):
            end = _END_KEYWORDS.search(text, pos, pos + MAX_ARGUMENT)
            argument = text[pos : end.start()] if end else ""
        else:
            place = paper.argument(paper.skip(pos, "o"))
            argument = text[place[0] : place[1]] if place and place[1] - place[0] < MAX_ARGUMENT else ""
        if command[1] == "author":
            authors += _names(argument)
        elif command[1] == "date":
            found.setdefault("date", as_date(_line(argument)))
        elif argument:
            found.setdefault("keywords", as_terms(_line(_AND.sub(";", argument)).rstrip("."), parted=";,"))
    if authors and all(_NAME.fullmatch(name) for name in authors):
        found["authors"] = tuple(authors)
    return found | {"references": tuple(dict.fromkeys(filter(None, _references(f"{text}\n{bibliography}"))))}


def _names(argument: str) -> Iterator[str]:
    for part in _AND.split(_MARKS.sub("", argument)):
        for name in split_names(_line(_ADDRESS.split(part.strip().removeprefix("\\\\"), maxsplit=1)[0])):
            if bare := name.rstrip(_TRAILING):
                yield bare


def _references(text: str) -> Iterator[str]:
    begins = list(_BIBITEM.finditer(text))[:MAX_ENTRIES]
    for number, begin in enumerate(begins):
        following = begins[number + 1].start() if number + 1 < len(begins) else len(text)
        stop = min(following, begin.end() + MAX_ENTRY)
        end = _END.search(text, begin.end(), stop)
        entry = text[begin.end() : end.start() if end else stop]
        plain = entry.replace("\\_", "_").replace("\\/", "/").translate(UNSHIELD)
        marked = as_reference(plain)
        if marked.startswith(("doi:", "arxiv:")) and marked != " ".join(plain.split()):
            yield marked
            continue
        blocks = entry.split("\\newblock")
        title = _TITLE.search(entry)
        yield _line(title[1] if title else blocks[1] if len(blocks) > 2 else entry).rstrip(".")
