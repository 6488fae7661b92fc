"""Documents, queries and judgements of a test collection: a folder in BEIR's layout, or the .ALL, .QRY and .REL files
of CISI, Cranfield, MED and ADI.

Judgements that name what is not there are refused: with the queries' own numbers, Cranfield's give an nDCG of 0.01
without a word of warning.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import sha256_json
from nsllm_lite.errors import UserError
from nsllm_lite.formats.examples import counted, text_of, unreadable
from nsllm_lite.formats.records import RecordError, read_records
from nsllm_lite.retrieval.exact import MISSING

SCORED, CHOOSING = "test", ("dev", "validation", "train")  # splits: what is scored, and where a weight may be chosen
PART = re.compile(r"^\.I[ \t]+(\S+)[ \t]*$", re.MULTILINE)
FIELD = re.compile(r"^\.([A-Z])[ \t]*$", re.MULTILINE)
CRANFIELD_WORST = 5  # its grades are 1, a complete answer, to 4, of minimum interest; -1 is no answer


class Judged(NamedTuple):
    """Queries with at least one relevant document. `grades` are by position in the set's documents; `own` is that of
    the document which a query is itself, and which is not ranked for it, or MISSING."""

    ids: tuple[str, ...]
    queries: tuple[str, ...]
    grades: tuple[dict[int, int], ...]
    own: tuple[int, ...]


@dataclass(frozen=True)
class RetrievalSet:
    """Documents in falling order of their ids, so that of equal scores the first is the one that trec_eval takes."""

    path: Path
    document_ids: tuple[str, ...]
    documents: tuple[str, ...]
    test: Judged
    development: Judged | None
    notes: tuple[str, ...]
    sha256: str


Judgements = list[tuple[int, str, str, int]]  # (line, query, document, grade)


def read_retrieval(folder: Path) -> RetrievalSet:
    """Raises UserError where a file is missing, an id stands twice or is unknown, a query is empty, or nothing is
    relevant."""
    if not folder.is_dir():
        raise _unfit(folder, "is no folder")
    beir = (folder / "corpus.jsonl").is_file()
    files, documents, queries, splits, notes = _beir(folder) if beir else _smart(folder)
    if empty := [name for name, text in queries if not text.strip()]:
        found = f"{folder}: queries without a word: {counted(empty)}."
        raise UserError("retrieval-query-empty", found, "Write them, or remove them and their judgements.")
    documents = sorted(documents, reverse=True)
    for names, what in (([name for name, _ in documents], "documents"), ([name for name, _ in queries], "queries")):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            found = f"{folder}: ids of {what} that stand twice: {counted(twice)}."
            raise UserError("retrieval-ids-repeat", found, "Give each its own.")
    if bare := [name for name, text in documents if not text.strip()]:
        notes.append(f"documents without a word, which are never found: {counted(bare)}")
    judged = {}
    for split, (file, rows) in splits.items():
        places = {name: at for at, (name, _) in enumerate(documents)}
        judged[split], told = _judged(file, rows, dict(queries), places, same_ids=beir)
        notes += [f"{split}: {note}" if len(splits) > 1 else note for note in told]
    development = next((judged[split] for split in CHOOSING if split in judged), None)
    digest = sha256_json({str(file.relative_to(folder)): sha256_file(file) for file in files})
    ids, texts = zip(*documents, strict=True)
    return RetrievalSet(folder, ids, texts, judged[SCORED], development, tuple(notes), digest)


def _judged(
    file: Path, rows: Judgements, queries: dict[str, str], places: dict[str, int], same_ids: bool
) -> tuple[Judged, list[str]]:
    """`same_ids`: a query with the id of a document is that document, as in BEIR; elsewhere both are only numbered."""
    for column, known, what in ((1, queries, "queries"), (2, places, "documents")):
        if lost := dict.fromkeys(row[column] for row in rows if row[column] not in known):
            asked = len({row[column] for row in rows})
            found = f"{file} judges {what} that are not there: {counted(lost)} of {asked:,}."
            raise UserError("retrieval-ids-unknown", found, "Use the same ids in all files.")
    grades: dict[str, dict[int, int]] = {}
    for line, query, document, grade in rows:
        if grades.setdefault(query, {}).setdefault(places[document], grade) != grade:
            raise _line_unfit(file, line, f"judges document {document} for query {query} a second time, otherwise")
    kept = {name: one for name, one in grades.items() if any(grade > 0 for grade in one.values())}
    if not kept:
        raise UserError("retrieval-nothing-relevant", f"{file} names no relevant document.", "Check its grades.")
    notes = []
    if without := grades.keys() - kept:
        notes.append(f"queries without a relevant document are left out: {counted(sorted(without))}")
    if unasked := len(queries) - len(grades):
        notes.append(f"{unasked:,} of {len(queries):,} queries have no judgement and are left out")
    names = [name for name in queries if name in kept]
    texts, grades_of = tuple(queries[name] for name in names), tuple(kept[name] for name in names)
    own = [places.get(name, MISSING) if same_ids else MISSING for name in names]
    own = [MISSING if known.get(one, 0) > 0 else one for one, known in zip(own, grades_of, strict=True)]
    if same := sum(one != MISSING for one in own):
        words = "queries are documents, by their id, and do not find themselves (as in BEIR)"
        notes.append(f"{same:,} of {len(names):,} {words}")
    return Judged(tuple(names), texts, grades_of, tuple(own)), notes


Texts = list[tuple[str, str]]  # (id, text)
Parts = tuple[list[Path], Texts, Texts, dict[str, tuple[Path, Judgements]], list[str]]


def _beir(folder: Path) -> Parts:
    """corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""
    splits = {file.stem: file for file in sorted((folder / "qrels").glob("*.tsv"))}
    if not (folder / "queries.jsonl").is_file() or not splits:
        raise _unfit(folder, "has a corpus.jsonl, and no queries.jsonl or no qrels/*.tsv")
    if SCORED not in splits:
        if len(splits) > 1:
            raise _unfit(folder, f"has the splits {', '.join(splits)} in qrels, and no {SCORED}.tsv")
        splits = {SCORED: next(iter(splits.values()))}
    files = [folder / "corpus.jsonl", folder / "queries.jsonl"]
    documents, queries = (list(_lines(file)) for file in files)
    used = {name: file for name, file in splits.items() if name in (SCORED, *CHOOSING)}
    read = {name: (file, list(_tsv(file))) for name, file in used.items()}
    notes = [f"split {name} is not used" for name in splits if name not in used]
    return [*files, *used.values()], documents, queries, read, notes


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """(id, title and text) of each line."""
    try:
        for line, value in read_records(file):
            name = value.get("_id") if isinstance(value, dict) else None
            parts = [value.get(part) or "" for part in ("title", "text")] if isinstance(value, dict) else []
            if not isinstance(name, str | int) or not all(isinstance(part, str) for part in parts):
                raise _line_unfit(file, line, "has no `_id`, or a title or text that is no text")
            yield str(name), " ".join(part.strip() for part in parts if part.strip())
    except (OSError, RecordError) as error:
        raise unreadable(file, error) from None


