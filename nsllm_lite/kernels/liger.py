"""Liger's Triton kernels for RMSNorm, RoPE and SwiGLU, put into one model instance.

Liger's own patching replaces classes and functions for the whole process; here each module of this model gets a
`forward` of its own, and other models in the process are untouched. The fused cross-entropy is called by
`linear_cross_entropy`. Needs triton (CUDA, or its interpreter in tests); imported only when asked for.
"""

import inspect
import types
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from nsllm_lite.errors import UserError
from nsllm_lite.kernels.fused_layers import is_silu


def _rotates_as_llama(forward: Callable) -> bool:
    """Whether it calls a rotation that computes what Liger's does: of the whole head, half against half.

    GLM and Command R rotate neighbours, Phi a part of the head.
    """
    from transformers.models.llama import modeling_llama

    own, names = getattr(forward, "__globals__", {}), ("apply_rotary_pos_emb", "rotate_half")
    if names[0] not in getattr(getattr(forward, "__code__", None), "co_names", ()) or names[1] not in own:
        return False
    codes = [[inspect.unwrap(of[name]).__code__ for name in names] for of in (own, vars(modeling_llama))]
    return all((a.co_code, a.co_names) == (b.co_code, b.co_names) for a, b in zip(*codes, strict=True))


def use_liger_kernels(model: nn.Module) -> Counter[str]:
    """Swaps the kernels in; returns how many modules of each sort now use them.

    Raises:
        UserError: nothing in the model has a shape these kernels know.
    """
    from liger_kernel.transformers.functional import liger_rms_norm, liger_swiglu
    from liger_kernel.transformers.rope import liger_rotary_pos_emb

    def norm_forward(self: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        # In place the incoming gradient is overwritten, which must not be that of a residual branch too.
        in_place = getattr(self, "owns_its_gradient", False)
        return liger_rms_norm(hidden_states, self.weight, self.variance_epsilon, 0.0, "llama", in_place)

    def mlp_forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.swiglu(self.gate_proj(x), self.up_proj(x)))

    swapped: Counter[str] = Counter()
    for module in model.modules():
        forward = type(module).forward
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = types.MethodType(norm_forward, module)
            swapped["rms_norm"] += 1
        elif all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj")) and is_silu(module):
            module.swiglu = liger_swiglu  # for `fused_layers` too
            module.forward = types.MethodType(mlp_forward, module)
            swapped["swiglu"] += 1
        elif _rotates_as_llama(forward):
            # The same forward, with this one global name bound to Liger's function, for this module alone.
            names = {**forward.__globals__, "apply_rotary_pos_emb": liger_rotary_pos_emb}
            own = types.FunctionType(
                forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
            )
            own.__kwdefaults__ = forward.__kwdefaults__
            module.forward = types.MethodType(own, module)
            swapped["rope"] += 1
    if not swapped:
        found = f"{type(model).__name__} has no module that Liger's kernels know."
        raise UserError("liger-no-modules", found, "Run without them.")
    return swapped
