"""Encoders of a few thousand parameters, of words that stand whole in the vocabulary."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, BertConfig

from nsllm_lite.models.heads import CLASSES
from tests.models.small_encoders import SIZES, SPECIAL, save_tokenizer

TEXT = "tin copper lead grows melts cold hot the a of in at x y z who ? . ice old sea cells divide and"
WORDS = TEXT.split()


def save_encoder(folder: Path, words: Sequence[str] = WORDS, seed: int = 0, **sizes: int) -> Path:
    """A BERT with a head for masked tokens and its tokenizer."""
    vocab = [*SPECIAL, *dict.fromkeys(words)]
    save_tokenizer(folder, vocab=vocab)
    torch.manual_seed(seed)
    config = BertConfig(**(SIZES | {"vocab_size": len(vocab)} | sizes))
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return folder


def save_head(folder: Path, task: str, labels: Sequence[str] = (), seed: int = 0, **stated: object) -> Path:
    """A model with a head drawn at random, large so that its answers differ, and its finetune.json."""
    import transformers

    save_encoder(folder, seed=seed)
    torch.manual_seed(seed)
    names = {"id2label": dict(enumerate(labels))} if labels else {"num_labels": 2 if task == "qa" else 1}
    kind = "multi_label_classification" if task == "multilabel" else None
    config = BertConfig.from_pretrained(folder, **names, problem_type=kind)
    model = getattr(transformers, CLASSES[task]).from_config(config)
    for parameter in model.parameters():
        parameter.data *= 4
    model.save_pretrained(folder)
    about = {"task": task, "labels": list(labels), "max_tokens": 32, "stride": 4} | stated
    (folder / "finetune.json").write_text(json.dumps(about))
    return folder
