"""Hostile model folders and adapters: pickles, code, files named elsewhere, templates. Nothing of them may run."""

import io
import json
import os
import pickle
import shutil
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from nsllm_lite import cli, recipe, untrusted
from nsllm_lite.evals.bert_score import BertScore
from nsllm_lite.evals.engine import open_engine
from nsllm_lite.evals.evaluate import as_told
from nsllm_lite.model import load_adapter, load_base, resolve_model
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.task import TASKS
from tests.conftest import pico_values
from tests.evals.conftest import make_talker
from tests.merge.make import edit_json, make_adapter, make_base

RAN = []  # what a pickle or a template has had called
SECRET = "xyzzy-secret-7481"


def ran(*words):
    RAN.append(words)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["MARKER"],)


@pytest.fixture(autouse=True)
def marker(tmp_path, monkeypatch):
    """A folder that appears when anything hostile runs; it must not."""
    path = tmp_path / "it-ran"
    monkeypatch.setenv("MARKER", str(path))
    RAN.clear()
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield path
    assert not path.exists()
    assert not RAN


def pickled() -> bytes:
    return pickle.dumps({"model.norm.weight": Evil()})


def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model.norm.weight": Evil()}, buffer)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickled())
    return buffer.getvalue()


CODE = "import os\nos.mkdir(os.environ['MARKER'])\nclass Evil: pass\n"


def test_the_attacks_do_harm_where_nobody_looks(marker):
    """Else the tests below show nothing."""
    for attack in (lambda: pickle.loads(pickled()), lambda: torch.load(io.BytesIO(torch_file()), weights_only=False)):
        attack()
        marker.rmdir()
    exec(CODE)
    marker.rmdir()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("made")
    base = make_base(folder / "base")
    return base, make_adapter(base, folder / "adapter")


@pytest.fixture
def pair(made, tmp_path) -> tuple[Path, Path]:
    """A base and an adapter to spoil."""
    return tuple(Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in made)


def merge_words(base, adapter, out):
    return ["merge", "--base", str(base), "--adapter", str(adapter), "--out", str(out)]


def train_words(pico, base, tmp_path, **changes):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({**pico_values(pico, tmp_path / "run"), "model": str(base), **changes}))
    return ["train", str(path)]


# ---------------------------------------------------------------------------------------------------------- weights

INDEX = {"metadata": {}, "weight_map": {"model.norm.weight": "evil"}}
NO_WEIGHTS = {
    "pytorch_model.bin": {"pytorch_model.bin": torch_file},
    "pickle in shards": {
        "pytorch_model-00001-of-00001.bin": torch_file,
        "pytorch_model.bin.index.json": lambda: json.dumps(INDEX).replace("evil", "pytorch_model-00001-of-00001.bin"),
    },
    "index names a pickle": {
        "evil.bin": torch_file,
        "model.safetensors.index.json": lambda: json.dumps(INDEX).replace("evil", "evil.bin"),
    },
    "index leads up": {"model.safetensors.index.json": lambda: json.dumps(INDEX).replace("evil", "../x.safetensors")},
    "index leads to root": {"model.safetensors.index.json": lambda: json.dumps(INDEX).replace("evil", "/etc/passwd")},
    "index names nothing": {"model.safetensors.index.json": lambda: '{"weight_map": ["evil"]}'},
    "index without end": {"model.safetensors.index.json": lambda: "[" * 100_000},
    "another name": {"other.safetensors": torch_file, "pytorch_model.bin": torch_file},
    "safetensors is a pickle": {"model.safetensors": pickled},
    "safetensors is torch's": {"model.safetensors": torch_file},
    "safetensors is a zip": {"model.safetensors": zipped},
    "safetensors of no bytes": {"model.safetensors": lambda: b""},
    "safetensors of endless head": {"model.safetensors": lambda: b"\xff" * 64},
    "config without end": {"config.json": lambda: '{"a":' * 100_000},
    "config is a list": {"config.json": lambda: "[]"},
    "config of long numbers": {"config.json": lambda: '{"vocab_size": ' + "9" * 10_000 + "}"},
    "keras and flax": {"tf_model.h5": pickled, "flax_model.msgpack": pickled, "consolidated.00.pth": torch_file},
}


