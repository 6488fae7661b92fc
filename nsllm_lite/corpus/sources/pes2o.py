"""peS2o: papers of Semantic Scholar as one text each, with title, abstract and (of `s2orc`) the body in paragraphs.

The first line is the title, and in `s2ag` the rest is the abstract. In `s2orc` the abstract is what stands before the
first heading but "Abstract"; headings are known by their form, and citations stay as they are printed.

Source: huggingface.co/datasets/allenai/peS2o.
"""

import re
from itertools import takewhile

from nsllm_lite.corpus.files.lines import is_heading, names_references, sections_of
from nsllm_lite.corpus.files.objects import objects_in, text_in
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.corpus.stated.dates import as_date
from nsllm_lite.formats.documents import Document

LABELS = ("abstract", "summary")  # on a line of their own
_COLLECTION = re.compile(r'"source":\s*"(?:s2ag|s2orc)(?:/\w+)?"')

records = iter_records


def recognise(head: str) -> bool:
    keys = {"id", "source", "text"}
    return bool(_COLLECTION.search(head)) and any(keys <= fields.keys() for _, fields in objects_in(head))


def document(record: dict, place: Place) -> Document | Unread:
    text, number = text_in(record.get("text")).strip(), str(record.get("id") or "")
    if not text:
        return place.unread("no `text` in the record")
    title, _, rest = text.partition("\n")
    lines = [line.strip() for line in rest.split("\n") if line.strip()]
    lines = lines[bool(lines) and lines[0].rstrip(":").lower() in LABELS :]
    abstract = lines
    if text_in(record.get("source")).startswith("s2orc"):
        abstract = list(takewhile(lambda line: not is_heading(line), lines))
    body = takewhile(lambda line: not names_references(line), lines[len(abstract) :])
    return place.paper(
        accession=f"s2:{number}" if number.isdecimal() and number.strip("0") else "",
        title=title.strip(),
        abstract="\n\n".join(abstract),
        sections=sections_of(body),
        date=as_date(record.get("created")),
    )
