"""The moves of an abstract that its source divides into parts with labels."""

from collections.abc import Iterable


def labelled(parts: Iterable[tuple[str, list[str]]]) -> tuple[tuple[tuple[str, str], ...], str]:
    """(moves, text) of the parts, each a label and paragraphs: moves where there are several with a text, and each of
    them has a label; else the paragraphs alone."""
    told = [(label.rstrip(" :"), paragraphs) for label, paragraphs in parts if any(paragraphs)]
    if len(told) > 1 and all(label for label, _ in told):
        moves = tuple((label, " ".join(paragraphs)) for label, paragraphs in told)
        return moves, " ".join(text for _, text in moves)
    return (), "\n\n".join(paragraph for _, paragraphs in told for paragraph in paragraphs)
