"""The types of listed words or names. The list says where the entities are: only `named_entities` asks that too."""

from functools import partial

from nsllm_lite.tasks import gold_words
from nsllm_lite.tasks.listed_words import ListedWords

TASK = ListedWords(
    name="entity_words",
    version=2,
    title="Types of entities",
    instruction="Of which type is each of these words in the sentence? Answer with a line `word : label` for each, in "
    "their order.",
    lead="Words",
    cue="Labels",
    shots=4,
    new_tokens=512,
    chat_tokens=1024,
    readers={
        gold_words.TAGGED: gold_words.tagged,
        gold_words.TABLE: partial(gold_words.table_words, columns=("token_labels", "labels")),
        gold_words.SPANS: gold_words.span_words,
    },
)
