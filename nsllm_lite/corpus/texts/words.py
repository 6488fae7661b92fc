"""The tables of this folder's TOML files: words as sets, and patterns."""

import tomllib
from importlib import resources
from typing import Any


def _tables(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def word_sets(name: str) -> dict[str, frozenset[str]]:
    """The tables of a file, each a text of words with white space between."""
    return {table: frozenset(words.split()) for table, words in _tables(name).items()}


WORDS = word_sets("words.toml")
PATTERNS = {table: lines.strip("\n").replace("\n", "|") for table, lines in _tables("patterns.toml").items()}
"""Regular expressions: the lines of a table are its alternatives."""
SIGNS: dict[str, str] = _tables("signs.toml")
"""Signs, each with the names that databases write in its place, a comma between two."""
