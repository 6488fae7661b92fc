"""`nsllm-lite corpus`: from dumps of papers to packed rows, with an account of every record.

The order of stages: read and clean -> drop what is of no use -> duplicates -> held-out papers, and training papers too
near to them -> render for each phase -> tokenizer -> pack. Texts pass through files; memory holds an entry a record.
"""

import shutil
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nsllm_lite import recipe as recipes
from nsllm_lite import run
from nsllm_lite.corpus import clean, dedup, ledger, pack, render, sources, split, tokenizer
from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.spool import Spool
from nsllm_lite.document import Document, read_documents, write_documents
from nsllm_lite.rows import RowTotals, write_rows

RENDER = {"phase1": render.phase1_text, "phase2": render.phase2_text, "general": render.general_text}
SPLITS = ("train", "heldout")
# Bytes on disk for one byte of source, work files among them: cleaned documents, shingles, spooled texts, rows.
# Measured 3.0 on 200,000 arXiv abstracts.
DISK_FACTOR = 5
MADE = ("tokenizer", "rows", "work", "documents.parquet", "documents.part", "dropped.jsonl", "ledger.parquet")
MADE += ("ledger.json", "times.json")


@dataclass(slots=True)
class Candidates:
    """The documents in work/documents.parquet, in its order: those of use to at least one phase."""

    entries: array = field(default_factory=lambda: array("q"))  # place in the ledger
    ids: list[str] = field(default_factory=list)
    reasons: list[dict[str, str]] = field(default_factory=list)  # {phase: "" or why it cannot enter this one}
    text_keys: array = field(default_factory=lambda: array("Q"))
    known_reasons: dict[tuple, dict[str, str]] = field(default_factory=dict)  # few differ: documents share them


def build(recipe: recipes.Corpus) -> dict:
    """Builds the corpus in `recipe.out`, or finds it finished; returns the results that its manifest holds.

    Raises:
        ValueError: a source that is absent or unreadable, a tokenizer without the end-of-text token, too little disk,
            no document left, or a share of dropped records that needs consent.
    """
    started = time.time()
    out = Path(recipe.out)
    identity = recipes.identity(recipe)
    inputs = {f"source:{s.name}": sources.sha256_source(s) for s in (*recipe.sources, *recipe.general)}
    if recipe.tokenizer:
        inputs["tokenizer"] = tokenizer.sha256_tokenizer(recipe.tokenizer)
    if run.is_finished(out, identity, inputs):
        print(f"{out}: finished, skipped")
        return run.read_manifest(out)["results"]
    source_bytes = sum(map(sources.bytes_of, (*recipe.sources, *recipe.general)))
    run.require_disk(out, DISK_FACTOR * source_bytes + 2**25, "the corpus")
    if recipe.tokenizer:  # a wrong one is refused before the long work, not after
        tokenizer.end_of_text_id(tokenizer.load_tokenizer(recipe.tokenizer), recipe.end_of_text)

    _clear(out)
    work = out / "work"
    work.mkdir(parents=True)
    with open(out / "dropped.jsonl", "w", encoding="utf-8") as dropped:
        book = ledger.Ledger([s.name for s in recipe.general], dropped)
        whole, body = dedup.Shingles(work / "whole.shingles"), dedup.Shingles(work / "body.shingles")
        candidates = Candidates()
        write_documents(work / "documents.parquet", _read(recipe, book, candidates, whole, body))
        duplicates = _find_duplicates(candidates, whole, recipe.near_duplicate_jaccard)
        heldout, near = _hold_out(recipe, book, candidates, duplicates, whole, body)
        spools = {(p, s): Spool(work / f"{p}-{s}.parquet") for p in RENDER for s in SPLITS}
        lost: Counter[str] = Counter()
        survivors = _settle(recipe, book, candidates, work, duplicates, heldout, near, spools, lost)
        write_documents(out / "documents.parquet", survivors)
    for spool in spools.values():
        spool.close()
    book.check()
    summary = book.summary()
    _print_ledger(summary)
    _require_enough_left(recipe, summary)

    totals = _pack(recipe, out, spools, book)
    book.write(out, summary)
    results = _results(recipe, summary, spools, totals, lost)
    _print_rows(results)
    shutil.rmtree(work)
    run.finish(out, "corpus", identity, inputs, results, started)
    return results


def _clear(out: Path) -> None:
    """Removes what an unfinished build left, and nothing else that may lie in the folder."""
    for name in MADE:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------- read and clean


