"""Instruction tuning on a pico model: whose loss counts, what is left out, TRL's losses, resume, merge, refusals."""

import json
import os
import shutil
import signal
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoTokenizer

from nsllm_lite.artifact import interrupts
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.corpus.tokenizer import train_tokenizer
from nsllm_lite.formats.tokenizer import load_tokenizer
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.kernels.linear_cross_entropy import IGNORE
from nsllm_lite.merge.write_model import merge
from nsllm_lite.models.causal import PackedLM
from nsllm_lite.models.loading import build_base
from nsllm_lite.models.lora import add_adapter
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import ModelShape
from nsllm_lite.tasks.items import plain_prompt
from nsllm_lite.train import sft as tuning
from nsllm_lite.train.conversations import LeftOutError, Reader
from nsllm_lite.train.examples import Example, collate, read_examples
from nsllm_lite.train.template import Template
from tests.conftest import SHAPE, pico_values
from tests.corpus.small import write_lines
from tests.merge.make import make_recipe
from tests.models.make import load_plain
from tests.raising import assert_error, raises
from tests.train.test_against_trl import trl_losses
from tests.train.test_cpt import assert_clipped, assert_same_run, grad_norm_and_change, metrics, step_losses, use_sgd

DATA = Path(__file__).parents[1] / "data"
END = "<|endoftext|>"
TURN = "<|im_end|>"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NOUNS = ("stone", "river", "cloud", "light", "plant", "metal", "sound", "glass", "ocean", "field")
COLOURS = {"stone": "grey", "river": "blue", "cloud": "white", "light": "yellow", "plant": "green"}


def record(number, **changes):
    noun = NOUNS[number % 5]
    text = f"The {noun} number {number} lies near the {NOUNS[5 + number % 3]}."
    values = {"id": f"r{number}", "instruction": "Which colour has it?", "input": text, "output": COLOURS[noun]}
    return values | changes


def chat(*contents, system=None):
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]
    return {"messages": [{"role": "system", "content": system}, *messages] if system else messages}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("sft"))


def make_home(root: Path, num_layers: int = SHAPE["num_layers"]) -> Path:
    """A base model that reads text, and instruction files train/ and test/, in the folder `root`."""
    texts = [plain_prompt(r["instruction"], r["input"]) + r["output"] for r in map(record, range(60))]
    train_tokenizer(texts, 350, END, root / "tokenizer")
    settings = json.loads((root / "tokenizer/tokenizer_config.json").read_text())
    tokenizer = load_tokenizer(root / "tokenizer")
    tokenizer.add_special_tokens(["<|im_start|>", TURN])
    tokenizer.save(str(root / "tokenizer/tokenizer.json"))
    shape = ModelShape(**{**SHAPE, "num_layers": num_layers}, tokenizer=str(root / "tokenizer"))
    base = build_base(shape, root / "tokenizer", tokenizer.token_to_id(END), seed=1)
    for name, changes in (("base", {}), ("chat", {"chat_template": CHATML})):
        base.save_pretrained(root / name)
        (root / name / "tokenizer.json").write_text((root / "tokenizer/tokenizer.json").read_text())
        (root / name / "tokenizer_config.json").write_text(json.dumps(settings | changes))
    for split, numbers in (("train", range(40)), ("test", range(40, 50))):
        write_lines(root / split / "colours.jsonl", [record(n, document=f"d{n // 5}") for n in numbers])
        write_lines(root / split / "places.jsonl", [record(100 + n, output="near the river") for n in numbers][:10])
    return root


def sft_values(home: Path, out: Path) -> dict:
    """A complete QLoRA tuning recipe on the pico model, as plain values."""
    adopted = pico_values(home, out)
    kept = ("quantisation", "double_quantisation", "compute_dtype", "adapter", "optimizer", "schedule", "seed")
    return {name: adopted[name] for name in kept} | {
        "kind": "sft", "out": str(out), "model": str(home / "base"), "data": [str(home / "train")],
        "heldout": [str(home / "test")], "template": "plain", "end_of_text": END, "max_tokens": 200,
        "max_left_out_share": 0.1, "steps": 12, "examples_per_step": 8, "evaluate_steps": 6,
        "max_heldout_examples": 100, "samples": {"count": 2, "new_tokens": 4}, "checkpoint_steps": 4,
        "keep_checkpoints": 2, "execution": {"device": "cpu", "micro_batch_rows": 4},
    }  # fmt: skip


