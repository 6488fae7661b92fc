"""The relation between two parts of a sentence."""

from nsllm_lite.tasks import gold_words
from nsllm_lite.tasks.gold_labels import GoldLabels

TASK = GoldLabels(
    name="relations",
    version=1,
    title="Relation of two entities",
    instruction="Which relation is there between the first and the second part of this sentence?",
    lead="Parts",
    cue="Relation",
    shots=5,
    new_tokens=16,
    chat_tokens=512,
    readers={gold_words.SPANS: gold_words.span_relations, gold_words.MENTIONS: gold_words.mention_relations},
)
