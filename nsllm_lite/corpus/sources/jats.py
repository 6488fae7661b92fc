"""JATS full text, as PMC, PLOS and eLife publish it: title, abstract, and the sections with their headings.

Kept: all text of the body that is not named below: paragraphs, lists, quotations, statements, code, formulas as text
(or `[formula]` where only a picture is given), citations by name, numbered citations that the sentence needs ("as in
[3]"), "Figure 2" and "Table 1" where the text says so. Left out, always: figures and tables with their captions,
notes and all, footnotes, boxes, supplementary files, appendices, acknowledgements and other back matter, references,
other numbered citations, equation numbers; author summaries, digests, highlights; sub-articles (reviews, replies), but
where the article has no body of its own and one of them has it. Of an article in a language that the recipe does not
take, a translation that it takes (trans-abstract, or a sub-article) is read in its place: title and abstract, and the
sections where they are translated too.
"""

import re
from collections.abc import Iterable, Iterator
from functools import partial

from lxml import etree

from nsllm_lite.corpus import identity
from nsllm_lite.corpus.files.elements import (
    formula,
    in_language,
    iter_elements,
    language_of,
    line_of,
    raw_text,
    text_of,
    xml_root,
)
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.stated.dates import dated
from nsllm_lite.corpus.stated.names import as_name
from nsllm_lite.corpus.stated.terms import as_reference, as_references, as_terms
from nsllm_lite.formats.documents import Document, Section

FIGURES = frozenset(("fig", "fig-group", "table-wrap", "table-wrap-group", "graphic", "inline-graphic", "media"))
EXTRAS = frozenset(("fn", "fn-group", "supplementary-material", "inline-supplementary-material", "boxed-text"))
SKIP = FIGURES | EXTRAS | {"object-id", "label", "caption", "sec"}
NO_BLOCKS = SKIP | {"title", "subtitle", "sec-meta", "ref-list", "sig-block", "permissions", "back", "ack", "app-group"}
ABSTRACTS = ("", "structured", "unstructured", "main", "abstract", "full", "scientific")  # types of the abstract proper
REVIEWS = frozenset(
    ("decision-letter", "reply", "referee-report", "reviewer-report", "editor-report", "author-comment", "response")
)

NO_PUBLICATION = ("received", "accepted", "retracted", "nihms-submitted", "pmc-release", "corrected")
KINDS = ("display-channel", "article-type")  # groups of subjects that say what kind of article it is
OF_AUTHORS = ("author", "author-keywords", "author-generated", "authors", "keywords")
HREF = "{http://www.w3.org/1999/xlink}href"
KIND = re.compile(
    r"(?:[\w-]+ ){0,3}(?:articles?|reports?|papers?|reviews?|communications?|letters?|editorials?|correspondence|"
    r"corrections?|errat(?:um|a)|comments?|commentar(?:y|ies)|perspectives?|essays?|news|viewpoints?|protocols?|"
    r"case series)",
    re.IGNORECASE,
)  # of article

records = partial(iter_elements, tags=("article",))


def recognise(head: str) -> bool:
    return xml_root(head) in ("article", "pmc-articleset", "articles")  # the last two: efetch's, Europe PMC's


def document(article: etree._Element, place: Place) -> Document | Unread:
    """The paper of one `article`, whatever it was wrapped in."""
    meta = article.find("front/article-meta")
    if meta is None:
        return place.unread("the article has no front matter (article-meta)")
    language = language_of(article)
    abstract, translation = _chosen(article, meta, language, place.languages)
    moves, abstract_text = _abstract(abstract)
    ids = identity.ids_of({"ids": {e.get("pub-id-type"): (e.text or "").strip() for e in meta.iterfind("article-id")}})
    papers = (article, *(s for s in article.iterfind("sub-article") if s.get("article-type") not in REVIEWS))
    papers = tuple(p for p in papers if not translation or language_of(p)[:2] == translation[:2])
    body = next((b for p in papers if (b := p.find("body")) is not None), None)
    return place.paper(
        **ids._asdict(),
        title=text_of(_title(article, meta, translation), SKIP | {"xref"}),
        abstract=abstract_text,
        sections=tuple(sections_of(body)) if body is not None else (),
        moves=moves,
        language=translation or language,
        date=_date(meta),
        authors=_authors(meta),
        venue=line_of(article.find("front/journal-meta//journal-title")),
        categories=_subjects(meta),
        keywords=_keywords(meta, translation or language),
        references=as_references([_reference(ref) for ref in article.iterfind("back//ref-list//ref")]),
    )


