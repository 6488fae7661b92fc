"""What is said of an embedding model's scores: from the places of right documents, query by query, by hand."""

from typing import Any

import pytest

from nsllm_lite.train import embed_report


def figures(places: list[int]) -> dict[str, Any]:
    of = {"value": 0.5, "low": 0.0, "high": 1.0}
    counts = {"queries": len(places), "documents": 99, "places": places}
    return counts | dict.fromkeys(embed_report.METRICS, of)


def results_of(bm25: list[int], before: list[int], after: list[int], **more: Any) -> dict[str, Any]:
    heldout = {when: {"pairs": {"k": figures(of), "all": {"loss": 1.0}}} for when, of in
               (("before", before), ("after", after))}  # fmt: skip
    results = {"floors": {"k": figures(bm25)}, "teacher": None, "heldout": heldout}
    return embed_report.with_differences(results | {"easy_negatives": 0, "texts_cut": 0.0} | more, seed=0)


@pytest.mark.parametrize(
    ("bm25", "before", "beside_bm25", "beside_before"),
    [
        ([1] * 10, [2] * 10, "finds less than BM25, mrr@10 -0.500 [-0.500, -0.500]", "cannot be told apart"),
        ([0] * 10, [4] * 10, "finds more than BM25, mrr@10 +0.500 [+0.500, +0.500]", "finds more than itself before"),
        # all of 10 queries differ by one half, 6 one way and 4 the other
        ([1] * 6 + [0] * 4, [1] * 10, "cannot be told apart from BM25, mrr@10 -0.100 [", "finds less than itself"),
    ],
)
def test_the_model_is_compared_query_by_query(bm25, before, beside_bm25, beside_before):
    words = embed_report.words_of(results_of(bm25, before, [2] * 10))
    assert words[0].startswith(f"k: this model {beside_bm25}")
    assert words[1].startswith(f"k: this model {beside_before}")
    assert len(words) == 2


def test_a_change_that_is_within_the_interval_of_a_mean_is_seen_where_queries_agree():
    """Of 40 queries every one rises a place, by 0.05 in the mean of what lies between 0.1 and 1."""
    before = [2, 3, 4, 5, 6, 7, 8, 9, 10, 10] * 4
    results = results_of(before, before, [place - 1 for place in before])
    beside_before = embed_report.words_of(results)[1]
    expected = sum(1 / (place - 1) - 1 / place for place in before) / 40
    assert results["differences"]["k"]["before"]["value"] == pytest.approx(expected)
    assert results["differences"]["k"]["before"] == results["differences"]["k"]["BM25"]
    assert beside_before.startswith(f"k: this model finds more than itself before, mrr@10 {expected:+.3f} [")


def test_places_of_queries_are_not_kept():
    results = results_of([1] * 4, [1] * 4, [2] * 4, teacher={"k": figures([1] * 4)})
    assert "places" not in str(results)
    assert results["heldout"]["after"]["pairs"]["all"] == {"loss": 1.0}
    assert results["teacher"]["k"]["queries"] == 4
