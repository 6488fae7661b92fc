"""The one forward of encoders over packed rows: BERT, RoBERTa and ModernBERT with a head for masked tokens.

transformers 5.17 ignores `position_ids` in bidirectional masks, so that documents of a packed row would see each other,
and one mask of four dimensions makes ModernBERT's local layers global. Here attention is `varlen_attention`, which sees
one document at a time, and windows are those of each layer.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nsllm_lite import safety
from nsllm_lite.artifact.json_files import read_object, without_marks
from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer import load_auto_tokenizer
from nsllm_lite.formats.weights import require_sound
from nsllm_lite.models.attention import OF_ENCODERS, register_attention
from nsllm_lite.models.causal import Batch
from nsllm_lite.models.loading import UNREADABLE, quiet_libraries, refused_by_transformers, require_none_missing
from nsllm_lite.models.quantised import require_unquantised
from nsllm_lite.recipe.mlm import EncoderShape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEADS = {"bert": ("cls",), "roberta": ("lm_head",), "modernbert": ("head", "decoder")}
"""By `model_type` the parts that make logits of hidden states, one after the other."""


class PackedEncoder(nn.Module):
    """An encoder with its head for masked tokens, over packed batches.

    Attention's probabilities have no dropout here, as in no kernel for packed rows; `dropout_left_out` is what the
    model's config states of it. Raises UserError for a model of another architecture.
    """

    def __init__(self, model: "PreTrainedModel"):
        super().__init__()
        config = model.config
        if config.model_type not in HEADS or getattr(config, "is_decoder", False):
            found = f"The model is of the architecture {config.model_type!r}, or a decoder."
            needed = f"Encoders for masked tokens are {', '.join(HEADS)}."
            raise UserError("encoder-architecture-unknown", found, needed)
        register_attention()
        model.set_attn_implementation(OF_ENCODERS)
        self.model, self.kind = model, config.model_type
        self.dropout_left_out = _without_dropout(model)
        self.first_position = config.pad_token_id + 1 if self.kind == "roberta" else 0

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states of the last layer, (T, H)."""
        return self.model.base_model(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None] + self.first_position,
            attention_mask=None,
            layout=batch.layout,
        ).last_hidden_state.squeeze(0)

    def logits(self, hidden: Tensor) -> Tensor:
        """Of hidden states (N, H) those of the vocabulary, (N, V)."""
        for name in HEADS[self.kind]:
            hidden = self.model.get_submodule(name)(hidden)
        return hidden


def _without_dropout(model: "PreTrainedModel") -> float:
    """Sets the dropout of attention's probabilities to 0; returns what it was."""
    before = 0.0
    for module in model.modules():
        if isinstance(probability := getattr(module, "attention_dropout", None), float):  # ModernBERT
            module.attention_dropout, before = 0.0, max(before, probability)
        elif type(module).__name__ in ("BertSelfAttention", "RobertaSelfAttention"):
            before = max(before, module.dropout.p)
            module.dropout.p = 0.0
    return before


def build_encoder(shape: EncoderShape, seed: int) -> "PreTrainedModel":
    """A model with random weights, drawn from `seed`, in fp32 on the CPU, with its tokenizer's special tokens. Its
    dropout is 0, as packed rows of a large corpus are seen about once; its config states that of its architecture, with
    which it is fine-tuned once it is saved."""
    from transformers import AutoModelForMaskedLM, BertConfig, ModernBertConfig, RobertaConfig

    tokenizer = load_auto_tokenizer(shape.tokenizer)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if shape.architecture == "bert":
        config = BertConfig(**common, max_position_embeddings=shape.max_positions)
    elif shape.architecture == "roberta":
        behind = tokenizer.pad_token_id + 1  # no position is that of the padding, or before it
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        config = RobertaConfig(**common, **ends, max_position_embeddings=shape.max_positions + behind)
    else:
        ends = {
            name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
        }
        positions = {"max_position_embeddings": shape.max_positions, "local_attention": shape.local_attention}
        config = ModernBertConfig(**common, **ends, **positions)
    quiet_libraries()
    torch.manual_seed(seed)
    model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def load_encoder(folder: Path, new_head: int | None = None) -> "PreTrainedModel":
    """A model with its head for masked tokens, in fp32 on the CPU, from safetensors; `new_head` is the seed from which
    a head is drawn where none is stored. Raises UserError where that is not asked for, or not needed."""
    from transformers import AutoModelForMaskedLM

    model, missing = _loaded(AutoModelForMaskedLM, folder)
    heads = HEADS.get(model.config.model_type, ())
    of_head = {name for name in missing if name.split(".")[0] in heads}
    require_none_missing(folder, missing - of_head)
    if of_head and new_head is None:
        found = f"{folder} does not store {', '.join(sorted(of_head)[:3])} ({len(of_head)} in all)."
        needed = "Without its head for masked tokens an encoder would begin with a random one."
        todo = "Name a folder of a model for masked tokens, or have a head drawn from the seed: new_head=true."
        raise UserError("encoder-head-missing", found, needed, todo)
    if new_head is not None and not of_head:
        found = f"new_head, but {folder} stores a head for masked tokens."
        raise UserError("encoder-head-stored", found, "Leave new_head out: that head is trained on.")
    draw = torch.Generator().manual_seed(new_head or 0)
    for name, parameter in model.named_parameters():
        if name in of_head and parameter.dim() > 1:
            nn.init.normal_(parameter, std=getattr(model.config, "initializer_range", 0.02), generator=draw)
        elif name in of_head:  # of a bias, or of a norm
            nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
    return model


