"""Liger's Triton kernels for RMSNorm, RoPE and SwiGLU, put into one model instance.

Liger's own patching replaces classes and functions for the whole process; here each module of this model gets a
`forward` of its own, and other models in the process are untouched. The fused cross-entropy is called by
`linear_cross_entropy`. Needs triton (CUDA, or its interpreter in tests); imported only when asked for.
"""

import types
from collections import Counter

import torch
from torch import nn

from nsllm_lite.errors import UserError
from nsllm_lite.kernels.fused_layers import is_silu


def use_liger_kernels(model: nn.Module) -> Counter[str]:
    """Swaps the kernels in; returns how many modules of each sort now use them.

    Raises:
        UserError: nothing in the model has a shape these kernels know.
    """
    from liger_kernel.transformers.functional import liger_rms_norm, liger_swiglu
    from liger_kernel.transformers.rope import liger_rotary_pos_emb

    def norm_forward(self: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        # in_place=False: the incoming gradient of a residual branch must not be overwritten
        return liger_rms_norm(hidden_states, self.weight, self.variance_epsilon, 0.0, "llama", False)

    def mlp_forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.swiglu(self.gate_proj(x), self.up_proj(x)))

    swapped: Counter[str] = Counter()
    for module in model.modules():
        forward = type(module).forward
        if hasattr(module, "variance_epsilon") and hasattr(module, "weight"):
            module.forward = types.MethodType(norm_forward, module)
            swapped["rms_norm"] += 1
        elif all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj")) and is_silu(module):
            module.swiglu = liger_swiglu  # for `fused_layers` too
            module.forward = types.MethodType(mlp_forward, module)
            swapped["swiglu"] += 1
        elif "apply_rotary_pos_emb" in getattr(getattr(forward, "__code__", None), "co_names", ()):
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
