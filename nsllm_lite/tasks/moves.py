"""The move of an abstract's sentence: what it does there. Items come from structured abstracts."""

import re
from collections.abc import Iterator

from nsllm_lite.formats.documents import Document
from nsllm_lite.tasks.labels import LabelTask
from nsllm_lite.tasks.task import ItemOrReason, Making

MOVES = {
    "Background": "background context introduction rationale importance",
    "Objective": "objective objectives aim aims purpose goal goals",
    "Methods": "methods method methodology design procedure|materials and methods|patients and methods|study design",
    "Results": "results result findings|main results|key results",
    "Conclusions": "conclusions conclusion interpretation significance|discussion and conclusions",
}
"""Each move and the headings of structured abstracts that mean it: words, then phrases."""

SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[A-Z])")


class Moves(LabelTask):
    def of_paper(self, paper: Document, making: Making) -> Iterator[ItemOrReason]:
        if not paper.moves:
            yield ItemOrReason(None, "no moves")
        number = 0
        for heading, text in paper.moves:
            move = move_of(heading)
            for sentence in SENTENCE_END.split(text.strip()):
                number += 1
                name = f"{paper.id}/{self.name}/{number}"
                if move:
                    yield ItemOrReason(self.record(name, paper.id, sentence, move, list(MOVES)))
                else:
                    yield ItemOrReason(None, "another heading")


def move_of(heading: str) -> str:
    """The move that a heading of a structured abstract means; empty for one that means several, or none."""
    heading = " ".join(heading.lower().strip(" :.").split())
    for move, known in MOVES.items():
        words, *phrases = known.split("|")
        if heading in (*words.split(), *phrases):
            return move
    return ""


TASK = Moves(
    name="moves",
    version=2,
    title="Move of an abstract's sentence",
    instruction="Which part of a structured abstract is this sentence: its background, its objective, its methods, its "
    "results or its conclusions?",
    lead="Sentence",
    cue="Part",
    shots=10,
    new_tokens=16,
    chat_tokens=512,
)
