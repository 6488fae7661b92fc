import random
import tomllib

import numpy as np
import pytest

from nsllm_lite.corpus import assign, dedup
from nsllm_lite.corpus.shingles import shingles_of, words_of
from nsllm_lite.recipe.corpus import HeldOut
from tests.corpus.small import DATA

WORDS = [f"w{i}" for i in range(3000)]


def sentence(seed, count=200):
    return random.Random(seed).choices(WORDS, k=count)


def find(texts, ids=None, dois=None, rank=None, threshold=0.8):
    """{duplicate: (the one kept, reason)}"""
    sets = [shingles_of(" ".join(text)) for text in texts]
    named = {
        dedup.SAME_ID: ids or map(str, range(len(texts))),
        dedup.SAME_DOI: dois or [""] * len(texts),
        dedup.SAME_TEXT: [" ".join(words_of(" ".join(text))) for text in texts],
    }
    keys = {r: np.array([dedup.key64(v) if v else 0 for v in values], np.uint64) for r, values in named.items()}
    rank = np.arange(len(texts)) if rank is None else np.array(rank)
    found = dedup.find_duplicates(keys, dedup.band_keys(sets, threshold), sets.__getitem__, rank, threshold)
    return {i: (int(found.other[i]), dedup.REASONS[found.reason[i]]) for i in np.flatnonzero(found.other >= 0).tolist()}


def test_shingles_are_the_word_5_grams():
    first, second = shingles_of("a b c d e f"), shingles_of("A, b c; d e\nx")
    assert len(first) == 2
    assert dedup.jaccard(first, second) == pytest.approx(1 / 3)
    assert len(shingles_of("a b")) == 1
    assert len(shingles_of("b a c d e f g")) == len(shingles_of("a b c d e f g")) == 3
    assert dedup.jaccard(shingles_of("a b c d e"), shingles_of("b a c d e")) == 0  # order counts


def test_each_kind_of_duplicate_names_the_one_kept():
    a, b = sentence(1), sentence(2)
    near = [*a[:-3], "x", "y", "z"]
    texts = [a, b, ["A,", *a[1:]] if a[0] == "A" else a, near, sentence(3)]
    found = find(texts, ids=["p", "q", "r", "s", "q"])
    assert found == {2: (0, "same_text"), 3: (0, "near_duplicate"), 4: (1, "same_id")}
    assert find([a, b, sentence(4)], dois=["10.1/x", "", "10.1/x"]) == {2: (0, "same_doi")}
    assert find([a, a], rank=[1, 0]) == {0: (1, "same_text")}  # the one of lowest rank is kept


def test_a_chain_of_duplicates_ends_at_the_one_kept():
    a, b, c = sentence(1), sentence(2), sentence(3)
    found = find([a, a, b, b], ids=["p", "q", "q", "s"])
    assert {i: kept for i, (kept, _) in found.items()} == {1: 0, 2: 0}  # 3 stays: what it says is nowhere else
    assert find([a, b, c]) == {}


def test_words_are_those_of_the_regular_expression():
    ascii_, other = "Don't stop_at 10-5 (e.g. x/y)\t\n~", "Größe é 中文 x\u00a0y"
    assert words_of(ascii_) == ["don", "t", "stop_at", "10", "5", "e", "g", "x", "y"]
    assert words_of(other) == ["größe", "é", "中文", "x", "y"]
    chinese = "X射线衍射 of 铜"
    assert words_of(chinese) == ["x", "射线", "线衍", "衍射", "of", "铜"]
    assert words_of(" ".join(words_of(chinese))) == words_of(chinese)


