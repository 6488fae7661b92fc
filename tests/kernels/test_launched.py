"""Every Triton kernel that a training step launches compiles for every architecture and fits it; no card is needed."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from nsllm_lite.models.sizes import QWEN3

KERNELS = Path(sys.prefix, "kernels")  # of make test-kernels and make test-slow: triton 3.7.1, liger-kernel 0.8.5
ARCHITECTURES = (75, 80, 86, 89, 90)
SHARED_BYTES = 2048  # of a block; a T4 has 64 KiB for it, sm_86 and sm_89 have 99, the others more
BLOCK_REGISTERS = 65_536  # there are no more
# Of a thread: the most that any size and architecture takes, and a few more where a block leaves them
REGISTERS = {
    "_rms_norm_forward_kernel": 48,
    "_rms_norm_backward_kernel": 72,
    "_block_rms_norm_forward_kernel": 48,
    "_block_rms_norm_backward_kernel": 72,
    "_triton_rope": 64,
    "_swiglu_forward_kernel": 64,
    "_swiglu_backward_kernel": 64,
    "liger_cross_entropy_kernel": 64,
    "element_mul_kernel": 36,
    "quantise_kernel": 88,
}
WITH_FLOAT8 = 89


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_of_a_step_compile_and_fit(architecture, tmp_path):
    if not KERNELS.is_dir() and find_spec("liger_kernel") is None:
        pytest.skip("needs triton and liger-kernel: make test-kernels fetches them")
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(KERNELS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, Path(__file__).with_name("launched.py"), str(architecture)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    known = REGISTERS.keys() - ({"quantise_kernel"} if architecture < WITH_FLOAT8 else set())
    assert {each["kernel"] for each in found} == known, "the step launches others: give them a bound"
    widths = {int(each["constants"]["n_cols"]) for each in found if "swiglu" in each["kernel"]}
    assert widths == {size.intermediate for _, _, size in QWEN3.values()}
    for each in found:
        assert each["REG"] <= REGISTERS[each["kernel"]], each
        assert each["REG"] * 32 * each["num_warps"] <= BLOCK_REGISTERS, each
        assert each["STACK"] == each["LOCAL"] == 0, f"registers are spilled: {each}"
        assert each["shared"] + each["SHARED"] <= SHARED_BYTES, each
