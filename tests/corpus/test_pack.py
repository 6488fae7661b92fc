"""Nothing is truncated, nothing is lost, one end-of-text token a document."""

import json
import random
from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import AddedToken, Tokenizer, normalizers

from nsllm_lite.corpus import encoder, pack, tokenizer
from nsllm_lite.formats.documents import Document, parquet_writer, table_of
from nsllm_lite.formats.rows import Rows, RowTotals, finish_rows
from tests.corpus.small import DATA, END

LETTERS = "abc déµ±Å⁻⁵ 你好 🧪\n"


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.train_tokenizer(["tin grows whiskers under stress"] * 3, 300, END, folder)
    return tokenizer.load_tokenizer(str(folder))


def texts_of(seed, count, longest):
    rng = random.Random(seed)
    return ["".join(rng.choices(LETTERS, k=rng.randint(1, longest))) for _ in range(count)]


def pack_texts(path, texts, tok, row_tokens, wanted=None, begin=()):
    """(rows, tokens by document) of general texts named d0, d1, ..."""
    documents = [Document(f"d{n}", "s" if n % 2 else "t", f"f#{n}", text=text) for n, text in enumerate(texts)]
    with parquet_writer(path / "documents.parquet") as writer:
        writer.write_table(table_of(documents))
    mask = np.ones(len(texts), bool) if wanted is None else wanted
    task = pack.PackTask("general", "train", 0, (path / "documents.parquet",), (mask,), 0)
    end = tok.token_to_id(END)
    frame = pack.Frame(begin, end, row_tokens)
    made = pack.pack(task, encoder.Encoder(tok), frame, 1, path / "rows", path / "counts")
    totals = finish_rows(path / "rows", made["shards"], RowTotals(row_tokens, end, "t", list(begin)))
    assert Rows(path / "rows").totals == totals
    return list(Rows(path / "rows")), np.load(path / "counts/tokens-00000.npy")


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("row_tokens", "longest", "begin"), [(16, 60, ()), (64, 400, (7,)), (128, 30, ()), (33, 33, ()), (18, 60, (7, 8))]
)
def test_every_token_and_byte_of_every_document_arrives(tok, tmp_path, monkeypatch, row_tokens, longest, begin, fast):
    if not fast:
        monkeypatch.setattr(encoder, "_gigatoken", lambda _: None)
    monkeypatch.setattr(pack, "SHARD_DOCUMENTS", 7)
    monkeypatch.setattr(pack, "CHUNK_DOCUMENTS", 5)
    texts = texts_of(row_tokens, 60, longest)
    rows, counts = pack_texts(tmp_path, texts, tok, row_tokens, begin=begin)
    assert len(list((tmp_path / "rows").glob("*.arrow"))) == 6
    pieces, num_bytes = {}, Counter()
    for row in rows:
        assert len(row.input_ids) <= row_tokens
        assert not row.continued or row.doc_lengths == [row_tokens]
        start = 0
        for place, (name, length) in enumerate(zip(row.doc_ids, row.doc_lengths, strict=True)):
            later = row.continued and place == 0
            assert tuple(row.input_ids[start : start + len(begin)]) == begin
            pieces.setdefault(name, []).append((later, row.input_ids[start + len(begin) : start + length].tolist()))
            start += length
        num_bytes.update(dict(zip(row.doc_ids, row.doc_bytes, strict=True)))
        assert row.doc_sources == ["s" if int(name[1:]) % 2 else "t" for name in row.doc_ids]
    for number, text in enumerate(texts):
        expected = [*tok.encode(text, add_special_tokens=False).ids, tok.token_to_id(END)]
        first, *others = sorted(pieces[f"d{number}"], key=lambda p: p[0])  # the later pieces keep their order
        assert not first[0]
        assert all(later for later, _ in others)
        assert list(chain(first[1], *(tokens for _, tokens in others))) == expected
        assert num_bytes[f"d{number}"] == len(text.encode())
        assert counts[number] == len(expected) + len(begin) * (1 + len(others))


def test_only_the_wanted_documents_are_packed(tok, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "CHUNK_DOCUMENTS", 1)  # they are read one by one
    rows, counts = pack_texts(tmp_path, ["one", "two", "three"], tok, 16, np.array([True, False, True]))
    assert [name for row in rows for name in row.doc_ids] == ["d2", "d0"]
    assert len(counts) == 2
    (tmp_path / "none").mkdir()
    assert pack_texts(tmp_path / "none", ["one"], tok, 16, np.array([False]))[0] == []


