"""Web of Science tagged plain text: PT begins a record, ER ends it, three blanks go on with the field above.

FN, VR and EF may be missing and files may follow one another in one file. Titles and abstracts are taken as they
stand; the discipline comes from the research areas (SC), or else from the categories (WC), which are the document's
categories. Keywords Plus (ID), which Web of Science takes from the titles cited, are left out.
"""

import re
from functools import partial

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.tagged import Record, Syntax, iter_records, stated
from nsllm_lite.corpus.stated.dates import dated
from nsllm_lite.corpus.stated.terms import as_terms, cited
from nsllm_lite.formats.documents import Document

_TAGS = (
    "AB|AE|AF|AN|AR|AU|BA|BE|BF|BN|BP|BS|C1|C3|CA|CL|CR|CT|CY|D2|DA|DE|DI|DT|EA|ED|EI|EM|EP|FU|FX|GA|GP|HO|ID|IS|J9|JI|"
    "LA|MA|NR|OA|OI|PA|PD|PG|PI|PM|PN|PT|PU|PY|RI|RP|SC|SE|SI|SN|SO|SP|SU|TC|TI|U1|U2|UT|VL|WC|WE|Z9"
)
SYNTAX = Syntax(
    line=re.compile(r"([A-Z][A-Z0-9])(?: (.*)|\s*$)"),
    first="PT",
    last="ER",
    kept=frozenset(("TI", "AB", "LA", "DI", "D2", "PM", "UT", "AN", "SC", "WC")),
    vital=frozenset(("TI", "AB", "UT")),
    beside=frozenset(("PY", "PD", "EA", "AU", "AF", "CA", "SO", "DE", "CR")),
    glued=re.compile(rf"({_TAGS})(?=[A-Z\[])"),  # "AUGilles, H"
    titles=("TI",),
)
_HEADER = re.compile(r"FN [^\n\r]*[\n\r]+(?:VR|PT) |(?:VR [^\n\r]*[\n\r]+)?PT [A-Z][ \t]*[\n\r]+(?:[A-Z][A-Z0-9] |ER)")

records = partial(iter_records, syntax=SYNTAX)


def recognise(head: str) -> bool:
    return _HEADER.match(head) is not None


def document(record: Record, place: Place) -> Document:
    ids = identity.ids_of({"doi": record.values("DI", "D2"), "pmid": record.values("PM")})
    pmid, accession = identity.accession_of(record.value("UT", "AN"))
    return place.paper(
        arxiv=ids.arxiv,
        pmid=ids.pmid or pmid,
        doi=ids.doi,
        accession=accession,
        title=record.value("TI"),
        abstract=stated(record.text("AB")),
        discipline=identity.first(identity.discipline_of_areas, (record.value("SC"), record.value("WC"))),
        language=record.value("LA"),
        date=dated(record.value("PY", "EA"), record.value("PD", "EA")),
        authors=(*record.lines("AF", "AU"), *record.lines("CA")),
        venue=record.value("SO"),
        categories=as_terms(record.value("WC", "SC"), parted=";"),
        keywords=as_terms(record.value("DE"), parted=";"),
        references=cited(record.lines("CR")),
    )
