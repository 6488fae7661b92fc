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
from nsllm_lite.recipe.evals import TASKS, Eval
from nsllm_lite.recipe.kinds import KINDS
from nsllm_lite.recipe.merge import Merge
from nsllm_lite.recipe.values import Strict, options_of

DESCRIPTION = "Adapt an open LLM to natural science by two-phase continued pretraining on one GPU."


class Verb(NamedTuple):
    """`does` is a sentence without its stop, `examples` are whole commands."""

    does: str
    examples: tuple[str, ...]


_STATED = tomllib.loads(resources.files(__package__).joinpath("verbs.toml").read_text(encoding="utf-8"))
EPILOG = _STATED.pop("epilog")
WORDS = {name: Verb(stated["does"], tuple(stated["examples"])) for name, stated in _STATED.items()}
CHAIN_VERBS = ("phase1", "phase2", "two-phase", "eval-run", "instruct", "plan")

SAVE_SIGNALS = {"USR1": signal.SIGUSR1, "USR2": signal.SIGUSR2}
PATHS = ("DIR", "DIR[:WEIGHT]", "PATH", "FILE", "MODEL", "RECIPE", "RUN", "JSON", "PNG", "PAGE")
"""Metavars of paths, for which a shell completes file names."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nsllm-lite",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    for name in CHAIN_VERBS:
        _chain(verbs[name])
    words = "take the paths that the recipe does not state from the run in this folder (default: each is given)"
    for name in KINDS:
        if name not in ("merge", "eval"):
            _recipe(verbs[name], name)
        verbs[name].add_argument("--run", metavar="DIR", help=words)
    _plan(verbs["plan"])
    _merge(verbs["merge"])
    _eval(verbs["eval"])
    _small(verbs)
    for name in (*CHAIN_VERBS, *(kind for kind, about in KINDS.items() if about.curves)):
        if name != "plan":
            _stopping(verbs[name])
    for name in ("plan", "merge", "eval", "audit", "doctor", "runs", "show"):
        words = "print one JSON object on stdout and nothing else there; messages go to stderr"
        verbs[name].add_argument("--json", action="store_true", help=words)
    return parser


def verbs_in_order() -> dict[str, Verb]:
    """Stories, then kinds of steps (`recipe.kinds`), then the rest."""
    stories = {name: verb for name, verb in WORDS.items() if name in CHAIN_VERBS}
    kinds = {name: Verb(about.summary, about.examples) for name, about in KINDS.items()}
    return stories | kinds | WORDS


def _recipe(added: argparse.ArgumentParser, name: str) -> None:
    added.add_argument("recipe", type=Path, metavar="RECIPE", help=f"a YAML of kind {name}, as in recipes/nano")
    added.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values of the recipe to change; dotted keys, YAML values"
    )


def _chain(added: argparse.ArgumentParser) -> None:
    add = added.add_argument
    add("--corpus", metavar="PATH", help="your papers: a file or folder (default: the bundled sample)")
    add("--general", metavar="PATH", help="general text for replay and the forgetting control (default: bundled)")
    add("--model", metavar="MODEL", help="base model: a folder or hub id (default: the recipes' own)")
    add(
        "--size", metavar="SIZE",
        help="size of Qwen3, for recipes/qwen3: 14b, 8b, 4b, 1.7b or 0.6b (default: that of --model, else the largest "
        "up to 8b that the card takes)",
    )  # fmt: skip
    add("--recipes", metavar="DIR", help="recipe folder (default: recipes/nano; with --corpus or --size recipes/qwen3)")
    add(
        "--out", metavar="DIR",
        help="folder of the run (default: runs/RECIPES or runs/RECIPES-SIZE, with --corpus and -CORPUS behind it)",
    )  # fmt: skip
    add(
        "--only", choices=tuple(KINDS),
        help="of the run's steps, only those of this kind (default: all)",
    )  # fmt: skip
    add(
        "overrides", nargs="*", metavar="step.key=value",
        help="recipe values to change, e.g. phase1.budget.steps=50 (optimizer steps), corpus.row_tokens=2048 (tokens)",
    )  # fmt: skip


def _positive(word: str) -> float:
    if not 0 < (number := float(word)) < math.inf:
        raise argparse.ArgumentTypeError(f"{word} is no number above 0")
    return number


def _signal(word: str) -> signal.Signals:
    if word not in SAVE_SIGNALS:
        raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(SAVE_SIGNALS)}")
    return SAVE_SIGNALS[word]


def _stopping(added: argparse.ArgumentParser) -> None:
    add = added.add_argument
    add(
        "--max-hours", type=_positive, metavar="H",
        help="after so many hours save a checkpoint and end with status 75 (default: no limit)",
    )  # fmt: skip
    add(
        "--save-on-signal", type=_signal, metavar="USR1|USR2",
        help="at this signal save a checkpoint and go on (default: none); SIGTERM and Ctrl-C save and end",
    )  # fmt: skip


def _plan(added: argparse.ArgumentParser) -> None:
    add = added.add_argument
    add("--vram", type=_positive, metavar="GIB", help="plan for a card of so much memory, in GiB (default: this card)")
    add("--all", action="store_true", help="list the other ways to run a step as well")
    add("--price", type=_positive, metavar="X", help="of an hour of the card, in your money: adds what the run costs")
    added.epilog += "\nA recipe or its folder may stand first, in place of --recipes."


def _merge(added: argparse.ArgumentParser) -> None:
    add = added.add_argument
    add("recipe", nargs="?", type=Path, metavar="RECIPE", help="a YAML of kind merge (or give the three folders)")
    add("overrides", nargs="*", metavar="key=value", help="values of the recipe to change")
    add(
        "--adapter", action="append", metavar="DIR[:WEIGHT]",
        help="LoRA adapter folder, times a weight (default: 1); several are merged in turn",
    )  # fmt: skip
    _options(added, Merge)
    add("--compare", action="store_true", help="print what each --base-weights would give; write nothing")
    add(
        "--push-to-hub",
        metavar="ID",
        help="send the result to this repository of the hub, a private one if new (default: nothing is sent)",
    )


def _eval(added: argparse.ArgumentParser) -> None:
    add = added.add_argument
    add("models", nargs="+", metavar="MODEL", help="model or adapter folders, hub ids; or a recipe and key=value words")
    add(
        "--file", action="append", metavar="TASK=PATH",
        help=f"records {{instruction, input, output}} of your own, one of {', '.join(TASKS)}; several are possible",
    )  # fmt: skip
    _options(added, Eval)


def _options(added: argparse.ArgumentParser, recipe: type[Strict]) -> None:
    """An option for each field of a recipe that is declared as one; pydantic converts its word."""
    for key, field in options_of(recipe):
        about, words = field.json_schema_extra, field.description
        choices = [
            get_args(one) for one in (field.annotation, *get_args(field.annotation)) if get_origin(one) is Literal
        ]
        how: dict[str, Any] = {"metavar": about["metavar"], "choices": choices[0] if choices else None}
        if field.annotation is bool:
            how = {"action": "store_true", "default": None}
        elif (default := field.default if about["typed"] is None else about["typed"]) not in (None, PydanticUndefined):
            words += "" if "(default: " in words else f" (default: {default})"
        added.add_argument("--" + key.rpartition(".")[2].replace("_", "-"), help=words, **how)


def _small(verbs: dict[str, argparse.ArgumentParser]) -> None:
    add = verbs["audit"].add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="a JSON list, or JSON lines")
    add("--out", type=Path, metavar="JSON", help="write everything with its row numbers there (default: nowhere)")
    add = verbs["runs"].add_argument
    add("folder", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="where to look (default: runs)")
    add = verbs["show"].add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a step, such as runs/NAME/model2, or of a whole run")
    add("--out", type=Path, metavar="PNG", help="picture of the losses (default: RUN/curves.png)")
    add("--html", type=Path, metavar="PAGE", help="write ledger, curves, losses and scores as one page (default: none)")
    add = verbs["init"].add_argument
    add("folder", type=Path, metavar="DIR", help="the project's folder; files that are there are not overwritten")
    add(
        "--recipe", default="qwen3", metavar="NAME",
        help="recipe folder to copy beside nano: qwen3 or nano (default: qwen3)",
    )  # fmt: skip
    verbs["completion"].add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell it is for")


def print_completion(shell: str) -> None:
    import shtab

    parser = build_parser()
    verbs: Any = next(action for action in parser._actions if action.dest == "verb")
    for verb in verbs.choices.values():
        for action in verb._actions:
            if action.metavar in PATHS:
                action.complete = shtab.FILE
    print(shtab.complete(parser, shell=shell))
