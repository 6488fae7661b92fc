"""Extraction tasks whose answer is a list of records with fields of text and of lists of texts."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsllm_lite.tasks.extraction import Extraction, Facts


@dataclass(frozen=True, kw_only=True)
class RecordList(Extraction):
    """`names` are the fields that say what a record is of, the first that is filled; a link joins that text to another
    text of its record. A blank text states nothing, nor does a record of blanks; order does not matter."""

    names: tuple[str, ...]

    metrics = Extraction.metrics | {"f1 links": "F1 of links"}

    def facts(self, value: Any) -> Facts:
        found: dict[str, Counter] = {field: Counter() for field in self.fields}
        for record in value:
            texts = list(_texts_of(record))
            for field, text in texts:
                found[field][text] += 1
            head = next(((name, record[name]) for name in self.names if record[name].strip()), None)
            if head:
                found["links"].update((head[1], field, text) for field, text in texts if field != head[0])
        return found

    def key(self, value: Any) -> Any:
        records = (sorted(_texts_of(record)) for record in value)
        return sorted(json.dumps(record) for record in records if record)

    def compose(self, found: Mapping[str, Sequence[str]]) -> Any:
        """A record for each name, or else for each of the next kind of names, with all texts of the other fields."""
        head = next((name for name in self.names if found.get(name)), self.names[0])
        blank = {field: "" if field in self.names else list(found.get(field, ())) for field in self.texts}
        return [blank | {head: text} for text in found.get(head, ())]


def _texts_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(field, text) of all that are not blank."""
    pairs = ((field, text) for field, held in record.items() for text in ([held] if isinstance(held, str) else held))
    return [(field, text) for field, text in pairs if text.strip()]
