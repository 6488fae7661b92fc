"""Pico models and rows, made in a second from nothing; no test reaches the network."""

import base64
import functools
import gc
import json
import os
import signal
import socket
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # tests with two threads do not spin

import jinja2
import numpy as np
import pytest
import yaml
from hypothesis import settings

from nsllm_lite.formats.rows import Row, RowTotals, write_rows
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import ModelShape

gc.set_threshold(100_000, 50, 100)  # else the libraries' imports take half as long again
settings.register_profile("default", max_examples=25, deadline=None)
settings.register_profile("many", max_examples=300, deadline=None)  # make test-slow
settings.load_profile("default")

VOCAB = 300
ROW_TOKENS = 64
END_OF_TEXT = 0
BLANK_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Only local sockets may be opened."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test reached for the network: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _pictures_are_blank(request, monkeypatch):
    """Drawing a picture takes longer than training a pico model: only tests marked `pictures` do it."""
    if not request.node.get_closest_marker("pictures"):
        from matplotlib.figure import Figure

        from nsllm_lite.corpus import ledger

        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).write_bytes(BLANK_PNG))
        monkeypatch.setattr(ledger, "draw", lambda summary, path: path.write_bytes(BLANK_PNG))


compiled = functools.lru_cache(jinja2.Environment.compile)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """For the disk: no file of a test outlives a power cut. Nor for TRL and accelerate, which collect garbage after
    each training, over all that the libraries hold; nor for PEFT, which compiles one template for each adapter."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(jinja2.Environment, "compile", compiled)
    gc.freeze()


@pytest.fixture
def signals_heeded():
    """As at a terminal: what a script starts in the background has Ctrl-C (and under nohup SIGHUP) ignored."""
    heard = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {one: signal.signal(one, handler) for one, handler in heard.items()}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


def text_like_row(rng: np.random.Generator, lengths: list[int], source: str, first_id: int) -> Row:
    """Documents whose tokens follow one another by a rule with noise, so that there is something to learn."""
    shift = 7 if source == "papers" else 11
    documents = []
    for length in lengths:
        ids = [int(rng.integers(1, VOCAB))]
        while len(ids) < length - 1:
            ids.append((ids[-1] + shift) % (VOCAB - 1) + 1 if rng.random() < 0.7 else int(rng.integers(1, VOCAB)))
        documents.append([*ids[: length - 1], END_OF_TEXT])
    return Row(
        input_ids=np.concatenate(documents).astype(np.int32),
        doc_lengths=lengths,
        doc_ids=[f"{source}-{first_id + i}" for i in range(len(lengths))],
        doc_sources=[source] * len(lengths),
        doc_bytes=[4 * (n - 1) for n in lengths],
    )


def make_rows(path: Path, num_rows: int, source: str, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        first = int(rng.integers(2, ROW_TOKENS - 2))
        lengths = [first, ROW_TOKENS - first - int(rng.integers(0, 2))]
        rows.append(text_like_row(rng, [n for n in lengths if n > 1], source, 1_000 * seed + 2 * number))
    write_rows(path, rows, RowTotals(ROW_TOKENS, END_OF_TEXT, "tokenizer-hash"))
    return path


@pytest.fixture(scope="session")
def pico(tmp_path_factory) -> Path:
    """A folder: a tokenizer, rows/{papers,general}/{train,heldout}, and untrained models, base and deep (2 layers)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from nsllm_lite.models.loading import build_base

    root = tmp_path_factory.mktemp("pico")
    tokenizer = Tokenizer(models.BPE({f"<{i}>": i for i in range(VOCAB)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    (root / "tokenizer").mkdir()
    tokenizer.save(str(root / "tokenizer" / "tokenizer.json"))
    (root / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<0>"})
    )
    for seed, (source, split, count) in enumerate(
        (("papers", "train", 40), ("papers", "heldout", 8), ("general", "train", 20), ("general", "heldout", 8))
    ):
        make_rows(root / "rows" / source / split, count, source, seed)
    for name, num_layers in (("base", 1), ("deep", 2)):
        shape = ModelShape(**{**SHAPE, "num_layers": num_layers}, tokenizer=str(root / "tokenizer"))
        build_base(shape, root / "tokenizer", 0, seed=1).save_pretrained(root / name)
        for path in (root / "tokenizer").iterdir():
            (root / name / path.name).write_text(path.read_text())
    return root


SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16,
    "tied_embeddings": False,
}  # fmt: skip


def pico_values(pico: Path, out: Path) -> dict:
    """A complete QLoRA train recipe on the pico model, as plain values."""
    rows = pico / "rows"
    return {
        "kind": "train",
        "out": str(out),
        "model": str(pico / "base"),
        "rows": str(rows / "papers/train"),
        "quantisation": "nf4",
        "double_quantisation": True,
        "compute_dtype": "float32",
        "adapter": {
            "rank": 8, "alpha": 16, "rslora": False,
            "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        },
        "optimizer": {
            "name": "adamw", "learning_rate": 5e-3, "betas": [0.9, 0.999], "weight_decay": 0.01,
            "max_grad_norm": 1.0,
        },
        "schedule": {"shape": "cosine", "warmup_steps": 2, "final_share": 0.1},
        "budget": {"steps": 12, "tokens_per_step": 4 * ROW_TOKENS, "tokens": 12 * 4 * ROW_TOKENS},
        "replay": {"rows": str(rows / "general/train"), "share": 0.15, "max_epochs": 4},
        "evaluation": {
            "domain_rows": str(rows / "papers/heldout"), "general_rows": str(rows / "general/heldout"),
            "every_steps": 4, "max_rows": 4,
        },
        "samples": {"count": 0, "prompt_tokens": 4, "new_tokens": 4},
        "checkpoint_steps": 4,
        "keep_checkpoints": 2,
        "seed": 3,
        "execution": {"device": "cpu", "micro_batch_rows": 2},
    }  # fmt: skip


@pytest.fixture
def pico_recipe(pico, tmp_path):
    """A function from changes to a complete QLoRA train recipe on the pico model."""
    return lambda **changes: recipes.validate({**pico_values(pico, tmp_path / "out"), **changes}, "pico recipe")


@pytest.fixture
def pico_yaml(pico_recipe, tmp_path) -> str:
    """The file of such a recipe."""
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(pico_recipe().model_dump(mode="json", exclude_none=True)))
    return str(path)
