"""Hostile model folders and adapters: pickles, code, files named elsewhere. Nothing of them may run."""

import io
import json
import pickle
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

from nsllm_lite import cli, safety
from nsllm_lite.evals.bert_score import BertScore
from nsllm_lite.models.engines import open_engine
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.loading import load_base
from nsllm_lite.models.lora import load_adapter
from nsllm_lite.recipe.evals import EvalExecution
from tests.faults import hostile
from tests.faults.hostile import CODE, litter, merge_words, pickled, torch_file, train_words, with_code, zipped
from tests.merge.make import edit_json
from tests.raising import raises

marker, made, pair = hostile.marker, hostile.made, hostile.pair


def test_the_attacks_do_harm_where_nobody_looks(marker):
    """Else the tests below show nothing."""
    for attack in (lambda: pickle.loads(pickled()), lambda: torch.load(io.BytesIO(torch_file()), weights_only=False)):
        attack()
        marker.rmdir()
    exec(CODE)
    marker.rmdir()


# -------------------------------------------------------------------------------------------------------------- weights

INDEX = {"metadata": {}, "weight_map": {"model.norm.weight": "evil"}}
NOT_SAFETENSORS, ABSENT, INDEX_FILE = "weights-not-safetensors", "weights-absent", "model.safetensors.index.json"
NO_WEIGHTS = {
    "pytorch_model.bin": (ABSENT, {"pytorch_model.bin": torch_file}),
    "pickle in shards": (ABSENT, {
        "pytorch_model-00001-of-00001.bin": torch_file,
        "pytorch_model.bin.index.json": lambda: json.dumps(INDEX).replace("evil", "pytorch_model-00001-of-00001.bin"),
    }),
    "index names a pickle": ("weights-index-names-others", {
        "evil.bin": torch_file, INDEX_FILE: lambda: json.dumps(INDEX).replace("evil", "evil.bin"),
    }),
    "index leads up": (
        "weights-index-outside", {INDEX_FILE: lambda: json.dumps(INDEX).replace("evil", "../x.safetensors")},
    ),
    "index leads to root": (
        "weights-index-outside", {INDEX_FILE: lambda: json.dumps(INDEX).replace("evil", "/etc/passwd")},
    ),
    "index names nothing": ("weights-index-empty", {INDEX_FILE: lambda: '{"weight_map": ["evil"]}'}),
    "index without end": ("file-damaged", {INDEX_FILE: lambda: "[" * 100_000}),
    "another name": (ABSENT, {"other.safetensors": torch_file, "pytorch_model.bin": torch_file}),
    "safetensors is a pickle": (NOT_SAFETENSORS, {"model.safetensors": pickled}),
    "safetensors is torch's": (NOT_SAFETENSORS, {"model.safetensors": torch_file}),
    "safetensors is a zip": (NOT_SAFETENSORS, {"model.safetensors": zipped}),
    "safetensors of no bytes": (NOT_SAFETENSORS, {"model.safetensors": lambda: b""}),
    "safetensors of endless head": (NOT_SAFETENSORS, {"model.safetensors": lambda: b"\xff" * 64}),
    "config without end": ("file-damaged", {"config.json": lambda: '{"a":' * 100_000}),
    "config is a list": ("model-config-wrong", {"config.json": lambda: "[]"}),
    "config of long numbers": ("file-damaged", {"config.json": lambda: '{"vocab_size": ' + "9" * 10_000 + "}"}),
    "keras and flax": (
        ABSENT, {"tf_model.h5": pickled, "flax_model.msgpack": pickled, "consolidated.00.pth": torch_file},
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", NO_WEIGHTS)
def test_weights_that_are_no_safetensors_are_refused_by_every_verb(pico, pair, tmp_path, capsys, attack):
    _, adapter = pair
    base = Path(shutil.copytree(pico / "base", tmp_path / "spoilt"))
    if not attack.startswith("config"):
        (base / "model.safetensors").unlink()
    code, files = NO_WEIGHTS[attack]
    for name, content in files.items():
        data = content()
        (base / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    for words in (
        train_words(pico, base, tmp_path),
        merge_words(base, adapter, tmp_path / "out"),
        ["eval", str(base), "--out", str(tmp_path / "eval"), "--tasks", "bundled"],
    ):
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        # training takes the fingerprint first
        assert any(f"[{one}]" in said for one in (code, ABSENT, NOT_SAFETENSORS, "file-damaged")), said
    with raises(code, base):
        BertScore(base, "cpu")
    assert not (tmp_path / "out").exists()


def forged(header: dict | bytes, body: bytes = b"\0" * 64) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype="F32", shape=(4, 4), offsets=(0, 64)):
    return {"model.norm.weight": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    "content",
    [
        forged(entry(offsets=(-64, 0))),
        forged(entry(offsets=(64, 0))),
        forged(entry(shape=(1 << 40, 1 << 40))),
        forged(entry(shape=(-4, -4))),
        forged(entry(shape=("a", 4))),
        forged(entry(shape=(4,))),
        forged(entry(offsets=(0, 1 << 60))),
        forged(b"[" * 100_000),
        forged({"model.norm.weight": "F32"}),
    ],
)
def test_forged_headers_of_safetensors_are_refused(pair, tmp_path, capsys, content):
    base, adapter = pair
    (base / "model.safetensors").write_bytes(content)
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 2
    assert re.search(r"\[weights-(not-safetensors|size-wrong)\]", capsys.readouterr().err)


def test_pickles_beside_good_files_are_not_opened_in_training_resuming_and_scoring(pico, tmp_path, capsys):
    base = Path(shutil.copytree(pico / "base", tmp_path / "base"))
    rows = Path(shutil.copytree(pico / "rows", tmp_path / "rows"))
    for folder in (base, *(path for path in rows.rglob("*") if path.is_dir())):
        litter(folder)
    words = train_words(pico, base, tmp_path, rows=str(rows / "papers/train"), keep_checkpoints=9)
    assert cli.main(words) == 0
    run_folder = tmp_path / "run"
    for path in (run_folder / "manifest.json", run_folder / "checkpoints" / "step-000012"):
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    for folder in (run_folder, *(path for path in run_folder.rglob("*") if path.is_dir())):
        litter(folder)
    capsys.readouterr()
    assert cli.main(words) == 0
    assert "continuing after step" in capsys.readouterr().out
    engine = open_engine(str(run_folder / "adapter"), device="cpu", how=EvalExecution())
    assert engine.model(input_ids=torch.tensor([[1, 2]])).logits.isfinite().all()


@pytest.mark.slow
def test_checkpoints_that_are_pickles_in_truth_are_passed_over(pico, tmp_path, capsys):
    words = train_words(pico, pico / "base", tmp_path)
    assert cli.main(words) == 0
    run_folder = tmp_path / "run"
    (run_folder / "manifest.json").unlink()
    for path in (run_folder / "checkpoints").rglob("*.safetensors"):
        path.write_bytes(torch_file())
    capsys.readouterr()
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "(optimizer.safetensors, rng.safetensors, trained.safetensors)" in told


# ------------------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("content", [pickled, torch_file, zipped])
def test_an_adapter_that_is_a_pickle_is_refused(pair, tmp_path, capsys, content):
    base, adapter = pair
    (adapter / "adapter_model.bin").write_bytes(content())
    for remove in (False, True):
        (adapter / "adapter_model.safetensors").write_bytes(content())
        if remove:
            (adapter / "adapter_model.safetensors").unlink()
        assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 2
        assert "safetensors" in capsys.readouterr().err
    model = load_base(base, quantisation="none", double_quantisation=False, compute_dtype="float32", device="cpu")
    with raises("model-adapter-missing", adapter):
        load_adapter(model, adapter)


EVIL_SETTINGS = {
    "modules of Megatron": ("adapter-names-code", {"megatron_config": {"a": 1}, "megatron_core": "evil_module"}),
    "adapters of the hub": (
        "adapter-not-lora", {"peft_type": "XLORA", "adapters": {"0": "evil/adapter"}, "hidden_size": 64},
    ),
    "a tokenizer with code": ("adapter-not-lora", {
        "peft_type": "PROMPT_TUNING", "prompt_tuning_init": "TEXT", "tokenizer_name_or_path": "evil/tokenizer",
        "tokenizer_kwargs": {"trust_remote_code": True}, "inference_mode": False, "num_virtual_tokens": 4,
    }),
    "a pattern without end": ("adapter-pattern-endless", {"rank_pattern": {"(a+)+$": 8}}),
    "targets without end": ("adapter-pattern-endless", {"target_modules": "(([a-z._0-9])+)+!"}),
    "a polynomial": ("adapter-pattern-endless", {"target_modules": ".*a.*b.*c.*d.*e.*f.*g"}),
    "a number": ("adapter-pattern-wrong", {"target_modules": 7}),
}  # fmt: skip


@pytest.mark.parametrize("attack", EVIL_SETTINGS)
@pytest.mark.timed
def test_settings_of_an_adapter_fetch_import_and_hang_nothing(pair, tmp_path, monkeypatch, capsys, attack):
    base, adapter = pair
    (tmp_path / "evil_module.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    code, settings = EVIL_SETTINGS[attack]
    edit_json(adapter / "adapter_config.json", **settings)
    started = time.process_time()
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 2
    model = load_base(base, quantisation="none", double_quantisation=False, compute_dtype="float32", device="cpu")
    with raises(code, adapter):
        load_adapter(model, adapter)
    with raises(code, adapter):
        open_engine(str(adapter), device="cpu", how=EvalExecution())
    assert time.process_time() - started < 20
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    "name", ["evil/base", "https://evil.example/base", "file:///etc", "hf://evil/base", "/nowhere/at/all", "../up", "x"]
)
def test_the_base_that_an_adapter_names_is_not_fetched(pair, monkeypatch, name):
    import huggingface_hub

    asked = []

    def refuse(*words, **options):
        asked.append(options)
        raise OSError("not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    _, adapter = pair
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=name)
    with raises("model-base-not-local" if name == "evil/base" else "model-not-found", name):
        open_engine(str(adapter), device="cpu", how=EvalExecution())
    assert all(options["local_files_only"] for options in asked)


def test_what_is_fetched_of_a_hub_id_is_no_code_and_no_pickle(monkeypatch, tmp_path):
    """By the patterns that the hub's library is given, applied by that library."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **words: asked.append(words) or str(tmp_path))
    assert resolve_model("org/name") == tmp_path
    there = [*hostile.PICKLES, "modeling_evil.py", "custom_generate/generate.py", "adapter_config.json", "x.ipynb"]
    good = ["model-1-of-2.safetensors", "config.json", "tokenizer.json", "merges.txt", "LICENSE", "tokenizer.model"]
    patterns = {key: asked[0][key] for key in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects([*there, *good], **patterns)) == good


def test_an_adapter_beside_a_model_does_not_put_another_in_its_place(pair, tmp_path, capsys):
    """transformers loads the base that adapter_config.json names, and not the weights that lie beside it."""
    base, adapter = pair
    for path in adapter.iterdir():
        shutil.copy(path, base)
    edit_json(base / "adapter_config.json", base_model_name_or_path="evil/base")
    with raises("model-with-adapter", base):
        load_base(base, quantisation="none", double_quantisation=False, compute_dtype="float32", device="cpu")
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 2
    assert "[model-with-adapter]" in capsys.readouterr().err


def test_patterns_that_others_train_with_are_read(pair):
    """Among them what Unsloth writes."""
    names, words = "q_proj|k_proj|v_proj|o_proj", "self_attn|attention|attn|mlp"
    whole = rf"(?:.*?(?:language|text).*?(?:{words}).*?(?:{names}).*?)"
    whole += rf"|(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{words})\.(?:{names}))"
    for pattern in (whole, r".*\.layers\.(0|1|2)\.self_attn\.(q|k)_proj", ["q_proj"], "all-linear", None):
        safety.require_lora({"peft_type": "LORA", "target_modules": pattern}, pair[1])


# ---------------------------------------------------------------------------------------------------- code of the model


def test_code_that_comes_with_a_model_is_never_imported(pico, tmp_path, capsys):
    base = with_code(Path(shutil.copytree(pico / "base", tmp_path / "base")), trust_remote_code=True)
    assert cli.main(train_words(pico, base, tmp_path)) == 0  # its architecture is known without that code
    adapter = tmp_path / "run/adapter"
    edit_json(
        adapter / "adapter_config.json",
        auto_mapping={"base_model_class": "EvilModel", "parent_library": "modeling_evil"},
    )
    (adapter / "files.json").unlink()  # which would tell that it was changed
    words = merge_words(base, adapter, tmp_path / "out")
    assert cli.main([*words, "--verify"]) == 0
    for folder in (base, adapter):
        engine = open_engine(str(folder), device="cpu", how=EvalExecution())
        assert engine.model(input_ids=torch.tensor([[1, 2]])).logits.isfinite().all()
    assert not (tmp_path / "modules").exists() or not list((tmp_path / "modules").rglob("*evil*"))


@pytest.mark.parametrize("changes", [{"model_type": "evil"}, {"model_type": None, "architectures": ["EvilModel"]}])
def test_an_architecture_that_needs_its_own_code_is_refused(pico, tmp_path, changes):
    base = with_code(Path(shutil.copytree(pico / "base", tmp_path / "base")), **changes)
    assert cli.main(["eval", str(base), "--out", str(tmp_path / "eval"), "--tasks", "bundled"]) == 2


def test_a_tokenizer_that_needs_its_own_code_is_refused(pico, tmp_path):
    base = with_code(Path(shutil.copytree(pico / "base", tmp_path / "base")))
    edit_json(base / "tokenizer_config.json", tokenizer_class="EvilTokenizer")
    (base / "tokenizer.json").unlink()
    assert cli.main(["eval", str(base), "--out", str(tmp_path / "eval"), "--tasks", "bundled"]) == 2


def test_attention_from_elsewhere_is_refused(pico, tmp_path):
    base = Path(shutil.copytree(pico / "base", tmp_path / "base"))
    for changes in ({"attn_implementation": "evil/kernel"}, {"text_config": {"_attn_implementation": "evil/kernel:f"}}):
        shutil.copy(pico / "base/config.json", base)
        edit_json(base / "config.json", **changes)
        with raises("model-names-code", base, "evil/kernel"):
            open_engine(str(base), device="cpu", how=EvalExecution())
        with raises("model-names-code", base, "evil/kernel"):
            BertScore(base, "cpu")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../good.safetensors", "weights-index-outside"),
        ("ROOT/good.safetensors", "weights-index-outside"),
        ("good.bin", "weights-index-names-others"),
    ],
)
def test_an_index_may_not_even_name_good_files_elsewhere(pair, tmp_path, name, code):
    base, adapter = pair
    (base / "model.safetensors").rename(tmp_path / "good.safetensors")
    shutil.copy(tmp_path / "good.safetensors", base / "good.bin")
    name = name.replace("ROOT", str(tmp_path))
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with raises(code, base, repr(name)):
        load_base(base, quantisation="none", double_quantisation=False, compute_dtype="float32", device="cpu")
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 2
