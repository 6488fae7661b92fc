"""The door: `nsllm-lite VERB ...`. Parses, loads the recipe, calls one function; heavy imports wait for their verb."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nsllm_lite import __version__

if TYPE_CHECKING:
    from nsllm_lite.chain import Chain
    from nsllm_lite.recipe import Recipe

EXAMPLES = """examples:
  nsllm-lite phase1                                   the tiny CPU run: corpus, base, phase 1, merge
  nsllm-lite phase1 --corpus papers/                  the real run, model chosen by the card
  nsllm-lite train recipes/nano/phase1.yaml budget.steps=50 budget.tokens=102400
  nsllm-lite merge --base DIR --adapter DIR --out DIR
"""

OUT_OF_MEMORY = """the card ran out of memory. Close what else uses it (nvidia-smi), or ask for the leanest execution:
  execution.micro_batch_rows=1 execution.recompute_layers=999   (with make: SET="phase1.execution....")
The run continues from its last checkpoint."""


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 wrong input (nothing lost), 3 the run stopped itself, 130 interrupted."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        require_alone(args.verb)
        args.call(args)
    except ValueError as error:
        print(f"nsllm-lite {args.verb}: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":
            print(f"nsllm-lite {args.verb}: {OUT_OF_MEMORY}\n({error})", file=sys.stderr)
        elif type(error) is RuntimeError:
            print(f"nsllm-lite {args.verb}: {error}", file=sys.stderr)
        else:
            raise
        return 3
    except KeyboardInterrupt:
        print(f"nsllm-lite {args.verb}: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nsllm-lite",
        description="Adapt an open LLM to natural science by two-phase continued pretraining on one GPU.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nsllm-lite {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, call: Callable[[argparse.Namespace], object], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(call=call)
        return added

    def recipe_verb(name: str, text: str) -> None:
        added = verb(name, run_recipe, text)
        added.add_argument("recipe", type=Path, help=f"a recipe of kind {name}, e.g. recipes/nano/{name}.yaml")
        added.add_argument("overrides", nargs="*", metavar="key=value", help="recipe values to change, dotted keys")

    def chain_verb(name: str, text: str) -> argparse.ArgumentParser:
        added = verb(name, run_chain, text)
        added.add_argument("--corpus", metavar="PATH", help="your papers: a file or folder (default: bundled sample)")
        added.add_argument("--general", metavar="PATH", help="general text for replay and the forgetting control")
        added.add_argument("--model", metavar="ID", help="base model: a folder or hub id (default: the recipes' own)")
        added.add_argument("--recipes", metavar="DIR", help="recipe folder (default: by the card; nano without corpus)")
        added.add_argument("--out", metavar="DIR", help="folder of the run (default: runs/NAME)")
        kinds = ("corpus", "train", "merge", "report", "tasks", "sft", "eval")
        added.add_argument("--only", choices=kinds, help="of the run's steps, only those of this kind")
        added.add_argument(
            "overrides", nargs="*", metavar="step.key=value", help="e.g. phase1.budget.steps=50, corpus.min_chars=100"
        )
        return added

    chain_verb("phase1", "corpus, phase 1 on titles and abstracts, merge: dumps -> model 1")
    chain_verb("phase2", "phase 2 on experimental sections from model 1, merge: -> model 2")
    chain_verb("two-phase", "both phases and the report")
    chain_verb("eval-run", "scores of the run's models on its tasks: base, phase 1, phase 2, merged and adapter")
    chain_verb("instruct", "instruction tuning of model 2 on the tasks' training items, merge, scores: -> model-sft")
    planning = chain_verb("plan", "print the model, memory, disk, download and tokens of a run; start nothing")
    planning.add_argument(
        "--vram", type=float, metavar="GIB", help="plan for a card of so much memory, not for this one"
    )
    planning.epilog = "A recipe or its folder may stand first: nsllm-lite plan recipes/qwen3-8b --vram 24 --all"
    planning.add_argument("--all", action="store_true", help="list the other ways to run a step as well")
    planning.add_argument("--price", type=float, metavar="X", help="of an hour of the card: adds what the run costs")
    recipe_verb("corpus", "papers -> clean documents -> packed rows, with a ledger")
    recipe_verb("train", "packed rows -> LoRA adapter (or a model, with adapter: none)")
    merge_verb(verb("merge", run_merge, "base + adapter -> an ordinary model folder, streamed"))
    verb("doctor", run_doctor, "does this machine train and merge right? Checks on a tiny model, under two minutes")
    auditing = verb("audit", run_audit, "what is wrong with evaluation or instruction files {input, output}")
    auditing.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a JSON list, or JSON lines")
    auditing.add_argument("--out", type=Path, metavar="JSON", help="write everything with its row numbers")
    recipe_verb("tasks", "instruction files of the tasks from a corpus: held-out papers to test, the others to train")
    recipe_verb("sft", "instruction tuning: records {instruction, input, output} or chats -> LoRA adapter")
    evaluating = verb("eval", run_eval, "scores of models on tasks, with intervals, floors, table and pictures")
    evaluating.add_argument("models", nargs="+", metavar="MODEL", help="model or adapter folders, hub ids; or a recipe")
    evaluating.add_argument("--tasks", metavar="DIR", help="a folder of `nsllm-lite tasks` (default: bundled)")
    evaluating.add_argument(
        "--file", action="append", metavar="TASK=PATH",
        help="records {instruction, input, output} of your own, asked as classification, moves, title, paper_title, "
        "multiple_choice or open; several are possible",
    )  # fmt: skip
    evaluating.add_argument("--out", metavar="DIR", help="folder to write (runs/eval)")
    evaluating.add_argument("--max-items", type=int, metavar="N", help="at most so many items of each task")
    evaluating.add_argument("--encoder", metavar="DIR", help="a local encoder: adds BERTScore to titles")
    evaluating.add_argument("--seed", type=int, metavar="N", help="of examples and intervals (0)")
    evaluating.add_argument("--backend", choices=("transformers", "vllm"), help="vllm: where it is installed")
    recipe_verb("report", "held-out losses of base, phase 1 and phase 2, as table and picture")
    return parser


def require_alone(verb: str) -> None:
    """Raises ValueError where `accelerate launch` or torchrun started several processes of what one does."""
    if verb != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "Only training is done by several processes: accelerate launch -m nsllm_lite.cli train RECIPE. Run this "
            "verb once, without a launcher."
        )


def merge_verb(added: argparse.ArgumentParser) -> None:
    """Merge is used by hand more than the others, so that its recipe's values have words of their own."""
    added.add_argument("recipe", nargs="?", type=Path, help="a recipe of kind merge (or give the three folders)")
    added.add_argument("overrides", nargs="*", metavar="key=value", help=argparse.SUPPRESS)
    added.add_argument("--base", metavar="DIR", help="model folder or hub id")
    added.add_argument(
        "--adapter", action="append", metavar="DIR[:WEIGHT]", help="LoRA adapter folder; several are merged in turn"
    )
    added.add_argument("--out", metavar="DIR", help="folder to write")
    added.add_argument("--base-weights", choices=("original", "dequantized", "auto"), help="see --compare (original)")
    added.add_argument("--then-requantize", action="store_true", default=None, help="NF4 training will follow")
    added.add_argument("--heldout-rows", metavar="DIR", help="packed rows that auto and --compare score on")
    added.add_argument("--max-rows", type=int, metavar="N", help="at most so many of them (64)")
    added.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="of the result (the base's own)")
    added.add_argument("--shard-bytes", type=float, metavar="N", help="largest shard, e.g. 5e9 (5e9)")
    added.add_argument("--trust-base", action="store_true", default=None, help="the adapter may name another base")
    added.add_argument("--verify", action="store_true", help="load the result and compare it with base + adapter")
    added.add_argument("--compare", action="store_true", help="print what each base would give; write nothing")


