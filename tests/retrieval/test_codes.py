"""Search by signs, then by inner products: against all distances and products, computed one by one."""

import numpy as np
import pytest

from nsllm_lite.retrieval import codes, exact


def vectors(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)


@pytest.mark.parametrize("width", [5, 64, 100, 384])
def test_distances_are_the_numbers_of_signs_that_differ(width, monkeypatch):
    monkeypatch.setattr(codes, "BLOCK", 7)  # several blocks, the last one shorter
    stored, queries = vectors(25, width), vectors(3, width, 1)
    words = codes.sign_codes(stored)
    assert words.shape == (-(-width // 64), 25)
    for query, code in zip(queries, codes.sign_codes(queries).T, strict=True):
        found = codes.sign_distances(code, words)
        assert found.tolist() == ((stored > 0) != (query > 0)).sum(1).tolist()


def test_the_fewest_of_equal_ones_are_the_first():
    distances = np.array([3, 1, 2, 2, 1, 2, 9], np.uint16)
    for count, places in (
        (1, [1]),
        (2, [1, 4]),
        (3, [1, 2, 4]),
        (4, [1, 2, 3, 4]),
        (7, list(range(7))),
        (20, list(range(7))),
    ):
        assert codes.fewest(distances, count).tolist() == places


def test_with_all_as_candidates_it_is_the_exact_search():
    stored, queries = vectors(300, 96).astype(np.float16), vectors(5, 96, 1)
    stored[7] = stored[250]  # equal products: the first comes first
    places, products = codes.search_codes(queries, stored, codes.sign_codes(stored), 10, len(stored), workers=2)
    exact = queries @ stored.astype(np.float32).T
    order = np.argsort(-exact, axis=1, kind="stable")[:, :10]
    assert places.tolist() == order.tolist()
    np.testing.assert_allclose(products, np.take_along_axis(exact, order, 1), rtol=1e-5)


def test_few_candidates_bring_the_nearest_of_those_that_agree_in_sign():
    stored = vectors(500, 384)
    queries = stored[:20] + 0.3 * vectors(20, 384, 1)
    places, _ = codes.search_codes(queries, stored, codes.sign_codes(stored), 1, 5)
    assert places[:, 0].tolist() == list(range(20))
    places, _ = codes.search_codes(queries, stored[:3], codes.sign_codes(stored[:3]), 10, 1)
    assert places.shape == (20, 3), "no more than there are"


def test_int8_is_the_vectors_within_half_a_step_and_searched_with_their_scales():
    stored, queries = vectors(200, 48), vectors(6, 48, 1)
    stored[3] = 0
    small, scales = exact.quantise(stored)
    assert small.dtype == np.int8
    assert (np.abs(small * scales[:, None] - stored) <= scales[:, None] / 2 + 1e-6).all()
    places, products = exact.search(queries, small, 10, block_documents=17, scales=scales)
    right = queries @ (small * scales[:, None]).T
    order = np.argsort(-right, axis=1, kind="stable")[:, :10]
    assert places.tolist() == order.tolist()
    np.testing.assert_allclose(products, np.take_along_axis(right, order, 1), rtol=1e-4)
