"""What hostile folders hold: pickles and code that leave a mark where they run, and words for the verbs."""

import io
import json
import pickle
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from nsllm_lite.models.engines import open_engine
from nsllm_lite.recipe.evals import EvalExecution
from tests.conftest import pico_values
from tests.corpus.test_archives import zip_of
from tests.merge.make import edit_json, make_adapter, make_base

RAN = []  # what a pickle or a template has had called
SECRET = "xyzzy-secret-7481"


@contextmanager
def ends_within(seconds: float):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def ran(*words):
    RAN.append(words)


CODE = "import os\nos.mkdir(os.environ['MARKER'])\nclass Evil: pass\n"


class Evil:
    def __reduce__(self):
        return exec, (CODE,)


EVIL = {"model.norm.weight": Evil()}
PICKLED = pickle.dumps(EVIL)
ZIPPED = zip_of(("data.pkl", PICKLED))
buffer = io.BytesIO()
torch.save(EVIL, buffer)
TORCH_FILE = buffer.getvalue()


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


@pytest.fixture
def spoilt(pico, tmp_path) -> Path:
    """A base that can be trained on and run, to spoil."""
    return Path(shutil.copytree(pico / "base", tmp_path / "spoilt"))


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


def eval_words(base, tmp_path):
    return ["eval", str(base), "--out", str(tmp_path / "eval"), "--tasks", "bundled"]


def logits_are_finite(folder) -> bool:
    """Of a model or an adapter, opened as for scores."""
    engine = open_engine(str(folder), device="cpu", how=EvalExecution())
    return bool(engine.model(input_ids=torch.tensor([[1, 2]])).logits.isfinite().all())


def train_words(pico, base, tmp_path, **changes):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({**pico_values(pico, tmp_path / "run"), "model": str(base), **changes}))
    return ["train", str(path)]


PICKLES = ("pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "model.pkl")
PICKLES += ("adapter_model.bin", "trainer_state.pt", "dataset.pkl", "state.pickle", "arrays.npy", "vocab.pkl")
PICKLES += ("tokenizer.pkl", "scaler.pt", "tf_model.h5", "consolidated.00.pth", "arrays.npz", "tokenizer.joblib")


def litter(folder):
    for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        for name in PICKLES:
            (place / name).write_bytes(TORCH_FILE if name.endswith((".bin", ".pt", ".pth")) else PICKLED)


def with_code(base: Path, **config) -> Path:
    """Every place where transformers and PEFT look for a model's own code."""
    for name in ("modeling_evil", "configuration_evil", "tokenization_evil", "tokenizer_evil", "__init__"):
        (base / f"{name}.py").write_text(CODE)
    (base / "custom_generate").mkdir()
    (base / "custom_generate/generate.py").write_text(CODE + "def generate(*a, **k): pass\n")
    autos = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    edit_json(base / "config.json", auto_map={a: f"modeling_evil.Evil{a}" for a in autos}, **config)
    edit_json(base / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.Evil"] * 2})
    (base / "generation_config.json").write_text(json.dumps({"custom_generate": ".", "trust_remote_code": True}))
    return base
