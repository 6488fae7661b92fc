"""Instruction data: records of files -> examples with a loss on their answers alone; every record is counted.

A record is {instruction, input, output} (`instruction` or `input` may be missing) or {messages: [{role, content}, ...]}
with roles system, user and assistant. Its text is split where an answer begins and after the token that ends it, and
each piece is tokenised by itself, so that a prompt has the same tokens with and without its answer.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from nsllm_lite.errors import UserError
from nsllm_lite.formats.records import RecordError, read_records
from nsllm_lite.formats.rows import Row
from nsllm_lite.kernels.linear_cross_entropy import IGNORE
from nsllm_lite.models import causal
from nsllm_lite.models.causal import Batch
from nsllm_lite.safety import render_chat
from nsllm_lite.tasks.items import plain_prompt
from nsllm_lite.terminal import as_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant")
SUFFIXES = (".json", ".jsonl")

NOT_THIS_FORMAT = "not this format"
EMPTY_PROMPT = "empty prompt"
EMPTY_ANSWER = "empty answer"


@dataclass(frozen=True, slots=True)
class Example:
    """One record in tokens; `is_answer` marks the tokens whose loss counts."""

    name: str
    source: str
    document: str
    input_ids: np.ndarray  # (T,) int64
    is_answer: np.ndarray  # (T,) bool

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
    """Counts of records by source: in = used + left out, with the reason of each that was left out."""

    used: Counter[str] = field(default_factory=Counter)
    left_out: defaultdict[str, Counter[str]] = field(default_factory=partial(defaultdict, Counter))
    names: list[dict[str, str]] = field(default_factory=list)  # {"name", "reason"} of each that was left out

    def counts(self) -> dict[str, dict]:
        """{source: {"in", "used", "left_out": {reason: count}}}"""
        counts = {}
        for source in sorted({*self.used, *self.left_out}):
            used, reasons = self.used[source], self.left_out[source]
            counts[source] = {"in": used + reasons.total(), "used": used, "left_out": dict(sorted(reasons.items()))}
        return counts

    def table(self) -> str:
        lines = []
        for source, row in self.counts().items():
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in row["left_out"].items())
            lines.append((source, f"{row['in']:,}", f"{row['used']:,}", reasons))
        return as_text(("source", "in", "used", "left out"), lines, right=("in", "used"))

    @property
    def share_left_out(self) -> float:
        return len(self.names) / max(1, len(self.names) + self.used.total())


class LeftOutError(Exception):
    """Why a record is no example; raised and caught in this file only."""


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
            needed = "Needed are .json or .jsonl files (or a folder) of {instruction, input, output} or {messages}."
            todo = "Correct the path; the tasks' own are made by `nsllm-lite tasks`."
            raise UserError("sft-data-missing", f"`{key}`: nothing at {name}.", needed, todo)
    return files


def records_of(path: Path) -> list[object]:
    """The values of a JSON list, or of JSON lines. Raises UserError where the file is empty, or is neither."""
    try:
        records = [value for _, value in read_records(path)]
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


class Template:
    """Turns a record into pieces of text, each a prompt or an answer, and these into tokens. Raises UserError where the
    tokenizer has no token `end_of_text`, or no chat template where `kind` is chat."""

    def __init__(self, kind: str, end_of_text: str, tokenizer: "Tokenizer", chat: "PreTrainedTokenizerBase"):
        self.kind, self.end_of_text, self._chat = kind, end_of_text, chat
        end_id = tokenizer.token_to_id(end_of_text)
        special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        if end_id is None:
            found = f"The tokenizer has no token end_of_text={end_of_text!r}."
            todo = f"Set end_of_text to one of its special tokens: {', '.join(special[:8]) or 'none'}."
            raise UserError("template-end-token-missing", found, "Needed is the token that ends an answer.", todo)
        if kind == "chat" and not chat.chat_template:
            found = "template: chat, but this model's tokenizer has no chat template."
            todo = "Set template: plain, or name a model whose tokenizer_config.json or chat_template.jinja has one."
            raise UserError("template-chat-missing", found, "Base models often have none.", todo)
        self.end_id: int = end_id
        self._special = {*special, end_of_text}
        self._tokenizer = tokenizer

    def pieces(self, record: object, where: str) -> list[tuple[str, bool]]:
        """(text, whether it is an answer) in order. Raises LeftOutError where the record is no example, UserError where
        it has a role that no template knows, or the chat template cannot be cut into answers."""
        if not isinstance(record, dict):
            raise LeftOutError(NOT_THIS_FORMAT)
        is_chat = "messages" in record
        messages = _messages(record["messages"], where) if is_chat else _messages_of_alpaca(record)
        if self.kind == "chat":
            return self._chat_pieces(messages, where)
        *system, question, answer = messages
        if len(system) > 1 or any(message["role"] != "system" for message in system):
            raise LeftOutError("several turns, which the plain template has not")
        if is_chat:
            prompt = plain_prompt(system[0]["content"] if system else "", question["content"])
        else:
            prompt = plain_prompt(record.get("instruction") or "", record.get("input") or "")
        return [(prompt, False), (answer["content"].strip(), True)]

    def encode(self, pieces: list[tuple[str, bool]]) -> tuple[np.ndarray, np.ndarray]:
        """(input_ids, is_answer). In the plain template a special token's name in a text stays text."""
        ids: list[int] = []
        is_answer: list[bool] = []
        plain = self.kind == "plain"
        self._tokenizer.encode_special_tokens = plain
        for text, answers in pieces:
            if not text.isascii() and text != text.encode(errors="ignore").decode():
                raise LeftOutError("half a character (a lone surrogate)")
            piece = self._tokenizer.encode(text, add_special_tokens=False).ids
            piece += [self.end_id] if plain and answers else []
            ids += piece
            is_answer += [answers] * len(piece)
        return np.array(ids, np.int64), np.array(is_answer, bool)

    def _chat_pieces(self, messages: list[dict[str, str]], where: str) -> list[tuple[str, bool]]:
        """The chat template's text, split before each answer (at the generation prompt) and after its end token."""
        if any(token in message["content"] for message in messages for token in self._special):
            raise LeftOutError("a special token of the template in its text")
        whole, pieces, place = self._render(messages, where), [], 0
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            opening = self._render(messages[:number], where, add_generation_prompt=True)
            if not whole.startswith(opening) or len(opening) < place:
                found = f"{where}: the chat template begins a conversation differently when an answer follows."
                needed = "Its answers cannot be told from its prompts."
                raise UserError("template-answers-not-separable", found, needed, "Set template: plain.")
            end = whole.find(self.end_of_text, len(opening))
            if end < 0:
                found = f"{where}: the chat template ends no answer with end_of_text={self.end_of_text!r}."
                todo = "Set end_of_text to the token that it ends them with."
                raise UserError("template-end-token-unused", found, f"It writes {whole[len(opening) :][-80:]!r}.", todo)
            pieces.append((whole[place : len(opening)], False))
            place = end + len(self.end_of_text)
            pieces.append((whole[len(opening) : place], True))
        return pieces

    def _render(self, messages: list[dict[str, str]], where: str, add_generation_prompt: bool = False) -> str:
        try:
            return render_chat(self._chat, messages, add_generation_prompt=add_generation_prompt)
        except ValueError as error:
            found = f"{where}: the chat template refuses it ({error})."
            todo = "Change the record, or set template: plain."
            raise UserError("template-refuses-record", found, "Many templates know no system message.", todo) from None


