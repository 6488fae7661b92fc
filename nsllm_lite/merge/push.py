"""Uploads a finished merge to the Hugging Face Hub (`--push-to-hub`)."""

from pathlib import Path

import httpx
from huggingface_hub import HfApi
from huggingface_hub.utils import HFValidationError, validate_repo_id

from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.errors import RunError, UserError
from nsllm_lite.formats.weights import require_sound

NETWORK_ERRORS = (httpx.HTTPError, OSError)  # the hub's own errors are of these kinds


def require_push(repo_id: str, only_compares: bool = False) -> None:
    """Checks the login before anything long begins; huggingface_hub reads the token, which is never shown. Raises
    UserError where `repo_id` is no id, or there is no login that the hub takes."""
    if only_compares:
        found = "--compare writes nothing that could be sent."
        raise UserError("push-with-compare", found, "Leave out one of --compare and --push-to-hub.")
    try:
        validate_repo_id(repo_id)
        is_id = repo_id.count("/") == 1
    except HFValidationError:
        is_id = False
    if not is_id:
        found = f"--push-to-hub {repo_id!r} is no id of a model."
        raise UserError("push-id-invalid", found, "Write it in the form OWNER/NAME, such as my-group/nsllm-8b.")
    try:
        HfApi().whoami()
    except NETWORK_ERRORS as error:
        found = f"The hub does not take this login ({type(error).__name__}); a token that may write is needed."
        todo = "Set HF_TOKEN, or run `hf auth login` (HF_HUB_OFFLINE must be unset); or leave out --push-to-hub."
        raise UserError("push-no-login", found, todo) from None


def push(folder: Path, repo_id: str) -> str:
    """Sends a finished model folder to its repository on the hub, a private one where it is new; returns the address.

    Raises:
        UserError: `folder` is no finished merge, or is damaged.
        RunError: the hub refused, or could not be reached; what was sent is not sent again.
    """
    if read_manifest(folder) is None:
        found = f"{folder} holds no finished merge."
        raise UserError("push-unfinished", found, "Only whole models are sent:", "run the merge first.")
    require_sound(folder)
    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type="model", private=True, exist_ok=True)
        api.upload_folder(
            folder_path=folder, repo_id=repo_id, repo_type="model", commit_message="Upload a merged model"
        )
    except NETWORK_ERRORS as error:
        found = f"{folder} is finished, but sending it to {repo_id} failed ({type(error).__name__})."
        todo = "Check that the token may write there and that the network is up, and run the same command again."
        raise RunError("push-failed", found, todo) from None
    return str(url)
