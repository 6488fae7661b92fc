"""Whether a model's files hold quantised weights, whatever a recipe says of quantisation.

A `quantization_config` in config.json overrides what a caller asks of transformers, and nothing can be merged into
such weights. Training and merging therefore take the 16-bit model; evaluation takes the weights as they are.
"""

import re
from pathlib import Path
from typing import Any

from nsllm_lite.errors import UserError
from nsllm_lite.formats import weights

SIDE_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")  # of AutoGPTQ, AutoAWQ, ModelOpt
PARTS = re.compile(r"\.(?:qweight|qzeros|g_idx|quant_map|quant_state\.\S+|weight_scale(?:_inv|_2)?|weight_packed|SCB)$")
SUFFIX = re.compile(
    r"(?:[-_.](?:unsloth|dynamic|bnb|4bits?|8bits?|gptq|awq|int4|int8|w4a16|w8a8|w8a16|fp8|nvfp4|mxfp4|fp4|nf4|gguf"
    r"|quantized(?:\.w\w+)?|g?128g?|marlin|hqq|aqlm|exl2|eetq|autoround|torchao))+$",
    re.IGNORECASE,
)


def quantisation_of(folder: Path, config: dict[str, Any]) -> str | None:
    """How the weights of a model folder are quantised ("bitsandbytes fp4", "gptq", ...); None: in 16 or 32 bits.

    By its config.json, by the files that quantisers leave beside it, or else by the tensors themselves.
    """
    inner = [value for value in config.values() if isinstance(value, dict)]  # text_config of a vision model
    stated = next((part["quantization_config"] for part in (config, *inner) if part.get("quantization_config")), None)
    if stated:
        method = stated.get("quant_method", "") if isinstance(stated, dict) else str(stated)
        kind = stated.get("bnb_4bit_quant_type" if stated.get("load_in_4bit") else "bits", "") if method else ""
        return f"{method} {kind}".strip() or "unknown"
    if beside := [name for name in SIDE_FILES if (folder / name).is_file()]:
        return f"by {beside[0]}"
    for file in weights.model_files(folder) if any(folder.glob("*.safetensors")) else ():
        for name, stored in weights.read_header(folder / file).items():
            packed = name.endswith(".weight") and len(stored.shape) > 1 and stored.dtype not in (*weights.FLOATS, "F64")
            if packed or PARTS.search(name):
                return f"{name} is {stored.dtype}"
    return None


def require_unquantised(folder: Path, config: dict[str, Any], setting: str = "model") -> None:
    """Raises UserError where a model that is trained, or merged into, is quantised on disk; `setting` names it."""
    if (held := quantisation_of(folder, config)) is None:
        return
    original = sixteen_bit_name(folder, config)
    found = f"{folder} holds quantised weights ({held})."
    needed = (
        "Adapters are trained on, and merged into, a model in 16 or 32 bits (quantisation=nf4 rounds it on loading):"
    )
    todo = f"Set {setting} to the model it was quantised from{f' ({original}, by its name)' if original else ''}."
    raise UserError("model-quantised", found, needed, todo)


def sixteen_bit_name(folder: Path, config: dict[str, Any]) -> str | None:
    """The name without the words that quantised uploads add to it: unsloth/Qwen3-8B-bnb-4bit -> unsloth/Qwen3-8B."""
    cached = [part.removeprefix("models--").replace("--", "/") for part in folder.parts if part.startswith("models--")]
    for name in (*cached, folder.name, str(config.get("_name_or_path") or "")):
        if (original := SUFFIX.sub("", name)) not in (name, ""):
            return original
    return None
