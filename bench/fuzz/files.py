"""Targets beyond the corpus: recipes, weights, adapters, rows, manifests, checkpoints, items, logs and answers.

An input of a target of folders is a line with a file's name, and that file's content: the folder is whole but for it.
What may be raised is ValueError alone (and RuntimeError where the verb says so): what a user reads in one line.

    python -m bench.fuzz.run recipes adapters    other names: --list
"""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import matplotlib.figure  # noqa: F401 (makes its cache folder now, and not while an input is watched)
import numpy as np
import torch
from safetensors.torch import save
from tokenizers import Tokenizer, models, pre_tokenizers

from bench.fuzz.target import SEEDS, Target, put
from nsllm_lite.artifact import lineage
from nsllm_lite.artifact.step import begin, finished, read_manifest
from nsllm_lite.commands import show
from nsllm_lite.evals import audit
from nsllm_lite.formats.rows import Row, Rows, RowTotals, write_rows
from nsllm_lite.merge.inputs import open_adapter, open_base, require_same_base, require_sound
from nsllm_lite.merge.plan import on_rounding, plan_merge
from nsllm_lite.models.sizes import read_size
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import Eval
from nsllm_lite.recipe.merge import Merge
from nsllm_lite.tasks import answers, letters, sets
from nsllm_lite.tasks.from_papers import read_questions
from nsllm_lite.tasks.items import read_items
from nsllm_lite.train import checkpoint
from nsllm_lite.train.examples import read_examples
from nsllm_lite.train.plot import read_curve
from nsllm_lite.train.template import Template

Files = dict[str, bytes]
HEADER = ":header"  # after a name: the JSON header alone, whose length is written before it


def in_folder(whole: Callable[[], Files], check: Callable[[Path], object]) -> Callable[[bytes, Path], None]:
    """A target: `check` of the whole folder, one file of which is the input."""

    def target(content: bytes, folder: Path) -> None:
        files = dict(whole())
        line, _, rest = content.partition(b"\n")
        name = line.decode("ascii", "replace")
        if name.endswith(HEADER) and name.removesuffix(HEADER) in files:
            name, rest = name.removesuffix(HEADER), len(rest).to_bytes(8, "little") + rest + bytes(4096)
        files[name if name in files else next(iter(files))] = rest
        shutil.rmtree(folder / "whole", ignore_errors=True)
        refuses(check, put(folder / "whole", files))

    return target


