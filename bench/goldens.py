"""Did a change alter a result? The same work by two states of the project on one machine, compared by SHA-256.

    python bench/goldens.py OLD NEW --data path/to/real/files     # commits, or . for the working tree

Each state makes a short nano run (both phases, scores, instruction tuning) and, with --data, the corpus of a folder of
real files. Rows, documents, ledger, adapters, merged weights, metrics, scores and pictures are compared file by file;
times, versions and the recipes in manifests are not, but what differs in the recipes is printed, and of each corpus the
records by outcome and reason and the fields of documents that differ. Exit status 1 where a result differs, 2 where one
state does not run. What a commit gave is kept in runs/goldens and not made again.
"""

import argparse
import difflib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "runs/goldens"
RUN = "runs/golden"  # below the state's own folder, so that paths in results are the same
SETTINGS = [
    *("base.budget.steps=60", "base.budget.tokens=122880", "base.checkpoint_steps=30", "report.max_rows=8"),
    *(f"{phase}.{words}" for phase in ("phase1", "phase2") for words in (
        "budget.steps=40", "budget.tokens=40960", "evaluation.every_steps=20", "checkpoint_steps=20",
    )),
]  # fmt: skip
TUNING = [
    "tasks.max_per_task=30", "eval.max_items=3", "sft.steps=30", "sft.evaluate_steps=15",
    "sft.checkpoint_steps=15", "sft.max_heldout_examples=20",
]  # fmt: skip
CORPUS = {
    "kind": "corpus", "out": f"{RUN}-real", "general": [], "train_tokenizer": {"vocab_size": 2000},
    "end_of_text": "<|endoftext|>", "row_tokens": 1024, "near_duplicate_jaccard": 0.8, "languages": ["en"],
    "heldout": {"share": 0.05, "general_share": 0.05, "max_papers": 150, "seed": 1}, "decontaminate": [],
    "balance": "none", "min_chars": 200, "max_drop_share": 1,
}  # fmt: skip
COMMANDS = [
    ["two-phase", "--recipes", "recipes/nano", "--out", RUN, *SETTINGS],
    ["eval-run", "--recipes", "recipes/nano", "--out", RUN, *SETTINGS, *TUNING],
    ["instruct", "--recipes", "recipes/nano", "--out", RUN, *SETTINGS, *TUNING],
]
KINDS = (
    ("rows", "rows/"), ("documents", "documents/"), ("ledger", "ledger"), ("ledger", "dropped.jsonl"),
    ("adapters", "adapter/"), ("weights", ".safetensors"), ("metrics", "metrics.jsonl"), ("metrics", "trainer_log"),
    ("scores", "scores"), ("scores", "report"), ("scores", "predictions"), ("pictures", ".png"),
    ("manifests", "manifest.json"),
)  # fmt: skip
DATED = {"elapsed_time", "remaining_time", "seconds", "tokens_per_s", "items_per_s", "started", "finished"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a commit, or . for the working tree")
    parser.add_argument("new", help="a commit, or . for the working tree")
    parser.add_argument("--data", type=Path, help="a folder of real files, of which a corpus is built too")
    parser.add_argument("--only-corpus", action="store_true", help="of --data alone, without the nano run")
    parser.add_argument(
        "--show", type=int, default=8, metavar="N", help="of each text that differs, lines (default: 8)"
    )
    args = parser.parse_args()
    data = args.data.resolve() if args.data else None
    commands = [] if args.only_corpus else COMMANDS
    old, new = (results_of(state, data, commands) for state in (args.old, args.new))
    return compare(old, new, args.show)


def results_of(state: str, data: Path | None, commands: list[list[str]]) -> Path:
    """The folder of what `state` made."""
    commit = "" if state == "." else git("rev-parse", "--short=12", f"{state}^{{commit}}")
    name = f"{commit}-{hashlib.sha256(f'{commands}{CORPUS}{data}'.encode()).hexdigest()[:8]}"
    if commit and (KEPT / name).is_dir():
        return KEPT / name
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT, prefix="state-") as folder:
        export(commit, Path(folder))
        settings = {"PYTHONPATH": folder, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        words = list(commands)
        if data:
            sources = [{"name": "everything", "path": str(data)}]  # a folder of its own need not have a paper
            (Path(folder) / "real.yaml").write_text(json.dumps(CORPUS | {"sources": sources}))
            words.append(["corpus", "real.yaml"])
        for each in words:
            print(f"{state}: nsllm-lite {' '.join(each[:2])} ...", file=sys.stderr, flush=True)
            ran = subprocess.run(
                [sys.executable, "-m", "nsllm_lite.cli", *each],
                cwd=folder, env=os.environ | settings, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            if ran.returncode:
                print(f"{state}: status {ran.returncode}\n{ran.stdout[-4000:]}", file=sys.stderr)
                raise SystemExit(2)
        made = KEPT / (name if commit else "working-tree")
        shutil.rmtree(made, ignore_errors=True)
        (Path(folder) / "runs").rename(made)
    return made


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, text=True, capture_output=True).stdout.strip()


def export(commit: str, folder: Path) -> None:
    """The files of a commit, or those of the working tree that git does not ignore."""
    if commit:
        archive = subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", folder], stdin=archive.stdout, check=True)
        return
    for name in git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).exists() or (ROOT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


def compare(old: Path, new: Path, show: int) -> int:
    """Prints a line a kind of file, then what differs; 1 where something does."""
    links = {
        hashlib.sha256(path.read_bytes()).hexdigest() for root in (old, new) for path in root.rglob("manifest.json")
    }
    before, after = (dict(digests(root, links)) for root in (old, new))
    equal, different = Counter(), Counter()
    names = []
    for name in sorted(before.keys() | after.keys()):
        kind = next((kind for kind, word in KINDS if word in name), "others")
        if before.get(name) == after.get(name):
            equal[kind] += 1
        else:
            different[kind] += 1
            names.append(name)
    for kind in dict.fromkeys((*(kind for kind, _ in KINDS), "others")):
        print(f"{kind:<12} {equal[kind]:>5} equal {different[kind]:>5} different")
    for name in names:
        print(f"\n{name}: {'absent' if name not in after else 'new' if name not in before else 'differs'}")
        if name in before and name in after:
            print_difference(old / name, new / name, links, show)
    for ledger in sorted(path.relative_to(old) for path in old.rglob("ledger.json")):
        if (new / ledger).is_file() and str(ledger) in names:
            print_corpus(old / ledger.parent, new / ledger.parent)
    print_recipes(old, new)
    return int(bool(names))


def digests(root: Path, links: set[str]) -> Iterator[tuple[str, str]]:
    """(path below `root`, SHA-256 of what is in it but times, versions and recipes)"""
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name != "times.json"):
        yield str(path.relative_to(root)), hashlib.sha256(content(path, links)).hexdigest()


