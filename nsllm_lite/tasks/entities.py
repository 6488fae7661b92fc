"""Named entities: files of words and tags, strict entity F1, and the floor of a dictionary.

An entity is (first word, word behind its last, type). Gold tags are brought to IOB2, whatever scheme a file has;
answers are read strictly as IOB2: a tag I- that follows no tag of its type begins no entity. seqeval's default and
nervaluate count such an answer as right (measured: 1.0 where strict is 0.0).
Source: Ramshaw and Marcus, "Text chunking using transformation-based learning", 1995 (IOB1); Tjong Kim Sang and
Veenstra, "Representing text chunks", 1999 (IOB2, IOE, IOBES).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.formats.examples import Examples, counted, paper_of, read_rows, text_in, text_of, unfit
from nsllm_lite.tasks.scores import Metric, Results

TAG = re.compile(r"O|[BIESLU](?:-\S+)?")
PLAIN = {"E": "I", "L": "I", "S": "B", "U": "B"}  # of IOBES and BILOU
WORD = re.compile(r"\w+|[^\w\s]")
UNTYPED = "entity"  # the type of tags that are B, I and O alone
MISSING_SHARE = 0.01  # of the words may have no tag; more is another kind of file
FOLDS = 5


class Sentence(NamedTuple):
    """Words with their tags in IOB2. `paper` is its number in files that part documents, or its name."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    paper: str = ""


Span = tuple[int, int, str]


def read_entities(path: Path) -> Examples[Sentence]:
    """Sentences of a file of words and tags (tab or blanks between, the tag last, an empty line behind a sentence), or
    of records of `text` and `spans` [{start, end, label}] (.jsonl, .json).

    Raises UserError where a line is not read, a tag is none, or there are no entities at all.
    """
    found = _from_spans(path) if path.suffix.lower() in (".jsonl", ".json") else _from_tags(path)
    if not any(tag != "O" for sentence in found.items for tag in sentence.tags):
        held = f"{path} holds {len(found.items):,} sentences and no entity."
        raise UserError("ner-no-entities", held, "Name a file of words with tags such as B-Material.")
    return found


def entities(tags: Sequence[str]) -> list[Span]:
    """The entities of tags, read strictly as IOB2."""
    found, start, kind = [], -1, ""
    for place, tag in enumerate((*tags, "O")):
        if kind and tag != f"I-{kind}":
            found.append((start, place, kind))
            kind = ""
        if tag.startswith("B-"):
            start, kind = place, tag[2:]
    return found


