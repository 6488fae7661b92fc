"""Answers that a JSON Schema allows: which tokens may come next, from llguidance.

An answer is the schema's JSON in one form: keys in the schema's order, no white space between tokens of JSON, at most
one blank before it all (examples of a few-shot prompt have one). A string, list or object that the schema leaves open
is bounded here, so that a greedy model ends its loops: a schema that states its own bounds keeps them.

Letters: R rows of a batch, V the width of the model's logits.
Source: github.com/guidance-ai/llguidance, docs/json_schema.md at version 1.3.
"""

import json
import string
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nsllm_lite.errors import RunError, UserError
from nsllm_lite.formats.records import COMPACT
from nsllm_lite.formats.tokenizer import control_ids, num_ids

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from transformers import PreTrainedTokenizerBase

Schema = dict[str, Any]

MAX_CHARS = 256  # of a string; the longest of the 2,500 gold answers of LLaMat's extraction has 155
MAX_ITEMS = 128  # of a list; the longest there has 59
MAX_KEYS = 32  # of an object whose keys are free; the most there are 10

NEEDED = '{}[]":,-' + string.digits + string.ascii_letters
SAMPLE = '{"a b": ["µ → 😀", 0.5, null]}'
NAMED = ("properties", "patternProperties", "$defs", "definitions")  # {name: schema}
LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
INNER = ("items", "additionalProperties")
VALUES = (
    "$ref", "const", "enum", "type", "required", "minProperties", "maxProperties", "minItems", "maxItems", "minimum",
    "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern", "format",
)  # fmt: skip
REMARKS = ("title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated")
KEYWORDS = {*NAMED, *LISTED, *INNER, *VALUES, *REMARKS}


class Grammars:
    """The grammars of one tokenizer, a schema compiled once.

    Raises:
        UserError: llguidance cannot read the tokenizer's vocabulary, or JSON cannot be written with it.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", ends: Collection[int]):
        from llguidance import LLTokenizer

        backend, name = tokenizer.backend_tokenizer, getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        self.ends = [number for number in sorted(ends) if number < num_ids(tokenizer)]
        try:
            self._tokens = LLTokenizer(backend.to_str(), eos_token=min(self.ends, default=None))
        except ValueError as error:
            raise _unreadable(name, str(error)) from None
        self.num_tokens = self._tokens.vocab_size
        self._is_text = np.ones(self.num_tokens, bool)
        self._is_text[[*control_ids(tokenizer), *self.ends]] = False
        ids = backend.encode(SAMPLE, add_special_tokens=False).ids
        read, said = self._tokens.decode_bytes(ids).decode(errors="replace"), tokenizer.decode(ids)
        if read.strip() != said.strip():
            raise _unreadable(name, f"it reads {read!r} where the tokenizer writes {said!r}")
        spelled = {sign: self._tokens.greedy_tokenize(sign) for sign in NEEDED}
        if absent := [sign for sign, ids in spelled.items() if self._tokens.decode_bytes(ids) != sign.encode()]:
            raise _unreadable(name, f"no token writes {' '.join(absent[:20])}")
        self._compiled: dict[str, LLMatcher] = {}

    def begin(self, schemas: Sequence[Schema | None]) -> "Answers":
        """Answers that have not begun, each of its schema; None: free. Raises UserError as `compile` does."""
        return Answers(self, [None if schema is None else self.compile(schema).deep_copy() for schema in schemas])

    def compile(self, schema: Schema) -> "LLMatcher":
        """Raises UserError where the grammar cannot express the schema."""
        from llguidance import LLMatcher

        key = json.dumps(schema)
        if key not in self._compiled:
            self._compiled[key] = LLMatcher(self._tokens, grammar_of(schema))
        return self._compiled[key]

    def allowed(self, matchers: Sequence["LLMatcher | None"], width: int) -> np.ndarray:
        """Which tokens each answer may go on with (R, V), for a model of `width` logits: those that it has beyond the
        tokenizer's never, the ones that end an answer where it is complete. Raises RunError where there is none."""
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        allowed, there = np.ones((len(matchers), width), bool), min(width, self.num_tokens)
        bits = allocate_token_bitmask(1, self.num_tokens)
        for row, matcher in enumerate(matchers):
            if matcher is None:
                continue
            fill_next_token_bitmask(matcher, bits)  # in threads, of llguidance's executor, five times slower
            of_row = np.unpackbits(bits[0].view(np.uint8), bitorder="little", count=self.num_tokens).astype(bool)
            of_row &= self._is_text
            of_row[self.ends] = matcher.is_accepting()
            allowed[row, :there], allowed[row, there:] = of_row[:there], False
            if not allowed[row].any():
                why = _error_of(matcher) or "no token of the vocabulary continues it"
                raise RunError("grammar-no-token", f"A constrained answer cannot go on: {why}.", "Simplify its schema.")
        return allowed


