"""Reading by format: documents/s and MB/s of each reader on real files, and of the whole first stage behind it.

    python bench/corpus_ingest.py DATA

DATA is a folder of real files of any formats. `read` is the reader alone (unpacking and decoding with it); `ingest`
adds cleaning, quality, language, keys for duplicates and writing to disk. One process; best of three.
"""

import argparse
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from nsllm_lite.corpus import sources
from nsllm_lite.corpus.files.archives import open_files
from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.ingest import ingest
from nsllm_lite.corpus.shards import ReadTask
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.corpus import Source


def by_format(data: Path) -> dict[str, list[sources.File]]:
    """The files of each format; an archive counts as the first format found in it."""
    found: dict[str, list[sources.File]] = defaultdict(list)
    for file in sources.files_of(Source(name="all", path=str(data))):
        for opened in open_files(file.path, file.name):
            if not isinstance(opened, Unread):
                form = sources.detect(opened.head, opened.name, opened.name, general=False)
                if isinstance(form, str):
                    found[form].append(file)
                    break
    return dict(sorted(found.items()))


def read_all(files: list[sources.File], source: Source) -> Counter:
    counts: Counter[str] = Counter()
    for file in files:
        for record in sources.read(source, file, general=False):
            counts["unread" if isinstance(record, Unread) else "documents"] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    source = Source(name="all", path=str(data))
    recipe = recipes.validate(
        {
            "kind": "corpus", "out": "x", "sources": [source.model_dump()], "general": [], "end_of_text": "x",
            "train_tokenizer": {"vocab_size": 300}, "row_tokens": 4096, "near_duplicate_jaccard": 0.8,
            "heldout": {"share": 0, "general_share": 0, "max_papers": 1, "seed": 0}, "languages": ["en"],
            "decontaminate": [], "balance": "none", "min_chars": 200, "max_drop_share": 1,
        },
        "bench",
    )  # fmt: skip
    header = f"{'format':<11}{'files':>7}{'MB':>8}{'documents':>11}{'unread':>8}"
    print(f"{header}{'read docs/s':>13}{'MB/s':>8}{'ingest docs/s':>15}{'MB/s':>8}")
    for form, files in by_format(data).items():
        mb = sum(file.num_bytes for file in files) / 1e6
        read_s = ingest_s = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            counts = read_all(files, source)
            read_s = min(read_s, time.perf_counter() - started)
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                ingest(recipe, Path(folder), ReadTask(0, source, False, tuple(files), 0))
                ingest_s = min(ingest_s, time.perf_counter() - started)
        documents = counts["documents"]
        row = f"{form:<11}{len(files):>7,}{mb:>8.1f}{documents:>11,}{counts['unread']:>8,}"
        speeds = f"{documents / read_s:>13,.0f}{mb / read_s:>8.1f}{documents / ingest_s:>15,.0f}{mb / ingest_s:>8.1f}"
        print(row + speeds, flush=True)


if __name__ == "__main__":
    main()
