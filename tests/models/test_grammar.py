"""What a schema's grammar lets through is JSON of that schema, whatever the model says."""

import json
import re

import jsonschema
import pytest
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from nsllm_lite.formats.tokenizer import load_auto_tokenizer
from nsllm_lite.models.grammar import Grammars

TEXT, WORDS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}


def closed(**properties: dict) -> dict:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def keyed(pattern: str, values: dict) -> dict:
    return {"type": "object", "patternProperties": {pattern: values}, "additionalProperties": False}


DOPING = closed(
    basemats=keyed("^b[0-9]+$", TEXT), dopants=keyed("^d[0-9]+$", TEXT), dopants2basemats=keyed("^d[0-9]+$", WORDS)
) | {"required": ["basemats", "dopants", "dopants2basemats"]}
RECORD = closed(name=TEXT, formula=TEXT, applications=WORDS) | {"required": ["name", "formula", "applications"]}
ROLES = closed(
    comp_table={"enum": [0, 1]},
    regex_table={"enum": [0, 1]},
    composition_row_index={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}},
    gid_col_index={"type": "array", "items": {"type": "integer"}},
) | {"required": ["comp_table", "regex_table"]}
SCHEMAS = {"doping": DOPING, "records": {"type": "array", "items": RECORD}, "roles": ROLES}
ANSWERS = {
    "doping": {"basemats": {"b0": "ZnO", "b12": "β-Ga₂O₃"}, "dopants": {"d0": 'a "b"\n'}, "dopants2basemats": {"d0": ["b0"]}},
    "records": [{"name": "MOF-5", "formula": "", "applications": []}, {"name": "😀", "formula": "x", "applications": ["a", "b"]}],
    "roles": {"comp_table": 1, "regex_table": 0, "composition_row_index": [0, 12]},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(talker) -> PreTrainedTokenizerFast:
    """Byte-level BPE; 0 ends a text, and two more control tokens stand behind the vocabulary."""
    loaded = load_auto_tokenizer(talker)
    loaded.add_tokens([AddedToken("<|im_end|>", special=True), AddedToken("<think>", special=False)])
    return loaded


@pytest.fixture(scope="module")
def grammars(tokenizer) -> Grammars:
    return Grammars(tokenizer, ends=[0])


def walks(grammars: Grammars, schema: dict, count: int, most: int = 300) -> tuple[list[list[int]], list[int]]:
    """(tokens of each walk, numbers of those that are not whole after `most`): one of the allowed tokens each step, by
    chance; after 20 tokens those that close something are likelier, so that a walk ends."""
    said: list[list[int]] = [[] for _ in range(count)]
    answers, left, chance = grammars.begin([schema] * count), list(range(count)), torch.Generator().manual_seed(0)
    pieces = [grammars._tokens.decode_bytes([number]) for number in range(grammars.num_tokens)]
    closes = torch.tensor([any(sign in piece for sign in (b'"', b"}", b"]")) for piece in pieces])
    for step in range(most):
        logits = torch.rand(len(left), len(pieces) + 3, generator=chance)  # wider than the tokenizer, as models are
        logits[:, -3:] += 10
        if step > 20:
            logits[:, : len(pieces)] += 0.3 * closes
        on = []
        for number, token in zip(left, answers.masked(logits, left).argmax(-1).tolist(), strict=True):
            if token in grammars.ends:
                continue
            said[number].append(token)
            if not answers.take(number, token):
                on.append(number)
        left = on
        if not left:
            break
    return said, left


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_thousand_random_walks_are_json_of_the_schema(grammars, tokenizer, name):
    import time

    t = time.time()
    said, left = walks(grammars, SCHEMAS[name], 1000)
    print(name, len(left), time.time() - t)
    texts = [tokenizer.decode(ids) for number, ids in enumerate(said) if number not in left]
    judge = jsonschema.Draft202012Validator(SCHEMAS[name])
    for text in texts:
        judge.validate(json.loads(text))
        assert not re.search(r"\s", re.sub(r'"(?:[^"\\]|\\.)*"', "", text.removeprefix(" ")))
    print(texts[:5], max(map(len, texts)), len(set(texts)), sum(map(len, said)), time.time() - t)
