"""Hostile model folders and adapters: pickles, code, files named elsewhere. Nothing of them may run."""

import io
import json
import pickle
import re
import shutil
import sys
import tomllib
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from nsllm_lite import cli, safety
from nsllm_lite.evals.bert_score import BertScore
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.lora import load_adapter
from tests.faults import hostile
from tests.faults.hostile import CODE, PICKLED, TORCH_FILE, ZIPPED, litter, merge_words, train_words, with_code
from tests.merge.make import edit_json
from tests.models.make import load_plain
from tests.raising import fails, raises

marker, made, pair, spoilt = hostile.marker, hostile.made, hostile.pair, hostile.spoilt


def test_the_attacks_do_harm_where_nobody_looks(marker):
    """Else the tests below show nothing."""
    for attack in (lambda: pickle.loads(PICKLED), lambda: torch.load(io.BytesIO(TORCH_FILE), weights_only=False)):
        attack()
        marker.rmdir()
    exec(CODE)
    marker.rmdir()


# -------------------------------------------------------------------------------------------------------------- weights

NOT_SAFETENSORS, ABSENT, INDEX_FILE = "weights-not-safetensors", "weights-absent", "model.safetensors.index.json"


def index_of(name: str) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": name}}).encode()


NO_WEIGHTS = {
    "pytorch_model.bin": (ABSENT, {"pytorch_model.bin": TORCH_FILE}),
    "pickle in shards": (ABSENT, {
        "pytorch_model-00001-of-00001.bin": TORCH_FILE,
        "pytorch_model.bin.index.json": index_of("pytorch_model-00001-of-00001.bin"),
    }),
    "index names a pickle": (
        "weights-index-names-others", {"evil.bin": TORCH_FILE, INDEX_FILE: index_of("evil.bin")},
    ),
    "index leads up": ("weights-index-outside", {INDEX_FILE: index_of("../x.safetensors")}),
    "index leads to root": ("weights-index-outside", {INDEX_FILE: index_of("/etc/passwd")}),
    "index names nothing": ("weights-index-empty", {INDEX_FILE: b'{"weight_map": ["evil"]}'}),
    "index without end": ("model-file-wrong", {INDEX_FILE: b"[" * 100_000}),
    "another name": (ABSENT, {"other.safetensors": TORCH_FILE, "pytorch_model.bin": TORCH_FILE}),
    "safetensors is a pickle": (NOT_SAFETENSORS, {"model.safetensors": PICKLED}),
    "safetensors is torch's": (NOT_SAFETENSORS, {"model.safetensors": TORCH_FILE}),
    "safetensors is a zip": (NOT_SAFETENSORS, {"model.safetensors": ZIPPED}),
    "safetensors of no bytes": (NOT_SAFETENSORS, {"model.safetensors": b""}),
    "safetensors of endless head": (NOT_SAFETENSORS, {"model.safetensors": b"\xff" * 64}),
    "config without end": ("model-file-wrong", {"config.json": b'{"a":' * 100_000}),
    "config is a list": ("model-config-wrong", {"config.json": b"[]"}),
    "config of long numbers": ("model-file-wrong", {"config.json": b'{"vocab_size": ' + b"9" * 10_000 + b"}"}),
    "keras and flax": (
        ABSENT, {"tf_model.h5": PICKLED, "flax_model.msgpack": PICKLED, "consolidated.00.pth": TORCH_FILE},
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", NO_WEIGHTS)
def test_weights_that_are_no_safetensors_are_refused_by_every_verb(pico, pair, spoilt, tmp_path, capsys, attack):
    if not attack.startswith("config"):
        (spoilt / "model.safetensors").unlink()
    code, files = NO_WEIGHTS[attack]
    for name, content in files.items():
        (spoilt / name).write_bytes(content)
    merge = merge_words(spoilt, pair[1], tmp_path / "out")
    for words in (train_words(pico, spoilt, tmp_path), merge, hostile.eval_words(spoilt, tmp_path)):
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        # training takes the fingerprint first
        assert any(f"[{one}]" in said for one in (code, ABSENT, NOT_SAFETENSORS, "model-file-wrong")), said
    with raises(code, spoilt):
        BertScore(spoilt, "cpu")
    assert not (tmp_path / "out").exists()


def entry(shape=(4, 4), offsets=(0, 64)):
    return {"model.norm.weight": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}


FORGED = [entry(offsets=offsets) for offsets in ((-64, 0), (64, 0), (0, 1 << 60))]
FORGED += [entry(shape=shape) for shape in ((1 << 40, 1 << 40), (-4, -4), ("a", 4), (4,))]
FORGED += [{"model.norm.weight": "F32"}, b"[" * 100_000]


@pytest.mark.parametrize("header", FORGED)
def test_forged_headers_of_safetensors_are_refused(pair, tmp_path, capsys, header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (pair[0] / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    assert cli.main(merge_words(*pair, tmp_path / "out")) == 2
    assert re.search(r"\[weights-(not-safetensors|size-wrong)\]", capsys.readouterr().err)


def test_pickles_beside_and_in_good_files_are_not_opened_in_training_resuming_and_scoring(
    pico, spoilt, tmp_path, capsys
):
    rows = Path(shutil.copytree(pico / "rows", tmp_path / "rows"))
    litter(spoilt)
    litter(rows)
    words = train_words(pico, spoilt, tmp_path, rows=str(rows / "papers/train"), keep_checkpoints=9)
    assert cli.main(words) == 0
    (tmp_path / "run/manifest.json").unlink()
    for path in (tmp_path / "run/checkpoints/step-000012").glob("*.safetensors"):
        path.write_bytes(TORCH_FILE)
    litter(tmp_path / "run")
    capsys.readouterr()
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "(optimizer.safetensors, rng.safetensors, trained.safetensors)" in printed
    assert "continuing after step 8" in printed
    assert hostile.logits_are_finite(tmp_path / "run/adapter")


# ------------------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("content", [PICKLED, TORCH_FILE, ZIPPED], ids=["pickle", "torch", "zip"])
def test_an_adapter_that_is_a_pickle_is_refused(pair, tmp_path, capsys, content):
    base, adapter = pair
    (adapter / "adapter_model.bin").write_bytes(content)
    weights = adapter / "adapter_model.safetensors"
    for spoil in (lambda: weights.write_bytes(content), weights.unlink):
        spoil()
        assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 2
        assert "safetensors" in capsys.readouterr().err
    with raises("model-adapter-missing", adapter):
        load_adapter(load_plain(base), adapter)


EVIL_SETTINGS = tomllib.loads((Path(__file__).parents[1] / "data/faults/adapters.toml").read_text())


@pytest.mark.parametrize("attack", EVIL_SETTINGS)
@pytest.mark.timed
def test_settings_of_an_adapter_fetch_import_and_hang_nothing(pair, tmp_path, monkeypatch, capsys, attack):
    base, adapter = pair
    (tmp_path / "evil_module.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    code = EVIL_SETTINGS[attack]["code"]
    edit_json(adapter / "adapter_config.json", **EVIL_SETTINGS[attack]["settings"])
    with hostile.ends_within(20):
        assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 2
        with raises(code, adapter):
            load_adapter(load_plain(base), adapter)
        with raises(code, adapter):
            hostile.logits_are_finite(adapter)
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    "name", ["evil/base", "https://evil.example/base", "file:///etc", "hf://evil/base", "/nowhere/at/all", "../up", "x"]
)
def test_the_base_that_an_adapter_names_is_not_fetched(pair, monkeypatch, name):
    fetch = Mock(side_effect=OSError("not here"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    _, adapter = pair
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=name)
    with raises("model-base-not-local" if name == "evil/base" else "model-not-found", name):
        hostile.logits_are_finite(adapter)
    assert all(call.kwargs["local_files_only"] for call in fetch.call_args_list)


def test_what_is_fetched_of_a_hub_id_is_no_code_and_no_pickle(monkeypatch, tmp_path):
    """By the patterns that the hub's library is given, applied by that library."""
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **words: asked.append(words) or str(tmp_path))
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
        load_plain(base)
    fails(capsys, "model-with-adapter", *merge_words(base, adapter, tmp_path / "out"))


def test_patterns_that_others_train_with_are_read(pair):
    """Among them what Unsloth writes."""
    names, words = "q_proj|k_proj|v_proj|o_proj", "self_attn|attention|attn|mlp"
    whole = rf"(?:.*?(?:language|text).*?(?:{words}).*?(?:{names}).*?)"
    whole += rf"|(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{words})\.(?:{names}))"
    for pattern in (whole, r".*\.layers\.(0|1|2)\.self_attn\.(q|k)_proj", ["q_proj"], "all-linear", None):
        safety.require_lora({"peft_type": "LORA", "target_modules": pattern}, pair[1])


# ---------------------------------------------------------------------------------------------------- code of the model


def test_code_that_comes_with_a_model_is_never_imported(pico, spoilt, tmp_path):
    with_code(spoilt, trust_remote_code=True)
    assert cli.main(train_words(pico, spoilt, tmp_path)) == 0  # its architecture is known without that code
    adapter = tmp_path / "run/adapter"
    mapping = {"base_model_class": "EvilModel", "parent_library": "modeling_evil"}
    edit_json(adapter / "adapter_config.json", auto_mapping=mapping)
    (adapter / "files.json").unlink()  # which would tell that it was changed
    assert cli.main([*merge_words(spoilt, adapter, tmp_path / "out"), "--verify"]) == 0
    assert hostile.logits_are_finite(spoilt)
    assert hostile.logits_are_finite(adapter)
    assert not list((tmp_path / "modules").rglob("*evil*"))


@pytest.mark.parametrize("changes", [{"model_type": "evil"}, {"model_type": None, "architectures": ["EvilModel"]}])
def test_an_architecture_that_needs_its_own_code_is_refused(spoilt, tmp_path, changes):
    assert cli.main(hostile.eval_words(with_code(spoilt, **changes), tmp_path)) == 2


def test_a_tokenizer_that_needs_its_own_code_is_refused(spoilt, tmp_path):
    edit_json(with_code(spoilt) / "tokenizer_config.json", tokenizer_class="EvilTokenizer")
    (spoilt / "tokenizer.json").unlink()
    assert cli.main(hostile.eval_words(spoilt, tmp_path)) == 2


@pytest.mark.parametrize(
    "change", [{"attn_implementation": "evil/kernel"}, {"text_config": {"_attn_implementation": "evil/kernel:f"}}]
)
def test_attention_from_elsewhere_is_refused(spoilt, change):
    edit_json(spoilt / "config.json", **change)
    with raises("model-names-code", spoilt, "evil/kernel"):
        hostile.logits_are_finite(spoilt)
    with raises("model-names-code", spoilt, "evil/kernel"):
        BertScore(spoilt, "cpu")


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
        load_plain(base)
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 2
