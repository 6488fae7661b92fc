"""What was typed, looked at before it is parsed: a word that no verb takes is answered by the command to type."""

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite.commands.arguments import PATHS, build_parser
from nsllm_lite.commands.instead import RECIPE, WEIGHTS, YAML, Instead, instead, recipes_of, takes_keys, with_weights
from nsllm_lite.errors import UserError, nearest
from nsllm_lite.recipe import names
from nsllm_lite.recipe.evals import file_tasks
from nsllm_lite.recipe.kinds import KINDS
from nsllm_lite.recipe.load import read
from nsllm_lite.recipe.values import Strict, expanded

OTHERS_VERBS = {
    **dict.fromkeys(("preprocess", "prepare", "tokenize", "pack"), "corpus"),
    **dict.fromkeys(("pretrain", "cpt", "pt"), "train"),
    **dict.fromkeys(("finetune", "fine-tune", "fine_tune", "tune"), "sft"),
    **dict.fromkeys(("evaluate", "evaluation", "lm-eval", "lm_eval", "score", "benchmark"), "eval"),
    **dict.fromkeys(("export", "fuse", "merge-lora", "merge_lora", "merge-adapter"), "merge"),
    **dict.fromkeys(("env", "check"), "doctor"),
    **dict.fromkeys(("list", "ls"), "runs"),
    "new": "init",
}


