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
        parts = [(move_of(heading), SENTENCE_END.split(text.strip())) for heading, text in paper.moves]
        sentences = [(move, sentence) for move, part in parts for sentence in part]
        for number, (move, sentence) in enumerate(sentences, 1):
            if move:
                record = self.record(f"{paper.id}/{self.name}/{number}", paper.id, sentence, move, list(MOVES))
                yield ItemOrReason(record | {"sentence": number, "sentences": len(sentences)})
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
    version=4,
    title="Move of an abstract's sentence",
    instruction="Which part of a structured abstract is this sentence: its background, its objective, its methods, its "
    "results or its conclusions?",
    lead="Sentence",
    cue="Part",
    shots=10,
    new_tokens=16,
    chat_tokens=512,
)
