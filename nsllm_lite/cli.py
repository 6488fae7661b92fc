"""The door: `nsllm-lite VERB ...`. Parses, loads the recipe, calls one function; heavy imports wait for their verb."""

import argparse
import contextlib
import errno
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsllm_lite.artifact import interrupts
from nsllm_lite.commands.arguments import CHAIN_VERBS, RECIPE_VERBS, build_parser, print_completion
from nsllm_lite.errors import RunError, UserError

if TYPE_CHECKING:
    from nsllm_lite.commands.stories import Chain
    from nsllm_lite.recipe.kinds import Recipe

OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 wrong input (nothing lost), 3 the run stopped itself, more as `stop.Stop` says."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        with interrupts.listening(getattr(args, "max_hours", None), getattr(args, "save_on_signal", None)):
            require_alone(args.verb)
            call(args)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ValueError as error:
        complain(args.verb, error)
        return 2
    except OSError as error:  # a file or folder that is absent, locked or no such thing; a disk that is full or broken
        complain(args.verb, disk_full("the output", error) if error.errno in (errno.ENOSPC, errno.EDQUOT) else error)
        return 3 if error.errno in OF_THE_DISK else 2
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
        complain(args.verb, no_torch())
        return 2
    except interrupts.Stop as stopped:
        print(f"nsllm-lite {args.verb}: {stopped}; the same command continues", file=sys.stderr)
        return stopped.status
    return 0


def complain(verb: str, error: Exception) -> None:
    """An error may quote what a corpus or a model contains, which is not to command the terminal."""
    from nsllm_lite.safety import printable

    code = f" [{error.code}]" if isinstance(error, UserError | RunError) else ""
    print(f"nsllm-lite {verb}: {printable(str(error))}{code}", file=sys.stderr)


def out_of_memory(error: Exception) -> RunError:
    return RunError(
        "card-out-of-memory",
        f"the card ran out of memory ({error}). The run continues from its last checkpoint.",
        "Close what else uses the card (nvidia-smi), or request the leanest execution:\n"
        '  execution.micro_batch_rows=1 execution.recompute_layers=999   (with make: SET="phase1.execution....")',
    )


def disk_full(writing: str, error: Exception) -> RunError:
    found = f"The disk is full while writing {writing} ({error}). What was finished is kept."
    return RunError("disk-full", found, "Free some space and run the same command again.")


def no_torch() -> UserError:
    found = "torch is not installed. This verb needs it (corpus and audit do not)."
    return UserError("torch-missing", found, "Install it: pip install 'torch>=2.10'")


def call(args: argparse.Namespace) -> None:
    """Calls the verb; with --json all it prints goes to stderr, and what it returns to stdout, as one object."""
    if not getattr(args, "json", False):
        found = CALLS[args.verb](args)
    else:
        with contextlib.redirect_stdout(sys.stderr):
            found = CALLS[args.verb](args)
        print(json.dumps(without_nan(found), ensure_ascii=False, allow_nan=False))
    if args.verb == "doctor" and found["failed"]:
        failed = ", ".join(found["failed"])
        raise RunError("doctor-checks-failed", f"{failed}: not right on this machine.", "See the table above.")


