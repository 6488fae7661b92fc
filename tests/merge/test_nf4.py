"""NF4 rounding against bitsandbytes, bit by bit, and the merge into what training saw."""

import json
import shutil

import numpy as np
import pytest
import torch
from bitsandbytes import functional
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nsllm_lite.formats.weights import read_header
from nsllm_lite.merge import nf4
from nsllm_lite.merge.write_model import merge
from nsllm_lite.models.loading import load_base, save_nf4
from tests.merge.make import make_adapter, make_base, make_recipe
from tests.raising import raises


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
    scales = nf4.scales_of(read_header(tmp_path / "w.safetensors")["w"], dtype, double, nf4.Held())
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


@pytest.mark.parametrize(
    ("written", "stored", "compute", "double"),
    [("means", "bfloat16", "bfloat16", True), ("all", "bfloat16", "bfloat16", False),
     ("all", "bfloat16", "bfloat16", True), ("all", "float32", "bfloat16", True), ("all", "bfloat16", "float32", True),
     ("means", "float32", "float32", False),
     *(pytest.param(*case, marks=pytest.mark.slow)
       for case in (("means", "bfloat16", "bfloat16", False), ("all", "float32", "bfloat16", False),
                    ("all", "bfloat16", "float32", False), ("means", "float32", "float32", True)))],
)  # fmt: skip
def test_merge_into_the_rounded_base_is_what_training_saw(tmp_path, monkeypatch, written, stored, compute, double):
    """Also where only the means were written down, as by the first trainings, which were on a CPU."""
    base = make_base(tmp_path / "base", getattr(torch, stored))
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    trained = load_base(base, quantisation="nf4", double_quantisation=double, compute_dtype=compute, device="cpu")
    training = {"quantisation": "nf4", "double_quantisation": double, "compute_dtype": compute}
    (adapter / "training.json").write_text(json.dumps(training))
    save_nf4(trained, adapter)
    if written == "all":
        monkeypatch.setattr(functional, "quantize_blockwise", None)  # what was written down needs no rule
    else:
        (adapter / "nf4_scales.safetensors").unlink(missing_ok=True)
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
    own = nf4.scales_of(stored, torch.float32, True, nf4.Held())
    mean = own.absmax.mean().item()
    assert torch.equal(nf4.scales_of(stored, torch.float32, True, nf4.Held(mean=mean)).restored, own.restored)
    other = nf4.scales_of(stored, torch.float32, True, nf4.Held(mean=mean * 1.01))
    assert not torch.equal(other.restored, own.restored)


def by_the_cuda_kernel(x: np.ndarray, code: np.ndarray) -> np.ndarray:
    """`dQuantize<0>` of bitsandbytes' csrc/kernels.cu, statement by statement, in fp32."""
    pivot, above, below = (np.full(x.shape, n) for n in (127, 255, 0))
    for step in (64, 32, 16, 8, 4, 2, 1):
        goes_up = x > code[pivot]
        below, above = np.where(goes_up, pivot, below), np.where(goes_up, above, pivot)
        pivot = np.where(goes_up, pivot + step, pivot - step)
    half = np.float32(0.5)
    up = np.where(x > (code[above] + code[pivot]) * half, above, pivot)
    down = np.where(x < (code[below] + code[pivot]) * half, below, pivot)
    return np.where(x > code[pivot], up, down)


def test_scales_on_a_card_become_the_nearest_code():
    """The CPU's rule is another: it goes through a table of 65,536 values."""
    torch.manual_seed(0)
    code = nf4._code().numpy()
    middle = torch.from_numpy((code[:-1] + code[1:]) * np.float32(0.5))
    edges = torch.cat([middle, *(torch.nextafter(middle, middle + side) for side in (-1, 1)), torch.from_numpy(code)])
    edges = torch.cat([torch.cat([part, torch.ones(1)]) for part in edges.clamp(-1, 1).split(255)])
    values = torch.cat([edges, torch.zeros(-len(edges) % 256), torch.randn(2**18) * 0.01])
    codes, nested = nf4._nearest_codes(values)
    inverse = 1 / values.view(-1, 256).abs().amax(1, keepdim=True)
    scaled = (values.view(-1, 256) * inverse).numpy()
    assert np.array_equal(codes.view(-1, 256).numpy(), by_the_cuda_kernel(scaled, code))
    by_cpu, state = functional.quantize_blockwise(values, blocksize=256)
    assert torch.equal(state.absmax, nested)
    different = (by_cpu.int() != codes).numpy()
    assert 0 < different[-(2**18) :].sum() < 2**18 / 100
    of_card, of_cpu = (np.abs(code[of.numpy()] - scaled.ravel()) for of in (codes.long(), by_cpu.long()))
    assert (of_card <= of_cpu)[-(2**18) :][different[-(2**18) :]].all(), "the card's is the nearer"
    assert torch.isfinite(nf4.restored(torch.full((300,), 0.3), on_card=True)).all()


