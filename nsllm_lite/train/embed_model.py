"""The model that becomes an embedding model: an encoder's folder, or that of an embedding model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nsllm_lite.errors import UserError
from nsllm_lite.formats import weights
from nsllm_lite.models.embedding import open_embedder
from nsllm_lite.models.loading import without_report

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def open_to_train(folder: Path, max_tokens: int, dimensions: Sequence[int]) -> "SentenceTransformer":
    """In fp32 on the CPU. An encoder gets the mean of its last hidden states; all get length 1. Prompts that a folder
    states are left out, of training and of what is saved. The layer behind the first token, which has no part in it, is
    not trained, and is removed where none is stored.

    Raises UserError where weights are not stored, the model reads fewer tokens than `max_tokens`, or has fewer
    dimensions.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize

    with without_report():
        opened = open_embedder(folder)
    model = opened.model
    print(f"{folder}: {'; '.join(opened.notes) or ', '.join(type(module).__name__ for module in model)}")
    _require_stored(model, folder)
    if prompts := {name: text for name, text in model.prompts.items() if text}:
        print(f"Its prompts ({', '.join(prompts)}) are left out, in training and in what is saved.")
    model.prompts, model.default_prompt_name = {"query": "", "document": ""}, None
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    if max_tokens > opened.max_tokens:
        found = f"{folder} takes texts of {opened.max_tokens:,} tokens, not max_tokens={max_tokens:,}."
        raise UserError("embed-positions-few", found, f"Set max_tokens={opened.max_tokens}, or take another model.")
    model.max_seq_length = max_tokens
    if too_many := [one for one in dimensions if one > opened.dimensions]:
        found = f"dimensions {too_many} of a model that has {opened.dimensions}."
        raise UserError("embed-dimensions-many", found, f"Name such as {opened.dimensions // 2}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("pooler." not in name)
    return model.train()


def _require_stored(model: "SentenceTransformer", folder: Path) -> None:
    """Raises UserError where a tensor of the body is not in the folder: it would begin with random numbers. A head
    that the folder stores besides, as for masked tokens, has no part in an embedding."""
    body = model[0].auto_model
    stored = {name for file in weights.model_files(folder) for name in weights.read_header(folder / file)}
    endings = {name.partition(".")[2] for name in stored} | stored  # "bert.encoder..." and "encoder..." alike
    missing = sorted(name for name, _ in body.named_parameters() if name not in endings)
    if missing and all(name.startswith("pooler.") for name in missing):
        body.pooler, missing = None, []
    if missing:
        found = f"{folder} does not store {', '.join(missing[:3])} ({len(missing)} tensors in all)."
        raise UserError("embed-weights-missing", found, "They would begin with random numbers.", "Name a whole model.")
