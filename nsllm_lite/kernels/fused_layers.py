"""The decoder layer of Qwen3, Qwen2, Llama and Mistral as four autograd functions that say what they keep.

PEFT runs each projection as three products with casts between them, and autograd keeps what each of its operations
happens to need. Here a layer is: norm + q, k, v; attention; o; norm + gate, up; SwiGLU + down (see `lora_linears`).
With `recompute_cheap` the outputs of the norms and of SwiGLU are not kept but computed again, which costs next to
nothing beside the products. Kept are then, in numbers a token: two residuals, q and k before and after their norm and
rotation, v, attention's output, gate and up.

The modules stay as they are, and so do their names; only this instance's layers get a `forward` of their own, which
packed batches take. Generation, with its cache, goes the model's usual way.
"""

import types
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nsllm_lite.kernels import fp8
from nsllm_lite.kernels.lora_linears import LoraGroup, LoraLinear, lora_linears
from nsllm_lite.kernels.varlen_attention import Attending, Layout, varlen_attention

LAYERS = ("Qwen3DecoderLayer", "Qwen2DecoderLayer", "LlamaDecoderLayer", "MistralDecoderLayer")
PROJECTIONS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
NORMS = ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm")
InFp8 = Literal["held", "restored"]  # a frozen weight in float8: kept as it is, or made at each product
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


def use_fused_layers(
    model: nn.Module, recompute_cheap: bool, compiled: bool = False, in_fp8: InFp8 | None = None
) -> int:
    """Gives the layers of `model` (with or without PEFT's LoRA on it) their forward; returns how many.

    A layer of another kind, or with an adapter that is no plain LoRA (DoRA, dropout, several at once), stays as it is.
    `in_fp8` takes the products of the frozen weights in float8; not with `compiled`.

    With `compiled`, torch.compile makes one graph of what is before attention and one of what is after, which all
    layers share and which take any number of tokens. It keeps no more than is kept without `recompute_cheap`. NF4
    weights must be held dequantised: in a graph, restoring one in the forward and in the backward pass is the same
    expression, so all would be restored once and kept (seen with torch 2.13).
    """
    count = 0
    for layer in model.modules():
        if type(layer).__name__ not in LAYERS or not is_silu(layer.mlp):
            continue
        linears = {name.split(".")[1]: as_lora_linear(layer.get_submodule(name), in_fp8) for name in PROJECTIONS}
        if all(linears.values()):
            assert not (compiled and _is_nf4(layer)), "compiled layers need weights that are not in NF4"
            groups = [LoraGroup([linears[name] for name in names]) for names in GROUPS]
            layer.forward = types.MethodType(_forward(layer, groups, recompute_cheap, compiled), layer)
            if not compiled:  # a graph keeps what it found, and adds to nothing outside
                layer.lora_groups = groups
            for name in NORMS:  # what they give goes into a group or a rotation, and nowhere else
                if norm := getattr(layer.self_attn if name in ("q_norm", "k_norm") else layer, name, None):
                    norm.owns_its_gradient = True
            count += 1
    return count


def lora_groups(model: nn.Module) -> list[LoraGroup]:
    """Those of all fused layers, which may hold copies for a step."""
    return [group for module in model.modules() for group in getattr(module, "lora_groups", ())]


def as_lora_linear(module: nn.Module, in_fp8: InFp8 | None = None) -> LoraLinear | None:
    """PEFT's wrapped `module` as plain tensors; None where it is more than a plain LoRA."""
    base = getattr(module, "base_layer", module)
    A = B = None
    scale = 1.0
    if base is not module:
        active = module.active_adapters
        plain = len(active) == 1 and active[0] in module.lora_A and not module.disable_adapters and not module.merged
        if not plain or module.lora_variant or not isinstance(module.lora_dropout[active[0]], nn.Identity):
            return None
        if module.lora_A[active[0]].bias is not None or module.lora_B[active[0]].bias is not None:
            return None
        A, B = module.lora_A[active[0]].weight, module.lora_B[active[0]].weight
        scale = module.scaling[active[0]]
    if getattr(base.weight, "requires_grad", False) or getattr(base.bias, "requires_grad", False):
        return None
    weight = _frozen(base)
    return LoraLinear(weight, base.bias, A, B, scale, in_fp8 and _rounded(weight, in_fp8))


