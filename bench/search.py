"""Search over a million embeddings: queries/s, bytes and Recall@10 of each way to store them, beside known engines.

    python bench/search.py --model DIR --corpus DIR [--num 1000000] [--engines]
    python bench/search.py --model DIR --corpus DIR --encode       texts/s of embedding alone

The vectors are embeddings of the corpus's abstracts by the model, each repeated up to --num with Gaussian noise as long
as the mean distance to the nearest neighbour; the queries are the titles of 256 held-out papers. Recall@10 is against
the exact search in float32. --engines adds FAISS (IVF with 8-bit codes, HNSW) and usearch (HNSW), where they are
installed. One thread for each of --threads; a query alone, and 64 at a time. --encode measures how fast 512 abstracts
are embedded, beside sentence-transformers' own `encode` with its defaults, in turns. Writes search.json and search.md
(or encode.json) to --out.
"""

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.formats.papers import CorpusPapers
from nsllm_lite.models.embedding import open_embedder, unit
from nsllm_lite.retrieval import codes, exact
from nsllm_lite.terminal import as_markdown

K, BATCH, ALONE = 10, 64, 20
FIRST = (100, 300, 1_000)  # candidates of the first pass over signs
Search = Callable[[np.ndarray], np.ndarray]


class Way(NamedTuple):
    name: str
    build_s: float
    num_bytes: int
    search: Search


