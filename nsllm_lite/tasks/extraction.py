"""Structured extraction: the answer is JSON by a schema, scored fact by fact over all items.

A task states a pydantic type, which is the schema, and the facts in a value of it. An answer counts only where it is
that JSON alone; anything else is wrong, on items with nothing to extract too. Denominators are fixed: every item
counts, a fact that is given and not in gold counts against precision, one that is missing against recall.
"""

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from nsllm_lite.formats.records import COMPACT
from nsllm_lite.tasks import floors, gold
from nsllm_lite.tasks.entities import by_type, f1, precision, recall
from nsllm_lite.tasks.gold import GoldItem, UnfitGoldError
from nsllm_lite.tasks.items import Item, item_of
from nsllm_lite.tasks.json_answers import read_json_answer
from nsllm_lite.tasks.schemas import closed, repaired
from nsllm_lite.tasks.scores import Metric, Results, estimate, mean
from nsllm_lite.tasks.similarity import matched
from nsllm_lite.tasks.task import Score, Task, TaskSet

Facts = Mapping[str, Counter]
"""{field: the facts of it}; a fact that stands twice counts twice."""


@dataclass(frozen=True, kw_only=True)
class Extraction(Task):
    """A subclass says what the facts of a value are; `form` is the type of the answer, `fields` the kinds of facts and
    `texts` those of them that are text."""

    form: Any
    fields: tuple[str, ...]
    texts: tuple[str, ...] = ()

    metrics: ClassVar[Mapping[str, str]] = {"f1": "F1", "exact": "exact"}
    value_is: ClassVar[str] = "item_f1"
    is_of_input: ClassVar[bool] = True

    @abstractmethod
    def facts(self, value: Any) -> Facts:
        """The facts in the value of a valid answer."""

    @abstractmethod
    def compose(self, found: Mapping[str, Sequence[str]]) -> Any:
        """An answer made of texts of each field, as a rule without understanding would; with none, the empty answer."""

    def key(self, value: Any) -> Any:
        """Equal for answers that say the same."""
        return {field: facts for field, facts in self.facts(value).items() if facts}

    @cached_property
    def _adapter(self) -> TypeAdapter:
        return TypeAdapter(self.form)

    def canonical(self, value: Any) -> str:
        """The one way in which an answer is written: keys in the order of the schema, those left out that are absent,
        COMPACT between. Raises ValueError where `value` breaks the schema."""
        held = self._adapter.validate_python(value, strict=True)
        plain = self._adapter.dump_python(held, mode="json", exclude_defaults=True)
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=COMPACT)
        text.encode()  # half a character (a lone surrogate) cannot be written
        return text

    def answer_schema(self, item: Item) -> dict[str, Any]:
        return closed(self._adapter.json_schema())

    def read(self, text: str) -> tuple[str, str | None]:
        """(how the text was read, the canonical answer); the answer of a text that is not "json" is lenient."""
        found = read_json_answer(text)
        if not found.has_value:
            return found.kind, None
        try:
            return found.kind, self.canonical(found.value)
        except ValueError:
            return ("off-schema" if found.kind == "json" else found.kind), None

    def parse(self, text: str, options: Sequence[str]) -> str | None:
        kind, answer = self.read(text)
        return answer if kind == "json" else None

    def score(self, answer: str | None, item: Item) -> Score:
        if answer is None:
            return Score(False, 0.0, False, dict.fromkeys(("exact", "item_f1"), 0.0))
        there, said = json.loads(item.answer), json.loads(answer)
        right, num_there, num_said = tally(self.facts(there), self.facts(said), self.fields).sum(axis=0)
        value = float(2 * right / (num_there + num_said)) if num_there + num_said else 1.0
        is_exact = self.key(there) == self.key(said)
        return Score(True, value, is_exact, {"exact": float(is_exact), "item_f1": value})

    @property
    def details(self) -> dict[str, str]:
        more = {f"f1 {field}": f"F1 of {field}" for field in self.fields if f"f1 {field}" not in self.metrics}
        more |= {"precision": "precision", "recall": "recall", "item_f1": "mean F1 of an item"}
        more |= {"negatives": "items without facts, answered with none"}
        of_texts = {"similarity": "F1 by Jaro-Winkler", "grounded": "given texts that are in the input"}
        return more | (of_texts if self.texts else {})

    def results(self, answers: Sequence[str | None], asked: TaskSet) -> dict[str, tuple[Results, Metric]]:
        """Fields without a fact in gold, and shares of nothing, such as `grounded` where no text is given, are left
        out."""
        pairs = [self._pair(answer, item) for answer, item in zip(answers, asked.items, strict=True)]
        scores = [self.score(answer, item).parts for answer, item in zip(answers, asked.items, strict=True)]
        rows = Results(None, np.array([tally(there, said, self.fields) for there, said in pairs]))
        has_facts = rows.given[:, :, 1:].any()
        found: dict[str, tuple[Results, Metric]] = {"f1": (rows, partial(of_facts, f1, [1, 2]) if has_facts else f1)}
        found["exact"] = (Results(None, np.array([parts["exact"] for parts in scores])), mean)
        known = [number for number in range(len(self.fields)) if rows.given[:, number, 1].any()]
        found |= {f"f1 {self.fields[number]}": (rows, partial(field_f1, number=number)) for number in known}
        for name, metric, place in (("precision", precision, 2), ("recall", recall, 1)):
            if rows.given[:, :, place].any():
                found[name] = (rows, partial(of_facts, metric, [place]))
        found["item_f1"] = (Results(None, np.array([parts["item_f1"] for parts in scores])), mean)
        negatives = [
            (answer is not None and not any(said.values()), 1) if not any(there.values()) else (0, 0)
            for answer, (there, said) in zip(answers, pairs, strict=True)
        ]
        shares: dict[str, list] = {"negatives": negatives}
        if self.texts:
            shares["similarity"] = [self._alike(there, said) for there, said in pairs]
            given = zip(pairs, asked.items, strict=True)
            shares["grounded"] = [self._grounded(said, item) for (_, said), item in given]
        parts = {name: Results(None, np.array(rows, float)) for name, rows in shares.items()}
        return found | {name: (part, quotient) for name, part in parts.items() if part.given[:, 1].any()}

    def _pair(self, answer: str | None, item: Item) -> tuple[Facts, Facts]:
        said = {} if answer is None else self.facts(json.loads(answer))
        return self.facts(json.loads(item.answer)), said

    def _alike(self, there: Facts, said: Facts) -> tuple[float, float]:
        rows = [(_listed(there, field), _listed(said, field)) for field in self.texts]
        return 2 * sum(matched(*row) for row in rows), sum(len(one) + len(other) for one, other in rows)

    def _grounded(self, said: Facts, item: Item) -> tuple[int, int]:
        texts = [text for field in self.texts for text in _listed(said, field)]
        return sum(text in item.input for text in texts), len(texts)

    def told(self, texts: Sequence[str], answers: Sequence[str | None], asked: TaskSet, seed: int) -> dict[str, Any]:
        """How many texts were read in which way, the scores had they been read leniently, and the hallucinated facts:
        given, and not in gold, on items without facts and on the others."""
        read = [self.read(text) for text in texts]
        lenient = self.results([answer for _, answer in read], asked)
        rows = self.results(answers, asked)["f1"][0].given.sum(axis=1)  # (items, 3): right, there, said
        false = rows[:, 2] - rows[:, 0]
        where = {"negatives": rows[:, 1] == 0, "positives": rows[:, 1] > 0}
        return {
            "read": dict(sorted(Counter(kind for kind, _ in read).items())),
            "lenient": {name: estimate(*lenient[name], seed)._asdict() for name in self.metrics if name in lenient},
            "hallucinated": {
                name: {"items": int(here.sum()), "with": int((false[here] > 0).sum()), "facts": int(false[here].sum())}
                for name, here in where.items()
            },
        }

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """Always the empty answer, always the commonest, and all texts known from gold that stand in the input."""
        empty = self.canonical(self.compose({}))
        common = floors.commonest([item.answer for item in (asked.pool if asked.has_pool else asked.items)])
        return {
            "always empty": [empty] * len(asked.items),
            "commonest answer": None if common == empty else [common] * len(asked.items),
            "dictionary": self._looked_up(asked) if self.texts else None,
        }

    def _looked_up(self, asked: TaskSet) -> list[str]:
        """Of the pool's texts; where the pool is no more than the examples, of the other four fifths of the items."""
        found = []
        folds = np.arange(len(asked.items)) * floors.FOLDS // len(asked.items)
        for fold in np.unique(folds):
            others = [item for item, other in zip(asked.items, folds, strict=True) if other != fold]
            known = self._known(asked.pool if asked.has_pool else others)
            for item in (item for item, other in zip(asked.items, folds, strict=True) if other == fold):
                here = {
                    field: [text for text in texts if stands_in(text, item.input)] for field, texts in known.items()
                }
                found.append(self.canonical(self.compose(here)))
        return found

    def _known(self, items: Sequence[Item]) -> dict[str, list[str]]:
        """{field: its texts}, each in the field where it stands most often."""
        seen: dict[str, Counter] = {}
        for item in items:
            for field, facts in self.facts(json.loads(item.answer)).items():
                for text, count in facts.items() if field in self.texts else ():
                    seen.setdefault(text, Counter())[field] += count
        known: dict[str, list[str]] = {field: [] for field in self.texts}
        for text in sorted(seen):
            known[min(seen[text], key=lambda field: (-seen[text][field], field))].append(text)
        return known

    def group(self, item: Item) -> str:
        return "facts" if any(self.facts(json.loads(item.answer)).values()) else "none"

    def gold_answer(self, answer: Any) -> tuple[str, tuple[str, ...]]:
        """A gold answer, an object or its text, as it is written here. Raises UnfitGoldError."""
        if isinstance(answer, str):
            found = read_json_answer(answer)
            if found.kind != "json":
                raise UnfitGoldError(f"its answer is no JSON ({found.kind})", answer[:80])
            answer = found.value
        try:
            answer, repairs = repaired(self._adapter, answer)
            output = self.canonical(answer)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise UnfitGoldError("its answer breaks the schema", f"{where}: {first['msg']}") from None
        except (ValueError, RecursionError) as error:
            raise UnfitGoldError("its answer breaks the schema", str(error)) from None
        return output, repairs

    def read_gold(self, path: Path) -> list[GoldItem]:
        return gold.read_gold(path, self.gold_answer)

    def read_items(self, path: Path) -> list[Item]:
        found = self.read_gold(path)
        for words in gold.words_of(found):
            print(f"{path}: {words}")
        return [item_of(one.item, number) for number, one in enumerate(one for one in found if one.item)]

    def fitted(self, items: Sequence[Item], where: str) -> tuple[Item, ...]:
        return tuple(items)  # `read_items` has read them as gold


