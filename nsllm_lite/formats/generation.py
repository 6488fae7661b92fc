"""What a model's files say of its generation."""

from pathlib import Path

from nsllm_lite.artifact.json_files import read_object
from nsllm_lite.errors import UserError


def stop_ids(model_dir: Path) -> list[int]:
    """The tokens at which generation from the model in `model_dir` stops, by its configs."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        path = model_dir / name
        stops = read_object(path).get("eos_token_id") if path.is_file() else None
        listed = stops if isinstance(stops, list) else [] if stops is None else [stops]
        if not all(type(stop) is int for stop in listed):
            told = f"{path} has eos_token_id: {stops!r}."
            raise UserError("generation-eos-wrong", told, "Needed is a number or a list of them.", "Correct it there.")
        found += listed
    return found
