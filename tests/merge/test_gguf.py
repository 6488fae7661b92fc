"""A GGUF file as a model folder: weights as transformers has them, tokens as the model's own tokenizer gives them."""

import json
import math
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from nsllm_lite import cli
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.artifact.lineage import quantised_behind
from nsllm_lite.commands.stories import open_run, plan_run
from nsllm_lite.commands.words import parse
from nsllm_lite.formats import weights
from nsllm_lite.formats.tokenizer import load_tokenizer
from nsllm_lite.merge import write
from nsllm_lite.merge.gguf import convert as convert_file
from nsllm_lite.merge.gguf import model
from nsllm_lite.merge.gguf.convert import convert
from nsllm_lite.merge.write_model import merge
from nsllm_lite.recipe.convert import Convert
from tests.merge.gguf_files import BYTE_LEVEL, DIGITS, json_of, make_model, train_tokenizer, write_gguf
from tests.merge.make import make_adapter, make_recipe
from tests.raising import fails, raises


@pytest.fixture(autouse=True)
def several_slices(pico_sized, monkeypatch):
    """Three heads each, or 195 rows."""
    monkeypatch.setattr(weights, "SLICE_BYTES", 200_000)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(DIGITS)


def converted(path, **changes) -> dict:
    return convert(Convert(kind="convert", gguf=str(path), out=str(path.parent / "out"), **changes))


KINDS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "BF16", "F16", "F32"]


@pytest.mark.parametrize(
    ("kind", "tied", "kinds"),
    [("llama", True, KINDS), ("qwen2", False, KINDS[::-1]), ("qwen3", True, KINDS[5:])],
)
def test_weights_are_bit_for_bit_those_of_transformers(tmp_path, tokenizer, kind, tied, kinds):
    def vector(keys, tensors):
        tensors["output_norm.weight"] = (tensors["output_norm.weight"][0], "Q8_0")

    path = write_gguf(tmp_path / "x.gguf", make_model(kind, 352, tie_word_embeddings=tied), tokenizer, kinds, vector)
    results = converted(path, shard_bytes=500_000)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf", dtype=torch.bfloat16)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    assert ours.dtype == torch.bfloat16
    prompt = torch.arange(3, 40)[None]
    assert torch.equal(ours(prompt).logits, theirs(prompt).logits)
    assert results["quantised"].keys() == {"Q8_0"} | {one for one in kinds if one not in ("BF16", "F16", "F32")}
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1


def test_a_stopped_conversion_goes_on_and_ends_the_same(tmp_path, tokenizer, llama, monkeypatch):
    path = write_gguf(tmp_path / "x.gguf", llama, tokenizer, "Q4_0")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: Mock(free=0))
        with raises("disk-too-small", "out"):
            converted(path)
    asked = Mock(wraps=model.dequantise)
    monkeypatch.setattr(model, "dequantise", asked)
    converted(path)
    of_all = asked.call_count
    (tmp_path / "out").rename(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(write, "SYNC_BYTES", 1)
        patch.setattr(convert_file, "finish", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            converted(path)
    progress = tmp_path / "out.partial" / write.PROGRESS
    progress.write_bytes(b"".join(progress.read_bytes().splitlines(keepends=True)[:7]))
    asked.reset_mock()
    converted(path)
    assert 0 < asked.call_count < 0.8 * of_all
    for name in ("model.safetensors", "tokenizer.json", "config.json", "files.json", "manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (tmp_path / "out/notes.txt").touch()
    (tmp_path / "out/manifest.json").unlink()
    with raises("merge-out-exists", tmp_path / "out"):
        converted(path)


@pytest.mark.parametrize(
    ("kinds", "dtype"), [("F32", torch.float32), ("F16", torch.float16), (["F32", "F16"], torch.bfloat16)]
)
def test_what_is_not_quantised_stays_as_it_is(tmp_path, tokenizer, kinds, dtype):
    model = make_model("llama", 352)
    converted(write_gguf(tmp_path / "x.gguf", model, tokenizer, kinds))
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert ours.dtype == dtype
    if dtype == torch.float32:  # also the order of the rows of q and k
        prompt = torch.arange(3, 40)[None]
        assert torch.equal(ours(prompt).logits, model(prompt).logits)
    converted(tmp_path / "x.gguf")
    with raises("finished-result-differs", "dtype"):
        converted(tmp_path / "x.gguf", dtype="float16")


# ---------------------------------------------------------------------------------------------------------- tokens

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
AS_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def cut_by(pattern: str) -> pre_tokenizers.Sequence:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), AS_BYTES])


