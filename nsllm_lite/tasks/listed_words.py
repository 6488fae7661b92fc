"""Labels of words: a question lists words of a sentence, and the answer has a line `word : label` for each.

Every listed word of every sentence counts. A label is right where it is the gold label of the same word, whatever its
case; a word that stands in several lines is told apart by its order. A label that no gold answer of the file has, and a
line about a word that is not listed, are wrong answers; an answer that is empty or not read leaves all its words wrong.
Beside it stands the rule of the public scorer: labels are brought to the nearest known one, answers without a line are
left out, and of a word that stands twice the last line counts.
Source: Song et al., "MatSci-NLP", 2023, for the tasks; evaluation_codes/ft_eval.py of github.com/M3RG-IITD/llamat at
1dbee74 for the form of the question (WORDS, SENTENCE) and the public rule.
"""

import ast
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nsllm_lite.tasks import floors, gold, gold_words
from nsllm_lite.tasks.entities import f1, macro_f1
from nsllm_lite.tasks.gold import GoldItem, UnfitGoldError
from nsllm_lite.tasks.gold_words import NO_LABEL, Labelled
from nsllm_lite.tasks.items import Item, without_thinking
from nsllm_lite.tasks.scores import Metric, Results, mean
from nsllm_lite.tasks.task import Score, Task, TaskSet

NOTHING = "none"  # the answer of a sentence without a labelled word

Line = tuple[str, str]
"""A word and its label."""


def line_of(text: str) -> Line | None:
    """A line `word : label`, with single blanks; the last colon parts the two."""
    word, _, label = (" ".join(part.split()) for part in text.rpartition(":"))
    return (word, label) if word and label else None


def lines_of(text: str) -> list[Line]:
    """The lines `word : label` of a text; others are passed over."""
    return [found for line in text.split("\n") if (found := line_of(line))]


def written(lines: Sequence[Line]) -> str:
    return "\n".join(f"{word} : {label}" for word, label in lines) or NOTHING


def is_literal(text: str) -> bool:
    """Whether a text is a list or an object of Python or JSON, in place of lines."""
    if not text.lstrip().startswith(("[", "{", "(")):
        return False
    try:
        return not isinstance(ast.literal_eval(text.strip()), str)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def in_turn(lines: Sequence[Line]) -> dict[tuple[str, int], str]:
    """{(word, how often it stood before, with a label or O): label}"""
    seen, found = Counter[str](), {}
    for word, label in lines:
        if label.upper() != NO_LABEL:
            found[word, seen[word]] = label
        seen[word] += 1
    return found