@pytest.mark.parametrize("attack", NO_WEIGHTS)
def test_weights_that_are_no_safetensors_are_refused_by_every_verb(pico, pair, tmp_path, capsys, attack):
    _, adapter = pair
    base = Path(shutil.copytree(pico / "base", tmp_path / "spoilt"))
    if not attack.startswith("config"):
        (base / "model.safetensors").unlink()
    for name, content in NO_WEIGHTS[attack].items():
        data = content()
        (base / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    for words in (
        train_words(pico, base, tmp_path),
        merge_words(base, adapter, tmp_path / "out"),
        ["eval", str(base), "--out", str(tmp_path / "eval"), "--tasks", "bundled"],
    ):
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert "safetensors" in said or "config.json" in said
    with pytest.raises(ValueError, match=r"safetensors|config\.json"):
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
    assert "safetensors" in capsys.readouterr().err


PICKLES = ("pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "model.pkl")
PICKLES += ("adapter_model.bin", "trainer_state.pt", "dataset.pkl", "state.pickle", "arrays.npy", "vocab.pkl")
PICKLES += ("tokenizer.pkl", "scaler.pt", "tf_model.h5", "consolidated.00.pth", "arrays.npz", "tokenizer.joblib")


def litter(folder):
    for name in PICKLES:
        (folder / name).write_bytes(torch_file() if name.endswith((".bin", ".pt", ".pth")) else pickled())


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
    engine = open_engine(str(run_folder / "adapter"), device="cpu", how=recipe.EvalExecution())
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
    assert "damaged (optimizer.safetensors, rng.safetensors, trained.safetensors), passed over" in told


# ---------------------------------------------------------------------------------------------------------- adapters


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
    with pytest.raises(ValueError, match="No adapter at"):
        load_adapter(model, adapter)


EVIL_SETTINGS = {
    "modules of Megatron": {"megatron_config": {"a": 1}, "megatron_core": "evil_module"},
    "adapters of the hub": {"peft_type": "XLORA", "adapters": {"0": "evil/adapter"}, "hidden_size": 64},
    "a tokenizer with code": {
        "peft_type": "PROMPT_TUNING", "prompt_tuning_init": "TEXT", "tokenizer_name_or_path": "evil/tokenizer",
        "tokenizer_kwargs": {"trust_remote_code": True}, "inference_mode": False, "num_virtual_tokens": 4,
    },
    "a pattern without end": {"rank_pattern": {"(a+)+$": 8}},
    "targets without end": {"target_modules": "(([a-z._0-9])+)+!"},
    "a polynomial": {"target_modules": ".*a.*b.*c.*d.*e.*f.*g"},
}  # fmt: skip


@pytest.mark.parametrize("attack", EVIL_SETTINGS)
def test_settings_of_an_adapter_fetch_import_and_hang_nothing(pair, tmp_path, monkeypatch, capsys, attack):
    base, adapter = pair
    (tmp_path / "evil_module.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    edit_json(adapter / "adapter_config.json", **EVIL_SETTINGS[attack])
    started = time.process_time()
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 2
    model = load_base(base, quantisation="none", double_quantisation=False, compute_dtype="float32", device="cpu")
    with pytest.raises(ValueError, match=r"Only LoRA|may not name code|may take for ever"):
        load_adapter(model, adapter)
    with pytest.raises(ValueError, match=r"Only LoRA|may not name code|may take for ever"):
        open_engine(str(adapter), device="cpu", how=recipe.EvalExecution())
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
    with pytest.raises(ValueError, match=r"No model at|is not on this machine. Nothing is fetched"):
        open_engine(str(adapter), device="cpu", how=recipe.EvalExecution())
    assert all(options["local_files_only"] for options in asked)


def test_an_adapter_beside_a_model_does_not_put_another_in_its_place(pair, tmp_path, capsys):
    """transformers loads the base that adapter_config.json names, and not the weights that lie beside it."""
    base, adapter = pair
    for path in adapter.iterdir():
        shutil.copy(path, base)
    edit_json(base / "adapter_config.json", base_model_name_or_path="evil/base")
    with pytest.raises(ValueError, match="holds a model and an adapter"):
        load_base(base, quantisation="none", double_quantisation=False, compute_dtype="float32", device="cpu")
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 2
    assert "holds a model and an adapter" in capsys.readouterr().err


def test_patterns_that_others_train_with_are_read(pair):
    """Among them what Unsloth writes."""
    names, words = "q_proj|k_proj|v_proj|o_proj", "self_attn|attention|attn|mlp"
    whole = rf"(?:.*?(?:language|text).*?(?:{words}).*?(?:{names}).*?)"
    whole += rf"|(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{words})\.(?:{names}))"
    for pattern in (whole, r".*\.layers\.(0|1|2)\.self_attn\.(q|k)_proj", ["q_proj"], "all-linear", None):
        untrusted.require_lora({"peft_type": "LORA", "target_modules": pattern}, pair[1])


# -------------------------------------------------------------------------------------------------- code of the model


def with_code(base: Path, **config) -> Path:
    """Every place where transformers and PEFT look for a model's own code."""
    for name in ("modeling_evil", "configuration_evil", "tokenization_evil", "tokenizer_evil", "__init__"):
        (base / f"{name}.py").write_text(CODE)
    (base / "custom_generate").mkdir()
    (base / "custom_generate/generate.py").write_text(CODE + "def generate(*a, **k): pass\n")
    autos = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    edit_json(base / "config.json", auto_map={a: f"modeling_evil.Evil{a}" for a in autos}, **config)
    edit_json(
        base / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]},
    )
    (base / "generation_config.json").write_text(json.dumps({"custom_generate": ".", "trust_remote_code": True}))
    return base


def test_code_that_comes_with_a_model_is_never_imported(pico, tmp_path, capsys):
    base = with_code(Path(shutil.copytree(pico / "base", tmp_path / "base")), trust_remote_code=True)
    assert cli.main(train_words(pico, base, tmp_path)) == 0  # its architecture is known without that code
    adapter = tmp_path / "run/adapter"
    edit_json(
        adapter / "adapter_config.json",
        auto_mapping={"base_model_class": "EvilModel", "parent_library": "modeling_evil"},
    )
    words = merge_words(base, adapter, tmp_path / "out")
    assert cli.main([*words, "--verify"]) == 0
    for folder in (base, adapter):
        engine = open_engine(str(folder), device="cpu", how=recipe.EvalExecution())
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
        with pytest.raises(ValueError, match="asks for attention from 'evil/kernel"):
            open_engine(str(base), device="cpu", how=recipe.EvalExecution())
        with pytest.raises(ValueError, match="asks for attention from 'evil/kernel"):
            BertScore(base, "cpu")


# ---------------------------------------------------------------------------------------------------- chat templates


@pytest.fixture(scope="module")
def talker(tmp_path_factory) -> Path:
    return make_talker(tmp_path_factory.mktemp("talker"))


TEMPLATES = {
    "os by attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "os by globals": "{{ raise_exception.__globals__['os'].mkdir(MARKER) }}",
    "os by init": "{{ cycler.__init__.__globals__.os.mkdir(MARKER) }}",
    "os by self": "{{ self._TemplateReference__context.environment.loader.x }}",
    "os by lipsum": "{{ lipsum.__globals__['os'].mkdir(MARKER) }}",
    "os by attr": "{{ messages|attr('__class__')|attr('__base__')|attr('__subclasses__')() }}",
    "os by format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "os by map": "{{ ['x']|map(attribute='__class__.__mro__')|list|string|upper }}{{ cycler.__init__.x.y }}",
    "an import": "{% import 'os' as os %}{{ os.mkdir(MARKER) }}",
    "an include": "{% include '/etc/passwd' %}",
    "a long range": "{% for i in range(10**9) %}x{% endfor %}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ 10 ** 10 ** 3 }}{{ ('x' * 50000000) }}",
    "itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "no template": "{% for %}",
    "nothing known": "{{ nothing.at.all }}",
    "changes its input": "{{ messages.append(1) }}",
}


@pytest.mark.parametrize("attack", TEMPLATES)
def test_a_chat_template_can_neither_leave_its_sandbox_nor_run_for_ever(talker, monkeypatch, marker, attack):
    monkeypatch.setattr(untrusted, "CHAT_SECONDS", 0.5)
    engine = open_engine(str(talker), device="cpu", how=recipe.EvalExecution())
    engine.tokenizer.chat_template = TEMPLATES[attack].replace("MARKER", repr(str(marker)))
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"the chat template (refuses|takes|writes).* set modes: \[few-shot\]"):
        as_told(engine, TASKS["open"], Item(0, "Is it?", "yes", {}), ())
    assert time.monotonic() - started < 20