CUTS = {"smollm": DIGITS, "qwen2": cut_by(QWEN), "llama-bpe": cut_by(QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1))}
CUTS["gpt-2"] = BYTE_LEVEL
"""As the tokenizer.json of SmolLM2, Qwen2 to Qwen3, Llama 3 and GPT-2 have them."""
TEXTS = [
    "", " ", "\n", "  \n\n\t x", "The theory isn't THERE, they'LL say 12345678 and ½ or ٣.", "don'T I'm you're",
    "a\r\nb\r\n\r\n  c   d \u00a0e\u2028f", "cafe\u0301 Ünïcode über λ 中文字符。日本語", "\x00\x01\x7f\ufffd",
    "\U0001f9ea\U0001f468\u200d\U0001f469", "<|im_start|>user\nhi<|im_end|>", "H₂O 10⁻³ α→β ≤ 5 °C", "x" * 300,
    "<think> so </think>  x  <|endoftext|>x<|im_end", "Ġ Ċ [PAD340] <0x0A>", "the" * 40 + "\n" * 20 + " " * 33,
    "e\u0301\u0323 ﬁ Å",
]  # fmt: skip


@pytest.mark.parametrize("pre", CUTS)
def test_tokens_are_those_of_the_tokenizer(tmp_path, pre):
    known = train_tokenizer(CUTS[pre], ignore_merges=pre == "llama-bpe")
    if pre == "qwen2":
        known.normalizer = normalizers.NFC()
    elif pre == "llama-bpe":  # tokens that no merge leads to, as Llama 3 has them
        values = json_of(known)
        values["model"]["merges"].remove(["Ġtheor", "y"])
        known = Tokenizer.from_str(json.dumps(values))
    converted(write_gguf(tmp_path / "x.gguf", make_model("llama", 352), known, pre=pre))
    ours, loaded = load_tokenizer(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    begin = [1] * (pre == "llama-bpe")  # whose tokenizers say so where a GGUF does not
    for text in TEXTS:
        ids = known.encode(text).ids
        assert ours.encode(text).ids == [*begin, *ids] == loaded(text).input_ids, text
        assert ours.decode(ids) == known.decode(ids)
    assert len(TEXTS) > 15
    assert ours.get_vocab().keys() == known.get_vocab().keys()
    stated = [loaded.eos_token_id, loaded.bos_token_id, loaded.pad_token_id, loaded.unk_token_id]
    assert stated == [2, 1, 2, 0]
    assert loaded.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert read_json(tmp_path / "out/config.json")["eos_token_id"] == 2
    assert read_json(tmp_path / "out/generation_config.json")["eos_token_id"] == [2]


# -------------------------------------------------------------------------------------------------------- refusals


def put(**changes):
    """A change of keys, `__` for the dots in their names; None takes one out."""

    def change(keys, tensors):
        for name, value in changes.items():
            name = name.replace("__", ".")
            keys.update({name: value}) if value is not None else keys.pop(name)

    return change


def lose(name):
    return lambda keys, tensors: tensors.pop(name)


def gain(name, shape, value=1.0):
    return lambda keys, tensors: tensors.update({name: (np.full(shape, value, np.float32), "F32")})


TOKENIZER = "tokenizer__ggml__"
AS_TEMPLATE = {"bos_token_id": 0, "add_bos_token": True, "merges": ["a b"]}
AS_TEMPLATE["tokens"] = ["$A", "a", "b", "ab", *(f"t{number}" for number in range(348))]
BROKEN = np.full((512, 256), np.inf, np.float32)
REFUSED = {
    "gguf-architecture-unknown": {"gemma3": put(general__architecture="gemma3")},
    "gguf-key-missing": {"llama.block_count": put(llama__block_count=None)},
    "gguf-key-refused": {
        "general.type": put(general__type="adapter"),
        "general.quantization_version": put(general__quantization_version=1),
        "llama.attention.sliding_window": put(llama__attention__sliding_window=4096),
        "llama.expert_count": put(llama__expert_count=8),
        "llama.logit_scale": put(llama__logit_scale=0.5),
        "llama.attention.scale": put(llama__attention__scale=0.1),
        "llama.attention.causal": put(llama__attention__causal=False),
        "llama.attention.value_length": put(llama__attention__value_length=32),
        "llama.attention.head_count": put(llama__attention__head_count=[4, 4]),
        "llama.attention.key_length": put(llama__attention__key_length=63),
        "llama.rope.dimension_count": put(llama__rope__dimension_count=32),
        "llama.rope.freq_base": put(llama__rope__freq_base=float("nan")),
        "llama.rope.scaling.type": put(llama__rope__scaling__type="longrope"),
        "llama.rope.scaling.factor": put(llama__rope__scaling__factor=4.0),
        "llama.rope.scaling.attn_factor": put(llama__rope__scaling__attn_factor=1.5),
        "llama.block_count": put(llama__block_count=2**31),
        "llama.embedding_length": put(llama__embedding_length=0),
        "llama.vocab_size": put(llama__vocab_size=353),
        "tokenizer.ggml.add_eos_token": put(**{TOKENIZER + "add_eos_token": True}),
        "tokenizer.ggml.add_space_prefix": put(**{TOKENIZER + "add_space_prefix": True}),
        "tokenizer.ggml.precompiled_charsmap": put(**{TOKENIZER + "precompiled_charsmap": [1, 2]}),
        "tokenizer.ggml.eos_token_id": put(**{TOKENIZER + "eos_token_id": 352}),
        "tokenizer.ggml.bos_token_id": put(**{TOKENIZER + "bos_token_id": None, TOKENIZER + "add_bos_token": True}),
        "tokenizer.ggml.bos_token_id: 0": put(**{TOKENIZER + key: value for key, value in AS_TEMPLATE.items()}),
        "tokenizer.ggml.token_type": put(**{TOKENIZER + "token_type": [6] * 352}),
        "tokenizer.ggml.merges": put(**{TOKENIZER + "merges": None}),
    },
    "gguf-no-tokenizer": {"tokens": put(**{TOKENIZER + "tokens": None}), "model": put(**{TOKENIZER + "model": "none"})},
    "gguf-tokenizer-unknown": {
        "'llama'": put(**{TOKENIZER + "model": "llama"}), "'tekken'": put(**{TOKENIZER + "pre": "tekken"}),
        "''": put(**{TOKENIZER + "pre": None}),
    },
    "gguf-damaged": {
        "repeat": put(**{TOKENIZER + "tokens": ["a"] * 352}), "types": put(**{TOKENIZER + "token_type": [1, 2]}),
        "no pairs": put(**{TOKENIZER + "merges": ["a b c"]}), "no tokenizer": put(**{TOKENIZER + "merges": ["§ §"]}),
    },
    "gguf-tensors-differ": {
        "blk.1.ffn_up.weight": lose("blk.1.ffn_up.weight"), "blk.0.attn_q.bias": gain("blk.0.attn_q.bias", (256,)),
        "rope_factors_long.weight": gain("rope_factors_long.weight", (32,)),
        "blk.0.attn_k.weight": gain("blk.0.attn_k.weight", (256, 256)),
        "blk.2.ffn_gate.weight": put(llama__block_count=3),
    },
    "gguf-rope-unknown": {"rope_freqs.weight": gain("rope_freqs.weight", (32,), 3.0)},
    "weights-not-finite": {
        "layers.1.mlp.up_proj": lambda keys, tensors: tensors.update({"blk.1.ffn_up.weight": (BROKEN, "F32")}),
    },
}  # fmt: skip
CASES = [(code, word, change) for code, changes in REFUSED.items() for word, change in changes.items()]


@pytest.fixture(scope="module")
def llama():
    return make_model("llama", 352)


@pytest.mark.parametrize(("code", "word", "change"), CASES, ids=[f"{code} {word}" for code, word, _ in CASES])
def test_what_is_not_honoured_is_refused_by_its_name(tmp_path, tokenizer, llama, code, word, change):
    path = write_gguf(tmp_path / "x.gguf", llama, tokenizer, change=change)
    with raises(code, path, word):
        converted(path)
    assert [one.name for one in tmp_path.iterdir()] == ["x.gguf"]


ROPES = {
    "linear": (
        {"rope_type": "linear", "factor": 4.0},
        put(llama__rope__scaling__type="linear", llama__rope__scaling__factor=4.0),
    ),
    "yarn": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        put(
            llama__rope__scaling__type="yarn", llama__rope__scaling__factor=4.0,
            llama__rope__scaling__original_context_length=16, llama__rope__scaling__finetuned=True,
        ),
    ),
    "llama3": (
        {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8192},
        lambda keys, tensors: tensors.update({"rope_freqs.weight": (llama3_factors(keys), "F32")}),
    ),
}  # fmt: skip


