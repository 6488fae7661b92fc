"""BERTScore by hand on a tiny encoder, and never from a hub."""

import pytest
import torch

from nsllm_lite.evals.bert_score import BertScore, _f1
from tests.raising import raises

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "speed", "of", "light", "in", "water", "was", "measured", "by",
    "us",
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(WORDS), **shape)).save_pretrained(folder)
    return folder


def test_f1_by_hand():
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    other = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
    # precision: best of (1, .6, 0) and (0, .8, -1) -> (1 + .8) / 2; recall: 1, .8, 0 -> .6
    assert _f1(one, other) == pytest.approx(2 * 0.9 * 0.6 / 1.5)


def test_equal_texts_score_1_in_any_batch(encoder):
    scorer = BertScore(encoder, "cpu")
    texts = ["the speed of light", "water", "light in water was measured by us", ""]
    references = ["the speed of light", "light was measured", "light in water was measured by us", "water"]
    together = scorer.score(texts, references)
    alone = [scorer.score([a], [b])[0] for a, b in zip(texts, references, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together == pytest.approx([1, together[1], 1, 0], abs=1e-5)
    assert together[1] < 0.99
    too_long = ["light " * 900]
    assert scorer.score(too_long, too_long) == pytest.approx([1.0], abs=1e-4), "both are cut"


def test_a_name_on_the_hub_is_not_fetched(tmp_path):
    with raises("bert-score-no-encoder", tmp_path / "microsoft/deberta", "config.json"):
        BertScore(tmp_path / "microsoft/deberta", "cpu")
