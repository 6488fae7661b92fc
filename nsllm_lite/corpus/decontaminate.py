"""Evaluation items inside training documents, so that no model is trained on its own test.

An item is a string of at least 8 words in an evaluation file, or a line of one (the question above its choices). It is
found in a document that holds at least 0.4 of its word 5-grams, and at least 10 of them (all, where it has fewer). So
an abstract is found with every tenth word changed, a sentence of 20 words nearly as it stands, a short title only word
for word. In Chinese and Japanese each two neighbouring characters are a word, so an item has at least 14 characters.

Instructions and prompt templates are no items: strings that many records of a file repeat are left out, and words
inside 5-grams that many records of a file share are cut away.

Measured: with every tenth word changed 99% of the abstracts are found, 73% of single sentences. With
93,315 sentences and titles of real papers as items, 253 papers hold one that is not their own, nearly all of them by
passages shared with a sister paper.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import sha256_json
from nsllm_lite.corpus.files.archives import Opened, open_files, seekable
from nsllm_lite.corpus.files.opening import Unread, head_of, open_text, require_whole
from nsllm_lite.corpus.files.streams import ERRORS
from nsllm_lite.corpus.shingles import SHINGLE_WORDS, shingles_of_each, words_of
from nsllm_lite.corpus.texts import clean
from nsllm_lite.errors import UserError
from nsllm_lite.formats.records import RecordError, iter_values
from nsllm_lite.formats.scripts import UNSPACED

MIN_WORDS = 8
UNSPACED_WORD = 0.62  # of an English word that each two characters of Chinese or Japanese count as: 13 are 8
MIN_LONG_WORDS = 4  # different ones of 3 letters or more, in a short item: "x 1 x 2 x 3 x 4" stands in many papers
MIN_CONTAINMENT = 0.4
MIN_SHARED = 10  # 5-grams, 14 words in a row
# A 5-gram that this many records of a file share, or half of them in a small file, is template or stock phrase. A whole
# string is repeated more often before it is an instruction: a passage may well stand before a dozen questions.
TEMPLATE_RECORDS = 10
CONSTANT_SHARE = 0.05
EDGE_SHARE = 0.5  # of the records that begin or end with the same few words ("Answer:"), for these to be template
BLOCK = 200  # lines at a time
MAX_COLUMNS = 6  # of a word and its tags
ALMOST_ONE = 0.999  # for the rounding of a sum of shares
FILTER_BITS = 16  # bits of the prefilter for one 5-gram: 1 in 16 foreign 5-grams passes, or fewer

FORMATS = "JSON, JSON lines, Parquet, CSV, TSV or plain text"

Texts = Iterable[tuple[int, str]]  # the number of the record, and a text in it


class Item(NamedTuple):
    number: int  # of its record in the file
    shingles: np.ndarray


class Index:
    """Items by their 5-grams: about 22 bytes for each 5-gram of an item, so 4 to 5 KB for an abstract.

    Plain arrays, which pickle fast. `sha256` identifies the evaluation files, `num_items` counts the items of each.
    """

    def __init__(self, items: dict[str, list[Item]], sha256: str):
        self.sha256 = sha256
        self.num_items = {file: len(found) for file, found in items.items()}
        self._files = list(items)
        flat = [item for found in items.values() for item in found]
        self._file_of = np.repeat(np.arange(len(items)), [len(found) for found in items.values()]).astype(np.int32)
        self._numbers = np.array([item.number for item in flat], np.int32)
        self._sizes = np.array([len(item.shingles) for item in flat], np.int32)
        self._needed = np.ceil(np.maximum(MIN_CONTAINMENT * self._sizes, np.minimum(MIN_SHARED, self._sizes)))

        every = np.concatenate([*(item.shingles for item in flat), np.empty(0, np.uint64)])
        order = np.argsort(every, kind="stable")
        hashes, starts = np.unique(every[order], return_index=True)
        self._hashes = np.append(hashes, np.uint64(2**64 - 1))  # a sentinel that belongs to no item: every search ends
        self._starts = np.append(starts, [len(every)] * 2).astype(np.int32)
        self._owners = np.repeat(np.arange(len(flat), dtype=np.int32), self._sizes)[order]
        # The largest share of an item's needed 5-grams that this 5-gram is: where the shares of a document sum to less
        # than 1, no item is in it.
        self._meets = np.zeros(len(self._hashes), np.float32)
        self._meets[:-1] = np.maximum.reduceat(1 / self._needed[self._owners], starts) if len(flat) else 0
        bits = max(3, int(np.ceil(np.log2(FILTER_BITS * len(self._hashes)))))
        self._shift = np.uint64(64 - bits)
        present = np.zeros(1 << bits, np.bool_)
        present[(hashes >> self._shift).view(np.int64)] = True
        self._filter = np.packbits(present, bitorder="little")

    def __len__(self) -> int:
        return len(self._sizes)

    @classmethod
    def load(cls, paths: Sequence[str | Path]) -> "Index":
        """The items of evaluation files: JSON, JSON lines, Parquet, CSV, TSV or plain text, packed or not.

        Raises:
            UserError: a file is absent, unreadable, empty, or without an item.
        """
        names = _names([Path(path) for path in paths])
        texts = (found for name, path in sorted(names.items()) for found in _texts_of(path, name))
        items = {name: _items(found, name) for name, found in texts}
        return cls(items, sha256_json({name: sha256_file(path) for name, path in names.items()}))

    def find(self, shingles: np.ndarray) -> tuple[str, float] | None:
        """The item that a document holds most of, as "FILE#RECORD", and the share of its 5-grams; or None.

        `shingles` are the document's, as `shingles_of` gives them. The record is the line of a plain text, the
        row of a table with its header, the number of the object in JSON.
        """
        slots = (shingles >> self._shift).view(np.int64)
        bits = self._filter.take(slots >> 3) >> (slots.astype(np.uint8) & 7)
        passed = shingles[(bits & 1).view(np.bool_)]
        rows = self._hashes.searchsorted(passed)
        rows = rows[self._hashes.take(rows) == passed]
        if self._meets.take(rows).sum() < ALMOST_ONE:
            return None
        owners = np.concatenate([self._owners[self._starts[row] : self._starts[row + 1]] for row in rows.tolist()])
        found, shared = np.unique(owners, return_counts=True)
        enough = shared >= self._needed[found]
        if not enough.any():
            return None
        found, shared = found[enough], shared[enough]
        best = np.lexsort((found, -shared, -shared / self._sizes[found]))[0]  # of equal shares the longer item
        item = found[best]
        return f"{self._files[self._file_of[item]]}#{self._numbers[item]}", float(shared[best] / self._sizes[item])


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """{name: path}; a name is the shortest end of its path that no other path has."""
    paths = sorted({path.absolute() for path in paths})
    for path in paths:
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "does not exist"
            found = f"Evaluation file {path} {found}."
            todo = "Name the evaluation files one by one in the recipe."
            raise UserError("decontaminate-file-absent", found, "Decontamination needs a file.", todo)
    for depth in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        names = {"/".join(path.parts[-depth:]): path for path in paths}
        if len(names) == len(paths):
            return names
    return {}


def _texts_of(path: Path, name: str) -> Iterator[tuple[str, Texts]]:
    """(name, texts) of the file, or of each file in it where it is an archive.

    Raises:
        UserError: it is empty or cannot be read. No record is passed over: its item would go unseen.
    """
    for opened in open_files(path, name):
        if isinstance(opened, Unread):
            raise _unreadable(path, f"({opened.message})")
        try:
            texts = list(read_texts(opened))
        except (*ERRORS, RecursionError, csv.Error, pa.ArrowException) as error:
            raise _unreadable(path, f"as {FORMATS} ({type(error).__name__}: {error})") from error
        yield opened.name, texts


def _unreadable(path: Path, why: str) -> UserError:
    found = f"Evaluation file {path} cannot be read {why}."
    needed = "Decontamination needs every record of it."
    return UserError("decontaminate-file-unreadable", found, needed, "Correct it, or fetch it again.")


def read_texts(opened: Opened) -> Texts:
    """All texts of a file that has been opened. Damage raises an exception, mostly ValueError."""
    if opened.head.startswith(b"PAR1"):
        with seekable(opened) as file:
            return _json_texts(pq.read_table(file).to_pylist())
    head = head_of(opened.head)
    if not head:
        raise ValueError("the file is empty" if head == "" else "binary data")  # caught by _texts_of
    stream = open_text(opened.stream, opened.head)
    content = stream.read().lstrip("\ufeff")
    require_whole(stream)
    name = opened.name.lower()
    if head[0] in "[{" and (value := _json(content, ".json" in name)) is not None:
        return _json_texts(value)
    if ".csv" not in name and ".tsv" not in name:
        return _plain_texts(content)
    lines = content.splitlines(keepends=True)
    rows = csv.reader(lines, delimiter=max("\t,;", key=lines[0].count), strict=True)
    return ((number, cell) for number, row in enumerate(rows, start=1) for cell in row)


def _json(content: str, sure: bool) -> Any:
    """The value of a JSON file, or the list of those in its lines. None where it is no JSON and need not be."""
    values = [value for _, value in iter_values(io.StringIO(content))]
    bad = next((value for value in values if isinstance(value, RecordError)), None)
    if bad and not sure and (bad.is_last or bad is values[0]):
        return None
    if bad:
        found = f"line {bad.line} is not JSON: {type(bad.cause).__name__}: {bad.cause}"
        raise ValueError(found)  # caught by _texts_of
    return values if len(values) != 1 or content.startswith("[") else values[0]


def _json_texts(value: Any) -> Texts:
    for number, record in _records(value):
        yield from ((number, text) for text in _strings(record))


def _records(value: Any) -> Iterable[tuple[int, Any]]:
    """Numbered records: the members of a list, or of the lists in {"version": 1, "data": [...]}, the rest then being 0.

    Columns, {"question": [...], "answer": [...]} or {"question": {"0": ...}}, are turned into rows.
    """
    if not isinstance(value, dict):
        return enumerate(value if isinstance(value, list) else [value], start=1)
    columns = [[*v.values()] if isinstance(v, dict) and "0" in v else v for v in value.values()]
    table = len(columns) > 1 and all(isinstance(c, list) and len(c) == len(columns[0]) > 1 for c in columns)
    if table and not _nested(columns[0]):
        return enumerate((dict(enumerate(row)) for row in zip(*columns, strict=True)), start=1)
    members: list[Any] = []
    rest = []
    for v in value.values():
        if isinstance(v, list) and _nested(v):
            members += v
        else:
            (members if isinstance(v, dict) else rest).append(v)
    return enumerate([{str(n): v for n, v in enumerate(rest)}, *members]) if members else [(1, value)]


def _nested(value: list) -> bool:
    return bool(value) and all(isinstance(member, dict | list) for member in value)


def _strings(record: Any) -> Iterator[str]:
    """All strings inside a record; strings in one list (the sentences of an abstract) also as one text."""
    waiting = [record]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
            if len(value) > 1 and all(isinstance(member, str) for member in value):
                yield " ".join(value)


def _plain_texts(content: str) -> Texts:
    """Each line, the parts of a line that tabs divide, and each paragraph of several lines.

    Where a paragraph is a column of words with their tags, as CoNLL files have it, it is the words alone.
    """
    lines = enumerate(content.splitlines(), start=1)
    for blank, group in groupby(lines, key=lambda line: not line[1].strip()):
        block = [] if blank else list(group)
        for number, line in block:
            yield from ((number, part) for part in line.split("\t"))
        if len(block) > 1:
            columns = [line.split() for _, line in block]
            tagged = 1 <= len(columns[0]) <= MAX_COLUMNS and len({len(cells) for cells in columns}) == 1
            yield block[0][0], " ".join(cells[0] if tagged else " ".join(cells) for cells in columns)


def _items(texts: Texts, name: str) -> list[Item]:
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    records = set()
    for number, text in texts:
        records.add(number)
        for part in dict.fromkeys((text, *text.split("\n"))):
            line = " ".join(words_of(clean.clean_line(part)))
            num_words = line.count(" ") + 1
            if num_words >= MIN_WORDS and not line.isascii():
                num_words -= (1 - UNSPACED_WORD) * sum(UNSPACED.match(word) is not None for word in line.split())
            if num_words >= MIN_WORDS:
                counts[line] += 1
                first.setdefault(line, number)
    limit = max(3, min(TEMPLATE_RECORDS, len(records) // 2))
    constant = max(limit, CONSTANT_SHARE * counts.total())
    distinct = [line for line, count in counts.items() if count < constant]
    words = [line.split() for line in distinct]
    edge_limit = max(limit, EDGE_SHARE * len(records))
    template = _template_words(words, [first[line] for line in distinct], limit, edge_limit)
    ends = np.cumsum([len(own) for own in words], dtype=np.int64)
    items: dict[bytes, Item] = {}  # a text and its one long line are the same item
    shingles_of_lines = _shingles_between(words, np.split(template, ends)[:-1])
    for line, own, shingles in zip(distinct, words, shingles_of_lines, strict=True):
        long = {word for word in own if (len(word) > 2 and not word.isdigit()) or UNSPACED.match(word)}
        is_phrase = len(shingles) > MIN_WORDS - SHINGLE_WORDS and len(long) >= MIN_LONG_WORDS
        if len(shingles) >= MIN_SHARED or is_phrase:
            items.setdefault(shingles.tobytes(), Item(first[line], shingles))
    if not items:
        found = f"Evaluation file {name} holds no item in {len(records)} records."
        needed = f"Decontamination needs texts of at least {MIN_WORDS} words that are not the same in all records."
        raise UserError("decontaminate-file-no-item", found, needed, "Name another file.")
    return [*items.values()]


def _shingles_between(lines: Sequence[list[str]], templates: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Of each line the shingles of the stretches between its words of the template, of which `templates` are masks."""
    for first in range(0, len(lines), BLOCK):
        stretches: list[str] = []
        owners: list[int] = []
        block = lines[first : first + BLOCK]
        for number, (words, mask) in enumerate(zip(block, templates[first : first + BLOCK], strict=True)):
            edges = np.flatnonzero(np.diff(mask, prepend=True, append=True)).reshape(-1, 2).tolist()
            own = [" ".join(words[start:end]) for start, end in edges if end - start >= SHINGLE_WORDS]
            stretches += own
            owners += [number] * len(own)
        found: list[list[np.ndarray]] = [[np.empty(0, np.uint64)] for _ in block]
        for number, (shingles, _) in zip(owners, shingles_of_each(stretches), strict=True):
            found[number].append(shingles)
        yield from (np.unique(np.concatenate(of_line)) for of_line in found)


