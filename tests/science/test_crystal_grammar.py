"""Whatever the grammar lets a model write is read, or refused for what a grammar cannot know."""

import random

import numpy as np
import pytest

from nsllm_lite.science.crystal import LAYOUTS, decode, encode
from nsllm_lite.science.crystal_grammar import crystal_grammar
from tests.science.test_crystal import GOOD, TITANATE

UNKNOWABLE = {"", "an impossible cell"}


@pytest.fixture(scope="module")
def tokens():
    from llguidance import LLTokenizer
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([encode(TITANATE), GOOD, "Cl Ca\nCo\n0.25"], trainer)
    return LLTokenizer(tokenizer.to_str(), eos_token=0)


def matcher(tokens, grammar: str):
    from llguidance import LLMatcher

    whole = LLMatcher.grammar_from_lark(grammar)
    assert not LLMatcher.validate_grammar(whole, tokens)
    return LLMatcher(tokens, whole)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_passes_and_nothing_else(tokens, layout):
    text = encode(TITANATE, layout)
    other = encode(TITANATE, next(name for name in LAYOUTS if name != layout))
    for given, passes in (
        (text, True), (f" {text}", True), (other, False), (text.replace("Ti", "Xx"), False),
        (f"A crystal:\n{text}", False), (text.replace("90", "190", 1), False),
    ):  # fmt: skip
        check = matcher(tokens, crystal_grammar(layout))
        ids = tokens.tokenize_str(given)
        assert (check.consume_tokens(ids) and check.is_accepting()) == passes, given
    check = matcher(tokens, crystal_grammar(layout))
    assert check.consume_tokens(tokens.tokenize_str(text[:-1]))
    assert not check.is_accepting(), "it may not end there"
    check = matcher(tokens, crystal_grammar(layout, max_sites=4))
    assert not check.consume_tokens(tokens.tokenize_str(text)), "five sites"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_walks_are_read(tokens, layout):
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    rng, bits, reasons = random.Random(0), allocate_token_bitmask(1, tokens.vocab_size), []
    start = matcher(tokens, crystal_grammar(layout, max_sites=3))
    for _ in range(60):
        check, ids = start.deep_copy(), []
        while not check.is_stopped():
            fill_next_token_bitmask(check, bits)
            allowed = np.flatnonzero(np.unpackbits(bits[0].view(np.uint8), bitorder="little", count=tokens.vocab_size))
            ids.append(int(rng.choice(allowed)))
            assert check.consume_token(ids[-1])
        text = tokens.decode_str([one for one in ids if one])
        found = decode(text)
        reasons.append(found.reason)
        if found.crystal:
            assert encode(found.crystal, layout) == text.strip()
    assert set(reasons) <= UNKNOWABLE
    assert reasons.count("") > 20
