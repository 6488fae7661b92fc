"""The likeliest tags of a sentence of which each I- continues an entity of its type.

Word by word a model often tells an I- that continues nothing, which a strict score counts as no entity. Of a finished
training this is decoding alone: no transition is learnt. Source: Viterbi, "Error bounds for convolutional codes and an
asymptotically optimum decoding algorithm", 1967.
"""

from collections.abc import Sequence

import numpy as np


def best_sequence(logits: np.ndarray, labels: Sequence[str]) -> list[int]:
    """The numbers of the tags of n words with the largest sum of `logits` (n, labels) among valid sequences; the
    largest of each word where the labels are not those of IOB2."""
    if not is_iob2(labels):
        return logits.argmax(axis=1).tolist()
    inside = np.array([label.startswith("I-") for label in labels])
    types = np.array([label[2:] for label in labels])
    forbidden = inside[None, :] & ((types[:, None] != types[None, :]) | (np.array(labels) == "O")[:, None])
    steps = np.where(forbidden, -np.inf, 0.0)  # (before, behind)
    best = np.where(inside, -np.inf, logits[:1]).reshape(-1)
    came_from = np.zeros(logits.shape, np.int64)
    for word in range(1, len(logits)):
        ways = best[:, None] + steps
        came_from[word] = ways.argmax(axis=0)
        best = ways.max(axis=0) + logits[word]
    path = [int(best.argmax())]
    for word in range(len(logits) - 1, 0, -1):
        path.append(int(came_from[word, path[-1]]))
    return path[::-1]


def is_iob2(labels: Sequence[str]) -> bool:
    """Whether these are O and, of each type that has an I-, a B-."""
    begun = {label[2:] for label in labels if label.startswith("B-")}
    continued = {label[2:] for label in labels if label.startswith("I-")}
    return continued <= begun and all(label == "O" or label[:2] in ("B-", "I-") for label in labels)