def run_recipe(args: argparse.Namespace) -> None:
    from nsllm_lite import recipe as recipes

    recipe = recipes.load(args.recipe, args.overrides)
    if recipe.kind != args.verb:
        raise ValueError(f"{args.recipe} is a recipe of kind {recipe.kind}: run `nsllm-lite {recipe.kind}` with it.")
    call_verb(recipe)


def run_merge(args: argparse.Namespace) -> None:
    from nsllm_lite import recipe as recipes

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
        recipe = recipes.load(args.recipe, args.overrides)
        recipe = recipes.update(recipe, **given) if given else recipe
    else:
        defaults = {"kind": "merge", "base_weights": "original", "then_requantize": False, "shard_bytes": 5 * 10**9}
        recipe = recipes.validate({**defaults, **given}, "nsllm-lite merge: --base, --adapter and --out")
    if args.verify:
        recipe = recipes.update(recipe, execution={**recipe.execution.model_dump(), "verify": True})
    if not args.compare:
        call_verb(recipe)
        return
    from nsllm_lite.merge.compare import compare_only

    compare_only(recipe)


def parse_adapter(word: str) -> dict:
    """DIR or DIR:WEIGHT; a colon that no number follows belongs to the path."""
    path, colon, weight = word.rpartition(":")
    try:
        return {"path": path, "weight": float(weight)} if colon else {"path": word, "weight": 1.0}
    except ValueError:
        return {"path": word, "weight": 1.0}


