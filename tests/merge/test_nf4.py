"""NF4 rounding against bitsandbytes, bit by bit, and the merge into what training saw."""

import json
import math

import pytest
import torch
from bitsandbytes import functional
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nsllm_lite.formats.weights import read_header
from nsllm_lite.merge import nf4
from nsllm_lite.merge.write_model import merge
from nsllm_lite.models.loading import load_base, nf4_means
from tests.merge.make import edit_adapter, make_adapter, make_base, make_recipe


def by_bitsandbytes(weight, double):
    codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=double)
    return functional.dequantize_4bit(codes, state)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(64, 64), (130, 64), (7, 9), (200, 515), (1030, 64), (300, 1024)])
def test_rounding_has_the_bits_of_bitsandbytes(tmp_path, monkeypatch, shape, dtype, double):
    monkeypatch.setattr(nf4, "PIECE", 16 * 64)  # so that a slice is rounded in several
    torch.manual_seed(shape[0])
    weight = (torch.randn(shape) * torch.rand(shape[0], 1) ** 4).to(dtype)
    weight[0] = 0
    save_file({"w": weight}, tmp_path / "w.safetensors")
    scales = nf4.scales_of(read_header(tmp_path / "w.safetensors")["w"], dtype, double)
    flat = weight.float().view(-1)
    pieces = [flat[first : first + 64 * 64].clone() for first in range(0, len(flat), 64 * 64)]
    rounded = torch.cat([nf4.round_(piece, scales, 64 * number) for number, piece in enumerate(pieces)])
    assert torch.equal(rounded.to(dtype).view(shape), by_bitsandbytes(weight, double))


def test_entries_on_and_next_to_every_bound_are_rounded_as_by_bitsandbytes():
    bound = nf4.BOUNDS
    near = torch.cat([bound, torch.nextafter(bound, bound + 1), torch.nextafter(bound, bound - 1), nf4.VALUES])
    weight = torch.cat([torch.cat([part, torch.ones(1)]) for part in torch.nn.functional.pad(near, (0, 2)).split(63)])
    absmax = nf4.absmax_of(weight)
    assert torch.equal(absmax, torch.ones(1))
    rounded = nf4.round_(weight.clone(), nf4.Scales(absmax, absmax))
    assert torch.equal(rounded, by_bitsandbytes(weight, double=False).view(-1))
    assert len(set(nf4._bins(nf4.BOUNDS).tolist())) == 15


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    ("stated", "stored", "compute"),
    [(False, "bfloat16", "bfloat16"), (True, "bfloat16", "bfloat16"), (True, "float32", "bfloat16"),
     (True, "bfloat16", "float32"), (False, "float32", "float32")],
)  # fmt: skip
def test_merge_into_the_rounded_base_is_what_training_saw(tmp_path, stated, stored, compute, double):
    base = make_base(tmp_path / "base", getattr(torch, stored))
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    trained = load_base(base, quantisation="nf4", double_quantisation=double, compute_dtype=compute, device="cpu")
    if stated:
        training = {"quantisation": "nf4", "double_quantisation": double, "compute_dtype": compute}
        (adapter / "training.json").write_text(json.dumps(training))
        (adapter / "nf4.json").write_text(json.dumps(nf4_means(trained)))
    merge(make_recipe(base, adapter, tmp_path / "out", base_weights="dequantized", double_quantisation=double))

    seen = AutoModelForCausalLM.from_pretrained(base)
    quantised = {n: m for n, m in trained.named_modules() if hasattr(getattr(m, "weight", None), "quant_state")}
    assert len(quantised) == 14
    for name, module in quantised.items():
        state = module.weight.quant_state
        assert state.dtype == getattr(torch, compute)
        seen.get_submodule(name).weight.data = functional.dequantize_4bit(module.weight.data, state).float()
    expected = PeftModel.from_pretrained(seen, adapter).merge_and_unload().state_dict()
    expected = {name: weight.to(getattr(torch, stored)) for name, weight in expected.items()}
    merged, before = load_file(tmp_path / "out/model.safetensors"), load_file(base / "model.safetensors")
    assert all(torch.equal(merged[name], weight) for name, weight in expected.items())
    changed = {name.removesuffix(".weight") for name in merged if not torch.equal(merged[name], before[name])}
    assert changed == set(quantised)


def test_only_what_training_held_in_nf4_is_rounded(tmp_path):
    base = make_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    (adapter / "nf4.json").write_text('{"model.layers.0.mlp.up_proj": null}')
    chosen = make_recipe(base, adapter, tmp_path / "out", base_weights="dequantized", double_quantisation=False)
    merge(chosen)
    merged, before = load_file(tmp_path / "out/model.safetensors"), load_file(base / "model.safetensors")
    changed = {name for name in merged if not torch.equal(merged[name], before[name])}
    adapted = {f"model.layers.{n}.self_attn.q_proj.weight" for n in (0, 1)}
    assert changed == {"model.layers.0.mlp.up_proj.weight", *adapted}


def test_the_mean_that_training_wrote_down_is_used(tmp_path):
    save_file({"w": torch.randn(64, 256)}, tmp_path / "w.safetensors")
    stored = read_header(tmp_path / "w.safetensors")["w"]
    own = nf4.scales_of(stored, torch.float32, double_quantisation=True)
    mean = own.absmax.mean().item()
    assert torch.equal(nf4.scales_of(stored, torch.float32, True, mean).restored, own.restored)
    assert not torch.equal(nf4.scales_of(stored, torch.float32, True, mean * 1.01).restored, own.restored)


def test_what_of_an_update_survives_in_16_bits_and_in_nf4_is_told(tmp_path):
    """Small updates survive on average in what was not rounded; in what was, the next rounding takes them away."""
    base = make_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter")
    edit_adapter(adapter, lambda tensors: [weight.mul_(0.02) for name, weight in tensors.items() if "lora_B" in name])
    shares = {
        choice: merge(make_recipe(base, adapter, tmp_path / choice, base_weights=choice, double_quantisation=False))
        for choice in ("original", "dequantized")
    }
    assert 0.9 < shares["original"]["nf4_kept_share"] < 1.1
    assert shares["dequantized"]["nf4_kept_share"] < 0.2
    assert all(0.98 < s["kept_share"] < 1.02 for s in shares.values())
    tensors = json.loads((tmp_path / "original/tensors.json").read_text())
    assert len(tensors) == 14
    assert all(0.5 < t["nf4_kept_share"] < 1.5 and t["delta_norm"] > 0 for t in tensors.values())
    assert math.isclose(max(t["max_abs_delta"] for t in tensors.values()), shares["original"]["max_abs_delta"])
