"""Stochastic rounding: right on average, one of two neighbours, the same however a merge is cut."""

import json

import pytest
import torch
from safetensors.torch import load_file

from nsllm_lite.artifact.step import is_same
from nsllm_lite.formats import weights
from nsllm_lite.merge import arithmetic, stochastic
from nsllm_lite.merge.write_model import merge
from nsllm_lite.models.loading import load_base, save_nf4
from nsllm_lite.recipe import load as recipes
from tests.merge.make import edit_adapter, make_adapter, make_base, make_recipe, merged_by_peft
from tests.merge.test_exact import KINDS
from tests.raising import raises

DTYPES = (torch.bfloat16, torch.float16)
UP = "model.layers.0.mlp.up_proj"


def rounded(values, dtype, key, first=0):
    out = values.to(dtype)
    stochastic.round_(values.clone(), out, out.abs().max().item(), key, first)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_over_seeds_is_the_sum(dtype):
    """Of normal and subnormal numbers of either sign, also where the nearest is always the same neighbour."""
    tiny = torch.finfo(dtype).smallest_normal
    torch.manual_seed(0)
    base = torch.cat([torch.randn(40), torch.randn(20) * tiny / 30, torch.tensor([1.0, 2.0, -4.0, tiny, 0.0, -0.0])])
    values = base.to(dtype).float() * (1 + 0.1 * torch.finfo(dtype).eps * torch.rand(len(base)))
    values[40:60] = base[40:60]
    all_seeds = torch.stack([rounded(values, dtype, stochastic.key_of(seed, "w")) for seed in range(3000)])
    assert (stochastic.beyond(all_seeds, values.expand_as(all_seeds)) < 0).all()
    low, high = all_seeds.double().aminmax(dim=0)
    share_up = (values.double() - low) / (high - low).clamp(min=1e-300)
    deviation = (high - low) * (share_up * (1 - share_up) / 3000).clamp(min=0).sqrt()
    assert ((all_seeds.double().mean(0) - values.double()).abs() <= 5 * deviation + 1e-300).all()
    assert (high > low).sum() > 55  # of 66


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_dtype_holds_stays_and_nothing_finite_becomes_infinite(dtype):
    limit = torch.finfo(dtype).max
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    exact = every[every.isfinite()]
    assert torch.equal(rounded(exact.float(), dtype, 7).view(torch.int16), exact.view(torch.int16))
    above = torch.full((4096,), limit * (1 + 0.2 * torch.finfo(dtype).eps))  # whose nearest is finite
    assert torch.equal(rounded(-above, dtype, 7).float(), torch.full_like(above, -limit))


def test_draws_follow_from_the_place_alone_and_differ_by_seed_and_name():
    key = stochastic.key_of(3, "w")
    whole = stochastic.drawn(key, 0, 5000)
    for first, last in ((0, 1), (5, 17), (15, 16), (16, 4999), (64, 80)):
        assert (stochastic.drawn(key, first, last - first) == whole[first:last]).all()
    for other in (stochastic.key_of(4, "w"), stochastic.key_of(3, "v")):
        assert (stochastic.drawn(other, 0, 5000) == whole).mean() < 0.01
    assert whole[:4].tolist() == [15285, 20275, 28093, 8409]  # of every version, so that a killed merge goes on


def small(adapter, factor=0.001):
    """Updates of mostly less than half a unit, and none of some rows."""

    def change(tensors):
        for name in tensors:
            if name.endswith("lora_B.weight"):
                tensors[name].mul_(factor)[:5] = 0

    edit_adapter(adapter, change)