@pytest.fixture
def asked(home, tmp_path):
    """A function from changes to a complete QLoRA tuning recipe on the pico model."""
    return lambda **changes: recipes.validate({**sft_values(home, tmp_path / "out"), **changes}, "pico recipe")


def template_of(home, kind, end=None):
    folder = home / ("chat" if kind == "chat" else "base")
    default = TURN if kind == "chat" else END
    return Template(kind, end or default, load_tokenizer(folder), AutoTokenizer.from_pretrained(folder))


def examples_of(home, tmp_path, records, kind="plain", max_tokens=200) -> tuple[list[Example], dict]:
    path = write_lines(tmp_path / "given.jsonl", records)
    examples, ledger = read_examples([path], template_of(home, kind), max_tokens)
    return examples, ledger.counts().get("given")


# ---------------------------------------------------------------------------------------------------- the whole run


def test_a_run_learns_to_answer_and_leaves_everything_it_should(home, asked, monkeypatch, capsys):
    from trl.trainer import base_trainer

    monkeypatch.delenv("CI", raising=False)  # with it TRL sends nothing anyway
    sent = []
    monkeypatch.setattr(base_trainer, "send_telemetry", lambda *args, **kwargs: sent.append(args), raising=False)
    recipe_ = asked()
    results = tuning.sft(recipe_)
    out = Path(recipe_.out)
    assert not sent
    before, after = (results["heldout"][when]["answers"] for when in ("before", "after"))
    assert set(before) == {"all", "colours", "places"}
    assert all(after[source]["loss"] < before[source]["loss"] - 0.5 for source in before)
    assert [line["step"] for line in metrics(out, "heldout")] == [0, 6, 12]
    steps = metrics(out, "loss")
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert all(a["tokens"] < b["tokens"] for a, b in pairwise(steps))
    assert results["tokens"] == steps[-1]["tokens"]
    assert results["epochs"] == pytest.approx(12 * 8 / 50)
    for name in ("manifest.json", "times.json", "loss.png", "samples.md", "adapter/adapter_model.safetensors"):
        assert (out / name).stat().st_size > 0, name
    assert not [p for p in out.rglob("*") if p.suffix in (".pt", ".pth", ".bin", ".pkl")]
    assert "**Right:**\n\n> grey" in (out / "samples.md").read_text()
    assert read_json(out / "times.json")["train_tokens_per_s"] > 0
    assert read_json(out / "adapter/training.json")["base_fingerprint"] == fingerprint_weights(home / "base")
    tensors = load_file(out / "adapter/adapter_model.safetensors")
    assert all(t.dtype == torch.float32 and t.abs().max() > 0 for t in tensors.values())
    assert all(not torch.equal(t, t.bfloat16().float()) for t in tensors.values()), "trained in fp32, not in bf16"
    assert results["records"]["data"]["colours"] == {"in": 40, "used": 40, "left_out": {}}
    # a second call does nothing, another recipe is not written over it
    capsys.readouterr()
    assert tuning.sft(recipe_) == results
    assert f"{out}: finished" in capsys.readouterr().out
    with raises("finished-result-differs", recipe_.out, "recipe.seed"):
        tuning.sft(asked(seed=4))

    # the adapter merges as any other, and the merged model answers as adapter and base do
    merge(make_recipe(home / "base", out / "adapter", out / "merged", base_weights="dequantized", dtype="float32"))
    scored = tuning.score(PackedLM(load_plain(out / "merged")), tuning.read_inputs(recipe_).heldout, 4, "cpu")
    assert scored["all"]["loss"] == pytest.approx(after["all"]["loss"], abs=2e-3)