def test_bytes_of_pieces_where_a_token_is_not_its_bytes(tok, tmp_path, monkeypatch):
    """As with a normaliser: the pieces' bytes still add up to the text's."""
    monkeypatch.setattr(encoder, "_token_bytes", lambda _: None)
    texts = texts_of(5, 20, 300)
    rows, _ = pack_texts(tmp_path, texts, tok, 32)
    by_document = Counter()
    for row in rows:
        by_document.update(dict(zip(row.doc_ids, row.doc_bytes, strict=True)))
    assert dict(by_document) == {f"d{n}": len(text.encode()) for n, text in enumerate(texts)}


def test_a_special_token_written_in_a_paper_is_text(tok, tmp_path):
    rows, _ = pack_texts(tmp_path, [f"The token {END} ends it."], tok, 128)
    assert rows[0].input_ids.tolist().count(tok.token_to_id(END)) == 1
    assert tok.decode(rows[0].input_ids[:-1].tolist(), skip_special_tokens=False) == f"The token {END} ends it."


def one_by_one(sizes, capacity):
    """Best-fit-decreasing as it is defined, item by item: the room left in each bin."""
    rooms = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        room = min(fitting, default=capacity)
        if fitting:
            rooms.remove(room)
        rooms.append(room - size)
    return sorted(rooms)


@pytest.mark.parametrize("seed", range(8))
def test_best_fit_decreasing_is_as_its_definition(seed):
    rng = np.random.default_rng(seed)
    capacity = int(rng.choice([7, 64, 300]))
    sizes = rng.integers(1, rng.integers(2, capacity + 1) + 1, 400)
    order, bin_sizes = pack.best_fit_decreasing(sizes, capacity)
    assert sorted(order.tolist()) == list(range(400))
    loads = [int(sizes[items].sum()) for items in np.split(order, np.cumsum(bin_sizes)[:-1])]
    assert sorted(capacity - load for load in loads) == one_by_one(sizes.tolist(), capacity)
    assert len(pack.best_fit_decreasing(sizes[:0], capacity)[1]) == 0, "no items need no bin"


def test_documents_longer_than_a_row_pack_as_tightly_as_short_ones(tok, tmp_path):
    rows, _ = pack_texts(tmp_path, texts_of(8, 300, 2000), tok, 128)
    assert sum(len(r.input_ids) for r in rows) / (128 * len(rows)) > 0.98


# ---------------------------------------------------------------------------------------------------------- encoder

ADVERSARIAL = json.loads((DATA / "adversarial.json").read_text())


@pytest.mark.parametrize("normaliser", [None, normalizers.NFC()])
def test_the_fast_encoder_gives_the_reference_s_ids(tok, normaliser):
    pytest.importorskip("gigatoken")
    other = Tokenizer.from_str(tok.to_str())
    if normaliser:
        other.normalizer = normaliser
    ours = encoder.Encoder(other)
    texts = [*ADVERSARIAL, *texts_of(9, 300, 80), *(a + b for a in ADVERSARIAL for b in ADVERSARIAL)]
    ids, starts = ours.encode(pa.array(texts), check=True)
    assert ours.name == "gigatoken"
    expected = ours.reference.encode_batch(texts, add_special_tokens=False)
    assert [ids[a:b].tolist() for a, b in pairwise(starts)] == [e.ids for e in expected]


def test_ids_that_differ_fall_back_to_the_reference_and_say_so(tok, monkeypatch, caplog):
    def wrong(texts):
        return np.zeros(len(texts), np.int32), np.arange(len(texts) + 1)

    monkeypatch.setattr(encoder, "_gigatoken", lambda _: wrong)
    ours = encoder.Encoder(tok)
    ids, _ = ours.encode(pa.array(["tin", "whiskers"]), check=True)
    assert ours.name == "tokenizers"
    assert "ids differ" in caplog.text
    assert ids.tolist() == [i for text in ("tin", "whiskers") for i in tok.encode(text).ids]


@pytest.mark.parametrize("texts", [[], ["long " * 2000, "longer " * 2000], [""]])
def test_texts_of_any_length_can_be_checked(tok, texts):
    _, starts = encoder.Encoder(tok).encode(pa.array(texts, pa.string()), check=True)
    assert len(starts) == len(texts) + 1


def test_long_texts_are_compared_too(tok, monkeypatch):
    monkeypatch.setattr(encoder, "_gigatoken", lambda _: None)
    ours = encoder.Encoder(tok)
    texts = pa.array(["long " * 2000, "longer " * 2000])
    ids, starts = ours.encode(texts)
    assert ours._agrees(texts, ids, starts)
    assert not ours._agrees(texts, ids + 1, starts)


def test_an_added_token_that_is_not_special_is_text_too(tok):
    other = Tokenizer.from_str(tok.to_str())
    other.add_tokens([AddedToken("<think>", special=False)])
    ids, _ = encoder.Encoder(other).encode(pa.array(["a <think> b"]))
    assert other.token_to_id("<think>") not in ids.tolist()
    assert other.decode(ids.tolist()) == "a <think> b"
