"""The command line: the verbs of `nsllm-lite`, their options and help. It only parses; cli.py calls."""

import argparse
import math
import signal
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic_core import PydanticUndefined

from nsllm_lite import __version__
from nsllm_lite.commands.real_model import MODELS
from nsllm_lite.models.cards import CARDS
from nsllm_lite.recipe.evals import Eval, file_tasks
from nsllm_lite.recipe.kinds import KINDS
from nsllm_lite.recipe.merge import Merge
from nsllm_lite.recipe.values import Strict, options_of

DESCRIPTION = "Adapt an open LLM to natural science by two-phase continued pretraining on one GPU."


class Verb(NamedTuple):
    """`does` is a sentence without its stop, `examples` are whole commands."""

    does: str
    examples: tuple[str, ...]


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


_STATED, OPTIONS = _table("verbs.toml"), _table("options.toml")
EPILOG = _STATED.pop("epilog")
WORDS = {name: Verb(stated["does"], tuple(stated["examples"])) for name, stated in _STATED.items()}
STORY_VERBS = ("phase1", "phase2", "two-phase", "eval-run", "instruct", "encoder", "materials", "plan")

SAVE_SIGNALS = {"USR1": signal.SIGUSR1, "USR2": signal.SIGUSR2}
PATHS = ("DIR", "DIR[:WEIGHT]", "PATH", "FILE", "MODEL", "RECIPE", "RUN", "JSON", "PNG", "PAGE")
"""Metavars of paths, for which a shell completes file names."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nsllm-lite", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"nsllm-lite {__version__}")
    added = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs = {}
    for name, verb in verbs_in_order().items():
        verbs[name] = added.add_parser(
            name,
            help=verb.does,
            description=verb.does[0].upper() + verb.does[1:] + ".",
            epilog="\n".join(("examples:", *(f"  {example}" for example in verb.examples))) if verb.examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    for name in STORY_VERBS:
        if name not in OPTIONS or name == "plan":
            _add(verbs[name], "story")
    for name in KINDS:
        if name not in OPTIONS:
            _add(verbs[name], "recipe", kind=name)
        _add(verbs[name], "kind")
    for name in OPTIONS.keys() & verbs.keys():
        _add(verbs[name], name)
    _add_options(verbs["merge"], Merge)
    _add(verbs["merge"], "merge-ends")
    _add_options(verbs["eval"], Eval)
    verbs["plan"].epilog += "\nA recipe or its folder may stand first, in place of --recipes."
    for name in (*STORY_VERBS, "ladder", *(kind for kind, about in KINDS.items() if about.curves)):
        if name in STORY_VERBS and name != "plan":
            _add(verbs[name], "only")
        if name != "plan":
            _add(verbs[name], "stopping")
        if name in ("train", "sft"):
            _add(verbs[name], "find-lr")
    for name in ("plan", "merge", "eval", "audit", "doctor", "runs", "show"):
        _add(verbs[name], "json")
    return parser


def verbs_in_order() -> dict[str, Verb]:
    """Stories, then kinds of steps (`recipe.kinds`), then the rest."""
    stories = {name: verb for name, verb in WORDS.items() if name in STORY_VERBS}
    kinds = {name: Verb(about.summary, about.examples) for name, about in KINDS.items()}
    return stories | kinds | WORDS


def _positive(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is no number above 0; write one such as 2.5")
    return number


def _signal(word: str) -> signal.Signals:
    if word not in SAVE_SIGNALS:
        raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(SAVE_SIGNALS)}")
    return SAVE_SIGNALS[word]


CHOICES = {"kinds": tuple(KINDS), "models": tuple(MODELS)}
TYPES = {"path": Path, "positive": _positive, "signal": _signal}


def _add(verb: argparse.ArgumentParser, table: str, kind: str = "") -> None:
    """Adds the arguments of a table of options.toml."""
    for word, stated in OPTIONS[table].items():
        how = stated | {"help": stated["help"].format(kind=kind, tasks=", ".join(file_tasks()), cards=", ".join(CARDS))}
        if "type" in how:
            how["type"] = TYPES[how["type"]]
        if isinstance(how.get("choices"), str):
            how["choices"] = CHOICES[how["choices"]]
        verb.add_argument(word, **how)


def _add_options(verb: argparse.ArgumentParser, recipe: type[Strict]) -> None:
    """An option for each field of a recipe that is declared as one; pydantic converts its word."""
    for key, field in options_of(recipe):
        about, words = field.json_schema_extra, field.description
        kinds = (field.annotation, *get_args(field.annotation))
        choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), None)
        how: dict[str, Any] = {"metavar": about["metavar"], "choices": choices}
        if field.annotation is bool:
            how = {"action": "store_true", "default": None}
        elif (default := field.default if about["typed"] is None else about["typed"]) not in (None, PydanticUndefined):
            words += "" if "(default: " in words else f" (default: {default})"
        verb.add_argument("--" + key.rpartition(".")[2].replace("_", "-"), help=words, **how)


def print_completion(shell: str) -> None:
    import shtab

    parser = build_parser()
    verbs: Any = next(action for action in parser._actions if action.dest == "verb")
    for verb in verbs.choices.values():
        for action in verb._actions:
            if action.metavar in PATHS:
                action.complete = shtab.FILE
    print(shtab.complete(parser, shell=shell))
