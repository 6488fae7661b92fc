"""The time of one query alone, from text to answer."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

WARM_UPS, QUERIES = 5, 30


def query_time(ask: Callable[[int], Any], total: int, device: str) -> dict[str, Any]:
    """{"query_ms": the median of QUERIES after WARM_UPS, one at a time, "queries", "device"}; `ask` answers a query by
    its number, below `total`."""
    taken = []
    for number in range(WARM_UPS + QUERIES):
        began = time.perf_counter()
        ask(number % total)
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return {"query_ms": round(1000 * statistics.median(taken[WARM_UPS:]), 3), "queries": QUERIES, "device": device}
