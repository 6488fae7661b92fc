"""The tables of words.toml and headings.toml, as sets."""

import tomllib
from importlib import resources


def word_sets(name: str) -> dict[str, frozenset[str]]:
    """The tables of a file of this folder, each a text of words with white space between."""
    content = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return {table: frozenset(words.split()) for table, words in tomllib.loads(content).items()}


WORDS = word_sets("words.toml")