def _template_words(texts: Sequence[list[str]], records: Sequence[int], limit: int, edge_limit: float) -> np.ndarray:
    """For each word of all texts in turn, whether it lies in a 5-gram that stands in `limit` records or more.

    Every text stands between four empty words, so that the first and last words are 5-grams too: those that
    `edge_limit` records share.
    """
    pad = [""] * (SHINGLE_WORDS - 1)
    ids = {"": 0}
    flat = np.array([ids.setdefault(w, len(ids)) for words in texts for w in (*pad, *words, *pad)], np.uint64)
    lengths = np.array([len(words) + 2 * len(pad) for words in texts], np.int64)
    text_of = np.repeat(np.arange(len(texts)), lengths)
    count = max(0, len(flat) - len(pad))
    whole = text_of[:count] == text_of[len(flat) - count :]  # not across two texts
    record_of = np.repeat(np.array(records, np.int64), lengths)[:count]
    grams = np.zeros(count, np.uint64)
    at_edge = np.zeros(count, np.bool_)
    for place in range(SHINGLE_WORDS):  # FNV-1a, a word a step
        grams = (grams ^ (flat[place : place + count] + np.uint64(1))) * np.uint64(0x100000001B3)
        at_edge |= flat[place : place + count] == 0
    order = np.lexsort((record_of, grams))
    order = order[whole[order]]
    new = np.ones(len(order), np.bool_)  # not the same 5-gram in the same record again
    new[1:] = (np.diff(grams[order]) != 0) | (np.diff(record_of[order]) != 0)
    values, num_records = np.unique(grams[order[new]], return_counts=True)
    inner = whole & ~at_edge & np.isin(grams, values[num_records >= limit])
    outer = whole & at_edge & np.isin(grams, values[num_records >= edge_limit])
    inside = np.zeros(len(flat), np.bool_)
    for place in range(SHINGLE_WORDS):
        inside[place : place + count] |= inner | outer
    return inside[flat != 0]
