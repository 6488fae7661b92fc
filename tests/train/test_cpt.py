"""The run as a whole, on a pico model: losses, resume, accounting, and its refusals."""

import json
import shutil
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing

from nsllm_lite.artifact.json_files import read_json, read_lines, write_json
from nsllm_lite.formats.rows import Rows, RowTotals, write_rows
from nsllm_lite.formats.tokenizer import load_tokenizer
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.kernels.linear_cross_entropy import linear_cross_entropy_reference
from nsllm_lite.merge.write_model import merge
from nsllm_lite.models.causal import PackedLM, collate
from nsllm_lite.models.lora import add_adapter, saved_parameters
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Execution, Schedule, Train
from nsllm_lite.train import checkpoint, cpt, samples, setup
from nsllm_lite.train.inputs import read_inputs
from nsllm_lite.train.order import StepOrder, plan_replay, shuffled
from tests.conftest import ROW_TOKENS
from tests.merge.make import edit_json, edit_tensors, make_recipe
from tests.models.make import add_lora, load_plain
from tests.raising import raises

GOLDEN = Path(__file__).parent / "golden_losses.txt"
SHORT = {"steps": 4, "tokens_per_step": 4 * ROW_TOKENS, "tokens": 16 * ROW_TOKENS}
SAMPLED = {"count": 1, "prompt_tokens": 4, "new_tokens": 4}


def metrics(out: Path | str, having: str = "step") -> list[dict]:
    """The lines of metrics.jsonl that have such a key: "loss" of steps, "heldout" of evaluations."""
    return [line for line in read_lines(Path(out) / "metrics.jsonl") if having in line]


def step_losses(out: Path | str) -> list[float]:
    return [line["loss"] for line in metrics(out, "loss")]


def assert_same_run(one: Path | str, other: Path | str) -> None:
    for name in ("metrics.jsonl", "adapter/adapter_model.safetensors"):
        assert (Path(one) / name).read_bytes() == (Path(other) / name).read_bytes(), name


def tie(base: Path) -> Path:
    """The model in `base`, with its head tied to its embeddings."""
    edit_json(base / "config.json", tie_word_embeddings=True)
    edit_tensors(base / "model.safetensors", lambda tensors: tensors.pop("lm_head.weight"))
    return base


