"""Documents on disk -> packed rows on disk, against the bare tokenizers: the same texts, each in a fresh process.

    python bench/corpus_pack.py DATA [--copies N] [--texts FOLDER ...]

DATA is a folder of real files; every distinct text the readers find in it is taken once (`--copies` repeats them with
other words, for more tokens; `--texts` adds each distinct text file below the folders, such as an environment's
sources and manuals, up to a million bytes each). Prints tokens/s, the time against that of the bare tokenizer chosen,
peak memory and fill; best of five, imports apart. "between files" is the bare tokenizer with the same texts read from
disk before and its ids written to disk after, in one plain file: what any way from documents to tokens on disk must do.
"""

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TEXT_FILES = {".py", ".md", ".rst", ".txt", ".h", ".hpp", ".js", ".rs", ".c", ".pyi", ".tex", ".pl", ".pm"}


def text_files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in TEXT_FILES and path.is_file() and 100 < path.stat().st_size < 1_000_000:
            with contextlib.suppress(UnicodeDecodeError):
                yield unicodedata.normalize("NFC", path.read_text("utf-8"))


def gather(data: Path, copies: int, folders: list[Path], folder: Path) -> None:
    """folder/documents.parquet: each distinct text of the readable files, cleaned, as a document."""
    from nsllm_lite.corpus import sources
    from nsllm_lite.corpus.texts import clean
    from nsllm_lite.corpus.texts.render import RENDER
    from nsllm_lite.formats.documents import Document, parquet_writer, table_of
    from nsllm_lite.recipe.corpus import Source

    texts: dict[str, None] = {}
    for place in sorted(p for p in data.iterdir() if p.is_dir()):
        source = Source(name=place.name, path=str(place))
        for file in sources.files_of(source):
            for record in sources.read(source, file, general=place.name.startswith("general")):
                if isinstance(record, Document):
                    document = clean.clean_document(record)
                    for render in RENDER.values():
                        text, reason = render(document, 100)
                        if not reason:
                            texts[text] = None
    for each in folders:
        texts |= dict.fromkeys(text_files(each))
    writer = parquet_writer(folder / "documents.parquet")
    numbered = enumerate((copy, text) for copy in range(copies) for text in texts)
    while some := list(islice(numbered, 1_000)):
        documents = []
        for number, (copy, text) in some:
            changed = re.sub(r"[a-z]{4,}", lambda m, c=copy: m[0] + "abcdefghij"[c % 10], text) if copy else text
            documents.append(Document(f"doc:{number}", "real", f"f#{number}", text=changed))
        writer.write_table(table_of(documents))
    writer.close()


def tokenizer_of(data: Path) -> str:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(data / "qwen3_tokenizer").backend_tokenizer.to_str()


def texts_of(folder: Path) -> list[str]:
    return pq.read_table(folder / "documents.parquet", columns=["text"])["text"].to_pylist()


def bare_gigatoken(folder: Path) -> dict:
    import awkward  # noqa: F401 (it would be imported within the measured call)
    import gigatoken

    texts = texts_of(folder)
    tokenizer = gigatoken.Tokenizer.from_json((folder / "plain.json").read_text())
    started = time.perf_counter()
    encoded = tokenizer.encode_batch(texts, parallel=True)
    seconds = time.perf_counter() - started
    return {"tokens": len(encoded.layout.content), "seconds": seconds}


def between_files(folder: Path) -> dict:
    import awkward
    import gigatoken

    tokenizer = gigatoken.Tokenizer.from_json((folder / "plain.json").read_text())
    pa.array(np.zeros(1))
    for made in ("ids.bin", "starts.bin"):
        (folder / made).unlink(missing_ok=True)
    started = time.perf_counter()
    texts = pq.read_table(folder / "documents.parquet", columns=["id", "source", "text"])["text"]
    encoded = tokenizer.encode_batch(awkward.from_arrow(texts.cast(pa.large_string()).combine_chunks()))
    ids = np.asarray(encoded.layout.content.data)
    ids.tofile(folder / "ids.bin")
    np.asarray(encoded.layout.offsets.data).tofile(folder / "starts.bin")
    return {"tokens": len(ids), "seconds": time.perf_counter() - started}


def bare_tokenizers(folder: Path) -> dict:
    from tokenizers import Tokenizer

    texts = texts_of(folder)
    tokenizer = Tokenizer.from_file(str(folder / "plain.json"))
    started = time.perf_counter()
    num_tokens = 0
    for start in range(0, len(texts), 512):
        batch = tokenizer.encode_batch_fast(texts[start : start + 512], add_special_tokens=False)
        num_tokens += sum(len(encoding.ids) for encoding in batch)
    return {"tokens": num_tokens, "seconds": time.perf_counter() - started}


def ours(folder: Path) -> dict:
    from tokenizers import Tokenizer

    from nsllm_lite.corpus import pack
    from nsllm_lite.corpus.encoder import Encoder

    encoder = Encoder(Tokenizer.from_file(str(folder / "full.json")))
    num = pq.read_metadata(folder / "documents.parquet").num_rows
    pa.array(np.zeros(1))  # at the first such call pyarrow imports pandas
    for made in ("rows", "counts"):  # a corpus is written to an empty folder; ext4 flushes what replaces a file
        shutil.rmtree(folder / made, ignore_errors=True)
    task = pack.PackTask("general", "train", 0, (folder / "documents.parquet",), (np.ones(num, bool),), 0)
    started = time.perf_counter()
    made = pack.pack(task, encoder, pack.Frame((), 151643, 4096), 1, folder / "rows", folder / "counts")
    seconds = time.perf_counter() - started
    tokens, rows = (sum(shard[key] for shard in made["shards"]) for key in ("tokens", "rows"))
    fills = [round(s["tokens"] / s["rows"] / 4096, 4) for s in made["shards"]]
    return {"tokens": tokens, "seconds": seconds, "by": made["encoder"], "fill": fills, "documents": num, "rows": rows}


BARE = "gigatoken"
WAYS = {BARE: bare_gigatoken, "gigatoken between files": between_files, "tokenizers": bare_tokenizers, "ours": ours}


def peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--texts", type=Path, nargs="*", default=[])
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps({**WAYS[args.way](args.data), "peak_mib": peak_mib()}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gather(args.data, args.copies, args.texts, folder)
        full = tokenizer_of(args.data)
        (folder / "full.json").write_text(full)
        (folder / "plain.json").write_text(json.dumps(json.loads(full) | {"added_tokens": []}))
        best: dict[str, dict] = {}
        for _ in range(5):
            for way in WAYS:
                command = [sys.executable, __file__, str(folder), "--way", way]
                result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                if way not in best or result["seconds"] < best[way]["seconds"]:
                    best[way] = result
        for way, result in best.items():
            ratio = result["seconds"] / best[BARE]["seconds"]
            speed = result["tokens"] / result["seconds"] / 1e6
            rest = {k: v for k, v in result.items() if k not in ("seconds", "peak_mib")}
            print(f"{way:<28} {speed:6.2f} Mtok/s  {ratio:5.2f} x  peak {result['peak_mib']:,.0f} MiB  {rest}")


if __name__ == "__main__":
    main()
