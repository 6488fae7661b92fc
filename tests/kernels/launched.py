"""Compiles the Triton kernels of a training step for one architecture of NVIDIA cards; no card is needed.

    PYTHONPATH=.:.venv/kernels python tests/kernels/launched.py 89         one JSON line for each kernel variant

The project's own step runs on meta tensors, at the widths of every Qwen3 base, with Triton's launch replaced by a
recorder. What was recorded is compiled as its first launch on a card would compile it, with the same arguments and
specialisation, to machine code, whose registers, stack and shared memory are then read.

Not seen: layers compiled by torch.compile, and what Liger would take instead of Triton where NVIDIA's CUTLASS or cuTile
packages are installed.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen3Config
from triton import compiler, knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import jit

from nsllm_lite.formats.rows import Row
from nsllm_lite.kernels import fp8
from nsllm_lite.kernels.fused_layers import use_fused_layers
from nsllm_lite.kernels.liger import use_liger_kernels
from nsllm_lite.models.attention import ATTENTION, register_attention
from nsllm_lite.models.causal import PackedLM, lay_out
from nsllm_lite.models.loading import recompute_layers
from nsllm_lite.models.lora import add_adapter
from nsllm_lite.models.sizes import QWEN3, ModelSize
from nsllm_lite.recipe.train import Adapter

HEAD_DIM = 128
# Tokens of the rows of micro-batches. Triton compiles anew for a 1 and for multiples of 16; Liger's norm of q and k has
# one kernel for few heads (tokens x heads below 32,768) and one for many.
ROWS = ([4096], [4083], [1021], [1], [4096] * 4)
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@contextmanager
def recorded(target: GPUTarget) -> Iterator[dict]:
    """{key: (kernel, source to compile, its options)} of all launches within; nothing is launched."""
    backend, found = compiler.make_backend(target), {}

    def record(kernel: jit.JITFunction, *args, grid, warmup, **options) -> None:
        options |= {"debug": False, "instrumentation_mode": knobs.compilation.instrumentation_mode}
        bind = jit.create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialised, _ = bind(*args, **options)
        parsed, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialised, None)
        source = compiler.ASTSource(kernel, signature, constants, attributes)
        found[source.hash(), parsed.hash()] = (kernel, source, parsed)

    with (
        mock.patch.object(jit.JITFunction, "run", record),
        mock.patch.object(torch.Tensor, "item", return_value=4000),  # what Liger asks meta tensors
        mock.patch.object(torch, "equal", return_value=False),
    ):
        yield found


def step(
    size: ModelSize, dtype: torch.dtype, lengths: list[int], recompute_cheap: bool, whole: bool, in_fp8: bool = False
) -> None:
    """Forward and backward of one micro-batch of `size` with one layer, as `setup.make_model` makes it for a card."""
    config = Qwen3Config(
        vocab_size=size.vocab, hidden_size=size.hidden, intermediate_size=size.intermediate, num_hidden_layers=1,
        num_attention_heads=size.query // HEAD_DIM, num_key_value_heads=size.key_value // HEAD_DIM, head_dim=HEAD_DIM,
        tie_word_embeddings=size.tied,
    )  # fmt: skip
    register_attention()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=dtype)
        model.requires_grad_(False)
        use_liger_kernels(model)
        if whole:
            recompute_layers(model, 1)
        model = add_adapter(model, Adapter(rank=64, alpha=64, rslora=False, targets=LINEARS), "meta", seed=0)
    assert use_fused_layers(model, recompute_cheap, in_fp8="restored" if in_fp8 else None) == 1
    rows = [Row(np.ones(n, np.int32), [n], ["x"], ["x"], [n]) for n in lengths]
    with mock.patch.multiple(fp8, quantise=fp8.quantise_on_card, product=fp8.product_on_card):
        (PackedLM(model, "liger").train()(lay_out(rows, pinned=False).to("meta")) / 2).backward()


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, bytes of its stack (spilled registers) and of its block's static shared memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", printed)}


def main(architecture: int) -> None:
    target = GPUTarget("cuda", architecture, 32)
    dtype = torch.bfloat16 if architecture >= 80 else torch.float16
    with recorded(target) as found:
        for _, _, size in QWEN3.values():
            for lengths in ROWS:
                step(size, dtype, lengths, recompute_cheap=True, whole=False)
            step(size, dtype, [4096], recompute_cheap=False, whole=True)
            if architecture >= 89:  # which has float8
                step(size, dtype, [4096], recompute_cheap=True, whole=False, in_fp8=True)
    for kernel, source, options in found.values():
        line = {"kernel": kernel.__name__, "num_warps": options.num_warps}
        line["constants"] = {kernel.arg_names[place]: str(value) for (place,), value in source.constants.items()}
        compiled = compiler.compile(source, target=target, options=vars(options))
        line |= {"shared": compiled.metadata.shared, **resources(compiled.asm["cubin"])}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
