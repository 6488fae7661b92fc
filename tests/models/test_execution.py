"""What is predicted and chosen for a card. The predictions are arithmetic; the choice must respect them."""

import importlib.util
import re
import shutil
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from nsllm_lite import cli
from nsllm_lite.artifact.disk import GIB
from nsllm_lite.commands import plan, stories
from nsllm_lite.commands.recipe_folder import choose_size
from nsllm_lite.commands.stories import load_run
from nsllm_lite.models import cards, cost, device, execution
from nsllm_lite.models.cards import card_named
from nsllm_lite.models.device import (
    CONTEXT_BYTES,
    Card,
    find_device,
    known_speed,
    remember_speed,
    require_dtype,
    require_kernels,
)
from nsllm_lite.models.execution import USABLE_SHARE, candidates, memory, require_card
from nsllm_lite.models.sizes import QWEN3, ModelSize, flops_per_token, read_size
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Execution, Train
from nsllm_lite.train import outputs
from nsllm_lite.train.trace import trace
from tests.paths import load_whole
from tests.raising import raises

RECIPES = Path(__file__).parents[2] / "recipes"


RECIPE, SIZE = load_whole(RECIPES / "qwen3/phase1.yaml", base="Qwen/Qwen3-8B-Base"), QWEN3["8b"][2]
DORA = recipes.update(RECIPE, adapter={**RECIPE.adapter.model_dump(), "dora": True})
ROW_TOKENS = 4096
CARD = Card("cuda", 80 * GIB, "a card", 80 * GIB)


def choose(gib: float = 141, device: str = "cuda", recipe: Train = RECIPE, **execution_) -> Execution:
    """For a card of `gib`, with these keys of the recipe's `execution`."""
    card = Card(device, int(gib * GIB), "a card", int(gib * GIB))
    return execution.choose(recipes.update(recipe, execution=execution_), SIZE, ROW_TOKENS, card)


def need_bytes(how: Execution, **changes) -> dict[str, int]:
    """By what holds them, in training by the recipe with `changes`."""
    return memory(recipes.update(RECIPE, **changes), SIZE, ROW_TOKENS, how)


def test_sizes_match_the_published_models():
    assert SIZE.linear_params + SIZE.vocab * SIZE.hidden == pytest.approx(7.568e9, rel=1e-3)
    assert SIZE.lora_params(RECIPE.adapter) == pytest.approx(174.6e6, rel=1e-3)
    assert QWEN3["0.6b"][2].params == pytest.approx(0.596e9, rel=1e-2)
    assert QWEN3["14b"][2].params == pytest.approx(14.77e9, rel=1e-2)


def test_size_is_read_from_a_config(pico):
    tensors = load_file(pico / "base/model.safetensors")
    assert read_size(pico / "base").params == sum(t.numel() for t in tensors.values() if t.ndim == 2)


def test_a_config_of_another_kind_is_refused():
    with raises("config-sizes-missing", "num_attention_heads, num_hidden_layers"):
        ModelSize.of({"hidden_size": 64, "vocab_size": 9})


@pytest.mark.parametrize("gib", [22, 24, 40, 80, 141])
def test_the_choice_fits_the_card(gib):
    how = choose(gib)
    assert sum(need_bytes(how).values()) <= USABLE_SHARE * gib * GIB
    assert 16 % how.micro_batch_rows == 0
    if how.recompute_layers:  # one layer less would not have fitted
        less = how.model_copy(update={"recompute_layers": how.recompute_layers - 1})
        assert sum(need_bytes(less).values()) > USABLE_SHARE * gib * GIB