def tally(there: Facts, said: Facts, fields: Sequence[str]) -> np.ndarray:
    """(fields, 3): facts that are right, that are there, that were given."""
    pairs = [(there.get(field, Counter()), said.get(field, Counter())) for field in fields]
    return np.array([((one & other).total(), one.total(), other.total()) for one, other in pairs], np.int64)


def of_facts(metric: Metric, places: list[int], results: Results) -> float:
    """A metric; NaN where there are no facts at these places of a tally: then it is a share of nothing."""
    return metric(results) if results.given[:, :, places].any() else float("nan")


def field_f1(results: Results, number: int) -> float:
    """Micro F1 over the facts of one field; NaN where there are none, in gold or given."""
    return float(by_type(results)[number])


def quotient(results: Results) -> float:
    """sum(first) / sum(second) of (items, 2); NaN where there are none."""
    above, below = results.given.sum(axis=0)
    return float(above / below) if below else float("nan")


def _listed(facts: Facts, field: str) -> list[str]:
    return list(facts.get(field, Counter()).elements())


def stands_in(text: str, where: str) -> bool:
    """Whether a text of at least two characters stands there, not as a part of a word."""
    place = where.find(text)
    while len(text) > 1 and place >= 0:
        around = where[place - 1 : place] + where[place + len(text) : place + len(text) + 1]
        if not any(letter.isalnum() for letter in around):
            return True
        place = where.find(text, place + 1)
    return False
