"""A tiny untrained model that reads text: a byte-level tokenizer trained on the sample's own words."""

import json
from pathlib import Path

import pytest

from nsllm_lite.recipe.train import ModelShape
from nsllm_lite.tasks import scores


@pytest.fixture(autouse=True, scope="module")
def few_resamples():
    """What 1,000 of them give is seen in tests/tasks/test_scores.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "RESAMPLES", 100)
        patch.setattr(scores, "PERMUTATIONS", 200)
        yield


@pytest.fixture(scope="session")
def talker(tmp_path_factory) -> Path:
    return make_talker(tmp_path_factory.mktemp("talker"))


def make_talker(folder: Path, seed: int = 1, vocab_size: int = 500, **shape: int) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from nsllm_lite.models.loading import build_base
    from nsllm_lite.tasks.bundled import bundled

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([item.input for item in bundled("classification")["test"]], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    small = {"hidden_size": 32, "intermediate_size": 64, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
    values = small | {"head_dim": 16, "tied_embeddings": False} | shape
    shape = ModelShape(tokenizer=str(folder), **values)
    model = build_base(shape, folder, 0, seed=seed)
    for parameter in model.parameters():
        parameter.data *= 3  # so that its answers differ from item to item
    model.save_pretrained(folder)
    return folder
