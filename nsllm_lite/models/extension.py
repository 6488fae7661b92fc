"""An encoder changed before it is trained on: layers left out, more positions, another vocabulary, a new head.

Each function makes a new model and says which rows of its parameters were added, so that these can be trained alone:
{name of a parameter: (rows,) bool}.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nsllm_lite.errors import UserError
from nsllm_lite.formats.pieces import Cutter, piece_bytes
from nsllm_lite.formats.tokenizer import load_auto_tokenizer, load_tokenizer
from nsllm_lite.models.encoder import positions_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LAYER = re.compile(r"(.*\b(?:encoder\.layer|layers)\.)(\d+)(\..*)")
POSITIONS = "position_embeddings.weight"
OF_VOCABULARY = ("word_embeddings.weight", "tok_embeddings.weight", "decoder.weight", "decoder.bias")
OF_VOCABULARY += ("predictions.bias", "lm_head.bias")
ROLES = ("mask_token", "pad_token", "unk_token", "cls_token", "sep_token", "bos_token", "eos_token")
LIKE = {"bos_token": "cls_token", "cls_token": "bos_token", "eos_token": "sep_token", "sep_token": "eos_token"}

NewRows = dict[str, Tensor]


class Vocabulary(NamedTuple):
    """How the rows of another tokenizer's tokens come from a base's rows: each is the mean of those of `pieces`; of
    the tokens that cannot be cut, of which `pieces` says nothing, the mean of all."""

    pieces: list[list[int]]  # by token
    shared: list[bool]  # the base has the token too, or it is a special one of the same part
    settings: dict[str, Any]  # of the config

    def counts(self) -> dict[str, int]:
        """Tokens copied, made of one piece that is not the same (a capital, say), of several, of none."""
        rest = [pieces for pieces, shared in zip(self.pieces, self.shared, strict=True) if not shared]
        by_length = [min(2, len(pieces)) for pieces in rest]
        names = {"of all rows": 0, "of one piece": 1, "of several": 2}
        return {"shared": sum(self.shared)} | {name: by_length.count(length) for name, length in names.items()}


def with_layers(model: "PreTrainedModel", layers: Sequence[int]) -> "PreTrainedModel":
    """With these layers alone, counted from 1. Raises UserError where they are not there, or not in order."""
    config = copy.deepcopy(model.config)
    there = config.num_hidden_layers
    if list(layers) != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= there:
        found = f"layers {list(layers)}, of a model that has {there}."
        raise UserError("encoder-layers-wrong", found, f"Name some of 1 to {there}, each once and in order.")
    if config.model_type == "modernbert":
        if layers[0] != 1:
            found = f"layers {list(layers)} of a ModernBERT: the first has no norm before its attention, others do."
            raise UserError("encoder-first-layer", found, "Begin with layer 1.")
        config.layer_types = [config.layer_types[layer - 1] for layer in layers]
    config.num_hidden_layers = len(layers)
    places = {layer - 1: place for place, layer in enumerate(layers)}
    tensors = {}
    for name, tensor in model.state_dict().items():
        found = LAYER.fullmatch(name)
        if found is None:
            tensors[name] = tensor
        elif int(found[2]) in places:
            tensors[f"{found[1]}{places[int(found[2])]}{found[3]}"] = tensor
    return _rebuilt(model, config, lambda name: tensors[name])


def with_positions(model: "PreTrainedModel", count: int) -> tuple["PreTrainedModel", NewRows]:
    """For texts of `count` tokens: learned positions behind the last are copies of those from the first on, as
    INDUS-SDE has them; rotated ones have no rows, so that only the limit of the config rises. Raises UserError where
    the model takes as many already."""
    before, config = positions_of(model), copy.deepcopy(model.config)
    if count <= before:
        found = f"max_positions {count:,}, of a model that takes {before:,} already."
        raise UserError("encoder-positions-enough", found, "Raise it, or leave it out.")
    config.max_position_embeddings += count - before
    if config.model_type == "modernbert":
        return _rebuilt(model, config), {}
    first = config.max_position_embeddings - count  # rows before it are those of the padding
    places = torch.cat((torch.arange(first), first + torch.arange(count) % before))
    tensors = model.state_dict()
    rebuilt = _rebuilt(model, config, lambda name: tensors[name][places] if name.endswith(POSITIONS) else tensors[name])
    added = torch.arange(first + count) >= first + before
    return rebuilt, {name: added for name, _ in rebuilt.named_parameters() if name.endswith(POSITIONS)}


def vocabulary_of(base: Path, tokenizer: Path, model_type: str) -> Vocabulary:
    """Raises UserError where the base's tokenizer cannot cut pieces, or a RoBERTa's padding has another number: its
    positions begin behind it."""
    own, other = load_auto_tokenizer(base), load_auto_tokenizer(tokenizer)
    if model_type == "roberta" and own.pad_token_id != other.pad_token_id:
        found = f"{own.pad_token!r} is token {own.pad_token_id} in {base}, {other.pad_token!r} is {other.pad_token_id} "
        found += f"in {tokenizer}."
        needed = "RoBERTa's positions begin behind the number of its padding."
        raise UserError("vocabulary-padding-moved", found, needed, "Train a tokenizer that numbers it alike.")
    cutter, pieces = Cutter(load_tokenizer(base), base), piece_bytes(load_tokenizer(tokenizer))
    parts = _same_parts(own, other)
    cuts = [
        ([parts[number]], True) if number in parts else cutter.cut(pieces[number]) if number in pieces else ([], False)
        for number in range(len(other))
    ]
    ids = [(f"{role}_id", getattr(other, f"{role}_id")) for role in ROLES if hasattr(other, f"{role}_id")]
    return Vocabulary([cut for cut, _ in cuts], [shared for _, shared in cuts], dict(ids) | {"vocab_size": len(other)})


def _same_parts(own: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase") -> dict[int, int]:
    """{special token of `other`: the token of `own` that has its part}."""
    found: dict[int, int] = {}
    for role in ROLES:
        number = getattr(other, f"{role}_id")
        same = getattr(own, f"{role}_id")
        same = getattr(own, f"{LIKE[role]}_id") if same is None and role in LIKE else same
        if number is not None and same is not None:
            found.setdefault(number, same)
    return found


def with_vocabulary(model: "PreTrainedModel", of: Vocabulary) -> tuple["PreTrainedModel", NewRows]:
    """With the tokens of another tokenizer in place of its own: embeddings, and the head's weights and biases."""
    config = copy.deepcopy(model.config)
    for name, value in of.settings.items():
        if hasattr(config, name):
            setattr(config, name, value)
    tensors, num_before = model.state_dict(), model.config.vocab_size
    made_of, uncut = [pieces or [0] for pieces in of.pieces], torch.tensor([not pieces for pieces in of.pieces])
    flat = torch.tensor([number for pieces in made_of for number in pieces])
    starts = torch.tensor([0, *(len(pieces) for pieces in made_of[:-1])]).cumsum(0)

    def tensor(name: str) -> Tensor:
        before = tensors[name]
        if not name.endswith(OF_VOCABULARY):
            return before
        rows = before.float().reshape(num_before, -1)
        made = functional.embedding_bag(flat, rows, starts, mode="mean")
        made[uncut] = rows.mean(0)
        return made.reshape(len(made), *before.shape[1:]).to(before.dtype)

    rebuilt = _rebuilt(model, config, tensor)
    added = ~torch.tensor(of.shared)
    return rebuilt, {name: added for name, _ in rebuilt.named_parameters() if name.endswith(OF_VOCABULARY)}


def _rebuilt(model: "PreTrainedModel", config: Any, tensor: Callable[[str], Tensor] | None = None) -> "PreTrainedModel":
    """A model of `config` with the tensors that `tensor` gives by name (None: those of `model`)."""
    options = {"add_pooling_layer": False} if getattr(model, "pooler", model) is None else {}
    with torch.random.fork_rng(devices=[]):
        rebuilt = type(model)(config, **options)
    tensors: Mapping[str, Tensor] = model.state_dict()
    rebuilt.load_state_dict({name: tensor(name) if tensor else tensors[name] for name in rebuilt.state_dict()})
    rebuilt.tie_weights()
    return rebuilt.to(model.dtype).train(model.training)
