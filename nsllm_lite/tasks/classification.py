"""The discipline of an abstract."""

from nsllm_lite.formats.documents import Document
from nsllm_lite.tasks.labels import MAX_LABELS, LabelTask
from nsllm_lite.tasks.task import ItemOrReason, Making


class Classification(LabelTask):
    def of_paper(self, paper: Document, making: Making) -> list[ItemOrReason]:
        labels = making.disciplines
        if not paper.abstract:
            return [ItemOrReason(None, "no abstract")]
        if not paper.discipline:
            return [ItemOrReason(None, "no discipline")]
        if not labels:
            return [ItemOrReason(None, "all have the same discipline")]
        if paper.discipline not in labels:
            return [ItemOrReason(None, f"not one of the {MAX_LABELS} commonest disciplines")]
        name = f"{paper.id}/{self.name}"
        return [ItemOrReason(self.record(name, paper.id, paper.abstract, paper.discipline, labels))]


TASK = Classification(
    name="classification",
    version=4,
    title="Discipline of an abstract",
    instruction="To which discipline does the research in this abstract belong?",
    lead="Abstract",
    cue="Discipline",
    shots=5,
    new_tokens=16,
    chat_tokens=512,
)
