import random

import numpy as np

from nsllm_lite.corpus import shingles
from nsllm_lite.corpus.shingles import shingles_of, shingles_of_each, words_of


def by_words(text):
    """(number of distinct 5-grams, the words)"""
    words = words_of(text)
    grams = {tuple(words[n : n + 5]) for n in range(max(1, len(words) - 4))} if words else set()
    return len(grams), words


def test_texts_hashed_together_have_the_shingles_that_each_has_alone():
    rng = random.Random(1)
    letters = ["a", "Bc", "é", "中文字", "  ", "\n", ", ", "x" * 500, "word ", "_7"]
    texts = ["".join(rng.choices(letters, k=rng.randrange(300))) for _ in range(25)]
    texts += ["", " ", "!", "one", "one two three four", "one two three four five", "a b c d e " * 9]
    together = shingles_of_each(texts)
    assert sum(map(len, texts)) > 2 * shingles.CHUNK_BYTES
    keys = {}
    for text, (own, key) in zip(texts, together, strict=True):
        assert np.array_equal(own, shingles_of(text))
        number, words = by_words(text)
        assert len(own) == number
        assert (np.diff(own.astype(object)) > 0).all()
        assert bool(key) == bool(words)
        assert keys.setdefault(key, words) == words
    assert len(keys) == len({tuple(words_of(text)) for text in texts})


def test_case_signs_and_the_place_in_a_text_change_no_shingle_but_order_and_borders_do():
    base = shingles_of("alpha beta gamma delta epsilon")
    assert len(base) == 1
    assert base[0] in shingles_of("x " * 70_000 + "Alpha, BETA; (gamma) delta\nepsilon!")
    others = ("beta alpha gamma delta epsilon", "alphabeta gamma delta epsilon x", "alpha betagamma delta epsilon a")
    assert not set(base) & {hashed for other in others for hashed in shingles_of(other)}


def test_a_word_without_end_is_cut_where_it_begins_to_be_too_long():
    first, second = (shingles_of(before + "y" * 200_000 + " b c d e") for before in ("", "z "))
    assert len(first) == 200_000 // (shingles.CHUNK_BYTES // 2)  # whole words, a rest, four letters; one 5-gram twice
    assert set(first) < set(second)
