"""How tokenizers cut a corpus: tokens a paper and a word, what their vocabularies share, which words they cut."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from nsllm_lite.formats.documents import Document
from nsllm_lite.formats.pieces import piece_bytes
from nsllm_lite.formats.tokenizer import text_tokenizer
from nsllm_lite.tasks.scores import quotient_interval

WORD = re.compile(r"[^\W\d_]{4,40}")
SHOWN = 20  # words
BATCH = 64  # texts encoded at a time


class Cut(NamedTuple):
    """A word, the papers that hold it, and its pieces by tokenizer."""

    word: str
    papers: int
    pieces: dict[str, list[str]]


@dataclass
class Fertility:
    """Counts by paper: `tokens` (papers,) of each tokenizer."""

    sources: list[str] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    num_bytes: list[int] = field(default_factory=list)
    tokens: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    papers_with: Counter[str] = field(default_factory=Counter)  # of each word in lower case


def text_of(paper: Document) -> str:
    sections = (part for section in paper.sections for part in (section.heading, section.text))
    return "\n\n".join(filter(None, (paper.title, paper.abstract, *sections)))


def count(tokenizers: Mapping[str, Tokenizer], papers: Iterable[Document]) -> Fertility:
    """Of whole papers: title, abstract and sections."""
    found = Fertility()
    plain = {name: text_tokenizer(tokenizer) for name, tokenizer in tokenizers.items()}
    waiting: list[str] = []

    def encode() -> None:
        for name, tokenizer in plain.items():
            encodings = tokenizer.encode_batch_fast(waiting, add_special_tokens=False)
            found.tokens[name] += [len(encoding.ids) for encoding in encodings]
        waiting.clear()

    for paper in papers:
        text = text_of(paper)
        found.sources.append(paper.source)
        found.words.append(len(text.split()))
        found.num_bytes.append(len(text.encode()))
        found.papers_with.update(set(WORD.findall(text.lower())))
        waiting.append(text)
        if len(waiting) == BATCH:
            encode()
    encode()
    return found


def by_source(found: Fertility, first: str) -> list[dict[str, Any]]:
    """A line for each source, and for all where there are several: papers, words, and by tokenizer tokens a paper,
    tokens a word, bytes a token, and its tokens over those of `first`, with the interval of 95 % over papers."""
    groups = {source: np.array([one == source for one in found.sources]) for source in sorted(set(found.sources))}
    if len(groups) > 1:
        groups["all"] = np.ones(len(found.sources), bool)
    words, num_bytes = np.array(found.words), np.array(found.num_bytes)
    lines = []
    for source, inside in groups.items():
        line: dict[str, Any] = {"source": source, "papers": int(inside.sum()), "words": int(words[inside].sum())}
        base = np.array(found.tokens[first])[inside]
        for name, counts in found.tokens.items():
            tokens = np.array(counts)[inside]
            line[name] = {
                "tokens_a_paper": float(tokens.mean()),
                "tokens_a_word": float(tokens.sum() / max(1, words[inside].sum())),
                "bytes_a_token": float(num_bytes[inside].sum() / max(1, tokens.sum())),
                "of_first": float(tokens.sum() / max(1, base.sum())),
                "interval": quotient_interval(tokens, base),
            }
        lines.append(line)
    return lines


def shared(one: Tokenizer, other: Tokenizer) -> dict[str, float | int]:
    """What of the two vocabularies is common, as the bytes that pieces stand for."""
    mine, theirs = set(piece_bytes(one).values()), set(piece_bytes(other).values())
    common = len(mine & theirs)
    return {"common": common, "share_of_first": common / len(mine), "share_of_second": common / len(theirs)}


def cut_words(tokenizers: Mapping[str, Tokenizer], papers_with: Counter[str], min_papers: int) -> dict[str, list[Cut]]:
    """Of each tokenizer the longest words, then those in most papers, that it cuts and another of them keeps whole."""
    words = sorted((word for word, papers in papers_with.items() if papers >= min_papers), key=lambda w: (-len(w), w))
    plain = {name: text_tokenizer(tokenizer) for name, tokenizer in tokenizers.items()}
    pieces = {
        name: [one.tokens for one in tokenizer.encode_batch([f" {word}" for word in words], add_special_tokens=False)]
        for name, tokenizer in plain.items()
    }
    found: dict[str, list[Cut]] = {}
    for name in tokenizers:
        others = [other for other in tokenizers if other != name]
        found[name] = [
            Cut(word, papers_with[word], {of: pieces[of][n] for of in tokenizers})
            for n, word in enumerate(words)
            if len(pieces[name][n]) > 1 and any(len(pieces[other][n]) == 1 for other in others)
        ][:SHOWN]
    return found
