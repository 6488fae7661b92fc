import random

import numpy as np
import pytest

from nsllm_lite import recipe
from nsllm_lite.corpus import dedup, split

WORDS = [f"w{i}" for i in range(3000)]


def sentence(seed, count=200):
    return random.Random(seed).choices(WORDS, k=count)


def store(tmp_path, texts):
    shingles = dedup.Shingles(tmp_path / "s")
    for text in texts:
        shingles.add(dedup.shingles_of(" ".join(text)))
    return shingles


def find(tmp_path, texts, ids=None, rank=None, threshold=0.8):
    ids = ids or [str(i) for i in range(len(texts))]
    keys = np.array([dedup.key64(dedup.normalise(" ".join(t))) for t in texts], np.uint64)
    rank = np.arange(len(texts)) if rank is None else np.array(rank)
    return dedup.find_duplicates(ids, keys, store(tmp_path, texts), rank, threshold)


def test_shingles_are_the_word_5_grams():
    first, second = dedup.shingles_of("a b c d e f"), dedup.shingles_of("A, b c; d e\nx")
    assert len(first) == 2
    assert dedup.jaccard(first, second) == pytest.approx(1 / 3)
    assert len(dedup.shingles_of("a b")) == 1
    assert len(dedup.shingles_of("b a c d e f g")) == len(dedup.shingles_of("a b c d e f g")) == 3
    assert dedup.jaccard(dedup.shingles_of("a b c d e"), dedup.shingles_of("b a c d e")) == 0  # order counts


def test_each_kind_of_duplicate_names_the_one_kept(tmp_path):
    a, b = sentence(1), sentence(2)
    near = [*a[:-3], "x", "y", "z"]
    texts = [a, b, ["A,", *a[1:]] if a[0] == "A" else a, near, sentence(3)]
    found = find(tmp_path, texts, ids=["p", "q", "r", "s", "q"])
    assert found == {2: (0, "same_text"), 3: (0, "near_duplicate"), 4: (1, "same_id")}


def test_the_document_of_lowest_rank_is_kept(tmp_path):
    a = sentence(1)
    assert find(tmp_path, [a, a], rank=[1, 0]) == {0: (1, "same_text")}


def test_candidates_are_verified_by_the_real_jaccard_index(tmp_path):
    a = sentence(1)
    close = [*a[:-13], *sentence(9, 13)]  # 183 shared 5-grams, 209 in all: 0.876
    found = find(tmp_path, [a, close], threshold=0.85)
    assert found == {1: (0, "near_duplicate")}
    assert find(tmp_path, [a, close], threshold=0.9) == {}


def test_planted_near_duplicates_are_found(tmp_path):
    """Recall of 0.99 at exactly the threshold is the design; these lie above it."""
    texts = [sentence(i) for i in range(400)]
    planted = [[*t[:100], "new", *t[101:]] for t in texts[:200]]
    found = find(tmp_path, [*texts, *planted], threshold=0.9)
    assert len(found) >= 198
    assert all(found[i][0] == i - 400 for i in found)


def test_bands_keep_their_recall_at_low_thresholds():
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        rows = dedup.rows_per_band(threshold)
        assert 1 - (1 - threshold**rows) ** (dedup.NUM_HASHES // rows) >= 0.99


def test_training_papers_near_a_held_out_one_are_found_exactly(tmp_path):
    a, b = sentence(1), sentence(2)
    half = [*a[:150], *sentence(5, 50)]  # Jaccard 146 / 246 = 0.59
    third = [*b[:100], *sentence(6, 100)]  # 96 / 296 = 0.32
    shingles = store(tmp_path, [a, b, half, third, sentence(7)])
    assert split.near_heldout(shingles, {0, 1}, [2, 3, 4]) == {2: 0}


def test_held_out_papers_do_not_depend_on_order_and_come_from_both_groups():
    first = {i: f"full:{i}" for i in range(20)}
    second = {i: f"abstract:{i}" for i in range(20, 1000)}
    heldout = recipe.HeldOut(share=0.05, general_share=0.05, max_papers=30, seed=1)
    chosen = split.choose_heldout(first, second, heldout)
    assert len(chosen) == 30
    assert len(chosen & first.keys()) == 1
    names = {(first | second)[i] for i in chosen}
    moved = {1000 - i: name for i, name in second.items()}
    other = split.choose_heldout({-i - 1: n for i, n in first.items()}, moved, heldout)
    assert {({-i - 1: n for i, n in first.items()} | moved)[i] for i in other} == names
    assert (
        split.choose_heldout(first, second, recipe.HeldOut(share=0.05, general_share=0.05, max_papers=30, seed=2))
        != chosen
    )


def test_five_papers_hold_out_one_and_four_none():
    heldout = recipe.HeldOut(share=0.01, general_share=0.01, max_papers=10, seed=1)
    assert len(split.choose_heldout({i: str(i) for i in range(5)}, {}, heldout)) == 1
    assert split.choose_heldout({i: str(i) for i in range(4)}, {}, heldout) == set()