def _date(meta: etree._Element) -> str:
    """The earliest date of publication, as fine as one of its year states it."""
    found = [
        dated(date.findtext("year", ""), f"{date.findtext('month', '')} {date.findtext('day', '')}")
        for date in meta.iterfind("pub-date")
        if (date.get("pub-type") or date.get("date-type")) not in NO_PUBLICATION
    ]
    first = min((date[:4] for date in found if date), default="")
    finest = max((len(date) for date in found if date.startswith(first)), default=0)
    return min((date for date in found if date.startswith(first) and len(date) == finest), default="")


def _authors(meta: etree._Element) -> tuple[str, ...]:
    names = []
    for author in meta.iterfind("contrib-group/contrib"):
        if author.get("contrib-type", "author") != "author":
            continue
        name, group = author.find(".//name"), author.find("collab")
        if name is not None and group is None:
            names.append(as_name(*(line_of(name.find(part)) for part in ("surname", "given-names", "suffix"))))
        elif group is not None:  # its members may stand in it
            names.append(" ".join(f"{group.text or ''} {line_of(group.find('institution'))}".split()))
        else:
            names.append(line_of(author.find("string-name")))
    return tuple(filter(None, names))


def _subjects(meta: etree._Element) -> tuple[str, ...]:
    """Subjects of the article, without its kind ("Research Article"), which journals list among them."""
    groups = (g for g in meta.iterfind("article-categories/subj-group") if g.get("subj-group-type") not in KINDS)
    subjects = as_terms(*(line_of(subject) for group in groups for subject in group.iter("subject")), parted=";")
    return tuple(subject for subject in subjects if not KIND.fullmatch(subject))


def _keywords(meta: etree._Element, language: str) -> tuple[str, ...]:
    """The authors' in the article's language."""
    groups = [g for g in meta.iterfind("kwd-group") if g.get("kwd-group-type") in (None, *OF_AUTHORS)]
    words = (line_of(word) for group in in_language(groups, language) for word in group.iter("kwd"))
    return as_terms(*words, parted=";")


def _reference(ref: etree._Element) -> dict[str, str]:
    ids = {one.get("pub-id-type", ""): (one.text or "").strip() for one in ref.iter("pub-id")}
    links = " ".join(one.get(HREF) or raw_text(one) for one in ref.iter("ext-link", "uri")) if "doi" not in ids else ""
    if links and (found := as_reference(links)).startswith(("doi:", "arxiv:")):
        name, _, value = found.partition(":")
        ids[name] = value
    title = line_of(ref.find(".//article-title")) or line_of(ref.find(".//source"))
    if not title and not any(map(ids.get, ("doi", "pmid", "arxiv"))):
        for label in ref.iter("label"):
            label.text = ""
        return {"text": line_of(ref)}
    return ids | {"title": title}


def _chosen(
    article: etree._Element, meta: etree._Element, language: str, wanted: tuple[str, ...]
) -> tuple[etree._Element | None, str]:
    """(the abstract proper, the language that the article is translated into to be of use, mostly none)."""
    own, others = ([a for a in meta.iterfind(tag) if _is_proper(a)] for tag in ("abstract", "trans-abstract"))
    own.sort(key=lambda a: (bool(a.get("abstract-type")), language_of(a, language) != language))
    stubs = [s for s in article.iterfind("sub-article[@article-type='translation']") if language_of(s)]
    found = [(a, language_of(a, language)) for a in own] + [(a, language_of(a)) for a in others]
    found += [
        (a, language_of(a, language_of(s))) for s in stubs for a in s.iterfind("front-stub/abstract") if _is_proper(a)
    ]
    return wanted_of(found, language, wanted)


