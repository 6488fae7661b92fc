"""Texts to packed rows: best-fit-decreasing per shard, nothing truncated, nothing lost.

A document of n tokens (its end-of-text token among them) that is longer than a row is cut so that the remainder,
n mod row_tokens, comes FIRST and the rest fills whole rows. The remainder is then an item like any short document, so
that documents far longer than a row pack as tightly as short ones, and a continued piece always stands alone.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from nsllm_lite.rows import Row

SHARD_DOCUMENTS = 100_000
SHARD_TOKENS = 1 << 26  # bounds the memory of a shard of full texts: 256 MiB
BATCH_TEXTS = 512


class Text(NamedTuple):
    """What a document says in one phase; `index` is its place in the ledger."""

    index: int
    id: str
    source: str
    text: str


class Piece(NamedTuple):
    """A document's tokens, or a row's worth of them. Only the last piece ends with end-of-text."""

    doc_id: str
    source: str
    tokens: np.ndarray
    num_bytes: int
    continued: bool


def tokenise(
    texts: Iterable[Text],
    tokenizer: Tokenizer,
    end_of_text_id: int,
    row_tokens: int,
    count: Callable[[int, int], None] = lambda index, tokens: None,
) -> Iterator[Piece]:
    """The pieces of each text in order; `count(index, tokens)` hears each document's tokens, end-of-text included."""
    stream = iter(texts)
    while batch := list(islice(stream, BATCH_TEXTS)):
        contents = [text.text for text in batch]
        long = max(map(len, contents)) > 3 * row_tokens  # offsets cost time; only cuts need them
        encode = tokenizer.encode_batch if long else tokenizer.encode_batch_fast
        for text, encoding in zip(batch, encode(contents, add_special_tokens=False), strict=True):
            tokens = np.array([*encoding.ids, end_of_text_id], np.int32)
            count(text.index, len(tokens))
            if len(tokens) <= row_tokens:
                yield Piece(text.id, text.source, tokens, len(text.text.encode()), False)
                continue
            if not long:
                encoding = tokenizer.encode(text.text, add_special_tokens=False)
            yield from _cut(text, tokens, encoding, row_tokens)


def _cut(text: Text, tokens: np.ndarray, encoding: Encoding, row_tokens: int) -> Iterator[Piece]:
    first = len(tokens) % row_tokens or row_tokens
    cuts = list(range(first, len(tokens), row_tokens))
    # Where a cut falls inside a character of several tokens, the whole character counts for the later piece.
    chars = [encoding.token_to_chars(c)[0] if c < len(encoding) else len(text.text) for c in cuts]
    bounds = zip([0, *cuts], [*cuts, len(tokens)], [0, *chars], [*chars, len(text.text)], strict=True)
    for start, end, first_char, last_char in bounds:
        num_bytes = len(text.text[first_char:last_char].encode())
        yield Piece(text.id, text.source, tokens[start:end], num_bytes, start > 0)


def pack(pieces: Iterable[Piece], row_tokens: int, shard_documents: int = SHARD_DOCUMENTS) -> Iterator[Row]:
    """Rows of at most `row_tokens`; shards of pieces are packed one after another, each by itself."""
    shard: list[Piece] = []
    num_tokens = 0
    for piece in pieces:
        if piece.continued and len(piece.tokens) != row_tokens:
            raise AssertionError(f"a continued piece of {len(piece.tokens)} tokens does not fill its row")
        shard.append(piece)
        num_tokens += len(piece.tokens)
        if len(shard) >= shard_documents or num_tokens >= SHARD_TOKENS:
            yield from _pack_shard(shard, row_tokens)
            shard, num_tokens = [], 0
    yield from _pack_shard(shard, row_tokens)


def _pack_shard(shard: list[Piece], row_tokens: int) -> Iterator[Row]:
    for members in best_fit_decreasing([len(p.tokens) for p in shard], row_tokens):
        row = [shard[m] for m in members]
        yield Row(
            input_ids=np.concatenate([p.tokens for p in row]),
            doc_lengths=[len(p.tokens) for p in row],
            doc_ids=[p.doc_id for p in row],
            doc_sources=[p.source for p in row],
            doc_bytes=[p.num_bytes for p in row],
            continued=row[0].continued,
        )


def best_fit_decreasing(sizes: list[int], capacity: int) -> list[list[int]]:
    """Bins of item indices: the longest first, each into the bin it leaves the least room in.

    Bit r of `open_rooms` is set where a bin with room r is open, so that the tightest bin is one shift and one
    lowest-bit away, whatever the number of bins.
    """
    bins: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    open_rooms = 0
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size = sizes[item]
        fitting = open_rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            number = with_room[room].pop()
            if not with_room[room]:
                open_rooms ^= 1 << room
        else:
            room, number = capacity, len(bins)
            bins.append([])
        bins[number].append(item)
        if room > size:
            with_room[room - size].append(number)
            open_rooms |= 1 << (room - size)
    return bins