class Answers:
    """The answers of a batch as they grow."""

    def __init__(self, grammars: Grammars, matchers: list["LLMatcher | None"]):
        self._grammars, self._matchers = grammars, matchers

    def masked(self, logits: Tensor, numbers: Sequence[int]) -> Tensor:
        """The logits (R, V) of the answers of these numbers, which get -inf where a token may not follow."""
        allowed = self._grammars.allowed([self._matchers[number] for number in numbers], logits.shape[-1])
        return logits.masked_fill_(torch.from_numpy(~allowed).to(logits.device), float("-inf"))

    def take(self, number: int, token: int, room: int) -> tuple[list[int], bool]:
        """Adds a token to an answer, and the tokens that alone may follow it, at most `room`: those, and whether the
        answer is whole. Raises RunError where the token is none of those allowed, as with logits that are no numbers.
        """
        matcher = self._matchers[number]
        if matcher is None:
            return [], False
        if not matcher.consume_token(token):
            found = f"A constrained answer got token {token}, which may not follow ({_error_of(matcher)})."
            raise RunError("grammar-token-refused", found, "The model's logits may be no numbers: check its weights.")
        sure = matcher.compute_ff_tokens()[:room] if room else []
        matcher.consume_tokens(sure)
        return sure, matcher.is_stopped()


def require_grammars(tokenizer: "PreTrainedTokenizerBase | None", schemas: Sequence[Schema]) -> None:
    """Raises UserError where a schema, or the vocabulary of the tokenizer, is none that grammars are made of."""
    for schema in schemas:
        grammar_of(schema)
    if tokenizer:
        Grammars(tokenizer, [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])


def grammar_of(schema: Schema) -> str:
    """The grammar of a schema's JSON, as llguidance takes it. Raises UserError where it cannot express the schema."""
    from llguidance import LLMatcher

    item, key = COMPACT
    form = {"whitespace_flexible": False, "item_separator": item, "key_separator": key}
    whole = bounded(schema) | {"x-guidance": form}
    if why := LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(whole)):
        raise _inexpressible(" ".join(why.split())[:200].rstrip("."))
    return LLMatcher.grammar_from_lark(f'start: " "? body\nbody: %json {json.dumps(whole)}')


def bounded(schema: Any, place: str = "") -> Schema:
    """The schema with a bound where it leaves the length of strings, lists or objects open. Raises UserError where it
    holds a keyword that no grammar is made of."""
    if not isinstance(schema, dict):
        raise _inexpressible(f"{place or 'the schema'} is {json.dumps(schema)}, no object")
    if unknown := [key for key in schema if key not in KEYWORDS]:
        raise _inexpressible(f"keyword {unknown[0]!r}{f' of {place}' if place else ''}")
    whole = dict(schema)
    for key in schema:
        inner, at = schema[key], f"{place}/{key}"
        if key in NAMED and isinstance(inner, dict):
            whole[key] = {name: bounded(one, f"{at}/{name}") for name, one in inner.items()}
        elif key in LISTED and isinstance(inner, list):
            whole[key] = [bounded(one, f"{at}/{number}") for number, one in enumerate(inner)]
        elif key in INNER and not isinstance(inner, bool):
            whole[key] = bounded(inner, at)
        elif key in (*NAMED, *LISTED):
            raise _inexpressible(f"{at} is {json.dumps(inner)}")
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "string" in kinds and not schema.keys() & {"maxLength", "pattern", "format", "enum", "const"}:
        whole["maxLength"] = max(MAX_CHARS, schema.get("minLength", 0))
    if "array" in kinds and not schema.keys() & {"maxItems", "enum", "const"}:
        whole["maxItems"] = max(MAX_ITEMS, schema.get("minItems", 0))
    is_free = schema.get("additionalProperties") is not False or "patternProperties" in schema
    if "object" in kinds and is_free and not schema.keys() & {"maxProperties", "properties", "enum", "const"}:
        whole["maxProperties"] = max(MAX_KEYS, schema.get("minProperties", 0))  # beside properties it needs them all
    return whole


def _error_of(matcher: "LLMatcher") -> str:
    """Its first line; the state of the parser stands below it."""
    return (matcher.get_error().splitlines() or [""])[0]


def _inexpressible(why: str) -> UserError:
    found = f"The grammar cannot express the schema of the answers: {why}."
    return UserError("grammar-schema-unfit", found, "Write the schema without it, or evaluate without `constrain`.")


def _unreadable(name: str, why: str) -> UserError:
    found = f"The grammar library cannot read the vocabulary of {name} ({why})."
    needed = "It reads byte-level BPE, and vocabularies with bytes to fall back on."
    return UserError("grammar-vocabulary-unreadable", found, needed, "Evaluate this model without `constrain`.")
