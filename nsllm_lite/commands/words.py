"""What was typed, looked at before it is parsed: a word that no verb takes is answered by the command to type."""

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite.commands.arguments import PATHS, build_parser
from nsllm_lite.errors import UserError, nearest
from nsllm_lite.recipe import names
from nsllm_lite.recipe.kinds import KINDS
from nsllm_lite.recipe.values import expanded

YAML = (".yaml", ".yml")
TRUE = ("true", "yes", "on", "1")
STEP_OF = {"phase1": "phase1", "phase2": "phase2", "two-phase": "phase1", "instruct": "sft", "plan": "phase1"}
"""The recipe of a story, of kind train or sft, that a key without its step is looked for in."""


class Fault(NamedTuple):
    """A word that no verb takes. `words` are those to type instead, None where nothing is like it: then `todo` says
    more. `error` makes the error of what is to be typed."""

    error: Callable[[str], UserError]
    words: list[str] | None
    todo: str = ""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Raises UserError where a verb, an option or a path is none; SystemExit as argparse does."""
    parser = build_parser()
    verbs: dict[str, argparse.ArgumentParser] = next(one for one in parser._actions if one.dest == "verb").choices
    if not argv or argv[0].startswith("-"):
        return parser.parse_args(argv)
    verb, *words = argv
    if verb not in verbs:
        near = nearest(verb.lower(), verbs, cutoff=0.5)
        todo = f"Type: {line(near, words)}" if near else f"The verbs are {', '.join(verbs)}."
        raise UserError("verb-unknown", f"There is no verb {verb!r}.", todo)
    require_known(verb, words, verbs[verb])
    args = parser.parse_args([verb, *in_order(verb, words, verbs[verb])])
    expand_paths(args, verbs[verb])
    return args


def require_known(verb: str, words: list[str], parser: argparse.ArgumentParser) -> None:
    """Raises UserError, with the whole command to type, where there is no such option, or `key=value` is one."""
    first = fault = _fault(verb, words, parser)
    while fault and fault.words:
        words = fault.words
        fault = _fault(verb, words, parser)
    if first:
        raise first.error(first.todo if fault else line(verb, words))


def _fault(verb: str, words: list[str], parser: argparse.ArgumentParser) -> Fault | None:
    options = options_of(parser)
    unknown = [(start, end) for start, end, known in _parts(words, options) if known is None]
    found = (_option_fault(verb, words, start, end, options) for start, end in unknown)
    return next(filter(None, found), None)


def _option_fault(
    verb: str, words: list[str], start: int, end: int, options: dict[str, argparse.Action]
) -> Fault | None:
    """That of the words from `start` to before `end`, which are no known option with its value."""
    word = words[start]
    name, equals, value = word.partition("=")
    if _is_option_like(word):
        behind = [] if equals else words[start + 1 : end]  # its value, or a word of its own
        new = _option_instead(verb, name, value if equals else (behind or [None])[0], words, options)
        new += behind if new and takes_no(verb, new[0], behind, options) else []
        todo = names.said(name.lstrip("-")) or f"one of {', '.join(one for one in options if one.startswith('--'))}"
        instead = [*words[:start], *new, *words[end:]] if new else None
        found = f"{verb} has no option {name}."
        return Fault(lambda typed: UserError("option-unknown", found, f"Type: {typed}"), instead, todo)
    meant = options.get("--" + name.lower().replace("_", "-"))
    if equals and meant and _is_option(verb, name, words) and not Path(word).exists():
        new = [meant.option_strings[-1], *([value] if meant.nargs != 0 else [])]
        found = f"{word}: {name} is an option of {verb}."
        instead = [*words[:start], *words[end:], *new]
        return Fault(lambda typed: UserError("word-is-option", found, f"Type: {typed}"), instead)
    return None


def takes_no(verb: str, instead: str, behind: list[str], options: dict[str, argparse.Action]) -> bool:
    """Whether the word `behind` an unknown option is no value of what stands `instead` of it: a flag, or a key that is
    true or false."""
    if instead in options:
        return options[instead].nargs == 0
    return bool(behind) and behind[0].lower() not in (*names.FALSE, *TRUE) and instead.endswith("=true")


def in_order(verb: str, words: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """`words` with options last, since argparse takes no `key=value` behind one; and the recipe before its values."""
    if "--" in words:
        return words
    parts = [(words[start:end], known) for start, end, known in _parts(words, options_of(parser))]
    plain = [part for part, known in parts if known is None]
    if verb in KINDS:
        plain.sort(key=lambda part: "=" in part[0] and not part[0].endswith(YAML))
    return [word for part in (*plain, *(part for part, known in parts if known)) for word in part]


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {option: action for action in parser._actions for option in action.option_strings}


def _is_option_like(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not re.match(r"-\.?\d", word)


def _parts(words: list[str], options: dict[str, argparse.Action]) -> Iterator[tuple[int, int, argparse.Action | None]]:
    """(start, end, known option or None) of each word up to `--`, an option together with its value."""
    start = 0
    while start < len(words) and words[start] != "--":
        name, equals, _ = words[start].partition("=")
        known = options.get(name) or _shortened(name, options)
        takes = _is_option_like(words[start]) and not equals and (known is None or known.nargs != 0)
        end = start + 1 + bool(takes and start + 1 < len(words) and not _is_option_like(words[start + 1]))
        yield start, end, known
        start = end


def line(verb: str, words: Sequence[str]) -> str:
    """A whole command, as it is typed into a shell."""
    return shlex.join(["nsllm-lite", verb, *words])


def _shortened(option: str, options: dict[str, argparse.Action]) -> argparse.Action | None:
    """The one option that begins so, as argparse takes it."""
    found = {id(options[one]): options[one] for one in options if one.startswith(option)} if option[:2] == "--" else {}
    return next(iter(found.values())) if len(found) == 1 else None


def _takes_keys(verb: str, words: Sequence[str]) -> bool:
    """Whether `key=value` words set values of a recipe of this verb."""
    return verb in KINDS and (verb not in ("merge", "eval") or any(word.endswith(YAML) for word in words))


def _is_option(verb: str, key: str, words: Sequence[str]) -> bool:
    """Whether `key=value` can be meant for an option alone."""
    if _takes_keys(verb, words):
        return names.meant(KINDS[verb].recipe, key, "", cutoff=1) is None
    return key.isupper() or "." not in key


def _option_instead(
    verb: str, option: str, value: str | None, words: Sequence[str], options: dict[str, argparse.Action]
) -> list[str]:
    """What to type in the place of an option that there is not, and of its value; [] where nothing is like it."""
    key = option.lstrip("-").replace("-", "_")
    step = STEP_OF.get(verb, "")
    if _takes_keys(verb, words) or step:
        kind = KINDS["sft" if step == "sft" else "train"] if step else KINDS[verb]
        word = names.meant(kind.recipe, key, "true" if value is None else value, cutoff=0.8)
        if word and names.is_switch(kind.recipe, word) and str(value).lower() not in (*names.FALSE, *TRUE):
            word = f"{word.partition('=')[0]}=true"
        if word:
            return [f"{step}.{word}" if step else word]
    near = nearest("--" + key.replace("_", "-"), options, cutoff=0.7)
    return [near, *([value] if value is not None and options[near].nargs != 0 else [])] if near else []


def expand_paths(args: argparse.Namespace, verb: argparse.ArgumentParser) -> None:
    """Replaces ~ and $VAR in all arguments that are paths. Raises UserError where one stands for nothing. (A recipe's
    own paths are replaced by their type.)"""
    for action in verb._actions:
        value = getattr(args, action.dest, None)
        if action.metavar in PATHS and value is not None and action.dest != "adapter":
            setattr(args, action.dest, _expanded(value))


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(one) for one in value]
    return type(value)(expanded(str(value))) if isinstance(value, str | Path) else value