def without_nan(value: Any) -> Any:
    """`value` with null where a number is not finite: JSON knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def require_alone(verb: str) -> None:
    """Raises UserError where `accelerate launch` or torchrun started several processes of what one does."""
    if verb != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "verb-not-distributed",
            f"{verb} was started by a launcher of several processes, which only training uses "
            "(accelerate launch -m nsllm_lite.cli train RECIPE).",
            "Run this verb once, without a launcher.",
        )


def run_recipe(args: argparse.Namespace) -> dict:
    from nsllm_lite.commands.init import located
    from nsllm_lite.recipe import load as recipes

    recipe = recipes.load(located(args.recipe), args.overrides)
    if recipe.kind != args.verb:
        raise other_kind(args.recipe, recipe)
    return call_verb(recipe)


def other_kind(path: str | Path, recipe: "Recipe") -> UserError:
    kind = recipe.kind
    return UserError("recipe-of-other-kind", f"{path} is a recipe of kind {kind}:", f"run `nsllm-lite {kind}`.")


def run_merge(args: argparse.Namespace) -> dict:
    from nsllm_lite.commands.init import located
    from nsllm_lite.recipe import load as recipes

    words = ("base", "out", "base_weights", "then_requantize", "heldout_rows", "max_rows", "dtype", "trust_base")
    given = {word: getattr(args, word) for word in words if getattr(args, word) is not None}
    if args.shard_bytes is not None:
        given["shard_bytes"] = int(args.shard_bytes)
    if args.adapter:
        pairs = [parse_adapter(word) for word in args.adapter]
        given["adapter"] = pairs[0]["path"] if len(pairs) == 1 and pairs[0]["weight"] == 1 else pairs
    if args.compare:
        given.setdefault("out", "nowhere")
    if args.recipe:
        recipe = recipes.load(located(args.recipe), args.overrides)
        recipe = recipes.update(recipe, **given) if given else recipe
    else:
        defaults = {"kind": "merge", "base_weights": "original", "then_requantize": False, "shard_bytes": 5 * 10**9}
        recipe = recipes.validate({**defaults, **given}, "nsllm-lite merge: --base, --adapter and --out")
    if args.verify:
        recipe = recipes.update(recipe, execution={**recipe.execution.model_dump(), "verify": True})
    if args.push_to_hub:
        from nsllm_lite.merge.push import push, require_push

        require_push(args.push_to_hub, bool(args.compare))
    if not args.compare:
        results = call_verb(recipe)
        if args.push_to_hub:
            results = {**results, "sent_to": push(Path(recipe.out), args.push_to_hub)}
            print(f"Sent to {results['sent_to']}")
        return results
    from nsllm_lite.merge.compare import compare_only

    return compare_only(recipe)


def parse_adapter(word: str) -> dict:
    """DIR or DIR:WEIGHT; a colon that no number follows belongs to the path."""
    path, colon, weight = word.rpartition(":")
    try:
        return {"path": path, "weight": float(weight)} if colon else {"path": word, "weight": 1.0}
    except ValueError:
        return {"path": word, "weight": 1.0}


def run_audit(args: argparse.Namespace) -> dict:
    from nsllm_lite.evals.audit import audit

    return audit(args.files, args.out)


def run_eval(args: argparse.Namespace) -> dict:
    """Recipe and overrides, or models by name with words of their own."""
    from nsllm_lite.commands.init import located
    from nsllm_lite.recipe import load as recipes

    first, *others = args.models
    if first.endswith((".yaml", ".yml")):
        recipe = recipes.load(located(Path(first)), others)
        if recipe.kind != "eval":
            raise other_kind(first, recipe)
    else:
        values = {"kind": "eval", "out": args.out or "runs/eval", "seed": args.seed or 0, "tasks": "bundled"}
        values["models"] = [{"name": word.rstrip("/"), "path": word} for word in args.models]
        recipe = recipes.validate(values, "nsllm-lite eval")
    given = {name: getattr(args, name) for name in ("out", "tasks", "max_items", "encoder", "seed")}
    given = {name: value for name, value in given.items() if value is not None}
    if args.file:
        files = [parse_task_file(word) for word in args.file]
        given |= {"files": files} | ({} if args.tasks or first.endswith(".yaml") else {"tasks": None})
    if args.backend:
        given["execution"] = {**recipe.execution.model_dump(), "backend": args.backend}
    return call_verb(recipes.update(recipe, **given) if given else recipe)


def parse_task_file(word: str) -> dict:
    """TASK=PATH as an entry of a recipe's `files`, named by its file."""
    task, equals, path = word.partition("=")
    if not equals or not path:
        todo = "Write it like --file multiple_choice=MMLU-stem.json"
        raise UserError("task-file-form", f"--file {word}", "needs a task and a path.", todo)
    return {"name": Path(path).stem, "task": task, "path": path}


def run_doctor(args: argparse.Namespace) -> dict:
    from nsllm_lite.commands.doctor import doctor

    return doctor()


def run_runs(args: argparse.Namespace) -> dict:
    from nsllm_lite.commands.show import list_runs

    return list_runs(args.folder)


