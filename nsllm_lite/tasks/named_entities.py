"""Named entities as text: a sentence is given as its words, and the answer has a line `word : tag` for each word of an
entity, B- for its first and I- for those that follow.

From the lines entities are built and scored strictly, as those of taggers are. The words of an entity stand where they
follow each other first, behind the entity before it; a line with O says that a word is in none, and is written only
where that place would be another one than the right one. An entity that stands nowhere is a wrong one.
Beside it stand the scores of the entities' words as of listed words, see `listed_words`.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.tasks import gold_words
from nsllm_lite.tasks.entities import Sentence, as_iob2, dictionary_floor, entities, f1
from nsllm_lite.tasks.gold import GoldItem, UnfitGoldError
from nsllm_lite.tasks.gold_words import NO_LABEL, Labelled
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.listed_words import NOTHING, Line, ListedWords, in_turn, lines_of, written
from nsllm_lite.tasks.scores import Metric, Results
from nsllm_lite.tasks.task import Score, TaskSet

WITH_O = "written with a line of O, for a word that stands before"
APART = "a word with a blank in it, read as its parts"
NOWHERE = -1


class Mention(NamedTuple):
    """An entity of an answer: where its first word stands (NOWHERE: in no place), its words and its type; the type is
    "" where its only label is no tag."""

    start: int
    words: tuple[str, ...]
    kind: str


def find(words: Sequence[str], tokens: Sequence[str], begin: int, taken: AbstractSet[int] = frozenset()) -> int:
    """Where words follow each other in a sentence first, from `begin` on, at places that are not `taken`; NOWHERE."""
    for place in range(begin, len(tokens) - len(words) + 1):
        stands = tokens[place] == words[0] and list(tokens[place : place + len(words)]) == list(words)
        if stands and taken.isdisjoint(range(place, place + len(words))):
            return place
    return NOWHERE


def mark_of(label: str) -> tuple[str, str]:
    """("B" or "I", type in small letters) of a tag, ("O", "") of none; ("", "") of a label that is no tag."""
    mark, _, kind = label.partition("-")
    if label.upper() == NO_LABEL:
        return NO_LABEL, ""
    return (mark.upper(), kind.lower()) if mark.upper() in ("B", "I") and kind else ("", "")


def placed(lines: Sequence[Line], tokens: Sequence[str]) -> list[Mention]:
    """The entities of lines, each behind the one before or else at its first free place. A line with I- that follows no
    tag of its type is in no entity."""
    runs: list[tuple[list[str], str]] = []
    before = ""
    for word, label in lines:
        mark, kind = mark_of(label)
        is_inside = mark == "I"
        if is_inside and kind == before:
            runs[-1][0].append(word)
        elif not is_inside:
            runs.append(([word], NO_LABEL if mark == NO_LABEL else kind))
        before = kind if not is_inside or kind == before else ""
    found, taken, place = [], set(), 0
    for words, kind in runs:
        start = find(words, tokens, place, taken)
        if start == NOWHERE:
            start = find(words, tokens, 0, taken)
        if start != NOWHERE:
            taken |= set(range(start, start + len(words)))
            place = start + len(words)
        if kind != NO_LABEL:
            found.append(Mention(start, tuple(words), kind))
    return found


def lines_from(tokens: Sequence[str], tags: Sequence[str]) -> list[Line]:
    """The lines from which `placed` makes the entities of a sentence's tags."""
    lines, place = [], 0
    for start, end, _ in entities(tags):
        while (at := find(tokens[start:end], tokens, place)) != start:
            place = find([tokens[at]], tokens, place) + 1
            lines.append((tokens[at], NO_LABEL))
        lines += zip(tokens[start:end], tags[start:end], strict=True)
        place = end
    return lines


def apart(word: str, tag: str) -> list[tuple[str, str]]:
    """The parts of a word between blanks, with its tag; only the first begins an entity. A word of blanks has none."""
    return [(part, tag.replace("B-", "I-", 1) if number else tag) for number, part in enumerate(word.split())]