def wanted_of(
    found: list[tuple[etree._Element, str]], language: str, wanted: tuple[str, ...]
) -> tuple[etree._Element | None, str]:
    """Of abstracts with their languages, the article's own first, (the first in a language that is wanted, the language
    that the article is translated into to be of use, mostly none)."""
    if not found:
        return None, ""
    chosen, its_language = found[0]
    if wanted and its_language:
        chosen, its_language = next((one for one in found if one[1][:2] in wanted), found[0])
    is_translated = language and language[:2] not in wanted and its_language[:2] in wanted
    return chosen, its_language if is_translated else ""


def _is_proper(abstract: etree._Element) -> bool:
    return (abstract.get("abstract-type") or "").lower() in ABSTRACTS


def _title(article: etree._Element, meta: etree._Element, translation: str) -> etree._Element | None:
    """The article's title, or that of its translation, without which a translated abstract has none."""
    own_title = meta.find("title-group/article-title")
    if not translation:
        return own_title
    stubs = article.iterfind("sub-article[@article-type='translation']/front-stub")
    places = [meta, *(s for s in stubs if language_of(s.getparent())[:2] == translation[:2])]
    for group in places:
        stated = "" if group is meta else translation
        for title in (*group.iterfind("title-group/trans-title-group/trans-title"), *group.iterfind("title-group/*")):
            language = language_of(title) or language_of(title.getparent(), stated)
            if title.tag in ("trans-title", "article-title") and language[:2] == translation[:2]:
                return title
    return None


def _abstract(abstract: etree._Element | None) -> tuple[tuple[tuple[str, str], ...], str]:
    """(moves, text) of an abstract."""
    if abstract is None:
        return (), ""
    moves = []
    for section in abstract.iterfind("sec"):
        text = " ".join(block for part in section.iter("sec") for block in blocks_of(part))
        if text:
            moves.append((text_of(section.find("title"), SKIP).rstrip(":"), text))
    return tuple(moves), "\n\n".join([*blocks_of(abstract), *([" ".join(t for _, t in moves)] if moves else [])])


def sections_of(parent: etree._Element, path: tuple[str, ...] = (), kind: str = "") -> Iterator[Section]:
    """Sections in reading order, each before its own subsections, which inherit its kind (sec-type). A title that
    stands alone among paragraphs begins a section beside the one it stands in."""
    own_title = parent.find("title") if parent.tag == "sec" else None
    own_heading = text_of(own_title, SKIP)
    parts: list[tuple[str, list[str]]] = [(own_heading, [])]
    for child in parent:
        if child.tag == "title" and child is not own_title:
            parts.append((text_of(child, SKIP), []))
        else:
            parts[-1][1].extend(blocks_of([child]))
    for number, (heading, blocks) in enumerate(parts):
        if blocks or (number == 0 and parent.tag == "sec" and parent.find("sec") is not None):
            yield Section(heading, "\n\n".join(blocks), path, kind)
    for section in parent.iterfind("sec"):
        above = (*path, own_heading) if parent.tag == "sec" else path
        yield from sections_of(section, above, section.get("sec-type") or kind)


def blocks_of(elements: Iterable[etree._Element]) -> Iterator[str]:
    """The texts of those that are blocks and have any, as a section's children; a list gives one line an item."""
    for element in elements:
        if element.tag in NO_BLOCKS:
            continue
        if element.tag == "list":
            text = "\n".join(_items(element))
        else:
            text = formula(element) if element.tag == "disp-formula" else text_of(element, SKIP)
        if text:
            yield text


def _items(parent: etree._Element) -> Iterator[str]:
    """A line for each item of a list and of the lists within it."""
    for item in parent.iterfind("list-item"):
        text = text_of(item, SKIP | {"list"})
        if text:
            yield f"- {text}"
        for inner in item.iterfind("list"):
            yield from _items(inner)
