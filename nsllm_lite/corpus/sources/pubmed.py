"""PubMed / MEDLINE XML: title and abstract; the labels of a structured abstract are kept as moves.

Abstracts in other languages (OtherAbstract) are left out.
"""

import re
from functools import partial

from lxml import etree

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.elements import iter_elements, text_of, xml_root
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.sources.medline import bare_title
from nsllm_lite.formats.documents import Document

_CITATION = re.compile(r"(?<=[a-z)]) [⁰¹²³⁴⁵⁶⁷⁸⁹]+ ?(?=[.,;])")  # "in cancer ¹ ." cites; " ¹³C" is an isotope
RECORDS = ("PubmedArticle", "PubmedBookArticle")
ROOTS = (*RECORDS, "PubmedArticleSet", "PubmedBookArticleSet")

records = partial(iter_elements, tags=RECORDS)


def recognise(head: str) -> bool:
    return xml_root(head) in ROOTS


def document(article: etree._Element, place: Place) -> Document | Unread:
    citation = article.find("MedlineCitation")
    if citation is None:
        citation = article.find("BookDocument")
    pmid = citation.findtext("PMID", "").strip() if citation is not None else ""
    if citation is None or not pmid:
        return place.unread("the record has no PMID")
    title = bare_title(text_of(citation.find(".//ArticleTitle")))
    moves, abstract = _abstract(citation)
    return place.paper(pmid=pmid, doi=_ids(article).doi, title=title, abstract=abstract, moves=moves)


def _ids(article: etree._Element) -> identity.Ids:
    """Those of the article itself; the list of its references holds others."""
    stated = [*article.iterfind(".//ELocationID"), *article.iterfind("*/ArticleIdList/ArticleId")]
    kinds = ((e.get("EIdType") or e.get("IdType") or "", (e.text or "").strip()) for e in stated)
    return identity.first_of(pair for kind, value in kinds for pair in identity.identify(kind, value))


def _abstract(citation: etree._Element) -> tuple[tuple[tuple[str, str], ...], str]:
    """(moves, text). The move is NLM's category, or the journal's own label where NLM gave none."""
    parts, moves = [], []
    for part in citation.iterfind(".//Abstract/AbstractText"):
        text = _CITATION.sub("", text_of(part))
        if not text:
            continue
        parts.append(text)
        category = (part.get("NlmCategory") or "").strip()
        label = category if category not in ("", "UNASSIGNED", "UNLABELLED") else (part.get("Label") or "").strip()
        if label:
            moves.append((label, text))
    return tuple(moves), " ".join(parts)
