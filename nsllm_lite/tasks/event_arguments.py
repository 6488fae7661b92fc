"""The roles of the arguments of an event, whose type and trigger are given.

Source: Yamaguchi et al., "SC-CoMIcs: a superconductivity corpus for materials informatics", 2020.
"""

from nsllm_lite.tasks import gold_words
from nsllm_lite.tasks.listed_words import ListedWords

TASK = ListedWords(
    name="event_arguments",
    version=2,
    title="Arguments of an event",
    instruction="Which role has each of these words in the event? Answer with a line `word : label` for each, in their "
    "order.",
    lead="Event",
    cue="Roles",
    shots=4,
    new_tokens=128,
    chat_tokens=512,
    readers={gold_words.SPANS: gold_words.span_events},
)
