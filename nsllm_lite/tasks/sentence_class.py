"""The class of a sentence, of whatever classes a file has; without names, whether it reports an experiment on a fuel
cell (SOFC-Exp, in MatSci-NLP)."""

from nsllm_lite.tasks import gold_words
from nsllm_lite.tasks.gold_labels import GoldLabels

TASK = GoldLabels(
    name="sentence_class",
    version=1,
    title="Class of a sentence",
    instruction="To which class does this sentence belong?",
    yes_or_no="Does this sentence report an experiment on a solid oxide fuel cell?",
    lead="Sentence",
    cue="Class",
    shots=5,
    new_tokens=16,
    chat_tokens=512,
    readers={gold_words.TABLE: gold_words.table_texts},
)