def test_the_losses_are_those_of_each_example_alone_and_of_trl_with_padding(tmp_path, monkeypatch):
    """The first step by hand, one unpadded example at a time; three steps by TRL's own padded batches."""
    home = make_home(tmp_path / "home", num_layers=2)
    plain = {"quantisation": "none", "double_quantisation": False, "steps": 3, "heldout": []}
    plain = sft_values(home, tmp_path / "out") | plain
    together, collate = [], tuning.collate
    monkeypatch.setattr(tuning, "collate", lambda group, *rest: together.append(len(group)) or collate(group, *rest))
    for name, rows in (("one", 1), ("four", 4), ("eight", 8)):
        changes = {"out": str(tmp_path / name), "execution": {"device": "cpu", "micro_batch_rows": rows}}
        tuning.sft(recipes.validate(plain | changes, "pico recipe"))
    assert together == [1] * 24 + [4] * 6 + [8] * 3
    recipe_ = recipes.validate(plain, "pico recipe")
    inputs = tuning.read_inputs(recipe_)
    places = [p for step in range(3) for p in tuning.shuffled(len(inputs.examples), 3, 0, 8 * step, 8 * step + 8)]
    shown = [inputs.examples[place] for place in places]
    assert len({len(example.input_ids) for example in shown[:8]}) > 2, "of different lengths"

    base = load_plain(home / "base")
    nats = tokens = 0
    for example in shown[:8]:
        ids = torch.from_numpy(example.input_ids)
        logits = base(input_ids=ids[None]).logits[0, :-1]
        kept = torch.from_numpy(example.is_answer)[1:]
        nats += functional.cross_entropy(logits[kept], ids[1:][kept], reduction="sum").item()
        tokens += int(kept.sum())
    ours = step_losses(tmp_path / "four")
    assert ours[0] == pytest.approx(nats / tokens, rel=1e-5)
    assert step_losses(tmp_path / "one") == pytest.approx(ours, rel=2e-5)
    assert step_losses(tmp_path / "eight") == pytest.approx(ours, rel=2e-5)
    assert padded_trl_losses(home, recipe_, inputs, shown, tmp_path / "trl") == pytest.approx(ours, rel=2e-5)
    assert step_losses(tmp_path / "one") != ours  # they really were computed differently
    assert all(later < earlier for earlier, later in pairwise(ours))


def padded_trl_losses(home, recipe_, inputs, shown, folder) -> list[float]:
    """Of TRL as it is: its collator pads, its mask hides the padding."""
    adapted = add_adapter(load_plain(home / "base"), recipe_.adapter, "x", recipe_.seed)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3, betas=(0.9, 0.999), weight_decay=0.01)
    factors = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: tuning.setup.lr_factor(recipe_.schedule, min(step, 2), 3)
    )
    columns = {
        "input_ids": [example.input_ids for example in shown],
        "labels": [np.where(example.is_answer, example.input_ids, IGNORE) for example in shown],
    }
    return trl_losses(
        adapted, columns, folder, inputs.chat_tokenizer, (optimizer, factors), per_device_train_batch_size=4,
        gradient_accumulation_steps=2, max_grad_norm=1.0,
    )  # fmt: skip


def test_execution_does_not_change_the_losses(asked, tmp_path):
    """How the weights are held, what is recomputed; in bfloat16 the losses are near, and LoRA stays in fp32."""
    losses = {}
    for name, execution, numbers in (
        ("plain", {}, {}),
        ("dequantised", {"dequantised": True}, {}),
        ("recomputed", {"recompute_layers": 1, "recompute_cheap": True}, {}),
        ("bfloat16", {}, {"compute_dtype": "bfloat16"}),
        ("float8", {}, {"products": "fp8"}),
    ):
        how = {"device": "cpu", "micro_batch_rows": 4, **execution}
        tuning.sft(asked(out=str(tmp_path / name), steps=3, heldout=[], execution=how, **numbers))
        losses[name] = step_losses(tmp_path / name)
    assert losses["dequantised"] == pytest.approx(losses["plain"], rel=1e-6)
    assert losses["recomputed"] == pytest.approx(losses["plain"], rel=2e-5)
    for numbers in ("bfloat16", "float8"):
        assert losses[numbers] != losses["plain"]
        assert losses[numbers] == pytest.approx(losses["plain"], rel=1e-2)
    assert losses["bfloat16"] != losses["plain"]
    tensors = load_file(tmp_path / "bfloat16/adapter/adapter_model.safetensors").values()
    assert all(t.dtype == torch.float32 and not torch.equal(t, t.bfloat16().float()) for t in tensors)


def test_a_stopped_run_continues_bit_for_bit(asked, tmp_path, stop_before):
    whole, broken = (asked(out=str(tmp_path / name)) for name in ("whole", "broken"))
    tuning.sft(whole)
    stop_before(tuning.sft, broken, 7)
    assert [p.name for p in (Path(broken.out) / "checkpoints").iterdir()] == ["step-000004"]
    tuning.sft(broken)
    assert_same_run(whole.out, broken.out)

    # killed between the last checkpoint and the manifest: finished without another step
    (Path(broken.out) / "manifest.json").unlink()
    tuning.sft(broken)
    assert_same_run(whole.out, broken.out)
    assert read_manifest(Path(broken.out))["results"] == read_manifest(Path(whole.out))["results"]