def test_a_small_update_is_kept_on_average_and_nothing_else_changes(copied, tmp_path, capsys):
    base, adapter, nearest = copied
    small(adapter)
    before, theirs = load_file(base / "model.safetensors"), merged_by_peft(base, [adapter], dtype=torch.float32)
    sums, made = theirs.state_dict(), {}
    for seed in (0, 1):
        recipe = make_recipe(base, adapter, tmp_path / f"{seed}", rounding="stochastic", rounding_seed=seed)
        results = merge(recipe)
        made[seed] = load_file(tmp_path / f"{seed}/model.safetensors")
        assert (results["rounding"], results["rounding_seed"]) == ("stochastic", seed)
        assert abs(results["kept_share"] - 1) < 0.05
        assert f"stochastically, seed {seed}" in (tmp_path / f"{seed}/README.md").read_text()
    assert f"up_proj {results['kept_by_kind']['up_proj']:.1%}, v_proj" in capsys.readouterr().out
    assert merge(nearest)["kept_share"] < 0.5
    assert "--rounding stochastic" in capsys.readouterr().out
    for name, weight in made[0].items():
        changes = sums[name] != before[name].float()
        assert (stochastic.beyond(weight, sums[name]) < 0).all()
        assert torch.equal(weight[~changes], before[name][~changes])
        assert torch.equal(weight, made[1][name]) == (not changes.any())
    shares = json.loads((tmp_path / "1/tensors.json").read_text())
    of_kind = [shares[f"model.layers.{n}.mlp.up_proj.weight"] for n in (0, 1)]
    energy = [of["delta_norm"] ** 2 for of in of_kind]
    share = sum(of["kept_share"] * e for of, e in zip(of_kind, energy, strict=True)) / sum(energy)
    assert results["kept_by_kind"]["up_proj"] == pytest.approx(share)


def test_slices_shards_and_threads_do_not_change_the_result(copied, tmp_path, monkeypatch):
    base, adapter, _ = copied
    small(adapter)
    ways = ((4096, 2**32, 2), (2**20, 50_000, 1), (32_768, 200_000, 3))
    made = []
    for number, (slice_bytes, shard_bytes, workers) in enumerate(ways):
        monkeypatch.setattr(weights, "SLICE_BYTES", slice_bytes)
        out = tmp_path / f"{number}"
        changes = {"shard_bytes": shard_bytes, "execution": {"workers": workers}}
        merge(make_recipe(base, adapter, out, rounding="stochastic", rounding_seed=5, **changes))
        made.append({n: of for file in out.glob("*.safetensors") for n, of in load_file(file).items()})
    assert all(torch.equal(one[name], weight) for one in made[1:] for name, weight in made[0].items())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["dora", "saved_both", "lora_embeddings", "token_rows"])
def test_verify_accepts_each_kind_and_finds_entries_that_are_no_neighbours(tmp_path, monkeypatch, kind, dtype):
    base = make_base(tmp_path / "base", dtype)
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS[kind])
    edit_adapter(adapter, lambda tensors: tensors.update({name: of.float() * 1.0001 for name, of in tensors.items()}))
    how = {"rounding": "stochastic", "execution": {"verify": True}}
    merge(make_recipe(base, adapter, tmp_path / "out", **how))
    if kind == "saved_both":  # rounded by the same draws, not to the nearest
        saved = load_file(adapter / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
        written = load_file(tmp_path / "out/model.safetensors")["lm_head.weight"]
        assert (stochastic.beyond(written, saved) < 0).all()
        assert not torch.equal(written, saved.to(dtype))

    def further(total, out, *rest):  # by a unit
        right(total, out, *rest)
        out.view(torch.int16)[-1].sub_(1)

    right = stochastic.round_
    monkeypatch.setattr(stochastic, "round_", further)
    with raises("merge-verify-failed"):
        merge(make_recipe(base, adapter, tmp_path / "wrong", **how))


def test_several_adapters_are_added_before_one_cast(pair, tmp_path):
    base, first = pair
    second = make_adapter(base, tmp_path / "second", seed=2, target_modules=["q_proj", "down_proj"])
    adapters = [{"path": str(first), "weight": 0.3}, {"path": str(second), "weight": -1.7}]
    merge(make_recipe(base, adapters, tmp_path / "out", rounding="stochastic", execution={"verify": True}))
    sums = merged_by_peft(base, [first, second], [0.3, -1.7], dtype=torch.float32).state_dict()
    for name, weight in load_file(tmp_path / "out/model.safetensors").items():
        assert (stochastic.beyond(weight, sums[name]) < 0).all()


def test_into_the_rounded_base_entries_without_an_update_go_to_the_nearest(tmp_path):
    """Training held the scales in fp32, so that what it saw is not exact in bf16."""
    base = make_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "up_proj"])
    small(adapter, 0.2)
    how = {"quantisation": "nf4", "double_quantisation": True, "compute_dtype": "float32"}
    (adapter / "training.json").write_text(json.dumps(how))
    save_nf4(load_base(base, device="cpu", **how), adapter)
    made = {}
    for rounding in ("nearest", "stochastic"):
        out, verified = tmp_path / rounding, {"verify": True}
        recipe = make_recipe(base, adapter, out, base_weights="dequantized", rounding=rounding, execution=verified)
        results = merge(recipe)
        made[rounding] = load_file(out / "model.safetensors")
    assert abs(results["kept_share"] - 1) < 0.1
    differ = {name for name, weight in made["nearest"].items() if not torch.equal(weight, made["stochastic"][name])}
    assert differ == {f"model.layers.{n}.{m}.weight" for n in (0, 1) for m in ("self_attn.q_proj", "mlp.up_proj")}
    assert torch.equal(made["nearest"][f"{UP}.weight"][:5], made["stochastic"][f"{UP}.weight"][:5])


