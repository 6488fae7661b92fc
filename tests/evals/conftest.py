"""A tiny untrained model that reads text: a byte-level tokenizer trained on the sample's own words."""

import json
from pathlib import Path

import pytest

from nsllm_lite.corpus.build import build
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import ModelShape
from nsllm_lite.tasks import scores
from tests.corpus.small import values, write_sources


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
    from nsllm_lite.tasks.sets import bundled

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
    small |= {"head_dim": 16, "tied_embeddings": False}
    shape = ModelShape(tokenizer=str(folder), **(small | shape))
    model = build_base(shape, folder, 0, seed=seed)
    for parameter in model.parameters():
        parameter.data *= 3  # so that its answers differ from item to item
    model.save_pretrained(folder)
    return folder


def build_papers(folder: Path, out: str, papers: list[dict]) -> None:
    """A finished corpus in folder/out of arXiv records and general text."""
    build(recipes.validate(values(folder, out, write_sources(folder, arxiv=papers)), "corpus"))


MOVES = (("We asked why it is so.", "Objective"), ("It was weighed.", "Methods"), ("It was 3 ± 1 g.", "Results"))
SMALL_TASKS = {
    "classification": [(f"Light {n} is fast.", "Physics") for n in range(4)] + [("Cells divide.", "Biology")] * 3,
    "moves": [(f"{text} {n}", label) for n in range(4) for text, label in MOVES],
    "title": [(f"We show that light number {n} is fast. It is.", f"Light number {n}") for n in range(6)],
    "paper_title": [(f"Light {n} is fast.\n\nMethods\n\nWe ran.", f"Light number {n}") for n in range(3)],
    "multiple_choice": [(f"{n}?\nChoices:\n(A): x{n}\n(B): y\n(C): z", "ABC"[n % 3]) for n in range(9)],
    "open": [(f"What is {n} + 1?", str(n + 1)) for n in range(7)],
}
"""{task: (input, output) of a few short items}"""
