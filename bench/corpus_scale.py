"""`nsllm-lite corpus` on synthetic abstracts: documents/s by stage, peak memory, and what grows with the corpus.

    python bench/corpus_scale.py [NUM ...] [--workers N] [--tokenizer DIR]

Each NUM (default 100000 1000000) is built in a fresh process. Abstracts, with authors, date, DOI and venue, have 40 to
300 words, drawn from a Zipf distribution over 60,000 words that are made up but for ten, in one JSON-lines file as the
arXiv snapshot is; one in twenty repeats an earlier one with a few words changed.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def write_abstracts(path: Path, num: int) -> None:
    rng, stated = np.random.default_rng(1), np.random.default_rng(2)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(letters[rng.integers(0, 26, rng.integers(2, 12))]) for _ in range(60_000)])
    words[:10] = ["the", "of", "and", "to", "in", "is", "that", "we", "for", "with"]  # so that it passes for English
    earlier: list[list[str]] = []
    with open(path, "w", encoding="utf-8") as file:
        for number in range(num):
            if earlier and number % 20 == 0:
                text = list(earlier[rng.integers(len(earlier))])
                text[rng.integers(len(text))] = "changed"
            else:
                text = words[np.minimum(rng.zipf(1.25, rng.integers(40, 300)) - 1, 59_999)].tolist()
                if len(earlier) < 1000:
                    earlier.append(text)
            title = " ".join(words[rng.integers(0, 60_000, 8)])
            record = {
                "id": f"{number // 100_000:04}.{number % 100_000:05}",
                "title": title,
                "categories": "cs.CL cs.IR",
            }
            names = words[stated.integers(0, 60_000, 2 * stated.integers(1, 9))].tolist()
            record["authors_parsed"] = [
                [family, given, ""] for family, given in zip(names[::2], names[1::2], strict=True)
            ]
            record |= {"doi": f"10.1000/{number}", "journal-ref": f"J. {names[0]} {number % 90}, 12 (2019)"}
            record["update_date"] = f"20{number % 25:02}-0{number % 9 + 1}-11"
            file.write(json.dumps({**record, "abstract": " ".join(text)}) + "\n")


def recipe_of(folder: Path, workers: int, tokenizer: str | None) -> dict:
    return {
        "kind": "corpus",
        "out": str(folder / "out"),
        "sources": [{"name": "synthetic", "path": str(folder / "abstracts.json")}],
        "general": [],
        **({"tokenizer": tokenizer} if tokenizer else {"train_tokenizer": {"vocab_size": 400}}),
        "end_of_text": "<|endoftext|>",
        "row_tokens": 4096,
        "heldout": {"share": 0.01, "general_share": 0.01, "max_papers": 400, "seed": 0},
        "near_duplicate_jaccard": 0.8,
        "languages": [],
        "decontaminate": [],
        "balance": "none",
        "min_chars": 100,
        "max_drop_share": 1.0,
        "execution": {"workers": workers},
    }


def run_one(folder: Path, workers: int, tokenizer: str | None) -> dict:
    """Builds in this process, timing the stages and noting the peak memory at the end of each."""
    from nsllm_lite.corpus import build, shards
    from nsllm_lite.recipe import load as recipes

    stages: dict[str, dict] = {}

    def timed(place: object, name: str) -> None:
        inner = getattr(place, name)

        def call(*args: object) -> object:
            started = time.perf_counter()
            result = inner(*args)
            what = args[0].what if name == "run_stage" else name.strip("_")
            stages[what] = {"seconds": time.perf_counter() - started, "peak_mib": peak_mib()}
            return result

        setattr(place, name, call)

    timed(shards, "run_stage")
    for name in ("choose_at_once", "prepare_packing", "_finish"):
        timed(build, name)
    started = time.perf_counter()
    results = build.build(recipes.validate(recipe_of(folder, workers, tokenizer), "bench"))
    stages["all"] = {"seconds": time.perf_counter() - started, "peak_mib": peak_mib()}
    counts = results["documents"]["synthetic"]
    return {
        "stages": stages,
        "in": counts["in"],
        "duplicate": counts["duplicate"],
        "rows": results["rows"]["phase1/train"],
    }


def peak_mib() -> float:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("num", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokenizer", help="folder of the tokenizer (default: a small one is trained)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        print("\n" + json.dumps(run_one(args.folder, args.workers, args.tokenizer)))
        return
    for num in args.num:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_abstracts(folder / "abstracts.json", num)
            mb = (folder / "abstracts.json").stat().st_size / 1e6
            command = [sys.executable, __file__, "--folder", name, "--workers", str(args.workers)]
            command += ["--tokenizer", args.tokenizer] if args.tokenizer else []
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            result = json.loads(printed.splitlines()[-1])
            print(f"{num:,} abstracts, {mb:,.0f} MB, {args.workers} workers: {result['duplicate']:,} duplicates")
            for stage, it in result["stages"].items():
                speed, peak = num / it["seconds"], it["peak_mib"]
                print(f"  {stage:<16} {it['seconds']:8.1f} s {speed:10,.0f} docs/s  peak {peak:,.0f} MiB")
            print(f"  rows: {result['rows']['tokens']:,} tokens, fill {result['rows']['fill']}", flush=True)


if __name__ == "__main__":
    main()