def test_recall_at_just_the_threshold_and_nothing_below_it():
    """20 of 180 5-grams differ: Jaccard 160 / 200. With 22 of 180 it is 158 / 202."""
    originals = [random.Random(i).sample(range(100_000), 184) for i in range(500)]
    at, below = [], []
    for number, words in enumerate(originals):
        places = range(60, 76) if number % 2 else (20, 60, 100, 140)
        at.append([-place if n in places else place for n, place in enumerate(words)])
        below.append([-place if n in range(60, 78) else place for n, place in enumerate(words)])
    texts = [[f"w{'x' if w < 0 else ''}{abs(w)}" for w in words] for words in (*originals, *at, *below)]
    sets = [shingles_of(" ".join(text)) for text in texts]
    assert {dedup.jaccard(a, b) for a, b in zip(sets[:500], sets[500:1000], strict=True)} == {0.8}
    assert {dedup.jaccard(a, b) for a, b in zip(sets[:500], sets[1000:], strict=True)} == {158 / 202}
    found = find(texts)
    assert sum(i in found for i in range(500, 1000)) >= 0.98 * 500
    for duplicate, (kept, _) in found.items():
        assert dedup.jaccard(sets[duplicate], sets[kept]) >= 0.8


def test_bands_keep_their_recall_at_low_thresholds():
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        rows = dedup.rows_per_band(threshold)
        assert 1 - (1 - threshold**rows) ** (dedup.NUM_HASHES // rows) >= 0.99


def test_a_text_in_very_many_near_copies_keeps_one():
    a = sentence(1)
    copies = [[*a[:n], f"copy{n}", *a[n + 1 :]] for n in range(dedup.MAX_RUN * 2)]
    assert len(find(copies)) == len(copies) - 1


def test_training_papers_near_a_held_out_one_are_found_exactly():
    a, b = sentence(1), sentence(2)
    half = [*a[:150], *sentence(5, 50)]  # Jaccard 146 / 246 = 0.59
    third = [*b[:100], *sentence(6, 100)]  # 96 / 296 = 0.32
    sets = [shingles_of(" ".join(t)) for t in (a, b, half, third, sentence(7))]
    near = dedup.NearIndex([*sets[:2], shingles_of(" ".join(sentence(8, 5000)))], 0.5)
    assert [near.find(s) for s in sets] == [0, 1, 0, -1, -1]
    assert dedup.NearIndex([], 0.5).find(sets[0]) == -1
    assert near.find(np.empty(0, np.uint64)) == -1


def keys_of(names):
    return np.array([dedup.key64(name) for name in names], np.uint64)


def test_held_out_papers_do_not_depend_on_order_and_come_from_both_groups():
    names = [*(f"full:{i}" for i in range(20)), *(f"abstract:{i}" for i in range(980))]
    heldout = HeldOut(share=0.05, general_share=0.05, max_papers=30, seed=1)
    first, second = np.arange(20), np.arange(20, 1000)
    chosen = assign.choose_heldout(first, second, keys_of(names), heldout)
    assert len(chosen) == 30
    assert (chosen < 20).sum() == 1
    turned = names[::-1]
    other = assign.choose_heldout(np.arange(980, 1000), np.arange(980), keys_of(turned), heldout)
    assert {turned[i] for i in other} == {names[i] for i in chosen}
    reseeded = assign.choose_heldout(first, second, keys_of(names), heldout.model_copy(update={"seed": 2}))
    assert set(reseeded) != set(chosen)
    small = heldout.model_copy(update={"share": 0.01})
    for num_papers, num_chosen in ((5, 1), (4, 0)):
        assert len(assign.choose_heldout(np.arange(num_papers), np.arange(0), keys_of("abcde"), small)) == num_chosen


def test_chinese_abstracts_that_differ_in_two_characters_are_one():
    cases = tomllib.loads((DATA / "encodings.toml").read_text())
    text = cases["zh"]["text"] + cases["zh-tw"]["text"]
    other = text.replace("五百", "六百", 1).replace("铁", "铜", 1)
    assert sum(a != b for a, b in zip(text, other, strict=True)) == 2
    assert find([[text], [other], [text[::-1]]]) == {1: (0, "near_duplicate")}
