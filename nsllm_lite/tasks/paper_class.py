"""The class of a paper by its abstract, of whatever classes a file has; without names, whether it is about inorganic
glass (glass / non-glass, in MatSci-NLP)."""

from nsllm_lite.tasks import gold_words
from nsllm_lite.tasks.gold_labels import GoldLabels

TASK = GoldLabels(
    name="paper_class",
    version=1,
    title="Class of a paper",
    instruction="To which class does the paper with this abstract belong?",
    yes_or_no="Is the research in this abstract about inorganic glass?",
    lead="Abstract",
    cue="Class",
    shots=5,
    new_tokens=16,
    chat_tokens=512,
    readers={gold_words.TABLE: gold_words.table_texts},
)