def test_an_overflow_is_refused_as_with_the_nearest(tmp_path):
    base = make_base(tmp_path / "base", torch.float16)
    adapter = make_adapter(base, tmp_path / "adapter")
    edit_adapter(adapter, lambda tensors: [of.mul_(1e4) for of in tensors.values()])
    with raises("merge-not-finite"):
        merge(make_recipe(base, adapter, tmp_path / "out", rounding="stochastic"))


def test_what_draws_nothing_is_refused_and_the_nearest_is_what_recipes_said_before(pair, tmp_path):
    with raises("merge-rounds-nothing"):
        merge(make_recipe(*pair, tmp_path / "out", rounding="stochastic", dtype="float32"))
    assert not list(tmp_path.iterdir())
    with raises("rounding-seed-unused"):
        recipes.validate(make_recipe(*pair, "o").model_dump() | {"rounding_seed": 3}, "merge")
    plain, stated, other = (
        recipes.identity(make_recipe(*pair, "o", **changes))
        for changes in ({}, {"rounding": "nearest", "rounding_seed": 0}, {"rounding": "stochastic"})
    )
    before = {key: value for key, value in plain.items() if not key.startswith("rounding")}
    assert is_same({"recipe": before, "inputs": {}}, stated, {})
    assert not is_same({"recipe": before, "inputs": {}}, other, {})
    seeded = recipes.identity(make_recipe(*pair, "o", rounding="stochastic", rounding_seed=1))
    assert not is_same({"recipe": other, "inputs": {}}, seeded, {})


def test_the_nearest_draws_nothing(copied, monkeypatch):
    monkeypatch.setattr(arithmetic, "stochastic", None)
    merge(copied[2])


def test_a_base_of_32_bits_is_rounded_once_with_its_update(tmp_path):
    base = make_base(tmp_path / "base", torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter")
    small(adapter)
    how = {"rounding": "stochastic", "dtype": "bfloat16", "execution": {"verify": True}}
    assert abs(merge(make_recipe(base, adapter, tmp_path / "out", **how))["kept_share"] - 1) < 0.1
    before, after = (load_file(tmp_path / f"{name}/model.safetensors") for name in ("base", "out"))
    for name in after.keys() - {n for n in after if n.endswith("proj.weight")}:
        assert torch.equal(after[name], before[name].bfloat16())
    assert torch.equal(after[f"{UP}.weight"][:5], before[f"{UP}.weight"][:5].bfloat16())
    assert not torch.equal(after[f"{UP}.weight"], before[f"{UP}.weight"].bfloat16())
