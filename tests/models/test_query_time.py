"""The time of a query is a median after what warms up, over all queries in turn."""

from nsllm_lite.models import query_time


def test_the_median_of_30_queries_after_5(monkeypatch):
    """By a clock on which the five that warm up take 1,000 s each, the next 14 10 ms, one 20 ms, and 15 30 ms."""
    taken = [1000.0] * 5 + [0.01] * 14 + [0.02] + [0.03] * 15
    now, asked = [0.0], []

    def ask(place: int) -> None:
        now[0] += taken[len(asked)]
        asked.append(place)

    monkeypatch.setattr(query_time.time, "perf_counter", lambda: now[0])
    found = query_time.query_time(ask, 4, "cpu")
    assert found == {"query_ms": 25.0, "queries": 30, "device": "cpu"}
    assert asked == [number % 4 for number in range(35)]
