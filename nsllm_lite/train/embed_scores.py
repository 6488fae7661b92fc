"""Retrieval for held-out papers: what the model finds for each kind of pairs, beside BM25.

Queries are of held-out papers. Documents are those of all held-out papers that the corpus gives of that kind, and of
training papers up to `max_texts`: no pair of a query with them is trained on, and among a few hundred documents alone
titles find their abstracts by any model. The same words are one document. Scores are means over queries, with 95 %
intervals over resampled queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nsllm_lite.models.embedding import Role, unit
from nsllm_lite.recipe.embed import PAIR_KINDS, Embed
from nsllm_lite.retrieval.bm25 import Bm25
from nsllm_lite.retrieval.exact import MISSING, top_k, without
from nsllm_lite.retrieval.metrics import mrr, recall
from nsllm_lite.tasks.scores import estimate_mean
from nsllm_lite.train.embed_plan import AllPairs
from nsllm_lite.train.texts import key64

BLOCK = 64  # queries at a time
TEXTS = 16_384  # read and embedded at a time
DEPTH = 10
METRICS = {"recall@1": (recall, 1), "recall@10": (recall, 10), "mrr@10": (mrr, 10)}


@dataclass(frozen=True, slots=True)
class HeldoutSet:
    """`queries` and `documents` are texts by number; `grades` hold of each query the places of its documents, `own` the
    place of the query's own text among them, which is no answer, or MISSING."""

    queries: list[int]
    documents: list[int]
    grades: list[dict[int, int]]
    own: list[int]


class Encodes(Protocol):
    def encode(self, texts: Sequence[str], role: Role) -> np.ndarray: ...


class HeldoutScores:
    """Kinds of which no held-out pairs exist are not scored, which is said. `floors` are the figures of BM25 on the
    same queries and documents, by kind. Raises UserError where bm25s is not installed."""

    def __init__(self, recipe: Embed, pairs: AllPairs):
        self._recipe, self._pairs = recipe, pairs
        draws = np.array([key64(f"{recipe.seed} {name}") for name in pairs.corpus.names], np.uint64)
        made = {kind: heldout_set(recipe, pairs, kind, draws) for kind in PAIR_KINDS}
        self.sets = {kind: one for kind, one in made.items() if one and len(one.queries) > 1}
        if absent := [kind for kind in PAIR_KINDS if kind not in self.sets]:
            print(f"Not scored, for want of held-out pairs: {', '.join(absent)}")
        every = self.sets.values()
        self._needed: dict[Role, list[int]] = {
            "query": sorted({number for one in every for number in one.queries}),
            "document": sorted({number for one in every for number in one.documents}),
        }
        self.floors = self._floors()

    def score(self, embedder: Encodes) -> dict[str, Any]:
        """{kind or "all": {"loss", "queries", "documents", "recall@1": {value, low, high}, ..., "dimensions"}}, and
        "places": of each query where its first right document stands, from 1 to DEPTH, or 0."""
        found, row = {}, {}
        for role, numbers in self._needed.items():
            found[role] = self._encoded(embedder, numbers, role)
            row[role] = {number: place for place, number in enumerate(numbers)}
        figures: dict[str, Any] = {}
        losses: list[np.ndarray] = []
        for kind, one in self.sets.items():
            queries = found["query"][[row["query"][number] for number in one.queries]]
            documents = found["document"][[row["document"][number] for number in one.documents]]
            ranking, nats = rank(queries, documents, one, self._recipe.temperature)
            losses.append(nats)
            figures[kind] = {"loss": float(nats.mean()), **self._figures(ranking, one)}
            if self._recipe.dimensions:
                figures[kind]["dimensions"] = self._by_dimension(queries, documents, one)
        every = np.concatenate(losses) if losses else np.empty(0)
        return ({"all": {"loss": float(every.mean()), "queries": len(every)}} if len(every) else {}) | figures

    def _encoded(self, embedder: Encodes, numbers: list[int], role: Role) -> np.ndarray:
        """(n, D) of texts by number, few of which are in memory at a time."""
        parts = [numbers[first : first + TEXTS] for first in range(0, max(len(numbers), 1), TEXTS)]
        found = [embedder.encode([self._pairs.texts[number] for number in part], role) for part in parts]
        return np.concatenate(found)

    def _floors(self) -> dict[str, Any]:
        floors = {}
        for kind, one in self.sets.items():
            index = Bm25([self._pairs.texts[number] for number in one.documents])
            found, _ = index.search([self._pairs.texts[number] for number in one.queries], DEPTH + 1)
            floors[kind] = self._figures(without(found, one.own, DEPTH), one)
        return floors

    def _figures(self, ranking: np.ndarray, one: HeldoutSet) -> dict[str, Any]:
        scores = {
            name: estimate_mean(metric(ranking, one.grades, k), self._recipe.seed)._asdict()
            for name, (metric, k) in METRICS.items()
        }
        places = [round(1 / value) if value else 0 for value in mrr(ranking, one.grades, DEPTH).tolist()]
        return {"queries": len(one.queries), "documents": len(one.documents), **scores, "places": places}

    def _by_dimension(self, queries: np.ndarray, documents: np.ndarray, one: HeldoutSet) -> dict[str, Any]:
        """{first so many numbers of the embeddings: their mrr@10}"""
        found = {}
        for size in sorted(self._recipe.dimensions, reverse=True):
            ranking, _ = rank(unit(queries[:, :size]), unit(documents[:, :size]), one, self._recipe.temperature)
            found[str(size)] = float(mrr(ranking, one.grades).mean())
        return found


