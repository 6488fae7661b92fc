"""A small run of each verb, for `kills.killed`: all made from nothing, none longer than some seconds."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROW_TOKENS, pico_values
from tests.corpus.small import make_papers, values
from tests.evals.conftest import make_talker
from tests.merge.gguf_files import DIGITS, make_model, train_tokenizer, write_gguf
from tests.merge.make import make_adapter, make_base, make_recipe
from tests.train.test_cpt import SAMPLED
from tests.train.test_sft import make_home, sft_values


def corpus(folder: Path, pico: Path) -> dict:
    """Many tasks, parts and shards from a few hundred papers."""
    small = {"shards.TASK_BYTES": 20_000, "parts.PART_DOCUMENTS": 23, "pack.SHARD_DOCUMENTS": 40}
    recipe = {**values(folder, "out", make_papers(folder)), "execution": {"workers": 1}}
    return {"recipe": recipe, "set": {f"nsllm_lite.corpus.{name}": value for name, value in small.items()}}


def corpus_in_two_processes(folder: Path, pico: Path) -> dict:
    """Compared with a build in one; other processes know nothing of smaller parts."""
    one = corpus(folder, pico)["recipe"]
    small = {"nsllm_lite.corpus.shards.TASK_BYTES": 20_000}
    return {"recipe": {**one, "execution": {"workers": 2}}, "whole": one, "set": small}


def train(folder: Path, pico: Path) -> dict:
    budget = {"steps": 24, "tokens_per_step": 4 * ROW_TOKENS, "tokens": 24 * 4 * ROW_TOKENS}
    changes = {"budget": budget, "checkpoint_steps": 3, "samples": SAMPLED}
    return {"recipe": {**pico_values(pico, folder / "out"), **changes}}


def sft(folder: Path, pico: Path) -> dict:
    return {"recipe": {**sft_values(make_home(folder), folder / "out"), "checkpoint_steps": 3}}


def evaluation(folder: Path, pico: Path) -> dict:
    """A model on the bundled tasks in both modes, several items a forward."""
    (folder / "one").mkdir()
    path = make_talker(folder / "one", num_layers=1)
    models = [{"name": "one", "path": str(path), "modes": ["few-shot", "instruction"]}]
    return {
        "recipe": {
            "kind": "eval", "out": str(folder / "out"), "tasks": "bundled", "seed": 0,
            "models": models, "max_items": 6, "execution": {"device": "cpu", "batch_tokens": 4000},
        }
    }  # fmt: skip


def merge(folder: Path, pico: Path) -> dict:
    """Several shards, many slices, and a line of progress after every few of them."""
    base = make_base(folder / "base")
    adapter = make_adapter(base, folder / "adapter")
    nf4 = {"base_weights": "dequantized", "double_quantisation": True, "then_requantize": True}
    recipe = make_recipe(base, adapter, folder / "out", shard_bytes=60_000, **nf4).model_dump(exclude_none=True)
    small = {"nsllm_lite.formats.weights.SLICE_BYTES": 4096, "nsllm_lite.merge.write.SLICE_BYTES": 4096}
    return {"recipe": recipe, "set": {**small, "nsllm_lite.merge.write.SYNC_BYTES": 20_000}}


def convert(folder: Path, pico: Path) -> dict:
    """A GGUF of several types; many slices, several shards."""
    path = write_gguf(folder / "x.gguf", make_model("llama", 352), train_tokenizer(DIGITS), ["Q4_1", "Q8_0", "F16"])
    recipe = {"kind": "convert", "gguf": str(path), "out": str(folder / "out"), "shard_bytes": 500_000}
    small = {"nsllm_lite.formats.weights.SLICE_BYTES": 65_536, "nsllm_lite.merge.write.SYNC_BYTES": 100_000}
    return {"recipe": recipe, "set": small}


CASES: dict[str, Callable[[Path, Path], dict]] = {
    "corpus": corpus, "corpus, two processes": corpus_in_two_processes, "train": train, "sft": sft,
    "eval": evaluation, "merge": merge, "convert": convert,
}  # fmt: skip


def make(name: str, folder: Path, pico: Path, kills: list[list[dict]]) -> dict:
    folder.mkdir(parents=True)
    return {"name": name, "kills": kills, **CASES[name](folder, pico)}
