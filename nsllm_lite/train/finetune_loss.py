"""What each window of the training examples is to say, how much it weighs, and the loss of a batch.

Every example of classes weighs one (or the weight of its class), shared out to its windows; of tags every word weighs
one, in the window in which it is told; of questions every window weighs one, and one that cuts the answer none.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nsllm_lite.kernels.linear_cross_entropy import IGNORE
from nsllm_lite.models.heads import Head
from nsllm_lite.models.windows import Span, Window, first_tokens
from nsllm_lite.recipe.finetune import Finetune
from nsllm_lite.train.finetune_inputs import Data

NONE = (0, 0)  # where the answer of a window without one begins and ends


@dataclass(frozen=True, slots=True)
class Targets:
    """`values` by window: the class (classification), whether each label is there (multilabel), 0 or 1 (pair), the tag
    of each token or IGNORE (ner), first and last token of the answer (qa). `positive`: of each label how much more its
    texts weigh than others (multilabel)."""

    windows: list[Window]
    places: list[list[int]]  # of each example's windows
    values: list[Any]
    weights: list[float]
    of_tag: dict[int, float]
    positive: list[float] | None = None

    @classmethod
    def of(cls, recipe: Finetune, data: Data, head: Head) -> "Targets":
        split, task = data.train, recipe.task
        windows = head.windows(split.given.texts, split.given.seconds)
        places: list[list[int]] = [[] for _ in range(len(split))]
        for number, window in enumerate(windows):
            places[window.example].append(number)
        balanced = recipe.class_weights == "balanced"
        place_of = {label: number for number, label in enumerate(data.labels)}
        if task == "qa":
            spans = [
                next(((a.start, a.start + len(a.text)) for a in q.answers if a.start >= 0), None) for q in split.items
            ]
            found = [answer_tokens(window, spans[window.example]) for window in windows]
            weights = [float(one is not None) for one in found]
            return cls(windows, places, [one or NONE for one in found], weights, {})
        if task == "ner":
            tags = [[place_of[tag] for tag in one.tags] for one in split.items]
            of_tag = balance(Counter(tag for row in tags for tag in row), len(data.labels), balanced)
            values = []
            for window, words in zip(windows, first_tokens(windows, split.given.words or []), strict=True):
                row = [IGNORE] * len(window.input_ids)
                for token, word in words.items():
                    row[token] = tags[window.example][word]
                values.append(row)
            return cls(windows, places, values, [sum(of_tag[t] for t in row if t != IGNORE) for row in values], of_tag)
        shares = [1 / len(places[window.example]) for window in windows]
        if task == "multilabel":
            each = [[float(label in one.labels) for label in data.labels] for one in split.items]
            counts = [sum(column) for column in zip(*each, strict=True)]
            positive = [(len(each) - count) / max(count, 1) for count in counts] if balanced else None
            return cls(windows, places, [each[w.example] for w in windows], shares, {}, positive)
        single = [int(one.label) if task == "pair" else place_of[one.labels[0]] for one in split.items]
        of_class = balance(Counter(single), 2 if task == "pair" else len(data.labels), balanced)
        weights = [share * of_class[single[w.example]] for share, w in zip(shares, windows, strict=True)]
        return cls(windows, places, [single[w.example] for w in windows], weights, {})


def balance(counts: Counter[int], num_classes: int, balanced: bool) -> dict[int, float]:
    """The weight of each class: one, or so that all classes weigh the same together and the mean is one."""
    total = sum(counts.values())
    return {number: total / (num_classes * count) if balanced else 1.0 for number, count in counts.items()}


def answer_tokens(window: Window, span: Span | None) -> tuple[int, int] | None:
    """First and last token of the answer at `span`, NONE where the window has nothing of it, None where it has a
    part."""
    inside = [place for place, of in enumerate(window.offsets) if of and of[0] < of[1]]
    if span is None or not inside:
        return NONE
    within = [place for place in inside if window.offsets[place][1] > span[0] and window.offsets[place][0] < span[1]]
    if not within:
        return NONE
    is_whole = window.offsets[within[0]][0] <= span[0] and window.offsets[within[-1]][1] >= span[1]
    return (within[0], within[-1]) if is_whole else None


def loss_of(task: str, output: Any, targets: Targets, places: Sequence[int]) -> Tensor:
    """The weighted sum of the losses of these windows, in nats; of a batch divided by `total_weight` it is the mean."""
    values = [targets.values[place] for place in places]
    if task == "qa":
        logits = torch.stack([output.start_logits, output.end_logits], dim=1).float()  # (B, 2, T)
        device = logits.device
        gold, weights = torch.tensor(values, device=device), _weights(targets, places, device)
        losses = functional.cross_entropy(logits.flatten(0, 1), gold.flatten(), reduction="none")
        return (losses.view(-1, 2).mean(1) * weights).sum()
    logits = output.logits.float()
    weights = _weights(targets, places, logits.device)
    if task == "ner":
        longest = logits.shape[1]
        rows = [[*row, *[IGNORE] * (longest - len(row))] for row in values]
        gold = torch.tensor(rows, device=logits.device)
        classes = torch.tensor([targets.of_tag.get(n, 1.0) for n in range(logits.shape[-1])], device=logits.device)
        return functional.cross_entropy(
            logits.flatten(0, 1), gold.flatten(), weight=classes, ignore_index=IGNORE, reduction="sum"
        )
    if task == "classification":
        gold = torch.tensor(values, device=logits.device)
        return (functional.cross_entropy(logits, gold, reduction="none") * weights).sum()
    gold = torch.tensor(values, dtype=torch.float32, device=logits.device).view(len(places), -1)
    positive = None if targets.positive is None else torch.tensor(targets.positive, device=logits.device)
    losses = functional.binary_cross_entropy_with_logits(logits, gold, pos_weight=positive, reduction="none")
    return (losses.mean(1) * weights).sum()


def total_weight(targets: Targets, places: Sequence[int]) -> float:
    """By which a step's loss is divided; of windows that all cut their answer 1."""
    return sum(targets.weights[place] for place in places) or 1.0


def _weights(targets: Targets, places: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([targets.weights[place] for place in places], device=device)