def heldout_set(recipe: Embed, pairs: AllPairs, kind: str, draws: np.ndarray) -> HeldoutSet | None:
    """At most `max_queries` queries, those of the lowest `draws` (papers,), with all their documents and others up to
    `max_texts`: all of held-out papers, then of training papers those of the lowest draws."""
    keys, held = pairs.texts.keys, pairs.corpus.heldout[kind]
    if kind != "citing-cited":  # its other sentences would be right answers, too
        held = held.one_a_paper()
    relevant: dict[int, dict[int, int]] = {}  # key of a query: keys of its documents, and their numbers
    text_of: dict[int, int] = {}
    for place in np.argsort(draws[held.papers], kind="stable").tolist():
        query, positive = int(held.queries[place]), int(held.positives[place])
        text_of.setdefault(key := int(keys[query]), query)
        relevant.setdefault(key, {})[int(keys[positive])] = positive
    asked = sorted(list(relevant)[: recipe.evaluation.max_queries], key=text_of.__getitem__)
    if not asked:
        return None
    answers = {key: number for query in asked for key, number in relevant[query].items()}
    numbers = np.concatenate([list(answers.values()), _candidates(pairs, kind, draws)])
    _, first = np.unique(keys[numbers], return_index=True)  # the same words once
    documents = np.sort(numbers[np.sort(first)[: max(recipe.evaluation.max_texts, len(answers))]]).tolist()
    place_of = {int(keys[number]): place for place, number in enumerate(documents)}
    grades = [{place_of[key]: 1 for key in relevant[query]} for query in asked]
    own = [place_of.get(query, MISSING) for query in asked]
    return HeldoutSet([text_of[query] for query in asked], documents, grades, own)


def _candidates(pairs: AllPairs, kind: str, draws: np.ndarray) -> np.ndarray:
    """Documents of a kind, one of each paper: those of held-out papers first, then in the order of `draws`."""
    corpus = pairs.corpus
    if kind == "citing-cited":
        papers = np.flatnonzero(corpus.own_texts >= 0)
        numbers = corpus.own_texts[papers]
    else:
        both = [of_split[kind].one_a_paper() for of_split in (corpus.heldout, corpus.train)]
        papers, numbers = (np.concatenate([getattr(one, name) for one in both]) for name in ("papers", "positives"))
    return numbers[np.lexsort((draws[papers], ~corpus.is_heldout[papers]))]


def rank(
    queries: np.ndarray, documents: np.ndarray, one: HeldoutSet, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """((Q, DEPTH) places, of equal cosines the first; of each pair -log of its share among all documents)."""
    ranking, losses = np.full((len(queries), DEPTH), MISSING), []
    for first in range(0, len(queries), BLOCK):
        rows = slice(first, first + BLOCK)
        cosines = queries[rows] @ documents.T
        for row, own in enumerate(one.own[rows]):
            if own >= 0:
                cosines[row, own] = -np.inf
        found, best = top_k(cosines, DEPTH)
        ranking[rows, : found.shape[1]] = np.where(np.isfinite(best), found, MISSING)
        scaled = cosines.astype(np.float64) / temperature
        highest = scaled.max(axis=1, keepdims=True)
        partitions = (highest + np.log(np.exp(scaled - highest).sum(axis=1, keepdims=True)))[:, 0]
        for row, grades in enumerate(one.grades[rows]):
            losses += (partitions[row] - scaled[row, list(grades)]).tolist()
    return ranking, np.array(losses)