@dataclass(frozen=True, kw_only=True)
class ListedWords(Task):
    """`readers`: for each form of published files that the task takes, what reads it (see `gold_words`)."""

    readers: Mapping[str, Callable[..., list[Labelled]]]

    metrics: ClassVar[Mapping[str, str]] = {
        "f1": "F1", "macro_f1": "macro-F1", "exact": "exact", "snapped": "F1 by the public rule",
    }  # fmt: skip
    value_is: ClassVar[str] = "exact"
    is_of_input: ClassVar[bool] = True
    stop: ClassVar[str] = "\n\n"

    def parse(self, text: str, options: Sequence[str]) -> str | None:
        text = without_thinking(text)
        if is_literal(text):
            return None
        if lines := lines_of(text):
            return written(lines)
        return NOTHING if text.strip(" \n\t.").lower() == NOTHING else None

    def score(self, answer: str | None, item: Item) -> Score:
        """`value` is the F1 of the item's words, 1 where there are none and none is given."""
        if answer is None:
            return Score(False, 0.0, False, {"exact": 0.0})
        right, there, said = self.tally(answer, item, {}).sum(axis=0)
        value = float(2 * right / (there + said)) if there + said else 1.0
        return Score(True, value, value == 1, {"exact": float(value == 1)})

    def lines(self, answer: str) -> list[Line]:
        """The lines of an answer that say a label."""
        return [(word, label) for word, label in lines_of(answer) if label.upper() != NO_LABEL]

    def in_turn(self, answer: str) -> dict[tuple[str, int], str]:
        return in_turn(lines_of(answer))

    def tally(self, answer: str | None, item: Item, columns: Mapping[str, int]) -> np.ndarray:
        """(labels + 1, 3): words that are right, that are there, that were given, by the column of their label in small
        letters; the last has all other labels."""
        there, said = (self.in_turn(text) for text in (item.answer, answer or ""))
        found = np.zeros((len(columns) + 1, 3), np.int64)
        for place, lines in ((1, there), (2, said)):
            for label in lines.values():
                found[columns.get(label.lower(), len(columns)), place] += 1
        for key, label in there.items():
            found[columns.get(label.lower(), len(columns)), 0] += said.get(key, "").lower() == label.lower()
        return found

    def results(self, answers: Sequence[str | None], asked: TaskSet) -> dict[str, tuple[Results, Metric]]:
        columns = {label.lower(): number for number, label in enumerate(asked.labels)}
        pairs = list(zip(answers, asked.items, strict=True))
        words = Results(None, np.array([self.tally(answer, item, columns) for answer, item in pairs]))
        snapped = Results(None, np.array([snapped_tally(answer, item, asked.labels) for answer, item in pairs]))
        whole = np.array([self.score(answer, item).parts["exact"] for answer, item in pairs])
        found = {"f1": (words, f1), "macro_f1": (words, known_macro_f1), "exact": (Results(None, whole), mean)}
        return found | {"snapped": (snapped, f1)}

    def labels_of(self, items: Sequence[Item]) -> tuple[str, ...]:
        """Those of the gold answers, in alphabetic order; of two that differ in case alone the first."""
        by_form: dict[str, str] = {}
        for item in items:
            for _, label in self.lines(item.answer):
                by_form.setdefault(label.lower(), label)
        return tuple(by_form[form] for form in sorted(by_form))

    def group(self, item: Item) -> str:
        """By its first label: all labels of an item together would be too many groups."""
        return next((label for _, label in self.lines(item.answer)), "")

    def chat_prompt(self, item: Item, labels: Sequence[str] = ()) -> str:
        prompt = super().chat_prompt(item)
        return prompt if item.instruction or not labels else f"{prompt}\n\n{told(labels)}"

    def words_of(self, item: Item) -> list[str]:
        """The words that a rule without understanding labels."""
        return [word for word, _ in self.lines(item.answer)]

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """Always nothing, the commonest label for each word, and each word's own commonest label."""
        common = floors.commonest(self.known_labels(asked.pool if asked.has_pool else asked.items) or [""])
        name = f"always {common}" if common != NOTHING else f"always the label {common}"
        labelled = [written([(word, common) for word in self.words_of(item)]) for item in asked.items]
        return {
            "always none": [NOTHING] * len(asked.items),
            name: labelled if common else None,
            "dictionary": self.looked_up(asked, common or NOTHING),
        }

    def known_labels(self, items: Sequence[Item]) -> list[str]:
        """The labels of all words, of which a rule takes the commonest."""
        return [label for item in items for _, label in self.lines(item.answer)]

    def looked_up(self, asked: TaskSet, common: str) -> list[str]:
        """Each listed word with the label that it has most often, an unknown one with the commonest: in the pool or,
        where that is no more than the examples, in the other four fifths of the items."""
        return [
            written([(word, labels.get(word, common)) for word in self.words_of(item)])
            for labels, items in folds(asked, self.dictionary)
            for item in items
        ]

    def dictionary(self, items: Sequence[Item]) -> dict[str, str]:
        """{word: the label that it has most often}"""
        seen: dict[str, Counter[str]] = {}
        for item in items:
            for word, label in self.lines(item.answer):
                seen.setdefault(word, Counter())[label] += 1
        return {word: min(counts, key=lambda label: (-counts[label], label)) for word, counts in seen.items()}

    def gold_answer(self, answer: Any) -> tuple[str, tuple[str, ...]]:
        """A gold answer of a file of records. Raises UnfitGoldError where a line of it is no `word : label`."""
        if not isinstance(answer, str) or not answer.strip():
            raise UnfitGoldError("its answer is no text", repr(answer)[:80])
        if is_literal(answer):
            raise UnfitGoldError("its answer is a Python or JSON literal, not lines", answer[:80])
        unread = [line for line in answer.split("\n") if line.strip() and not line_of(line)]
        if unread and answer.strip().lower() != NOTHING:
            raise UnfitGoldError("a line of its answer is no `word : label`", unread[0][:80])
        return written(lines_of(answer)), ()

    def read_gold(self, path: Path) -> list[GoldItem]:
        """The records of a published file in one of the task's forms, or of {instruction, input, output}. Raises
        UserError where the file is in no such form, or no record can be used."""
        form, values = gold_words.read_form(path)
        if form == gold_words.RECORDS:
            return gold.read_gold(path, self.gold_answer)
        rows = gold_words.reader(path, form, self.readers, self.name)(path, values)
        labels = sorted({label for row in rows for _, label in row.pairs if label != NO_LABEL})
        instruction = f"{self.instruction} {told(labels)}"
        return gold_words.used(path, self.name, [self.gold_item(row, instruction) for row in rows])

    def read_items(self, path: Path) -> list[Item]:
        return gold_words.items_in(path, self.read_gold(path))

    def gold_item(self, row: Labelled, instruction: str) -> GoldItem:
        pairs = [(word, label) for word, label in row.pairs if label != NO_LABEL]
        if row.reason or not pairs:
            return GoldItem(row.line, None, row.reason or "no labelled word", row.what)
        if unfit := next((pair for pair in pairs if lines_of(written([pair])) != [pair]), None):
            return GoldItem(row.line, None, "a word or label that a line cannot hold", repr(unfit)[:80])
        listed = f"WORDS: {', '.join(word for word, _ in pairs)}\nSENTENCE: {row.text}"
        return gold_words.gold_item(row, instruction, f"{row.about}{listed}", written(pairs))


