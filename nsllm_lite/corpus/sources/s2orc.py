"""S2ORC full text in its three forms: the releases of 2019 and 2020 and what resembles them (CORD-19, the JSON of
s2orc-doc2json), where paragraphs name their section; and the present one, where offsets mark one long text.

Kept and left out as in JATS (see `jats`): no captions, references or back matter, no numbered citations that the
sentence does not need. Of several parses the one from LaTeX is used, else the first with a body. In the 2020 release
`pdf_parses` have no titles and `metadata` have no text: where a source has files of both, the build joins them by
`paper_id` before they are read (see `corpus.join`), else each is read as it is.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files import citations
from nsllm_lite.corpus.files.objects import instead, listed, object_in, objects_in, objects_of, text_in
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.outline import Outline, printed_number
from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.corpus.stated.names import as_name
from nsllm_lite.corpus.stated.records import stated_in
from nsllm_lite.corpus.stated.terms import as_terms
from nsllm_lite.formats.documents import Document, Section

PARSES = ("latex_parse", "grobid_parse", "pdf_parse", "jats_parse")
OFFSETS = ("content", "body")  # the present form's text, in its first and its second schema
ANNOTATIONS = ("title", "abstract", "sectionheader", "paragraph", "formula", "bibref")
MARKED = ("author", "authorfirstname", "authorlastname", "venue", "bibentry", "bibtitle")
MAX_DEPTH = 8
SIGNS = frozenset((*PARSES, "body_text", "_pdf_hash", "has_pdf_parse", "s2_pdf_hash"))
_SHA = re.compile(r"[0-9a-f]{40}")
_OFFSET = re.compile(r"[0-9]{1,12}")
_ABSTRACT_LABEL = re.compile(r"(?:[Aa]bstract|ABSTRACT|[Ss]ummary|SUMMARY)(?:\s*[:.—–]\s*|\s+(?=[A-Z])|(?=[A-Z]))")
_STRUCTURE = re.compile(r"(?<!\s)\s*:::\s*")  # between the parts of a structured abstract

KEY = "paper_id"  # in the release of 2020

records = iter_records


def half_of(head: str) -> int | None:
    """Of the release of 2020 0 of a file of metadata, 1 of one of parses; None of another file."""
    objects = objects_in(head) if f'"{KEY}"' in head else ()
    fields = next((opened.fields for opened in objects if KEY in opened.fields), {})
    if (
        "title" in fields
        and {"has_pdf_parse", "has_pdf_parsed_body_text"} & fields.keys()
        and "body_text" not in fields
    ):
        return 0
    return 1 if {"_pdf_hash", "body_text"} <= fields.keys() and not {"title", "metadata"} & fields.keys() else None


def joined(metadata: dict, parse: dict) -> dict:
    return {**metadata, "pdf_parse": parse}


def recognise(head: str) -> bool:
    objects = objects_in(head) if '"paper_id"' in head or '"corpusid"' in head else ()
    return any(
        ("paper_id" in fields and SIGNS & fields.keys()) or ("corpusid" in fields and "{" in map(fields.get, OFFSETS))
        for _, fields in objects
    )


def document(record: dict, place: Place) -> Document | Unread:
    content = next((record[key] for key in OFFSETS if isinstance(record.get(key), dict)), None)
    if content is not None:
        return _by_offsets(record, content, place)
    if not (SIGNS | {"metadata", "title"}) & record.keys():
        return place.unread(instead("no S2ORC record", record))
    return _by_paragraphs(record, place)


def _by_paragraphs(record: dict, place: Place) -> Document:
    stated = {**record, **object_in(record.get("metadata"))}
    parses = [object_in(record.get(key)) for key in PARSES]
    parse = next((p for p in (*parses, record) if p.get("body_text")), next(filter(None, parses), record))
    abstract = _STRUCTURE.sub(" ", text_in(stated.get("abstract"))).strip()
    if not abstract:
        text = "\n\n".join(filter(None, map(_paragraph, listed(parse.get("abstract") or record.get("abstract")))))
        label = _ABSTRACT_LABEL.match(text)
        abstract = text[label.end() :] if label else text
    number = "" if "header" in record else text_in(record.get("paper_id"))  # doc2json's is the name of a file
    stated["bib_entries"] = parse.get("bib_entries") or record.get("bib_entries")
    title, sections = text_in(stated.get("title")), _sections_of(parse.get("body_text"))
    return paper_of(place, stated, number, title=title, abstract=abstract, sections=sections)


def _sections_of(body: object) -> tuple[Section, ...]:
    outline, before = Outline(), None
    for paragraph in listed(body):
        path, number = text_in(paragraph.get("section")).split("::", MAX_DEPTH), text_in(paragraph.get("sec_num"))
        if (path, number) != before:
            *above, heading = (" ".join(part.split()) for part in path)
            parents = tuple(above) if above or not heading else None
            outline.begin(heading, number or printed_number(heading), parents=parents)
            before = (path, number)
        outline.add(_paragraph(paragraph))
    return outline.sections()


def _paragraph(paragraph: dict) -> str:
    """Its text with the formulas in the place of their tokens, and the numbered citations settled."""
    spans = [_span(span, citations.mark) for span in objects_of(paragraph, "cite_spans")]
    for equation in objects_of(paragraph, "eq_spans"):
        latex = text_in(equation.get("latex"))
        formula = f"${latex}$" if latex else text_in(equation.get("raw_str")) or text_in(equation.get("text"))
        spans.append(_span(equation, lambda _, formula=formula: formula))
    return _rewritten(text_in(paragraph.get("text")), spans)


def _by_offsets(record: dict, content: dict, place: Place) -> Document | Unread:
    text = text_in(content.get("text"))
    annotations = object_in(content.get("annotations"))
    try:
        marked = {kind: _spans(annotations.get(kind), len(text)) for kind in ANNOTATIONS}
    except (ValueError, RecursionError) as error:
        return place.unread(f"its annotations cannot be read: {error}")
    titles, abstracts = ([text[s.start : s.end].strip() for s in _apart(marked[k])] for k in ("title", "abstract"))
    title = text_in(record.get("title")) or next(iter(titles), "")
    abstract, sections = "\n\n".join(abstracts), _sections_at(text, marked)
    number = str(record.get("corpusid") or "")
    record = {**_marked(text, annotations), **record}
    return paper_of(place, record, number, title=title, abstract=abstract, sections=sections)


def _marked(text: str, annotations: dict) -> dict[str, Any]:
    """Authors, venue and references as the annotations mark them; what cannot be read of these is left empty."""
    marked = {kind: [] for kind in MARKED}
    for kind in MARKED:
        with suppress(ValueError, RecursionError):
            marked[kind] = _apart(_spans(annotations.get(kind), len(text)))
    first, last = ({s.start: text[s.start : s.end] for s in marked[k]} for k in ("authorfirstname", "authorlastname"))
    authors = []
    for author in marked["author"]:
        inside = [
            [name for start, name in names.items() if author.start <= start < author.end] for names in (last, first)
        ]
        authors.append(as_name(*(" ".join(names) for names in inside)) or text[author.start : author.end])
    titles = [(s.start, text[s.start : s.end]) for s in marked["bibtitle"]]
    references = []
    for entry in marked["bibentry"]:
        title = next((title for start, title in titles if entry.start <= start < entry.end), "")
        references.append({"doi": entry.doi, "title": title, "text": text[entry.start : entry.end]})
    venue = next((text[span.start : span.end] for span in marked["venue"]), "")
    return {"authors": authors, "venue": venue, "references": references}


def _sections_at(text: str, marked: dict[str, list["_Span"]]) -> tuple[Section, ...]:
    outline, headers = Outline(), set(marked["sectionheader"])
    cited = _apart(marked["bibref"])
    starts = [span.start for span in cited]
    for block in _apart([*marked["sectionheader"], *marked["paragraph"], *marked["formula"]]):
        inside = cited[bisect_left(starts, block.start) : bisect_left(starts, block.end)]
        spans = [_Span(s.start - block.start, s.end - block.start, citations.mark) for s in inside]
        written = _rewritten(text[block.start : block.end], spans)
        if block in headers:
            heading = " ".join(written.split())
            outline.begin(heading, block.number or printed_number(heading))
        else:
            outline.add(written)
    return outline.sections()


def _spans(annotation: object, length: int) -> list["_Span"]:
    """The spans of one kind that lie within the text; a ValueError where they are no list, nor one written as JSON."""
    value = json.loads(annotation) if isinstance(annotation, str) else annotation
    if not isinstance(value, list | None):
        raise ValueError(f"a {type(value).__name__} where a list is needed")  # caught by _by_offsets
    return [span for span in map(_span, listed(value)) if 0 <= span.start < span.end <= length]


class _Span(NamedTuple):
    start: int
    end: int
    rewrite: Callable[[str], str] = str
    number: str = ""
    doi: str = ""  # of a reference


def _span(span: dict, rewrite: Callable[[str], str] = str) -> _Span:
    """Offsets are numbers, in some files as strings; what is neither lies outside every text."""
    start, end = (str(span.get(key)) for key in ("start", "end"))
    if not (_OFFSET.fullmatch(start) and _OFFSET.fullmatch(end)):
        return _Span(-1, -1)
    attributes = object_in(span.get("attributes"))
    return _Span(int(start), int(end), rewrite, text_in(attributes.get("n")), text_in(attributes.get("doi")))


def _apart(spans: list[_Span]) -> list[_Span]:
    """In order, without those that begin within another."""
    kept: list[_Span] = []
    for span in sorted(spans, key=lambda s: (s.start, s.end)):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def _rewritten(text: str, spans: list[_Span]) -> str:
    """The text with each span rewritten and citations settled; GROBID's space between span and sign is removed."""
    parts, place = [], 0
    for span in _apart([s for s in spans if 0 <= s.start < s.end <= len(text)]):
        parts += [text[place : span.start], span.rewrite(text[span.start : span.end])]
        place = span.end
        if text[place : place + 1] == " " and text[place + 1 : place + 2] in tuple(".,;:)]"):
            place += 1
    return citations.settle("".join([*parts, text[place:]])).strip()


def paper_of(place: Place, stated: dict, number: str, **texts: Any) -> Document:
    """The paper, named by its identifiers, or by its number in Semantic Scholar."""
    opened = object_in(stated.get("openaccessinfo"))
    ids = identity.ids_of({**stated, "ids": [opened.get("externalids")]})
    field = stated.get("mag_field_of_study")
    is_named = (number.isdecimal() and number.strip("0")) or _SHA.fullmatch(number)
    return place.paper(
        arxiv=ids.arxiv,
        pmid=ids.pmid,
        doi=ids.doi,
        accession=f"s2:{number}" if is_named else ids.accession,
        discipline=text_in(field[0] if isinstance(field, list) and field else field),
        language=text_in(stated.get("language")),
        **_stated(stated, field),
        **texts,
    )


def _stated(stated: dict, field: object) -> dict[str, Any]:
    """What the metadata state; the present form has its references as marks in its text, with what they say."""
    found = stated_in(stated)
    if field:
        found["categories"] = as_terms(field)
    return found
