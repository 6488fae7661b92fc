"""What a schema's grammar lets through is JSON of that schema, whatever the model says."""

import json
import re

import jsonschema
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nsllm_lite.formats.tokenizer import load_auto_tokenizer
from nsllm_lite.models.grammar import MAX_CHARS, MAX_ITEMS, MAX_KEYS, Grammars, bounded, require_grammars
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.task import all_tasks
from tests.models.schemas import ANSWERS, SCHEMAS, TEXT, WORDS, closed, keyed, written
from tests.raising import raises

ITEM = Item(0, "", "", {})
OF_TASKS = {name: task.answer_schema(ITEM) for name, task in all_tasks().items() if task.answer_schema(ITEM)}
WALKED = OF_TASKS or SCHEMAS


@pytest.fixture(scope="module")
def tokenizer(talker) -> PreTrainedTokenizerFast:
    """Byte-level BPE; 0 ends a text, and two more control tokens stand behind the vocabulary."""
    loaded = load_auto_tokenizer(talker)
    loaded.add_tokens([AddedToken("<|im_end|>", special=True), AddedToken("<think>", special=False)])
    return loaded


@pytest.fixture(scope="module")
def grammars(tokenizer) -> Grammars:
    return Grammars(tokenizer, ends=[0])


def takes(grammars: Grammars, schema: dict, text: str) -> bool:
    """Whether the text is a whole answer."""
    matcher, ids = grammars.compile(schema).deep_copy(), grammars._tokens.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def walks(grammars: Grammars, schema: dict, count: int, most: int = 500) -> tuple[list[list[int]], list[int]]:
    """(tokens of each walk, numbers of those that are not whole after `most`): one of the allowed tokens each step, by
    chance; after 8 tokens those that close something are likelier, so that a walk ends. Every other walk takes all
    tokens at once that alone may follow."""
    said: list[list[int]] = [[] for _ in range(count)]
    answers, left, chance = grammars.begin([schema] * count), list(range(count)), torch.Generator().manual_seed(0)
    pieces = [grammars._tokens.decode_bytes([number]) for number in range(grammars.num_tokens)]
    closes = torch.tensor([any(sign in piece for sign in (b'"', b"}", b"]")) for piece in pieces])
    for step in range(most):
        logits = torch.rand(len(left), len(pieces) + 3, generator=chance)  # a model is wider than its tokenizer
        logits[:, -3:] += 10
        if step > 8:
            logits[:, : len(pieces)] += 0.3 * closes
        on = []
        for number, token in zip(left, answers.masked(logits, left).argmax(-1).tolist(), strict=True):
            if token in grammars.ends:
                continue
            sure, is_whole = answers.take(number, token, 99 * (number % 2))
            said[number] += [token, *sure]
            if not is_whole:
                on.append(number)
        if not (left := on):
            break
    return said, left


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKED)
def test_a_thousand_random_walks_are_json_of_the_schema(grammars, tokenizer, name):
    said, left = walks(grammars, WALKED[name], 1_000)
    texts = [tokenizer.decode(ids) for number, ids in enumerate(said) if number not in left]
    assert len(texts) > 980
    judge = jsonschema.Draft202012Validator(WALKED[name])
    for text in texts:
        judge.validate(json.loads(text))
        assert not re.search(r"\s", re.sub(r'"(?:[^"\\]|\\.)*"', "", text.removeprefix(" "))), "white space"
    assert not {0, 500, 501} & {number for ids in said for number in ids}, "a control token in a text"
    assert len(set(texts)) > 100
    assert any(text[0] == " " for text in texts)
    assert any(not text.isascii() for text in texts) == ('"string"' in json.dumps(WALKED[name]))


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_in_the_schemas_order_is_taken_and_others_are_not(grammars, name):
    answer, schema = ANSWERS[name], SCHEMAS[name]
    text = written(answer)
    assert takes(grammars, schema, text)
    assert takes(grammars, schema, f" {text}")
    for wrong in (f"  {text}", f"\n{text}", text + " ", text[:-1], json.dumps(answer), f"Answer: {text}", text + text):
        assert not takes(grammars, schema, wrong), wrong
    if isinstance(answer, dict):
        assert not takes(grammars, schema, written(dict(reversed(answer.items()))))
        assert not takes(grammars, schema, written(answer | {"more": 1}))


def test_an_answer_ends_where_it_is_whole_and_nowhere_else(tokenizer):
    """Two tokens end texts here; one of them, as an adapter's may be, is a piece of text."""
    letter = tokenizer.convert_tokens_to_ids("e")
    grammars = Grammars(tokenizer, ends=[letter, 0])
    width = grammars.num_tokens
    for text, is_whole in (("", False), ("1", True), ("12", True)):
        matcher = grammars.compile({"type": "integer"}).deep_copy()
        assert matcher.consume_tokens(grammars._tokens.tokenize_str(text))
        assert grammars.allowed([matcher], width)[0, [0, letter]].tolist() == [is_whole] * 2
    matcher = grammars.compile(TEXT).deep_copy()
    matcher.consume_tokens(grammars._tokens.tokenize_str('"a'))
    allowed = grammars.allowed([matcher], width + 5)[0]
    assert not allowed[[0, letter, *range(500, width + 5)]].any()
    assert allowed[[tokenizer.convert_tokens_to_ids(sign) for sign in ("a", '"', "Ã")]].all()
    assert grammars.allowed([matcher], 100).tolist() == [allowed[:100].tolist()]


