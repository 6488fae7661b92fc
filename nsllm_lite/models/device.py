"""The card: which one, what it can compute, how fast an earlier run was on it."""

import gc
import importlib.util
import os
import shutil
import sysconfig
from datetime import date
from pathlib import Path
from typing import NamedTuple

from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.errors import UserError
from nsllm_lite.models.sizes import ModelSize, flops_per_token

CONTEXT_BYTES = int(0.8 * GIB)  # CUDA context and library workspaces
TAKEN_UNREMARKED = GIB  # by the display, the driver and this process
BUILD_COMMAND = "Install them: apt install gcc python3-dev (dnf install gcc python3-devel; conda install gcc_linux-64)."


def remember_speed(card: str, size: ModelSize, tokens_per_s: float, products: str | None = None) -> None:
    """Keeps what this card has reached with such products, for the plans of later runs."""
    known = _known_speeds() | {
        _kind_of_run(card, products): {"flops": flops_per_token(size) * tokens_per_s, "on": f"{date.today()}"}
    }
    try:
        _speed_file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_speed_file(), known)
    except OSError as error:
        print(f"{_speed_file()}: the speed of this run is not kept ({error})")


def known_speed(card: str, products: str | None = None) -> dict | None:
    """{"flops": reached a second, "on": date}; None where no run has ended on such a card."""
    return _known_speeds().get(_kind_of_run(card, products))


def _kind_of_run(card: str, products: str | None) -> str:
    return f"{card}, products={products}" if products else card


def _speed_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nsllm-lite" / "speed.json"


def _known_speeds() -> dict:
    try:
        return read_json(_speed_file())
    except (OSError, ValueError):
        return {}


class Card(NamedTuple):
    """What a run is computed on; without arguments the CPU. `memory_bytes` is what this process can have of it."""

    device: str = "cpu"
    memory_bytes: int | None = None
    name: str = "CPU"
    total_bytes: int | None = None
    capability: tuple[int, int] = (8, 0)  # of a card; of one that is only planned for assumed

    @property
    def has_bfloat16(self) -> bool:
        return self.capability >= (8, 0)

    @property
    def has_float8(self) -> bool:
        return self.capability >= (8, 9)

    @property
    def words(self) -> str:
        if self.total_bytes is None:
            return self.name
        taken = self.total_bytes - self.memory_bytes
        return f"{self.name}, {self.total_bytes / GIB:.1f} GiB" + (
            f" ({self.memory_bytes / GIB:.1f} free, the rest is in use)" if taken > TAKEN_UNREMARKED else ""
        )


def find_device(asked: str | None = None) -> Card:
    """The first CUDA card (under a launcher that of this process) unless `asked` says cpu or there is none.

    Raises:
        UserError: cuda was asked for and there is none, or the card is older than Turing.
    """
    import torch

    if asked == "cpu" or (asked is None and not torch.cuda.is_available()):
        return Card()
    if not torch.cuda.is_available():
        found = "execution.device=cuda, but torch sees no CUDA card."
        todo = "Check nvidia-smi and that torch is a CUDA build (python -c 'import torch; print(torch.version.cuda)')."
        raise UserError("device-no-cuda", found, todo)
    index = max(0, int(os.environ.get("LOCAL_RANK", "0"))) % torch.cuda.device_count()
    card = torch.cuda.get_device_properties(index)
    if (card.major, card.minor) < (7, 5):
        found = f"{card.name} is too old (compute capability {card.major}.{card.minor}; 7.5 is needed)."
        raise UserError("device-too-old", found, "Use a T4 or newer card, or execution.device=cpu.")
    gc.collect()  # an earlier run of this process may still hold some
    cached = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
    free = torch.cuda.mem_get_info(index)[0] + cached + CONTEXT_BYTES  # of this process
    return Card("cuda", min(free, card.total_memory), card.name, card.total_memory, (card.major, card.minor))


def require_kernels(device: str) -> None:
    """Raises UserError where a card's kernels cannot run: Liger is not installed, or Triton could not build them."""
    if device != "cuda":
        return
    if missing := [name for name in ("liger-kernel", "triton") if not importlib.util.find_spec(name.replace("-", "_"))]:
        found = f"Training on a card needs {' and '.join(missing)}, not installed here."
        todo = "pip install 'nsllm-lite[gpu]' (from a clone: make setup EXTRAS=dev,gpu), or execution.device=cpu."
        raise UserError("kernels-not-installed", found, todo)
    if words := why_kernels_cannot_be_built():
        needed = "Triton compiles a small C file before the first kernel."
        raise UserError("kernels-cannot-be-built", f"There is {words}.", needed, BUILD_COMMAND)


def why_kernels_cannot_be_built() -> str | None:
    """What of a C compiler and Python's headers is missing, as `triton.runtime.build` looks for them."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or shutil.which(compiler) is None:
        return f"no C compiler {compiler!r} (CC)" if compiler else "no C compiler (CC, gcc or clang)"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    header = Path(sysconfig.get_paths(scheme=scheme)["include"]) / "Python.h"
    return None if header.is_file() else f"no {header}"


def require_dtype(compute_dtype: str, card: Card) -> None:
    """Raises UserError where the card cannot compute in `compute_dtype`."""
    if compute_dtype == "bfloat16" and not card.has_bfloat16:
        found = "This card does not compute in bfloat16."
        todo = "Add compute_dtype=float16: the loss is then scaled, and a step that overflows is retried."
        raise UserError("device-no-bfloat16", found, todo)
