"""Embeddings of texts by a folder of sentence-transformers, or by a plain encoder whose token states are averaged."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from nsllm_lite import terminal
from nsllm_lite.artifact import interrupts
from nsllm_lite.artifact.json_files import without_marks
from nsllm_lite.errors import UserError, not_installed
from nsllm_lite.formats.tokenizer import num_ids
from nsllm_lite.models.causal import autocast
from nsllm_lite.models.embedding_folder import require_modules, require_plain_encoder, require_widths
from nsllm_lite.models.encoder import positions_of, require_vocabulary
from nsllm_lite.models.loading import UNREADABLE, quiet_libraries, refused_by_transformers

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BATCH_TEXTS = {"cpu": 32, "cuda": 256}
Role = Literal["query", "document"]


class Embedder:
    """Texts -> vectors. `notes` say how, where that is not what the folder itself states."""

    def __init__(self, model: "SentenceTransformer", name: str, compute_dtype: str, notes: Sequence[str] = ()):
        self.model, self.name, self.compute_dtype, self.notes = model, name, compute_dtype, list(notes)
        self.max_tokens = model.max_seq_length
        self.similarity = str(model.similarity_fn_name)
        stated = {role: model.prompts.get(role) for role in ("query", "document")}
        if used := {role: prompt for role, prompt in stated.items() if prompt}:
            self.notes.append(f"texts begin with {', '.join(f'{p!r} ({role})' for role, p in used.items())}")

    @property
    def dimensions(self) -> int:
        return self.model.get_embedding_dimension()

    def encode(self, texts: Sequence[str], role: Role = "document", show: bool = False) -> np.ndarray:
        """(n, D) in float32, of unit length where cosine compares. Longer texts than `max_tokens` are cut.

        Raises UserError where a vector is not finite.
        """
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))  # the largest batch first
        size = BATCH_TEXTS[self.model.device.type]
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        with terminal.progress(len(texts), 0, f"{self.name}: {role}s", "text", disable=not show) as bar:
            for start in range(0, len(order), size):
                places = order[start : start + size]
                with autocast(self.model.device.type, self.compute_dtype):
                    found = encode(
                        [texts[place] for place in places], batch_size=size, show_progress_bar=False,
                        convert_to_numpy=True,
                    )  # fmt: skip
                vectors[places] = found
                bar.update(len(places))
                interrupts.raise_if_requested()
        if not np.isfinite(vectors).all():
            bad = int((~np.isfinite(vectors)).any(axis=1).sum())
            found = f"{self.name}: {bad:,} of {len(texts):,} vectors hold NaN or infinity."
            raise UserError("embedding-not-finite", found, "Look at its weights, or compute in float32.")
        return vectors if self.similarity == "dot" else unit(vectors)

    def num_cut(self, texts: Sequence[str], role: Role = "document") -> int:
        """How many of the texts are longer than `max_tokens`, with their prompt."""
        prompt = self.model.prompts.get(role) or ""
        whole = self.model.tokenizer([prompt + text for text in texts], truncation=False, verbose=False)
        return sum(len(ids) > self.max_tokens for ids in whole["input_ids"])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, D) in float32 of length 1; one of zeros stays so."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def open_embedder(folder: Path, device: str = "cpu", compute_dtype: str = "float32") -> Embedder:
    """The model in `folder`, in fp32 on `device`; its products in `compute_dtype`.

    Raises UserError where sentence-transformers is not installed, the folder holds no safetensors, or its modules are
    others than those that are known here.
    """
    if not (folder / "modules.json").is_file():
        return _plain(folder, device, compute_dtype)
    require_modules(folder)
    _, _, SentenceTransformer = _library()
    options = {"device": device, "trust_remote_code": False, "local_files_only": True}
    kwargs = {"dtype": torch.float32, "use_safetensors": True}
    try:
        with without_marks(folder) as place:
            model = SentenceTransformer(str(place), model_kwargs=kwargs, **options)
    except UNREADABLE as error:
        raise refused_by_transformers(folder, error) from None
    require_widths(model, folder)
    return _ready(model, folder, compute_dtype, [])


def untrained(embedder: Embedder, seed: int) -> Embedder:
    """The same model with random weights, drawn from `seed`: what its shape, tokenizer and pooling give alone. The
    weights of `embedder` itself are replaced."""
    model = embedder.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = model[0].auto_model
        model[0].model = type(body)(body.config).to(model.device).eval()
        for module in list(model)[1:]:
            for part in module.modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()
    return Embedder(model, f"{embedder.name}, untrained", embedder.compute_dtype)


def _plain(folder: Path, device: str, compute_dtype: str) -> Embedder:
    """An encoder without modules.json: the mean of its last states."""
    config = require_plain_encoder(folder)
    if config.get("is_decoder") or any("CausalLM" in str(name) for name in config.get("architectures") or ()):
        found = f"{folder} holds a model that reads from left to right, {config.get('model_type')}."
        raise UserError("embedder-is-decoder", found, "Needed is an encoder, or a folder of sentence-transformers.")
    Transformer, Pooling, SentenceTransformer = _library()
    kwargs = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
    try:
        with without_marks(folder) as place:
            body = Transformer(str(place), model_kwargs=kwargs, config_kwargs={"trust_remote_code": False})
    except UNREADABLE as error:
        raise refused_by_transformers(folder, error) from None
    pooling = Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[body, pooling], device=device)
    return _ready(model, folder, compute_dtype, ["a plain encoder: the mean of its last states, compared by cosine"])


def _ready(model: "SentenceTransformer", folder: Path, compute_dtype: str, notes: list[str]) -> Embedder:
    require_vocabulary(model[0].auto_model, num_ids(model.tokenizer))
    limits = [model.max_seq_length, positions_of(model[0].auto_model)]
    model.max_seq_length = min(limit for limit in limits if limit)
    return Embedder(model.eval(), folder.name, compute_dtype, notes)


def _library() -> tuple[type, type, type]:
    """(Transformer, Pooling, SentenceTransformer)"""
    quiet_libraries()
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ModuleNotFoundError as error:
        raise not_installed(error, "encoders") from None
    return Transformer, Pooling, SentenceTransformer