def refuses(check: Callable[[Path], object], path: Path) -> None:
    """ValueError, and a message, is all that may be raised."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            check(path)
    except ValueError as error:
        assert str(error), "an error without a word"  # noqa: PT017


# --------------------------------------------------------------------------------------------------------- recipes


def check_recipe(content: bytes, folder: Path) -> None:
    (folder / "x.yaml").write_bytes(content)
    refuses(recipes.load, folder / "x.yaml")


def check_overrides(content: bytes, folder: Path) -> None:
    """A line an override, of each kind of recipe."""
    words = content.decode("utf-8", "surrogateescape").split("\n")
    for path in sorted((SEEDS / "recipes").glob("valid-*.yaml")):
        refuses(lambda file: recipes.load(file, words), path)


# --------------------------------------------------------------------------------------------------------- weights

LAYER = "model.layers.0.mlp.up_proj"


@cache
def model() -> Files:
    """A base of three tensors in two files, and its config."""
    weights = {
        "model.embed_tokens.weight": torch.ones(6, 4).bfloat16(),
        f"{LAYER}.weight": torch.ones(5, 4).bfloat16(),
        "lm_head.weight": torch.ones(6, 4).bfloat16(),
    }
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    parts = ({n: t for n, t in weights.items() if n != "lm_head.weight"}, {"lm_head.weight": weights["lm_head.weight"]})
    index = {"metadata": {}, "weight_map": {name: names[name == "lm_head.weight"] for name in weights}}
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 2}
    config |= {"hidden_size": 4, "intermediate_size": 5, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"vocab_size": 6, "tie_word_embeddings": False}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        **{name: save(part) for name, part in zip(names, parts, strict=True)},
    }


@cache
def adapter() -> Files:
    base = "base_model.model."
    weights = {f"{base}{LAYER}.lora_A.weight": torch.ones(2, 4), f"{base}{LAYER}.lora_B.weight": torch.ones(5, 2)}
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"], "bias": "none"}
    settings |= {"rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "base_model_name_or_path": "base"}
    training = {"base": "base", "quantisation": "nf4", "double_quantisation": True, "compute_dtype": "bfloat16"}
    return {
        "adapter_config.json": json.dumps(settings).encode(),
        "adapter_model.safetensors": save(weights),
        "training.json": json.dumps(training).encode(),
        "nf4.json": json.dumps({LAYER: 0.5}).encode(),
    }


def check_base(folder: Path) -> None:
    read_size(folder)
    base = open_base(folder)
    for stored in base.tensors.values():
        assert len(stored.read(0, stored.num_bytes)) == stored.num_bytes
    plan_on(base, put(folder.parent / "adapter", adapter()))


def check_adapter(folder: Path) -> None:
    plan_on(open_base(put(folder.parent / "base", model())), folder)


def plan_on(base: object, folder: Path) -> None:
    values = {"base": str(base.folder), "adapter": str(folder), "out": "out", "base_weights": "dequantized"}
    chosen = Merge(kind="merge", **values, then_requantize=False, shard_bytes=1000)
    opened = open_adapter(chosen.adapters[0])
    require_same_base(base, opened, chosen.base)
    plan = plan_merge(base, [opened], None)
    require_sound(base, [opened], trust_base=False)
    planned, rounding = on_rounding(plan, [opened], chosen)
    for name, one in planned.tensors.items():
        assert one.num_bytes >= 0
        mean = rounding.held(name).mean
        assert mean is None or isinstance(mean, float | int)


# ------------------------------------------------------------------------------------------------------------ rows


@cache
def rows() -> Files:
    """Without `files.json`, as others would hand them on: with it every change is seen by its hash."""
    made = [Row(np.arange(6, dtype=np.int32), [4, 2], ["a", "b"], ["s", "s"], [9, 5]) for _ in range(3)]
    with TemporaryDirectory() as folder:
        write_rows(Path(folder), made, RowTotals(8, 0, "sha"))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.name != "files.json"}


def check_rows(folder: Path) -> None:
    opened = Rows(folder)
    assert len(opened.sha256) == 64
    for number in range(min(len(opened), 5)):
        row = opened[number]
        assert sum(row.doc_lengths) == len(row.input_ids)


# ------------------------------------------------------------------------------------------------------- manifests


@cache
def steps_of_a_run() -> Files:
    """A corpus, a training on its rows with an unfinished twin, and a merge: what `runs` and `show` walk through."""
    root = Path(__file__).parent / "steps"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.glob("*/*"))}


def check_steps(folder: Path) -> None:
    """Each alone, then all of them listed, then one with all behind it."""
    for place in sorted(folder.iterdir()):
        refuses(read_manifest, place)
        refuses(lineage.read_step, place)
        refuses(lambda path: finished(path, {"kind": "train"}, {"rows": "sha"}), place)
        refuses(lambda path: begin(path, {"kind": "train"}, {"rows": "sha"}), place / "new")
    lineage.corpora_behind(str(folder / "model1"))
    refuses(show.list_runs, folder)
    refuses(lambda path: show.show(path, path / "x.png"), folder / "model1")
    with patch.object(show, "draw_curves"):  # once is slow enough
        show.show(folder, folder / "y.png")


# ----------------------------------------------------------------------------------------------------- checkpoints


@cache
def checkpoints() -> Files:
    """Two of a linear layer of two weights."""
    module, optimizer = _trained()
    with TemporaryDirectory() as folder:
        saved = [checkpoint.save(Path(folder), step, module, optimizer, {"tokens": step}) for step in (1, 2)]
        return {f"{place.name}/{path.name}": path.read_bytes() for place in saved for path in sorted(place.iterdir())}


def _trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    module = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return module, optimizer


def check_checkpoints(folder: Path) -> None:
    """A damaged one is passed over for the one before it."""
    newest = checkpoint.newest(folder)
    assert newest is not None, "the other checkpoint is whole"
    step, progress = checkpoint.load(newest, *_trained())
    assert newest.name == f"step-{step:06d}"
    assert progress == {"tokens": step}


# ------------------------------------------------------------------------------------------ items, logs and answers


def check_items(content: bytes, folder: Path) -> None:
    """As evaluation items, examined and put into a set of each task; as records to tune on; as questions."""
    path = folder / "x.jsonl"
    path.write_bytes(content)

    def check_own_sets(path: Path) -> None:
        assert all(item.input is not None for item in read_items(path))
        for task in ("multiple_choice", "open", "title", "classification"):
            refuses(partial(_load_set, task), path)

    refuses(lambda path: list(read_questions(path)), path)
    refuses(lambda path: audit.audit([path]), path)
    refuses(check_own_sets, path)


def _load_set(task: str, path: Path) -> None:
    values = {"kind": "eval", "out": "out", "seed": 0, "tasks": "none", "models": [{"name": "m", "path": "m"}]}
    chosen = Eval(**values, files=[{"name": "own", "task": task, "path": str(path)}])
    assert all(one.items or one.pool for one in sets.load_sets(chosen))


@cache
def byte_tokenizer() -> Tokenizer:
    """Its tokens are bytes, and <end>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: number for number, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def check_examples(content: bytes, folder: Path) -> None:
    """Every record of a file to tune on is used or left out for a reason."""
    path = folder / "x.jsonl"
    path.write_bytes(content)

    def check(path: Path) -> None:
        examples, ledger = read_examples([path], Template("plain", "<end>", byte_tokenizer(), None), 10_000)
        assert len(examples) == sum(row["used"] for row in ledger.counts().values())
        assert all(row["in"] == row["used"] + sum(row["left_out"].values()) for row in ledger.counts().values())

    refuses(check, path)


