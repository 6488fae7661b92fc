"""Instruction data: records of files -> examples with a loss on their answers alone; every record is counted."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from nsllm_lite.errors import UserError
from nsllm_lite.formats.records import RecordError, read_records
from nsllm_lite.formats.rows import Row
from nsllm_lite.kernels.linear_cross_entropy import IGNORE
from nsllm_lite.models import causal
from nsllm_lite.models.causal import Batch
from nsllm_lite.safety import printable
from nsllm_lite.tasks.items import normal
from nsllm_lite.terminal import as_text
from nsllm_lite.train.conversations import Conversation, LeftOutError, Reader
from nsllm_lite.train.template import Template

SUFFIXES = (".json", ".jsonl")
MAX_SHOWN = 8  # parts in a line
MAX_PARTS = 1_000  # that are counted by name
OTHER_PARTS = "other keys"
MIN_QUESTION_CHARS = 40  # letters and digits: a shorter text ("yes", a formula) says nothing of its source


@dataclass(frozen=True, slots=True)
class Example:
    """A record in tokens, or a part of its turns; `is_answer` marks the tokens whose loss counts."""

    name: str
    source: str
    document: str
    input_ids: np.ndarray  # (T,) int64
    is_answer: np.ndarray  # (T,) bool
    is_whole: bool = True  # with the record's last answer
    asked: tuple[bytes, ...] = ()  # a hash of each user's turn of its record; empty where that is short

    @property
    def prompt(self) -> list[int]:
        """The tokens before the first answer."""
        return self.input_ids[: int(self.is_answer.argmax())].tolist()

    @property
    def answer(self) -> list[int]:
        """The tokens of the first answer, its end token among them."""
        behind = self.is_answer[len(self.prompt) :]
        length = len(behind) if behind.all() else int(behind.argmin())
        return self.input_ids[len(self.prompt) :][:length].tolist()


@dataclass(slots=True)
class Ledger:
    """Counts of records by source: in = used + left out, with the reason of each that was left out, and how many of the
    used ones have a part that is in no example."""

    used: Counter[str] = field(default_factory=Counter)
    left_out: defaultdict[str, Counter[str]] = field(default_factory=partial(defaultdict, Counter))
    names: list[dict[str, str]] = field(default_factory=list)  # {"name", "reason"} of each that was left out
    unused: defaultdict[str, Counter[str]] = field(default_factory=partial(defaultdict, Counter))

    num_examples: int = 0

    def use(self, source: str, num_examples: int, unused: set[str]) -> None:
        self.used[source] += 1
        self.num_examples += num_examples
        parts = self.unused[source] if unused else {}
        for part in map(writable, sorted(unused)):
            parts[part if part in parts or len(parts) < MAX_PARTS else OTHER_PARTS] += 1

    def leave_out(self, source: str, name: str, reason: LeftOutError) -> None:
        why = writable(str(reason))
        self.left_out[source][why] += 1
        found = {"found": writable(reason.error.found)} if reason.error else {}
        self.names.append({"name": name, "reason": why, **found})

    def counts(self) -> dict[str, dict]:
        """{source: {"in", "used", "left_out": {reason: count}, "unused": {part: count}}}, the last where it is any."""
        counts = {}
        for source in sorted({*self.used, *self.left_out}):
            used, reasons = self.used[source], self.left_out[source]
            counts[source] = {"in": used + reasons.total(), "used": used, "left_out": dict(sorted(reasons.items()))}
            if source in self.unused:
                counts[source]["unused"] = dict(self.unused[source].most_common())
        return counts

    def lines(self, data: str) -> list[dict[str, str | int]]:
        """Those of left_out.json: each record that was left out, and each part that is in no example."""
        parts = [(source, *part) for source in sorted(self.unused) for part in self.unused[source].most_common()]
        lines = [{"data": data, "source": source, "unused": part, "records": count} for source, part, count in parts]
        return [{"data": data, **line} for line in self.names] + lines

    def words(self) -> str:
        """The commonest parts that are in no example, and how many records are several; empty where there are none."""
        total, used = sum(self.unused.values(), Counter()), self.used.total()
        shown = ", ".join(f"{part} {count:,}" for part, count in total.most_common(MAX_SHOWN))
        more = f", and {len(total) - MAX_SHOWN:,} more" if len(total) > MAX_SHOWN else ""
        lines = [f"In no example (records): {shown}{more}"] if total else []
        if self.num_examples > used:
            lines.append(
                f"{used:,} records make {self.num_examples:,} examples: the chat template rewrites earlier turns"
            )
        return printable("\n".join(lines))

    def table(self) -> str:
        lines = []
        for source, row in self.counts().items():
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in row["left_out"].items())
            lines.append((source, f"{row['in']:,}", f"{row['used']:,}", reasons))
        return as_text(("source", "in", "used", "left out"), lines, right=("in", "used"))

    @property
    def share_left_out(self) -> float:
        return len(self.names) / max(1, len(self.names) + self.used.total())


def files_of(names: Iterable[str], key: str) -> list[Path]:
    """The data files of `names`, each a file or a folder of *.json and *.jsonl; an existing folder may be empty. Raises
    UserError where one is absent."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            files += sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        elif path.is_file():
            files.append(path)
        else:
            needed = "Needed are .json or .jsonl files (or a folder) of records with questions and answers."
            todo = "Correct the path; the tasks' own are made by `nsllm-lite tasks`."
            raise UserError("sft-data-missing", f"`{key}`: nothing at {name}.", needed, todo)
    return files


