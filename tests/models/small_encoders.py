"""Model folders of a few thousand parameters with a tokenizer whose pieces are plain: words, "##ing", and letters."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    ModernBertConfig,
    PretrainedConfig,
    Qwen3Config,
    RobertaConfig,
)

from nsllm_lite.artifact.json_files import write_json

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = "tin lead grows whisker whiskers stress copper melts cold hot the a of and in at on x y z who what . , ? -"
WORDS = TEXT.split()
VOCAB = [*SPECIAL, *WORDS, "##ing", "##s", *(f"w{n}" for n in range(20))]
SIZES = {
    "vocab_size": len(VOCAB), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 66, "pad_token_id": 0,
}  # fmt: skip
ENDS = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIGS = {
    "bert": lambda: BertConfig(**SIZES, **NO_DROPOUT),
    "roberta": lambda: RobertaConfig(**SIZES, **NO_DROPOUT, bos_token_id=2, eos_token_id=3),
    "modernbert": lambda: ModernBertConfig(**SIZES, **ENDS, local_attention=16),
}


def save_tokenizer(folder: Path, is_pair: bool = True, vocab: Sequence[str] = VOCAB) -> None:
    """With `is_pair` a text stands between [CLS] and [SEP], and two are parted; else nothing is put anywhere."""
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if is_pair:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    if is_pair:
        config |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_encoder(folder: Path, kind: str = "bert", **config) -> Path:
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(with_values(CONFIGS[kind](), config)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_decoder(folder: Path) -> Path:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {key: value for key, value in SIZES.items() if key != "pad_token_id"}
    config = Qwen3Config(**sizes, num_key_value_heads=2, head_dim=8, eos_token_id=3, bos_token_id=3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, is_pair=False)
    return folder


def save_head(folder: Path, cls: str, settings: dict | None = None, kind: str = "bert", **config) -> Path:
    """A model with a head drawn at random, such as AutoModelForTokenClassification, with finetune.json, whose labels
    are those of the config where that has none of its own."""
    import transformers

    if settings and settings["labels"]:
        config = {"id2label": dict(enumerate(settings["labels"]))} | config

    torch.manual_seed(0)
    getattr(transformers, cls).from_config(with_values(CONFIGS[kind](), config)).save_pretrained(folder)
    save_tokenizer(folder)
    if settings:
        write_json(folder / "finetune.json", settings)
    return folder


def with_values(config: PretrainedConfig, values: dict) -> PretrainedConfig:
    for name, value in values.items():
        setattr(config, name, value)
    return config
