"""What a model's files say of its generation."""

from pathlib import Path

from nsllm_lite.artifact.json_files import read_json


def stop_ids(model_dir: Path) -> list[int]:
    """The tokens at which generation from the model in `model_dir` stops, by its configs."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        stops = read_json(model_dir / name).get("eos_token_id") if (model_dir / name).is_file() else None
        found += stops if isinstance(stops, list) else [] if stops is None else [stops]
    return found
