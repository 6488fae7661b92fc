"""Exact search and BM25 find the same documents whatever the blocks, with ties by rule; fusion by hand."""

import math
import sys

import numpy as np
import pytest

from nsllm_lite.retrieval import exact
from nsllm_lite.retrieval.bm25 import Bm25
from nsllm_lite.retrieval.exact import MISSING, without
from nsllm_lite.retrieval.fusion import best_weight, fuse
from tests.raising import raises

TEXTS = [
    "Old ice melts.",
    "The ice of the sea is old ice.",
    "Cells divide.",
    "Enzymes and cells.",
    "Melting and melted.",
]


@pytest.mark.parametrize("block", [None, 1, 3, 7])
def test_blocks_and_ties_do_not_change_what_is_found(block):
    """Whole numbers, so that products are exact and many are equal; numpy's own sort says what is right."""
    rng = np.random.default_rng(0)
    queries, documents = (rng.integers(-2, 3, size=(count, 4)) for count in (9, 50))
    places, scores = exact.search(queries.astype(np.float32), documents.astype(np.float16), 10, block)
    whole = queries @ documents.T
    assert (places == np.argsort(-whole, axis=1, kind="stable")[:, :10]).all()
    assert (scores == np.take_along_axis(whole, places, axis=1)).all()


def test_fewer_documents_than_asked_for():
    places, scores = exact.search(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 3)
    assert places.tolist() == [[0, 1, -1], [1, 0, -1]]
    assert scores.tolist() == [[1, 0, 0], [1, 0, 0]]
    with raises("search-widths-differ", 2, 3):
        exact.search(np.eye(2), np.eye(3), 1)


def test_a_rows_own_document_is_left_out():
    places = np.array([[3, 1, 2], [1, 3, MISSING], [2, 0, 1], [4, MISSING, MISSING]])
    found = without(places, [1, 3, MISSING, 4], 2)
    assert found.tolist() == [[3, 2], [1, MISSING], [2, 0], [MISSING, MISSING]]


def test_bm25_by_hand():
    """`sea` stands once in 1 of 5 documents, of 4 words against 3, 4, 2, 2, 2 (stop words are gone)."""
    places, scores = Bm25(TEXTS).search(["sea"], 3)
    assert places.tolist() == [[1, -1, -1]]
    length, mean = 4, 13 / 5
    inverse = math.log(1 + (5 - 1 + 0.5) / (1 + 0.5))
    assert scores[0, 0] == pytest.approx(inverse / (1 + 1.5 * (0.25 + 0.75 * length / mean)), rel=1e-5)


def test_bm25_gives_ties_in_order_and_nothing_for_unknown_words():
    places, _ = Bm25(TEXTS).search(["cells", "unheard", ""], 2)
    assert places.tolist() == [[2, 3], [-1, -1], [-1, -1]]


def test_porter_joins_the_forms_of_a_word():
    assert Bm25(TEXTS).search(["melt"], 2)[0].tolist() == [[-1, -1]]
    assert set(Bm25(TEXTS, porter=True).search(["melt"], 2)[0][0].tolist()) == {0, 4}


def test_bm25_without_words_and_without_its_libraries(monkeypatch):
    with raises("bm25-no-words"):
        Bm25(["", "of the"])
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with raises("extra-not-installed", "nsllm-lite[encoders]"):
        Bm25(TEXTS, porter=True)


def test_fusion_by_hand():
    """Document 2 is second in both: 2 * 0.5 / 62 is more than 0.5 / 61."""
    one, other = np.array([[1, 2, -1]]), np.array([[3, 2, 4]])
    assert fuse(one, other, 0.5, 3).tolist() == [[2, 1, 3]]
    assert fuse(one, other, 1.0, 3).tolist() == [[1, 2, -1]]
    assert fuse(one, other, 0.0, 3).tolist() == [[3, 2, 4]]


def test_the_weight_is_that_of_highest_ndcg():
    one, other = np.array([[1, 2, 5]]), np.array([[3, 4, 5]])
    assert best_weight(one, other, [{1: 1}], 2) > 0.5
    assert best_weight(one, other, [{3: 1}], 2) < 0.5
    assert best_weight(one, one, [{1: 1}], 2) == 0.5