def test_memory_is_what_the_architecture_asks_for():
    """By hand: a micro-batch of one row of 4,096 tokens, all 36 layers recomputed."""
    how = Execution(micro_batch_rows=1, recompute_layers=36, recompute_cheap=False, dequantised=False)
    need = need_bytes(how)
    embedding_bytes = 2 * 2 * 151_936 * 4096
    bits = 4 + 8 / 64 + 32 / (64 * 256)  # with a scale of 8 bits a block, and one of 32 bits for 256 blocks
    assert need["weights"] == pytest.approx(6.946e9 * bits / 8 + embedding_bytes, rel=1e-3)
    singly = need_bytes(how, double_quantisation=False)["weights"]
    assert singly == pytest.approx(6.946e9 * (4 + 32 / 64) / 8 + embedding_bytes, rel=1e-3)
    assert need["adapter and optimizer"] == pytest.approx(174.6e6 * (4 + 4 + 2 + 2), rel=1e-3)  # and 16-bit copies
    row = 4096 * 4096 * 2
    angles = 2 * 128 * 4096 * 2
    entered = (36 + 2) * row
    assert need["activations"] == entered + angles, "what enters each layer, the last hidden states around their norm"
    half, none = (need_bytes(how.model_copy(update={"recompute_layers": n}))["activations"] for n in (18, 0))
    assert 2 * half == none + need["activations"]
    layer = (none - angles - 2 * row) / 36
    restored = 4096 * 12_288 * 2
    assert need["working set"] == row + layer + 3 * row + restored - 2 * row, "one layer's activations and gradients"
    nothing = need_bytes(how.model_copy(update={"recompute_layers": 0}))
    chunk = 1_024 * 2 * (151_936 + 4096)
    assert nothing["working set"] == row + chunk, "the head's chunk of logits, the gradient of its hidden states"
    chunked = need_bytes(how.model_copy(update={"recompute_layers": 0, "head": "chunked"}))
    assert chunked["working set"] == 2 * row + 16 * (2**28 // (4 * 151_936)) * 151_936


def test_every_way_to_cut_a_step_is_tried():
    assert {way.execution.micro_batch_rows for way in candidates(RECIPE, SIZE, ROW_TOKENS, CARD)} == {1, 2, 4, 8, 16}


def test_a_larger_card_recomputes_less():
    counts = [choose(gib).recompute_layers for gib in (22, 40, 80)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_weights_are_held_dequantised_where_there_is_room():
    assert [choose(gib).dequantised for gib in (24, 141)] == [False, True]
    assert not any(way.execution.recompute_cheap for way in candidates(DORA, SIZE, ROW_TOKENS, CARD))
    fixed = recipes.update(RECIPE, execution={"recompute_cheap": False, "dequantised": False})
    ways = [way.execution for way in candidates(fixed, SIZE, ROW_TOKENS, CARD)]
    assert not any(way.recompute_cheap or way.dequantised for way in ways)


def test_compilation_and_the_head_are_chosen_by_the_recipe_alone():
    assert (choose().compile, choose().head) == (False, "liger")
    on_cpu = choose(device="cpu")
    assert (on_cpu.compile, on_cpu.head) == (False, "chunked")
    assert choose(head="chunked").head == "chunked"
    for how in (choose(compile=True), choose(device="cpu", compile=True)):
        assert (how.compile, how.dequantised, how.recompute_cheap) == (True, True, False)
    assert sum(need_bytes(choose(40, compile=True)).values()) <= USABLE_SHARE * 40 * GIB
    with raises("execution-memory-too-small", "20.0 GiB"):
        choose(20, compile=True)  # weights in 16 bits do not fit, and in NF4 they would not stay so
    for wrong, found in {"dequantised": False, "recompute_cheap": True}.items():
        with raises("execution-not-compilable", f"execution.{wrong}={found}".lower()):
            choose(compile=True, **{wrong: found})
    with raises("execution-not-compilable", "no adapter"):
        choose(recipe=recipes.update(RECIPE, adapter="none", quantisation="none"), compile=True)
    with raises("execution-not-compilable", "adapter.dora=true"):
        choose(recipe=DORA, compile=True)
    with raises("execution-liger-on-cpu", "execution.head=liger"):
        choose(device="cpu", head="liger")
    assert plan._execution_words(RECIPE, choose(compile=True), SIZE).endswith(", layers compiled")


def test_too_small_a_card_and_forced_choices():
    with raises("execution-memory-too-small", "8.0 GiB") as caught:
        choose(8)
    assert 10 < float(re.search(r"([\d.]+) GiB", str(caught.value))[1]) < 20
    how = choose(80, micro_batch_rows=2, recompute_layers=36)
    assert (how.micro_batch_rows, how.recompute_layers) == (2, 36)


def test_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device() == Card("cpu", None, "CPU")
    with raises("device-no-cuda", "execution.device=cuda"):
        find_device("cuda")


def test_a_large_model_trains_on_a_cpu_only_where_that_is_requested():
    with raises("execution-needs-card", "8.2 B"):
        require_card(RECIPE, SIZE, "cpu")
    require_card(recipes.update(RECIPE, execution={"device": "cpu"}), SIZE, "cpu")


def fake_card(monkeypatch, name: str, gib: float, major: int = 8, minor: int = 0, taken_gib: float = 0.8):
    """On a machine that can build kernels; `taken_gib` of the card are in use, by this process's context or others."""
    monkeypatch.setattr(device, "_known_speeds", dict)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(device, "why_kernels_cannot_be_built", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (int((gib - taken_gib) * GIB), int(gib * GIB)))
    card = SimpleNamespace(name=name, total_memory=int(gib * GIB), major=major, minor=minor)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)


def test_a_card_without_bfloat16_trains_in_fp16(monkeypatch, tmp_path):
    fake_card(monkeypatch, "Tesla T4", 14.6, major=7, minor=5)
    assert find_device().device == "cuda"
    with raises("device-no-bfloat16", "compute_dtype=float16"):
        require_dtype("bfloat16", find_device())
    require_dtype("float16", find_device())
    planned = []
    monkeypatch.setattr(stories, "plan", lambda run, *rest: planned.append(run))
    monkeypatch.chdir(RECIPES.parent)
    words = ["plan", "--corpus", str(tmp_path), "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    assert cli.main([*words, "--vram", "24"]) == 0
    here, with_24_gib = planned
    assert [here[name].compute_dtype for name in ("phase1", "phase2")] == ["float16"] * 2
    assert with_24_gib["phase1"].compute_dtype == "bfloat16"
    assert (here["corpus"].row_tokens, here["model1"].dtype) == (4096, None), "the other steps are as they were"


def test_what_others_hold_of_the_card_is_not_planned_with(monkeypatch, tmp_path, capsys):
    fake_card(monkeypatch, "NVIDIA GeForce RTX 4090", 23.6, taken_gib=0.8)
    alone = find_device()
    assert (alone.memory_bytes, alone.words) == (alone.total_bytes, "NVIDIA GeForce RTX 4090, 23.6 GiB")
    fake_card(monkeypatch, "NVIDIA GeForce RTX 4090", 23.6, taken_gib=5.8)
    card = find_device()
    assert card.total_bytes - card.memory_bytes == pytest.approx(5 * GIB, abs=1)
    assert card.words == "NVIDIA GeForce RTX 4090, 23.6 GiB (18.6 free, the rest is in use)"
    beside, free = (execution.choose(RECIPE, SIZE, ROW_TOKENS, of) for of in (card, alone))
    assert beside.recompute_layers > free.recompute_layers
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: SimpleNamespace(free=200 * GIB))
    monkeypatch.setattr(plan, "find_device", lambda asked: card)
    run = load_run(RECIPES / "qwen3", corpus=str(tmp_path), out=str(tmp_path / "out"), size="8b")
    figures = plan.plan(run, "")
    assert (figures["card_bytes"], figures["free_card_bytes"]) == (card.total_bytes, card.memory_bytes)
    left = (card.memory_bytes - sum(figures["memory_bytes"].values())) / GIB
    assert f"; {left:.1f} GiB left of the card" in capsys.readouterr().out


def test_every_process_plans_for_its_own_card(monkeypatch):
    asked = []
    fake_card(monkeypatch, "NVIDIA L4", 22)
    properties = torch.cuda.get_device_properties
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: asked.append(index) or properties(index))
    for rank in ("3", "-1", "4"):  # the second: by no launcher; the last: each process is shown one card
        monkeypatch.setenv("LOCAL_RANK", rank)
        find_device()
    assert asked == [3, 0, 0]


