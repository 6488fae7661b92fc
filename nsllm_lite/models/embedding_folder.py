"""The files of a folder of sentence-transformers, judged before that library reads them."""

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsllm_lite import safety
from nsllm_lite.artifact.json_files import read_json, read_object
from nsllm_lite.errors import UserError
from nsllm_lite.formats.weights import require_sound
from nsllm_lite.models.quantised import require_unquantised

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FIRST = ["Transformer", "Pooling"]
BEHIND = ("Normalize", "Dense", "LayerNorm", "Dropout")
ARGUMENTS = ("model", "config", "tokenizer", "processor")  # begin names of what is passed on to transformers
SETTINGS = {
    "add_pooling_layer", "attn_implementation", "dtype", "torch_dtype", "model_max_length", "padding_side",
    "truncation_side", "use_fast", "use_safetensors", "trust_remote_code",
}  # fmt: skip
"""Of these those that name no other files; the last two are overridden."""
SIMILARITIES = ("cosine", "dot")
WIDTHS = ("in_features", "embedding_dimension", "dimension")  # of what a module reads, by its class


def require_modules(folder: Path) -> None:
    """Raises:
    UserError: a module is not known here, they are in another order, weights are not safetensors, or a setting
        names code or another model, or is not understood.
    """
    modules = read_json(folder / "modules.json")
    kinds = []
    for module in modules if isinstance(modules, list) and modules else [None]:
        kind, path = [module.get(key) for key in ("type", "path")] if isinstance(module, dict) else (None, None)
        is_named = isinstance(kind, str) and kind.startswith("sentence_transformers.") and isinstance(path, str)
        kinds.append(kind.rpartition(".")[2] if is_named else "")
        is_inside = is_named and (folder / path).resolve().is_relative_to(folder.resolve())  # and no link leads out
        if kinds[-1] not in (*FIRST, *BEHIND) or not is_inside:
            found = f"{folder}/modules.json names the module {kind!r} in {path!r}."
            needed = f"Known are those of sentence-transformers: {', '.join(sorted((*FIRST, *BEHIND)))}."
            raise UserError("embedder-module-unknown", found, needed, "Name another folder.")
    if kinds[:2] != FIRST or not set(kinds[2:]) <= set(BEHIND):
        found = f"{folder}/modules.json names {', '.join(kinds)}."
        needed = f"Needed are {' and '.join(FIRST)}, then others ({', '.join(BEHIND)})."
        raise UserError("embedder-modules-order", found, needed, "Name another folder.")
    for kind, module in zip(kinds, modules, strict=True):
        _require_plain(folder / module["path"], kind)
    settings = folder / "config_sentence_transformers.json"
    stated = read_object(settings).get("similarity_fn_name") if settings.is_file() else None
    if stated not in (None, *SIMILARITIES):  # that library would take the cosine for what it does not know
        found = f"{folder} compares texts by {stated!r}."
        raise UserError("embedder-similarity-unknown", found, f"Known are {' and '.join(SIMILARITIES)}.")


def _require_plain(place: Path, kind: str) -> None:
    """Raises UserError where a module would read other weights than safetensors, or its settings are wrong."""
    if kind == "Transformer":
        require_plain_encoder(place)
        for path in sorted(place.glob("sentence_*_config.json")):
            _require_plain_settings(path)
    elif (place / "pytorch_model.bin").is_file() and not (place / "model.safetensors").is_file():
        raise safety.no_safetensors(place)
    elif kind == "Dense":
        path = place / "config.json"
        activation = read_object(path).get("activation_function", "torch.") if path.is_file() else "torch."
        if not str(activation).startswith("torch."):  # that library would take another one, and go on
            raise _wrong(path, f"activation_function is {activation!r}, which is not of torch")


def require_plain_encoder(folder: Path) -> dict[str, Any]:
    """The config of an encoder's folder. Raises UserError where transformers would read more of it than its weights, or
    they are damaged or quantised."""
    config = safety.require_plain_model(folder)
    require_sound(folder)
    require_unquantised(folder, config)
    return config


def _require_plain_settings(path: Path) -> None:
    stated = read_object(path)
    if (limit := stated.get("max_seq_length")) is not None and (type(limit) is not int or limit < 1):
        raise _wrong(path, f"max_seq_length is {limit!r}")
    if stated.get("tokenizer_name_or_path"):
        raise _wrong(path, f"tokenizer_name_or_path is {stated['tokenizer_name_or_path']!r}, of another model")
    passed = [stated.get(f"{name}_{end}") or {} for name in ARGUMENTS for end in ("args", "kwargs")]
    if not all(isinstance(each, dict) for each in passed):
        raise _wrong(path, "what it passes on to transformers is no object")
    safety.require_own_attention(path, passed)
    if unknown := sorted(set(chain.from_iterable(passed)) - SETTINGS):
        raise _wrong(path, f"it passes {unknown[0]!r} on to transformers")


def require_widths(model: "SentenceTransformer", folder: Path) -> None:
    """Raises UserError where a module reads wider or narrower vectors than the one before it gives."""
    width = model[0].get_embedding_dimension()
    for number, module in enumerate(list(model)[1:], 1):
        kind = type(module).__name__
        reads = next((getattr(module, name) for name in WIDTHS if hasattr(module, name)), width)
        if reads != width:
            raise _wrong(folder / "modules.json", f"{kind} ({number}) reads vectors of {reads}, and is given {width}")
        width = module.get_embedding_dimension() if kind in ("Pooling", "Dense") else width


def _wrong(path: Path, what: str) -> UserError:
    return UserError(
        "embedder-settings-wrong", f"{path} cannot be used: {what}.", "Fetch that folder again, or name another."
    )