def as_iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags of IOB1, IOB2, IOBES or BILOU as IOB2: an I- that follows no tag of its type begins an entity."""
    found, before = [], ""
    for tag in tags:
        mark, _, kind = tag.partition("-")
        kind = "" if tag == "O" else kind or UNTYPED
        begins = PLAIN.get(mark, mark) == "B" or kind != before
        found.append(f"{'B' if begins else 'I'}-{kind}" if kind else "O")
        before = "" if mark in "ELSU" else kind  # behind the last word of an entity another one begins
    return tuple(found)


def scheme_of(sentences: Iterable[Sequence[str]]) -> tuple[str, int]:
    """(name of the scheme, tags that are broken in it). IOB1 has B- only where an entity follows one of its own type
    at once; in IOB2 every entity begins with B-, and an I- that begins one is broken."""
    marks, begun_by_i, alone_b = Counter[str](), 0, 0
    for tags in sentences:
        before = "O"
        for tag in tags:
            mark, kind = tag[0], tag[2:]
            marks[mark] += 1
            follows = before != "O" and before[2:] == kind and before[0] not in "ELSU"
            begun_by_i += mark in "IEL" and not follows
            alone_b += mark == "B" and not follows
            before = tag
    if marks.keys() & PLAIN.keys():
        return ("BILOU" if marks.keys() & {"L", "U"} else "IOBES"), begun_by_i
    return ("IOB1", 0) if begun_by_i and not alone_b else ("IOB2", begun_by_i)


def num_unbegun(sentences: Iterable[Sequence[str]]) -> int:
    """Tags I- that follow no tag of their type: read strictly they are in no entity."""
    pairs = (pair for tags in sentences for pair in zip(("O", *tags), tags, strict=False))
    return sum(tag.startswith("I-") and before[1:] != tag[1:] for before, tag in pairs)


def tallies(gold: Sequence[Sequence[str]], given: Sequence[Sequence[str]], types: Sequence[str]) -> Results:
    """Of each sentence (sentences, types, 3): entities that are right, that are there, that were given. Raises
    UserError where the answers are not one tag a word."""
    place = {kind: number for number, kind in enumerate(types)}
    found = np.zeros((len(gold), len(types), 3), np.int64)
    if len(gold) != len(given) or any(len(one) != len(other) for one, other in zip(gold, given, strict=True)):
        raise UserError("ner-tags-uneven", "The answers are not one tag for each word.", "Answer every word.")
    for number, (one, other) in enumerate(zip(gold, given, strict=True)):
        there, said = set(entities(one)), set(entities(other))
        for column, spans in enumerate((there & said, there, said)):
            for _, _, kind in spans:
                found[number, place[kind], column] += 1
    return Results(None, found)


def f1(results: Results) -> float:
    """Micro F1 over all entities; 0 where none is right."""
    right, there, said = results.given.sum(axis=(0, 1))
    return float(2 * right / max(there + said, 1))


def macro_f1(results: Results) -> float:
    """Mean F1 over the types that there are in gold or answers."""
    return float(np.mean([value for value in by_type(results) if not np.isnan(value)] or [0.0]))


def by_type(results: Results) -> np.ndarray:
    """F1 of each type; NaN where it is neither in gold nor in the answers."""
    right, there, said = results.given.sum(axis=0).T
    return np.where(there + said > 0, 2 * right / np.maximum(there + said, 1), np.nan)


def precision(results: Results) -> float:
    right, _, said = results.given.sum(axis=(0, 1))
    return float(right / max(said, 1))


def recall(results: Results) -> float:
    right, there, _ = results.given.sum(axis=(0, 1))
    return float(right / max(there, 1))


def _type_f1(results: Results, number: int) -> float:
    return float(by_type(results)[number])


def figures(results: Results, types: Sequence[str]) -> dict[str, tuple[Results, Metric]]:
    """{metric: (what it is computed from, sentence by sentence, and how)}, the first the main one."""
    common: dict[str, Metric] = {"f1": f1, "macro_f1": macro_f1, "precision": precision, "recall": recall}
    each = {f"f1 {kind}": partial(_type_f1, number=number) for number, kind in enumerate(types)}
    return {name: (results, metric) for name, metric in (common | each).items()}


def dictionary(sentences: Iterable[Sentence]) -> dict[tuple[str, ...], str]:
    """{words of an entity, in small letters: the type that it has most often}."""
    seen: dict[tuple[str, ...], Counter[str]] = {}
    for sentence in sentences:
        for start, end, kind in entities(sentence.tags):
            words = tuple(word.lower() for word in sentence.words[start:end])
            seen.setdefault(words, Counter())[kind] += 1
    return {words: min(kinds, key=lambda kind: (-kinds[kind], kind)) for words, kinds in seen.items()}


def look_up(words: Sequence[str], known: dict[tuple[str, ...], str], longest: int) -> list[str]:
    """Tags by a dictionary: from left to right the longest entity of it."""
    small, tags, place = tuple(word.lower() for word in words), ["O"] * len(words), 0
    while place < len(words):
        for length in range(min(longest, len(words) - place), 0, -1):
            if kind := known.get(small[place : place + length]):
                tags[place : place + length] = [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
                place += length
                break
        else:
            place += 1
    return tags


def dictionary_floor(test: Sequence[Sentence], train: Sequence[Sentence] = ()) -> list[list[str]]:
    """The tags of the test sentences by a dictionary of the training entities; where there is no training file, by one
    of the other four fifths of the test sentences, cut in order so that papers mostly stay whole."""
    found: list[list[str]] = [[] for _ in test]
    for fold in range(1 if train else FOLDS):
        places = [place for place in range(len(test)) if train or place * FOLDS // len(test) == fold]
        held = set(places)
        known = dictionary(train or [one for place, one in enumerate(test) if place not in held])
        longest = max(map(len, known), default=0)
        for place in places:
            found[place] = look_up(test[place].words, known, longest)
    return found


def _from_tags(path: Path) -> Examples[Sentence]:
    """A file of words and tags."""
    text = text_of(path)
    divider = r"\t" if "\t" in text else r"[ \t]+"
    lines = [(number, line.strip(" ")) for number, line in enumerate(text.split("\n"), 1)]
    cells = [(number, re.split(divider, line) if line.strip() else []) for number, line in lines]
    width = Counter(len(row) for _, row in cells if row).most_common(1)[0][0] if any(row for _, row in cells) else 0
    if width < 2:
        raise UserError("ner-file-unfit", f"{path} has no columns.", "Needed are a word and its tag in each line.")
    raw: list[tuple[list[str], list[str], str]] = [([], [], "")]
    paper, untagged, comments = 0, [], 0
    for number, row in cells:
        if not row or row[0] == "-DOCSTART-":
            paper += bool(row)
            raw += [([], [], str(paper or ""))]
            continue
        if row[0].startswith("#") and not TAG.fullmatch(row[-1]):
            comments += 1
            continue
        word, tag = _word_and_tag(path, number, row, width)
        untagged += [number] if tag is None else []
        raw[-1][0].append(word)
        raw[-1][1].append(tag or "O")
    raw = [one for one in raw if one[0]]
    num_words = sum(len(words) for words, _, _ in raw)
    if len(untagged) > MISSING_SHARE * num_words:
        found = f"{path}: of {num_words:,} words have no tag: lines {counted(untagged)}."
        raise UserError("ner-tags-missing", found, "Give each word its tag, O where it is in no entity.")
    scheme, broken = scheme_of(tags for _, tags, _ in raw)
    notes = [f"{scheme}, read as IOB2"] if scheme != "IOB2" else []
    if broken:
        notes.append(f"{broken:,} broken tags, an I- that follows no tag of its type, begin an entity")
    if untagged:
        notes.append(f"words without a tag are in no entity: lines {counted(untagged)}")
    if comments:
        notes.append(f"{comments:,} lines of comments")
    found = tuple(Sentence(tuple(words), as_iob2(tags), place) for words, tags, place in raw)
    return Examples(path, found, tuple(notes))


def _word_and_tag(path: Path, number: int, row: list[str], width: int) -> tuple[str, str | None]:
    """The tag is None where there is a word alone. A word of two columns may hold blanks."""
    word, tag = row[0], row[-1]
    if len(row) != width:
        if len(row) == width - 1 and not (len(row) > 1 and TAG.fullmatch(tag)):
            return word, None
        if width != 2 or not TAG.fullmatch(tag):
            raise unfit(path, number, f"has {len(row)} columns, and most have {width}")
        word = " ".join(row[:-1])
    if not tag:
        return word, None
    if not TAG.fullmatch(tag):
        raise unfit(path, number, f"has {tag!r} in its last column, which is no tag (O, B-Material, I-Material)")
    return word, tag


def _from_spans(path: Path) -> Examples[Sentence]:
    """Records of text and spans of characters; words are runs of letters and digits, and each other sign alone."""
    records, notes = read_rows(path, ("text", "spans"))
    found, widened, nested = [], [], []
    for line, fields in records:
        text = text_in(path, line, fields, "text")
        words = [(match.start(), match.end()) for match in WORD.finditer(text)]
        tags = ["O"] * len(words)
        spans = [_span(path, line, text, span) for span in _list(path, line, fields["spans"])]
        for start, end, kind in sorted(spans, key=lambda span: (span[0] - span[1], span)):  # the longest first
            inside = [place for place, (first, last) in enumerate(words) if first < end and last > start]
            if not inside:
                raise unfit(path, line, f"has a span {start} to {end} without a word in it")
            if any(tags[place] != "O" for place in inside):
                nested.append(line)
                continue
            widened += [line] * ((words[inside[0]][0], words[inside[-1]][1]) != (start, end))
            for place in inside:
                tags[place] = f"{'B' if place == inside[0] else 'I'}-{kind}"
        found.append(Sentence(tuple(text[first:last] for first, last in words), tuple(tags), paper_of(fields)))
    if widened:
        notes.append(f"spans that do not end where words do are brought there: lines {counted(widened)}")
    if nested:
        notes.append(f"spans within or across longer ones are not used: lines {counted(nested)}")
    return Examples(path, tuple(found), tuple(notes))


def _list(path: Path, line: int, value: object) -> list:
    if not isinstance(value, list):
        raise unfit(path, line, "has `spans` that are no list")
    return value


def _span(path: Path, line: int, text: str, span: object) -> Span:
    values = [span.get(name) for name in ("start", "end", "label")] if isinstance(span, dict) else []
    if [type(value) for value in values] != [int, int, str]:
        raise unfit(path, line, "has a span that is not {start, end, label} with two whole numbers and a word")
    start, end, kind = values
    if not 0 <= start < end <= len(text) or not kind or re.search(r"\s", kind):
        raise unfit(path, line, f"has the span {start} to {end} of {kind!r}, and its text has {len(text)} characters")
    return start, end, kind
