"""arXiv metadata as JSON: the Kaggle/OAI snapshot, and the daily files with `summary` for the abstract.

Any flat JSON record with a title and an abstract is read; one whose id is not arXiv's is named by its PMID, its DOI,
its OpenReview forum, or its place. The readers of other forms of the same metadata (`oai`, `atom`, `conference`) make
such a record and pass it to `document`, so that a paper is the same in all of them.
"""

import re

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.objects import objects_in
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.records import as_text, iter_records
from nsllm_lite.corpus.latex.inline import paragraphs
from nsllm_lite.corpus.stated.records import stated_in
from nsllm_lite.formats.documents import Document

ID_KEYS = ("id", "arxiv_id", "paper_id", "entry_id", "url", "doi", "DOI")
FORUM_KEYS = ("openreview", "site", "forum", "url")
_FORUM = re.compile(r"https?://openreview\.net/(?:forum|pdf)\?id=([\w-]+)")

records = iter_records


def recognise(head: str) -> bool:
    """Null (`n`, NaN) counts as text; a number does not: in a vocabulary file "title" is a word with a number."""
    if '"title"' not in head or not ('"abstract"' in head or '"summary"' in head):  # sooner found than objects
        return False
    first, texts = next(objects_in(head), None), set('"[nN')
    flat = (fields for depth, fields in objects_in(head) if depth == first.depth)
    return any(f.get("title") in texts and {f.get("abstract"), f.get("summary")} & texts for f in flat)


def document(record: dict, place: Place, accession: str = "") -> Document:
    """The paper of a flat record; `accession` names it where no arXiv id, PMID or DOI does."""
    ids = identity.ids_of(record)
    name = identity.first(identity.arxiv_id, (as_text(record[key]) for key in ID_KEYS if record.get(key))) or ids.arxiv
    abstract = as_text(record.get("abstract")) or as_text(record.get("summary"))
    forum = next(filter(None, (_FORUM.match(as_text(record[key])) for key in FORUM_KEYS if record.get(key))), None)
    categories = f"{as_text(record.get('primary_category'))} {as_text(record.get('categories'))} {name}"
    return place.paper(
        arxiv=name,
        pmid=ids.pmid,
        doi=ids.doi,
        accession=accession or (f"openreview:{forum[1]}" if forum else ids.accession),
        title=as_text(record.get("title")),
        abstract=paragraphs(abstract) if name else abstract,
        discipline=identity.discipline_of(categories),
        language=as_text(record.get("language")),
        **stated_in(record),
    )
