"""The slots of an experiment that listed words of a sentence fill, such as its device or its working temperature.

Source: Friedrich et al., "The SOFC-Exp corpus and neural approaches to information extraction in the materials science
domain", 2020.
"""

from functools import partial

from nsllm_lite.tasks import gold_words
from nsllm_lite.tasks.listed_words import ListedWords

TASK = ListedWords(
    name="slots",
    version=2,
    title="Slots of an experiment",
    instruction="Which slot of the experiment does each of these words of the sentence fill? Answer with a line "
    "`word : label` for each, in their order.",
    lead="Words",
    cue="Slots",
    shots=4,
    new_tokens=512,
    chat_tokens=1024,
    readers={gold_words.TABLE: partial(gold_words.table_words, columns=("slot_labels",))},
)