def records_of(path: Path) -> list[object]:
    """The values of a JSON list, or of JSON lines. Raises UserError where the file is empty, or is neither."""
    try:
        records = [value for _, value in read_records(path, allow_surrogates=True)]
    except RecordError as error:
        if isinstance(error.cause, UnicodeDecodeError):
            todo = "Convert it, or take it out of the recipe."
            raise UserError("sft-file-not-utf8", f"{path} is not UTF-8 ({error.cause}).", todo) from None
        found = f"{path}, line {error.line}: no JSON ({error.cause})."
        needed = "Needed is a JSON list of records, or one record a line."
        raise UserError("sft-file-not-json", found, needed, "Correct the file.") from None
    if not records:
        found = f"{path} is empty: there is nothing to train on."
        raise UserError("sft-file-empty", found, "Fill it, or take it out of the recipe.")
    return records


def read_examples(
    files: list[Path], template: Template, max_tokens: int, reader: Reader | None = None
) -> tuple[list[Example], Ledger]:
    """The examples of all files in order, and the ledger of their records. Nothing is cut short. Raises UserError where
    a file is empty or no JSON, or none of its records has a known form, known roles, or a place in the template."""
    examples, ledger, reader = [], Ledger(), reader or Reader()
    for path in files:
        refusals: list[UserError | None] = []
        records, used = records_of(path), 0
        for number, record in enumerate(records, start=1):
            where = f"{path}, record {number}"
            name = writable(reader.text(record, "id")) or f"{path.name}#{number}"
            try:
                talk = reader.read(record, where)
                made = [template.encode(pieces) for pieces in template.examples(talk, where)]
                if any(len(input_ids) > max_tokens for input_ids, _ in made):
                    raise LeftOutError("more than max_tokens")
            except LeftOutError as reason:
                ledger.leave_out(path.stem, name, reason)
                refusals.append(reason.error)
                continue
            used += 1
            ledger.use(path.stem, len(made), talk.unused)
            document = writable(reader.text(record, "document"))
            asked = tuple(question_hashes(talk, reader, record))
            for turn, (input_ids, is_answer) in enumerate(made, start=1):
                named = name if len(made) == 1 else f"{name} ({turn} of {len(made)})"
                whole = turn == len(made)
                examples.append(Example(named, path.stem, document, input_ids, is_answer, whole, asked))
        if not used and all(refusals) and (len(records) > 1 or len(files) == 1):
            reader.require_seen()
            raise refusals[0]
    return examples, ledger


def question_hashes(talk: Conversation, reader: Reader, record: object) -> Iterator[bytes]:
    """The hash of each user's turn in normal form, without the instruction before a record's own `input`; that of a
    short text is empty."""
    turns = [message["content"] for message in talk.messages if message["role"] == "user"]
    given = (reader.text(record, name).strip() for name in ("input", "context"))
    if own := [text for text in given if text and turns[-1].strip().endswith(text)]:
        turns[-1] = own[0]
    for text in map(normal, turns):
        is_long = len(text.replace(" ", "")) >= MIN_QUESTION_CHARS
        yield blake2b(text.encode(errors="replace"), digest_size=16).digest() if is_long else b""


def writable(text: str) -> str:
    """The text with a question mark for each half of a character, which no file takes."""
    return text.encode(errors="replace").decode()


def collate(examples: list[Example], device: str) -> Batch:
    """Examples laid end to end without padding; none sees another, and the targets are those of answers only."""
    rows = [Row(e.input_ids.astype(np.int32), [len(e.input_ids)], [e.name], [e.source], [0]) for e in examples]
    batch = causal.collate(rows, device)
    is_answer = torch.from_numpy(np.concatenate([*(e.is_answer for e in examples), [False]])[1:].copy()).to(device)
    batch.targets[~is_answer] = IGNORE
    return batch