def run_audit(args: argparse.Namespace) -> None:
    from nsllm_lite.evals.audit import audit

    audit(args.files, args.out)


def run_eval(args: argparse.Namespace) -> None:
    """Recipe and overrides, or models by name with words of their own."""
    from nsllm_lite import recipe as recipes
    from nsllm_lite.evals.evaluate import evaluate

    first, *others = args.models
    if first.endswith((".yaml", ".yml")):
        recipe = recipes.load(Path(first), others)
        if recipe.kind != "eval":
            raise ValueError(f"{first} is a recipe of kind {recipe.kind}: run `nsllm-lite {recipe.kind}` with it.")
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
    evaluate(recipes.update(recipe, **given) if given else recipe)


def parse_task_file(word: str) -> dict:
    """TASK=PATH as an entry of a recipe's `files`, named by its file."""
    task, equals, path = word.partition("=")
    if not equals or not path:
        raise ValueError(f"--file {word}: it needs a task and a path, as in --file multiple_choice=MMLU-stem.json")
    return {"name": Path(path).stem, "task": task, "path": path}


def run_doctor(args: argparse.Namespace) -> None:
    from nsllm_lite.doctor import doctor

    if not doctor():
        raise RuntimeError("something is not right on this machine; see the table above")


def call_verb(recipe: "Recipe") -> dict:
    """The one function behind each kind of recipe."""
    match recipe.kind:
        case "corpus":
            from nsllm_lite.corpus.build import build

            return build(recipe)
        case "train":
            from nsllm_lite.train.cpt import train

            return train(recipe)
        case "merge":
            from nsllm_lite.merge import merge

            return merge(recipe)
        case "report":
            from nsllm_lite.evals.report import report

            return report(recipe)
        case "tasks":
            from nsllm_lite.tasks.splits import make_tasks

            return make_tasks(recipe)
        case "sft":
            from nsllm_lite.train.sft import sft

            return sft(recipe)
        case "eval":
            from nsllm_lite.evals.evaluate import evaluate

            return evaluate(recipe)
    raise AssertionError(recipe.kind)


