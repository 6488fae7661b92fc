"""A dry run of one training step: the project's own code on fake tensors of the model's true widths.

Fake tensors have shapes and no numbers, so nothing is computed and no card is needed. A dispatch mode follows every
storage and counts what each operation would do; Triton kernels are counted at their launch. Models of two and three
layers are traced and each figure is a straight line in their numbers of plain and of recomputed layers.

Not in it are the CUDA context, what kernels take for themselves (flash attention's accumulators, cuBLAS' workspaces)
and what an allocator loses to fragments.
"""

import contextlib
import importlib.util
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from nsllm_lite.errors import UserError
from nsllm_lite.formats.rows import Row
from nsllm_lite.kernels import fp8, fused_layers, linear_cross_entropy, varlen_attention
from nsllm_lite.models import attention
from nsllm_lite.models.causal import Batch, PackedLM, lay_out
from nsllm_lite.models.cost import DOCUMENT_TOKENS, FP8_PRODUCTS
from nsllm_lite.models.device import Card
from nsllm_lite.models.execution import holds_nf4, is_fused
from nsllm_lite.models.sizes import ModelSize
from nsllm_lite.recipe.train import Execution, Training
from nsllm_lite.train import setup
from nsllm_lite.train.gradients import Gradients

VIEWS = (
    "view", "transpose", "t.", "slice", "select.", "unsqueeze", "squeeze", "expand", "alias", "detach", "permute",
    "as_strided", "_unsafe_view", "split", "unbind", "lift_fresh", "reshape", "empty", "new_empty", "_reshape_alias",
    "set_", "is_", "_local_scalar", "narrow", "equal",
)  # fmt: skip
PRODUCTS = {"mm", "addmm", "addmm_", "bmm"}


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one micro-batch forward and backward. What is counted is by kind of operation."""

    resident: float  # bytes before the step: weights, adapter, its gradients and optimizer states
    kept: float  # bytes that the forward pass leaves for the backward
    peaks: dict[str, float]  # bytes at the most: in the forward pass and the head, in plain and in recomputed layers
    flops: dict[str, float]
    moved: dict[str, float]  # bytes read and written
    launches: dict[str, float]
    waits: dict[str, float]  # of the host for the card, by place

    @property
    def peak(self) -> float:
        return max(self.peaks.values())


def trace(recipe: Training, size: ModelSize, row_tokens: int, how: Execution, card: Card) -> Figures:
    """The figures of the step of `recipe` at `size` as `how` runs it on `card`.

    Raises:
        UserError: the layers are compiled or train DoRA, or the packages of Liger's kernels are missing.
    """
    if how.compile or not is_fused(recipe, size):
        found = "Traced are layers of Qwen3, Qwen2, Llama and Mistral with a LoRA, not compiled and without DoRA."
        raise UserError("trace-of-compiled", found, "Leave execution.compile and adapter.dora out, or --trace.")
    if missing := [name for name in ("liger_kernel", "triton") if not importlib.util.find_spec(name)]:
        found = f"--trace counts the launches of Liger's kernels, and {' and '.join(missing)} is not installed here."
        raise UserError("trace-needs-kernels", found, "pip install liger-kernel triton (no card is needed).")
    recomputed = min(how.recompute_layers, size.layers)
    if 0 < recomputed < size.layers:
        points = [(2, 1), (3, 1), (3, 2)]
    else:
        points = [(count, count if recomputed else 0) for count in (2, 3)]
    traced = [
        trace_whole(recipe, replace(size, layers=layers), row_tokens, _recomputing(how, count), card)
        for layers, count in points
    ]
    return _at(size.layers - recomputed, recomputed, points, traced)


def _recomputing(how: Execution, count: int) -> Execution:
    return how.model_copy(update={"recompute_layers": count})


def _at(plain: int, recomputed: int, points: list[tuple[int, int]], traced: list[Figures]) -> Figures:
    """The plane through the traced figures, at so many plain and recomputed layers."""
    rows = np.array([[1, layers - count, count] for layers, count in points], dtype=float)
    weights = np.linalg.lstsq(rows.T, np.array([1, plain, recomputed], dtype=float), rcond=None)[0]

    def line(*values: Any) -> Any:
        if isinstance(values[0], dict):
            names = {name: None for value in values for name in value}
            return {name: line(*(value.get(name, 0) for value in values)) for name in names}
        return float(weights @ np.array(values, dtype=float))

    return Figures(*(line(*(getattr(of, name) for of in traced)) for name in Figures.__slots__))


def trace_whole(recipe: Training, size: ModelSize, row_tokens: int, how: Execution, card: Card) -> Figures:
    """As `trace`, with all layers."""
    counter = Counting(size.vocab)
    dtype = getattr(torch, recipe.compute_dtype)
    with _without_devices(counter, card), FakeTensorMode(allow_non_fake_inputs=True), counter:
        lm = _model(recipe, size, how, dtype)
        gradients = Gradients(lm, dtype)
        optimizer = setup.make_optimizer(recipe.optimizer, setup.parameter_groups(lm, recipe.optimizer))
        _fill(optimizer)
        resident = counter.now
        batch = _batch(how.micro_batch_rows, row_tokens)
        counter.lengths = np.diff(batch.layout.bounds)
        if how.recompute_layers:
            decoder = (lm.model.get_base_model() if recipe.adapter else lm.model).base_model
            plain = [*decoder.layers, decoder.norm][how.recompute_layers]
            plain.register_forward_pre_hook(counter.expect_recomputed)
        with gradients.of_step():
            counter.begin("head")  # copies are made once a step, not for each micro-batch
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                loss = lm(batch) / row_tokens
            kept = counter.now - resident
            counter.begin("layers")
            loss.backward()
    counted = (counter.peaks, counter.flops, counter.moved, counter.launches, counter.waits)
    return Figures(resident, kept, *map(dict, counted))


def _batch(rows: int, row_tokens: int) -> Batch:
    ends = np.unique([*range(0, row_tokens, DOCUMENT_TOKENS), row_tokens])
    lengths, names = np.diff(ends).tolist(), ["d"] * (len(ends) - 1)
    row = Row(np.zeros(row_tokens, np.int32), lengths, names, names, [1] * len(names))
    return lay_out([row] * rows, pinned=False)


def _model(recipe: Training, size: ModelSize, how: Execution, dtype: torch.dtype) -> PackedLM:
    """As `setup.make_model` makes it, of random weights that are not there, Qwen3's architecture standing for all."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=size.vocab, hidden_size=size.hidden, intermediate_size=size.intermediate, head_dim=size.head_dim,
        num_hidden_layers=size.layers, num_attention_heads=size.query // size.head_dim,
        num_key_value_heads=size.key_value // size.head_dim, tie_word_embeddings=size.tied,
    )  # fmt: skip
    attention.register_attention()
    stored = dtype if recipe.adapter else torch.float32
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.ATTENTION, dtype=stored)
    if holds_nf4(recipe, how):
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and name != "lm_head":
                model.set_submodule(name, _nf4_linear(module, dtype, recipe.double_quantisation))
        model.is_loaded_in_4bit = True
    model.requires_grad_(recipe.adapter is None)
    return PackedLM(setup.equip(model, recipe, how, say=str), how.head).train()