def embedded(model: Path, corpus: Path, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (float32) of the training papers' abstracts and of held-out titles; kept in `out`."""
    files = [out / "abstracts.npy", out / "titles.npy"]
    if not all(file.is_file() for file in files):
        papers = CorpusPapers(corpus)
        found = [(papers.split(p.id), p.title, p.abstract) for p in papers.read(["id", "source", "title", "abstract"])]
        abstracts = [abstract for split, _, abstract in found if split == "train" and abstract]
        titles = [title for split, title, abstract in found if split == "test" and title and abstract][:256]
        embedder = open_embedder(model)
        for file, texts in zip(files, (abstracts, titles), strict=True):
            np.save(file, unit(embedder.encode(texts)))
    return np.load(files[0]), np.load(files[1])


def encoding(model: Path, corpus: Path, rounds: int = 5) -> dict[str, Any]:
    """Texts/s by the embedder of this package and by sentence-transformers itself."""
    from sentence_transformers import SentenceTransformer

    papers = CorpusPapers(corpus)
    texts = [paper.abstract for paper in papers.read(["id", "source", "abstract"]) if paper.abstract][:512]
    plain, ours = SentenceTransformer(str(model), device="cpu"), open_embedder(model)
    ways = {"ours": lambda: ours.encode(texts), "sentence-transformers": lambda: plain.encode(texts)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    same = float(np.abs(unit(ways["ours"]()) - unit(ways["sentence-transformers"]())).max())
    for number in range(rounds):
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            started = time.perf_counter()
            ways[name]()
            found[name].append(len(texts) / (time.perf_counter() - started))
    ratios = [a / b for a, b in zip(found["ours"], found["sentence-transformers"], strict=True)]
    return {"texts_per_s": found, "ours_over_theirs": ratios, "largest_difference": same, "texts": len(texts)}


def repeated(vectors: np.ndarray, num: int, seed: int = 0) -> np.ndarray:
    """`num` unit vectors in float16: each of `vectors` as it is, then with noise."""
    sample = np.random.default_rng(seed).choice(len(vectors), min(2_000, len(vectors)), replace=False)
    products = vectors[sample] @ vectors.T
    products[np.arange(len(sample)), sample] = -1
    distance = float(np.sqrt(np.maximum(2 - 2 * products.max(axis=1), 0)).mean())
    made = np.empty((num, vectors.shape[1]), np.float16)
    for number, first in enumerate(range(0, num, len(vectors))):
        part = vectors[: num - first]
        if number:
            noise = np.random.default_rng([seed, number]).standard_normal(part.shape, np.float32)
            part = unit(part + noise * (distance / np.sqrt(vectors.shape[1])))
        made[first : first + len(part)] = part
    print(f"{num:,} vectors; mean distance to the nearest neighbour {distance:.3f}")
    return made


def ways(stored: np.ndarray, threads: int) -> list[Way]:
    """Those of nsllm_lite.retrieval."""
    whole = stored.astype(np.float32)
    started = time.perf_counter()
    small, scales = exact.quantise(stored)
    int8_s = time.perf_counter() - started
    started = time.perf_counter()
    words = codes.sign_codes(stored)
    signs_s = time.perf_counter() - started

    def by_signs(candidates: int) -> Search:
        return lambda queries: codes.search_codes(queries, stored, words, K, candidates, threads)[0]

    return [
        Way("exact, float32", 0, whole.nbytes, lambda queries: exact.search(queries, whole, K)[0]),
        Way("exact, float16", 0, stored.nbytes, lambda queries: exact.search(queries, stored, K)[0]),
        Way("int8", int8_s, small.nbytes + scales.nbytes, lambda q: exact.search(q, small, K, scales=scales)[0]),
        *(
            Way(f"signs, {count:,} rescored in float16", signs_s, words.nbytes, by_signs(count)) for count in FIRST
        ),
    ]  # fmt: skip


def engines(stored: np.ndarray, threads: int) -> list[Way]:
    found = []
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(threads)
        num, width = stored.shape
        lists = int(4 * num**0.5)
        for text, probes in ((f"IVF{lists},SQ8", 32), ("HNSW32,SQfp16", 64)):
            started = time.perf_counter()
            index = faiss.index_factory(width, text, faiss.METRIC_INNER_PRODUCT)
            if not index.is_trained:
                index.train(stored[:: max(1, num // (64 * lists))].astype(np.float32))
            for first in range(0, num, 50_000):
                index.add(stored[first : first + 50_000].astype(np.float32))
            if hasattr(index, "nprobe"):
                index.nprobe = probes
            else:
                faiss.downcast_index(index).hnsw.efSearch = probes
            built = time.perf_counter() - started
            size = len(faiss.serialize_index(index))
            found.append(
                Way(f"FAISS {text}, {probes} probed", built, size, lambda q, index=index: index.search(q, K)[1])
            )
    if importlib.util.find_spec("usearch"):
        from usearch.index import Index

        started = time.perf_counter()
        index = Index(ndim=stored.shape[1], metric="ip", dtype="f16")
        index.add(np.arange(len(stored)), stored, threads=threads)
        built = time.perf_counter() - started
        size = index.serialized_length
        found.append(
            Way(
                "usearch HNSW, float16",
                built,
                size,
                lambda q: np.array(index.search(q, K, threads=threads).keys).reshape(-1, K),
            )
        )
    return found


def measured(way: Way, queries: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    found = way.search(queries)
    hits = [len(set(mine) & set(exact_ones)) for mine, exact_ones in zip(found.tolist(), right.tolist(), strict=True)]
    batch = queries[:BATCH]
    times = []
    for _ in range(3):
        started = time.perf_counter()
        way.search(batch)
        times.append(time.perf_counter() - started)
    alone = []
    for number in range(ALONE):
        started = time.perf_counter()
        way.search(queries[number : number + 1])
        alone.append(time.perf_counter() - started)
    return {
        "way": way.name,
        "build_s": way.build_s,
        "bytes": way.num_bytes,
        "recall@10": float(np.mean(hits)) / K,
        "queries_per_s": len(batch) / min(times),
        "alone_ms": 1e3 * float(np.median(alone)),
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="a finished corpus")
    parser.add_argument("--num", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--engines", action="store_true")
    parser.add_argument("--encode", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.encode:
        figures = encoding(args.model, args.corpus)
        write_json(args.out / "encode.json", figures)
        print(figures)
        return
    vectors, queries = embedded(args.model, args.corpus, args.out)
    stored = repeated(vectors, args.num)
    all_ways = [*ways(stored, args.threads), *(engines(stored, args.threads) if args.engines else [])]
    right = all_ways[0].search(queries)
    lines = []
    for way in all_ways:
        lines.append(measured(way, queries, right))
        print(lines[-1], flush=True)
    heads = ("", "build, s", "GB", "Recall@10", f"queries/s, {BATCH} at a time", "one query, ms")
    rows = [
        (of["way"], f"{of['build_s']:.1f}", f"{of['bytes'] / 1e9:.3f}", f"{of['recall@10']:.3f}",
         f"{of['queries_per_s']:,.0f}", f"{of['alone_ms']:.1f}")
        for of in lines
    ]  # fmt: skip
    text = f"{len(stored):,} x {stored.shape[1]}, {len(queries)} queries, {args.threads} threads\n\n"
    text += as_markdown(heads, rows, right=heads[1:])
    write_json(args.out / "search.json", lines)
    write_atomic(args.out / "search.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