def _tsv(file: Path) -> Iterator[tuple[int, str, str, int]]:
    """query-id, corpus-id and score, with a header or without."""
    for line, text in enumerate(text_of(file).split("\n"), 1):
        cells = text.rstrip().split("\t")
        if text.strip() and not (line == 1 and len(cells) == 3 and not _is_number(cells[2])):
            if len(cells) != 3 or (grade := _grade(cells[2])) is None:
                what = f"is not query-id, corpus-id and a whole score with tabs between ({len(cells)} cells)"
                raise _line_unfit(file, line, what)
            yield line, cells[0], cells[1], grade


def _smart(folder: Path) -> Parts:
    """The .ALL, .QRY and .REL files of the SMART collections (Cranfield's are cran.all.1400, cran.qry, cranqrel)."""
    files = [_named(folder, r"\.all(\.|$)"), _named(folder, r"\.(qry|que)$"), _named(folder, r"(\.rel|qrels?)$")]
    documents, queries = (_fields(file) for file in files[:2])
    rows, notes = list(_rel(files[2])), []
    if "cran" in files[2].name.lower():
        rows = [
            (line, query, document, CRANFIELD_WORST - grade if grade > 0 else 0)
            for line, query, document, grade in rows
        ]
        notes.append("Cranfield's grades, 1 the best to 4, are read as 4 to 1")
    asked, named, places = {row[1] for row in rows}, {name for name, _ in queries}, range(1, len(queries) + 1)
    if asked - named and asked <= set(map(str, places)):
        lost = counted(sorted(asked - named, key=int))
        notes.append(f"queries are known by their place: their own numbers lack {lost} of the judgements")
        queries = [(str(place), text) for place, (_, text) in zip(places, queries, strict=True)]
    return files, documents, queries, {SCORED: (files[2], rows)}, notes


