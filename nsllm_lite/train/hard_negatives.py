"""Hard negatives: texts of other papers that share words with a query, found by BM25."""

from collections.abc import Collection

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.embed import HardNegatives
from nsllm_lite.retrieval.bm25 import Bm25
from nsllm_lite.train.pair_batches import PairBatches
from nsllm_lite.train.pairs import Pairs
from nsllm_lite.train.texts import Texts

STREAM = 7  # of random numbers
MANY = 64  # documents for each pair of a batch, of which a batch cannot hide all


class HardNegativeSearch:
    """Over the training documents of one kind of pairs. Raises UserError where they are fewer than the ranks asked."""

    def __init__(self, asked: HardNegatives, pairs: Pairs, texts: Texts, seed: int):

        self._asked, self._pairs, self._texts, self._seed = asked, pairs, texts, seed
        keys = texts.keys
        _, first = np.unique(keys[pairs.positives], return_index=True)  # the same words once
        self._numbers, self._papers = pairs.positives[first], pairs.others[first]
        self._keys = keys[self._numbers]
        if len(self._numbers) <= asked.last_rank:
            found = f"hard_negatives asks for ranks to {asked.last_rank:,} of {len(self._numbers):,} documents."
            raise UserError("embed-ranks-beyond", found, "Lower last_rank, or take a larger corpus.")
        self._index = Bm25([texts[number] for number in self._numbers.tolist()])

    def require_enough(self, batches: PairBatches, count: int) -> None:
        """Raises UserError where one of the first `count` batches leaves too few documents that answer none of it; none
        can where documents are many times as many as pairs."""
        if len(self._numbers) > MANY * batches.batch_pairs:
            return
        for number in range(count):
            places = batches.batch(number)
            free = int((~self._hidden(batches.papers_of(places), batches.words_of(places))).sum())
            if free < self._asked.count:
                found = f"Pairs {batches.name}: of {len(self._numbers):,} documents {free} answer none of a batch, too "
                found += f"few for {self._asked.count} hard negatives a query."
                todo = f"Lower batch_pairs={batches.batch_pairs} of the stage, or leave these pairs out of it."
                raise UserError("embed-negatives-few", found, todo)

    def _hidden(self, papers: Collection[int], words: Collection[int]) -> np.ndarray:
        return np.isin(self._papers, list(papers)) | np.isin(self._keys, np.array(list(words), np.uint64))

    def of(
        self, places: np.ndarray, blocked: Collection[int], words: Collection[int], step: int
    ) -> tuple[np.ndarray, int]:
        """(B, count) texts by number for a batch of pairs: none of the `blocked` papers, nor of these `words` (keys).

        Of the ranks asked for, those that (seed, step) draws; where too few are left, the next ones; then any, which
        share no word with the query: how many these are, is the second.
        """
        asked, rng = self._asked, np.random.default_rng([self._seed, step, STREAM])
        most = min(len(self._numbers), asked.last_rank + len(blocked) + len(words) + asked.count)
        queries = [self._texts[number] for number in self._pairs.queries[places].tolist()]
        hidden = self._hidden(blocked, words)
        chosen, num_easy = np.empty((len(places), asked.count), np.int64), 0
        for row, ranked in enumerate(self._index.search(queries, most)[0]):
            found = ranked[ranked >= 0].tolist()
            wanted = [one for one in found[asked.first_rank - 1 : asked.last_rank] if not hidden[one]]
            drawn = [wanted[place] for place in rng.permutation(len(wanted))[: asked.count]]
            drawn += [one for one in found[asked.last_rank :] if not hidden[one]][: asked.count - len(drawn)]
            if missing := asked.count - len(drawn):
                others = [one for one in rng.permutation(len(hidden)).tolist() if not hidden[one] and one not in found]
                drawn += others[:missing]
                num_easy += missing
            assert len(drawn) == asked.count  # `require_enough` has looked
            chosen[row] = self._numbers[drawn]
        return chosen, num_easy
