"""The packed forward: no document sees another, and NF4 stays right after an evaluation."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from nsllm_lite.formats.rows import Row, Rows
from nsllm_lite.formats.tokenizer import load_auto_tokenizer
from nsllm_lite.kernels.fused_layers import use_fused_layers
from nsllm_lite.kernels.linear_cross_entropy import IGNORE
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import PackedLM, collate
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.loading import load_base, recompute_layers
from nsllm_lite.models.lora import load_adapter
from tests.models.make import add_lora, load_plain
from tests.raising import raises

LENGTHS = [17, 1, 30, 6]


def packed_row(lengths=LENGTHS, seed=0) -> Row:
    ids = np.random.default_rng(seed).integers(1, 300, sum(lengths)).astype(np.int32)
    return Row(ids, list(lengths), [f"d{i}" for i in range(len(lengths))], ["s"] * len(lengths), [9] * len(lengths))


def split(row: Row) -> list[Row]:
    bounds = np.cumsum([0, *row.doc_lengths])
    return [Row(row.input_ids[a:b], [int(b - a)], ["x"], ["s"], [9]) for a, b in pairwise(bounds)]


@pytest.fixture(scope="module")
def lm(pico) -> PackedLM:
    return PackedLM(load_plain(pico / "deep", "nf4"))


def test_packed_logits_equal_each_document_alone(lm):
    rows = [packed_row(), packed_row([40, 3], seed=2)]
    documents = [document for row in rows for document in split(row)]
    packed = lm.logits(collate(rows, "cpu"))
    alone = torch.cat([lm.logits(collate([document], "cpu")) for document in documents])
    assert (packed - alone).abs().max() < 2e-6
    # and alone is what transformers computes by itself
    ids = [torch.from_numpy(document.input_ids).long() for document in documents]
    plain = [lm.model(one[None]).logits[0] for one in ids]
    assert (packed - torch.cat(plain)).abs().max() < 2e-6
    nats = sum(cross_entropy(logits[:-1], one[1:], reduction="sum") for logits, one in zip(plain, ids, strict=True))
    assert lm(collate(rows, "cpu")).item() == pytest.approx(nats.item(), rel=1e-5)


def test_a_changed_document_leaves_its_neighbours_alone(lm):
    row, bounds = packed_row(), np.cumsum([0, *LENGTHS])
    before = lm.logits(collate([row], "cpu"))
    for changed in range(len(LENGTHS)):
        ids = row.input_ids.copy()
        ids[bounds[changed] : bounds[changed + 1]] = 299 - ids[bounds[changed] : bounds[changed + 1]]
        after = lm.logits(collate([Row(ids, LENGTHS, row.doc_ids, row.doc_sources, row.doc_bytes)], "cpu"))
        for other in range(len(LENGTHS)):
            here = slice(bounds[other], bounds[other + 1])
            assert torch.equal(before[here], after[here]) == (other != changed)


def test_targets_stay_inside_their_document():
    batch = collate([packed_row(), packed_row([5], seed=3)], "cpu")
    ends = np.cumsum([*LENGTHS, 5]) - 1
    assert (batch.targets[ends] == IGNORE).all()
    inner = np.setdiff1d(np.arange(len(batch.targets)), ends)
    assert torch.equal(batch.targets[inner], batch.input_ids[inner + 1])
    assert batch.num_targets == len(inner)
    assert batch.position_ids.tolist() == [i for n in (*LENGTHS, 5) for i in range(n)]


def test_generate_works_with_the_packed_attention(lm, pico):
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 6, 7, 8]])
    ours = load_plain(pico / "deep").generate(ids, max_new_tokens=8, do_sample=False)
    plain = AutoModelForCausalLM.from_pretrained(pico / "deep", attn_implementation="sdpa")
    assert torch.equal(ours, plain.generate(ids, max_new_tokens=8, do_sample=False))


def test_evaluation_leaves_nf4_gradients_and_weights_as_they_were(pico):
    """On CPUs with AVX512-BF16 bitsandbytes repacks NF4 weights at the first evaluation; ours must not."""
    base = load_plain(pico / "deep", "nf4")
    assert not any(getattr(module, "support_avx512bf16_for_cpu", False) for module in base.modules())
    lm = PackedLM(add_lora(base, ["q_proj", "down_proj"]))
    batch = collate([packed_row()], "cpu")

    def gradients() -> list[torch.Tensor]:
        lm.zero_grad()
        lm(batch).backward()
        return [p.grad.clone() for p in lm.parameters() if p.requires_grad]

    before = gradients()
    assert any(g.abs().max() > 0 for g in before)
    heldout.score(lm, [packed_row()], 1, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))
    assert lm.training


def test_a_sample_of_rows_is_spread_over_all(pico):
    rows = Rows(pico / "rows/papers/heldout")  # 8 of them
    for most, places in ((3, (0, 3, 7)), (8, range(8)), (9, range(8))):
        assert [row.doc_ids for row in heldout.sample_rows(rows, most)] == [rows[i].doc_ids for i in places]


def test_score_counts_tokens_and_bytes_by_source(lm, pico):
    rows = heldout.sample_rows(Rows(pico / "rows/papers/heldout"), 5)
    scores = heldout.score(lm, rows, 2, "cpu")
    assert set(scores) == {"papers", "all"}
    total = sum(float(lm(collate([row], "cpu"))) for row in rows)
    assert scores["all"].targets == sum(row.num_targets for row in rows)
    assert scores["all"].bytes == sum(sum(row.doc_bytes) for row in rows)
    assert scores["all"].nats == pytest.approx(total, rel=1e-5)
    assert scores["all"].bits_per_byte == pytest.approx(total / np.log(2) / scores["all"].bytes, rel=1e-5)


def test_recomputed_layers_give_the_same_gradients(pico):
    batch, found = collate([packed_row()], "cpu"), []
    for count in (0, 1, 2):
        base = load_plain(pico / "deep", "nf4")
        if count:
            recompute_layers(base, count)
            assert [layer.gradient_checkpointing for layer in base.model.layers] == [i < count for i in range(2)]
        lm = PackedLM(add_lora(base, ["q_proj", "up_proj"])).train()
        lm(batch).backward()
        found.append([p.grad for p in lm.parameters() if p.requires_grad])
    for other in found[1:]:
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(found[0], other, strict=True))


def test_a_micro_batch_never_waits_for_its_numbers(pico):
    """No tensor is read on the host in forward and backward: on a GPU each such reading would drain its queue."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Readings(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function.overloadpacket is torch.ops.aten._local_scalar_dense
            return function(*args, **(kwargs or {}))

    lm = PackedLM(add_lora(load_plain(pico / "deep", "nf4"), ["q_proj", "up_proj"])).train()
    assert use_fused_layers(lm, recompute_cheap=True) == 2
    with Readings() as readings:
        loss = lm(collate([packed_row()], "cpu"))
        loss.backward()
        assert readings.count == 0
        loss.item()
        assert readings.count == 1


