"""What each step of an embedding model's training is made of: its stage, its kind of pairs, its batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.embed import FEW_PAIRS, PAIR_KINDS, Embed, Stage
from nsllm_lite.terminal import as_text
from nsllm_lite.train.hard_negatives import HardNegativeSearch
from nsllm_lite.train.pair_batches import PairBatches, in_turn
from nsllm_lite.train.pair_files import FilePairs
from nsllm_lite.train.pairs import CorpusPairs, Pairs
from nsllm_lite.train.texts import Texts

STREAMS = 16  # random streams of a stage
SOME_TEXTS = 8


@dataclass(frozen=True, slots=True)
class AllPairs:
    """All that a run may train on or is scored by; `files` by the number of their stage."""

    texts: Texts
    corpus: CorpusPairs
    files: Mapping[int, FilePairs]
    names: Sequence[str]  # of papers, and of records of files, by number

    def some_texts(self) -> list[str]:
        """To compare two forms of a model on."""
        return [self.texts[number] for number in range(min(SOME_TEXTS, len(self.texts)))]


class Batch(NamedTuple):
    """`columns` are texts by number: queries, documents, and more documents for each negative."""

    kind: str
    columns: list[np.ndarray]
    names: list[str]
    num_easy: int = 0  # of the hard negatives, those that share no word with their query


class Plan:
    """Raises UserError where a stage has no pairs, or too few for one batch."""

    def __init__(self, recipe: Embed, pairs: AllPairs):
        self._pairs, self.notes = pairs, []
        self._steps: list[tuple[int, str, int]] = []  # stage, kind and number of the batch
        self._sources: dict[tuple[int, str], PairBatches] = {}
        self._searches: dict[tuple[int, str], HardNegativeSearch] = {}
        for number, stage in enumerate(recipe.stages):
            batches = self._batches(recipe, number, stage)
            had = dict.fromkeys(batches, 0)
            for kind in in_turn({kind: sqrt(one.num_papers) for kind, one in batches.items()}, stage.steps):
                self._steps.append((number, kind, had[kind]))
                had[kind] += 1
            for kind, one in batches.items():
                self._sources[number, kind] = one
                if stage.hard_negatives:
                    search = HardNegativeSearch(stage.hard_negatives, one.pairs, pairs.texts, recipe.seed)
                    search.require_enough(one, had[kind])
                    self._searches[number, kind] = search
            if stage.batch_pairs < FEW_PAIRS:
                self.notes.append(
                    f"Stage {number + 1}: {stage.batch_pairs} pairs a batch are of little use, each query is told from "
                    f"{stage.batch_pairs - 1} others; take 64 or more."
                )

    def _batches(self, recipe: Embed, number: int, stage: Stage) -> dict[str, PairBatches]:
        """By kind. A kind of several that gives none, or not one batch, is left out and noted."""
        if stage.file:
            given = {"file": self._pairs.files[number].pairs}
        else:
            given = {kind: self._pairs.corpus.train[kind] for kind in stage.pairs or ()}
        found: dict[str, PairBatches] = {}
        refused: list[UserError] = []
        for kind, pairs in given.items():
            try:
                require_pairs(kind, pairs, self._pairs.corpus)
                stream = STREAMS * number + (PAIR_KINDS.index(kind) if kind in PAIR_KINDS else len(PAIR_KINDS))
                found[kind] = PairBatches(
                    kind,
                    pairs,
                    self._pairs.texts.keys,
                    self._pairs.corpus.links,
                    stage.batch_pairs,
                    recipe.seed,
                    stream,
                )
            except UserError as error:
                refused.append(error)
        if not found:
            raise refused[0]
        self.notes += [f"Stage {number + 1} goes without: {error}" for error in refused]
        return found

    def batch(self, step: int) -> Batch:
        """That of `step` (from 0)."""
        stage, kind, number = self._steps[step]
        source = self._sources[stage, kind]
        pairs, places = source.pairs, source.batch(number)
        columns = [pairs.queries[places], pairs.positives[places]]
        if pairs.negatives is not None:
            columns += list(pairs.negatives[places].T)
        num_easy = 0
        if search := self._searches.get((stage, kind)):
            found, num_easy = search.of(places, source.papers_of(places), source.words_of(places), step)
            columns += list(found.T)
        return Batch(kind, columns, [self._pairs.names[paper] for paper in pairs.papers[places]], num_easy)

    def used_texts(self) -> dict[str, np.ndarray]:
        """The numbers of all texts that any step may show as {"query", "document"}."""
        all_pairs = [source.pairs for source in self._sources.values()]
        documents = [pairs.positives for pairs in all_pairs]
        documents += [pairs.negatives.ravel() for pairs in all_pairs if pairs.negatives is not None]
        queries = [pairs.queries for pairs in all_pairs]
        return {"query": np.unique(np.concatenate(queries)), "document": np.unique(np.concatenate(documents))}

    def epochs(self) -> dict[str, float]:
        """How often the steps of a stage show its papers: {"stage 1, title-abstract": 2.5}."""
        counts: dict[tuple[int, str], int] = {}
        for stage, kind, _ in self._steps:
            counts[stage, kind] = counts.get((stage, kind), 0) + 1
        return {
            f"stage {stage + 1}, {kind}": count
            * self._sources[stage, kind].batch_pairs
            / self._sources[stage, kind].num_papers
            for (stage, kind), count in counts.items()
        }


def require_pairs(kind: str, pairs: Pairs, corpus: CorpusPairs) -> None:
    """Raises UserError where there are none."""
    if not len(pairs):
        reasons = corpus.left_out.get(kind, {})
        why = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items()) or "all records were left out"
        found = f"There are no pairs {kind} to train on: {why}."
        raise UserError("embed-no-pairs", found, "Ask for other `pairs`, or take other sources.")


def table_of(corpus: CorpusPairs) -> str:
    """What the corpus gives of each kind, and why it does not give more."""
    rows = []
    for kind in PAIR_KINDS:
        train, heldout = corpus.train[kind], corpus.heldout[kind]
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(corpus.left_out[kind].items()))
        counts = (f"{len(train):,}", f"{len(np.unique(train.papers)):,}", f"{len(heldout):,}")
        rows.append((kind, *counts, reasons if len(train) or not reasons else f"absent: {reasons}"))
    heads = ("pairs", "to train on", "of papers", "held out", "left out")
    return as_text(heads, rows, right=heads[1:4])