def _messages(values: object, where: str) -> list[dict[str, str]]:
    """[system,] user, assistant, user, assistant, ...; a last question without an answer is removed."""
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise LeftOutError(NOT_THIS_FORMAT)
    messages = [{"role": value.get("role"), "content": value.get("content")} for value in values]
    if unknown := [message["role"] for message in messages if message["role"] not in ROLES]:
        found = f"{where}: role {unknown[0]!r} is not known."
        needed = f"A message needs one of the roles {', '.join(ROLES)}."
        raise UserError("sft-role-unknown", found, needed, "Rename it, or take the record out.")
    if not all(isinstance(message["content"], str) for message in messages):
        raise LeftOutError(NOT_THIS_FORMAT)
    turns = [message["role"] for message in messages]
    turns = turns[1:] if turns[:1] == ["system"] else turns
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2) + ["user"] * (len(turns) % 2):
        raise LeftOutError(NOT_THIS_FORMAT)
    if turns[-1] == "user":
        messages.pop()
    if len(turns) < 2 or not all(m["content"].strip() for m in messages if m["role"] == "assistant"):
        raise LeftOutError(EMPTY_ANSWER)
    if not all(message["content"].strip() for message in messages if message["role"] == "user"):
        raise LeftOutError(EMPTY_PROMPT)
    return messages


def _messages_of_alpaca(record: dict) -> list[dict[str, str]]:
    """{instruction, input, output} as one question and one answer."""
    instruction, text, output = (record.get(name) for name in ("instruction", "input", "output"))
    asked = [part for part in (instruction, text) if part is not None]
    if not asked or not isinstance(output, str) or not all(isinstance(part, str) for part in asked):
        raise LeftOutError(NOT_THIS_FORMAT)
    question = "\n\n".join(part.strip() for part in asked if part.strip())
    if not question:
        raise LeftOutError(EMPTY_PROMPT)
    if not output.strip():
        raise LeftOutError(EMPTY_ANSWER)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": output.strip()}]


def read_examples(files: list[Path], template: Template, max_tokens: int) -> tuple[list[Example], Ledger]:
    """The examples of all files in order, and the ledger of their records. Nothing is cut short. Raises UserError where
    a file is empty or no JSON, or a record has an unknown role."""
    examples, ledger = [], Ledger()
    for path in files:
        for number, record in enumerate(records_of(path), start=1):
            where = f"{path}, record {number}"
            values = record if isinstance(record, dict) else {}
            name = str(values.get("id") or f"{path.name}#{number}")
            try:
                input_ids, is_answer = template.encode(template.pieces(record, where))
                if len(input_ids) > max_tokens:
                    raise LeftOutError("more than max_tokens")
            except LeftOutError as reason:
                ledger.left_out[path.stem][str(reason)] += 1
                ledger.names.append({"name": name, "reason": str(reason)})
                continue
            ledger.used[path.stem] += 1
            examples.append(Example(name, path.stem, str(values.get("document") or ""), input_ids, is_answer))
    return examples, ledger


def collate(examples: list[Example], device: str) -> Batch:
    """Examples laid end to end without padding; none sees another, and the targets are those of answers only."""
    rows = [Row(e.input_ids.astype(np.int32), [len(e.input_ids)], [e.name], [e.source], [0]) for e in examples]
    batch = causal.collate(rows, device)
    is_answer = torch.from_numpy(np.concatenate([*(e.is_answer for e in examples), [False]])[1:].copy()).to(device)
    batch.targets[~is_answer] = IGNORE
    return batch
