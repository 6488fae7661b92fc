"""The bundled sample papers: JSON lines of id, discipline, title, tagged abstract sentences and sections."""

from nsllm_lite.corpus.files.objects import objects_in
from nsllm_lite.corpus.files.opening import Place, Unread
from nsllm_lite.corpus.files.records import iter_records
from nsllm_lite.formats.documents import Document, Section

records = iter_records


def recognise(head: str) -> bool:
    return {"title", "sections", "discipline"} <= next((fields for _, fields in objects_in(head)), {}).keys()


def document(record: dict, place: Place) -> Document | Unread:
    try:
        name, title, discipline = (_text(record[key]) for key in ("id", "title", "discipline"))
        if not name.strip():
            raise ValueError("the id is empty")  # caught below
        moves = tuple((_text(label), _text(sentence)) for label, sentence in record["abstract"])
        return Document(
            id=name,
            source=place.source,
            origin=place.origin,
            title=title,
            abstract=" ".join(sentence for _, sentence in moves),
            sections=tuple(Section(_text(s["heading"]), _text(s["text"])) for s in record["sections"]),
            discipline=discipline,
            moves=moves,
        )
    except (KeyError, TypeError, ValueError) as error:
        return place.unread(f"not a sample record: {type(error).__name__} {error}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text is needed")
    return value