def _nf4_linear(linear: nn.Linear, dtype: torch.dtype, double: bool) -> nn.Module:
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Linear4bit

    held = Linear4bit.__new__(Linear4bit)  # its own __init__ makes a subclass of a tensor that a fake one cannot be
    nn.Module.__init__(held)
    held.in_features, held.out_features, held.bias = linear.in_features, linear.out_features, None
    held.compute_dtype, held.compute_type_is_set = dtype, True
    held.quant_state, held.quant_storage, held.support_avx512bf16_for_cpu = None, torch.uint8, False
    blocks = linear.weight.numel() // 64
    scales = {"absmax": torch.empty(blocks, dtype=torch.float32)}
    if double:
        nested = QuantState(torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32)
        scales = {"absmax": torch.empty(blocks, dtype=torch.uint8), "offset": torch.empty(()), "state2": nested}
    shape, code = linear.weight.shape, torch.empty(16)
    weight = nn.Parameter(torch.empty(blocks * 32, 1, dtype=torch.uint8), requires_grad=False)
    weight.quant_state = QuantState(**scales, shape=shape, dtype=dtype, blocksize=64, code=code, quant_type="nf4")
    weight.compress_statistics, weight.quant_type, weight.blocksize = double, "nf4", 64
    held.weight = weight
    return held


def _fill(optimizer: torch.optim.Optimizer) -> None:
    """States, as they are there from the second step on."""
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    for number, group in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(group["params"]):
            if hasattr(optimizer, "init_state"):
                optimizer.init_state(group, parameter, number, place)
            else:
                states = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.zeros(()), **states}


@contextlib.contextmanager
def _without_devices(counter: "Counting", card: Card) -> Iterator[None]:
    """The code of a card on CPU tensors: what asks for the device is answered for, kernels are counted."""
    from bitsandbytes import functional as bitsandbytes
    from liger_kernel.ops import fused_linear_cross_entropy
    from liger_kernel.ops.rope import LigerRopeFunction
    from liger_kernel.transformers import rope
    from peft.tuners.tuners_utils import BaseTunerLayer
    from triton.runtime.jit import JITFunction

    def rotate(name: str, q: torch.Tensor, k: torch.Tensor, *rotation: Any) -> Any:
        return LigerRopeFunction.apply(q, k, *rotation)

    on_card = varlen_attention.fused if card.capability >= (8, 0) else _memory_efficient
    stay: Callable = lambda self, *args, **options: self  # noqa: E731
    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (fused_layers, "varlen_attention", on_card),
            (attention, "varlen_attention", on_card),
            (fp8, "quantise", fp8.quantise_on_card),
            (fp8, "product", fp8.product_on_card),
            (linear_cross_entropy, "CHUNK_BYTES", linear_cross_entropy.CARD_CHUNK_BYTES),
            (fused_linear_cross_entropy, "_can_use_mm_out", lambda *of: not torch.is_grad_enabled()),
            (rope, "dispatch", rotate),
            (BaseTunerLayer, "_move_adapter_to_device_of_base_layer", stay),
            (nn.Module, "to", stay),
            (JITFunction, "run", lambda kernel, *args, **options: counter.launch(kernel, *args, **options)),
            (bitsandbytes, "get_paged", lambda *shape, dtype, device: torch.zeros(shape, dtype=dtype)),
            (bitsandbytes, "optimizer_update_8bit_blockwise", lambda *args, **options: None),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def _memory_efficient(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Any, how: Any) -> Any:
    """`varlen_attention.memory_efficient`, by the operation that torch takes for it on a card."""

    def kernel(*qkv: torch.Tensor, **options: Any) -> torch.Tensor:
        options = {"attn_bias": None, "compute_log_sumexp": True, "is_causal": True, "scale": how.scale}
        return torch.ops.aten._scaled_dot_product_efficient_attention(*qkv, **options)[0]

    with (
        mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", kernel),
        mock.patch.object(torch.nn.attention, "sdpa_kernel", contextlib.nullcontext),
    ):
        return varlen_attention.memory_efficient(q, k, v, layout, how)