def test_tokens_that_alone_may_follow_come_at_once(grammars):
    """And no more of them than there is room for; what may be written in two ways is none."""
    one = closed(basemats={"type": "boolean"}) | {"required": ["basemats"]}
    answers, brace = grammars.begin([one] * 3), grammars._tokens.tokenize_str("{")[0]
    sure, is_whole = answers.take(0, brace, 99)
    assert grammars._tokens.decode_str(sure).startswith('"basemats')
    assert not is_whole
    assert answers.take(1, brace, 2) == (sure[:2], False)
    assert answers.take(2, brace, 0) == ([], False)
    for token in sure:
        answers.take(2, token, 0)
    allowed = [grammars.allowed([answers._matchers[number]], grammars.num_tokens).tolist() for number in (0, 2)]
    assert allowed[0] == allowed[1]


def test_a_free_answer_beside_a_constrained_one_is_let_alone(grammars):
    logits = torch.randn(2, grammars.num_tokens, generator=torch.Generator().manual_seed(0))
    answers = grammars.begin([TEXT, None])
    masked = answers.masked(logits.clone(), [0, 1])
    assert torch.equal(masked[1], logits[1])
    assert 0 < int(masked[0].isfinite().sum()) < 20
    assert answers.take(1, 7, 9) == ([], False)
    with raises("grammar-token-refused", "token 7"):
        answers.take(0, 7, 9)


def test_a_string_list_or_object_without_a_bound_gets_one(grammars):
    free = keyed("^d[0-9]+$", WORDS)
    assert takes(grammars, TEXT, written("x" * MAX_CHARS))
    assert not takes(grammars, TEXT, written("x" * (MAX_CHARS + 1)))
    assert takes(grammars, WORDS, written(["x"] * MAX_ITEMS))
    assert not takes(grammars, WORDS, written(["x"] * (MAX_ITEMS + 1)))
    assert takes(grammars, free, written({f"d{n}": [] for n in range(MAX_KEYS)}))
    assert not takes(grammars, free, written({f"d{n}": [] for n in range(MAX_KEYS + 1)}))
    assert takes(grammars, TEXT | {"maxLength": 300}, written("x" * 300))
    assert bounded({"type": "string", "minLength": 999})["maxLength"] == 999
    nested = {"$defs": {"T": TEXT}, "anyOf": [{"$ref": "#/$defs/T"}, {"type": "array", "prefixItems": [WORDS]}]}
    assert json.dumps(bounded(nested)).count("max") == 4
    assert takes(grammars, nested, '[["a"]]')
    assert takes(grammars, nested, '"a"')


UNFIT = {
    "'propertyNames'": {"type": "object", "propertyNames": {"pattern": "a"}},
    "'uniqueItems' of /properties/a": closed(a={"type": "array", "uniqueItems": True}),
    "'patern' of /items": {"type": "array", "items": {"type": "string", "patern": "a"}},
    "look-ahead": {"type": "string", "pattern": "(?=a)b"},
    "oneOf": {"oneOf": [TEXT, {"type": "string", "maxLength": 3}]},
    "strin": {"type": "strin"},
    "/x": {"$ref": "#/x"},
    "/properties is [1]": {"properties": [1]},
    "/items is [": {"type": "array", "items": [TEXT]},
    "/properties/a is false": closed(a=False),
    "the schema is true": True,
}


@pytest.mark.parametrize("named", UNFIT)
def test_what_a_grammar_cannot_express_is_named(named):
    with raises("grammar-schema-unfit", named):
        require_grammars(None, [TEXT, UNFIT[named]])


def fast(model: object, decoder: object, **more: object) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoder
    for part, value in more.items():
        setattr(tokenizer, part, value)
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", name_or_path="some/model")


def by_pieces(with_bytes: bool) -> PreTrainedTokenizerFast:
    """As Llama 2's: pieces with a mark for blanks, and bytes to fall back on."""
    rare = [(f"<0x{number:02X}>", -9.0) for number in range(256)] if with_bytes else []
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *rare, *((sign, -1.0) for sign in '▁{}[]":,ab01')]
    decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    model = models.Unigram(pieces, unk_id=0, byte_fallback=with_bytes)
    return fast(model, decoder, pre_tokenizer=pre_tokenizers.Metaspace())


def test_pieces_with_bytes_to_fall_back_on_are_read():
    tokenizer = by_pieces(with_bytes=True)
    grammars = Grammars(tokenizer, [tokenizer.eos_token_id])
    said, left = walks(grammars, SCHEMAS["doping"], 50)
    for number, ids in enumerate(said):
        if number not in left:
            jsonschema.validate(json.loads(tokenizer.decode(ids)), SCHEMAS["doping"])
    assert len(left) < 25


def writing_otherwise(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.decode = lambda ids: "{}"
    return tokenizer


WORDS_OF_JSON = {word: number for number, word in enumerate([*'{}[]":,ab01', "<unk>", "</s>"])}
UNREAD = {
    "decoder": lambda: fast(models.WordLevel(WORDS_OF_JSON, unk_token="<unk>"), None),
    "no token writes": lambda: by_pieces(with_bytes=False),
    "no token writes {": lambda: fast(
        models.BPE(vocab={"a": 0, "b": 1}, merges=[]), decoders.ByteLevel(), pre_tokenizer=pre_tokenizers.ByteLevel()
    ),
    "where the tokenizer writes '{}'": lambda: writing_otherwise(by_pieces(with_bytes=True)),
}


@pytest.mark.parametrize("why", UNREAD)
def test_a_vocabulary_that_is_not_read_is_named(why):
    with raises("grammar-vocabulary-unreadable", "some/model", why):
        require_grammars(UNREAD[why](), [TEXT])


def test_an_answer_that_no_token_continues_ends_the_run(grammars):
    matcher = grammars.compile({"const": "~"}).deep_copy()
    matcher.consume_tokens(grammars._tokens.tokenize_str('"'))
    with raises("grammar-no-token"):
        grammars.allowed([matcher], width=3)
