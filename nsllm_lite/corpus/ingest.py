"""The first stage: files of one task -> cleaned documents in parts, every record accounted for."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nsllm_lite.artifact import integrity
from nsllm_lite.corpus import join, sources
from nsllm_lite.corpus.decontaminate import Index
from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.parts import HEAD_CHARS, PartWriter
from nsllm_lite.corpus.shards import ReadTask
from nsllm_lite.corpus.shingles import shingles_of_each
from nsllm_lite.corpus.sources import Found
from nsllm_lite.corpus.texts import clean, language, quality
from nsllm_lite.corpus.texts.render import RENDER
from nsllm_lite.corpus.texts.scripts import is_undecodable
from nsllm_lite.formats.documents import Document
from nsllm_lite.recipe.corpus import Corpus

BATCH, BATCH_CHARS = 128, 1 << 20  # records whose shingles are made at once


class Candidate(NamedTuple):
    """A document that a phase can use. `why` is {phase: why it cannot enter this one, or ""}."""

    document: Document
    why: dict[str, str]
    texts: list[str]  # that phases can use, the first of them compared with those of other documents
    written_in: str  # ISO 639-1 code, or "" where it is not certain
    printed: bool = False  # read from print, which another source of the same paper is better than


class Dropped(NamedTuple):
    name: str
    origin: str
    num_chars: int
    reason: str
    text: str
    other: str = ""
    written_in: str = ""


def ingest(recipe: Corpus, folder: Path, task: ReadTask) -> dict:
    """Writes FOLDER/NNNNN-KKK, as many as needed; returns the parts, counts, and formats and encodings of the files."""
    names: list[str] = []
    counts = {"records": 0, "documents": 0}
    writer: PartWriter | None = None
    waiting: list[Candidate | Dropped] = []
    num_new = chars_new = 0  # candidates among them, and their characters
    index = evaluation_index(tuple(recipe.decontaminate))
    found = Found()
    for records in _readings(recipe, folder, task, found):
        for record in records:
            if writer is None or writer.is_full():
                if writer:
                    writer.close()
                names.append(f"{task.number:05d}-{len(names):03d}")
                writer = PartWriter(folder / names[-1], task.source.name, task.general, recipe.near_duplicate_jaccard)
            counts["records"] += 1
            if isinstance(record, Unread):
                origin = clean.clean_name(record.origin)
                message = clean.clean_name(" ".join(record.message.split()))
                waiting.append(Dropped(f"{task.source.name}:{origin}", origin, 0, record.reason, message))
            else:
                counts["documents"] += 1
                waiting.append(judge(clean.clean_document(record), task.general, recipe))
            if isinstance(waiting[-1], Candidate):
                if found.printed and record.origin.rpartition("#")[0] in found.printed:
                    waiting[-1] = waiting[-1]._replace(printed=True)
                num_new, chars_new = num_new + 1, chars_new + waiting[-1].document.num_chars
            if len(waiting) == BATCH or chars_new > BATCH_CHARS or writer.is_full(num_new, chars_new):
                enter(waiting, index, writer)
                waiting, num_new, chars_new = [], 0, 0
    if writer:
        enter(waiting, index, writer)
        writer.close()
    made = (path for name in names for path in sorted((folder / name).iterdir()))
    files = integrity.describe_all(folder.parent, made)
    encodings = {clean.clean_name(name): sorted(used) for name, used in found.encodings.items() if used}
    return {"parts": names, **counts, "formats": sorted(found.formats), "encodings": encodings, "files": files}


def _readings(recipe: Corpus, folder: Path, task: ReadTask, found: Found) -> Iterator[Iterator[Document | Unread]]:
    """The records of each file of a task, or those of its share of what was joined."""
    languages = tuple(recipe.languages)
    if task.share:
        yield join.read(folder.parent / join.FOLDER, task.source, task.share, found, languages)
    for file in task.files:
        yield sources.read(task.source, file, task.general, found, languages)


@lru_cache(maxsize=1)
def evaluation_index(paths: tuple[str, ...]) -> Index | None:
    """The n-grams of the evaluation files; loaded once a process."""
    return Index.load(paths) if paths else None


def judge(document: Document, general: bool, recipe: Corpus) -> Candidate | Dropped:
    """A candidate for the phases that can use the document, or why there is none."""
    phases = ("general",) if general else ("phase1", "phase2")
    texts = {phase: RENDER[phase](document, recipe.min_chars) for phase in phases}
    why = {phase: reason for phase, (_, reason) in texts.items()}
    usable = [text for text, reason in texts.values() if not reason]
    reason = quality.reason_to_drop(document) or ("" if usable else next(iter(why.values())))
    written_in = ""
    if usable and reason in ("", "repetition"):  # what is not in these languages is not judged by its words
        written_in = language.sure_language(usable[0])
        foreign = language.reason(written_in, recipe.languages)
        is_abstract = bool(document.abstract) and not document.sections
        if not reason and is_abstract and (foreign or (recipe.languages and language.may_be_in_two(usable[0]))):
            half = language.part_in(document.abstract, tuple(recipe.languages))
            if half and half != document.abstract:
                return judge(replace(document, abstract=half, moves=()), general, recipe)
        reason = "undecodable" if is_undecodable(usable[0]) else foreign or reason
    if reason:
        return _dropped(document, reason, written_in=written_in)
    return Candidate(document, why, usable, written_in)


def _dropped(document: Document, reason: str, other: str = "", written_in: str = "") -> Dropped:
    return Dropped(document.id, document.origin, document.num_chars, reason, head_of(document), other, written_in)


def enter(records: list[Candidate | Dropped], index: Index | None, writer: PartWriter) -> None:
    """Writes them in order; drops a candidate that holds an item of the evaluation files."""
    texts = [text for one in records if isinstance(one, Candidate) for text in one.texts[: None if index else 1]]
    shingles = iter(shingles_of_each(texts))
    for one in records:
        if isinstance(one, Candidate):
            own, text_key = next(shingles)
            if index:
                of_all = (own, *(next(shingles)[0] for _ in one.texts[1:]))
                item = next(filter(None, map(index.find, of_all)), None)
                if item:
                    writer.drop(*_dropped(one.document, "contaminated", item[0], one.written_in))
                    continue
            lost = sum(part.count(clean.LOST) for part in texts_in(one.document))
            writer.add(one.document, one.why, text_key, own, lost, one.written_in, one.printed)
        else:
            writer.drop(*one)


def texts_in(document: Document) -> Iterator[str]:
    yield from (document.title, document.abstract, document.text)
    for section in document.sections:
        yield f"{section.heading} {section.text}"


def head_of(document: Document) -> str:
    """The beginning of a document's text, for dropped.jsonl."""
    return " | ".join(part[:HEAD_CHARS] for part in texts_in(document) if part)[:HEAD_CHARS]
