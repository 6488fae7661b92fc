"""The model of a fine-tuning: opened with what is trained in it, loaded with what was, and saved."""

import shutil
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import replace_folder
from nsllm_lite.artifact.json_files import read_object, without_marks, write_json
from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer import load_auto_tokenizer, save_tokenizer
from nsllm_lite.models.encoder import positions_of
from nsllm_lite.models.head_settings import ABOUT, HeadSettings
from nsllm_lite.models.heads import Head, has_types, is_causal, load_with_head, require_padding
from nsllm_lite.models.loading import require_known_config
from nsllm_lite.recipe.finetune import Finetune
from nsllm_lite.train.finetune_inputs import Data

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Sizes(NamedTuple):
    """Numbers of the model, for planning; `layers` are those through which gradients go."""

    all: int
    trained: int
    layers: int
    hidden: int
    intermediate: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """A head in training; `adapter` holds LoRA until it is merged."""

    head: Head
    adapter: "PeftModel | None"
    num_layers: int  # through which gradients go

    @property
    def model(self) -> "PreTrainedModel":
        return self.head.model

    @property
    def trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def to(self, device: str) -> "Tuned":
        self.model.to(device)
        return self

    @property
    def sizes(self) -> Sizes:
        config = self.model.config
        trained, count = sum(p.numel() for p in self.trained), sum(p.numel() for p in self.model.parameters())
        inner = getattr(config, "intermediate_size", 4 * config.hidden_size)
        return Sizes(count, trained, self.num_layers, config.hidden_size, inner)


def open_to_train(recipe: Finetune, data: Data, seed: int) -> Tuned:
    """The base with a head drawn from `seed`, of which what the recipe says is trained.

    Raises:
        UserError: the model takes shorter texts, has no layers that are known here, or cannot do the task.
    """
    from transformers import AutoConfig

    require_known_config(data.base_dir)
    with without_marks(data.base_dir) as place:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    if recipe.task == "qa" and is_causal(config):
        found = f"A model of the kind {config.model_type} reads from left to right."
        needed = "It decides that there is no answer at the first token, before it has read anything."
        raise UserError("finetune-qa-causal", found, needed, "Name an encoder, or ask it as `eval` does.")
    torch.manual_seed(seed)
    model, new = load_with_head(data.base_dir, recipe.task, **_config(recipe, data))
    tokenizer = load_auto_tokenizer(data.base_dir)
    require_padding(model, tokenizer)
    require_fitting(recipe, model, tokenizer)
    body = {name for name, _ in model.base_model.named_parameters(prefix=model.base_model_prefix)}
    head_names = {name for name, _ in model.named_parameters() if name in new or name not in body}
    model.requires_grad_(recipe.train == "all")
    adapter = _add_lora(recipe, model, seed) if recipe.lora else None
    if recipe.last_layers:
        layers = layers_of(model)
        if recipe.last_layers > len(layers):
            found = f"last_layers={recipe.last_layers}, and the model has {len(layers)} layers."
            raise UserError("finetune-layers-few", found, f"Set last_layers={len(layers)} or less.")
        for layer in layers[-recipe.last_layers :]:
            layer.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name in head_names:
            parameter.requires_grad_(True)
    limits = recipe.max_tokens, recipe.stride
    settings = HeadSettings(recipe.task, data.labels, *limits, max_answer_tokens=recipe.max_answer_tokens)
    reached = {"head": 0, "last_layers": recipe.last_layers}.get(recipe.train, model.config.num_hidden_layers)
    return Tuned(Head(model, tokenizer, settings, recipe.compute_dtype), adapter, reached)


def _config(recipe: Finetune, data: Data) -> dict[str, Any]:
    if recipe.task == "qa":
        return {}
    if recipe.task == "pair":
        return {"num_labels": 1}
    names = dict(enumerate(data.labels))
    config: dict[str, Any] = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    if recipe.task != "ner":
        single = "single" if recipe.task == "classification" else "multi"
        config["problem_type"] = f"{single}_label_classification"
    return config


def require_fitting(recipe: Finetune, model: "PreTrainedModel", tokenizer: Any) -> None:
    if positions_of(model) < recipe.max_tokens:
        found = f"max_tokens={recipe.max_tokens}, and the model takes texts of {positions_of(model):,} tokens."
        raise UserError("finetune-positions-few", found, "Lower max_tokens: longer texts are cut into windows.")
    if recipe.task == "pair" and (0, 1) in pairwise(tokenizer(["a"], ["b"]).encodings[0].sequence_ids):
        found = f"The tokenizer of {recipe.model} puts no token between two texts."
        needed = "The model could not tell where one ends."
        todo = "Name an encoder, or write both into one text, with a line between, for task=classification."
        raise UserError("finetune-pair-unparted", found, needed, todo)


def layers_of(model: "PreTrainedModel") -> nn.ModuleList:
    """The layers of the model's body. Raises UserError where they are not one list."""
    count = model.config.num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    found = f"A model of the kind {model.config.model_type} has not its {count} layers in one list."
    raise UserError("finetune-layers-unknown", found, "Set train=head or train=all.")


def _add_lora(recipe: Finetune, model: "PreTrainedModel", seed: int) -> "PeftModel":
    """LoRA on every linear layer of the body's layers, in the model itself."""
    from peft import LoraConfig, get_peft_model

    layers = layers_of(model)
    inside = {id(module) for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)}
    targets = [name for name, module in model.named_modules() if id(module) in inside]
    if not targets:
        found = f"The layers of a model of the kind {model.config.model_type} have no linear layers."
        raise UserError("finetune-lora-nowhere", found, "Set train=last_layers last_layers=N, or train=all.")
    torch.manual_seed(seed)
    shape = LoraConfig(r=recipe.lora.rank, lora_alpha=recipe.lora.alpha, lora_dropout=0.0, target_modules=targets)
    return get_peft_model(model, shape)


def load_trained(recipe: Finetune, data: Data, seed: int, path: Path) -> Head:
    """The model with the trained tensors of `path`, LoRA merged: an ordinary model."""
    tuned = open_to_train(recipe, data, seed)
    stored = load_file(path)
    trained = {name: p for name, p in tuned.model.named_parameters() if p.requires_grad}
    assert stored.keys() == trained.keys(), f"{path} holds other tensors"
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(stored[name])
    model = tuned.adapter.merge_and_unload() if tuned.adapter else tuned.model
    return replace(tuned.head, model=model.requires_grad_(False).eval())


def save_model(head: Head, base_dir: Path, settings: HeadSettings, out: Path) -> None:
    """The model with its tokenizer and finetune.json, in `out/model`; whole or absent."""
    part = out / "model.part"
    shutil.rmtree(part, ignore_errors=True)
    head.model.save_pretrained(part)
    save_tokenizer(base_dir, part)
    config = part / "tokenizer_config.json"
    types = ["token_type_ids"] if has_types(head.model.config) else []  # else a pipeline gives none, or too many
    stated = {"pad_token": str(head.tokenizer.pad_token), "padding_side": "right", "truncation_side": "right"}
    stated |= {"model_max_length": settings.max_tokens, "model_input_names": ["input_ids", *types, "attention_mask"]}
    write_json(config, (read_object(config) if config.is_file() else {}) | stated)
    values = {name: getattr(settings, name) for name in HeadSettings.__dataclass_fields__}
    write_json(part / ABOUT, values)
    files = {path.name for path in part.iterdir()}
    weights = {name for name in files if name.endswith(".safetensors")}
    integrity.record(part, weights.union(integrity.BESIDE_WEIGHTS, [ABOUT]))
    replace_folder(part, out / "model")
