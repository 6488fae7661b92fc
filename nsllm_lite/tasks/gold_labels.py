"""Tasks of one label a text, whose items and labels come from published files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsllm_lite.tasks import gold, gold_words
from nsllm_lite.tasks.gold import GoldItem, UnfitGoldError
from nsllm_lite.tasks.gold_words import Classed
from nsllm_lite.tasks.items import Item, item_of
from nsllm_lite.tasks.labels import LabelTask
from nsllm_lite.tasks.listed_words import is_literal
from nsllm_lite.tasks.task import one_of

NUMBERED = {"0": "no", "1": "yes"}


def label_answer(answer: Any) -> tuple[str, tuple[str, ...]]:
    """A gold answer that is a label. Raises UnfitGoldError."""
    text, repairs = gold.text_answer(answer)
    if is_literal(text):
        raise UnfitGoldError("its answer is a Python or JSON literal, not a label", text[:80])
    return text, repairs


@dataclass(frozen=True, kw_only=True)
class GoldLabels(LabelTask):
    """`readers` as those of `ListedWords`; `yes_or_no` is the question of files whose labels are 1 and 0, which do not
    say what they mean."""

    readers: Mapping[str, Callable[..., list[Classed]]]
    yes_or_no: str = ""

    def read_gold(self, path: Path) -> list[GoldItem]:
        """The records of a published file in one of the task's forms, or of {instruction, input, output}. Raises
        UserError where the file is in no such form, or no record can be used."""
        form, values = gold_words.read_form(path)
        if form == gold_words.RECORDS:
            return self._few_labels(gold.read_gold(path, label_answer))
        rows = gold_words.reader(path, form, self.readers, self.name)(path, values)
        labels = sorted({row.label for row in rows if row.label})
        instruction = self.instruction
        if self.yes_or_no and set(labels) <= NUMBERED.keys():
            instruction, labels = self.yes_or_no, ["no", "yes"]
            rows = [row._replace(label=NUMBERED.get(row.label, "")) for row in rows]
        found = []
        for row in rows:
            if row.reason:
                found.append(GoldItem(row.line, None, row.reason, row.what))
                continue
            found.append(gold_words.gold_item(row, f"{instruction} {one_of(labels)}", row.text, row.label))
        return self._few_labels(gold_words.used(path, self.name, found))

    def _few_labels(self, found: list[GoldItem]) -> list[GoldItem]:
        """Raises UserError where there are so many different answers that they are no labels, or two are alike."""
        items = [item_of(one.item, number) for number, one in enumerate(found) if one.item]
        if len({item.answer for item in items}) > 1:  # one alone may be all that a small file has
            self.labels_of(items)
        return found

    def read_items(self, path: Path) -> list[Item]:
        return gold_words.items_in(path, self.read_gold(path))
