"""Where in packed rows the keywords stand that their papers state."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from nsllm_lite.errors import UserError
from nsllm_lite.formats.documents import read_documents
from nsllm_lite.formats.rows import Row

MAX_KEYWORDS = 30  # of a paper
MAX_FORMS = 100_000  # of keywords whose tokens are remembered


class Keywords:
    """Of the papers in a corpus's folder `documents`. Raises UserError where none of them states a keyword."""

    def __init__(self, documents: Path, tokenizer: Tokenizer):
        if not documents.is_dir():
            found = f"No folder of documents at {documents}."
            raise UserError("mlm-no-documents", found, "Name the `documents` of the rows' corpus, or leave it out.")
        self._of = {
            document.id: document.keywords[:MAX_KEYWORDS]
            for document in read_documents(documents, ["id", "keywords"])
            if document.keywords
        }
        if not self._of:
            found = f"No paper in {documents} states a keyword."
            todo = "Set keyword_share=0: the sources of this corpus have none."
            raise UserError("mlm-no-keywords", found, todo)
        self._tokens = lru_cache(MAX_FORMS)(lambda form: tuple(tokenizer.encode(form, add_special_tokens=False).ids))

    def __len__(self) -> int:
        """How many papers have some."""
        return len(self._of)

    def places(self, row: Row) -> np.ndarray:
        """(tokens,) bool: whether a token is of a keyword of its own paper, as stated, in small letters, or with a
        capital."""
        found = np.zeros(len(row.input_ids), bool)
        start = 0
        for name, length in zip(row.doc_ids, row.doc_lengths, strict=True):
            ids = row.input_ids[start : start + length]
            for wanted in self._forms(name):
                for first in _occurrences(ids, wanted):
                    found[start + first : start + first + len(wanted)] = True
            start += length
        return found

    def _forms(self, name: str) -> set[tuple[int, ...]]:
        stated = self._of.get(name, ())
        written = {form for word in stated for form in (word, word.lower(), word[:1].upper() + word[1:])}
        return {tokens for form in written for begun in (form, f" {form}") if (tokens := self._tokens(begun))}


def _occurrences(ids: np.ndarray, wanted: tuple[int, ...]) -> Iterator[int]:
    for first in np.flatnonzero(ids[: len(ids) - len(wanted) + 1] == wanted[0]).tolist():
        if tuple(ids[first : first + len(wanted)].tolist()) == wanted:
            yield first
