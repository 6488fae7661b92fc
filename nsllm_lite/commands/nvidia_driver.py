"""The NVIDIA driver of this machine, and whether the installed torch can use it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

KERNEL_MODULE = Path("/proc/driver/nvidia/version")
INDEX = "https://download.pytorch.org/whl"
BUILDS = {13: "cu130", 12: "cu126"}  # CUDA that the driver knows -> torch's build that runs on any minor version of it
LEAST_DRIVER = {13: 580, 12: 525}
"""CUDA -> the first driver that runs it. Source: https://docs.nvidia.com/cuda/cuda-toolkit-release-notes (table 2)"""


class Driver(NamedTuple):
    """`cuda` is the newest major version that it runs, 0 where that is too old for any torch we take; `complaint` is
    what nvidia-smi says where it fails."""

    version: str
    cuda: int
    complaint: str


def find_driver() -> Driver | None:
    """None where there is no sign of an NVIDIA driver."""
    told, complaint = "", ""
    try:
        answer = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=60, check=False)
        told = answer.stdout
        complaint = (told + answer.stderr).strip().split("\n")[0] if answer.returncode else ""
    except FileNotFoundError:
        if not KERNEL_MODULE.is_file():
            return None
    except (OSError, subprocess.TimeoutExpired) as error:
        complaint = str(error)
    module = KERNEL_MODULE.read_text() if KERNEL_MODULE.is_file() else ""
    version = re.search(r"Driver Version:\s*(\d[\d.]+)", told) or re.search(r"Module\s.*?(\d{3}\.[\d.]+)", module)
    cuda = re.search(r"CUDA\D{0,12}Version:\s*(\d+)", told)
    release = int(version[1].split(".")[0]) if version else 0
    by_release = next((cuda for cuda, least in LEAST_DRIVER.items() if release >= least), 0)
    return Driver(version[1] if version else "unknown", int(cuda[1]) if cuda else by_release, complaint)


def why_no_card(torch_version: str, torch_cuda: str | None) -> tuple[str, str] | None:
    """What is wrong and what to do, where torch sees no card though an NVIDIA driver is here; None where there is none.

    `torch_cuda` is `torch.version.cuda`: None for a CPU build.
    """
    driver = find_driver()
    if driver is None:
        return None
    if driver.complaint:
        return f"the NVIDIA driver does not work: {driver.complaint}", "restart the machine, or reinstall its driver"
    seen = f"NVIDIA driver {driver.version}, which runs CUDA {driver.cuda}"
    if driver.cuda < min(BUILDS):
        least = LEAST_DRIVER[min(BUILDS)]
        return f"NVIDIA driver {driver.version} is too old for torch 2.10", f"install a driver of {least} or newer"
    if torch_cuda is None:
        return f"torch {torch_version} is a build for the CPU, but here is {seen}", install_command(driver.cuda)
    if int(torch_cuda.split(".")[0]) > driver.cuda:
        to_do = f"{install_command(driver.cuda)}\n         or install a newer driver"
        return f"torch {torch_version} is built for CUDA {torch_cuda}, but here is {seen}", to_do
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        hidden = os.environ["CUDA_VISIBLE_DEVICES"]
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides the cards", "unset CUDA_VISIBLE_DEVICES"
    to_do = "restart the machine after a driver update; a container must be given its card (docker run --gpus all)"
    return f"torch {torch_version} for CUDA {torch_cuda} sees no card, but here is {seen}", to_do


def install_command(cuda: int) -> str:
    """The exact command that puts the right torch in the place of this one, and make's, which remembers it."""
    python = shlex.quote(sys.executable)
    wanted = f"--index-url {INDEX}/{BUILDS[min(cuda, max(BUILDS))]}"
    return (
        f"{python} -m pip uninstall -y torch && {python} -m pip install 'torch>=2.10' {wanted}\n"
        f"         or, in a clone: make setup TORCH='torch>=2.10 {wanted}'"
    )