def told(labels: Sequence[str]) -> str:
    return f"Labels: {', '.join(labels)}."


def known_macro_f1(results: Results) -> float:
    """Mean F1 over the labels that there are; others count as missing alone."""
    return macro_f1(Results(None, results.given[:, :-1]))


def folds(asked: TaskSet, learn: Callable[[Sequence[Item]], Any]) -> list[tuple[Any, Sequence[Item]]]:
    """(what `learn` makes of other items, the items to be answered with it), in order."""
    if asked.has_pool:
        return [(learn(asked.pool), asked.items)]
    parts: list[list[Item]] = [[] for _ in range(floors.FOLDS)]
    for place, item in enumerate(asked.items):
        parts[place * floors.FOLDS // len(asked.items)].append(item)
    rest = [[item for other in parts if other is not part for item in other] for part in parts]
    return [(learn(others), part) for others, part in zip(rest, parts, strict=True)]


def snapped_tally(answer: str | None, item: Item, labels: Sequence[str]) -> np.ndarray:
    """(labels, 3) as `tally`, by the public rule: each label given is the nearest of `labels`, the last line about a
    word counts, and an answer that is not read is left out."""
    found = np.zeros((len(labels), 3), np.int64)
    if answer is None:
        return found
    forms = [label.lower() for label in labels]
    there = {word.lower(): label.lower() for word, label in lines_of(item.answer) if label.lower() in forms}
    said = {word.lower(): nearest(label.lower(), forms) for word, label in lines_of(answer)} if forms else {}
    for place, lines in ((1, there), (2, said)):
        for label in lines.values():
            found[forms.index(label), place] += 1
    for word, label in there.items():
        found[forms.index(label), 0] += said.get(word) == label
    return found


def nearest(label: str, forms: Sequence[str]) -> str:
    """The form itself, or that of the smallest edit distance; of equally near ones the first."""
    label = label.replace(" ", "")
    return label if label in forms else min(forms, key=lambda form: edit_distance(label, form))


def edit_distance(one: str, other: str) -> int:
    """Insertions, deletions and substitutions that make the one text the other. Source: Levenshtein, 1966."""
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], place
        for there, with_ in enumerate(other, 1):
            diagonal, row[there] = row[there], min(row[there] + 1, row[there - 1] + 1, diagonal + (letter != with_))
    return row[-1]