def run_chain(args: argparse.Namespace) -> None:
    """The steps of a phase, in order; each skips itself when it is finished."""
    from nsllm_lite.chain import load_chain, without_bfloat16
    from nsllm_lite.execution import find_device, has_bfloat16
    from nsllm_lite.plan import plan

    if args.verb == "plan" and args.overrides and "=" not in args.overrides[0]:
        asked = Path(args.overrides.pop(0))
        args.recipes = asked.parent if asked.suffix == ".yaml" else asked
    folder, why = pick_recipes(args)
    overrides: dict[str, list[str]] = {}
    for word in args.overrides:
        step, _, rest = word.partition(".")
        overrides.setdefault(step, []).append(rest)
    chain = load_chain(folder, args.corpus, args.general, args.model, args.out, overrides)
    if not getattr(args, "vram", None) and not has_bfloat16(find_device(chain.phase1.execution.device)[0]):
        chain = without_bfloat16(chain)
    if args.verb == "phase2" and not (Path(chain.phase2.model) / "manifest.json").is_file():
        raise ValueError(
            f"Phase 2 starts from phase 1's merged model, and {chain.phase2.model} is not there. Run phase 1 first "
            "(`make phase1` with the same CORPUS, MODEL, RECIPES and OUT), or both with `make two-phase`."
        )
    is_after = args.verb in ("eval-run", "instruct")
    if is_after:
        require_model2(chain)
    if args.verb == "plan":
        plan(chain, why, False, args.vram, args.all, args.price)
        return
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
        raise ValueError(f"--only {args.only}: {args.verb} has no step of that kind; two-phase has them all.")
    for recipe in steps:
        print(f"\n== {recipe.out}", flush=True)
        call_verb(recipe)
    if args.only:
        return
    print(f"\nDone: {steps[-1].out}")
    if args.verb == "phase1":
        print(f"Next: make phase2{make_words(args)}")
    if not args.corpus:
        print(real_command())


def require_model2(chain: "Chain") -> None:
    """Raises ValueError where there is nothing to score or tune, or no recipe to do it with."""
    if chain.sft is None:
        raise ValueError(
            f"No tasks.yaml, eval.yaml and sft.yaml in {chain.folder}. Scores and instruction tuning need them: copy "
            "those of recipes/nano and set their values."
        )
    if not (Path(chain.sft.model) / "manifest.json").is_file():
        raise ValueError(
            f"This starts from phase 2's merged model, and {chain.sft.model} is not there. Run both phases first: "
            "`make two-phase` with the same CORPUS, MODEL, RECIPES and OUT."
        )


def pick_recipes(args: argparse.Namespace) -> tuple[Path, str]:
    """The recipe folder and why: as asked, nano without a corpus, else by the card."""
    from nsllm_lite.chain import REFERENCE, choose_recipes
    from nsllm_lite.execution import find_device
    from nsllm_lite.run import GIB

    if args.recipes:
        return Path(args.recipes), f"{args.model or args.recipes} (as asked)"
    if not args.corpus:
        return Path("recipes/nano"), "nano: a Qwen3-shaped model of a few million parameters, made here on the CPU"
    vram_gib = getattr(args, "vram", None)
    card_bytes = int(vram_gib * GIB) if vram_gib else find_device()[1]
    if args.only == "corpus" and not card_bytes:
        return Path("recipes") / REFERENCE, "the reference: rows for Qwen3-8B-Base can be prepared without a card"
    folder, why = choose_recipes(card_bytes / GIB if card_bytes else None)
    return folder, f"{args.model} (as asked, with the recipe of {folder.name})" if args.model else why


def make_words(args: argparse.Namespace) -> str:
    """The make variables that name the same run again."""
    names = ("corpus", "general", "model", "recipes", "out")
    return "".join(f" {name.upper()}={getattr(args, name)}" for name in names if getattr(args, name))


def real_command() -> str:
    """The exact command of the real run on the card of this machine."""
    from nsllm_lite.chain import choose_recipes
    from nsllm_lite.execution import find_device
    from nsllm_lite.run import GIB

    try:
        _, card_bytes, card = find_device()
        _, why = choose_recipes(card_bytes / GIB if card_bytes else None)
    except ValueError:
        return (
            "The real run: no NVIDIA card that can do it is visible here. On a machine with one (22 GiB or more for "
            "Qwen3-8B-Base):\n  make phase1 CORPUS=path/to/your/papers"
        )
    return f"The real run on this {card}: {why}\n  make phase1 CORPUS=path/to/your/papers"


def leave(status: int) -> None:
    """Ends the process. One of several ends at once: gloo's threads, taken down with it, abort it now and then."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main())