def llama3_factors(keys) -> np.ndarray:
    """As convert_hf_to_gguf.py has them, for Llama 3.2."""
    keys["llama.rope.freq_base"] = 500_000.0
    factors = []
    for number in range(32):
        wavelength = 2 * math.pi * 500_000.0 ** (number / 32)
        smooth = (8192 / wavelength - 1) / 3
        between = 1 / ((1 - smooth) / 32 + smooth) if 0 < smooth < 1 else 0
        factors.append(1 if wavelength < 8192 / 4 else 32 if wavelength > 8192 else between)
    return np.array(factors, np.float32)


@pytest.mark.parametrize("kind", ROPES)
def test_scaled_positions_are_honoured(tmp_path, tokenizer, kind):
    scaling, change = ROPES[kind]
    model = make_model("llama", 352, rope_parameters={"rope_theta": 5e5 if kind == "llama3" else 1e4, **scaling})
    converted(write_gguf(tmp_path / "x.gguf", model, tokenizer, change=change))
    prompt = torch.arange(3, 60)[None]
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "out")(prompt).logits, model(prompt).logits)


# --------------------------------------------------------------------------------------------------- in whole runs


@pytest.mark.parametrize(
    "words",
    [
        ("train", "recipes/nano/phase1.yaml", "model=a b/X.gguf", "--run", "r"),
        ("sft", "recipes/nano/sft.yaml", "model=a b/X.gguf", "--run", "r"),
        ("merge", "--base", "a b/X.gguf", "--adapter", "A", "--out", "o"),
        ("report", "recipes/nano/report.yaml", "base=a b/X.gguf", "--run", "r"),
        ("corpus", "recipes/nano/corpus.yaml", "tokenizer=a b/X.gguf", "train_tokenizer=null", "out=o"),
        ("eval", "a b/X.gguf"),
    ],
)
def test_a_recipe_that_names_the_file_is_refused_with_the_command(capsys, words):
    assert "nsllm-lite convert 'a b/X.gguf' out=models/X" in fails(capsys, "model-is-gguf", *words)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("key-missing", ["X.gguf"]),
        ("run-without-recipe", ["X.gguf", "out=o", "--run", "r"]),
        ("option-unknown", ["X.gguf", "--out", "o"]),
        ("gguf-missing", ["X.gguf", "out=o"]),
        ("recipe-missing", ["X.yaml", "out=o"]),
        ("recipe-of-other-kind", ["recipes/nano/merge.yaml", "out=o"]),
        ("value-wrong", ["X.gguf", "out=o", "dtype=int8"]),
    ],
)
def test_words_of_the_command(capsys, code, words):
    fails(capsys, code, "convert", *words)


