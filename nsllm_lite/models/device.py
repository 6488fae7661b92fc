"""The card: which one, what it can compute, how fast an earlier run was on it."""

import os
from datetime import date
from pathlib import Path

from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.errors import UserError
from nsllm_lite.models.sizes import ModelSize, flops_per_token


def remember_speed(card: str, size: ModelSize, tokens_per_s: float) -> None:
    """Keeps what this card has reached, for the plans of later runs."""
    known = _known_speeds() | {card: {"flops": flops_per_token(size) * tokens_per_s, "on": f"{date.today()}"}}
    try:
        _speed_file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_speed_file(), known)
    except OSError as error:
        print(f"{_speed_file()}: the speed of this run is not kept ({error})")


def known_speed(card: str) -> dict | None:
    """{"flops": reached a second, "on": date}; None where no run has ended on such a card."""
    return _known_speeds().get(card)


def _speed_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nsllm-lite" / "speed.json"


def _known_speeds() -> dict:
    try:
        return read_json(_speed_file())
    except (OSError, ValueError):
        return {}


def find_device(asked: str | None = None) -> tuple[str, int | None, str]:
    """(device, memory in bytes, name): the first CUDA card unless `asked` says cpu or there is none.

    Raises:
        UserError: cuda was asked for and there is none, or the card is older than Turing.
    """
    import torch

    if asked == "cpu" or (asked is None and not torch.cuda.is_available()):
        return "cpu", None, "CPU"
    if not torch.cuda.is_available():
        found = "execution.device=cuda, but torch sees no CUDA card."
        todo = "Check nvidia-smi and that torch is a CUDA build (python -c 'import torch; print(torch.version.cuda)')."
        raise UserError("device-no-cuda", found, todo)
    card = torch.cuda.get_device_properties(0)
    if (card.major, card.minor) < (7, 5):
        found = f"{card.name} is too old (compute capability {card.major}.{card.minor}; 7.5 is needed)."
        raise UserError("device-too-old", found, "Use a T4 or newer card, or execution.device=cpu.")
    return "cuda", card.total_memory, card.name


def has_bfloat16(device: str) -> bool:
    import torch

    return device == "cpu" or torch.cuda.get_device_properties(0).major >= 8


def require_dtype(compute_dtype: str, device: str) -> None:
    """Raises UserError where the card cannot compute in `compute_dtype`."""
    if compute_dtype == "bfloat16" and not has_bfloat16(device):
        found = "This card does not compute in bfloat16."
        todo = "Add compute_dtype=float16: the loss is then scaled, and a step that overflows is retried."
        raise UserError("device-no-bfloat16", found, todo)
