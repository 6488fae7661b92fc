"""`nsllm-lite convert`: a GGUF file -> an ordinary Hugging Face model directory.

Weights are dequantised slice by slice, as the gguf package does and transformers with it, and written as a merge's are
(`merge/write.py`): memory does not depend on the model's size, a killed conversion continues, OUT is whole or absent.
What quantisation rounded away is not got back: the manifest and the card say how many tensors were of which type.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from nsllm_lite import __version__
from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import GIB, require_disk, write_atomic
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.artifact.step import finish, finished
from nsllm_lite.formats.gguf import Gguf, read_gguf
from nsllm_lite.formats.weights import dtypes, not_finite
from nsllm_lite.merge.arithmetic import Buffers, Figures
from nsllm_lite.merge.gguf.metadata import Metadata
from nsllm_lite.merge.gguf.model import Converted, config_of, own_dtype, quantised_of, weights_of
from nsllm_lite.merge.gguf.tokenizer import Tokens, tokens_of
from nsllm_lite.merge.partial import partial_folder, partial_of, require_free
from nsllm_lite.merge.plan import DTYPE_NAMES
from nsllm_lite.merge.write import Slice, Workers, write_weights
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.convert import Convert
from nsllm_lite.recipe.results import held_words
from nsllm_lite.safety import printable
from nsllm_lite.terminal import as_cell

MAX_WORKERS = 4
MAX_CHARS = 200  # of what a file says of itself, in manifest and card


class Model(NamedTuple):
    """What a GGUF is to become; nothing is written yet."""

    config: dict[str, Any]
    weights: dict[str, Converted]
    tokens: Tokens
    about: dict[str, Any]  # for manifest and card


def convert(recipe: Convert) -> dict:
    """Writes `recipe.out` and returns the manifest's results.

    Raises:
        UserError: the file is no GGUF, is damaged, or holds what is not honoured: named by its key, type or name.
    """
    started, out, source = time.time(), Path(recipe.out).absolute(), Path(recipe.gguf)
    model = read_model(read_gguf(source), recipe.dtype)
    identity, inputs = recipes.identity(recipe), {"gguf": integrity.sha256_file(source)}
    if (results := finished(out, identity, inputs)) is not None:
        return results
    require_free(out, ())
    num_bytes = sum(converted.num_bytes for converted in model.weights.values())
    done_bytes = sum(path.stat().st_size for path in partial_of(out).glob("*.safetensors"))
    require_disk(out, num_bytes - done_bytes + 64 * 2**20, "the converted model")
    with partial_folder(out, {"recipe": identity, "inputs": inputs, "version": __version__}) as partial:
        workers = min(MAX_WORKERS, os.cpu_count() or 1)
        slot_entries = max(converted.slice_entries for converted in model.weights.values())
        how = (slices_of, slot_entries, workers, f"convert {recipe.out}")
        written = write_weights(partial, model.weights, recipe.shard_bytes, *how)
        write_json(partial / "config.json", model.config)
        write_json(partial / "generation_config.json", model.tokens.ids | {"eos_token_id": model.tokens.stops})
        model.tokens.write(partial)
        write_atomic(partial / "README.md", card_of(out.name, model.about))
        weights = {n: {"bytes": (partial / n).stat().st_size, "sha256": sha256} for n, sha256 in written.sha256.items()}
        integrity.record(partial, integrity.BESIDE_WEIGHTS, weights)
        results = model.about | {"num_bytes": num_bytes, "sha256": written.sha256}
        finish(partial, "convert", identity, inputs, results, started)
    print(printable(f"{recipe.out}: {words_of(results)}; {num_bytes / GIB:.2f} GiB in {time.time() - started:.0f} s"))
    return results


def read_model(gguf: Gguf, dtype: str | None = None) -> Model:
    """Raises UserError where something of the file is not honoured."""
    metadata = Metadata(gguf)
    config = config_of(gguf, metadata)
    tokens = tokens_of(gguf, metadata, config["max_position_embeddings"])
    if metadata.size(".vocab_size", tokens.count) != tokens.count:
        raise metadata.refused(".vocab_size")
    dtype = dtype or own_dtype(gguf)
    weights = weights_of(gguf, config, tokens.count, DTYPE_NAMES[dtype])
    config |= {"vocab_size": tokens.count, "dtype": dtype, **tokens.ids}
    config["transformers_version"] = "5.0.0"  # the oldest that reads it here; without one transformers warns of regexes
    about = {
        "architecture": metadata.architecture,
        "name": metadata.get("general.name", str, "")[:MAX_CHARS],
        "licence": metadata.get("general.license", str, "")[:MAX_CHARS],
        "quantised": quantised_of(gguf),
        "num_tensors": len(weights),
        "num_parameters": sum(converted.num_entries for converted in weights.values()),
        "dtype": dtype,
    }
    return Model(config, weights, tokens, about | {"unused_keys": metadata.unused()})


def slices_of(name: str, converted: Converted, pool: Workers) -> Iterator[Slice]:
    for first, last in converted.row_slices():
        yield last == converted.num_rows, _convert_rows, (name, converted, first, last)


def _convert_rows(name: str, converted: Converted, first: int, last: int, slot: Buffers) -> tuple[memoryview, Figures]:
    """The bytes of rows first..last, which lie in `slot`. Raises UserError where one is not finite."""
    values = torch.from_numpy(converted.rows(first, last))
    dtype = dtypes()[converted.dtype]
    written = slot.written[: values.numel() * dtype.itemsize]
    out = written.view(dtype).view(values.shape).copy_(values)
    if not out.isfinite().all():
        raise not_finite(name, converted.source.file)
    return written.numpy().data, Figures()


def words_of(results: dict[str, Any]) -> str:
    """What was converted, in one line."""
    held = held_words(results["quantised"])
    told = f"weights dequantised ({held}): their rounding stays" if held else "weights as they were"
    return (
        f"{results['name'] or results['architecture']}, {results['num_parameters'] / 1e6:.1f} M parameters in "
        f"{results['dtype']}, {results['num_tensors']} tensors, {told}; licence {results['licence'] or 'not stated'}"
    )


def card_of(name: str, about: dict[str, Any]) -> str:
    """README.md, whose licence a merge takes over."""
    licence = about["licence"]
    front = yaml.safe_dump({"license": licence} if licence else {"tags": ["nsllm-lite"]}, allow_unicode=True).strip()
    return f"---\n{front}\n---\n\n# {as_cell(name)}\n\nConverted from a GGUF file: {as_cell(words_of(about))}.\n"