def test_blocks_of_zeros_and_the_last_short_block_as_on_a_card():
    """0 times infinity is NaN, which the kernel's comparisons send to code 0, -1."""
    weight = torch.linspace(-0.7, 0.9, 3 * 64 + 10)
    weight[64:128] = 0
    absmax = nf4.absmax_of(weight)
    scales = nf4.restored(absmax, on_card=True)
    on_cpu, on_card = (nf4.round_(weight.clone(), nf4.Scales(absmax, scales, is_card)) for is_card in (False, True))
    assert not on_cpu[64:128].any()
    assert torch.equal(on_card[64:128], -scales[1].expand(64))
    assert torch.equal(on_card[:64], on_cpu[:64])
    assert torch.equal(on_card[128:192], on_cpu[128:192])
    scaled = weight[192:] * (1 / absmax[3])
    nearest = nf4.VALUES[(scaled[:, None] - nf4.VALUES).abs().argmin(1)]
    assert torch.equal(on_card[192:], nearest * scales[3])


def test_an_adapter_from_a_card_is_merged_by_the_rule_of_the_card(tmp_path):
    base, name = make_base(tmp_path / "base"), "model.layers.0.mlp.up_proj.weight"
    tensors = load_file(base / "model.safetensors")
    tensors[name][0, :64] = 0
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    merged = {}
    for device in ("cpu", "cuda", None):
        training = {"quantisation": "nf4", "double_quantisation": True, "compute_dtype": "float32", "device": device}
        (adapter / "training.json").unlink(missing_ok=True)
        if device:
            (adapter / "training.json").write_text(json.dumps(training))
        out = tmp_path / f"{device}"
        merge(make_recipe(base, adapter, out, base_weights="dequantized", double_quantisation=True))
        merged[device] = load_file(out / "model.safetensors")
    assert not torch.equal(merged["cpu"][name], merged["cuda"][name])
    assert torch.equal(merged["cuda"][name], merged[None][name]), "others' adapters come from cards"
    weight = tensors[name].float().view(-1)
    absmax = nf4.absmax_of(weight)
    expected = nf4.round_(weight.clone(), nf4.Scales(absmax, nf4.restored(absmax, on_card=True), True))
    assert torch.equal(merged["cuda"][name].view(-1).float(), expected.to(merged["cuda"][name].dtype).float())


NAME = "model.layers.0.mlp.up_proj"
DAMAGES = {
    "short": lambda scales: {f"{NAME}.absmax": scales[f"{NAME}.absmax"][:-1]},
    "gone": lambda scales: {f"{NAME}.absmax": None},
    "of another type": lambda scales: {f"{NAME}.absmax": scales[f"{NAME}.absmax"].half()},
    "a short code": lambda scales: {"code": scales["code"][:100]},
    "no shape": lambda scales: {"code": torch.tensor(1.0)},
    "a code of zeros": lambda scales: {"code": scales["code"] * 0},
    "huge": lambda scales: {f"{NAME}.nested_absmax": scales[f"{NAME}.nested_absmax"] + 1e38},
    "negative": lambda scales: {f"{NAME}.nested_absmax": -scales[f"{NAME}.nested_absmax"]},
    "no mean": lambda scales: {},
}


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A base, and an adapter with the scales of its training."""
    base = make_base(tmp_path_factory.mktemp("held") / "base")
    adapter = make_adapter(base, base.parent / "adapter", target_modules=["q_proj"])
    options = {"double_quantisation": True, "compute_dtype": "float32"}
    save_nf4(load_base(base, quantisation="nf4", device="cpu", **options), adapter)
    (adapter / "training.json").write_text(json.dumps({"quantisation": "nf4", **options}))
    return base, adapter


@pytest.mark.parametrize("damage", DAMAGES)
def test_scales_that_are_not_those_of_the_weight_are_refused(held, tmp_path, damage):
    base, adapter = held[0], shutil.copytree(held[1], tmp_path / "adapter")
    scales = load_file(adapter / "nf4_scales.safetensors")
    changed = scales | DAMAGES[damage](scales)
    save_file({key: of for key, of in changed.items() if of is not None}, adapter / "nf4_scales.safetensors")
    if damage == "no mean":
        (adapter / "nf4.json").unlink()
    missing = damage in ("gone", "no shape", "no mean")
    with raises("merge-nf4-scales-missing" if missing else "merge-nf4-scales-wrong"):
        merge(make_recipe(base, adapter, tmp_path / "out", base_weights="dequantized"))
