"""BM25 over documents in memory, the floor of every search.

Words are runs of two or more letters and digits in small letters, without 33 English stop words, and are cut by
Porter's rules where asked (`porter`). k1 = 1.5, b = 0.75, with Lucene's form of the inverse document frequency.
Source: Robertson and Zaragoza, "The probabilistic relevance framework: BM25 and beyond", 2009; Lù, "BM25S", 2024
(arXiv:2407.03618).
"""

from collections.abc import Callable, Sequence

import numpy as np

from nsllm_lite.errors import UserError, not_installed
from nsllm_lite.retrieval.exact import MISSING, padded, top_k


class Bm25:
    """Raises UserError where bm25s is not installed, or no document has a word."""

    def __init__(self, documents: Sequence[str], porter: bool = False):
        try:
            import bm25s
        except ModuleNotFoundError as error:
            raise not_installed(error, "encoders") from None
        self._tokens = bm25s.tokenize
        self._stem = stemmer() if porter else None
        self.size = len(documents)
        self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        cut = self._tokens(list(documents), stopwords="en", stemmer=self._stem, show_progress=False)
        if not any(cut.ids):
            raise UserError("bm25-no-words", f"None of {len(documents):,} documents has a word.", "Check the file.")
        self._known = cut.vocab
        self._index.index(cut, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """(positions, scores), (Q, k) each; -1 behind the last document that has a word of the query."""
        places, scores = np.full((len(queries), k), MISSING), np.zeros((len(queries), k), np.float32)
        for row, words in enumerate(self._cut(queries)):
            words = [word for word in words if word in self._known]
            if words:
                found, values = top_k(self._index.get_scores(words)[None], k)
                found = np.where(values > 0, found, MISSING)
                places[row : row + 1], scores[row : row + 1] = padded(found, values, k)
        return places, scores

    def _cut(self, texts: Sequence[str]) -> list[list[str]]:
        return self._tokens(list(texts), stopwords="en", stemmer=self._stem, return_ids=False, show_progress=False)


def stemmer() -> Callable[[list[str]], list[str]]:
    """Porter's first rules, of a list of words."""
    try:
        import Stemmer
    except ModuleNotFoundError as error:
        raise not_installed(error, "encoders") from None
    return Stemmer.Stemmer("porter").stemWords