def test_a_signal_within_a_step_keeps_the_last_whole_one(asked, tmp_path, monkeypatch):
    whole, stopped = (asked(out=str(tmp_path / name)) for name in ("whole", "stopped"))
    tuning.sft(whole)
    reached, here = [], tuning.Tuning.on_substep_end

    def signalled(self, *args, **kwargs):
        reached.append(1)
        if len(reached) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        here(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(tuning.Tuning, "on_substep_end", signalled)
        with pytest.raises(interrupts.Stop), interrupts.listening():
            tuning.sft(stopped)
    assert [p.name for p in (Path(stopped.out) / "checkpoints").iterdir()] == ["step-000004", "step-000005"]
    tuning.sft(stopped)
    assert_same_run(stopped.out, whole.out)


def test_a_long_gradient_is_clipped_and_its_norm_logged_as_it_was(asked, tmp_path, monkeypatch):
    use_sgd(monkeypatch)
    one_step = {"steps": 1, "schedule": {"shape": "constant", "warmup_steps": 0}, "heldout": []}

    def tuned(name: str, max_grad_norm: float) -> Path:
        optimizer = asked().optimizer.model_dump() | {"max_grad_norm": max_grad_norm}
        tuning.sft(asked(out=str(tmp_path / name), optimizer=optimizer, **one_step))
        return tmp_path / name

    whole = tuned("whole", 1e9)
    assert_clipped(whole, tuned("clipped", grad_norm_and_change(whole)[0] / 1000), 1 / 1000)


def test_a_loss_that_is_not_finite_stops_the_run(asked, spoil_in):
    spoil_in(3)
    recipe_ = asked(checkpoint_steps=1)
    with raises("train-loss-not-finite", "Step 3: loss nan", f"{recipe_.out}/checkpoints/step-000002"):
        tuning.sft(recipe_)
    assert len(read_json(Path(recipe_.out) / "nonfinite.json")["examples"]) == 8
    assert not (Path(recipe_.out) / "manifest.json").exists()


# ----------------------------------------------------------------------------------------- whose loss counts


def test_only_answers_and_their_end_carry_a_loss(home, tmp_path):
    """Seen in the batch that TRL is given."""
    records = [record(0), record(7, instruction=None), record(3, input="")]
    examples, _ = examples_of(home, tmp_path, records)
    tokenizer = load_tokenizer(home / "base")
    given = tuning.for_trl(collate(examples, "cpu"))
    ids, labels = given["input_ids"][0], given["labels"][0]
    assert len(given["layout"].bounds) == 4
    for (start, end), values in zip(pairwise(given["layout"].bounds), records, strict=True):
        kept = labels[start:end] != -100
        assert torch.equal(labels[start:end][kept], ids[start:end][kept])
        answer = ids[start:end][kept].tolist()
        assert answer == [*tokenizer.encode(values["output"]).ids, tokenizer.token_to_id(END)]
        assert tokenizer.decode(ids[start:end][~kept].tolist()) == plain_prompt(
            values["instruction"] or "", values["input"] or ""
        )
        assert not kept[: len(kept) - len(answer)].any(), "all of the prompt is before all of the answer"


def test_the_chat_template_is_cut_at_every_answer(home, tmp_path):
    tokenizer = load_tokenizer(home / "chat")
    talk = chat("What is it?", "A stone.", "Which colour?", "Grey.", system="Be brief.")
    (example, single), counts = examples_of(home, tmp_path, [talk, record(0)], "chat")
    assert counts["used"] == 2
    text = tokenizer.decode(example.input_ids.tolist(), skip_special_tokens=False)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
        "A stone.<|im_end|>\n<|im_start|>user\nWhich colour?<|im_end|>\n<|im_start|>assistant\nGrey.<|im_end|>"
    )
    edges = np.flatnonzero(np.diff(np.concatenate([[0], example.is_answer.astype(int), [0]])))
    answers = [
        tokenizer.decode(example.input_ids[a:b].tolist(), skip_special_tokens=False)
        for a, b in edges.reshape(-1, 2).tolist()
    ]
    assert answers == [f"A stone.{TURN}", f"Grey.{TURN}"]
    assert tokenizer.decode(example.answer, skip_special_tokens=False) == answers[0]
    # the prompt has the tokens that the chat template gives it alone
    asked = [{"role": "user", "content": f"{record(0)['instruction']}\n\n{record(0)['input']}"}]
    alone = AutoTokenizer.from_pretrained(home / "chat").apply_chat_template(asked, add_generation_prompt=True)
    assert single.prompt == list(alone["input_ids"])


