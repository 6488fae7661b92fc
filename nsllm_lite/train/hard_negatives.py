"""Hard negatives: texts of other papers that share words with a query, found by BM25."""

from collections.abc import Collection

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.embed import HardNegatives
from nsllm_lite.retrieval.bm25 import Bm25
from nsllm_lite.train.pairs import Pairs
from nsllm_lite.train.texts import Texts

STREAM = 7  # of random numbers


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
        hidden = np.isin(self._papers, list(blocked)) | np.isin(self._keys, np.array(list(words), np.uint64))
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
            if len(drawn) < asked.count:
                told = f"Of {len(self._numbers):,} documents only {len(drawn)} are no answers to a query."
                raise UserError("embed-negatives-few", told, "Lower hard_negatives.count or batch_pairs.")
            chosen[row] = self._numbers[drawn]
        return chosen, num_easy