def run_show(args: argparse.Namespace) -> dict:
    from nsllm_lite.commands.show import show

    return show(args.run, args.out, args.html)


def run_init(args: argparse.Namespace) -> None:
    from nsllm_lite.commands.init import init

    init(args.folder, args.recipe)


def call_verb(recipe: "Recipe") -> dict:
    """Runs a recipe, while nobody else writes into its folder.

    Raises:
        UserError: somebody does.
        RunError: the disk is full.
    """
    from nsllm_lite.artifact import lock
    from nsllm_lite.artifact.disk import is_disk_full

    alone = lock.held(Path(recipe.out)) if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext()
    try:
        with alone:
            return verb_of(recipe)
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise disk_full(recipe.out, error) from None


def verb_of(recipe: "Recipe") -> dict:
    """The one function behind each kind of recipe."""
    match recipe.kind:
        case "corpus":
            from nsllm_lite.corpus.build import build

            return build(recipe)
        case "train":
            from nsllm_lite.train.cpt import train

            return train(recipe)
        case "merge":
            from nsllm_lite.merge.write_model import merge

            return merge(recipe)
        case "report":
            from nsllm_lite.evals.report import report

            return report(recipe)
        case "tasks":
            from nsllm_lite.evals.instruct_files import make_tasks

            return make_tasks(recipe)
        case "sft":
            from nsllm_lite.train.sft import sft

            return sft(recipe)
        case "eval":
            from nsllm_lite.evals.evaluate import evaluate

            return evaluate(recipe)
    raise AssertionError(recipe.kind)


def run_chain(args: argparse.Namespace) -> dict | None:
    """The steps of a phase, in order; each skips itself when it is finished."""
    from nsllm_lite.commands.plan import plan
    from nsllm_lite.commands.stories import load_chain, without_bfloat16
    from nsllm_lite.models.device import find_device, has_bfloat16

    if args.verb == "plan" and args.overrides and "=" not in args.overrides[0]:
        asked = Path(args.overrides.pop(0))
        args.recipes = asked.parent if asked.suffix == ".yaml" else asked
    folder, size, why = pick_recipes(args)
    overrides: dict[str, list[str]] = {}
    for word in args.overrides:
        step, _, rest = word.partition(".")
        overrides.setdefault(step, []).append(rest)
    chain = load_chain(folder, args.corpus, args.general, args.model, args.out, overrides, size)
    if not getattr(args, "vram", None) and not has_bfloat16(find_device(chain.phase1.execution.device)[0]):
        chain = without_bfloat16(chain)
    if args.verb == "phase2" and not (Path(chain.phase2.model) / "manifest.json").is_file():
        raise UserError(
            "model1-missing",
            f"Phase 2 starts from phase 1's merged model, and {chain.phase2.model} is not there.",
            "Run phase 1 first (`make phase1` with the same CORPUS, MODEL, SIZE, RECIPES and OUT), or both with "
            "`make two-phase`.",
        )
    is_after = args.verb in ("eval-run", "instruct")
    if is_after:
        require_model2(chain)
    if args.verb == "plan":
        return plan(chain, why, False, args.vram, args.all, args.price)
    if not args.only and not is_after:
        plan(chain, why)
    steps = [chain.tasks] if is_after else [chain.corpus]
    if args.verb in ("phase1", "two-phase"):
        steps += [chain.base] if chain.base else []
        steps += [chain.phase1, chain.merge1]
    if args.verb in ("phase2", "two-phase"):
        steps += [chain.phase2, chain.merge2]
    if args.verb == "two-phase":
        steps += [chain.report]
    if args.verb == "eval-run":
        steps += [chain.eval]
    if args.verb == "instruct":
        steps += [chain.sft, chain.merge_sft, chain.eval_sft]
    steps = [recipe for recipe in steps if args.only in (None, recipe.kind)]
    if not steps:
        raise UserError(
            "only-matches-no-step",
            f"--only {args.only}: {args.verb} has no step of that kind;",
            "use two-phase, which has them all.",
        )
    for recipe in steps:
        print(f"\n== {recipe.out}", flush=True)
        call_verb(recipe)
    if args.only:
        return None
    print(f"\nDone: {steps[-1].out}")
    if args.verb == "phase1":
        given = {name: getattr(args, name) for name in ("corpus", "general", "model", "size", "recipes", "out")}
        print(f"Next: {command('phase2', {name: value for name, value in given.items() if value})}")
    if not args.corpus:
        print(real_command())
    return None