@pytest.mark.parametrize("gone", ["liger_kernel", "triton", "compiler", "CC", "header"])
def test_kernels_that_cannot_run_are_told_before_anything_is_fetched(monkeypatch, tmp_path, capsys, gone):
    why = device.why_kernels_cannot_be_built
    fake_card(monkeypatch, "NVIDIA L4", 22)
    monkeypatch.setattr(device, "why_kernels_cannot_be_built", why)
    monkeypatch.setenv("CC", "/nowhere/cc") if gone == "CC" else monkeypatch.delenv("CC", raising=False)
    there = {"gcc": None, "clang": None if gone == "compiler" else "/usr/bin/clang", "/nowhere/cc": None}
    monkeypatch.setattr(device.shutil, "which", lambda name: there.get(name, name))
    include = tmp_path / "include"
    include.mkdir()
    if gone != "header":
        (include / "Python.h").touch()
    monkeypatch.setattr(device.sysconfig, "get_paths", lambda scheme: {"include": str(include)})
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None if name == gone else name)
    monkeypatch.setattr(plan, "_size_and_download", lambda run: pytest.fail("asked for the model first"))
    monkeypatch.chdir(RECIPES.parent)
    packages = gone in ("liger_kernel", "triton")
    for verb in ("plan", "phase1"):
        assert cli.main([verb, "--corpus", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
        told = capsys.readouterr().err
        assert ("[kernels-not-installed]" if packages else "[kernels-cannot-be-built]") in told
        words = {"compiler": "gcc or clang", "CC": "'/nowhere/cc'", "header": str(include / "Python.h")}
        assert words.get(gone, gone.replace("_", "-")) in told
    require_kernels("cpu")


def test_this_machine_can_build_kernels_or_says_what_is_missing(tmp_path):
    """The check agrees with what a compiler does with a file as Triton's launcher."""
    source = tmp_path / "launcher.c"
    source.write_text("#include <Python.h>\nint main(void) { return 0; }\n")
    compiler = shutil.which("gcc") or shutil.which("clang") or "gcc"
    include = sysconfig.get_paths()["include"]
    try:
        built = subprocess.run([compiler, "-c", source, f"-I{include}", "-o", tmp_path / "x.o"], capture_output=True)
        can = built.returncode == 0
    except FileNotFoundError:
        can = False
    assert (device.why_kernels_cannot_be_built() is None) == can


def test_an_old_card_is_refused(monkeypatch):
    fake_card(monkeypatch, "Tesla V100", 16, major=7)
    with raises("device-too-old", "Tesla V100", "7.0"):
        find_device()


def test_the_plan_of_the_real_run(monkeypatch, tmp_path, capsys):
    """What `make phase1 CORPUS=...` prints on a 4090, without starting anything."""
    fake_card(monkeypatch, "NVIDIA GeForce RTX 4090", 23.6)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: SimpleNamespace(free=200 * GIB))
    size, why = choose_size(23.6)
    figures = plan.plan(load_run(RECIPES / "qwen3", corpus=str(tmp_path), out=str(tmp_path / "out"), size=size), why)
    text = capsys.readouterr().out
    assert "Qwen/Qwen3-8B-Base: the largest Qwen3 base model for a card of 23.6 GiB" in text
    assert "200 steps = up to 13,107,200 tokens, constant learning rate" in text
    assert "Download   15.3 GiB" in text
    assert figures["disk_bytes"] == pytest.approx(49e9, rel=0.01)
    assert sum(figures["memory_bytes"].values()) < 23.6 * GIB
    assert "tokens/s (65% of the card's roofline, assumed)" in text


def test_the_front_door_on_a_machine_with_a_card(monkeypatch, tmp_path, capsys, pico):
    """`make plan CORPUS=...` chooses by the card; the CPU run ends with the exact command for it."""
    monkeypatch.chdir(RECIPES.parent)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: SimpleNamespace(free=200 * GIB))
    fake_card(monkeypatch, "NVIDIA L4", 22.0)
    assert cli.main(["plan", "--corpus", str(tmp_path), "--out", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert "Qwen/Qwen3-8B-Base: the largest" in text
    assert re.search(r"Machine    NVIDIA L4, 22\.0 GiB; \d+ CPU cores, [\d.]+ GiB of memory\n", text)
    words = ["plan", "--corpus", str(tmp_path), "--out", str(tmp_path / "run"), "--model", str(pico / "base")]
    assert cli.main(words) == 0
    assert f"{pico}/base (as asked, with the recipes of 8b)" in capsys.readouterr().out
    assert cli.main(["plan"]) == 0  # without a corpus the CPU run, card or not
    assert "Machine    CPU" in capsys.readouterr().out
    assert stories.real_command().splitlines() == [
        "The real run on this NVIDIA L4: Qwen/Qwen3-8B-Base: the largest Qwen3 base model for a card of 22.0 GiB "
        "(it asks for 22)",
        "  make phase1 CORPUS=path/to/your/papers",
    ]


def test_the_plan_for_a_card_that_is_not_here(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * GIB))
    monkeypatch.chdir(RECIPES.parent)
    words = ["plan", "recipes/qwen3/phase1.yaml", "--out", str(tmp_path / "run")]
    assert cli.main([*words, "--vram", "24", "--all", "--price", "2.5"]) == 0
    printed = capsys.readouterr().out
    assert "a card, 24.0 GiB" in printed
    assert printed.count("chosen") == 1
    assert "Capacity   349 Mbit in the adapter" in printed
    assert "too low" not in printed
    chosen = next(line for line in printed.splitlines() if line.endswith("chosen"))
    rows, layers = chosen.split()[:2]
    assert f"micro-batches of {rows} x 4,096; {layers} of 36 layers recomputed, of the others norms" in printed
    assert ", cheap " in chosen
    assert " nf4 " in chosen
    assert float(chosen.split()[6]) < 24 * USABLE_SHARE
    faster = [line for line in printed.splitlines() if "x " in line and " of 36 " in line and "fit" in line]
    assert faster, "ways that do not fit are listed as such"
    assert cli.main([*words[:2], "phase1.adapter.rank=1", *words[2:], "--vram", "24"]) == 0
    assert "rank 1 is too low" in capsys.readouterr().out
    assert cli.main([*words, "--size", "8b", "--vram", "8"]) == 2
    text = capsys.readouterr().err
    assert "[run-does-not-fit]" in text
    nearest = re.search(r"SIZE=([\w.]+),", text)[1]
    assert cli.main([*words, "--size", nearest, "--vram", "8"]) == 0
    assert cli.main([*words, "--size", "8b", "--vram", "2"]) == 2
    text = capsys.readouterr().err
    assert "[run-does-not-fit]" in text
    assert "SIZE=" not in text
    assert cli.main(["plan", "--corpus", str(tmp_path), "--vram", "16", "--out", str(tmp_path / "run")]) == 0
    assert "Qwen3-4B-Base" in capsys.readouterr().out


def test_time_and_money_follow_from_the_roofline(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    how, speed = choose(79), cards.CARDS["H100"]
    expected = plan._speed(RECIPE, SIZE, ROW_TOKENS, how, card_named("H100"))
    rows_tokens, work = how.micro_batch_rows * ROW_TOKENS, cost.work(RECIPE, SIZE, ROW_TOKENS, how)
    assert expected.tokens_per_s == pytest.approx(rows_tokens * speed.share / cost.roofline_s(work, speed))
    assert expected.slowest < expected.tokens_per_s < expected.fastest
    assert 0.35 < flops_per_token(SIZE) * expected.tokens_per_s / 989e12 < 0.55, "MFU by the 4N convention"
    hours = [13_107_200 / of / 3600 for of in (expected.tokens_per_s, expected.fastest, expected.slowest)]
    words = plan._time_words(expected, 13_107_200, 2.0)
    assert words.startswith(", about {:.1f} h ({:.1f} to {:.1f}) at ".format(*hours))
    assert f" {expected.tokens_per_s:,.0f} tokens/s (65% of the card's roofline, assumed), " in words
    assert words.endswith(f", {hours[0] * 2:,.2f} at 2 an hour")
    assert plan._speed(RECIPE, SIZE, ROW_TOKENS, how, CARD) is None


def test_a_small_model_on_a_fast_card_waits_for_the_host():
    small, how = QWEN3["0.6b"][2], Execution(micro_batch_rows=1, recompute_layers=0, recompute_cheap=False)
    work = cost.work(RECIPE, small, ROW_TOKENS, how)
    assert cost.seconds(work, cards.CARDS["H100"]) == work.host_s == pytest.approx(28 * cost.HOST_S)
    assert cost.seconds(work, cards.CARDS["L4"]) > work.host_s
    again = cost.work(RECIPE, small, ROW_TOKENS, how.model_copy(update={"recompute_layers": 28}))
    assert again.flops["products"] == 1.5 * work.flops["products"]


def test_cards_by_name(capsys, tmp_path, monkeypatch):
    assert cards.speed_of(CARD._replace(name="NVIDIA L40S")) is cards.CARDS["L40S"]
    assert cards.speed_of(CARD._replace(name="NVIDIA A10G")) is cards.CARDS["A10G"]
    assert cards.speed_of(CARD._replace(name="NVIDIA L40")) is cards.CARDS["L40"]
    assert cards.speed_of(CARD._replace(name="NVIDIA RTX A1000")) is None
    assert cards.speed_of(CARD._replace(name="NVIDIA A100-SXM4-40GB")) is cards.CARDS["A100"]
    assert cards.speed_of(CARD._replace(name="NVIDIA A100-SXM4-80GB")).gb_per_s == 2039
    assert cards.speed_of(CARD._replace(name="NVIDIA A100 80GB PCIe")).gb_per_s == 1935
    assert cards.speed_of(CARD._replace(name="NVIDIA GeForce RTX 4090 Laptop GPU")) is None
    assert cards.speed_of(CARD._replace(name="NVIDIA H100 PCIe")).tflops == 756
    assert card_named("t4").memory_bytes == int(14.6 * GIB)
    assert not card_named("Tesla T4").has_bfloat16
    assert card_named("RTX 4090").name == "4090"
    assert card_named("A100", 79).memory_bytes == 79 * GIB
    assert card_named("A100 80GB").memory_bytes == int(79.2 * GIB)
    with raises("plan-card-unknown", "--card 8086", "H200"):
        card_named("8086")
    monkeypatch.chdir(RECIPES.parent)
    assert cli.main(["plan", "--corpus", str(tmp_path), "--card", "T4", "--out", str(tmp_path / "run"), "--json"]) == 0
    told = capsys.readouterr()
    assert '"model": "Qwen/Qwen3-1.7B-Base"' in told.out
    assert "45% of the card's roofline, assumed" in told.err


def test_what_a_run_has_measured_is_what_the_next_plan_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remember_speed("H100", SIZE, 9_000.0)
    remember_speed("another", SIZE, 100.0)

    def words(size: ModelSize) -> str:
        return plan._time_words(plan._speed(RECIPE, size, ROW_TOKENS, choose(79), card_named("H100")), 10**6, None)

    assert re.fullmatch(r", about 0\.0 h at 9,000 tokens/s \(as measured on this card, 20[-\d]+\)", words(SIZE))
    ratio = flops_per_token(SIZE) / flops_per_token(QWEN3["4b"][2])
    assert f" at {9_000 * ratio:,.0f} tokens/s" in words(QWEN3["4b"][2])
    (tmp_path / "nsllm-lite/speed.json").write_text("{damaged")
    assert known_speed("H100") is None


def test_a_run_on_a_card_tells_how_well_it_was_predicted(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    how = choose(40)
    in_torch = sum(need_bytes(how).values()) - CONTEXT_BYTES
    monkeypatch.setattr(outputs, "peak_memory_bytes", lambda device: in_torch / 1.25)
    inputs = SimpleNamespace(size=SIZE, rows=SimpleNamespace(totals=SimpleNamespace(row_tokens=ROW_TOKENS)))
    measured = outputs.measure(RECIPE, inputs, how, CARD, 2_000_000, 100.0, 2)
    assert measured["memory_error"] == pytest.approx(0.25)
    assert measured["predicted_memory_gib"] == pytest.approx(in_torch / GIB, abs=0.01)
    assert known_speed("a card")["flops"] == flops_per_token(SIZE) * 10_000


@pytest.mark.parametrize("value", [0, -1, "8", 2.5, [8]])
def test_a_config_whose_sizes_are_none(value):
    config = dict.fromkeys(("num_attention_heads", "hidden_size", "num_hidden_layers", "intermediate_size"), 8)
    with raises("config-sizes-invalid", f"vocab_size: {value!r}"):
        ModelSize.of(config | {"vocab_size": value})


def test_what_a_dry_run_cannot_do_is_refused_by_name(monkeypatch):
    how = Execution(micro_batch_rows=1, recompute_layers=0, compile=True, device="cuda")
    with raises("trace-of-compiled", "not compiled"):
        trace(RECIPE, SIZE, ROW_TOKENS, how, CARD)
    with raises("trace-of-compiled", "without DoRA"):
        trace(DORA, SIZE, ROW_TOKENS, how.model_copy(update={"compile": False}), CARD)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with raises("trace-needs-kernels", "liger_kernel and triton"):
        trace(RECIPE, SIZE, ROW_TOKENS, how.model_copy(update={"compile": False}), CARD)


def test_what_is_not_fused_capped_or_trains_embeddings_needs_more():
    how = Execution(micro_batch_rows=1, recompute_layers=0, recompute_cheap=True)
    plain = need_bytes(how)
    gemma = replace(SIZE, fused=False, capped=True)
    assert memory(RECIPE, replace(SIZE, fused=False), ROW_TOKENS, how)["activations"] > 1.5 * plain["activations"]
    assert not any(way.execution.recompute_cheap for way in candidates(RECIPE, gemma, ROW_TOKENS, CARD))
    pairs = 36 * 32 * ROW_TOKENS**2
    capped = memory(RECIPE, gemma, ROW_TOKENS, how)["activations"]
    assert capped - memory(RECIPE, replace(gemma, capped=False), ROW_TOKENS, how)["activations"] == 10 * pairs
    adapter = RECIPE.adapter.model_dump() | {"modules_to_save": ["embed_tokens", "lm_head"]}
    saved = need_bytes(how, adapter=adapter)
    in_fp32 = 2 * 4096 + 4096 + 1024  # of a layer and token: residuals, q and k as they are rotated
    assert saved["activations"] - plain["activations"] == ROW_TOKENS * 2 * (36 * in_fp32 + 2 * 4096)
    assert saved["working set"] - plain["working set"] > 6 * 151_936 * 4096 - 2**28, "a gradient, a copy in 16 bits"


def test_a_plan_says_where_it_would_need_a_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(RECIPES.parent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for option in ("--trace", "--all"):
        assert cli.main(["plan", "--size", "8b", option, "--out", str(tmp_path / "run")]) == 2
        assert "[plan-without-card]" in capsys.readouterr().err
    words = ["plan", "--size", "0.6b", "--card", "H100", "--out", str(tmp_path / "run")]
    settings = [f"{name}.{key}" for name in ("phase1", "phase2") for key in ("adapter=none", "quantisation=none")]
    assert cli.main([*words[:1], *settings, *words[1:]]) == 0
    assert "596.0 M trained (all)" in capsys.readouterr().out
    assert cli.main(["plan", "--model", "Qwen/Qwen3-8B-Base", "--card", "4090", "--out", str(tmp_path / "run")]) == 0
    assert "Qwen/Qwen3-8B-Base (as asked, with the recipes of nano" in capsys.readouterr().out


def test_products_in_float8_are_refused_where_they_cannot_be():
    fp8, hopper = recipes.update(RECIPE, products="fp8"), card_named("H100")

    def choose_for(card: Card, size: ModelSize = SIZE, **changes) -> Execution:
        return execution.choose(recipes.update(fp8, **changes), size, ROW_TOKENS, card)

    for old in ("A100", "3090", "T4", "A10G"):
        with raises("fp8-card-too-old", old, "8.9"):
            choose_for(card_named(old))
    with raises("fp8-card-too-old", "--card"):
        choose_for(CARD)
    for name in ("L4", "4090", "H200", "5090"):
        choose_for(card_named(name))
    full = {"adapter": "none", "quantisation": "none"}
    for changes, words in (
        (full, "no adapter"),
        ({"adapter": DORA.adapter.model_dump()}, "adapter.dora=true"),
        ({"execution": {"compile": True}}, "execution.compile=true"),
        ({"compute_dtype": "float16"}, "compute_dtype=float16"),
        ({"compute_dtype": "float32"}, "compute_dtype=float32"),
        ({"size": replace(SIZE, fused=False)}, "not fused"),
        ({"size": replace(SIZE, intermediate=12_280)}, "no multiple of 16"),
    ):
        with raises("fp8-not-possible", words):
            choose_for(hopper, **changes)
    for dtype in ("float32", "bfloat16"):
        assert choose_for(Card(), replace(SIZE, intermediate=12_280), compute_dtype=dtype).device == "cpu"
    with raises("fp8-not-possible", "float16"):
        choose_for(Card(), compute_dtype="float16")


@pytest.mark.parametrize(
    ("name", "times"), [("H200", 1.4), ("5090", 1.4), ("H100", 1.3), ("4090", 1.3), ("L40S", 1.2), ("L4", 1.1)]
)
def test_how_much_faster_float8_is_predicted_to_be_is_what_docs_say(name, times):
    seconds, card = [], card_named(name)
    for recipe in (RECIPE, recipes.update(RECIPE, products="fp8")):
        how = execution.choose(recipe, SIZE, ROW_TOKENS, card)
        seconds.append(execution.seconds_per_token(recipe, SIZE, ROW_TOKENS, how, card))
    assert seconds[0] / seconds[1] == pytest.approx(times, abs=0.05)


def test_the_plan_counts_on_float8(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: SimpleNamespace(free=200 * GIB))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fp8, speed = recipes.update(RECIPE, products="fp8"), cards.CARDS["H200"]
    how = Execution(micro_batch_rows=4, recompute_layers=0, recompute_cheap=False, dequantised=True, device="cuda")
    plain, work = (cost.work(recipe, SIZE, ROW_TOKENS, how) for recipe in (RECIPE, fp8))
    assert work.flops[cost.FP8_PRODUCTS] == plain.flops["products"]
    assert "products" not in work.flops
    assert cost.roofline_s(work, speed._replace(tflops=speed.tflops / 2)) > cost.roofline_s(work, speed)
    assert 1.3 < cost.seconds(plain, speed) / cost.seconds(work, speed) < 1.6
    copies = need_bytes(how, products="fp8")["weights"] - need_bytes(how)["weights"]
    assert copies == pytest.approx(SIZE.linear_params * execution.NF4_BYTES[True], rel=1e-6)
    remember_speed("H200", SIZE, 9_000.0)
    assert known_speed("H200", "fp8") is None
    remember_speed("H200", SIZE, 12_000.0, "fp8")
    assert known_speed("H200", "fp8")["flops"] > known_speed("H200")["flops"]
    monkeypatch.chdir(RECIPES.parent)
    words = ["plan", "--size", "8b", "phase1.products=fp8", "--card", "H200", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "products of frozen weights in float8, NF4 weights held in float8 too" in printed
    assert "12,000 tokens/s (as measured" in printed
    assert printed.count("9,000 tokens/s") == 1, "of phase 2, which has no float8 here"
    for phase in ("phase1", "phase2"):
        words = ["plan", "--size", "8b", f"{phase}.products=fp8", "--card", "A100", "--out", str(tmp_path / "run")]
        assert cli.main(words) == 2
        assert "[fp8-card-too-old]" in capsys.readouterr().err
