"""What a merge reads: weights and configs of the base and the adapters, and checks that they belong together."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from nsllm_lite import safety
from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.json_files import read_object, validated
from nsllm_lite.errors import UserError
from nsllm_lite.formats import weights
from nsllm_lite.formats.adapter_names import PART, at_home, peft_names
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.quantised import require_unquantised
from nsllm_lite.models.trained_on import read_training, require_same_files, require_trained_on
from nsllm_lite.recipe.merge import Merge, MergedAdapter

# The keys of adapter_config.json that the plan obeys, and those that say nothing about the merged weights. Any other
# key that is set (fan_in_fan_out, target_parameters, layer_replication, ...) changes the formula: refused.
OBEYED = {"peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"}
OBEYED |= {"bias", "trainable_token_indices", "init_lora_weights", "ensure_weight_tying"}
ALLOWED = {
    "peft_type": ("LORA",),
    "bias": ("none", "all", "lora_only"),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),  # the others (PiSSA, OLoRA) change the base
}
SILENT = {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
SILENT |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"}
SILENT |= {"megatron_core", "qalora_group_size", "runtime_config", "eva_config"}
NF4_SCALES = "nf4_scales.safetensors"


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None  # caught by pydantic
    return text


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
_Means = dict[str, Number | None]  # None: without double quantisation
Pattern = Annotated[str, AfterValidator(_is_pattern)]  # of a module's name


class _Obeyed(BaseModel, strict=True):
    """Types of the values in adapter_config.json that the merge uses."""

    r: Count
    lora_alpha: Number
    rank_pattern: dict[Pattern, Count] | None = None
    alpha_pattern: dict[Pattern, Number] | None = None
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    base_model_name_or_path: str | None = None


@dataclass(frozen=True, slots=True)
class Base:
    folder: Path
    tensors: dict[str, weights.TensorOnDisk]
    config: dict
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Adapter:
    """`tensors` are named as by PEFT, without its prefix; `training` is {} for others' adapters."""

    folder: Path
    tensors: dict[str, weights.TensorOnDisk]
    settings: dict
    training: dict
    weight: float
    sha256: str
    nf4_means: dict[str, float]  # of each module that training quantised, where it wrote that down
    nf4_scales: dict[str, weights.TensorOnDisk]  # the 8-bit scales it held, likewise


def open_inputs(recipe: Merge) -> tuple[Base, list[Adapter]]:
    base = open_base(Path(recipe.base) if Path(recipe.base).is_dir() else resolve_model(recipe.base))
    adapters = [placed(open_adapter(chosen), base) for chosen in recipe.adapters]
    if not recipe.trust_base:
        for adapter in adapters:
            require_same_base(base, adapter, recipe.base)
    return base, adapters


def open_base(folder: Path) -> Base:
    """The tensors and the config of the base, from the files transformers would load."""
    if not (folder / "config.json").is_file():
        found = f"{folder} is no model directory: it has no config.json."
        raise UserError("merge-base-no-config", found, "Set base=DIR to one that has.")
    config = safety.require_plain_model(folder)
    require_unquantised(folder, config, "base")
    files = weights.model_files(folder)
    tensors = {name: stored for file in files for name, stored in weights.read_header(folder / file).items()}
    return Base(folder, tensors, config, weights.fingerprint_weights(folder))


def open_adapter(chosen: MergedAdapter) -> Adapter:
    folder = Path(chosen.path)
    missing = [n for n in ("adapter_config.json", "adapter_model.safetensors") if not (folder / n).is_file()]
    if missing:
        found = f"No adapter at {folder}: {' and '.join(missing)} missing."
        needed = "Merging needs what training writes at its end (safetensors, never a pickle):"
        raise UserError("merge-no-adapter", found, needed, "run training first, or set adapter=DIR.")
    integrity.verify(folder)
    settings = read_object(folder / "adapter_config.json")
    refused = {key for key, value in settings.items() if value and key not in OBEYED | SILENT}
    refused |= {key for key, allowed in ALLOWED.items() if settings.get(key, allowed[0]) not in allowed}
    if refused:
        stated = ", ".join(f"{key}={settings[key]!r}" for key in sorted(refused))
        found = f"{folder} was made with {stated}, for which the merged weight is not (or not tested to be) W + s B A."
        todo = "Merge it with PEFT's merge_and_unload, or train without that setting."
        raise UserError("merge-adapter-unsupported", found, "Only LoRA, rsLoRA and DoRA are merged here.", todo)
    safety.require_lora(settings, folder)
    validated(folder / "adapter_config.json", settings=(_Obeyed, settings))
    path = folder / "adapter_model.safetensors"
    tensors = peft_names(weights.read_header(path))
    training = read_training(folder)
    means = read_object(folder / "nf4.json") if (folder / "nf4.json").is_file() else {}
    validated(folder / "nf4.json", means=(_Means, means))
    scales = weights.read_header(folder / NF4_SCALES) if (folder / NF4_SCALES).is_file() else {}
    return Adapter(folder, tensors, settings, training, chosen.weight, integrity.sha256_file(path), means, scales)


def placed(adapter: Adapter, base: Base) -> Adapter:
    """The adapter with the names of the base: those of a model of images and text differ before the layers."""
    homes = {PART.sub("", name) for name in (*base.tensors, weights.HEAD)}
    tensors, settings, roots = at_home(adapter.tensors, adapter.settings, homes)
    for found, needed in roots.items():
        print(f"{adapter.folder}: its modules {found}* are {needed}* of {base.folder}")
    return replace(adapter, tensors=tensors, settings=settings)


def require_same_base(base: Base, adapter: Adapter, base_name: str) -> None:
    """Adapters of our own training state the fingerprint of their base, others its name."""
    if adapter.training.get("base_fingerprint"):
        require_trained_on(base.folder, adapter.folder, adapter.training, base.fingerprint)
        return
    name = adapter.settings.get("base_model_name_or_path") or ""
    if name and Path(name).is_dir() and Path(name).resolve() == base.folder.resolve():
        return
    names = (base_name, str(base.folder), base.config.get("_name_or_path") or "")
    hub_folders = [part.removeprefix("models--") for part in base.folder.parts if part.startswith("models--")]
    known = {last_word(known) for known in (*names, *(folder.replace("--", "/") for folder in hub_folders))}
    if name and last_word(name) not in known:
        found = f"{adapter.folder} says that it was trained on {name}, but base is {base_name}."
        todo = "Set base=DIR to that model; if these are its weights under another name: --trust-base "
        todo += "(trust_base=true)."
        raise UserError("merge-base-name-differs", found, todo)


def last_word(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()


def require_sound(base: Base, adapters: list[Adapter], trust_base: bool) -> None:
    """Raises UserError where a file is not what was written, or not what the adapter was trained on, or not finite."""
    found = weights.require_sound(base.folder)
    for adapter in adapters:
        weights.require_sound(adapter.folder)
        if not trust_base:
            require_same_files(base.folder, adapter.folder, adapter.training, found)
