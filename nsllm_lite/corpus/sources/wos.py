"""Web of Science tagged plain text: PT begins a record, ER ends it, three blanks go on with the field above.

FN, VR and EF may be missing and files may follow one another in one file. Titles and abstracts are taken as they
stand; the discipline comes from the research areas (SC), or else from the categories (WC).
"""

import re
from collections.abc import Iterator
from typing import TextIO

from nsllm_lite.corpus.files import identifiers
from nsllm_lite.corpus.files.opening import UNREADABLE, Unread, read_each
from nsllm_lite.corpus.files.tagged import Record, Syntax, iter_records, stated
from nsllm_lite.corpus.sources.arxiv import arxiv_id
from nsllm_lite.formats.documents import Document, as_doi

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
    glued=re.compile(rf"({_TAGS})(?=[A-Z\[])"),  # "AUGilles, H"
)
_HEADER = re.compile(r"FN [^\n\r]*[\n\r]+(?:VR|PT) |(?:VR [^\n\r]*[\n\r]+)?PT [A-Z][ \t]*[\n\r]+(?:[A-Z][A-Z0-9] |ER)")

_FIELDS = {
    "Biology": "anatomy & morphology; behavioral sciences; biochemistry & molecular biology; "
    "biodiversity & conservation; biology; biophysics; biotechnology & applied microbiology; cell biology; "
    "developmental biology; ecology; "
    "entomology; evolutionary biology; genetics & heredity; life sciences & biomedicine - other topics; "
    "marine & freshwater biology; mathematical & computational biology; microbiology; mycology; ornithology; "
    "parasitology; physiology; plant sciences; reproductive biology; virology; zoology",
    "Chemistry": "chemistry; crystallography; electrochemistry; polymer science",
    "Computer Science": "computer science; robotics",
    "Economics": "business & economics; economics",
    "Mathematics": "mathematics; statistics & probability",
    "Medicine": "allergy; anesthesiology; cardiac & cardiovascular systems; cardiovascular system & cardiology; "
    "clinical neurology; critical care medicine; dentistry, oral surgery & medicine; dermatology; emergency medicine; "
    "endocrinology & metabolism; gastroenterology & hepatology; general & internal medicine; "
    "geriatrics & gerontology; health care sciences & services; hematology; immunology; infectious diseases; "
    "integrative & complementary medicine; legal medicine; medical informatics; medical laboratory technology; "
    "medicine; neurosciences; neurosciences & neurology; nursing; nutrition & dietetics; obstetrics & gynecology; "
    "oncology; ophthalmology; orthopedics; otorhinolaryngology; pathology; pediatrics; peripheral vascular disease; "
    "pharmacology & pharmacy; psychiatry; public, environmental & occupational health; "
    "radiology, nuclear medicine & medical imaging; rehabilitation; research & experimental medicine; "
    "respiratory system; rheumatology; substance abuse; surgery; toxicology; transplantation; tropical medicine; "
    "urology & nephrology",
    "Physics": "acoustics; astronomy & astrophysics; mechanics; optics; physics; thermodynamics",
}
_DISCIPLINES = {area: field for field, areas in _FIELDS.items() for area in areas.split("; ")}


def recognise(head: str) -> bool:
    return _HEADER.match(head) is not None


def read(stream: TextIO, source: str, file: str) -> Iterator[Document | Unread]:
    def make(record: Record, origin: str) -> Document | Unread:
        if len(record.fields.get("TI", ())) > 1:
            return Unread(origin, UNREADABLE, "two titles in one record: the mark between two records is missing")
        doi = next(filter(None, map(as_doi, record.values("DI", "D2"))), "")
        pmid, accession = accession_of(record.value("UT", "AN"))
        return Document(
            id=identifiers.name(
                f"{source}:{origin}", arxiv_id(doi, bare=False), record.value("PM") or pmid, doi, accession
            ),
            source=source,
            origin=origin,
            title=record.value("TI"),
            abstract=stated(record.text("AB")),
            discipline=discipline_of(record.value("SC")) or discipline_of(record.value("WC")),
            doi=doi,
            language=record.value("LA").lower(),
        )

    return read_each(iter_records(stream, SYNTAX), file, make)


def accession_of(number: str) -> tuple[str, str]:
    """(PMID, accession number with its database): "ISI:0001" is "wos:0001" of old, "MEDLINE:12" is PMID 12."""
    database, colon, rest = number.partition(":")
    if not colon:
        return "", f"wos:{number}" if number else ""
    database = database.lower()
    return (rest, "") if database == "medline" else ("", f"{'wos' if database == 'isi' else database}:{rest}")


def discipline_of(areas: str) -> str:
    """The broad field of the first area that has one; "Physics, Applied" counts as physics, engineering has none."""
    for area in areas.lower().split(";"):
        whole = area.strip()
        field = _DISCIPLINES.get(whole) or _DISCIPLINES.get(whole.partition(",")[0])
        if field:
            return field
    return ""