def test_an_end_token_written_in_a_text_is_text_and_none_in_a_chat(home, tmp_path):
    written = record(0, input=f"It says {END} here.", output=f"grey {END} white")
    (example,), _ = examples_of(home, tmp_path, [written])
    end_id = load_tokenizer(home / "base").token_to_id(END)
    assert Counter(example.input_ids.tolist())[end_id] == 1
    assert example.input_ids[-1] == end_id
    _, counts = examples_of(home, tmp_path, [written, record(1)], "chat")
    assert counts == {"in": 2, "used": 1, "left_out": {"a special token of the template in its text": 1}}


def test_packed_examples_do_not_see_each_other(home, tmp_path):
    lm = PackedLM(load_plain(home / "base"))
    examples, _ = examples_of(home, tmp_path, [record(0), record(7), record(3, input="")])
    together = tuning.score(lm, examples, 3, "cpu")["all"]
    alone = [tuning.score(lm, [example], 1, "cpu")["all"] for example in examples]
    tokens = sum(score["tokens"] for score in alone)
    assert together["tokens"] == tokens == sum(int(e.is_answer.sum()) for e in examples)
    assert together["loss"] == pytest.approx(sum(s["loss"] * s["tokens"] for s in alone) / tokens, rel=1e-6)


# ------------------------------------------------------------------------------------------------- what is left out


def test_every_record_is_used_or_left_out_for_a_reason(home, tmp_path):
    """Each line of the file has a record, and why the plain template leaves it out, or "" where it does not."""
    given = [json.loads(line) for line in (DATA / "train/records.jsonl").read_text().splitlines()]
    records = [line["record"] for line in given]
    reasons = Counter(line["left_out"] for line in given)
    num_used = reasons.pop("")
    examples, counts = examples_of(home, tmp_path, records)
    assert counts.pop("unused") == {"turns after the last trained answer": 1}
    assert counts == {"in": len(given), "used": num_used, "left_out": reasons}
    assert len(examples) == num_used
    _, counts = examples_of(home, tmp_path, records, "chat")
    assert counts["used"] == num_used + 1, "several turns are what a chat template is for"


def test_nothing_is_cut_short_at_the_limit(home, tmp_path):
    (example,), _ = examples_of(home, tmp_path, [record(0)])
    length = len(example.input_ids)
    assert len(examples_of(home, tmp_path, [record(0)], max_tokens=length)[0]) == 1
    assert examples_of(home, tmp_path, [record(0)], max_tokens=length - 1)[0] == []


