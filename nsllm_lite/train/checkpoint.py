"""Checkpoints that resume exactly: trained tensors, optimizer, RNG and the step. No pickle.

The learning rate and the data order are functions of the step, so the step is their whole state.
"""

import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from nsllm_lite.artifact.disk import replace_folder, sync_folder
from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import read_json, write_sealed
from nsllm_lite.errors import RunError, UserError


def name(step: int) -> str:
    return f"step-{step:06d}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def save(folder: Path, step: int, model: nn.Module, optimizer: Optimizer, progress: dict) -> Path:
    """Writes `folder/step-NNNNNN`, whole or not at all; `progress` is JSON carried along. Raises RunError where the
    optimizer's last steps have made NaN or infinity; nothing is written then."""
    trained = _trained(model)
    if broken := _not_finite(trained):
        latest = newest(folder) or "none yet"
        found = f"Step {step} has made {broken} NaN or infinite: it is not kept; the last good checkpoint is {latest}."
        raise RunError("checkpoint-not-finite", found, "Lower optimizer.learning_rate and start into another folder.")
    final, part = folder / name(step), folder / f"{name(step)}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(trained, part / "trained.safetensors")
    state = dict(_flat(optimizer.state_dict()["state"]))
    tensors = {name: value.detach().clone().contiguous() for name, value in state.items() if isinstance(value, Tensor)}
    scalars = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
    save_file(tensors, part / "optimizer.safetensors")
    on_card = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    save_file({"cpu": torch.get_rng_state(), **on_card}, part / "rng.safetensors")
    for path in part.iterdir():  # older ones are deleted after this
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    hashes = {path.name: sha256_file(path) for path in sorted(part.iterdir())}
    write_sealed(part / "state.json", {"step": step, "optimizer": scalars, "progress": progress, "sha256": hashes})
    sync_folder(part)
    replace_folder(part, final)  # one that is there already was damaged, and passed over
    sync_folder(folder)
    return final


def rotate(folder: Path, step: int, keep: int) -> None:
    """Deletes what is older than the newest `keep` good checkpoints up to `step`, and what a kill left half made.
    Damaged ones do not count. Later ones are damaged: they are made again when the run comes to them."""
    own = [path for path in _newest_first(folder) if step_of(path) <= step]
    num_good = 0
    for path in own if len(own) > keep else ():
        if num_good == keep:
            path.rename(path.with_suffix(".old"))  # no checkpoint any more, however much of it is still there
        else:
            num_good += not faults(path)
    for path in (*folder.glob("step-*.part"), *folder.glob("step-*.old")):
        shutil.rmtree(path)


def newest(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all as they were written; damaged ones are named and passed over."""
    for path in _newest_first(folder):
        if not (damaged := faults(path)):
            return path
        print(f"{path}: damaged ({', '.join(damaged)}), passed over")
    return None


def newest_to_resume(folder: Path) -> Path | None:
    """`newest`. Raises UserError where there are checkpoints and all are damaged: beginning anew is not resuming."""
    if (found := newest(folder)) is None and _newest_first(folder):
        todo = f"Restore one from a copy, or delete {folder} to begin again at step 0."
        raise UserError("checkpoints-all-damaged", f"Every checkpoint in {folder} is damaged.", todo)
    return found


def faults(path: Path) -> list[str]:
    """The files of a checkpoint that are not what was written, or what of them is not finite."""
    try:
        hashes = read_json(path / "state.json", sealed=True)["sha256"]
        wrong = [name for name, sha in hashes.items() if not (path / name).is_file() or sha256_file(path / name) != sha]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ["state.json"]
    if wrong:
        return wrong
    broken = _not_finite(load_file(path / "trained.safetensors"))
    return [f"trained.safetensors: {broken} is not finite"] if broken else []


def load(path: Path, model: nn.Module, optimizer: Optimizer) -> tuple[int, dict]:
    """Puts the checkpoint's state into `model` and `optimizer` and the RNG; returns (step, progress)."""
    state = read_json(path / "state.json")
    saved, current = load_file(path / "trained.safetensors"), _trained(model)
    if saved.keys() != current.keys():
        odd = sorted(saved.keys() ^ current.keys())[:3]
        found = f"{path} is a checkpoint of another model (differs at {odd})."
        raise UserError("checkpoint-of-another-model", found, "Delete it or write elsewhere.")
    with torch.no_grad():
        for name, tensor in current.items():
            tensor.copy_(saved[name])
    tensors = load_file(path / "optimizer.safetensors")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": _join(tensors, state["optimizer"]), "param_groups": groups})
    _restore_rng(load_file(path / "rng.safetensors"))
    return state["step"], state["progress"]


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}


def _not_finite(tensors: dict[str, Tensor]) -> str:
    """The first of the tensors that holds NaN or infinity, or nothing."""
    bounds = ((name, torch.aminmax(tensor)) for name, tensor in tensors.items() if tensor.numel())
    return next((name for name, both in bounds if not all(map(math.isfinite, both))), "")


def _newest_first(folder: Path) -> list[Path]:
    there = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted((path for path in there if (path / "state.json").is_file()), key=step_of, reverse=True)


def _flat(state: dict, above: str = "") -> Iterator[tuple[str, Tensor | float]]:
    """Optimizer state as named tensors ("3/exp_avg") and named numbers ("3/step"); bitsandbytes nests one deeper."""
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}/")
        else:
            assert isinstance(value, Tensor | int | float), f"optimizer state {above}{key}: a {type(value).__name__}"
            yield f"{above}{key}", value


def _join(tensors: dict[str, Tensor], scalars: dict[str, float | int]) -> dict[int, dict]:
    """What `_flat` took apart; the outermost keys are parameter numbers."""
    state: dict[int, dict] = {}
    for name, value in (*tensors.items(), *scalars.items()):
        index, *inner, key = name.split("/")
        place = state.setdefault(int(index), {})
        for step in inner:
            place = place.setdefault(step, {})
        place[key] = value
    return state


def _restore_rng(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
