r"""What is known of LaTeX's commands and environments: the tables of commands.toml.

A command in none of these tables is left out with its star and option, and its arguments are read as text: \emph{x} is
x, and so is \anything{x}.
"""

import re
import tomllib
from importlib import resources

TABLES = tomllib.loads(resources.files(__package__).joinpath("commands.toml").read_text(encoding="utf-8"))


def _words(table: str) -> frozenset[str]:
    return frozenset(TABLES[table].split())


def _arguments(table: str) -> dict[str, str]:
    return {name: arguments for arguments, names in TABLES[table].items() for name in names.split()}


LEVELS = {name: level for level, name in enumerate(TABLES["levels"].split())}
TITLES, PARAGRAPH_BREAKS = _words("titles"), _words("paragraph_breaks")
HIDDEN_HEADING = re.compile(r"\W*(?:acknowledge?m?ents?|references|bibliography|literature cited)\W*$", re.IGNORECASE)

FORMULAS, ABSTRACTS, LISTS, DESCRIPTIONS = map(_words, ("formulas", "abstracts", "lists", "descriptions"))
BLOCKS, LEFT_OUT = _words("blocks"), _words("left_out")
THEOREMS = {name: name.capitalize() for name in TABLES["theorems"].split()}
ENVIRONMENT_ARGUMENTS = _arguments("environment_arguments")

TEXTUAL_CITES, CITES, REFERENCES, ACRONYMS = map(_words, ("textual_cites", "cites", "references", "acronyms"))
SKIPPED = _arguments("skipped")
NO_PAPER_CLASSES = _words("no_paper_classes")
KEEP = _words("keep") | frozenset(LEVELS) | TITLES | FORMULAS | LISTS | LEFT_OUT | CITES | TEXTUAL_CITES | REFERENCES
