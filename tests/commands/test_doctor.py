"""Every check of the doctor passes here, and fails where what it checks is broken."""

import shutil

import pytest

from nsllm_lite.commands import doctor
from nsllm_lite.kernels import fused_layers
from nsllm_lite.merge import nf4, write
from nsllm_lite.models import attention, causal, heldout
from nsllm_lite.models.causal import PackedLM
from nsllm_lite.train import checkpoint, setup
from tests.patching import patch_uses


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return doctor.TinyRun(tmp_path_factory.mktemp("doctor"), "cpu")


HERE = [label for label in doctor.CHECKS if label != "disk and memory"]  # how much is free is the machine's


@pytest.mark.parametrize("label", HERE)
def test_the_check_passes(patient, label):
    verdict, seen, to_do = doctor.examine(doctor.CHECKS[label], patient)
    assert (verdict, to_do) == ("n/a" if label in ("card", "Liger kernels = torch") else "pass", ""), seen


def see_all(module, query, key, value, attention_mask, *, scaling, **kwargs):
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, None, scaling=scaling, is_causal=True)


def then(function, change):
    """`function`, after which `change` is called with its result and its arguments."""

    def changed(*given):
        result = function(*given)
        change(result, *given)
        return result

    return changed


def forget_the_optimizer(_, path, lm, optimizer):
    optimizer.state.clear()


def move_a_tensor(_, lm, *rest):
    next(p for p in lm.parameters() if p.requires_grad).data.add_(1)


def hide_ends(batch, *_):
    batch.targets[batch.targets == doctor.END_OF_TEXT] = -100


def averaged(forward):
    return lambda lm, batch: forward(lm, batch) / batch.num_targets


def forget_the_last(make_optimizer):
    return lambda recipe, groups: make_optimizer(recipe, [{**groups[0], "params": groups[0]["params"][:-1]}])


def transposed(merge_rows):
    def merging(name, planned, *rest):
        data, figures = merge_rows(name, planned, *rest)
        return memoryview(bytes(data)[::-1]), figures

    return merging


BREAKAGES = {
    "packed documents = each alone": ("logits of packed", lambda p: p.setattr(attention, "_attention", see_all)),
    "accumulation = batch": (
        "one by one give", lambda p: p.setattr(PackedLM, "forward", averaged(PackedLM.forward)),
    ),
    "end of text is learned": (
        "0 end-of-text", lambda p: patch_uses(p, causal.collate, then(causal.collate, hide_ends)),
    ),
    "fused cross-entropy = torch": (
        "differs from torch's by 1",
        lambda p: p.setattr(
            doctor, "linear_cross_entropy", lambda *given: 1.01 * doctor.linear_cross_entropy_reference(*given)
        ),
    ),
    "fused layers = PEFT's": (
        "differ from PEFT's by", lambda p: p.setattr(fused_layers, "_swiglu", lambda gate, up: gate * up),
    ),
    "NF4 is NF4": ("weights are not what", lambda p: p.setattr(nf4, "HIGH", nf4.LOW)),
    "evaluation changes nothing": (
        "changed its gradients", lambda p: p.setattr(heldout, "score", then(heldout.score, move_a_tensor)),
    ),
    "training moves every tensor": (
        "model.base_model.model.model.layers.1.mlp.down_proj.lora_A",
        lambda p: p.setattr(setup, "make_optimizer", forget_the_last(setup.make_optimizer)),
    ),
    "resumed run = unbroken run": (
        "ends in other weights", lambda p: p.setattr(checkpoint, "load", then(checkpoint.load, forget_the_optimizer)),
    ),
    "merge = PEFT's": ("differ from PEFT", lambda p: p.setattr(write, "merge_rows", transposed(write.merge_rows))),
    "disk and memory": (
        "0 GiB of disk", lambda p: p.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("label", BREAKAGES)
def test_the_check_fails_where_things_are_broken(patient, tmp_path, monkeypatch, label):
    words, breaks = BREAKAGES[label]
    broken = doctor.TinyRun(tmp_path, "cpu")
    broken.base, broken.rows = patient.base, patient.rows
    if label != "training moves every tensor":
        broken.trained = patient.trained
    breaks(monkeypatch)
    verdict, seen, to_do = doctor.examine(doctor.CHECKS[label], broken)
    assert verdict == "FAIL"
    assert words in seen
    assert len(to_do) > 20


@pytest.mark.parametrize(
    ("free_gib", "words"),
    [(500, "for a run of Qwen/Qwen3-14B-Base"), (40, "Qwen/Qwen3-4B-Base"), (4.5, "Qwen/Qwen3-0.6B-Base")],
)
def test_room_is_told_in_models(patient, monkeypatch, free_gib, words):
    free = int(free_gib * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    monkeypatch.setattr(doctor, "MEMORY_A_PARAMETER", 0)
    assert words in doctor.check_room(patient)
