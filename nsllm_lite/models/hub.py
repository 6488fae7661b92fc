"""Resolves a model name: a folder, or the hub's files in the local cache."""

from pathlib import Path

from nsllm_lite import safety
from nsllm_lite.errors import UserError

LOADED_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*")
"""All that is ever fetched from a hub; the card tells the licence."""


def resolve_model(name: str, named_by: Path | None = None) -> Path:
    """The directory of a model: `name` itself, or the hub's files in the local cache (fetched if need be).

    With `named_by`, a file that names the model, nothing is fetched: only the user's own word has that done.

    Raises:
        UserError: `name` is neither a directory nor a hub id ("owner/name") that can be had.
    """
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            found = f"{name} is no model directory: it has no config.json."
            raise UserError("model-no-config", found, "Name one that has, or a hub id.")
        return Path(name)
    if name.startswith(safety.LOCAL) or not safety.HUB_ID.fullmatch(name):
        found = f"No model at {name}."
        needed = "Needed is a Hugging Face model directory or a hub id such as Qwen/Qwen3-8B-Base."
        todo = "If an earlier step should have written it, run that first (`make phase1` before `make phase2`, "
        todo += "`make real-model` for models/smollm2-135m)."
        raise UserError("model-not-found", found, needed, todo)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        options = {"local_files_only": True} if named_by else {}
        kept = {"allow_patterns": list(LOADED_FILES), "ignore_patterns": "adapter_*"}  # that some leave with a model
        return Path(snapshot_download(name, **kept, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if named_by:
            found = f"{named_by} names {name} as its base, which is not on this machine."
            needed = "A model is downloaded only where you name it yourself, not because a file names it."
            todo = f"If you trust it, fetch it (hf download {name}) and run the same command again."
            raise UserError("model-base-not-local", found, needed, todo) from None
        found = f"Model {name} could not be fetched from the hub ({type(error).__name__})."
        todo = "Check the id and the network; HF_ENDPOINT sets a mirror, HF_TOKEN a login, MODEL=DIR a local copy."
        raise UserError("model-not-fetched", found, todo) from error
