"""EndNote's XML, as EndNote, Zotero and Mendeley write it: `<xml><records><record>`.

Text stands in `<style>` elements, of which those above and below the line count (10⁻⁵, CO₂).

Source: EndNote's export "XML" (the DTD RSXML.dtd in its folder)
"""

from functools import partial

from lxml import etree

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.elements import iter_elements, line_of, raw_text, text_of, xml_root
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.tagged import stated
from nsllm_lite.corpus.stated.dates import dated
from nsllm_lite.corpus.stated.names import without_mark
from nsllm_lite.corpus.stated.terms import as_terms
from nsllm_lite.formats.documents import Document

ROOTS = ("xml", "records")
_FACES = {"superscript": "sup", "subscript": "sub"}

records = partial(iter_elements, tags=("record",))


def recognise(head: str) -> bool:
    return xml_root(head) in ROOTS and "<record" in head and ("<ref-type" in head or "<source-app" in head)


def document(record: etree._Element, place: Place) -> Document | Unread:
    if record.find("titles") is None and record.find("ref-type") is None:
        return place.unread("a record without titles and type: none of EndNote's")
    for style in record.iter("style"):
        style.tag = next((tag for face, tag in _FACES.items() if face in style.get("face", "")), "style")
    number, urls = _line(record, "accession-num"), [line_of(url) for url in record.iterfind("urls//url")]
    ids = identity.exported_ids(
        doi=_line(record, "electronic-resource-num"),
        others=[*urls, number, _line(record, "custom2")],
        number=number,
        url=next(iter(urls), ""),
        databases=(_line(record, f"remote-database-{part}") for part in ("name", "provider")),
    )
    names = (without_mark(line_of(one)) for one in record.iterfind("contributors/authors/author"))
    return place.paper(
        **ids._asdict(),
        title=text_of(record.find("titles/title")) or text_of(record.find("titles/translated-title")),
        abstract=stated(text_of(record.find("abstract"))),
        language=_line(record, "language"),
        date=dated(_line(record, "dates/year"), *map(line_of, record.iterfind("dates/pub-dates/date"))),
        authors=tuple(filter(None, names)),
        venue=_first(record, "periodical/full-title", "titles/secondary-title", "titles/alt-title"),
        keywords=as_terms(*(raw_text(one) for one in record.iterfind("keywords/keyword")), parted=";"),
    )


def _line(record: etree._Element, path: str) -> str:
    return line_of(record.find(path))


def _first(record: etree._Element, *paths: str) -> str:
    return next(filter(None, (_line(record, path) for path in paths)), "")