class Counting(TorchDispatchMode):
    """Follows all storages, and counts by kind what the operations would do."""

    def __init__(self, vocab: int):
        super().__init__()
        self.vocab, self.now, self.phase, self.lengths = vocab, 0, "setup", np.zeros(0)
        self.alive: dict[int, weakref.ref] = {}
        self.peaks: dict[str, float] = {}
        self.begin("setup")

    def begin(self, phase: str) -> None:
        if phase in ("setup", "head"):
            self.flops, self.moved, self.launches, self.waits = (Counter() for _ in range(4))
            self.peaks.clear()
        self.phase = phase
        self.peaks[phase] = self.now

    def expect_recomputed(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        """Before the first layer that is not: once its gradient has come, the backward of the recomputed begins."""
        args[0].register_hook(lambda gradient: self.begin("recomputed layers"))

    def launch(self, kernel: Any, *args: Any, **options: Any) -> None:
        """A Triton kernel. Those of RoPE and of SwiGLU's backward write over what they read."""
        name = kernel.fn.__name__
        tensors = [x for x in (*args, *options.values()) if isinstance(x, torch.Tensor)]
        twice = 2 if any(word in name for word in ("rope", "swiglu_backward", "element_mul")) else 1
        kinds = {"cross_entropy": "head", "element_mul": "head", "quantise": "quantise"}
        kind = next((kind for word, kind in kinds.items() if word in name), "elementwise")
        self._add(kind, 0, twice * sum(x.numel() * x.element_size() for x in tensors))

    def _add(self, kind: str, flops: float, moved: float) -> None:
        self.flops[kind] += flops
        self.moved[kind] += moved
        self.launches[kind] += 1

    def _follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def freed(_: weakref.ref) -> None:
            self.alive.pop(key, None)
            self.now -= size

        self.alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peaks[self.phase] = max(self.peaks[self.phase], self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        space, name = func.namespace, func._schema.name.split("::")[1]
        if name in ("_local_scalar_dense", "equal"):
            here = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
            place = next(frame for frame in reversed(here) if Path(frame.filename) != Path(__file__))
            self.waits[f"{Path(place.filename).name}:{place.lineno}"] += 1
            kind = args[0].dtype
            return False if name == "equal" else 1.0 if kind.is_floating_point else kind == torch.bool or 1
        out = func(*args, **kwargs)
        made = [x for x in tree_flatten(out)[0] if isinstance(x, torch.Tensor)]
        for tensor in made:
            self._follow(tensor)
        if (space == "aten" and any(f"{name}.".startswith(view) for view in VIEWS)) or not made:
            return out
        read = args[1:] if name.startswith("addmm") and kwargs.get("beta") == 0 else args
        taken = [x for x in tree_flatten((read, kwargs))[0] if isinstance(x, torch.Tensor)]
        kind, flops = self._kind(space, name, taken)
        self._add(kind, flops, sum(x.numel() * x.element_size() for x in (*taken, *made)))
        return out

    def _kind(self, space: str, name: str, taken: list[torch.Tensor]) -> tuple[str, float]:
        if name == "_scaled_mm":
            return FP8_PRODUCTS, 2 * taken[0].numel() * taken[1].shape[-1]
        if name in PRODUCTS:
            one, other = taken[-2:] if name != "mm" else taken[:2]
            flops = 2 * one.numel() * other.shape[-1]
            sizes = (*one.shape[-2:], other.shape[-1])
            return "head" if self.vocab in sizes else "LoRA" if min(sizes) < 512 else "products", flops
        if "varlen" in name or "attention" in name:
            lengths = self.lengths if "varlen" in name else np.array([taken[0].shape[-2]])
            products = 5 if "backward" in name else 2  # of tokens x tokens, of which causality leaves half
            heads, width = taken[0].shape[-2 if "varlen" in name else -3], taken[0].shape[-1]
            return "attention", products * heads * width * int((lengths**2).sum())
        if space == "bitsandbytes":
            return "dequantise", 0
        return "LoRA" if name in ("cat", "_to_copy", "add_") else "elementwise", 0
