"""Which architectures are trained: those whose packed forward is transformers' own forward of each document alone.

A model is more than its matrices: logits are scaled or capped, attention is capped or sees a window. The packed forward
and the fused loss honour that for the types listed here, each with a test (`tests/models/test_architectures.py`); other
types are refused before anything starts. The scores of `nsllm-lite eval` come from transformers' own forward, of any.
"""

from typing import TYPE_CHECKING, Any

from nsllm_lite.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from nsllm_lite.kernels.linear_cross_entropy import Logits

ACCEPTED = {
    "qwen3": "Qwen3", "qwen3_moe": "Qwen3-MoE", "qwen2": "Qwen2 and 2.5", "llama": "Llama", "mistral": "Mistral",
    "smollm3": "SmolLM3", "olmo2": "OLMo 2", "olmo3": "OLMo 3", "granite": "Granite", "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 (text)", "phi3": "Phi-3 and 4", "glm": "GLM-4", "glm4": "GLM-4 0414",
    "cohere2": "Command R7B",
}  # fmt: skip
"""model_type of config.json -> the models that have it."""


def require_accepted(config: dict[str, Any]) -> None:
    """Raises UserError where a model of this config.json is not trained, nor its held-out loss computed."""
    if config.get("use_bidirectional_attention"):
        found = "use_bidirectional_attention=true: this is no causal language model."
        raise UserError("architecture-not-causal", found, "Name a model that predicts the next token.")
    if (kind := config.get("model_type")) not in ACCEPTED:
        found = f"model_type={kind!r}: models of this kind are not trained here."
        needed = f"Those that are: {', '.join(ACCEPTED.values())}."
        raise UserError("architecture-not-accepted", found, needed, "Name a model of one of these kinds.")


def longest_row(config: dict[str, Any]) -> int | None:
    """The tokens of a row that the model's positions know.

    Dynamic rotary embeddings change all documents of a row where one of them is longer than they were made for.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    longest = config.get("max_position_embeddings")
    if (rope.get("rope_type") or rope.get("type")) in ("dynamic", "longrope", "su"):
        original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        return min(filter(None, (longest, original)), default=None)
    return longest


def require_positions(config: dict[str, Any], num_tokens: int, setting: str) -> None:
    """Raises UserError where rows of `num_tokens`, which `setting` says, are longer than the model's positions."""
    if (longest := longest_row(config)) and num_tokens > longest:
        found = f"Rows of {num_tokens:,} tokens, but the model knows {longest:,} positions (its config.json)."
        raise UserError("rows-beyond-positions", found, f"Set {setting}={longest} or fewer.")


def logits_of(config: "PretrainedConfig") -> "Logits":
    """What the model does with its head's product before the softmax."""
    from nsllm_lite.kernels.linear_cross_entropy import Logits

    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return Logits(scale, getattr(config, "final_logit_softcapping", None))


def unpacked_attention(config: "PretrainedConfig") -> str:
    """The attention implementation of transformers for what is not packed: the fastest that computes what it should."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
