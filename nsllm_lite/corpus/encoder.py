"""Texts to token ids in bulk, by gigatoken where it is installed and its ids are the reference's, else by `tokenizers`.

Both are made from the same tokenizer.json without its control tokens, so that one written in a paper is text.
"""

import json
import logging
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from nsllm_lite.formats.tokenizer import text_tokenizer

CHECKED_TEXTS = 64
CHECKED_BYTES = 3_000  # at most of each, where there are texts as short
BATCH_TEXTS = 512

log = logging.getLogger(__name__)


class Encoder:
    """`name` is the library that does the work."""

    def __init__(self, tokenizer: Tokenizer):
        values = json.loads(text_tokenizer(tokenizer).to_str()) | {"post_processor": None}
        plain = json.dumps(values)
        self.reference = Tokenizer.from_str(plain)
        self._fast = _gigatoken(plain)
        self.name = "gigatoken" if self._fast else "tokenizers"
        self._token_bytes = _token_bytes(values)

    def encode(self, texts: pa.Array, check: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(ids, starts): the ids of text i are ids[starts[i]:starts[i + 1]]; no end-of-text among them.

        With `check` the ids of CHECKED_TEXTS of the texts, evenly spaced, are compared with the reference's; any
        difference is logged, and the reference does the work from then on.
        """
        if self._fast:
            found = self._fast(texts)
            if not check or self._agrees(texts, *found):
                return found
            log.warning("gigatoken's ids differ from those of `tokenizers`: the slower reference is used.")
            self._fast, self.name = None, "tokenizers"
        ids: list[np.ndarray] = []
        for start in range(0, len(texts), BATCH_TEXTS):
            batch = texts.slice(start, BATCH_TEXTS).to_pylist()
            encodings = self.reference.encode_batch_fast(batch, add_special_tokens=False)
            ids += [np.array(encoding.ids, np.int32) for encoding in encodings]
        starts = np.cumsum([0, *map(len, ids)])
        return np.concatenate([np.empty(0, np.int32), *ids]), starts

    def _agrees(self, texts: pa.Array, ids: np.ndarray, starts: np.ndarray) -> bool:
        num_bytes = np.diff(string_starts(texts))
        shortest = int(num_bytes.min()) if len(num_bytes) else 0
        short = np.flatnonzero(num_bytes <= max(CHECKED_BYTES, shortest))
        places = short[:: max(1, len(short) // CHECKED_TEXTS)].tolist()
        sample = texts.take(pa.array(places, pa.int64())).to_pylist()
        expected = self.reference.encode_batch_fast(sample, add_special_tokens=False)
        found = (ids[starts[place] : starts[place + 1]].tolist() for place in places)
        return all(own == encoding.ids for own, encoding in zip(found, expected, strict=True))

    def bytes_between(self, ids: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """UTF-8 bytes behind each of the stretches ids[begins[i]:ends[i]], which are in order and not empty.

        Where the tokenizer normalises, or a token's bytes are not those of its letters, they do not add up to the
        bytes of the text; `bytes_of` is for those texts.
        """
        if self._token_bytes is None:
            return np.zeros(len(begins), np.int64)
        bounds = np.column_stack((begins, ends)).ravel()  # the sums between stretches are left out
        inside = bounds[:-1] if bounds[-1] == len(ids) else bounds
        return np.add.reduceat(self._token_bytes[ids], inside, dtype=np.int64)[::2]

    def bytes_of(self, text: str, cuts: np.ndarray) -> list[int]:
        """UTF-8 bytes of `text` behind each stretch of its ids between `cuts` (0 and their number among them).

        A character that a cut divides counts to the later stretch.
        """
        encoding = self.reference.encode(text, add_special_tokens=False)
        chars = [encoding.token_to_chars(int(c))[0] if c < len(encoding) else len(text) for c in cuts]
        chars[0] = 0
        return [len(text[a:b].encode()) for a, b in pairwise(chars)]


def _gigatoken(tokenizer_json: str) -> Callable[[pa.Array], tuple[np.ndarray, np.ndarray]] | None:
    """`Encoder.encode` by gigatoken, on arrays without a copy in or out; None where it cannot do it."""
    try:
        import awkward
        import gigatoken

        tokenizer = gigatoken.Tokenizer.from_json(tokenizer_json)
    except ImportError:
        return None
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        log.warning("gigatoken cannot load this tokenizer (%s): the slower reference is used.", error)
        return None

    def encode(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        if not len(texts):
            return np.empty(0, np.int32), np.zeros(1, np.int64)
        starts = awkward.index.Index64(string_starts(texts).astype(np.int64, copy=False))
        letters = np.frombuffer(texts.buffers()[2], np.uint8)
        content = awkward.contents.NumpyArray(letters, parameters={"__array__": "char"})
        strings = awkward.contents.ListOffsetArray(starts, content, parameters={"__array__": "string"})
        encoded = tokenizer.encode_batch(awkward.Array(strings)).layout.to_ListOffsetArray64(start_at_zero=True)
        return np.asarray(encoded.content.data).view(np.int32), np.asarray(encoded.offsets.data)

    return encode


def string_starts(texts: pa.Array) -> np.ndarray:
    """Where each text begins in the UTF-8 bytes of all, and where the last one ends."""
    kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    return np.frombuffer(texts.buffers()[1], kind)[texts.offset : texts.offset + len(texts) + 1]


def _token_bytes(values: dict) -> np.ndarray | None:
    """Bytes behind each token of a byte-level vocabulary, whose token strings have one character a byte."""
    if "ByteLevel" not in json.dumps(values["decoder"]):
        return None
    sizes = {number: len(token) for token, number in values["model"]["vocab"].items()}
    sizes |= {token["id"]: len(token["content"].encode()) for token in values["added_tokens"]}
    lengths = np.zeros(max(sizes) + 1, np.int32)
    lengths[list(sizes)] = list(sizes.values())
    return lengths