def test_models_that_cannot_be_used(pico, tmp_path):
    with raises("model-not-found", tmp_path / "model1", "make phase1"):
        resolve_model(str(tmp_path / "model1"))
    (tmp_path / "empty").mkdir()
    with raises("model-no-config", tmp_path / "empty"):
        resolve_model(str(tmp_path / "empty"))
    (tmp_path / "empty/config.json").write_text((pico / "base/config.json").read_text())
    (tmp_path / "empty/pytorch_model.bin").write_bytes(b"pickle")
    with raises("weights-absent", tmp_path / "empty"):
        load_plain(tmp_path / "empty")
    with raises("model-not-fetched", "nobody/no-such-model"):
        resolve_model("nobody/no-such-model")
    with raises("model-base-not-local", tmp_path / "adapter_config.json", "hf download nobody/no-such-model"):
        resolve_model("nobody/no-such-model", tmp_path / "adapter_config.json")
    with raises("adapter-targets-unknown", "q_porj", "q_proj"):
        add_lora(load_plain(pico / "base"), ["q_porj"])
    with raises("model-adapter-missing", tmp_path):
        load_adapter(load_plain(pico / "base"), tmp_path)


@pytest.mark.parametrize(("device", "place"), [("cuda", 3), ("cpu", "cpu")])
def test_every_process_loads_onto_its_own_card(pico, monkeypatch, device, place):
    """transformers loads bf16 weights in threads, whose current card is the first: the index must be stated."""

    class LoadedError(Exception):
        pass

    def load(*args, device_map, **options):
        assert device_map == {"": place}
        raise LoadedError

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(LoadedError):
        load_base(
            pico / "base", quantisation="none", double_quantisation=False, compute_dtype="bfloat16", device=device
        )


def test_a_model_that_is_not_all_there(pico, tmp_path):
    base = Path(shutil.copytree(pico / "base", tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with raises("model-tensors-missing", base, "model.norm.weight (1 "):
        load_plain(base)
    (base / "tokenizer.json").write_text("{")
    with raises("tokenizer-not-loaded", base):
        load_auto_tokenizer(base)


def test_widths_that_bitsandbytes_restores_wrongly_on_a_cpu_are_refused(tmp_path):
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with raises("nf4-width-on-cpu", "down_proj", 96, "quantisation=none"):
        load_plain(tmp_path, "nf4")
    load_plain(tmp_path)
