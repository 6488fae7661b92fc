"""Pairs of texts that belong together, made from the papers of a finished corpus.

Pairs to train on are of training papers alone; pairs to be scored are of held-out papers, which may cite training
papers. A training paper that cites a held-out one gives no pair with it. A corpus holds one paper of
each cluster of near-duplicates, so that two of its papers are never the same work; which papers cite each other is in
`links`, so that neither is taken for a wrong answer to the other.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from nsllm_lite.formats.documents import Document
from nsllm_lite.formats.headings import experimental_sections
from nsllm_lite.formats.papers import CorpusPapers
from nsllm_lite.recipe.embed import PAIR_KINDS
from nsllm_lite.train.texts import TextWriter, key64, plain

COLUMNS = ["id", "source", "title", "abstract", "sections", "doi", "keywords", "references"]
SPLITS = ("train", "test")
MAX_SECTION_CHARS = 8_000  # of a paper's experimental sections; a model reads a tenth of it
MIN_SENTENCE_CHARS = 30
MIN_TITLE_WORDS = 4  # of a title that references are resolved by: "Introduction" is that of many
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^\W\d_a-z]|[(\"“])|(?<=[。！？])")
_IDS = ("doi:", "arxiv:", "pmid:")
SAME = "both texts are the same"


class Pairs(NamedTuple):
    """(n,) each: the numbers of query and document, and of the papers that they are of."""

    queries: np.ndarray
    positives: np.ndarray
    papers: np.ndarray
    others: np.ndarray
    negatives: np.ndarray | None = None  # (n, k) texts that are known to be no answers

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, int, int]]) -> "Pairs":
        return cls(*np.array(list(rows), np.int64).reshape(-1, 4).T)

    def one_a_paper(self) -> "Pairs":
        """The first pair of each paper."""
        _, first = np.unique(self.papers, return_index=True)
        return Pairs(*(column[first] for column in self[:4]))


@dataclass(slots=True)
class CorpusPairs:
    """By kind the pairs of both splits, and what gave none, by reason. By number of the paper: its id (`names`), if
    it is held out, and the text that it is cited by (`own_texts`), its abstract or title, else -1."""

    train: dict[str, Pairs]
    heldout: dict[str, Pairs]
    left_out: dict[str, Counter[str]]
    names: list[str]
    links: dict[int, set[int]]
    is_heldout: np.ndarray
    own_texts: np.ndarray

    def heldout_texts(self) -> np.ndarray:
        """The numbers of all texts of held-out papers that are scored with."""
        found = [self.own_texts[self.is_heldout & (self.own_texts >= 0)]]
        for pairs in self.heldout.values():
            found += [pairs.queries, pairs.positives[self.is_heldout[pairs.others]]]
        return np.unique(np.concatenate(found))


class Asked(NamedTuple):
    """What of a recipe decides the pairs."""

    sentences_per_paper: int
    max_citing: int
    seed: int


def sentences_of(text: str) -> list[str]:
    return [one for part in _SENTENCE.split(text) if len(one := part.strip()) >= MIN_SENTENCE_CHARS]


def _title_abstract(paper: Document, asked: Asked) -> list[tuple[str, str]]:
    return [(paper.title, paper.abstract)]


def _keywords_abstract(paper: Document, asked: Asked) -> list[tuple[str, str]]:
    return [("; ".join(paper.keywords), paper.abstract)]


def _abstract_section(paper: Document, asked: Asked) -> list[tuple[str, str]]:
    sections = experimental_sections(paper) if paper.sections and paper.abstract else []
    return [(paper.abstract, "\n".join(s.text for s in sections if s.text)[:MAX_SECTION_CHARS])]


def _sentences(paper: Document, asked: Asked) -> list[tuple[str, str]]:
    """Neighbours, each in one pair alone; of many those that a hash of (seed, id) draws."""
    pairs = list(pairwise(sentences_of(paper.abstract)))[::2]
    drawn = sorted(range(len(pairs)), key=lambda place: key64(f"{asked.seed} {paper.id} {place}"))
    return [pairs[place] for place in sorted(drawn[: asked.sentences_per_paper])] or [("", "")]


OF_ONE_PAPER: dict[str, tuple[Callable[[Document, Asked], list[tuple[str, str]]], str, str]] = {
    "title-abstract": (_title_abstract, "no title", "no abstract"),
    "keywords-abstract": (_keywords_abstract, "states no keywords", "no abstract"),
    "abstract-section": (_abstract_section, "no abstract", "no experimental section"),
    "sentences": (_sentences, "no two sentences", "no two sentences"),
}
"""By kind: what makes its pairs, and the reasons for an empty query and an empty document."""


def fault_of(query: str, positive: str) -> str:
    """Why a pair teaches nothing, or nothing at all: "" ."""
    one, other = plain(query), plain(positive)
    if one == other:
        return SAME
    if one and other.startswith(one):
        return "the document begins with the query"
    return "" if one and other else "no words"


@dataclass(slots=True)
class _Citing:
    """What citations are resolved by: 64-bit keys, so that a million papers fit."""

    by_key: dict[int, int] = field(default_factory=dict)  # of ids and titles -> the paper; -1: of several
    references: dict[int, list[int]] = field(default_factory=dict)

    def add(self, number: int, paper: Document) -> None:
        title = plain(paper.title)
        names = [paper.id, f"doi:{paper.doi}"] if paper.doi else [paper.id]
        names += [f"title:{title}"] if len(title.split()) >= MIN_TITLE_WORDS else []
        for name in names:
            key = key64(name)
            self.by_key[key] = number if self.by_key.get(key, number) == number else -1
        if paper.references:
            named = (one if one.startswith(_IDS) else f"title:{plain(one)}" for one in paper.references)
            self.references[number] = [key64(name) for name in named]

    def resolved(self) -> Iterator[tuple[int, int]]:
        """(citing, cited) papers, each pair once."""
        for citing, keys in self.references.items():
            cited = dict.fromkeys(self.by_key.get(key, -1) for key in keys)
            yield from ((citing, one) for one in cited if one not in (-1, citing))


def make_pairs(papers: CorpusPapers, asked: Asked, writer: TextWriter) -> CorpusPairs:
    """Reads the corpus once; the texts go to `writer`."""
    rows: dict[str, dict[str, list[tuple[int, int, int, int]]]] = {
        split: {kind: [] for kind in PAIR_KINDS} for split in SPLITS
    }
    left_out: dict[str, Counter[str]] = {kind: Counter() for kind in PAIR_KINDS}
    citing, names, is_heldout, own_texts = _Citing(), [], [], []
    for paper in papers.read(COLUMNS):
        number, split, numbers = len(names), papers.split(paper.id), {}
        names.append(paper.id)
        is_heldout.append(split == "test")

        def number_of(text: str, numbers: dict[str, int] = numbers) -> int:
            if text not in numbers:
                numbers[text] = writer.add(text)
            return numbers[text]

        for kind, (make, no_query, no_positive) in OF_ONE_PAPER.items():
            for query, positive in make(paper, asked):
                fault = (not query and no_query) or (not positive and no_positive) or fault_of(query, positive)
                if fault:
                    left_out[kind][fault] += 1
                else:
                    rows[split][kind].append((number_of(query), number_of(positive), number, number))
        own = paper.abstract or paper.title
        own_texts.append(number_of(own) if own else -1)
        citing.add(number, paper)
        if not paper.references:
            left_out["citing-cited"]["states no references"] += 1

    links: dict[int, set[int]] = defaultdict(set)
    by_cited = _citations(citing, is_heldout, links, left_out["citing-cited"])
    for split in SPLITS:
        most = asked.max_citing if split == "train" else None  # of a query that is scored all answers are needed
        found = _drawn(by_cited[split], most, asked.seed, names, left_out["citing-cited"])
        rows[split]["citing-cited"] = _with_texts(found, own_texts, writer.keys, left_out["citing-cited"])
    train, heldout = ({kind: Pairs.of(found) for kind, found in rows[split].items()} for split in SPLITS)
    held, own = np.array(is_heldout, bool), np.array(own_texts, np.int64)
    return CorpusPairs(train, heldout, left_out, names, dict(links), held, own)


def _citations(
    citing: _Citing, is_heldout: list[bool], links: dict[int, set[int]], reasons: Counter[str]
) -> dict[str, dict[int, list[int]]]:
    """By the split of those that cite: {cited paper: those}. Adds to `links` and `reasons`."""
    by_cited: dict[str, dict[int, list[int]]] = {split: defaultdict(list) for split in SPLITS}
    resolving = set()
    for one, other in citing.resolved():
        links[one].add(other)
        links[other].add(one)
        resolving.add(one)
        if is_heldout[other] and not is_heldout[one]:
            reasons["a training paper cites a held-out one"] += 1
        else:
            by_cited["test" if is_heldout[one] else "train"][other].append(one)
    if unresolved := len(citing.references.keys() - resolving):
        reasons["cites no other paper of the corpus"] += unresolved
    return by_cited


def _drawn(
    by_cited: dict[int, list[int]], most: int | None, seed: int, names: list[str], reasons: Counter[str]
) -> list[tuple[int, int]]:
    """(citing, cited) papers in order; of a paper that many cite, those `most` that a hash of (seed, id) draws."""
    found = []
    for other, those in by_cited.items():
        drawn = sorted(those, key=lambda one: key64(f"{seed} {names[one]}"))[:most]
        found += [(one, other) for one in drawn]
        if surplus := len(those) - len(drawn):
            reasons["beyond max_citing"] += surplus
    return sorted(found)


def _with_texts(
    found: Iterable[tuple[int, int]], own_texts: list[int], keys: list[int], reasons: Counter[str]
) -> list[tuple[int, int, int, int]]:
    """The abstract of a paper with that of one that it cites, or a title where there is none."""
    rows = []
    for one, other in found:
        query, positive = own_texts[one], own_texts[other]
        if query < 0 or positive < 0:
            reasons["no abstract and no title"] += 1
        elif keys[query] == keys[positive]:
            reasons[SAME] += 1
        else:
            rows.append((query, positive, one, other))
    return rows
