"""The bundled sample papers: JSON lines of id, discipline, title, tagged abstract sentences and sections."""

from collections.abc import Iterator
from typing import TextIO

from nsllm_lite.corpus.files.opening import UNREADABLE, Unread, read_each
from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.corpus.files.sniff import json_keys
from nsllm_lite.document import Document, Section


def recognise(head: str) -> bool:
    return {"title", "sections", "discipline"} <= json_keys(head)


def read(stream: TextIO, source: str, file: str) -> Iterator[Document | Unread]:
    def make(record: dict, origin: str) -> Document | Unread:
        try:
            moves = tuple((str(label), str(sentence)) for label, sentence in record["abstract"])
            return Document(
                id=record["id"],
                source=source,
                origin=origin,
                title=record["title"],
                abstract=" ".join(sentence for _, sentence in moves),
                sections=tuple(Section(s["heading"], s["text"]) for s in record["sections"]),
                discipline=record["discipline"],
                moves=moves,
            )
        except (KeyError, TypeError, ValueError) as error:
            return Unread(origin, UNREADABLE, f"not a sample record: {type(error).__name__} {error}")

    return read_each(iter_records(stream), file, make)