def _named(folder: Path, pattern: str) -> Path:
    found = [file for file in sorted(folder.iterdir()) if re.search(pattern, file.name, re.IGNORECASE)]
    if len(found) != 1:
        raise _unfit(folder, f"has no corpus.jsonl, and {len(found)} files where one like {pattern!r} is needed")
    return found[0]


def _fields(file: Path) -> Texts:
    """(number, title and text) of each part that begins with .I and its number."""
    pieces = PART.split(text_of(file))
    if len(pieces) < 3:
        raise _line_unfit(file, 1, "begins no document: there is no line of .I and a number in it")
    found = []
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        marks = FIELD.split(body)
        parts = [" ".join(text.split()) for mark, text in zip(marks[1::2], marks[2::2], strict=True) if mark in "TW"]
        found.append((_number(name), " ".join(part for part in parts if part)))
    return found


def _rel(file: Path) -> Iterator[tuple[int, str, str, int]]:
    """Query, document and a grade; or as TREC has it query, 0, document and grade; or as CISI has it query, document
    and two zeros, of relevant documents alone."""
    lines = [(line, text.split()) for line, text in enumerate(text_of(file).split("\n"), 1) if text.strip()]
    trec = all(len(cells) == 4 and cells[1] == "0" for _, cells in lines)
    for line, cells in lines:
        plain = len(cells) == 4 and _grade(cells[3]) == 0 and "." in cells[3]
        grade = 1 if plain else _grade(cells[-1])
        if grade is None or not (trec or plain or len(cells) == 3):
            raise _line_unfit(file, line, "is not query, document and grade, nor in the form of TREC or CISI")
        yield line, _number(cells[0]), _number(cells[2] if trec else cells[1]), grade


def _number(text: str) -> str:
    """Cranfield's 001 is 1."""
    return text.lstrip("0") or "0"


def _grade(text: str) -> int | None:
    """A whole number of at most six digits; None where there is none."""
    found = re.fullmatch(r"\s*(-?[0-9]{1,6})(?:\.0*)?\s*", text)
    return int(found[1]) if found else None


def _is_number(text: str) -> bool:
    """Whatever its form: also one that is no grade, such as 1.5, 1,5 or nan."""
    return re.match(r"\s*[-+]?([.,]?\d|(nan|inf|infinity)\s*$)", text, re.IGNORECASE) is not None


def _unfit(folder: Path, what: str) -> UserError:
    needed = "Needed are corpus.jsonl, queries.jsonl and qrels/test.tsv, or a .ALL, a .QRY and a .REL file."
    return UserError("retrieval-folder-unfit", f"The folder {folder} {what}.", needed, "Name another folder.")


def _line_unfit(file: Path, line: int, what: str) -> UserError:
    return UserError("retrieval-line-unfit", f"{file}, line {line}: it {what}.", "Correct that line.")
