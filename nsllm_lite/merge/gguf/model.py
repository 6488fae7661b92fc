"""What a GGUF is as a Hugging Face model: its config.json, and from which tensor each of its weights comes.

Source: llama.cpp's convert_hf_to_gguf.py, whose way this is backwards; transformers' modeling_gguf_pytorch_utils.py.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.formats import weights
from nsllm_lite.formats.gguf import UNQUANTISED, Gguf, dequantise
from nsllm_lite.formats.weights import HEAD, ITEM_BYTES, TensorOnDisk, listed
from nsllm_lite.merge.gguf.metadata import Metadata

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
ROPE_FREQS = "rope_freqs.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of Llama 3.1 to 3.3; the factor is told by the tensor. Source: the config.json of these models."""
MAX_LAYERS = 1000


@dataclass(frozen=True, slots=True)
class Converted:
    """One weight of the result, of rows that are dequantised; `head_rows` of them are a head whose rows llama.cpp has
    interleaved (0: they are not)."""

    source: TensorOnDisk
    dtype: str
    head_rows: int = 0

    @property
    def num_entries(self) -> int:
        return math.prod(self.source.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_entries * ITEM_BYTES[self.dtype]

    @property
    def num_rows(self) -> int:
        """A vector is one row: a block of quantised values is not divided."""
        return self.source.shape[0] if len(self.source.shape) > 1 else 1

    @property
    def row_entries(self) -> int:
        return self.num_entries // self.num_rows

    @property
    def slice_entries(self) -> int:
        """Of the largest slice."""
        return max(last - first for first, last in self.row_slices()) * self.row_entries

    def row_slices(self) -> Iterator[tuple[int, int]]:
        """(first, last) rows of slices of about SLICE_BYTES of fp32, of whole heads."""
        whole = self.head_rows or 1
        step = max(whole, weights.SLICE_BYTES // (4 * self.row_entries) // whole * whole)
        for first in range(0, self.num_rows, step):
            yield first, min(first + step, self.num_rows)

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows first..last in fp32, in the order of transformers' rotary embeddings: the first half of each head's
        rows before the second."""
        row_bytes = self.source.num_bytes // self.num_rows
        data = self.source.read(first * row_bytes, last * row_bytes)
        values = dequantise(data, self.source.dtype, (last - first, self.row_entries))
        if self.head_rows:
            pairs = values.reshape(-1, self.head_rows // 2, 2, self.row_entries)
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        return values


def config_of(gguf: Gguf, metadata: Metadata) -> dict[str, Any]:
    """config.json, without dtype and tokens. Raises UserError where a key is missing, or is not honoured."""
    kind, size = metadata.architecture, metadata.size
    heads, hidden = size(".attention.head_count"), size(".embedding_length")
    head_dim = size(".attention.key_length", hidden // heads)
    if metadata.size(".attention.value_length", head_dim) != head_dim:
        raise metadata.refused(".attention.value_length")
    if metadata.size(".rope.dimension_count", head_dim) != head_dim:
        raise metadata.refused(".rope.dimension_count")
    if head_dim % 2 or (kind == "qwen2" and head_dim * heads != hidden):
        stated = ".attention.key_length" if metadata.has(".attention.key_length") else ".embedding_length"
        raise metadata.refused(stated)
    if (num_layers := size(".block_count")) > MAX_LAYERS:
        raise metadata.refused(".block_count")
    config = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": size(".feed_forward_length"),
        "num_hidden_layers": num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": size(".attention.head_count_kv", heads),
        "max_position_embeddings": size(".context_length"),
        "rms_norm_eps": metadata.real(".attention.layer_norm_rms_epsilon", 1),
        "rope_theta": metadata.real(".rope.freq_base", 1e12, 10_000.0),
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
    }
    config |= {"head_dim": head_dim} if kind != "qwen2" else {"use_sliding_window": False}
    config |= {"mlp_bias": False} if kind == "llama" else {}
    if scaling := rope_scaling(gguf, metadata, config, head_dim):
        config["rope_scaling"] = scaling
    return config


def rope_scaling(gguf: Gguf, metadata: Metadata, config: dict[str, Any], head_dim: int) -> dict[str, Any] | None:
    """Raises UserError where positions are scaled in a way that is not known."""
    kind = metadata.get(".rope.scaling.type", str, "none")
    factor = metadata.real(".rope.scaling.factor", 1000, 1.0)
    original = metadata.size(".rope.scaling.original_context_length", config["max_position_embeddings"])
    if kind not in ("none", "linear", "yarn"):
        raise metadata.refused(".rope.scaling.type")
    if factor < 1 or (kind == "none" and factor != 1):
        raise metadata.refused(".rope.scaling.factor")
    if ROPE_FREQS not in gguf.tensors:
        extended = {"original_max_position_embeddings": original} if kind == "yarn" else {}
        return {"rope_type": kind, "factor": factor, **extended} if kind != "none" and factor != 1 else None
    stored = gguf.tensors[ROPE_FREQS]
    if stored.dtype == "F32" and stored.shape == (head_dim // 2,) and kind == "none":
        factors = dequantise(stored.read(0, stored.num_bytes), "F32", stored.shape)
        largest = float(str(factors.max()))
        if np.allclose(factors, llama3_factors(config["rope_theta"], head_dim, largest), rtol=1e-4, atol=0):
            return {"rope_type": "llama3", "factor": largest, **LLAMA3} if largest != 1 else None
    found = f"{gguf.path} has {ROPE_FREQS}, factors of its rotary embeddings that are not those of Llama 3."
    todo = "Take the model's own folder."
    raise UserError("gguf-rope-unknown", found, "Positions would be wrong without them:", todo)


def llama3_factors(theta: float, head_dim: int, factor: float) -> np.ndarray:
    """By how much each frequency is divided. Source: convert_hf_to_gguf.py, `LlamaModel.generate_extra_tensors`."""
    wavelengths = 2 * np.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    original, low, high = LLAMA3["original_max_position_embeddings"], 1.0, 4.0
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


PARTS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


def weights_of(gguf: Gguf, config: dict[str, Any], vocab: int, dtype: str) -> dict[str, Converted]:
    """{name in transformers: its weight}, in the order of the layers. Raises UserError where a tensor is missing, is
    not known, or is not of the shape that the metadata say."""
    needed = dict(shapes_of(config, vocab))
    homes = {theirs: ours for theirs, (ours, _) in needed.items()}
    known = needed.keys() | {ROPE_FREQS}
    wrong = [f"{name} is missing" for name in needed if name not in gguf.tensors]
    wrong += [f"{name[:80]} is not known" for name in gguf.tensors if name not in known]
    wrong += [
        f"{name} is {gguf.tensors[name].shape}, not {shape}" for name, (_, shape) in needed.items()
        if name in gguf.tensors and gguf.tensors[name].shape != shape
    ]  # fmt: skip
    if wrong:
        found = f"The tensors of {gguf.path} are not those that its metadata say: {listed(wrong)}."
        raise UserError("gguf-tensors-differ", found, "Nothing is left out or made up:", "fetch it again.")
    interleaved = re.compile(r"blk\.\d+\.attn_[qk]\.weight" if config["model_type"] == "llama" else r"(?!)")
    rows = config.get("head_dim", 0)
    return {
        homes[name]: Converted(gguf.tensors[name], dtype, rows if interleaved.fullmatch(name) else 0) for name in needed
    }


def shapes_of(config: dict[str, Any], vocab: int) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Of each tensor its name in a GGUF, and its name and shape in transformers."""
    hidden, inner, kind = config["hidden_size"], config["intermediate_size"], config["model_type"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    query, key_value = (config[f"num_{name}_heads"] * head_dim for name in ("attention", "key_value"))
    shapes = {
        "attn_q": (query, hidden), "attn_k": (key_value, hidden), "attn_v": (key_value, hidden),
        "attn_output": (hidden, query), "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner), "attn_norm": (hidden,), "ffn_norm": (hidden,),
    }  # fmt: skip
    yield "token_embd.weight", ("model.embed_tokens.weight", (vocab, hidden))
    for layer in range(config["num_hidden_layers"]):
        theirs, ours = f"blk.{layer}", f"model.layers.{layer}"
        for name, part in PARTS.items():
            yield f"{theirs}.{name}.weight", (f"{ours}.{part}.weight", shapes[name])
            if kind == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                yield f"{theirs}.{name}.bias", (f"{ours}.{part}.bias", shapes[name][:1])
        if kind == "qwen3":
            for name, part in NORMS.items():
                yield f"{theirs}.{name}.weight", (f"{ours}.{part}.weight", (head_dim,))
    yield "output_norm.weight", ("model.norm.weight", (hidden,))
    if not config["tie_word_embeddings"]:
        yield "output.weight", (HEAD, (vocab, hidden))


def own_dtype(gguf: Gguf) -> str:
    """bfloat16; float16 or float32 where all matrices are that, which bfloat16 would round."""
    kinds = {stored.dtype for stored in gguf.tensors.values() if len(stored.shape) > 1}
    return {("F16",): "float16", ("F32",): "float32"}.get(tuple(kinds), "bfloat16")


def quantised_of(gguf: Gguf) -> dict[str, int]:
    """{type: number of tensors} of those that are quantised."""
    kinds = [stored.dtype for stored in gguf.tensors.values()]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds)) if kind not in UNQUANTISED}
