"""Checkpoints that resume exactly: trained tensors, optimizer, RNG and the step. No pickle.

The learning rate and the data order are functions of the step, so the step is their whole state.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from nsllm_lite import run


def save(folder: Path, step: int, model: nn.Module, optimizer: Optimizer, progress: dict) -> Path:
    """Writes `folder/step-NNNNNN`, whole or not at all; `progress` is JSON carried along."""
    final = folder / f"step-{step:06d}"
    part = folder / f"step-{step:06d}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(_trained(model), part / "trained.safetensors")
    tensors, scalars = _split(optimizer.state_dict()["state"])
    save_file(tensors, part / "optimizer.safetensors")
    save_file(_rng_state(), part / "rng.safetensors")
    hashes = {path.name: run.sha256_file(path) for path in sorted(part.iterdir())}
    state = {"step": step, "optimizer": scalars, "progress": progress, "sha256": hashes}
    run.write_json(part / "state.json", state | {"sha256_of_this": run.sha256_json(state)})
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    return final


def rotate(folder: Path, keep: int) -> None:
    """Deletes all but the newest `keep` checkpoints."""
    for path in _newest_first(folder)[keep:]:
        shutil.rmtree(path)


def newest(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all as they were written; damaged ones are named and passed over."""
    for path in _newest_first(folder):
        state = _read_state(path)
        if state is None:
            damaged = ["state.json"]
        else:
            damaged = [name for name, sha in state["sha256"].items() if not _is_intact(path / name, sha)]
        if not damaged:
            return path
        print(f"{path}: damaged ({', '.join(damaged)}), passed over")
    return None


def load(path: Path, model: nn.Module, optimizer: Optimizer) -> tuple[int, dict]:
    """Puts the checkpoint's state into `model` and `optimizer` and the RNG; returns (step, progress)."""
    state = run.read_json(path / "state.json")
    saved, current = load_file(path / "trained.safetensors"), _trained(model)
    if saved.keys() != current.keys():
        odd = sorted(saved.keys() ^ current.keys())[:3]
        raise ValueError(f"{path} is a checkpoint of another model (differs at {odd}). Delete it or write elsewhere.")
    with torch.no_grad():
        for name, tensor in current.items():
            tensor.copy_(saved[name])
    tensors = load_file(path / "optimizer.safetensors")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": _join(tensors, state["optimizer"]), "param_groups": groups})
    _restore_rng(load_file(path / "rng.safetensors"))
    return state["step"], state["progress"]


def _read_state(path: Path) -> dict | None:
    """state.json of a checkpoint as it was written; None where it is not."""
    try:
        state = run.read_json(path / "state.json")
        return state if state.pop("sha256_of_this") == run.sha256_json(state) else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}


def _newest_first(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("step-*") if (p / "state.json").is_file()), reverse=True)


def _is_intact(path: Path, sha256: str) -> bool:
    return path.is_file() and run.sha256_file(path) == sha256


def _split(state: dict, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, float | int]]:
    """Optimizer state as named tensors ("3/exp_avg") and named numbers ("3/step"); bitsandbytes nests one deeper."""
    tensors, scalars = {}, {}
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            inner_tensors, inner_scalars = _split(value, f"{name}/")
            tensors |= inner_tensors
            scalars |= inner_scalars
        elif isinstance(value, Tensor):
            tensors[name] = value.detach().clone().contiguous()
        elif isinstance(value, int | float):
            scalars[name] = value
        else:
            raise AssertionError(f"optimizer state {name} of type {type(value).__name__} is neither tensor nor number")
    return tensors, scalars


def _join(tensors: dict[str, Tensor], scalars: dict[str, float | int]) -> dict[int, dict]:
    """What `_split` took apart; the outermost keys are parameter numbers."""
    state: dict[int, dict] = {}
    for name, value in (*tensors.items(), *scalars.items()):
        index, *inner, key = name.split("/")
        place = state.setdefault(int(index), {})
        for step in inner:
            place = place.setdefault(step, {})
        place[key] = value
    return state


def _rng_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_rng(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
