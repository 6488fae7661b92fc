"""CPU seconds of the corpus against an older checkout, in turns (A B A B ...): reading, and near-duplicates.

    python bench/corpus_speed.py OLD_CHECKOUT [DATA ...] [--rounds 5] [--num 20000]

`reading` is the whole first stage (reading, cleaning, filters, keys for duplicates, writing to disk) of the files in
each folder DATA. `near-duplicates` is words, shingles and band keys of NUM documents of corpus_dedup.py, and the search
until the list of duplicates is there. Each checkout has one process, both on the same core; a round that does not count
comes first. The times are CPU seconds, which other programs disturb less than those of a clock: the best of the rounds.
`times` is the median of the quotients of the rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent


def reading(folder: str, out: str) -> int:
    """Reads one folder; the number of documents."""
    from nsllm_lite.corpus import shards
    from nsllm_lite.corpus.ingest import ingest

    try:
        from nsllm_lite.recipe import load as recipes
        from nsllm_lite.recipe.corpus import Corpus  # noqa: F401 (tells the two layouts apart)
    except ImportError:
        from nsllm_lite import recipe as recipes
    values = {
        "kind": "corpus", "out": out, "sources": [{"name": "all", "path": folder}], "general": [], "end_of_text": "x",
        "train_tokenizer": {"vocab_size": 300}, "row_tokens": 4096, "near_duplicate_jaccard": 0.8,
        "heldout": {"share": 0, "general_share": 0, "max_papers": 1, "seed": 0}, "languages": ["en"],
        "decontaminate": [], "balance": "none", "min_chars": 200, "max_drop_share": 1,
    }  # fmt: skip
    recipe = recipes.validate(values, "bench")
    return sum(ingest(recipe, Path(out, "read"), task)["documents"] for task in shards.read_tasks(recipe))


def near_duplicates(documents: list[str]) -> int:
    """Searches the texts for near-duplicates; the number of texts."""
    import numpy as np
    from corpus_dedup import THRESHOLD, keys_of

    from nsllm_lite.corpus import dedup

    sets, same, bands = keys_of(documents)
    keys = {dedup.SAME_TEXT: same}
    dedup.find_duplicates(keys, bands, sets.__getitem__, np.arange(len(sets)), THRESHOLD)
    return len(documents)


def serve(num: int) -> None:
    """Answers each line of the input, a folder or nothing, with CPU seconds and a count."""
    from corpus_dedup import texts

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    documents = texts(num)[0]
    for line in sys.stdin:
        folder = json.loads(line)
        with tempfile.TemporaryDirectory() as out:
            started = time.process_time()
            count = reading(folder, out) if folder else near_duplicates(documents)
            seconds = time.process_time() - started
        print(json.dumps([seconds, count]), flush=True)


def compare(processes: list[subprocess.Popen], folder: str, rounds: int) -> tuple[list[list[float]], list[int]]:
    """The CPU seconds of each round and the last counts, by checkout."""
    seconds: list[list[float]] = [[], []]
    counts = [0, 0]
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            process = processes[which]
            process.stdin.write(json.dumps(folder) + "\n")
            process.stdin.flush()
            spent, counts[which] = json.loads(process.stdout.readline())
            if number:
                seconds[which].append(spent)
    return seconds, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("data", type=Path, nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num", type=int, default=20_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.num)
        return
    processes = []
    for checkout in (args.old.resolve(), HERE.parent):
        command = [sys.executable, __file__, str(args.old), "--serve", f"--num={args.num}"]
        own = {"PYTHONPATH": f"{checkout}:{HERE}", "OMP_NUM_THREADS": "1", "PATH": ""}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=own, **pipes))
    print(f"{'':<34}{'documents':>10}{'old s':>9}{'new s':>9}{'old/s':>9}{'new/s':>9}{'times':>8}")
    tasks = {f"reading {path.name}": str(path.resolve()) for path in args.data} | {"near-duplicates": ""}
    for name, path in tasks.items():
        seconds, counts = compare(processes, path, args.rounds)
        old, new = map(min, seconds)
        times = median(before / after for before, after in zip(*seconds, strict=True))
        speeds = f"{counts[0] / old:>9,.0f}{counts[1] / new:>9,.0f}"
        print(f"{name:<34}{counts[1]:>10,}{old:>9.2f}{new:>9.2f}{speeds}{times:>8.2f}", flush=True)
    for process in processes:
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    main()
