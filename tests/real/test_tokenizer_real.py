"""gigatoken against `tokenizers` with the real Qwen3 vocabulary."""

from itertools import pairwise

import pyarrow as pa
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from nsllm_lite.corpus.encoder import Encoder
from tests.corpus.test_pack import ADVERSARIAL


def test_the_ids_are_equal_on_adversarial_strings(real_data):
    pytest.importorskip("gigatoken")
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(real_data / "qwen3_tokenizer").backend_tokenizer
    encoder = Encoder(tokenizer)
    wikitext = (real_data / "general_wikitext2/word_language_model/data/wikitext-2/valid.txt").read_text()
    texts = [*ADVERSARIAL, *(a + b for a in ADVERSARIAL for b in ADVERSARIAL), *wikitext.splitlines()]
    ids, starts = encoder.encode(pa.array(texts), check=True)
    assert encoder.name == "gigatoken"
    expected = encoder.reference.encode_batch_fast(texts, add_special_tokens=False)
    assert [ids[a:b].tolist() for a, b in pairwise(starts)] == [e.ids for e in expected]