def test_too_many_left_out_need_consent(home, asked, tmp_path, capsys):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([record(n, source="web") for n in range(8)] + [record(9, output="")] * 2))
    changes = {"data": [str(path)], "steps": 4, "out": str(tmp_path / "consent")}
    with raises("sft-too-many-left-out", "20.0%", "max_left_out_share=0.20"):
        tuning.sft(asked(**changes))
    assert "empty answer 2" in capsys.readouterr().out
    assert not (tmp_path / "consent").exists()
    results = tuning.sft(asked(**changes, max_left_out_share=0.2))
    counted = {"in": 10, "used": 8, "left_out": {"empty answer": 2}, "unused": {"source": 8}}
    assert results["records"]["data"]["data"] == counted
    *left_out, unused = read_json(tmp_path / "consent/left_out.json")
    assert left_out == [{"data": "data", "name": "r9", "reason": "empty answer"}] * 2
    assert unused == {"data": "data", "source": "data", "unused": "source", "records": 8}
    assert "source 8\n" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "code", "quoted"),
    [
        ({"data": ["no/such"]}, "sft-data-missing", ["`data`", "no/such"]),
        ({"heldout": ["no/such"]}, "sft-data-missing", ["`heldout`", "no/such"]),
        ({"template": "chat", "end_of_text": TURN}, "template-chat-missing", ["template: plain"]),
        ({"begin_of_text": "</s>"}, "tokenizer-no-begin-of-text", ["'</s>'"]),
        ({"begin_of_text": END, "template": "chat"}, "sft-begin-with-chat", [repr(END)]),
        ({"end_of_text": "</s>"}, "template-end-token-missing", ["'</s>'", "<|endoftext|>, <|im_start|>"]),
        ({"steps": None, "epochs": 0.2}, "sft-warmup-too-long", ["warmup_steps=2", "the 1 "]),
        ({"execution": {"device": "cpu", "micro_batch_rows": 3}}, "sft-micro-batch-rows", [3, "1, 2, 4, 8"]),
        ({"max_tokens": 8, "max_left_out_share": 1.0}, "sft-no-examples", ["max_tokens"]),
        ({"compute_dtype": "float16"}, "sft-float16-on-cpu", ["compute_dtype=float16"]),
        ({"model": "no/such/model"}, "model-not-found", ["no/such/model"]),
        ({"fields": {"system": "rolle"}}, "sft-field-missing", ["system: rolle"]),
        ({"fields": {"instrucion": "frage"}}, "key-unknown", ["fields.instrucion", "fields.instruction="]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(asked, tmp_path, changes, code, quoted):
    with raises(code, *quoted):
        tuning.sft(asked(**changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "code", "quoted"),
    [
        (b"", "sft-file-empty", ""),
        (b"[]", "sft-file-empty", ""),
        (b"{}\n{broken\n", "sft-file-not-json", "line 2"),
        (b"[1, 2", "sft-file-not-json", "line 1"),
        (b'{"id": "\xff"}\n', "sft-file-not-utf8", "0xff"),
        (b'{"messages": [{"role": "narrator", "content": "x"}]}\n', "sft-role-unknown", "record 1: role 'narrator'"),
        (b'{"frage": "x", "antwort": "y"}\n' * 2, "sft-form-unknown", "antwort, frage"),
        (b'["x"]\n"y"\n', "sft-form-unknown", "it is list"),
        (b'{"prompt": "x", "chosen": "y", "rejected": "z"}\n', "sft-part-refused", "`chosen`"),
    ],
)
def test_files_that_cannot_be_read_are_named(asked, tmp_path, content, code, quoted):
    (tmp_path / "data.jsonl").write_bytes(content)
    with raises(code, tmp_path / "data.jsonl", quoted):
        tuning.sft(asked(data=[str(tmp_path / "data.jsonl")]))


@pytest.mark.parametrize(
    ("added", "changes", "code"),
    [
        ("</s>", {"end_of_text": "</s>"}, "sft-end-token-not-in-model"),
        ("Which colour has it?", {}, "sft-token-not-in-model"),
    ],
)
def test_a_tokenizer_with_tokens_that_the_model_has_not(home, asked, tmp_path, added, changes, code):
    base = Path(shutil.copytree(home / "base", tmp_path / "base"))
    tokenizer = load_tokenizer(base)
    size = tokenizer.get_vocab_size()
    tokenizer.add_tokens([added])
    tokenizer.save(str(base / "tokenizer.json"))
    with raises(code, f"token {size},", f"{base} knows {size}"):
        tuning.read_inputs(asked(model=str(base), **changes))


def test_what_is_trained_on_is_not_held_out(asked, tmp_path):
    path = write_lines(tmp_path / "same.jsonl", [record(60), record(61)])
    with raises("sft-records-in-both", "2 held-out"):
        tuning.read_inputs(asked(data=[str(path)], heldout=[str(path)]))


def test_a_document_in_both_splits_is_refused(home, asked, tmp_path):
    path = write_lines(tmp_path / "leak.jsonl", [record(60, document="d3")])
    with raises("sft-documents-in-both", 1, "d3"):
        tuning.sft(asked(heldout=[str(path)]))


SENTENCE = "The stone of number one hundred lies on the bank of the river near the glass."


@pytest.mark.parametrize(
    "trained",
    [
        record(60, input=f" {SENTENCE.upper()}", instruction="Name it as JSON.", output="none"),
        {"system": "Name it.", "question": SENTENCE, "answer": "none"},
        {"instruction": "Name it.", "context": SENTENCE, "output": "none"},
        chat(SENTENCE, "none", "Is that all of it?", "yes"),
    ],
)
def test_a_held_out_question_is_not_trained_on_with_another_instruction(asked, tmp_path, trained):
    heldout = str(write_lines(tmp_path / "held.jsonl", [record(60, id="h", input=SENTENCE), record(61)]))
    kind = {"template": "chat", "model": asked().model.replace("base", "chat"), "end_of_text": TURN}
    changes = kind if "messages" in trained else {}
    path = str(write_lines(tmp_path / "data.jsonl", [trained, record(62)]))
    with raises("sft-questions-in-both", "of 1 held-out", "(h)"):
        tuning.read_inputs(asked(data=[path], heldout=[heldout], **changes))


def test_short_questions_and_earlier_turns_may_repeat(asked, tmp_path):
    changes = {"template": "chat", "model": asked().model.replace("base", "chat"), "end_of_text": TURN}
    talks = [chat(SENTENCE, "yes", f"Is it {colour}?", "no") for colour in ("red", "blue")]
    data, held = (str(write_lines(tmp_path / f"{n}.jsonl", [talk, record(60, instruction=str(n), input="Yes")]))
                  for n, talk in enumerate(talks))  # fmt: skip
    assert len(tuning.read_inputs(asked(data=[data], heldout=[held], **changes)).heldout) == 2


@pytest.mark.parametrize(("one", "other", "apart"), [("d1", "d2", True), ("d1", "", False), ("", "d2", False)])
def test_a_sentence_of_two_papers_may_be_in_both_splits(asked, tmp_path, one, other, apart):
    """Such as that all rights are reserved."""
    data, held = (
        str(write_lines(tmp_path / f"{n}.jsonl", [record(n, input=SENTENCE, document=document, output=str(n))]))
        for n, document in enumerate((one, other))
    )
    if apart:
        assert len(tuning.read_inputs(asked(data=[data], heldout=[held])).heldout) == 1
    else:
        with raises("sft-questions-in-both", "(r1)"):
            tuning.read_inputs(asked(data=[data], heldout=[held]))


def test_a_text_that_is_an_instruction_is_named_so(asked, tmp_path):
    data, held = (
        str(write_lines(tmp_path / f"{n}.jsonl", [record(n, instruction=f"Q{n}?", input=SENTENCE)])) for n in (1, 2)
    )
    with raises("sft-questions-in-both", "fields={system: input}"):
        tuning.read_inputs(asked(data=[data], heldout=[held]))
    tuning.read_inputs(asked(data=[data], heldout=[held], fields={"system": "input"}))


def test_held_out_examples_are_shared_out_by_file(asked, tmp_path):
    paths = []
    for name, first, count in (("large", 1000, 300), ("small", 2000, 4), ("medium", 3000, 60)):
        rows = [record(first + n) for n in range(count)]
        paths.append(str(write_lines(tmp_path / f"{name}.jsonl", rows)))

    def ask(limit, files=paths):
        found = tuning.read_inputs(asked(heldout=files, max_heldout_examples=limit)).heldout
        return [example.name for example in found]

    chosen = ask(40)
    counts = Counter(int(name[1:]) // 1000 for name in chosen)
    assert counts == {1: 18, 2: 4, 3: 18}
    assert chosen == sorted(chosen)
    assert {"r1000", "r1299", "r3000", "r3059"} <= {*chosen}
    assert ask(3) == ["r1000", "r2000", "r3000"]
    assert ask(4, paths[:1]) == ["r1000", "r1099", "r1199", "r1299"], "as before, of one file"
    assert len(ask(1000)) == 364
    with raises("sft-heldout-limit", "max_heldout_examples=2", "3 files"):
        ask(2)


def test_a_folder_without_files(asked, tmp_path):
    (tmp_path / "empty").mkdir()
    with raises("sft-data-without-files", tmp_path / "empty"):
        tuning.sft(asked(data=[str(tmp_path / "empty")]))
    assert tuning.read_inputs(asked(heldout=[str(tmp_path / "empty")])).heldout == []


def test_chat_templates_that_cannot_be_used(home):
    template, talk = template_of(home, "chat"), Reader().read(record(0), "here")
    for end, text, code, quoted in (
        (END, CHATML, "template-end-token-unused", [END, TURN]),
        (TURN, "{{ messages | length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
         "template-answers-not-separable", []),
        (TURN, "{{ raise_exception('no system message') }}", "template-refuses-record", ["(no system message)"]),
    ):  # fmt: skip
        template.end_of_text, template._chat.chat_template = end, text
        with pytest.raises(LeftOutError) as left_out:
            template.examples(talk, "here")
        assert_error(left_out.value.error, code, "here", *quoted)


def test_length_in_epochs(asked):
    assert tuning.count_steps(asked(steps=None, epochs=3.0), 50) == 19
