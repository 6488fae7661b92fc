"""Tasks of one label a text, whose items and labels come from published files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nsllm_lite.tasks import gold, gold_words
from nsllm_lite.tasks.gold import GoldItem
from nsllm_lite.tasks.gold_words import Classed
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.labels import LabelTask
from nsllm_lite.tasks.task import one_of

NUMBERED = {"0": "no", "1": "yes"}


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
            return gold.read_gold(path)
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
        return gold_words.used(path, self.name, found)

    def read_items(self, path: Path) -> list[Item]:
        return gold_words.items_in(path, self.read_gold(path))
