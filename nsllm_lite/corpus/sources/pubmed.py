"""PubMed / MEDLINE XML: title and abstract; the labels of a structured abstract are kept as moves.

Abstracts in other languages (OtherAbstract) are left out. The date is that of the journal's issue, or of the electronic
article where that is finer; categories are the major topics among the MeSH headings.
"""

import re
from functools import partial

from lxml import etree

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.elements import iter_elements, line_of, text_of, xml_root
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.sources.medline import bare_title
from nsllm_lite.corpus.stated.dates import as_date, dated, finer_of
from nsllm_lite.corpus.stated.names import as_name
from nsllm_lite.corpus.stated.terms import as_reference, as_terms, different
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
    return place.paper(
        pmid=pmid,
        doi=_ids(article).doi,
        title=title,
        abstract=abstract,
        moves=moves,
        language=citation.findtext(".//Language", ""),
        date=finer_of(*(_date_in(citation.find(path)) for path in (".//PubDate", "Article/ArticleDate"))),
        authors=_authors(citation),
        venue=line_of(citation.find("Article/Journal/Title")) or line_of(citation.find("Book/BookTitle")),
        categories=_major_topics(citation),
        keywords=as_terms(*(line_of(keyword) for keyword in citation.iterfind("KeywordList/Keyword")), parted=";"),
        references=different(map(_reference, article.iterfind("PubmedData/ReferenceList//Reference"))),
    )


def _ids(article: etree._Element) -> identity.Ids:
    """Those of the article itself; the list of its references holds others."""
    stated = [*article.iterfind(".//ELocationID"), *article.iterfind("*/ArticleIdList/ArticleId")]
    kinds = ((e.get("EIdType") or e.get("IdType") or "", (e.text or "").strip()) for e in stated)
    return identity.first_of(pair for kind, value in kinds for pair in identity.identify(kind, value))


def _date_in(date: etree._Element | None) -> str:
    if date is None:
        return ""
    year, month, day = (date.findtext(part, "") for part in ("Year", "Month", "Day"))
    return dated(year, f"{month} {day}") if year else as_date(date.findtext("MedlineDate", ""))


def _authors(citation: etree._Element) -> tuple[str, ...]:
    lists = (*citation.iterfind("Article/AuthorList"), *citation.iterfind("AuthorList"))
    authors = (author for one in lists if one.get("Type", "authors") == "authors" for author in one.iterfind("Author"))
    names = (
        as_name(
            author.findtext("LastName", ""),
            author.findtext("ForeName", "") or author.findtext("FirstName", "") or author.findtext("Initials", ""),
            author.findtext("Suffix", ""),
        )
        or line_of(author.find("CollectiveName"))
        for author in authors
    )
    return tuple(filter(None, names))


def _major_topics(citation: etree._Element) -> tuple[str, ...]:
    """Headings with a star: the heading's own, or that of one of its qualifiers."""
    headings = citation.iterfind("MeshHeadingList/MeshHeading")
    return as_terms(
        *(line_of(h.find("DescriptorName")) for h in headings if any(part.get("MajorTopicYN") == "Y" for part in h)),
        parted="",
    )


def _reference(reference: etree._Element) -> str:
    ids = {one.get("IdType", ""): (one.text or "").strip() for one in reference.iterfind("ArticleIdList/ArticleId")}
    doi, pmid = ids.get("doi", ""), ids.get("pubmed", "")
    return as_reference("" if doi or pmid else line_of(reference.find("Citation")), doi=doi, pmid=pmid)


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
