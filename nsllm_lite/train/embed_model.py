"""The model that becomes an embedding model: an encoder's folder, or that of an embedding model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nsllm_lite.artifact.json_files import read_object
from nsllm_lite.errors import UserError
from nsllm_lite.formats import weights
from nsllm_lite.models.loading import quiet_libraries

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

POOLED = ("bert", "roberta")  # have a layer behind the first token that is made anew where none is stored


def open_to_train(folder: Path, max_tokens: int, dimensions: Sequence[int], seed: int) -> "SentenceTransformer":
    """In fp32 on the CPU. An encoder gets the mean of its last hidden states, at length 1; an embedding model stays as
    it is. The layer behind the first token, where there is one, has no part in it and is not trained.

    Raises UserError where it cannot be opened, reads fewer tokens than `max_tokens`, or has fewer dimensions.
    """
    torch.manual_seed(seed)
    model = open_as_it_is(folder)
    positions = positions_of(model)
    if positions and max_tokens > positions:
        found = f"{folder} takes texts of {positions:,} tokens, not max_tokens={max_tokens:,}."
        raise UserError("embed-positions-few", found, f"Set max_tokens={positions}, or take another model.")
    model.max_seq_length = max_tokens
    whole = model.get_embedding_dimension()
    if too_many := [one for one in dimensions if one > whole]:
        found = f"dimensions {too_many} of a model that has {whole}."
        raise UserError("embed-dimensions-many", found, f"Name such as {whole // 2} and {whole // 4}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("pooler." not in name)
    return model


def open_as_it_is(folder: Path) -> "SentenceTransformer":
    """In fp32 on the CPU; of an encoder the mean of its last hidden states, at length 1."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    quiet_libraries()
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}
    if (folder / "modules.json").is_file():
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=options)
        print(f"{folder} is an embedding model: {', '.join(type(module).__name__ for module in model)}")
    else:
        config = read_object(folder / "config.json")
        names = {name for file in weights.model_files(folder) for name in weights.read_header(folder / file)}
        if config.get("model_type") in POOLED and not any("pooler." in name for name in names):
            options["add_pooling_layer"] = False
        body = Transformer(str(folder), model_kwargs=options)
        pooling = Pooling(body.get_embedding_dimension(), pooling_mode="mean")
        model = SentenceTransformer(modules=[body, pooling, Normalize()], device="cpu")
        print(f"{folder} is an encoder: its embedding is the mean of the last hidden states, at length 1")
    return model


def positions_of(model: "SentenceTransformer") -> int | None:
    """The longest text that the model takes, in tokens; None where nothing limits it."""
    config = model.transformers_model.config if model.transformers_model is not None else None
    most = getattr(config, "max_position_embeddings", None)
    return most and most - (config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta") else 0)