def _frozen(linear: nn.Module) -> Callable[[], Tensor]:
    if getattr(linear.weight, "quant_state", None) is None:
        return lambda: linear.weight
    from bitsandbytes.functional import dequantize_4bit

    return lambda: dequantize_4bit(linear.weight.data, linear.weight.quant_state).to(linear.compute_dtype)


def _rounded(weight: Callable[[], Tensor], how: InFp8) -> Callable[[], fp8.Weight]:
    if how == "restored":
        return lambda: fp8.weight_of(weight, both=False)
    held = fp8.weight_of(weight, both=True)
    return lambda: held


def _is_nf4(layer: nn.Module) -> bool:
    return any(getattr(getattr(module, "weight", None), "quant_state", None) for module in layer.modules())


def is_silu(mlp: nn.Module) -> bool:
    return type(getattr(mlp, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")


def _forward(layer: nn.Module, groups: list[LoraGroup], recompute_cheap: bool, compiled: bool) -> Callable:
    plain = layer.forward
    of_qkv, of_o, of_gate_up, of_down = groups
    how = Attending(layer.self_attn.scaling, window=_window(layer.self_attn))
    rotate = layer.self_attn.forward.__func__.__globals__["apply_rotary_pos_emb"]

    def several(
        produce: Callable[..., Tensor] | None, inputs: tuple[Tensor, ...], group: LoraGroup
    ) -> tuple[Tensor, ...]:
        if produce is not None and (compiled or not recompute_cheap):
            produce, inputs = None, (produce(*inputs),)
        return lora_linears(produce, inputs, group)

    def before_attention(layer: nn.Module, x_TH: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """q, k and v, (T, heads, D) each."""
        attention = layer.self_attn
        q, k, v = several(layer.input_layernorm, (x_TH,), of_qkv)
        q, k, v = (x.view(len(x), -1, attention.head_dim) for x in (q, k, v))
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        q, k = rotate(*(x[None].transpose(1, 2) for x in (q, k)), *rotation)
        q, k = (x.squeeze(0).transpose(0, 1).to(v.dtype) for x in (q, k))
        return q, k, v

    def after_attention(layer: nn.Module, x_TH: Tensor, attended: Tensor) -> Tensor:
        """`attended` is (T, heads x D)."""
        x_TH = x_TH + several(None, (attended,), of_o)[0]
        gate, up = several(layer.post_attention_layernorm, (x_TH,), of_gate_up)
        swiglu = getattr(layer.mlp, "swiglu", _swiglu)
        return x_TH + several(swiglu, (gate, up), of_down)[0]

    if compiled:  # fullgraph: an error, rather than pieces that run slowly without a word
        options = {"fullgraph": True, "dynamic": True}
        before_attention, after_attention = (torch.compile(f, **options) for f in (before_attention, after_attention))

    def forward(
        self: nn.Module,
        hidden_states: Tensor,
        *args: Any,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        layout: Layout | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if layout is None:
            return plain(hidden_states, *args, position_embeddings=position_embeddings, **kwargs)
        x_TH = hidden_states.squeeze(0)  # its gradient is a view, that of hidden_states[0] a copy
        q, k, v = before_attention(self, x_TH, position_embeddings)
        attended = varlen_attention(q, k, v, layout, how)
        return after_attention(self, x_TH, attended.reshape(len(v), -1))[None]

    return forward


def _window(attention: nn.Module) -> int | None:
    """Qwen's attention has its own, None in layers that see all; Mistral's reads the model's."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    return getattr(attention.config, "sliding_window", None)


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up
