"""A task whose answers are JSON of a schema, as those of extraction are."""

import json
from collections.abc import Sequence

from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.task import Task, TaskSet
from tests.models.schemas import closed

SCHEMA = closed(base={"type": "string", "maxLength": 4}, doped={"type": "boolean"}) | {"required": ["base", "doped"]}
RECORDS = [
    {"instruction": "", "input": f"Mg in {base}, number {number}.", "output": json.dumps({"base": base, "doped": True})}
    for number, base in enumerate(("ZnO", "TiO2", "SrO", "GaN", "MgO", "CdS"))
]


class Doping(Task):
    def parse(self, text: str, options: Sequence[str]) -> str | None:
        """Lenient: what a cut answer holds is an answer to this task, but not to an evaluation with its grammar."""
        return text.strip() or None

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str]]:
        return {"nothing": ["{}"] * len(asked.items)}

    def answer_schema(self, item: Item) -> dict | None:
        return None if "CdS" in item.input else SCHEMA


TASK = Doping(
    name="small_doping",
    version=1,
    title="Doping",
    instruction="Extract the base material.",
    lead="Text",
    cue="JSON",
    shots=1,
    new_tokens=64,
    chat_tokens=64,
)