def _read(
    recipe: recipes.Corpus, book: ledger.Ledger, found: Candidates, whole: dedup.Shingles, body: dedup.Shingles
) -> Iterator[Document]:
    """Cleaned documents of use to some phase; all others end in the ledger here."""
    for source in (*recipe.sources, *recipe.general):
        general = source.name in book.general_sources
        files = sources.files_of(source)
        start = len(book)
        num_documents = 0
        for file in run.progress(len(files), 0, f"reading {source.name}", "file", iterable=files):
            for record in sources.read(source, file, general):
                if isinstance(record, Unread):
                    origin = clean.clean_line(record.origin)
                    index = book.add(f"{source.name}:{origin}", source.name, origin, 0)
                    book.drop(index, record.reason, record.message)
                    continue
                num_documents += 1
                document = clean.clean_document(record)
                index = book.add(document.id, source.name, document.origin, document.num_chars)
                if _enter(document, index, general, recipe.min_chars, book, found, whole, body):
                    yield document
        if not num_documents:
            raise ValueError(_nothing_readable(source, book, start))


def _enter(
    document: Document,
    index: int,
    general: bool,
    min_chars: int,
    book: ledger.Ledger,
    found: Candidates,
    whole: dedup.Shingles,
    body: dedup.Shingles,
) -> bool:
    """Notes a document among the candidates, or drops it; says which."""
    texts = {phase: RENDER[phase](document, min_chars) for phase in book.phases(index)}
    reasons = {phase: reason for phase, (_, reason) in texts.items()}
    reason = clean.reason_to_drop(document) or ("" if "" in reasons.values() else next(iter(reasons.values())))
    if reason:
        book.drop(index, reason, _head(document))
        return False
    experiments = "" if general else texts["phase2"][0]
    text = next(text for text, why in texts.values() if not why)
    found.entries.append(index)
    found.ids.append(document.id)
    found.reasons.append(found.known_reasons.setdefault(tuple(reasons.items()), reasons))
    found.text_keys.append(dedup.key64(dedup.normalise(text)))
    whole.add(dedup.shingles_of(text))
    body.add(dedup.shingles_of(experiments))
    return True


def _head(document: Document) -> str:
    parts = [document.title, document.abstract, document.text, *(f"{s.heading} {s.text}" for s in document.sections)]
    return " | ".join(part for part in parts if part)


def _nothing_readable(source: recipes.Source, book: ledger.Ledger, start: int) -> str:
    reasons = Counter(d.reason for i, d in book.decisions["corpus"].items() if i >= start)
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    return (
        f"Source {source.name!r}: no paper could be read at {source.path} ({counts}; the first: "
        f"{book.origins[start].removesuffix('#0')}). Needed: {', '.join(sources.READERS)} files, as `format` "
        f"{source.format!r} finds them by content. Correct `path` or `format`; dropped.jsonl tells what each file is."
    )


# -------------------------------------------------------------------------------------------- choose what is kept


def _find_duplicates(candidates: Candidates, whole: dedup.Shingles, threshold: float) -> dict[int, tuple[int, str]]:
    """Of each group the first with an experimental section is kept, or else the first."""
    poor = np.array([reasons.get("phase2", "") != "" for reasons in candidates.reasons], bool)
    rank = np.empty(len(poor), np.int64)
    rank[np.argsort(poor, kind="stable")] = np.arange(len(poor))
    keys = np.array(candidates.text_keys, np.uint64)
    return dedup.find_duplicates(candidates.ids, keys, whole, rank, threshold)


def _hold_out(
    recipe: recipes.Corpus,
    book: ledger.Ledger,
    candidates: Candidates,
    duplicates: dict[int, tuple[int, str]],
    whole: dedup.Shingles,
    body: dedup.Shingles,
) -> tuple[set[int], dict[int, int]]:
    """(held-out candidates, {candidate too near to a held-out one: that one}), papers and general text each apart."""
    groups: dict[str, dict[int, str]] = {"experimental": {}, "other": {}, "general": {}}
    for number, reasons in enumerate(candidates.reasons):
        if number not in duplicates:
            kind = "general" if "general" in reasons else "other" if reasons["phase2"] else "experimental"
            groups[kind][number] = candidates.ids[number]
    papers = split.choose_heldout(groups["experimental"], groups["other"], recipe.heldout)
    for_general = recipe.heldout.model_copy(update={"share": recipe.heldout.general_share})
    passages = split.choose_heldout({}, groups["general"], for_general)
    experimental = groups["experimental"].keys()
    near = {
        **split.near_heldout(body, papers & experimental, experimental - papers),
        **split.near_heldout(whole, papers, (experimental | groups["other"].keys()) - papers),
        **split.near_heldout(whole, passages, groups["general"].keys() - passages),
    }
    return papers | passages, near


