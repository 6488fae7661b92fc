"""The first stage: files of one task -> cleaned documents in parts, every record accounted for."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from nsllm_lite.artifact import integrity
from nsllm_lite.corpus import dedup, sources
from nsllm_lite.corpus.decontaminate import Index
from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.parts import HEAD_CHARS, PartWriter
from nsllm_lite.corpus.shards import ReadTask
from nsllm_lite.corpus.sources import Found
from nsllm_lite.corpus.texts import clean, language, quality
from nsllm_lite.corpus.texts.render import RENDER
from nsllm_lite.corpus.texts.scripts import is_undecodable
from nsllm_lite.formats.documents import Document
from nsllm_lite.recipe.corpus import Corpus


def ingest(recipe: Corpus, folder: Path, task: ReadTask) -> dict:
    """Writes FOLDER/NNNNN-KKK, as many as needed; returns the parts, counts, and formats and encodings of the files."""
    names: list[str] = []
    counts = {"records": 0, "documents": 0}
    writer: PartWriter | None = None
    index = evaluation_index(tuple(recipe.decontaminate))
    found = Found(set(), {})
    for file in task.files:
        for record in sources.read(task.source, file, task.general, found, tuple(recipe.languages)):
            if writer is None or writer.is_full:
                if writer:
                    writer.close()
                names.append(f"{task.number:05d}-{len(names):03d}")
                writer = PartWriter(folder / names[-1], task.source.name, task.general, recipe.near_duplicate_jaccard)
            counts["records"] += 1
            if isinstance(record, Unread):
                origin = clean.clean_name(record.origin)
                message = clean.clean_name(" ".join(record.message.split()))
                writer.drop(f"{task.source.name}:{origin}", origin, 0, record.reason, message)
            else:
                counts["documents"] += 1
                _enter(clean.clean_document(record), task.general, recipe, index, writer)
    if writer:
        writer.close()
    made = (path for name in names for path in sorted((folder / name).iterdir()))
    files = integrity.describe_all(folder.parent, made)
    encodings = {clean.clean_name(name): sorted(used) for name, used in found.encodings.items() if used}
    return {"parts": names, **counts, "formats": sorted(found.formats), "encodings": encodings, "files": files}


@lru_cache(maxsize=1)
def evaluation_index(paths: tuple[str, ...]) -> Index | None:
    """The n-grams of the evaluation files; loaded once a process."""
    return Index.load(paths) if paths else None


def _enter(document: Document, general: bool, recipe: Corpus, index: Index | None, writer: PartWriter) -> None:
    """Adds a document as a candidate for the phases that can use it, or drops it."""
    phases = ("general",) if general else ("phase1", "phase2")
    texts = {phase: RENDER[phase](document, recipe.min_chars) for phase in phases}
    why = {phase: reason for phase, (_, reason) in texts.items()}
    usable = [text for text, reason in texts.values() if not reason]
    reason, other = quality.reason_to_drop(document) or ("" if usable else next(iter(why.values()))), ""
    written_in = ""
    if usable and reason in ("", "repetition"):  # what is not in these languages is not judged by its words
        written_in = language.sure_language(usable[0])
        foreign = language.reason(written_in, recipe.languages)
        is_abstract = bool(document.abstract) and not document.sections
        if not reason and is_abstract and (foreign or (recipe.languages and language.may_be_in_two(document.abstract))):
            half = language.part_in(document.abstract, tuple(recipe.languages))
            if half and half != document.abstract:
                _enter(replace(document, abstract=half, moves=()), general, recipe, index, writer)
                return
        reason = "undecodable" if is_undecodable(usable[0]) else foreign or reason
    if not reason:
        words = dedup.words_of(usable[0])
        shingles = dedup.shingles_of_words(words)
        if index:
            all_shingles = (shingles, *(dedup.shingles_of(text) for text in usable[1:]))
            found = next(filter(None, map(index.find, all_shingles)), None)
            if found:
                reason, other = "contaminated", found[0]
    if reason:
        writer.drop(document.id, document.origin, document.num_chars, reason, head_of(document), other, written_in)
        return
    lost = sum(part.count(clean.LOST) for part in texts_in(document))
    text_key = dedup.key64(" ".join(words)) if words else 0
    writer.add(document, why, text_key, shingles, lost, written_in)


def texts_in(document: Document) -> Iterator[str]:
    yield from (document.title, document.abstract, document.text)
    for section in document.sections:
        yield f"{section.heading} {section.text}"


def head_of(document: Document) -> str:
    """The beginning of a document's text, for dropped.jsonl."""
    return " | ".join(part[:HEAD_CHARS] for part in texts_in(document) if part)[:HEAD_CHARS]
