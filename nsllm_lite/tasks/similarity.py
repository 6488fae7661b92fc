"""Jaro-Winkler similarity of strings, and the best one-to-one match of two lists of strings by it."""

from collections.abc import Sequence

PREFIX_CHARS, PREFIX_WEIGHT = 4, 0.1
BOOSTED = 0.7  # strings less alike than that gain nothing by an equal beginning


def jaro(one: str, other: str) -> float:
    """From 0 to 1: equal characters within half the longer string, less those out of order."""
    if not one or not other:
        return float(one == other)
    reach = max(max(len(one), len(other)) // 2 - 1, 0)
    free, first = [True] * len(other), []
    for place, letter in enumerate(one):
        for there in range(max(0, place - reach), min(len(other), place + reach + 1)):
            if free[there] and other[there] == letter:
                free[there] = False
                first.append(letter)
                break
    if not first:
        return 0.0
    second = [letter for letter, is_free in zip(other, free, strict=True) if not is_free]
    moved = sum(a != b for a, b in zip(first, second, strict=True)) / 2
    return (len(first) / len(one) + len(first) / len(other) + (len(first) - moved) / len(first)) / 3


def jaro_winkler(one: str, other: str) -> float:
    """Jaro's similarity, raised where the first characters are equal.

    Source: Winkler, "String comparator metrics and enhanced decision rules in the Fellegi-Sunter model", 1990.
    """
    value = jaro(one, other)
    if value <= BOOSTED:
        return value
    pairs = list(zip(one[:PREFIX_CHARS], other[:PREFIX_CHARS], strict=False))
    equal = next((number for number, (a, b) in enumerate(pairs) if a != b), len(pairs))
    return value + equal * PREFIX_WEIGHT * (1 - value)


def matched(gold: Sequence[str], given: Sequence[str]) -> float:
    """The sum of similarities of a one-to-one match, the most similar pairs first; at most the shorter length."""
    pairs = [(jaro_winkler(a, b), i, j) for i, a in enumerate(gold) for j, b in enumerate(given)]
    total, used, taken = 0.0, set(), set()
    for value, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if i not in used and j not in taken:
            used.add(i)
            taken.add(j)
            total += value
    return total