def test_a_run_learns_and_leaves_everything_it_should(pico, pico_recipe):
    asked = pico_recipe(model=str(pico / "deep"), samples=SAMPLED)
    results = cpt.train(asked)
    out = Path(asked.out)
    assert step_losses(out) == pytest.approx([float(line) for line in GOLDEN.read_text().split()], abs=1e-4)
    before, after = results["heldout"]["before"], results["heldout"]["after"]
    assert after["domain"]["all"]["loss"] < before["domain"]["all"]["loss"] - 0.02
    assert set(before["domain"]) == {"papers", "all"}
    assert set(before["general"]) == {"general", "all"}
    assert [line["step"] for line in metrics(out, "heldout")] == [0, 4, 8, 12]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-000008", "step-000012"]
    assert not {path.name for path in out.iterdir()} & {"tensorboard", "wandb"}, "nothing is tracked unasked"
    for name in ("manifest.json", "times.json", "loss.png", "samples.md", "adapter/adapter_model.safetensors"):
        assert (out / name).stat().st_size > 0, name
    assert read_json(out / "adapter/training.json")["base_fingerprint"] == fingerprint_weights(pico / "deep")
    targets = read_json(out / "adapter/adapter_config.json")["target_modules"]
    assert targets == sorted(targets), "the same bytes in every process"
    tensors = load_file(out / "adapter/adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert all(t.abs().max() > 0 for t in tensors.values()), "every LoRA tensor has moved"
    # every token of every row is accounted for
    order = cpt.step_order(asked, cpt.read_inputs(asked))
    rows = [row for step in range(12) for row in order.rows(step)]
    assert results["tokens"] == sum(len(row.input_ids) for row in rows)
    replayed = [row for row in rows if row.doc_sources[0] == "general"]
    assert len(replayed) == int(12 * 4 * 0.15)
    assert results["domain_tokens"] == results["tokens"] - sum(len(row.input_ids) for row in replayed)
    # a second call does nothing, another recipe is not written over it
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert cpt.train(asked) == results
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    with raises("finished-result-differs", out, "recipe.seed"):
        cpt.train(pico_recipe(seed=4))


def test_execution_does_not_change_the_losses(pico_recipe, tmp_path):
    """How the rows of a step, uneven and with replay, are cut; what is recomputed; how the weights are held."""
    losses, means = {}, {}
    for name, change in (
        ("plain", {}), ("1 x 4", {"micro_batch_rows": 4}), ("4 x 1", {"micro_batch_rows": 1}),
        ("cheap", {"recompute_cheap": True}), ("layers", {"recompute_layers": 1}), ("held", {"dequantised": True}),
    ):  # fmt: skip
        out, how = tmp_path / name, {"device": "cpu", "micro_batch_rows": 2, **change}
        cpt.train(pico_recipe(out=str(out), budget=SHORT, execution=how))
        losses[name], means[name] = step_losses(out), read_json(out / "adapter/nf4.json")
        assert read_json(out / "execution.json").items() >= how.items()
    assert losses["4 x 1"][0] == pytest.approx(losses["1 x 4"][0], rel=1e-6)
    assert losses["4 x 1"] == pytest.approx(losses["1 x 4"], rel=2e-5)
    assert losses["4 x 1"] == pytest.approx(losses["plain"], rel=2e-5)
    assert losses["4 x 1"] != losses["1 x 4"]  # they really were computed differently
    assert (losses["held"], means["held"]) == (losses["plain"], means["plain"])
    for name in ("cheap", "layers"):
        assert losses[name][0] == pytest.approx(losses["plain"][0], rel=2e-5)


def test_a_run_with_compiled_layers(pico_recipe, tmp_path, monkeypatch, capsys):
    """That they are, and what goes with it; what compiling changes is seen in tests/kernels/test_fused_layers.py."""
    compiled, compiler = [], torch.compile

    def watched(function=None, **options):
        if getattr(function, "__module__", None) != "nsllm_lite.kernels.fused_layers":
            return compiler(function, **options)  # of bitsandbytes
        compiled.append(function.__name__)
        return function

    monkeypatch.setattr(torch, "compile", watched)
    losses = {}
    for asked in (None, True):
        out, budget = tmp_path / str(asked), {"steps": 3, "tokens_per_step": 256, "tokens": 768}
        values = {"device": "cpu", "micro_batch_rows": 2, "compile": asked}
        run_recipe = pico_recipe(out=str(out), budget=budget, execution=values)
        cpt.train(run_recipe)
        losses[asked] = step_losses(out)
        frozen = read_json(out / "execution.json")
        assert (frozen["compile"], frozen["dequantised"]) == (bool(asked), bool(asked))
    assert compiled == ["before_attention", "after_attention"], "in the second run only"
    assert losses[True] == pytest.approx(losses[None], rel=2e-5)

    del frozen["compile"]  # as an earlier version wrote it
    (out / "execution.json").write_text(json.dumps(frozen))
    capsys.readouterr()
    del frozen["card"]
    setup.freeze_execution(out, "CPU", Execution(**frozen, compile=True))
    assert not capsys.readouterr().out
    setup.freeze_execution(out, "CPU", Execution(**frozen, compile=False))
    assert "compile True -> False" in capsys.readouterr().out

    monkeypatch.setattr(setup, "use_fused_layers", lambda *args, **options: 0)
    with raises("train-layers-not-compilable", "Qwen3ForCausalLM"):
        cpt.train(recipes.update(run_recipe, out=str(tmp_path / "other")))


SAVED = {"adamw": {"modules_to_save": ["embed_tokens", "lm_head"]}, "adamw8bit": {"dora": True}}


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", pytest.param("paged_adamw8bit", marks=pytest.mark.slow)])
def test_a_stopped_run_continues_bit_for_bit(pico_recipe, tmp_path, stop_before, optimizer):
    changes = {
        "budget": {"steps": 6, "tokens_per_step": 256, "tokens": 6 * 256},
        "optimizer": pico_recipe().optimizer.model_dump() | {"name": optimizer},
        # from 4,096 elements on, 8-bit states really are 8-bit
        "adapter": pico_recipe().adapter.model_dump() | {"rank": 64} | SAVED.get(optimizer, {}),
    }
    whole, broken = (pico_recipe(out=str(tmp_path / name), **changes) for name in ("whole", "broken"))
    cpt.train(whole)
    stop_before(cpt.train, broken, 6)
    cpt.train(broken)
    state = load_file(Path(whole.out) / "checkpoints/step-000006/optimizer.safetensors")
    assert any(t.dtype == torch.uint8 for t in state.values()) == (optimizer != "adamw")
    assert_same_run(whole.out, broken.out)
    trained = load_file(Path(whole.out) / "adapter/adapter_model.safetensors")
    assert sum("magnitude" in name for name in trained) == (7 if optimizer == "adamw8bit" else 0), "of DoRA"


def test_products_in_float8_are_part_of_what_is_trained(pico_recipe, tmp_path, stop_before, capsys):
    """They change the losses a little, and the adapter; not what is held out, nor that a run continues bit for bit."""
    names = ("plain", "whole", "broken", "held")
    plain, whole, broken, held = (
        pico_recipe(out=str(tmp_path / name), budget=SHORT, products=None if name == "plain" else "fp8")
        for name in names
    )
    cpt.train(plain)
    cpt.train(whole)
    assert "emulated" in capsys.readouterr().out
    stop_before(cpt.train, broken, 3)
    cpt.train(broken)
    cpt.train(recipes.update(held, execution={**held.execution.model_dump(), "dequantised": True}))
    for out in (broken.out, held.out):
        assert_same_run(whole.out, out)
    assert step_losses(whole.out) == pytest.approx(step_losses(plain.out), rel=1e-2)
    assert not set(step_losses(whole.out)) & set(step_losses(plain.out))
    first, other = (metrics(out, "heldout")[0] for out in (plain.out, whole.out))
    assert first == other, "evaluated without float8"
    assert read_json(Path(whole.out) / "adapter/training.json")["products"] == "fp8"
    with raises("finished-result-differs", "recipe.products"):
        cpt.train(recipes.update(whole, products="none"))
    edit_json(Path(plain.out) / "manifest.json", recipe={**recipes.identity(plain), "products": None})
    manifest = read_json(Path(plain.out) / "manifest.json")
    del manifest["recipe"]["products"]  # as an earlier version left it
    write_json(Path(plain.out) / "manifest.json", manifest)
    assert cpt.train(plain) == manifest["results"]


ONE_STEP = {
    "budget": {"steps": 1, "tokens_per_step": 256, "tokens": 256},
    "schedule": {"shape": "constant", "warmup_steps": 0},
}


def grad_norm_and_change(out: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Of a run of one step: the logged norm of its gradient, and LoRA's B, which was zero before."""
    (norm,) = (line["grad_norm"] for line in metrics(out, "loss"))
    trained = load_file(out / "checkpoints/step-000001/trained.safetensors")
    return norm, {name: tensor for name, tensor in trained.items() if "lora_B" in name}


def use_sgd(monkeypatch) -> None:
    """Whose step is as long as the gradient; Adam's is as long whatever the gradient is multiplied by."""
    monkeypatch.setattr(setup, "make_optimizer", lambda recipe, groups: torch.optim.SGD(groups))


def assert_clipped(whole: Path, clipped: Path, share: float) -> None:
    norm, change = grad_norm_and_change(whole)
    same_norm, clipped_change = grad_norm_and_change(clipped)
    assert same_norm == norm, "the log tells the norm before clipping"
    assert len(change) == 7
    assert all(tensor.any() for tensor in change.values())
    assert all(torch.allclose(clipped_change[n], share * change[n], rtol=1e-4, atol=0) for n in change)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float16"])
def test_a_long_gradient_is_clipped_and_its_norm_logged_as_it_was(pico_recipe, tmp_path, monkeypatch, dtype):
    """fp16 multiplies its losses: the norm is that of the gradient itself."""

    def one_step(name: str, max_grad_norm: float, **changes) -> Path:
        optimizer = pico_recipe().optimizer.model_dump() | {"max_grad_norm": max_grad_norm}
        cpt.train(pico_recipe(out=str(tmp_path / name), optimizer=optimizer, **ONE_STEP, **changes))
        return tmp_path / name

    adam = one_step("adam", 1e-7, compute_dtype=dtype)  # at which the epsilon of Adam, 1e-8, counts
    use_sgd(monkeypatch)
    whole = one_step("whole", 1e9, compute_dtype=dtype)
    norm, change = grad_norm_and_change(whole)
    assert norm == pytest.approx(grad_norm_and_change(one_step("fp32", 1e9))[0], rel=1e-2)
    assert_clipped(whole, one_step("clipped", norm / 1000, compute_dtype=dtype), 1 / 1000)

    settings = pico_recipe().optimizer
    for name, found in grad_norm_and_change(adam)[1].items():
        expected = torch.nn.Parameter(torch.zeros_like(found))
        expected.grad = change[name] / -settings.learning_rate * (1e-7 / norm)
        torch.optim.AdamW([expected], lr=settings.learning_rate, betas=settings.betas).step()
        assert torch.allclose(found, expected, rtol=1e-3, atol=0)


def test_forgetting_stops_the_run_and_a_higher_limit_continues_it(pico_recipe, tmp_path, capsys):
    evaluation = pico_recipe().evaluation.model_dump() | {"every_steps": 4}
    optimizer = pico_recipe().optimizer.model_dump() | {"learning_rate": 0.1}
    budget = {"steps": 6, "tokens_per_step": 256, "tokens": 6 * 256}
    changes = {"optimizer": optimizer, "checkpoint_steps": 2, "budget": budget}

    def asked(name: str, **gate) -> Train:
        return pico_recipe(out=str(tmp_path / name), evaluation={**evaluation, **gate}, **changes)

    whole = asked("whole")
    cpt.train(whole)
    losses = [line["heldout"]["general"]["all"]["loss"] for line in metrics(whole.out, "heldout")]
    limit = (losses[1] - losses[0]) / 2
    assert limit > 0, "this rate forgets"
    with raises("forgetting-above-limit", "Step 4", f"{limit:g}", "step-000002"):
        cpt.train(asked("gated", max_general_loss_increase=limit))
    assert not (tmp_path / "gated/manifest.json").exists()
    cpt.train(asked("gated", max_general_loss_increase=1e6))
    assert_same_run(tmp_path / "gated", whole.out)
    capsys.readouterr()
    cpt.train(asked("warned", max_general_loss_increase=limit, when_forgetting="warn"))
    assert f"{losses[1] - losses[0]:.3f} nats, more than the {limit:g}" in capsys.readouterr().out


def test_fp16_learns_and_resumes_exactly(pico_recipe, tmp_path, monkeypatch):
    """As on a card without bfloat16. A step that overflows is done again with a smaller scale: none is lost."""
    scaler = torch.amp.GradScaler
    scales = []

    class Watched(scaler):
        def __init__(self, device, enabled):
            super().__init__(device, init_scale=2.0**30, enabled=enabled)

        def update(self):
            super().update()
            scales.append(self.get_scale())

    monkeypatch.setattr(torch.amp, "GradScaler", Watched)
    steps = {"budget": {"steps": 8, "tokens_per_step": 256, "tokens": 8 * 256}, "checkpoint_steps": 4}
    steps["evaluation"] = pico_recipe().evaluation.model_dump() | {"every_steps": 8}
    whole = pico_recipe(compute_dtype="float16", **steps)
    cpt.train(whole)
    assert [line["step"] for line in metrics(whole.out, "loss")] == list(range(1, 9))
    assert scales[0] == 2.0**29, "the first scale overflows"
    assert len(scales) > 8
    reference = pico_recipe(out=str(tmp_path / "fp32"), **steps)
    cpt.train(reference)
    assert step_losses(whole.out) == pytest.approx(step_losses(reference.out), rel=5e-3)

    broken = Path(shutil.copytree(whole.out, tmp_path / "broken"))
    for path in (broken / "adapter", broken / "checkpoints/step-000008"):
        shutil.rmtree(path)
    (broken / "manifest.json").unlink()
    cpt.train(recipes.update(whole, out=str(broken)))
    assert_same_run(broken, whole.out)


def test_a_model_built_from_nothing(pico, pico_recipe, tmp_path):
    shutil.copytree(pico / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer/chat_template.jinja").write_text("{{ messages }}")
    asked = pico_recipe(
        model=None,
        build={"tokenizer": str(tmp_path / "tokenizer"), "hidden_size": 32, "intermediate_size": 48, "num_layers": 1,
               "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "tied_embeddings": True},
        adapter="none", quantisation="none", replay="none",
    )  # fmt: skip
    results = cpt.train(asked)
    assert results["last_loss"] < results["first_loss"]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.from_pretrained(Path(asked.out) / "model").config.tie_word_embeddings
    tokenizer = AutoTokenizer.from_pretrained(Path(asked.out) / "model")
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("<0>", "{{ messages }}")


def test_samples_are_greedy_whatever_the_model_says_of_itself(pico):
    lm = PackedLM(load_plain(pico / "base"))
    plain = samples.continuations(lm, [[5, 6]], 12, 0)
    own = lm.causal_lm.generation_config
    own.repetition_penalty, own.num_beams, own.stop_strings = 50.0, 3, ["a"]
    assert samples.continuations(lm, [[5, 6]], 12, 0) == plain
    assert lm.causal_lm.generation_config is own


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(pico_recipe, tmp_path):
    whole = pico_recipe(budget=SHORT)
    cpt.train(whole)
    out = Path(whole.out)
    (out / "manifest.json").unlink()
    for path in (out / "checkpoints").glob("*/trained.safetensors"):
        path.write_bytes(path.read_bytes()[:-8])
    before = (out / "metrics.jsonl").read_bytes()
    with raises("checkpoints-all-damaged", out / "checkpoints"):
        cpt.train(whole)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_a_damaged_later_checkpoint_does_not_push_out_the_good_ones(tmp_path):
    lm = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(lm.parameters())
    for step in (4, 6, 7):
        checkpoint.save(tmp_path, step, lm, optimizer, {})
    (tmp_path / "step-000006/rng.safetensors").write_bytes(b"")
    (tmp_path / "step-000007/optimizer.safetensors").write_bytes(b"")
    checkpoint.rotate(tmp_path, 7, keep=1)
    left = ["step-000004", "step-000006", "step-000007"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left, "damaged ones do not count"
    (tmp_path / "step-000008.part").mkdir()
    checkpoint.save(tmp_path, 2, lm, optimizer, {})
    checkpoint.rotate(tmp_path, 4, keep=1)
    assert checkpoint.newest(tmp_path) == tmp_path / "step-000004"
    checkpoint.save(tmp_path, 5, lm, optimizer, {})
    checkpoint.rotate(tmp_path, 5, keep=1)
    assert checkpoint.newest(tmp_path) == tmp_path / "step-000005"
    checkpoint.save(tmp_path, 6, lm, optimizer, {})  # in the damaged one's place
    shutil.rmtree(tmp_path / "step-000007")
    checkpoint.rotate(tmp_path, 6, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000006"]
    assert checkpoint.newest(tmp_path) == tmp_path / "step-000006"
    for step in (999_999, 1_000_000):  # one digit more
        checkpoint.save(tmp_path, step, lm, optimizer, {})
    checkpoint.rotate(tmp_path, 1_000_000, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1000000"]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow), "float16"])
def test_a_non_finite_loss_stops_before_the_step(pico_recipe, spoil_in, dtype):
    """The step is named, its documents too, and the last good checkpoint stays."""
    spoil_in(6)
    asked = pico_recipe(compute_dtype=dtype)
    with raises("train-loss-not-finite", "Step 6: loss nan", "step-000004", "papers-"):
        cpt.train(asked)
    rows = cpt.step_order(asked, cpt.read_inputs(asked)).rows(5)
    named = read_json(Path(asked.out) / "nonfinite.json")
    assert named == {"step": 6, "documents": [name for row in rows for name in row.doc_ids]}
    kept = load_file(checkpoint.newest(Path(asked.out) / "checkpoints") / "trained.safetensors")
    assert all(torch.isfinite(t).all() for t in kept.values())
    assert not (Path(asked.out) / "manifest.json").exists()


def test_inputs_that_do_not_fit(pico, pico_recipe, tmp_path, monkeypatch):
    with raises("rows-missing", tmp_path / "absent"):
        cpt.train(pico_recipe(rows=str(tmp_path / "absent")))
    write_rows(tmp_path / "empty", [], RowTotals(64, 0, "tokenizer-hash"))
    with raises("train-rows-empty", tmp_path / "empty"):
        cpt.train(pico_recipe(rows=str(tmp_path / "empty")))
    limited = {"general_rows": str(tmp_path / "empty"), "max_general_loss_increase": 0.1}
    with raises("forgetting-no-general-rows", tmp_path / "empty"):
        cpt.train(pico_recipe(out=str(tmp_path / "out2"), evaluation=pico_recipe().evaluation.model_dump() | limited))
    for key, name in (("domain_rows", "papers"), ("general_rows", "general")):
        seen = pico_recipe().evaluation.model_dump() | {key: str(pico / "rows" / name / "train")}
        with raises("train-heldout-trained-on", pico / "rows" / name / "train"):
            cpt.train(pico_recipe(out=str(tmp_path / "out3"), evaluation=seen))
    row = Rows(pico / "rows/papers/train")[0]
    write_rows(tmp_path / "other", [row], RowTotals(64, 0, "another-tokenizer"))
    with raises("train-tokenizers-differ", tmp_path / "other"):
        cpt.train(pico_recipe(rows=str(tmp_path / "other")))
    row.input_ids[0] = 5000
    for name in ("papers/heldout", "general/heldout"):
        write_rows(tmp_path / "big" / name, [row], RowTotals(64, 0, "another"))
    evaluation = {"domain_rows": str(tmp_path / "big/papers/heldout"), "every_steps": 4, "max_rows": 8,
                  "general_rows": str(tmp_path / "big/general/heldout")}  # fmt: skip
    with raises("rows-token-unknown", 5000, 300):
        cpt.train(pico_recipe(rows=str(tmp_path / "big/papers/heldout"), evaluation=evaluation, replay="none"))
    with raises("train-tokens-per-step", 100, 64):
        cpt.train(pico_recipe(budget={"steps": 3, "tokens_per_step": 100, "tokens": 300}))
    with raises("model-not-found", tmp_path / "model1"):
        cpt.train(pico_recipe(model=str(tmp_path / "model1")))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    with raises("disk-too-small", "checkpoints and the result"):
        cpt.train(pico_recipe())


def test_a_corpus_of_another_vocabulary_is_refused(pico, pico_recipe, tmp_path):
    """The same number of tokens, two of them swapped: nothing but the vocabularies tells."""
    other = tmp_path / "other"
    shutil.copytree(pico / "base", other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"<7>": 7', '"<7>": 8').replace('"<8>": 8', '"<8>": 7'))
    assert (other / "tokenizer.json").read_text() != text
    with raises("train-vocabulary-differs", other):
        cpt.train(pico_recipe(model=str(other)))
    (other / "tokenizer.json").unlink()
    (other / "tokenizer_config.json").unlink()
    with raises("tokenizer-missing", other):
        cpt.train(pico_recipe(model=str(other)))


def test_rows_whose_texts_begin_otherwise_are_refused_unless_chosen(pico, pico_recipe, tmp_path, capsys):
    model, rows = tmp_path / "model", Path(shutil.copytree(pico / "rows", tmp_path / "rows"))
    shutil.copytree(pico / "base", model)
    opened = load_tokenizer(model)
    opened.post_processor = TemplateProcessing(single=["<7>", "$A"], special_tokens=[("<7>", 7)])
    opened.save(str(model / "tokenizer.json"))
    recipe = pico_recipe(model=str(model))
    with raises("train-begin-differs", "begin with nothing", "<7>"):
        read_inputs(recipe)

    def mark(folder: Path, ids: list[int], chosen: str) -> None:
        totals = read_json(folder / "rows.json") | {"begin_of_text_ids": ids, "begin_of_text": chosen}
        write_json(folder / "rows.json", totals)
        (folder / "files.json").unlink(missing_ok=True)

    folders = [path.parent for path in rows.rglob("rows.json")]
    moved = {"rows": str(rows / "papers/train"), "replay": None} | {
        "evaluation": recipe.evaluation.model_dump()
        | {"domain_rows": str(rows / "papers/heldout"), "general_rows": str(rows / "general/heldout")}
    }
    mark(rows / "papers/train", [7], "auto")
    with raises("train-begins-differ", rows / "papers/train"):
        read_inputs(pico_recipe(model=str(model), **moved))
    for chosen, ids in (("auto", [7]), ("none", [])):
        for folder in folders:
            mark(folder, ids, chosen)
        capsys.readouterr()
        read_inputs(pico_recipe(model=str(model), **moved))
        assert ("begin_of_text=none" in capsys.readouterr().out) == (chosen == "none")


def test_an_unfinished_run_is_not_continued_with_another_recipe(pico_recipe, stop_before):
    stop_before(cpt.train, pico_recipe(), 1)
    with raises("unfinished-run-differs", "recipe.seed"):
        cpt.train(pico_recipe(seed=9))


def test_the_order_is_a_function_of_seed_and_step(pico):
    papers, general = Rows(pico / "rows/papers/train"), Rows(pico / "rows/general/train")

    def ids(seed: int, steps) -> list[str]:
        order = StepOrder(papers, general, 8, Fraction(1, 10), seed)
        return [name for step in steps for row in order.rows(step) for name in row.doc_ids]

    assert ids(0, range(6)) == ids(0, range(3)) + ids(0, [3]) + ids(0, [4, 5])
    assert ids(0, range(6)) != ids(1, range(6))
    order = StepOrder(papers, general, 8, Fraction(1, 10), 0)
    rows = [row for step in range(50) for row in order.rows(step)]
    domain = [row.doc_ids[0] for row in rows if row.doc_sources[0] == "papers"]
    assert len(rows) - len(domain) == 40  # a tenth of 400
    epochs = [domain[start : start + 40] for start in range(0, 360, 40)]
    assert {len(set(epoch)) for epoch in epochs} == {40}, "each shows every row once"
    assert len(set(map(tuple, epochs))) == 9, "in an order of its own"
    assert order.epochs(50) == 9
    assert sum(order.replay_rows(step) for step in range(50)) == 40


def test_a_short_replay_does_not_make_the_order_of_the_domain_anew(monkeypatch):
    """Of millions of rows that takes longer than a step."""
    drawn, default_rng = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda key: drawn.append(tuple(key)) or default_rng(key))
    for step in range(20):
        shuffled(1_000, 3, 0, 10 * step, 10 * step + 10)
        shuffled(4, 3, 1, 6 * step, 6 * step + 6)  # ends an epoch in every step
    assert [key for key in drawn if key[1] == 0] == [(3, 0, 0)]
    assert len(drawn) > 20


def test_replay_does_not_repeat_too_often(pico, pico_recipe, capsys):
    general = Rows(pico / "rows/general/train")
    assert plan_replay(0.05, 4, general, 1000) == Fraction(1, 20)
    assert plan_replay(0.5, 1, general, 1000) == Fraction(20, 1000)
    asked = pico_recipe(replay={"rows": str(general.path), "share": 0.5, "max_epochs": 0.5})
    cpt.step_order(asked, cpt.read_inputs(asked))
    assert "from 50.0% to 20.83%" in capsys.readouterr().out


def test_learning_rate():
    constant = Schedule(shape="constant", warmup_steps=4)
    assert [setup.lr_factor(constant, step, 10) for step in range(6)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    cosine = Schedule(shape="cosine", warmup_steps=0, final_share=0.1)
    factors = [setup.lr_factor(cosine, step, 100) for step in range(100)]
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx(0.55)
    assert 0.1 < factors[99] < 0.101
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_and_head_train_whole_with_the_fused_loss(pico, pico_recipe, tmp_path, tied):
    base = Path(shutil.copytree(pico / "base", tmp_path / "base"))
    if tied:
        tie(base)
    saved = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    asked = pico_recipe(
        model=str(base),
        adapter=pico_recipe().adapter.model_dump() | {"modules_to_save": saved, "rslora": True},
        optimizer=pico_recipe().optimizer.model_dump() | {"embedding_learning_rate": 1e-4},
        budget=SHORT,
    )
    cpt.train(asked)
    trained = load_file(Path(asked.out) / "adapter/adapter_model.safetensors")
    before = load_file(base / "model.safetensors")
    for name in ("model.embed_tokens.weight", *([] if tied else ["lm_head.weight"])):
        change = (trained[f"base_model.model.{name}"] - before[name]).abs().max().item()
        assert 1e-4 < change < 4 * 1e-4 * 1.5, "four steps of AdamW at the embeddings' own rate"
    merged = merge(make_recipe(base, f"{asked.out}/adapter", tmp_path / "merged", execution={"verify": True}))
    assert not merged["untied_embeddings"]
    assert merged["num_replaced"] == len(saved)


def test_gradients_of_a_trained_head_and_embeddings_are_those_of_the_plain_loss(pico, pico_recipe):
    saved = ["embed_tokens", "lm_head"]
    lm = PackedLM(add_lora(load_plain(pico / "base", "nf4"), ["q_proj"], modules_to_save=saved))
    batch = collate([Rows(pico / "rows/papers/train")[0]], "cpu")

    def gradients(loss):
        lm.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in saved_parameters(lm).items()}

    fused = gradients(lm(batch))
    plain = gradients(linear_cross_entropy_reference(lm.hidden(batch), lm.head_VH, batch.targets))
    assert len(fused) == 2
    assert all(torch.allclose(fused[name], plain[name], rtol=1e-4, atol=1e-6) for name in fused)
    assert all(grad.any() for grad in fused.values())


def test_the_head_of_tied_embeddings_is_not_trained_alone(pico, pico_recipe, tmp_path):
    base = tie(Path(shutil.copytree(pico / "base", tmp_path / "base")))
    adapter = pico_recipe().adapter.model_dump() | {"modules_to_save": ["lm_head"]}
    with raises("adapter-head-tied", "embed_tokens"):
        cpt.train(pico_recipe(model=str(base), adapter=adapter))


def test_a_tensor_that_no_gradient_reaches_stops_the_run(pico_recipe, monkeypatch):
    """As where a layer is skipped, or a fused kernel forgets one of its inputs."""
    add = add_adapter

    def with_one_loose(*args):
        peft_model = add(*args)
        peft_model.loose = torch.nn.Parameter(torch.ones(3))
        return peft_model

    monkeypatch.setattr(setup, "add_adapter", with_one_loose)
    with raises("train-no-gradient", "model.loose (1 "):
        cpt.train(pico_recipe())