# ------------------------------------------------------------------------------------------------- what a merge takes


def test_a_merge_takes_over_neither_code_nor_pickles_nor_their_names(pair, tmp_path, capsys):
    base, adapter = pair
    (base / "tokenizer_config.json").write_text('{"eos_token": "x"}')
    with_code(base, custom_pipelines={"evil": {"impl": "evil.Evil"}})
    litter(base)
    (base / "LICENSE.py").write_text(CODE)
    (base / "LICENSE").write_text("Free.")
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 0
    out = tmp_path / "out"
    assert {path.suffix for path in out.rglob("*") if path.is_file()} == {".json", ".safetensors", ".md", ""}
    assert (out / "LICENSE").read_text() == "Free."
    for path in out.glob("*.json"):
        if path.name != "manifest.json":
            assert "evil" not in path.read_text().lower(), path
    said = capsys.readouterr().out
    for name in ("tokenizer_evil.py", "vocab.pkl", "tokenizer.joblib", "LICENSE.py", "auto_map of config.json"):
        assert name in said.split("is left behind")[1]
        assert name in json.loads((out / "manifest.json").read_text())["results"]["left_behind"]


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json", "config.json", "chat_template.jinja"])
def test_a_link_out_of_the_base_is_not_copied_into_the_merged_model(pair, tmp_path, capsys, name):
    """Which could be sent to the hub with a key of yours in it."""
    base, adapter = pair
    content = (base / name).read_text() if (base / name).is_file() else SECRET
    (tmp_path / "secret").write_text(content)
    (base / name).unlink(missing_ok=True)
    (base / name).symlink_to("../secret")
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 2
    assert "is a link that leads out of its folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_cache_of_the_hub_is_merged_through_its_links(pair, tmp_path):
    base, adapter = pair
    snapshot = tmp_path / "models--org--base/snapshots/0123"
    (tmp_path / "models--org--base/blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(base.iterdir())):
        path.rename(tmp_path / f"models--org--base/blobs/{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert cli.main([*merge_words(snapshot, adapter, tmp_path / "out"), "--trust-base"]) == 0
    copied = (tmp_path / "out/tokenizer.json", tmp_path / "out/config.json")
    assert all(path.is_file() and not path.is_symlink() for path in copied)


HOSTILE = "evil\n---\nlicense: mit\n---\n# Owned <script>alert(1)</script> | x | `y` \x1b[2J"


def test_the_card_cannot_be_written_by_the_base(pair, tmp_path):
    base, adapter = pair
    front = {"license": HOSTILE, "license_name": HOSTILE, "license_link": "javascript:alert(1)", "tags": [HOSTILE]}
    (base / "README.md").write_text(f"---\n{yaml.safe_dump(front)}---\n")
    manifest = {"verb": "merge", "recipe": {}, "inputs": {}, "results": {"base_model": HOSTILE}, "versions": {}}
    (base / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main([*merge_words(base, adapter, tmp_path / "out"), "--trust-base"]) == 0
    text = (tmp_path / "out/README.md").read_text()
    _, head, body = text.split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["tags"] == ["nsllm-lite"]
    assert values["license"] == HOSTILE  # as data; the hub knows no such licence
    assert "base_model" not in values
    assert "<script" not in body
    assert "\x1b" not in text
    assert next(line for line in body.splitlines() if line.startswith("#")) == "# out"
    assert "# Owned" not in body.splitlines()


FRONTS = [
    "a: &a [x]\nb: &b [*a,*a]\nlicense: mit",
    "d: 2001-99-99",
    "[" * 5_000,
    "a: !!python/object/apply:os.mkdir [x]",
]


@pytest.mark.parametrize("front", FRONTS)
def test_front_matter_of_a_hostile_card_ends_in_no_licence(pair, tmp_path, front):
    base, adapter = pair
    (base / "README.md").write_text(f"---\n{front}\n---\n")
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 0
    head = (tmp_path / "out/README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["license"] == ("mit" if "mit" in front else "unknown")


# ------------------------------------------------------------------------------------------------------------- names

NAMES = ["https://evil.example/m", "http://evil/m", "file:///etc/passwd", "hf://evil/m", "-rf/x", "--out/x", "a/b\nc"]
NAMES += ["../../etc/passwd", "/etc/passwd", "~/x/y", "a/../b", "evil/..", "a\\b/c", "a/b@main", "a b/c", "s3:x/y", ""]


@pytest.mark.parametrize("name", NAMES)
def test_a_models_name_is_a_folder_or_a_hub_id_and_nothing_else(monkeypatch, tmp_path, capsys, name):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", ran)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", ran)
    assert not untrusted.HUB_ID.fullmatch(name)
    with pytest.raises(ValueError, match=r"No model at|is no model directory"):
        resolve_model(name)
    words = [f"--model={name}", f"--out={tmp_path / 'run'}", "--recipes=recipes/nano"]
    if name:
        assert cli.main(["plan", *words]) == 2
        assert "\n" not in capsys.readouterr().err.strip()


@pytest.mark.parametrize("name", [*NAMES, "a", "a/b/c", "-a/b"])
def test_models_are_sent_to_a_hub_id_and_nowhere_else(pair, tmp_path, capsys, name):
    base, adapter = pair
    if name:
        assert cli.main([*merge_words(base, adapter, tmp_path / "out"), f"--push-to-hub={name}"]) == 2
        assert "is no id of a model" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_an_extension_type_with_a_pickle_in_it_is_not_unpickled(tmp_path):
    """As Arrow once did of itself (CVE-2023-47248)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nsllm_lite.corpus import sources

    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickled()}
    fields = [pa.field(name, pa.string(), metadata=extension) for name in ("title", "abstract")]
    table = pa.table({"title": ["Tin"], "abstract": ["Whiskers"]}, schema=pa.schema(fields, {"pandas": pickled()}))
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in/a.parquet")
    names = {"title": "title", "abstract": "abstract"}
    source = recipe.Source(name="s", path=str(tmp_path / "in"), format="fields", fields=names)
    (document,) = (record for file in sources.files_of(source) for record in sources.read(source, file, False))
    assert document.title == "Tin"


def test_a_good_model_stays_good(pico, tmp_path):
    """The refusals above are not refusals of everything."""
    base = Path(shutil.copytree(pico / "base", tmp_path / "base"))
    untrusted.require_plain_model(base)
    tensors = {"a": torch.zeros(2)}
    (base / "model.safetensors").unlink()
    save_file(tensors, base / "model-1.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert untrusted.weight_files(base) == ["model-1.safetensors"]
