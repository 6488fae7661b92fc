"""Decoding of tags: the best of all valid sequences, found by trying them all."""

from itertools import product

import numpy as np
import pytest

from nsllm_lite.models.tag_sequences import best_sequence, is_iob2

LABELS = ("O", "B-gas", "I-gas", "B-ice", "I-ice")


def is_valid(tags: list[str]) -> bool:
    return all(
        not tag.startswith("I-") or before in (f"B-{tag[2:]}", tag)
        for before, tag in zip(["O", *tags], tags, strict=False)
    )


@pytest.mark.parametrize("length", [1, 2, 4])
def test_the_best_of_all_valid_sequences(length):
    for seed in range(20):
        logits = np.random.default_rng([seed, length]).normal(size=(length, len(LABELS)))
        valid = [path for path in product(range(len(LABELS)), repeat=length) if is_valid([LABELS[n] for n in path])]
        best = max(valid, key=lambda path: sum(logits[word, n] for word, n in enumerate(path)))
        assert best_sequence(logits, LABELS) == list(best)


def test_an_inside_that_continues_nothing_is_not_told():
    logits = np.array([[2.0, 0, 0, 0, 0], [0, 1.5, 2.0, 0, 0], [0, 0, 2.0, 0, 0]])  # word by word: O I-gas I-gas
    assert [LABELS[n] for n in best_sequence(logits, LABELS)] == ["O", "B-gas", "I-gas"]


def test_other_schemes_are_told_word_by_word():
    others = ("O", "I-gas", "I-ice")
    assert not is_iob2(others)
    assert not is_iob2(("O", "B-gas", "E-gas"))
    assert is_iob2(("O", "B-gas"))
    assert best_sequence(np.array([[0.0, 1, 0], [0, 0, 2.0]]), others) == [1, 2]
