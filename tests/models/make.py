"""Models as most tests hold them: in fp32 on the CPU, with LoRA that is small."""

from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from nsllm_lite.models.loading import load_base
from nsllm_lite.models.lora import add_adapter
from nsllm_lite.recipe.train import Adapter


def load_plain(folder: Path, quantisation: str = "none") -> PreTrainedModel:
    return load_base(folder, quantisation=quantisation, double_quantisation=True, compute_dtype="float32", device="cpu")


def add_lora(base: PreTrainedModel, targets: Sequence[str], name: str = "x", **options) -> PeftModel:
    """`name` is that of the base, `options` are keys of a recipe's `adapter`."""
    adapter = Adapter(**{"rank": 4, "alpha": 8, "rslora": False, "targets": targets, **options})
    return add_adapter(base, adapter, name, seed=0)
