"""Texts of any length as windows of tokens that a model takes; nothing of a text is left out.

A text of more than `max_tokens` tokens is cut into windows of which each shares `stride` tokens with the one before. Of
two texts the second is cut, and each window begins with the whole first one.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nsllm_lite.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]  # characters, end exclusive
MANY_TOKENS = 2**31 - 1  # of one window: more than a text has


@dataclass(frozen=True, slots=True)
class Window:
    """`offsets` are the characters of each token in the text that is cut; None for special tokens and the first of two
    texts. `type_ids` None: the model has none."""

    example: int
    input_ids: list[int]
    type_ids: list[int] | None
    offsets: list[Span | None]


def cut(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    seconds: Sequence[str] | None,
    max_tokens: int,
    stride: int,
    has_types: bool,
) -> list[Window]:
    """The windows of all texts (or pairs of texts), in order; each text has one at least.

    Raises:
        UserError: a first text of a pair leaves no room for `stride` new tokens of the second, or the tokenizer makes
            nothing of a text.
    """
    windows = []
    for number, text in enumerate(texts):
        second = seconds[number] if seconds else None
        if second is not None:
            _require_room(tokenizer, text, max_tokens, stride)
        encoded = tokenizer(
            [text],
            None if second is None else [second],
            truncation="only_first" if second is None else "only_second",
            max_length=max_tokens,
            stride=stride,
            return_overflowing_tokens=True,
            split_special_tokens=True,  # the name of a special token in a text is text
        )
        sequence, cut_text = (0, text) if second is None else (1, second)
        for part in encoded.encodings:
            if not part.ids:
                found = f"The tokenizer makes no token of the text {text[:60]!r}."
                raise UserError("windows-text-without-token", found, "Remove it, or correct it.")
            offsets = [
                _without_blanks(cut_text, *span) if of == sequence else None
                for of, span in zip(part.sequence_ids, part.offsets, strict=True)
            ]
            windows.append(Window(number, part.ids, part.type_ids if has_types else None, offsets))
    return windows


def token_spans(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[Span]:
    """The characters of each token of a text, without special ones."""
    (whole,) = cut(tokenizer, [text], None, MANY_TOKENS, 0, has_types=False)
    return [span for span in whole.offsets if span is not None]


def _require_room(tokenizer: "PreTrainedTokenizerBase", first: str, max_tokens: int, stride: int) -> None:
    room = max_tokens - len(tokenizer(first, "")["input_ids"])
    if room < 2 * stride + 1:
        found = f"A first text of {max_tokens - room:,} tokens with its special ones leaves {room:,} of {max_tokens:,}"
        found += f" for the second ({first[:60]!r})."
        needed = f"Windows with stride={stride} need {2 * stride + 1:,}."
        raise UserError("windows-first-text-long", found, needed, "Raise max_tokens, or shorten that text.")


def _without_blanks(text: str, start: int, end: int) -> Span:
    """The span without white space at its start, which some tokenizers count to a token."""
    while start < end and text[start].isspace():
        start += 1
    return start, end


def num_windows(windows: Sequence[Window], num_texts: int) -> list[int]:
    """How many windows each text has."""
    counts = [0] * num_texts
    for window in windows:
        counts[window.example] += 1
    return counts


def first_tokens(windows: Sequence[Window], words: Sequence[Sequence[Span]]) -> list[dict[int, int]]:
    """Of each window {place of a token: number of the word}: the first token of each word, in one window alone, that
    in which most is seen on its narrower side. `words` are the spans of each text's words, in order.

    A word whose first character no token covers (the tokenizer leaves it out) is in no window, nor are those after the
    first of several that begin in one token.
    """
    best: list[dict[int, tuple[int, int, int]]] = [{} for _ in words]  # word -> (context, -window, token)
    for number, window in enumerate(windows):
        places = [place for place, span in enumerate(window.offsets) if span and span[0] < span[1]]
        if not places:
            continue
        starts = [start for start, _ in words[window.example]]
        for place in places:
            start, end = window.offsets[place]
            word = bisect_right(starts, start - 1)
            if word < len(starts) and starts[word] < end:
                seen = min(place - places[0], places[-1] - place)
                found = best[window.example].get(word)
                if found is None or seen > found[0]:
                    best[window.example][word] = (seen, number, place)
    chosen: list[dict[int, int]] = [{} for _ in windows]
    for of_text in best:
        for word, (_, number, place) in of_text.items():
            chosen[number][place] = word
    return chosen


def batches(windows: Sequence[Window], max_tokens: int, max_rows: int | None = None) -> Iterator[list[int]]:
    """Places of windows of like length, longest first, of at most `max_tokens` with their padding, or one window."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, window in enumerate(windows):
        by_length[len(window.input_ids)].append(place)
    waiting: list[int] = []
    for length in sorted(by_length, reverse=True):
        for place in by_length[length]:
            longest = len(windows[waiting[0]].input_ids) if waiting else length
            if waiting and ((len(waiting) + 1) * longest > max_tokens or len(waiting) == max_rows):
                yield waiting
                waiting = []
            waiting.append(place)
    if waiting:
        yield waiting


def collate(windows: Sequence[Window], pad_id: int, device: str) -> dict[str, Tensor]:
    """The keyword arguments of a model's forward, (B, T), padded on the right."""
    longest = max(len(window.input_ids) for window in windows)

    def padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], device=device)

    inputs = {
        "input_ids": padded([window.input_ids for window in windows], pad_id),
        "attention_mask": padded([[1] * len(window.input_ids) for window in windows], 0),
    }
    if windows[0].type_ids is not None:
        inputs["token_type_ids"] = padded([window.type_ids for window in windows], 0)
    return inputs