def _settle(
    recipe: recipes.Corpus,
    book: ledger.Ledger,
    candidates: Candidates,
    work: Path,
    duplicates: dict[int, tuple[int, str]],
    heldout: set[int],
    near: dict[int, int],
    spools: dict[tuple[str, str], Spool],
    lost: Counter[str],
) -> Iterator[Document]:
    """The survivors, each rendered into the spools of its phases; every candidate is settled in the ledger."""
    documents = read_documents(work / "documents.parquet")
    bar = run.progress(len(candidates.entries), 0, "rendering", "doc", iterable=documents)
    for number, document in enumerate(bar):
        index = candidates.entries[number]
        if number in duplicates:
            other, reason = duplicates[number]
            book.decide(index, "corpus", "duplicate", reason, candidates.entries[other])
            continue
        if number in near:
            book.drop(index, "near_heldout", _head(document), candidates.entries[near[number]])
            continue
        part = "heldout" if number in heldout else "train"
        for phase, reason in candidates.reasons[number].items():
            if reason:
                book.decide(index, phase, "dropped", reason)
                continue
            book.decide(index, phase, "heldout" if number in heldout else "kept")
            text, _ = RENDER[phase](document, recipe.min_chars)
            spools[phase, part].add(pack.Text(index, document.id, document.source, text))
        lost[document.source] += _head(document).count(clean.LOST)
        yield document


def _require_enough_left(recipe: recipes.Corpus, summary: dict) -> None:
    """Raises ValueError where no paper is left, or more were dropped than the recipe allows."""
    reasons: Counter[str] = Counter()
    total = left = 0
    for counts in summary["documents"].values():
        reasons.update(counts["dropped"])
        total += counts["in"]
    for source in recipe.sources:
        counts = summary["documents"][source.name]
        left += counts["kept"] + counts["heldout"]
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    if not left:
        raise ValueError(
            f"Every document was dropped: of {total} records none is left ({listed}). Training needs papers with a "
            f"title and an abstract or experimental sections; see {recipe.out}/dropped.jsonl for what was found, then "
            "correct the sources, or lower `min_chars`."
        )
    share = reasons.total() / total
    if share > recipe.max_drop_share:
        raise ValueError(
            f"{share:.1%} of the records were dropped ({reasons.total()} of {total}: {listed}), more than "
            f"max_drop_share={recipe.max_drop_share} allows. Look at {recipe.out}/dropped.jsonl; if the drops are "
            f"right, consent with max_drop_share={min(1.0, np.ceil(share * 100) / 100):.2f}."
        )


# ------------------------------------------------------------------------------------------------ tokenise and pack


def _pack(
    recipe: recipes.Corpus, out: Path, spools: dict[tuple[str, str], Spool], book: ledger.Ledger
) -> dict[str, RowTotals]:
    """Rows of each phase and split, written with the tokenizer that is saved beside them."""
    folder = out / "tokenizer"
    if recipe.train_tokenizer:
        texts = (text.text for phase in RENDER for text in spools[phase, "train"])
        tokenizer.train_tokenizer(texts, recipe.train_tokenizer.vocab_size, recipe.end_of_text, folder)
    else:
        tokenizer.save_tokenizer(recipe.tokenizer, folder)
    ours = tokenizer.load_tokenizer(str(folder))
    end_of_text_id = tokenizer.end_of_text_id(ours, recipe.end_of_text)
    sha256 = run.sha256_file(folder / "tokenizer.json")
    totals = {}
    for (phase, part), spool in spools.items():
        texts = run.progress(spool.num_texts, 0, f"packing {phase}/{part}", "doc", iterable=spool)
        count = book.tokens[phase].__setitem__
        pieces = pack.tokenise(texts, ours, end_of_text_id, recipe.row_tokens, count)
        rows = pack.pack(pieces, recipe.row_tokens)
        empty = RowTotals(recipe.row_tokens, end_of_text_id, sha256)
        totals[f"{phase}/{part}"] = write_rows(out / "rows" / phase / part, rows, empty)
    return totals


def _results(
    recipe: recipes.Corpus,
    summary: dict,
    spools: dict[tuple[str, str], Spool],
    totals: dict[str, RowTotals],
    lost: Counter[str],
) -> dict:
    return {
        "documents": summary["documents"],
        "phases": summary["phases"],
        "rows": {
            f"{phase}/{part}": {
                "documents": spool.num_texts,
                "chars": spool.num_chars,
                "tokens": totals[f"{phase}/{part}"].num_tokens,
                "rows": totals[f"{phase}/{part}"].num_rows,
                "fill": round(totals[f"{phase}/{part}"].fill, 4),
                "source_tokens": totals[f"{phase}/{part}"].source_tokens,
            }
            for (phase, part), spool in spools.items()
        },
        "lost_characters": dict(sorted(lost.items())),
        "licences": {s.name: s.licence for s in (*recipe.sources, *recipe.general)},
    }


def _print_ledger(summary: dict) -> None:
    for title, counts in (("all records", summary["documents"]), *summary["phases"].items()):
        if counts:
            print(f"\n{title}\n{ledger.table(counts)}")


def _print_rows(results: dict) -> None:
    print(f"\n{'rows':<16} {'documents':>10} {'tokens':>14} {'rows':>9}  fill")
    for name, row in results["rows"].items():
        print(f"{name:<16} {row['documents']:>10,} {row['tokens']:>14,} {row['rows']:>9,}  {row['fill']:.4f}")