def test_a_run_converts_its_model_first_and_tells_what_it_was(tmp_path, tokenizer, llama, capsys):
    path = write_gguf(tmp_path / "x.gguf", llama, tokenizer, ["Q8_0", "F16"])
    settings = [f"{phase}.execution.device=cpu" for phase in ("phase1", "phase2")] + ["corpus.row_tokens=32"]
    words = ["--recipes", "recipes/nano", "--model", str(path), "--out", str(tmp_path / "run"), *settings]
    run, _ = open_run(parse(["plan", *words]))
    assert list(run)[:2] == ["convert", "corpus"]
    base = str(tmp_path / "run/converted")
    named = {run["corpus"].tokenizer, run["phase1"].model, run["eval"].models[0].path, run["convert"].out}
    assert named | {run["model1"].base, run["report"].base} == {base}
    held = {"Q8_0": 8}
    assert plan_run(parse(["plan", *words]))["quantised"] == held
    assert cli.main(["phase1", *words, "--only", "convert"]) == 0
    assert plan_run(parse(["plan", *words]))["quantised"] == held
    capsys.readouterr()
    assert cli.main(["show", base]) == 0
    assert "converted  convert to a model folder, weights dequantised from 8 of Q8_0\n" in capsys.readouterr().out
    moved = (tmp_path / "run/converted").rename(tmp_path / "moved")
    adapter = make_adapter(moved, tmp_path / "adapter")
    results = merge(make_recipe(moved, adapter, tmp_path / "model1"))
    moved.rename(tmp_path / "gone")
    assert results["quantised"] == quantised_behind(tmp_path / "model1") == held
    page = (tmp_path / "model1/README.md").read_text()
    assert "8 of Q8_0" in page
    assert "license: apache-2.0" in page