def require_model2(chain: "Chain") -> None:
    """Raises UserError where there is nothing to score or tune, or no recipe to do it with."""
    if chain.sft is None:
        raise UserError(
            "tuning-recipes-missing",
            f"No tasks.yaml, eval.yaml and sft.yaml in {chain.folder}.",
            "Scores and instruction tuning need them:",
            "copy those of recipes/nano and set their values.",
        )
    if not (Path(chain.sft.model) / "manifest.json").is_file():
        raise UserError(
            "model2-missing",
            f"This starts from phase 2's merged model, and {chain.sft.model} is not there.",
            "Run both phases first: `make two-phase` with the same CORPUS, MODEL, SIZE, RECIPES and OUT.",
        )


def pick_recipes(args: argparse.Namespace) -> tuple[Path, str | None, str]:
    """Recipe folder (here, or as installed), size and why: as asked, nano without a corpus, else by the card."""
    from nsllm_lite.artifact.disk import GIB
    from nsllm_lite.commands.init import located
    from nsllm_lite.commands.recipe_folder import choose_size, pick_size
    from nsllm_lite.models.device import find_device
    from nsllm_lite.models.sizes import QWEN3, REFERENCE, SIZED

    asked = Path(args.recipes or f"recipes/{SIZED if args.corpus or args.size else 'nano'}")
    folder, size = pick_size(asked, args.size, args.model)
    folder = located(folder)
    if folder.name != SIZED:
        nano = "nano: a Qwen3-shaped model of a few million parameters, made here on the CPU"
        return folder, None, f"{args.model or asked} (as asked)" if args.recipes else nano
    if size:
        return folder, size, f"{args.model or QWEN3[size][0]} (as asked)"
    vram_gib = getattr(args, "vram", None)
    card_bytes = int(vram_gib * GIB) if vram_gib else find_device()[1]
    if not card_bytes and (args.recipes or args.only == "corpus"):
        model = args.model or QWEN3[REFERENCE][0]
        return folder, REFERENCE, f"{model} (with the recipes of {REFERENCE}, as no card is here to choose by)"
    size, why = choose_size(card_bytes / GIB if card_bytes else None)
    return folder, size, f"{args.model} (as asked, with the recipes of {size})" if args.model else why


def command(verb: str, given: dict[str, str]) -> str:
    """What to type: with make where its file is, else without."""
    if Path("Makefile").is_file():
        return f"make {verb}" + "".join(f" {name.upper()}={value}" for name, value in given.items())
    return f"nsllm-lite {verb}" + "".join(f" --{name} {value}" for name, value in given.items())


def real_command() -> str:
    """The exact command of the real run on the card of this machine."""
    from nsllm_lite.artifact.disk import GIB
    from nsllm_lite.commands.recipe_folder import choose_size
    from nsllm_lite.models.device import find_device

    words = command("phase1", {"corpus": "path/to/your/papers"})
    try:
        _, card_bytes, card = find_device()
        _, why = choose_size(card_bytes / GIB if card_bytes else None)
    except ValueError:
        return (
            "The real run: no NVIDIA card that can do it is visible here. On a machine with one (22 GiB or more for "
            f"Qwen3-8B-Base):\n  {words}"
        )
    return f"The real run on this {card}: {why}\n  {words}"


CALLS: dict[str, Callable[[argparse.Namespace], Any]] = {
    **dict.fromkeys(CHAIN_VERBS, run_chain),
    **dict.fromkeys(RECIPE_VERBS, run_recipe),
    "merge": run_merge,
    "eval": run_eval,
    "audit": run_audit,
    "doctor": run_doctor,
    "runs": run_runs,
    "show": run_show,
    "init": run_init,
    "completion": lambda args: print_completion(args.shell),
}


def leave(status: int) -> None:
    """Ends the process. One of several ends at once: gloo's threads, taken down with it, abort it now and then."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main())