class Fault(NamedTuple):
    """A word that no verb takes. `words` are those to type instead, None where nothing is like it: then `todo` says
    more. `error` makes the error of the `note` of all faults and of what is to be typed."""

    error: Callable[[str, str], UserError]
    words: list[str] | None
    todo: str = ""
    note: str = ""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Raises UserError where a verb, an option or a path is none; SystemExit as argparse does."""
    parser = build_parser()
    verbs: dict[str, argparse.ArgumentParser] = next(one for one in parser._actions if one.dest == "verb").choices
    argv = _asking(argv, verbs)
    if not argv or argv[0].startswith("-"):
        return parser.parse_args(argv)
    verb, *words = argv
    if verb not in verbs:
        near = _verb_instead(verb, words, verbs)
        todo = f"Type: {line(*near)}" if near else f"The verbs are {', '.join(verbs)}."
        raise UserError("verb-unknown", f"There is no verb {verb!r}.", todo)
    require_known(verb, words, verbs[verb])
    args = parser.parse_args([verb, *in_order(verb, words, verbs[verb])])
    expand_paths(args, verbs[verb])
    return args


def _asking(argv: Sequence[str], verbs: dict[str, Any]) -> list[str]:
    """The words with `help`, `help VERB` and `VERB help`, and `version`, as options."""
    first, *rest = argv or [""]
    if first == "help":
        return [*(word for word in rest[:1] if word != "help"), "--help"]
    if first in verbs and rest and (rest[0] in ("-help", "-?") or (rest == ["help"] and not Path("help").exists())):
        return [first, "--help"]
    return ["--version"] if first in ("version", "-v", "-V") else list(argv)


def _verb_instead(verb: str, words: list[str], verbs: dict[str, Any]) -> tuple[str, list[str]] | None:
    """The verb, and the words behind it, that are meant by one that there is not."""
    if verb.endswith(YAML) and Path(verb).is_file() and (kind := str(read(Path(verb)).get("kind"))) in KINDS:
        return kind, [verb, *words]
    near = OTHERS_VERBS.get(verb.lower()) or nearest(verb.lower(), verbs, cutoff=0.6)
    return (near, words) if near else None


def require_known(verb: str, words: list[str], parser: argparse.ArgumentParser) -> None:
    """Raises UserError, with the whole command to type, where there is no such option, `key=value` is one, or a value
    stands in several words."""
    first = fault = _fault(verb, words, parser)
    notes = []
    while fault and fault.words is not None:
        notes += [fault.note] if fault.note else []
        words = fault.words
        fault = _fault(verb, words, parser)
    if fault:
        raise fault.error("", fault.todo)
    if first:
        raise first.error(f" ({'; '.join(dict.fromkeys(notes))})" if notes else "", line(verb, words))


def _fault(verb: str, words: list[str], parser: argparse.ArgumentParser) -> Fault | None:
    options = options_of(parser)
    parts = list(_parts(words, options))
    found = [
        _split_fault(verb, words),
        *(_repeated_fault(verb, words, end, known) for _, end, known in parts if known),
        *(_option_fault(verb, words, start, options) for start, _, known in parts if known is None),
    ]
    return next(filter(None, found), None)


def _split_fault(verb: str, words: list[str]) -> Fault | None:
    """A value that stands in several words: `key=[a, b]` without quotation marks, or `key=a b` of a list."""
    recipes = recipes_of(verb, words) if "--" not in words else []
    has_recipe = verb not in KINDS or any(word.endswith(YAML) for word in words)
    for start, word in enumerate(words if recipes else ()):
        key, equals, value = word.partition("=")
        behind = _plain_words(words, start + 1, all_of=value[:1] in ("[", "{"))
        whole = ""
        if re.match(r"[\[{]", value or key):
            ends = (n for n in range(len(behind) + 1) if not _open_brackets([word, *behind[:n]]))
            behind = behind[: next(ends, 0)]
            whole = " ".join([word, *behind])
        elif equals and has_recipe and key[:1] != "-":
            whole = _listed(recipes, key, [value, *behind])
        if whole and behind:
            end = start + 1 + len(behind)
            return _apart(words[start:end], [*words[:start], whole, *words[end:]])
    return None


def _listed(recipes: Sequence[tuple[str, type[Strict]]], key: str, values: list[str]) -> str:
    """The word `key=[a, b]`; empty where the key is no list of these recipes."""
    for prefix, recipe in recipes:
        word = names.meant(recipe, key.removeprefix(prefix), ",".join(values), cutoff=1)
        if key.startswith(prefix) and word and names.item_of(recipe, word.partition("=")[0]):
            return prefix + word
    return ""


def _apart(apart: list[str], words: list[str]) -> Fault:
    found = " ".join(apart)
    needed = "A value is one word; an option is repeated for each of its values."
    return Fault(
        lambda note, typed: UserError("words-apart", f"{found} is in several words{note}.", needed, f"Type: {typed}"),
        words,
    )


def _repeated_fault(verb: str, words: list[str], end: int, known: argparse.Action) -> Fault | None:
    """Several values behind an option that takes one each time, as in `--adapter A B`."""
    if not isinstance(known, argparse._AppendAction):
        return None
    if verb == "eval":
        behind = list(takewhile(lambda word: word.partition("=")[0] in file_tasks(), words[end:]))
    else:
        behind = list(takewhile(lambda word: not Path(word).is_file(), _plain_words(words, end)))
    if not behind:
        return None
    option = known.option_strings[-1]
    more = [part for word in behind for part in (option, word)]
    return _apart([option, "...", *behind], [*words[:end], *more, *words[end + len(behind) :]])


def _option_fault(verb: str, words: list[str], start: int, options: dict[str, argparse.Action]) -> Fault | None:
    """That of the word at `start`, which is no known option, and of its values."""
    word = words[start]
    name, equals, value = word.partition("=")
    key = name.lstrip("-").lower().replace("-", "_")
    if _is_option_like(word):
        plain = _plain_words(words, start + 1, all_of=True)
        behind, end = ([value] if equals else []) + plain, start + 1 + len(plain)
        if verb == "merge" and key in WEIGHTS:
            numbers = [one for one in behind if re.fullmatch(r"[\[\]\d.,eE+-]+", one)]
            new = with_weights(words, start, start + 1 + len(numbers) - bool(equals), numbers)
            found = Instead(None, todo=names.said(KINDS[verb].recipe, "weight") or "")
        else:
            found = instead(verb, name.lstrip("-").replace("-", "_"), behind, words, options)
            left = behind[max(found.used, bool(equals)) :]
            new = None if found.words is None else [*words[:start], *found.words, *left, *words[end:]]
        return Fault(
            lambda note, typed: UserError("option-unknown", f"{verb} has no option {name}{note}.", f"Type: {typed}"),
            *(new, found.todo, found.note),
        )
    meant = options.get("--" + key.replace("_", "-"))
    if equals and key in RECIPE and verb in KINDS and value.endswith(YAML):
        new = [*words[:start], value, *words[start + 1 :]]
    elif equals and meant and _is_option(verb, name, words):
        new = [*words[:start], *words[start + 1 :], meant.option_strings[-1], *([value] if meant.nargs != 0 else [])]
    else:
        return None
    if Path(word).exists():
        return None
    return Fault(
        lambda note, typed: UserError("word-is-option", f"{word}: no key of {verb}{note}.", f"Type: {typed}"), new
    )


def _plain_words(words: list[str], start: int, all_of: bool = False) -> list[str]:
    """The words from `start` on to the next option or, unless `all_of` them are asked for, `key=value` or recipe."""
    behind = []
    for word in words[start:]:
        if _is_option_like(word) or word == "--" or (not all_of and ("=" in word or word.endswith(YAML))):
            break
        behind.append(word)
    return behind


def _open_brackets(words: list[str]) -> int:
    text = " ".join(words)
    return sum(text.count(one) for one in "[{") - sum(text.count(one) for one in "]}")


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


def _is_option(verb: str, key: str, words: Sequence[str]) -> bool:
    """Whether `key=value` can be meant for an option alone."""
    if takes_keys(verb, words):
        return names.meant(KINDS[verb].recipe, key, "", cutoff=1) is None
    return key.isupper() or "." not in key


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
