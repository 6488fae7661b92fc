"""What our own training writes beside an adapter, training.json: it is put on the base that this names, and on no
other."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.json_files import read_object, validated
from nsllm_lite.errors import UserError
from nsllm_lite.formats.weights import fingerprint_weights


class _File(BaseModel, strict=True):
    sha256: str


class _Training(BaseModel, strict=True):
    """Types of its values."""

    base: str | None = None
    base_fingerprint: str | None = None
    compute_dtype: str | None = None
    double_quantisation: bool | None = None
    device: Literal["cpu", "cuda"] | None = None
    template: Literal["plain", "chat"] | None = None  # that an instruction tuning asks in
    end_of_text_id: int | None = None  # at which the answers of an instruction tuning end
    base_files: dict[str, _File] = {}


def read_training(adapter: Path, **required: type) -> dict[str, Any]:
    """training.json of an adapter's folder; {} where it has none, as those of other tools. Raises UserError where a
    value has another type, or a `required` one is not there."""
    path = adapter / "training.json"
    if not path.is_file():
        return {}
    training = read_object(path, **required)
    validated(path, training=(_Training, training))
    return training


def require_trained_on(base: Path, adapter: Path, training: dict[str, Any], fingerprint: str | None = None) -> None:
    """Raises UserError where `training` states other weights than `base` has, by their `fingerprint_weights`."""
    told = training.get("base_fingerprint")
    if told and told != (fingerprint := fingerprint or fingerprint_weights(base)):
        integrity.verify(base)
        found = f"{adapter} was trained on another base: {training.get('base')} (weights {told[:12]}), "
        found += f"but base is {base} (weights {fingerprint[:12]})."
        todo = "Name that model (merge: base=DIR; else base_model_name_or_path in its adapter_config.json), or train "
        todo += "again on this one; where these are its weights in other files, merge with --trust-base."
        raise UserError("merge-base-differs", found, todo)


def require_same_files(base: Path, adapter: Path, training: dict[str, Any], found: dict[str, integrity.Entry]) -> None:
    """Raises UserError where a file of the base is not, to its last bit, the one that `training` states; `found` is
    what `weights.require_sound` says of them."""
    told = training.get("base_files", {})
    for name in sorted(found.keys() & told.keys()):
        if found[name]["sha256"] != told[name]["sha256"]:
            changed = f"{base / name} is not what {adapter} was trained on: changed since, or damaged."
            todo = "Fetch or copy it again, or name the model that it was (base=DIR, or in adapter_config.json)."
            raise UserError("merge-base-changed", changed, todo)