def content(path: Path, links: set[str]) -> bytes:
    """The bytes of a file; of JSON its values without times, versions, recipes and hashes of manifests."""
    if path.suffix not in (".json", ".jsonl") or path.name in ("tokenizer.json", "config.json"):
        return path.read_bytes()
    texts = [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines()
    skipped = DATED | ({"recipe", "versions", "seal"} if path.name in ("manifest.json", "run.json") else {"seal"})

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items() if key not in skipped}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        return "a manifest" if isinstance(value, str) and value in links else value

    return "\n".join(json.dumps(plain(json.loads(text)), sort_keys=True, indent=1) for text in texts).encode()


def print_difference(old: Path, new: Path, links: set[str], show: int) -> None:
    try:
        texts = [content(path, links).decode().splitlines() for path in (old, new)]
    except UnicodeDecodeError:
        print(f"  {old.stat().st_size:,} bytes, now {new.stat().st_size:,}")
        return
    for line in list(difflib.unified_diff(*texts, lineterm="", n=0))[2 : 2 + show]:
        print(f"  {line[:200]}")


def print_corpus(old: Path, new: Path) -> None:
    """Records by outcome and reason, and of documents that both have how many differ, field by field."""
    before, after = map(outcomes, (old, new))
    print(f"\n{old.name}: records{'old':>38} {'new':>8}")
    for name in sorted(before.keys() | after.keys()):
        print(f"  {name:<44} {before[name]:>8,} {after[name]:>8,} {after[name] - before[name]:>+8,}")
    first, second = map(documents, (old, new))
    both = first.keys() & second.keys()
    print(f"  documents: {len(first):,} and {len(second):,}, {len(both):,} of the same records")
    differ = Counter(field for key in both for field in first[key] if first[key][field] != second[key].get(field))
    print(f"  of these differ: {', '.join(f'{field} {count:,}' for field, count in differ.items()) or 'none'}")


def outcomes(corpus: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for counts in json.loads((corpus / "ledger.json").read_text())["documents"].values():
        found.update({name: count for name, count in counts.items() if isinstance(count, int)})
        found.update({f"dropped: {reason}": count for reason, count in counts["dropped"].items()})
    return found


def documents(corpus: Path) -> dict[tuple[str, str], dict[str, Any]]:
    import pyarrow.parquet as pq

    rows = (row for path in (corpus / "documents").glob("*.parquet") for row in pq.read_table(path).to_pylist())
    return {(row["source"], row["origin"]): row for row in rows}


def print_recipes(old: Path, new: Path) -> None:
    """What differs in the recipes of manifests, once."""
    told = Counter()
    for path in sorted(old.rglob("manifest.json")):
        other = new / path.relative_to(old)
        if other.is_file():
            before, after = (json.loads(each.read_text())["recipe"] for each in (path, other))
            for key in sorted(before.keys() | after.keys()):
                if before.get(key) != after.get(key):
                    told[f"recipe.{key} of {before.get('kind', '?')}: {before.get(key)} -> {after.get(key)}"] += 1
    if told:
        print("\nRecipes in manifests:", *(f"  {words[:200]} ({count})" for words, count in told.items()), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
