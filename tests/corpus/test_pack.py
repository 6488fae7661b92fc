"""Nothing is truncated, nothing is lost, one end-of-text token a document."""

import random
from collections import Counter
from itertools import chain

import numpy as np
import pytest

from nsllm_lite.corpus import pack, tokenizer

END = "<|endoftext|>"
LETTERS = "abc déµ±Å⁻⁵ 你好 🧪\n"


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.train_tokenizer(["tin grows whiskers under stress"] * 3, 300, END, folder)
    return tokenizer.load_tokenizer(str(folder))


def texts_of(seed, count, longest):
    rng = random.Random(seed)
    return [pack.Text(i, f"d{i}", "s", "".join(rng.choices(LETTERS, k=rng.randint(0, longest)))) for i in range(count)]


def rows_of(texts, tok, row_tokens, shard=7):
    counts = {}
    pieces = pack.tokenise(texts, tok, tok.token_to_id(END), row_tokens, counts.__setitem__)
    return list(pack.pack(pieces, row_tokens, shard)), counts


@pytest.mark.parametrize(("row_tokens", "longest"), [(16, 60), (64, 400), (128, 30), (33, 33)])
def test_every_token_and_byte_of_every_document_arrives(tok, row_tokens, longest):
    texts = texts_of(row_tokens, 60, longest)
    rows, counts = rows_of(texts, tok, row_tokens)
    pieces, num_bytes = {}, Counter()
    for row in rows:
        assert len(row.input_ids) <= row_tokens
        start = 0
        for place, (name, length) in enumerate(zip(row.doc_ids, row.doc_lengths, strict=True)):
            later = row.continued and place == 0
            pieces.setdefault(name, []).append((later, row.input_ids[start : start + length].tolist()))
            start += length
        num_bytes.update(dict(zip(row.doc_ids, row.doc_bytes, strict=True)))
    for text in texts:
        expected = [*tok.encode(text.text, add_special_tokens=False).ids, tok.token_to_id(END)]
        first, *others = sorted(pieces[text.id], key=lambda p: p[0])  # the later pieces keep their order
        assert not first[0]
        assert all(later for later, _ in others)
        assert list(chain(first[1], *(tokens for _, tokens in others))) == expected
        assert num_bytes[text.id] == len(text.text.encode())
        assert counts[text.index] == len(expected)


def test_a_continued_piece_stands_first_and_fills_its_row(tok):
    rows, _ = rows_of(texts_of(5, 50, 300), tok, 32)
    assert any(row.continued for row in rows)
    assert all(len(row.doc_lengths) == 1 and row.doc_lengths[0] == 32 for row in rows if row.continued)


def test_a_special_token_written_in_a_paper_is_text(tok):
    rows, _ = rows_of([pack.Text(0, "d", "s", f"The token {END} ends it.")], tok, 128)
    assert rows[0].input_ids.tolist().count(tok.token_to_id(END)) == 1
    assert tok.decode(rows[0].input_ids[:-1].tolist(), skip_special_tokens=False) == f"The token {END} ends it."


def test_best_fit_decreasing_places_all_and_fills_well():
    rng = np.random.default_rng(1)
    sizes = np.minimum(1024, rng.lognormal(5.3, 0.5, 20_000).astype(int) + 1).tolist()
    bins = pack.best_fit_decreasing(sizes, 1024)
    assert sorted(i for b in bins for i in b) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in b) for b in bins]
    assert max(loads) <= 1024
    assert sum(loads) / (1024 * len(bins)) > 0.995
    assert pack.best_fit_decreasing([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]


def test_documents_longer_than_a_row_pack_as_tightly_as_short_ones(tok):
    rows, _ = rows_of(texts_of(8, 300, 2000), tok, 128, shard=100_000)
    assert sum(len(r.input_ids) for r in rows) / (128 * len(rows)) > 0.98
