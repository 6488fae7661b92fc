"""The actions of a synthesis that listed words of a sentence mean, such as heating or mixing.

Source: Wang et al., "ULSA: unified language of synthesis actions for the representation of inorganic synthesis
protocols", 2022.
"""

from nsllm_lite.tasks import gold_words
from nsllm_lite.tasks.listed_words import ListedWords

TASK = ListedWords(
    name="synthesis_actions",
    version=2,
    title="Actions of a synthesis",
    instruction="Which action of a synthesis does each of these words mean in the sentence? Answer with a line "
    "`word : label` for each, in their order.",
    lead="Words",
    cue="Actions",
    shots=4,
    new_tokens=128,
    chat_tokens=512,
    readers={gold_words.ANNOTATED: gold_words.annotated},
)
