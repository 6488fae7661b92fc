"""The names of an adapter's tensors: those that PEFT saves, whatever wrappers or a raw state dict made of them.

PEFT saves `base_model.model.` before the module's name in the base, and no name of the adapter: `….lora_A.weight`.
"""

import re
from itertools import permutations
from typing import Any

from nsllm_lite.errors import UserError
from nsllm_lite.formats.weights import TensorOnDisk, listed, same_bytes

PREFIX = "base_model.model."
TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"  # of trainable_token_indices
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # torch's
PREFIXES = (PREFIX, "module.")  # PEFT's, and that of DDP and DeepSpeed
ADAPTER_NAMES = (  # "default", mostly, as they stand in a state dict
    (re.compile(r"(?:\.base_layer)+(?=\.lora_)"), ""),  # a wrapper in a wrapper
    (re.compile(r"(\.lora_[AB])\.[^.]+(\.(?:weight|bias))$"), r"\1\2"),
    (re.compile(r"(\.lora_embedding_[AB])\.[^.]+$"), r"\1"),
    (re.compile(r"(\.lora_magnitude_vector)(?:\.[^.]+){1,2}$"), r"\1"),
    (re.compile(r"(\.token_adapter\.trainable_tokens_(?:delta|original))\.[^.]+$"), r"\1"),
    (re.compile(r"\.modules_to_save\.(?:default\.|[^.]+\.(?=(?:weight|bias)$))?"), "."),
)
COPIES = (".original_module.", ".token_adapter.trainable_tokens_original")  # of the base, beside what was trained
ROOTS = ("model.language_model.", "language_model.model.", "model.text_model.", "language_model.", "model.", "")
"""What may stand before a decoder's layers: in a text model, and in a model of images and text."""

PART = re.compile(r"(?:\.token_adapter)?(?:\.base_layer)?\.(?:lora_.*|trainable_tokens_delta|weight|bias)$")


def peft_names(tensors: dict[str, TensorOnDisk]) -> dict[str, TensorOnDisk]:
    """The tensors by the names that PEFT saves, without its prefix; copies of the base beside them are left out. Raises
    UserError where two tensors have one name and are not equal."""
    named: dict[str, tuple[str, TensorOnDisk]] = {}
    for written, stored in tensors.items():
        if (name := peft_name(written)) is None:
            continue
        before, other = named.setdefault(name, (written, stored))
        if other is not stored and not same_bytes(other, stored):
            found = f"{stored.file} holds {before} and {written}, which are one weight ({name}) and not equal."
            raise UserError("adapter-tensors-twice", found, "Save one adapter alone, with PEFT's save_pretrained.")
    return {name: stored for name, (_, stored) in named.items()}


def peft_name(written: str) -> str | None:
    """The name that PEFT saves; None for a copy of the base's."""
    name = WRAPPERS.sub("", written)
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    for pattern, plain in ADAPTER_NAMES:
        name = pattern.sub(plain, name)
    return None if any(copy in name for copy in COPIES) else name


def module_of(name: str) -> str:
    """The module of the base that a tensor with this name of PEFT's belongs to."""
    return PART.sub("", name)


def matched(settings: dict, pattern: str, default: str, *names: str) -> Any:
    """The rank or alpha of the module with these `names`: of the first pattern that matches, else the default. Source:
    peft 0.21 `LoraLayer.update_layer`."""
    values = settings.get(pattern) or {}
    key = next((key for name in names for key in values if re.match(rf"(.*\.)?({key})$", name)), None)
    return settings[default] if key is None else values[key]


def at_home(
    tensors: dict[str, TensorOnDisk], settings: dict, homes: set[str]
) -> tuple[dict[str, TensorOnDisk], dict, dict[str, str]]:
    """The tensors and the settings with the modules' names in a base that has the modules `homes`; and {root that the
    adapter has before its layers: that of the base}, which is empty for an adapter of this very class of models."""
    strange, roots, renamed = {module_of(name) for name in tensors} - homes, {}, {}
    for found, needed in permutations(ROOTS, 2):
        moved = {name: needed + name.removeprefix(found) for name in strange if name.startswith(found)}
        if moved and homes.issuperset(moved.values()):
            renamed |= moved
            roots[found] = needed
            strange -= moved.keys()
    if not renamed:
        return tensors, settings, {}
    names = {name: renamed.get(module_of(name), module_of(name)) for name in tensors}
    # patterns may be those of the old names or of the new: what they say is stated for each module
    loras = {module_of(name): renamed.get(module_of(name), module_of(name)) for name in tensors if ".lora_" in name}
    stated = {
        pattern: {re.escape(new): matched(settings, pattern, default, old, new) for old, new in loras.items()}
        for pattern, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
    }
    stated["target_modules"] = sorted(loras.values())
    stated |= dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern"))
    moved = {names[name] + name.removeprefix(module_of(name)): stored for name, stored in tensors.items()}
    return moved, settings | stated, roots


def prefixes(name: str, homes: set[str]) -> tuple[str, str] | None:
    """(what stands before the module's name, what the base has there); None where the base has no such module. Numbers
    of layers are never taken off."""
    words = module_of(name).split(".")
    for start in range(len(words)):
        rest = ".".join(words[start:])
        if home := next((home for home in sorted(homes) if home == rest or home.endswith(f".{rest}")), None):
            return ".".join([*words[:start], ""]), home.removesuffix(rest)
        if words[start].isdigit():
            return None
    return None


def names_differ(names: list[str], homes: set[str]) -> UserError | None:
    """Where the base has the modules of `names` under another prefix."""
    pairs = {name: prefixes(name, homes) for name in names if module_of(name) not in homes}
    if not pairs or None in pairs.values():
        return None
    (name, (found, needed)), *_ = pairs.items()
    home = module_of(name).removeprefix(found)
    text = f"The adapter has {found!r} before {home!r}, and the base has {needed!r} ({listed(list(pairs))})."
    todo = "rename them in adapter_model.safetensors, or save the adapter again with PEFT's save_pretrained."
    return UserError("adapter-names-differ", text, "The base has these modules under other names:", todo)