def check_curve(content: bytes, folder: Path) -> None:
    path = folder / "trainer_log.jsonl"
    path.write_bytes(content)
    refuses(read_curve, path)


def check_answer(content: bytes, folder: Path) -> None:
    """Nothing that a model writes may raise: what cannot be read is None."""
    text = content.decode("utf-8", "replace")
    labels = ("Methods", "Results", "Conclusion")
    assert answers.parse_label(text, labels) in (None, *labels)
    assert letters.parse_letter(text, "ABCD") in (None, *"ABCD")
    for parse in (answers.parse_line, answers.parse_result):
        assert parse(text) is None or parse(text)


def check_equal(content: bytes, folder: Path) -> None:
    """Two lines, compared as mathematics."""
    one, _, other = content.decode("utf-8", "replace").partition("\n")
    assert answers.is_equal(one, one)
    assert answers.is_equal(one, other) in (True, False)


TARGETS: dict[str, Target] = {
    "recipes": Target(check_recipe, "recipes", 3_000),
    "overrides": Target(check_overrides, "overrides", 300),
    "bases": Target(in_folder(model, check_base), "bases", 5_000),
    "adapters": Target(in_folder(adapter, check_adapter), "adapters", 5_000),
    "rows": Target(in_folder(rows, check_rows), "rows", 4_000),
    "manifests": Target(in_folder(steps_of_a_run, check_steps), "manifests", 300),
    "checkpoints": Target(in_folder(checkpoints, check_checkpoints), "checkpoints", 1_500),
    "items": Target(check_items, "items", 2_000),
    "examples": Target(check_examples, "examples", 10_000),
    "curves": Target(check_curve, "curves", 20_000),
    "answers": Target(check_answer, "answers", 15_000, 10_000),
    "equality": Target(check_equal, "equality", 200),
}
