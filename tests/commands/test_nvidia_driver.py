"""A torch that cannot use the card that is there is recognised, and the exact command is printed."""

import sys
from pathlib import Path

import pytest
import torch

from nsllm_lite.commands import doctor, nvidia_driver

SMI = (Path(__file__).parents[1] / "data/commands/nvidia-smi.txt").read_text()
MODULE = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  {release}  Thu Feb 22 01:44:30 UTC 2024
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""
OPEN_MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (root)\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that puts a stand-in for nvidia-smi and the kernel's file in place."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nvidia_driver, "KERNEL_MODULE", tmp_path / "version")

    def make(smi: str | None = None, status: int = 0, module: str | None = None) -> None:
        if smi is not None:
            (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{smi}\nEND\nexit {status}\n")
            (tmp_path / "nvidia-smi").chmod(0o755)
        if module:
            (tmp_path / "version").write_text(module)

    return make


@pytest.mark.parametrize(
    ("smi", "module", "version", "cuda"),
    [
        (SMI.format(cuda="12.4"), None, "550.54.14", 12),
        (SMI.format(cuda="13.0"), None, "550.54.14", 13),
        (SMI.format(cuda="12.4").replace("CUDA Version", "CUDA UMD Version"), None, "550.54.14", 12),
        (None, MODULE.format(release="580.65.06"), "580.65.06", 13),
        (None, MODULE.format(release="535.183.01"), "535.183.01", 12),
        (None, MODULE.format(release="470.57.02"), "470.57.02", 0),
        (None, OPEN_MODULE, "580.95.05", 13),
    ],
)
def test_drivers(machine, smi, module, version, cuda):
    machine(smi, module=module)
    assert nvidia_driver.find_driver() == (version, cuda, "")


@pytest.mark.parametrize(
    ("cuda", "torch_version", "torch_cuda", "kind", "build"),
    [
        ("12.4", "2.13.0+cpu", None, "for the CPU", "cu126"),
        ("13.1", "2.13.0+cpu", None, "for the CPU", "cu130"),
        ("14.0", "2.13.0+cpu", None, "for the CPU", "cu130"),
        ("12.8", "2.13.0", "13.0", "for CUDA 13.0", "cu126"),
    ],
)
def test_the_wrong_torch_and_the_right_one(machine, cuda, torch_version, torch_cuda, kind, build):
    machine(SMI.format(cuda=cuda))
    found, to_do = nvidia_driver.why_no_card(torch_version, torch_cuda)
    for seen in (f"torch {torch_version} ", kind, "driver 550.54.14", f"CUDA {cuda.split('.')[0]}"):
        assert seen in found
    wanted = f"--index-url https://download.pytorch.org/whl/{build}"
    assert f"{sys.executable} -m pip install 'torch>=2.10' {wanted}" in to_do
    assert f"make setup TORCH='torch>=2.10 {wanted}'" in to_do


def test_what_another_torch_does_not_mend(machine, monkeypatch):
    machine(SMI.format(cuda="12.4"))
    found, to_do = nvidia_driver.why_no_card("2.11.0+cu126", "12.6")  # a newer minor version runs
    assert "sees no card" in found
    assert "--gpus all" in to_do
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert nvidia_driver.why_no_card("2.11.0+cu126", "12.6")[1] == "unset CUDA_VISIBLE_DEVICES"
    machine(SMI.format(cuda="11.4"))
    assert nvidia_driver.why_no_card("2.13.0+cpu", None)[1].startswith("install a driver of 525 ")
    machine("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", status=9)
    assert nvidia_driver.why_no_card("2.13.0+cpu", None)[0].endswith("couldn't communicate with the NVIDIA driver.")


def test_the_doctor_says_so_and_nothing_of_a_machine_without_a_driver(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    patient = doctor.TinyRun(tmp_path, "cpu")
    assert nvidia_driver.find_driver() is None
    assert nvidia_driver.why_no_card("2.13.0+cpu", None) is None
    assert doctor.examine(doctor.check_card, patient)[0] == "n/a"
    machine(SMI.format(cuda="12.4"))
    monkeypatch.setattr(torch.version, "cuda", None)
    verdict, seen, to_do = doctor.examine(doctor.check_card, patient)
    assert verdict == "FAIL"
    assert torch.__version__ in seen
    assert "whl/cu126" in to_do
