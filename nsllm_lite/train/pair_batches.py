"""Which pairs a step trains on: a function of (seed, step), with no wrong negative that is known to be right.

Of a batch's other texts a query learns that they are no answers. So no paper stands in a batch twice, nor two that cite
each other, nor the same words twice, nor words that another pair puts together with them. An epoch shows each paper
once, by one of its pairs; a pair that does not go with those before it waits for the next batch, and what does not fill
one is left for the next epoch.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.train.pairs import Pairs


class PairBatches:
    """Batches of the pairs of one kind. Raises UserError where they do not fill one."""

    def __init__(
        self, name: str, pairs: Pairs, keys: np.ndarray, links: Mapping[int, Collection[int]], batch_pairs: int,
        seed: int, stream: int,
    ):  # fmt: skip
        """`keys` are those of the texts, `links` the papers that cite one or are cited by it."""
        self.name, self.pairs, self.batch_pairs = name, pairs, batch_pairs
        self._links, self._seed, self._stream = links, seed, stream
        two = np.stack([keys[pairs.queries], keys[pairs.positives]], 1)
        self._partners = _partners(two)
        known = [] if pairs.negatives is None else [keys[pairs.negatives]]
        self._words = np.concatenate([two, *known], 1)  # (n, 2 and its negatives)
        self._epochs: list[int] = []  # batches of each epoch so far
        self._last: tuple[int, list[np.ndarray]] = (-1, [])
        if not self._batches_of(0):
            most = len(next(self._cut(self._order(0), len(pairs)), ()))
            found = f"{name}: of {len(pairs):,} pairs at most {most:,} go together in a batch, not {batch_pairs:,}."
            needed = "No paper stands in one twice, nor do two that cite each other."
            raise UserError("embed-batch-not-filled", found, needed, "Lower batch_pairs, or take a larger corpus.")

    def batch(self, number: int) -> np.ndarray:
        """Places in `pairs` of the batch `number`, in endless epochs."""
        epoch = 0
        while True:
            if epoch == len(self._epochs):
                self._epochs.append(len(self._batches_of(epoch)))
            if number < self._epochs[epoch]:
                return self._batches_of(epoch)[number]
            number -= self._epochs[epoch]
            epoch += 1

    @property
    def num_papers(self) -> int:
        return len(np.unique(self.pairs.papers))

    def papers_of(self, batch: np.ndarray) -> set[int]:
        """The papers of a batch, and those that cite them or are cited."""
        papers = {*self.pairs.papers[batch].tolist(), *self.pairs.others[batch].tolist()}
        return papers.union(*(self._links.get(one, ()) for one in papers))

    def words_of(self, batch: np.ndarray) -> set[int]:
        """The keys of a batch's texts, and of all that stand in a pair with one of them."""
        words = set(self._words[batch].ravel().tolist())
        return words.union(*(self._partners.get(one, ()) for one in words))

    def _batches_of(self, epoch: int) -> list[np.ndarray]:
        if self._last[0] != epoch:
            cut = self._cut(self._order(epoch), self.batch_pairs)
            whole = [np.array(batch) for batch in cut if len(batch) == self.batch_pairs]
            self._last = epoch, whole
        return self._last[1]

    def _order(self, epoch: int) -> np.ndarray:
        """Each paper once, shuffled."""
        order = np.random.default_rng([self._seed, self._stream, epoch]).permutation(len(self.pairs))
        _, first = np.unique(self.pairs.papers[order], return_index=True)
        return order[np.sort(first)]

    def _cut(self, order: np.ndarray, size: int) -> Iterator[list[int]]:
        """Batches of at most `size`, each of what goes together, in order."""
        papers, others = self.pairs.papers.tolist(), self.pairs.others.tolist()
        keys = self._words.tolist()
        waiting = deque(order.tolist())
        while waiting:
            batch: list[int] = []
            blocked: set[int] = set()
            words: set[int] = set()
            put_off: list[int] = []
            while waiting and len(batch) < size:
                place = waiting.popleft()
                two = {papers[place], others[place]}
                if two & blocked or words.intersection(keys[place]):
                    put_off.append(place)
                    continue
                batch.append(place)
                blocked |= two.union(*(self._links.get(one, ()) for one in two))
                words.update(keys[place], *(self._partners.get(one, ()) for one in keys[place]))
            yield batch
            waiting.extendleft(reversed(put_off))


def _partners(two: np.ndarray) -> dict[int, set[int]]:
    """Of texts that stand in several pairs the keys of all that they are paired with."""
    keys, counts = np.unique(two, return_counts=True)
    found: dict[int, set[int]] = {key: set() for key in keys[counts > 1].tolist()}
    if found:
        for one, other in two.tolist():
            if one in found:
                found[one].add(other)
            if other in found:
                found[other].add(one)
    return found


def in_turn(weights: Mapping[str, float], steps: int) -> list[str]:
    """A name for each step, so that after any of them each has had its share, within one step."""
    total, had = sum(weights.values()), dict.fromkeys(weights, 0)
    turns = []
    for step in range(1, steps + 1):
        name = max(weights, key=lambda one: weights[one] / total * step - had[one])
        had[name] += 1
        turns.append(name)
    return turns
