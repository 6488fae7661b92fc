"""What a limit on the tokens of an answer costs: how many answers are longer, and the best scores that are left."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from nsllm_lite.tasks.spans import Question, score

Tokens = Callable[[str], Sequence[tuple[int, int]]]
"""The characters of each token of a text, in order."""
Span = tuple[int, int]  # characters, end exclusive


def limit_note(questions: Sequence[Question], tokens_of: Tokens, max_tokens: int, is_scored: bool = True) -> str:
    """A sentence about questions all of whose answers have more than `max_tokens` tokens, of scored ones with the
    highest mean scores that are left; "" where there are none. Answers that stand nowhere are taken as short."""
    tokens = lru_cache(256)(tokens_of)  # questions of one context follow one another
    asked = [one for one in questions if one.answers]
    needed = [min(len(inside) for inside in spans_of(one, tokens)) for one in asked]
    long = [one for one, count in zip(asked, needed, strict=True) if count > max_tokens]
    if not long:
        return ""
    most = int(np.quantile(needed, 0.99, method="higher"))
    enough = f"99 % of the {len(asked):,} with an answer need {most:,} at most"
    told = f"{len(long):,} questions have answers of more than max_answer_tokens={max_tokens} tokens alone ({enough})"
    if not is_scored:
        return f"{told}; the model gives no such answer"
    lost = np.array([1 - np.array(best_score(one, tokens, max_tokens)) for one in long]).sum(axis=0)
    exact, f1 = 1 - lost / len(questions)
    return f"{told}, which the model cannot give: exact match is {exact:.3f} at most, F1 {f1:.3f}"


def spans_of(question: Question, tokens_of: Tokens) -> Iterator[list[Span]]:
    """The tokens of each answer; none of one that stands nowhere."""
    for text, start in question.answers:
        yield [] if start < 0 else within(tokens_of(question.context), (start, start + len(text)))


def within(tokens: Sequence[Span], span: Span) -> list[Span]:
    """The tokens that have characters of the span, and those between them."""
    first = bisect_right(tokens, span[0], key=lambda token: token[1])
    last = bisect_left(tokens, span[1], key=lambda token: token[0])
    return list(tokens[first:last])


def best_score(question: Question, tokens_of: Tokens, max_tokens: int) -> tuple[float, float]:
    """(exact match, F1), the highest that `max_tokens` tokens of an answer have, of answers that are longer."""
    found = [
        score(question, question.context[inside[place][0] : inside[place + max_tokens - 1][1]])
        for inside in spans_of(question, tokens_of)
        for place in range(len(inside) - max_tokens + 1)
    ]
    exact, f1 = zip(*found, strict=True)
    return max(exact), max(f1)