class NamedEntities(ListedWords):
    metrics: ClassVar[Mapping[str, str]] = {"entity_f1": "entity F1"} | ListedWords.metrics

    def mentions(self, answer: str | None, item: Item) -> set[tuple[int, tuple[str, ...], str, int]]:
        """(start, words, type, number); the number tells those apart that stand nowhere."""
        found = placed(lines_of(answer or ""), tokens_of(item))
        return {(*one, number if one.start == NOWHERE else 0) for number, one in enumerate(found)}

    def counts(self, answer: str | None, item: Item) -> tuple[int, int, int]:
        """Entities that are right, that are there, that were given; one without a type is never right."""
        there, said = self.mentions(item.answer, item), self.mentions(answer, item)
        return sum(bool(kind) for _, _, kind, _ in there & said), len(there), len(said)

    def score(self, answer: str | None, item: Item) -> Score:
        if answer is None:
            return Score(False, 0.0, False, {"exact": 0.0})
        right, there, said = self.counts(answer, item)
        value = 2 * right / (there + said) if there or said else 1.0
        return Score(True, value, value == 1, {"exact": float(value == 1)})

    def results(self, answers: Sequence[str | None], asked: TaskSet) -> dict[str, tuple[Results, Metric]]:
        found = [[self.counts(answer, item)] for answer, item in zip(answers, asked.items, strict=True)]
        return {"entity_f1": (Results(None, np.array(found)), f1)} | super().results(answers, asked)

    def words_of(self, item: Item) -> list[str]:
        return tokens_of(item)

    def group(self, item: Item) -> str:
        """Sentences with entities and without are shown in turn."""
        return NOTHING if item.answer == NOTHING else "entities"

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """Those of listed words, but with a dictionary of entities: the longest known one from left to right."""
        pool = [sentence_of(item) for item in asked.pool] if asked.has_pool else []
        sentences = [sentence_of(item) for item in asked.items]
        tags = dictionary_floor(sentences, pool)
        found = [written(lines_from(one.words, row)) for one, row in zip(sentences, tags, strict=True)]
        return super().rules(asked, seed) | {"dictionary": found}

    def fitted(self, items: Sequence[Item], where: str) -> tuple[Item, ...]:
        """Raises UserError where an entity of a gold answer is not in its sentence: nothing could be right there."""
        for item in items:
            if lost := [one for one in placed(lines_of(item.answer), tokens_of(item)) if one.start == NOWHERE]:
                found = f"{where}: record {item.number} has no {' '.join(lost[0].words)!r} in its input."
                needed = "An input is the sentence's words, with a blank between two, and each entity is of these."
                raise UserError("entities-not-in-sentence", found, needed, "Correct it, or name a file of tags.")
        return tuple(items)

    def in_turn(self, answer: str) -> dict[tuple[str, int], str]:
        """Without the lines of O, which say where an entity is: that is scored by the entities."""
        return in_turn(self.lines(answer))

    def known_labels(self, items: Sequence[Item]) -> list[str]:
        return [label for label in super().known_labels(items) if label[:2].upper() == "B-"]

    def gold_answer(self, answer: Any) -> tuple[str, tuple[str, ...]]:
        output, repairs = super().gold_answer(answer)
        if unfit := next((label for _, label in lines_of(output) if not mark_of(label)[0]), None):
            raise UnfitGoldError("a label of its answer is no O, B-TYPE or I-TYPE", unfit[:80])
        return output, repairs

    def gold_item(self, row: Labelled, instruction: str) -> GoldItem:
        if row.reason or not any(word.split() for word, _ in row.pairs):
            return GoldItem(row.line, None, row.reason or "no words", row.what)
        pairs = [pair for word, tag in row.pairs for pair in apart(word, tag)]
        words = [word for word, _ in pairs]
        lines = lines_from(words, as_iob2([tag for _, tag in pairs]))
        if lines_of(written(lines)) != lines:
            return GoldItem(row.line, None, "a word or label that a line cannot hold", row.text[:80])
        rules = (WITH_O,) * any(label == NO_LABEL for _, label in lines) + (APART,) * (len(pairs) != len(row.pairs))
        return gold_words.gold_item(row._replace(repairs=rules), instruction, " ".join(words), written(lines))


def tokens_of(item: Item) -> list[str]:
    return item.input.split()


def sentence_of(item: Item) -> Sentence:
    """The words and tags of an item."""
    tokens = tokens_of(item)
    tags = [NO_LABEL] * len(tokens)
    labels = {label.lower(): label for _, label in lines_of(item.answer)}
    for start, words, kind in placed(lines_of(item.answer), tokens):
        named = labels.get(f"b-{kind}", f"B-{kind}")[2:]
        tags[start : start + len(words)] = [f"B-{named}", *[f"I-{named}"] * (len(words) - 1)]
    return Sentence(tuple(tokens), tuple(tags))


TASK = NamedEntities(
    name="named_entities",
    version=2,
    title="Named entities of a sentence",
    instruction="Which words of this sentence are in a named entity? Answer with a line `word : label` for each, in "
    "their order, B- for the first word of an entity and I- for those that follow, or with none.",
    lead="Sentence",
    cue="Entities",
    shots=4,
    new_tokens=256,
    chat_tokens=1024,
    readers={
        gold_words.TAGGED: gold_words.tagged,
        gold_words.TABLE: partial(gold_words.table_words, columns=("token_labels",)),
    },
)
