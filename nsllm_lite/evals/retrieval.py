"""Retrieval by an encoder beside BM25, the same encoder untrained, chance, and both fused; no query finds the document
that it is itself."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nsllm_lite.models.embedding import Embedder
from nsllm_lite.retrieval import metrics
from nsllm_lite.retrieval.bm25 import Bm25
from nsllm_lite.retrieval.exact import search, without
from nsllm_lite.retrieval.fusion import best_weight, fuse
from nsllm_lite.retrieval.sets import Judged, RetrievalSet
from nsllm_lite.tasks.heads import Figures
from nsllm_lite.tasks.scores import mean

DEPTH = 100  # documents of each ranking that is kept and fused
BM25, STEMMED, CHANCE = "BM25", "BM25, Porter", "chance"


class Rankings(NamedTuple):
    """(Q, DEPTH) each; `development` None where the collection has no such queries."""

    test: np.ndarray
    development: np.ndarray | None


def rank(embedder: Embedder, collection: RetrievalSet) -> tuple[Rankings, dict[str, Any]]:
    """The rankings of a model, and {"cut": documents longer than its window}."""
    documents = embedder.encode(collection.documents, "document", show=True)
    depth = min(DEPTH, len(documents))

    def ranked(judged: Judged) -> np.ndarray:
        places, _ = search(embedder.encode(judged.queries, "query"), documents, depth + 1)
        return without(places, judged.own, depth)

    found = _of_both(collection, ranked)
    return found, {"cut": embedder.num_cut(collection.documents, "document"), "documents": len(documents)}


def floors(collection: RetrievalSet, seed: int) -> dict[str, Rankings]:
    """BM25 with and without stems, and documents drawn at random."""
    depth, rng = min(DEPTH, len(collection.documents)), np.random.default_rng(seed)
    found = {}
    for name, porter in ((BM25, False), (STEMMED, True)):
        index = Bm25(collection.documents, porter)

        def ranked(judged: Judged, index: Bm25 = index) -> np.ndarray:
            return without(index.search(judged.queries, depth + 1)[0], judged.own, depth)

        found[name] = _of_both(collection, ranked)
    total = len(collection.documents)
    drawn = np.array([rng.choice(total, min(depth + 1, total), replace=False) for _ in collection.test.ids])
    return found | {CHANCE: Rankings(without(drawn, collection.test.own, depth), None)}


def fused(dense: Rankings, lexical: Rankings, collection: RetrievalSet) -> tuple[Rankings, float, str]:
    """(rankings of both, weight of the dense one, how it was chosen)"""
    if collection.development and dense.development is not None and lexical.development is not None:
        grades = collection.development.grades
        weight = best_weight(dense.development, lexical.development, grades)
        how = f"chosen on {len(grades):,} development queries"
    else:
        weight, how = 0.5, "not chosen: there are no development queries"
    return Rankings(fuse(dense.test, lexical.test, weight, dense.test.shape[1]), None), weight, how


def figures(found: Rankings, collection: RetrievalSet) -> Figures:
    return {name: (rows, mean) for name, rows in metrics.figures(found.test, collection.test.grades).items()}


def as_lines(found: Rankings, collection: RetrievalSet) -> list[dict[str, Any]]:
    """A line of each query: its split, its id, and the ids of the documents found."""
    lines = []
    for split, judged, ranking in (("test", collection.test, found.test), _development(collection, found)):
        for name, row in zip(judged.ids if judged else (), () if ranking is None else ranking, strict=True):
            ids = [collection.document_ids[place] for place in row if place >= 0]
            lines.append({"split": split, "query": name, "documents": ids})
    return lines


def from_lines(lines: Sequence[dict[str, Any]], collection: RetrievalSet) -> Rankings:
    """What `as_lines` wrote."""
    places = {name: place for place, name in enumerate(collection.document_ids)}
    depth, found = min(DEPTH, len(places)), []
    for split, judged in (("test", collection.test), ("development", collection.development)):
        rows = {line["query"]: line["documents"] for line in lines if line["split"] == split}
        if judged is None:
            found.append(None)
            continue
        ranking = np.full((len(judged.ids), depth), -1)
        for number, query in enumerate(judged.ids):
            ranking[number, : len(rows[query])] = [places[name] for name in rows[query]]
        found.append(ranking)
    return Rankings(*found)


def _of_both(collection: RetrievalSet, ranked: Any) -> Rankings:
    return Rankings(ranked(collection.test), ranked(collection.development) if collection.development else None)


def _development(collection: RetrievalSet, found: Rankings) -> tuple[str, Judged | None, np.ndarray | None]:
    there = found.development is not None
    return "development", collection.development if there else None, found.development
