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

WHOLE = (
    "num_attention_heads", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "head_dim",
    "num_key_value_heads", "max_position_embeddings", "sliding_window", "num_experts", "num_local_experts",
    "num_experts_per_tok", "moe_intermediate_size", "original_max_position_embeddings",
)  # fmt: skip
REAL = ("logit_scale", "logits_scaling", "final_logit_softcapping", "attn_logit_softcapping")
LARGEST = 10**8
CORRECT = "Correct it, or fetch the model again."


def require_accepted(config: dict[str, Any]) -> None:
    """Raises UserError where a model of this config.json is not trained, nor its held-out loss computed."""
    _require_sense(config)
    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        found = "use_bidirectional_attention or is_causal says that this is no causal language model."
        raise UserError("architecture-not-causal", found, "Name a model that predicts the next token.")
    if not is_accepted(config):
        found = f"model_type={config.get('model_type')!r}: models of this kind are not trained here."
        needed = f"Those that are: {', '.join(ACCEPTED.values())}."
        raise UserError("architecture-not-accepted", found, needed, "Name a model of one of these kinds.")


def is_accepted(config: dict[str, Any]) -> bool:
    return str(config.get("model_type")) in ACCEPTED


def _require_sense(config: dict[str, Any]) -> None:
    """Raises UserError where a key that is read here or by the planner is of another type, or of no possible value."""
    rope = _rope(config)
    if not isinstance(rope, dict):
        raise UserError("config-rope-wrong", f"The model's config.json has rope_parameters: {rope!r}.", CORRECT)
    values = config | {key: rope[key] for key in ("original_max_position_embeddings",) if key in rope}
    most = dict.fromkeys(WHOLE, LARGEST) | {"num_hidden_layers": 1000}
    wrong = [key for key in WHOLE if key in values and not _is_between(values[key], (int,), most[key])]
    wrong += [key for key in REAL if key in values and not _is_between(values[key], (int, float), LARGEST)]
    if wrong:
        found = f"The model's config.json has {', '.join(f'{key}: {values[key]!r}'[:60] for key in wrong)}."
        raise UserError("config-values-wrong", found, CORRECT)


def _rope(config: dict[str, Any]) -> Any:
    """The settings of the rotary embeddings, by transformers 5's name or the older one."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _is_between(value: Any, types: tuple[type, ...], most: float) -> bool:
    return value is None or (type(value) in types and 0 < value < most)


def longest_row(config: dict[str, Any]) -> int | None:
    """The tokens of a row that the model's positions know.

    Dynamic rotary embeddings change all documents of a row where one of them is longer than they were made for.
    """
    rope = _rope(config)
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

    kind = config.model_type  # others may have such a key left over, which transformers ignores
    scale = {"cohere2": getattr(config, "logit_scale", 1.0), "granite": 1 / getattr(config, "logits_scaling", 1.0)}
    softcap = getattr(config, "final_logit_softcapping", None) if kind.startswith("gemma") else None
    return Logits(scale.get(kind, 1.0), softcap)


def unpacked_attention(config: "PretrainedConfig") -> str:
    """The attention implementation of transformers for what is not packed: the fastest that computes what it should."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
