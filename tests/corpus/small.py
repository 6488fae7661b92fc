"""Small corpora for the tests of this room: made-up papers, a recipe for them, and what a build left."""

import hashlib
import json
import random
from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "corpus"
END = "<|endoftext|>"
NOUNS = [f"{a}{b}" for a in ("al", "be", "cu", "da", "er", "fe", "ga", "ho", "in") for b in ("ro", "sa", "ti", "um")]


def prose(seed, words=60):
    return " ".join(random.Random(seed).choices(NOUNS, k=words)).capitalize() + "."


def paper(number, **changes):
    own = {"id": f"2501.{number:05}", "title": f"Title {prose(number, 4)}", "abstract": prose(1000 + number)}
    return {**own, **changes}


def sample(number):
    sections = [{"heading": h, "text": prose(s + number, 80)} for s, h in ((2000, "Methods"), (3000, "Discussion"))]
    abstract = [["Results", prose(4000 + number)]]
    return paper(number, id=f"sample:{number}", discipline="Physics", abstract=abstract, sections=sections)


def general(count=20, first=5000):
    return [{"id": f"g{i}", "text": prose(first + i)} for i in range(count)]


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n")
    return path


def write_sources(folder, **papers):
    """Files of papers by the names of their sources, and general text; the sources."""
    write_lines(folder / "general.jsonl", general())
    files = {name: write_lines(folder / f"{name}.jsonl", records) for name, records in papers.items()}
    return [{"name": name, "path": str(path)} for name, path in files.items()]


def values(folder, out, sources):
    """A corpus recipe as plain values, written to folder/out; general text is in folder/general.jsonl."""
    return {
        "kind": "corpus",
        "out": str(folder / out),
        "sources": sources,
        "general": [{"name": "general", "path": str(folder / "general.jsonl")}],
        "train_tokenizer": {"vocab_size": 400},
        "end_of_text": END,
        "row_tokens": 256,
        "heldout": {"share": 0.1, "general_share": 0.25, "max_papers": 10, "seed": 1},
        "near_duplicate_jaccard": 0.8,
        "languages": [],
        "decontaminate": [],
        "balance": "none",
        "min_chars": 60,
        "max_drop_share": 0.2,
    }


def make_papers(folder):
    """Files of a few hundred papers, some of them near duplicates, and general text; their sources."""
    records = [{"id": f"2501.{i:05}", "title": prose(i, 5), "abstract": prose(500 + i)} for i in range(300)]
    for i, copied in enumerate(records[:30]):
        records.append({**copied, "id": f"2502.{i:05}", "abstract": copied["abstract"] + " Indeed."})
    for number in range(8):
        write_lines(folder / "arxiv" / f"{number}.jsonl", records[number::8])
    write_lines(folder / "full.jsonl", [sample(i) for i in range(12)])
    write_lines(folder / "general.jsonl", general())
    return [{"name": n, "path": str(folder / p)} for n, p in (("arxiv", "arxiv"), ("full", "full.jsonl"))]


def digests(folder):
    """{file: hash} of all that is there, but for the one file that tells of time."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "times.json"
    }  # fmt: skip