def load_body(folder: Path) -> "PreTrainedModel":
    """The layers of an encoder without a head or a pooler, in fp32 on the CPU, from safetensors. Raises UserError where
    the folder holds no such model, or one that is quantised."""
    from transformers import AutoModel

    kind = read_object(folder / "config.json").get("model_type")
    model, missing = _loaded(AutoModel, folder, **({} if kind == "modernbert" else {"add_pooling_layer": False}))
    require_none_missing(folder, missing)
    return model


def _loaded(cls: Any, folder: Path, **options: Any) -> tuple["PreTrainedModel", set[str]]:
    """(the model, the names of its tensors that are not stored); stored tensors that it has no place for are told.
    Raises UserError where transformers would read more than weights, or refuses them, or they are damaged or
    quantised."""
    from transformers.utils import logging as transformers_logging

    quiet_libraries()
    config = safety.require_plain_model(folder)
    require_sound(folder)
    require_unquantised(folder, config)
    options |= {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its own table of such tensors
    try:
        with without_marks(folder) as source:
            model, told = cls.from_pretrained(source, output_loading_info=True, **options)
    except UNREADABLE as error:
        if isinstance(error, RuntimeError) and "memory" in str(error):
            raise
        raise refused_by_transformers(folder, error) from None
    finally:
        transformers_logging.set_verbosity(before)
    if unused := sorted(name for name in told["unexpected_keys"] if not name.endswith("position_ids")):
        print(f"{folder}: {', '.join(unused[:4])} ({len(unused)} tensors in all) have no part in this and are left out")
    return model, set(told["missing_keys"])


def head_parameters(model: "PreTrainedModel") -> set[str]:
    """Names of what the head for masked tokens has of its own, the embeddings apart where it shares them."""
    shared = id(model.get_input_embeddings().weight)
    named = model.named_parameters()
    return {name for name, of in named if name.split(".")[0] in HEADS[model.config.model_type] and id(of) != shared}


def require_vocabulary(model: "PreTrainedModel", num_tokens: int) -> None:
    """Raises UserError where the tokenizer's ids reach further than the model's embeddings have rows."""
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < num_tokens:
        found = f"The model knows {rows:,} tokens, its tokenizer {num_tokens:,}."
        raise UserError("model-vocabulary-differs", found, "Name the tokenizer that the model was trained with.")


def positions_of(model: "PreTrainedModel") -> int:
    """The longest text that the model takes, in tokens. Positions of RoBERTa and its like begin behind the number of
    the padding that the model was made with, which their table of positions keeps.

    Raises UserError where the config states no limit, as T5's with its relative positions.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if type(limit) is not int or limit < 1:
        found = f"The config of a model of the kind {model.config.model_type!r} states no longest text."
        todo = "State the longest that it was trained on in its config.json, as max_position_embeddings."
        raise UserError("model-positions-unstated", found, todo)
    tables = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "position_embeddings"]
    behind = [padding + 1 for table in tables if (padding := getattr(table, "padding_idx", None)) is not None]
    return limit - max(behind, default=0)
