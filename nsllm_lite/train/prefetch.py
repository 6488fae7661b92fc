"""Micro-batches prepared ahead in a thread.

A thread reads rows, lays them out and pins them while the card (or the CPU) computes the micro-batch before. It runs on
into the next step, so that a step does not begin with waiting. Copying to the card is left to the main thread, on whose
stream it is ordered with the computing.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from typing import TypeVar

import torch

from nsllm_lite.formats.rows import Row
from nsllm_lite.models.causal import Batch, lay_out

AHEAD = 2  # micro-batches that are made or being made while one is in use

T = TypeVar("T")


def steps_ahead(
    steps: Sequence[int],
    read: Callable[[int], list[Row]],
    cut: Callable[[list[Row]], Sequence[Sequence[Row]]],
    device: str,
) -> Iterator[tuple[list[Row], Iterator[Batch]]]:
    """Of each step in turn its rows, as `read` gives them, and a batch on the host for each part that `cut` makes.

    The batches of a step are to be taken before the next step is asked for. Close the iterator to end its thread.
    An exception of `read` or `cut` is raised, with its traceback, where the first batch that it prevents is taken.
    """

    def parts() -> Iterator[tuple[list[Row], Batch, int, int]]:
        for step in steps:
            rows = read(step)
            micro_batches = cut(rows)
            for number, micro_rows in enumerate(micro_batches):
                yield rows, lay_out(micro_rows, pinned=device == "cuda"), number, len(micro_batches)

    # A new thread would otherwise use the first card, whichever is this process's own
    begin = partial(torch.cuda.set_device, torch.cuda.current_device()) if device == "cuda" else None
    with ThreadPoolExecutor(1, "prefetch", begin) as thread:
        ready = _ahead(parts(), thread)
        for rows, batch, number, count in ready:
            assert number == 0, "the micro-batches of a step were not all taken"
            yield rows, chain([batch], (later for _, later, _, _ in islice(ready, count - 1)))


def _ahead(items: Iterator[T], thread: ThreadPoolExecutor) -> Iterator[T]:
    """`items` in order, each made in `thread`."""
    end = object()
    pending = deque(thread.submit(next, items, end) for _ in range(AHEAD))
    while (item := pending.popleft().result()) is not end:
        pending.append(thread.submit(next, items, end))
        yield item
