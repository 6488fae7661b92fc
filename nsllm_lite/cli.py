"""Entry point of `nsllm-lite VERB ...`: parses, loads the recipe, calls one function. Heavy imports are lazy."""

import argparse
import contextlib
import errno
import gc
import math
import os
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from nsllm_lite import terminal
from nsllm_lite.artifact import interrupts, lock
from nsllm_lite.artifact.disk import is_disk_full
from nsllm_lite.commands.words import parse
from nsllm_lite.errors import RunError, UserError
from nsllm_lite.recipe.kinds import Recipe
from nsllm_lite.safety import printable

VERBS = {
    "corpus": "nsllm_lite.corpus.build:build",
    "tokenizer": "nsllm_lite.corpus.learn_tokenizer:learn_tokenizer",
    "train": "nsllm_lite.train.cpt:train",
    "mlm": "nsllm_lite.train.mlm:mlm",
    "distill": "nsllm_lite.train.distill:distill",
    "embed": "nsllm_lite.train.embed:embed",
    "finetune": "nsllm_lite.train.finetune:finetune",
    "convert": "nsllm_lite.merge.gguf.convert:convert",
    "merge": "nsllm_lite.merge.write_model:merge",
    "tasks": "nsllm_lite.evals.instruct_files:make_tasks",
    "crystals": "nsllm_lite.evals.crystal_files:make_crystals",
    "sft": "nsllm_lite.train.sft:sft",
    "eval": "nsllm_lite.evals.evaluate:evaluate",
    "report": "nsllm_lite.evals.report:report",
    "stages": "nsllm_lite.evals.stages:stages",
    "ladder": "nsllm_lite.evals.ladder:ladder",
}
"""The function behind each kind of step (`recipe.kinds`); it is given the recipe."""

FIND_LR = "nsllm_lite.train.find_lr:find_lr"  # of a training's recipe, in place of the training

TOOLS = {
    "plan": ("nsllm_lite.commands.stories:plan_run", None),
    "audit": ("nsllm_lite.evals.audit:audit", ("files", "out")),
    "doctor": ("nsllm_lite.commands.doctor:doctor", ()),
    "runs": ("nsllm_lite.commands.show:list_runs", ("folder",)),
    "show": ("nsllm_lite.commands.show:show", ("run", "out", "html")),
    "init": ("nsllm_lite.commands.init:init", ("folder", "recipe")),
    "real-model": ("nsllm_lite.commands.real_model:real_model", ("name", "out")),
    "completion": ("nsllm_lite.commands.arguments:print_completion", ("shell",)),
}
"""The function behind each verb without a recipe, and the words it is given (None: all that was parsed)."""

STORIES = {
    **dict.fromkeys(("phase1", "phase2", "two-phase", "eval-run", "instruct"), "nsllm_lite.commands.stories:story"),
    "encoder": "nsllm_lite.commands.encoder_run:story",
    "materials": "nsllm_lite.commands.materials_run:story",
    "ladder": "nsllm_lite.commands.ladder:story",  # of which the step of that kind is the last
}
"""The function that gives the steps of each story, one after the other as they are run."""

DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 wrong input (nothing lost), 3 the run stopped itself, more as `interrupts.Stop` says. With
    --json all that a verb prints goes to stderr, and what it returns to stdout, as one object."""
    terminal.print_all_letters()
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = parse(argv)
    except UserError as error:
        complain(argv[0], error)
        return 2
    as_json = getattr(args, "json", False)
    call = run_story if args.verb in STORIES else run_tool if args.verb in TOOLS else run_recipe
    try:
        with interrupts.listening(getattr(args, "max_hours", None), getattr(args, "save_on_signal", None)):
            require_alone(args.verb)
            with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
                results = call(args)
            if as_json:
                print(terminal.as_json(without_nan(results)))
            if args.verb == "doctor" and results["failed"]:
                found = f"{', '.join(results['failed'])}: not right on this machine."
                raise RunError("doctor-checks-failed", found, "See the table above.")
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ValueError as error:
        complain(args.verb, error)
        return 2
    except OSError as error:  # a file or folder that is absent, locked or no such thing; a disk that is full or broken
        complain(args.verb, disk_full("the output", error) if error.errno in (errno.ENOSPC, errno.EDQUOT) else error)
        return 3 if error.errno in DISK_ERRNOS else 2
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":
            error = out_of_memory(error)
        elif type(error) not in (RunError, RuntimeError):
            raise
        complain(args.verb, error)
        return 3
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        found = "torch is not installed. This verb needs it (corpus and audit do not)."
        complain(args.verb, UserError("torch-missing", found, "Install it: pip install 'torch>=2.10'"))
        return 2
    except interrupts.Stop as stopped:
        print(f"nsllm-lite {args.verb}: {stopped}; the same command continues", file=sys.stderr)
        return stopped.status
    return 0


def run_story(args: argparse.Namespace) -> None:
    """The steps of a story, in order; each skips itself when it is finished."""
    for recipe in resolve_name(STORIES[args.verb])(args):
        print(f"\n== {recipe.out}", flush=True)
        run_step(recipe)


def run_recipe(args: argparse.Namespace) -> dict[str, Any]:
    """One step, from its recipe."""
    from nsllm_lite.commands.typed import recipe_of

    recipe = recipe_of(args)
    if getattr(args, "find_lr", False):
        return find_lr(args, recipe)
    return run_merge(args, recipe) if args.verb == "merge" else run_step(recipe)


def find_lr(args: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """A learning-rate range test beside the folder of the training. Raises UserError where it was asked to save."""
    if args.save_on_signal:
        todo = "Leave --save-on-signal out."
        raise UserError("find-lr-saves-nothing", "--find-lr makes no checkpoint that a signal could ask for.", todo)
    require_alone("train --find-lr")
    return run_step(recipe.model_copy(update={"out": f"{recipe.out.rstrip('/')}-find-lr"}), FIND_LR)


def run_merge(args: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """The merge; with --compare only the comparison, with --push-to-hub also the upload."""
    if args.push_to_hub:
        from nsllm_lite.merge.push import push, require_push

        require_push(args.push_to_hub, bool(args.compare))
    if args.compare:
        from nsllm_lite.merge.compare import compare_only

        return compare_only(recipe)
    results = run_step(recipe)
    if args.push_to_hub:
        results = {**results, "sent_to": push(Path(recipe.out), args.push_to_hub)}
        print(f"Sent to {results['sent_to']}")
    return results


def run_tool(args: argparse.Namespace) -> Any:
    name, words = TOOLS[args.verb]
    return resolve_name(name)(*([args] if words is None else [getattr(args, word) for word in words]))


def run_step(recipe: Recipe, function: str = "") -> dict[str, Any]:
    """Runs a recipe, holding the lock of its folder; again with a leaner execution where the card runs out.

    Raises UserError where another process holds the lock, RunError where the disk is full.
    """
    verb = resolve_name(function or VERBS[recipe.kind])
    alone = lock.held(Path(recipe.out)) if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext()
    try:
        with alone:
            while True:
                try:
                    return verb(recipe)
                except RunError as error:
                    if not (leaner := getattr(error, "leaner", None)):
                        raise
                    print(error)
                    recipe = leaner
                gc.collect()  # what the first try held on the card
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise disk_full(recipe.out, error) from None


def complain(verb: str, error: Exception) -> None:
    """Escapes control characters: the message may quote untrusted text."""
    code = f" [{error.code}]" if isinstance(error, UserError | RunError) else ""
    print(f"nsllm-lite {verb}: {printable(str(error))}{code}", file=sys.stderr)


def out_of_memory(error: Exception) -> RunError:
    found = f"the card ran out of memory ({error}). The run continues from its last checkpoint."
    todo = "Close what else uses the card (nvidia-smi), or request the leanest execution:\n"
    todo += '  execution.micro_batch_rows=1 execution.recompute_layers=999   (with make: SET="phase1.execution....")'
    return RunError("card-out-of-memory", found, todo)


def disk_full(writing: str, error: Exception) -> RunError:
    found = f"The disk is full while writing {writing} ({error}). What was finished is kept."
    return RunError("disk-full", found, "Free some space and run the same command again.")


def require_alone(verb: str) -> None:
    """Raises UserError where `accelerate launch` or torchrun started several processes of what one does."""
    if verb != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        found = f"{verb} was started in several processes; only training is "
        found += "(accelerate launch -m nsllm_lite.cli train)."
        raise UserError("verb-not-distributed", found, "Run this verb once, without a launcher.")


def without_nan(value: Any) -> Any:
    """`value` with null where a number is not finite: JSON knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def leave(status: int) -> None:
    """With several processes exit by os._exit: gloo's threads can abort a normal shutdown."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main())
