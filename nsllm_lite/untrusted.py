"""What is not taken on trust from a corpus, a model folder or an adapter: links, names of files, settings, characters."""

import re
from pathlib import Path
from typing import Any

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_HEAVY_PATTERN = re.compile(r"\)\s*[*+?{]|(?:[*+{].*){4}", re.DOTALL)  # may take a regular expression years
MAX_PATTERN_CHARS = 500
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".keras", ".msgpack")
CODE = (".py", ".pyc", ".so", ".sh", ".ipynb")


def printable(text: str) -> str:
    r"""`text` with the characters that command a terminal written out (\x1b); line ends and tabs stay."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}" if found[0] < "\u0100" else "\ufffd", text)


def leads_outside(path: Path, top: Path) -> bool:
    """Whether `path`, found below `top`, is or passes a link to what is not below `top`.

    `top` may be a link itself, since the user named it. A snapshot in the hub's cache is links to `blobs` beside it.
    """
    target = path.resolve()
    roots = [top.resolve()]
    for folder in (top.absolute(), roots[0]):
        roots += [up.parent / "blobs" for up in (folder, *folder.parents) if up.name == "snapshots"]
    return not any(target.is_relative_to(root.resolve()) for root in roots)


def require_inside(path: Path, top: Path) -> None:
    """Raises ValueError where a file of a model folder is a link that leads out of it, to a file of yours perhaps."""
    if leads_outside(path, top):
        raise ValueError(
            f"{path} is a link that leads out of its folder, to {path.resolve()}. Of a model only files in its folder "
            "are passed on: put a copy of that file there if it belongs to the model, or remove the link."
        )


def weight_files(folder: Path, index: dict[str, Any] | None) -> list[str]:
    """Names of the safetensors files of a model: model.safetensors, or the shards that its index names.

    Raises:
        ValueError: the index names no files, or files that lie elsewhere or are no safetensors.
    """
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    named = index.get("weight_map") if isinstance(index, dict) else None
    files = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
    where = folder / "model.safetensors.index.json"
    if not files:
        raise ValueError(f"{where} names no files of weights (weight_map). A whole one is needed: fetch it again.")
    if outside := [name for name in files if Path(name).name != name]:
        raise ValueError(f"{where} names files outside its folder ({outside[0]!r}). That is refused: fetch it again.")
    if others := [name for name in files if not name.endswith(".safetensors")]:
        raise ValueError(
            f"{where} names {others[0]!r}, which is no *.safetensors. Weights are only ever read from safetensors "
            "(pickles can run code): convert them, or name another MODEL."
        )
    return files


def require_lora(settings: object, where: Path) -> None:
    """Refuses what an adapter's config could make PEFT do beside LoRA: fetch other adapters, import modules, hang.

    Raises:
        ValueError: it is no LoRA, asks for Megatron's modules, or holds a pattern that may match for ever.
    """
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else type(settings).__name__
        raise ValueError(f"{where} is an adapter of type {kind!r}. Only LoRA (peft_type LORA) is read here.")
    if settings.get("megatron_config"):
        raise ValueError(
            f"{where} sets megatron_config, which has PEFT import the module {settings.get('megatron_core')!r}. "
            "An adapter may not name code to run: remove that setting, and the adapter is read without it."
        )
    for key in ("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_pattern"):
        patterns = settings.get(key) or []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if _HEAVY_PATTERN.search(str(pattern)) or len(str(pattern)) > MAX_PATTERN_CHARS:
                raise ValueError(
                    f"{where}: the pattern {str(pattern)[:80]!r} of {key} may take for ever to match. Repeated groups "
                    f"and more than three repetitions in one pattern of {key} are refused: name the modules instead."
                )
