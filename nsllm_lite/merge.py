"""`nsllm-lite merge`: base + LoRA adapter -> an ordinary Hugging Face model directory, streamed.

    W' = cast(fp32(W) + s * fp32(B) fp32(A)),   s = alpha / rank, or alpha / sqrt(rank) for rsLoRA

and for DoRA, with magnitude m and the norm taken row by row, W' = cast(m / |W + s B A| * (W + s B A)).
This is bit for bit what PEFT's `merge_and_unload(safe_merge=False)` gives on a CPU, for bf16, fp16 and fp32 bases.

Letters: O output features (rows of W), I input features, R rank. W_OI, A_RI, B_OR, m_O.

W is the 16-bit (or fp32) base, `base_weights: original`, although QLoRA trained on its NF4 rounding. Adding the adapter
to the rounding would reproduce training exactly, but NF4 codes sit at bin centres: when the next phase quantises that
model again, small updates are rounded away (measured on a small two-phase run: 61 % of phase 1 lost, from the original
0.4 %).

Memory does not depend on the model's size: each tensor passes through in slices of rows, by plain reads, because the
pages of a memory map would count as resident. What the adapter does not touch is copied as bytes. The result is written
to `OUT.partial`, its manifest last, and renamed.

Source of the numbers: peft 0.21, tuners/lora/layer.py `Linear.merge` and tuners/lora/variants.py `DoraLinearVariant`.
"""

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from nsllm_lite import recipe as recipes
from nsllm_lite import run
from nsllm_lite.model import resolve_model
from nsllm_lite.weights import DTYPES, Stored, as_bytes, read_header, same_bytes, slices

HEAD = "lm_head.weight"
LORA_PARTS = ("A.weight", "B.weight", "magnitude_vector")
COPIED = ("config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt", "added_tokens.json")
COPIED += ("special_tokens_map.json", "chat_template*", "*processor_config.json", "LICENSE*", "NOTICE*")

# The keys of adapter_config.json that `open_adapter` obeys, and those that say nothing about the merged weights. Any
# other key that is set (fan_in_fan_out, target_parameters, layer_replication, ...) changes the formula: refused.
OBEYED = {"peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"}
OBEYED |= {"bias", "init_lora_weights", "ensure_weight_tying"}
ALLOWED = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, False, "gaussian")}  # PiSSA: new base
SILENT = {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
SILENT |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"}
SILENT |= {"megatron_core", "qalora_group_size", "runtime_config"}


@dataclass(frozen=True, slots=True)
class Lora:
    """One module's update: s B A, and for DoRA the magnitude m_O."""

    A: Stored
    B: Stored
    scale: float
    magnitude: Stored | None


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor of the result: `source` as it is, or cast to `dtype` (modules_to_save), or with `lora` merged in."""

    source: Stored
    dtype: str
    lora: Lora | None = None
    from_adapter: bool = False

    @property
    def inputs(self) -> list[Stored]:
        lora = (self.lora.A, self.lora.B, self.lora.magnitude) if self.lora else ()
        return [self.source, *(stored for stored in lora if stored)]

    @property
    def num_bytes(self) -> int:
        if self.dtype == self.source.dtype:
            return self.source.num_bytes
        return math.prod(self.source.shape) * DTYPES[self.dtype].itemsize


def merge(recipe: recipes.Merge) -> dict:
    """Writes `recipe.out` and returns the manifest's results.

    Raises:
        ValueError: an input is missing, damaged or does not fit the other, or asks for what is not supported.
    """
    started = time.time()
    adapter_dir, out = Path(recipe.adapter), Path(recipe.out).absolute()
    base_dir = Path(recipe.base) if Path(recipe.base).is_dir() else resolve_model(recipe.base)
    base, config = open_base(base_dir)
    adapter, settings = open_adapter(adapter_dir)
    fingerprint = run.fingerprint_weights(base_dir)
    require_same_base(base_dir, fingerprint, adapter_dir)
    plan, untied = plan_tensors(base, config, adapter, settings)
    scales = {name: planned.lora.scale for name, planned in plan.items() if planned.lora}
    weights_sha256 = run.sha256_file(adapter_dir / "adapter_model.safetensors")
    inputs = {"base": fingerprint, "adapter": weights_sha256, "adapter_scales": run.sha256_json(scales)}
    if run.is_finished(out, recipes.identity(recipe), inputs):
        print(f"{recipe.out}: finished, skipped")
        return run.read_manifest(out)["results"]
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{recipe.out} exists and was not made by a finished merge. Merging writes a new folder and never "
            "overwrites: write elsewhere with OUT=DIR (make) or out=DIR (nsllm-lite), or remove it."
        )
    require_finite(adapter, adapter_dir)

    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed merge left
    num_bytes = sum(planned.num_bytes for planned in plan.values())
    run.require_disk(partial, num_bytes + 64 * 2**20, "the merged model")
    partial.mkdir(parents=True)
    stats = Stats()
    with run.progress(num_bytes, 0, f"merge {recipe.out}", "B", unit_scale=True, unit_divisor=1024) as bar:
        write_weights(partial, plan, int(recipe.max_shard_gib * run.GIB), stats, bar)
    for path in sorted({path for pattern in COPIED for path in base_dir.glob(pattern) if path.is_file()}):
        shutil.copyfile(path, partial / path.name)
    if untied:
        run.write_json(partial / "config.json", {**config, "tie_word_embeddings": False})

    results = {
        "num_merged": len(scales),
        "num_replaced": sum(planned.from_adapter and not planned.lora for planned in plan.values()),
        "num_copied": sum(not planned.lora and not planned.from_adapter for planned in plan.values()),
        "num_bytes": num_bytes,
        "max_abs_delta": stats.max_abs_delta,
        "absorbed_share": stats.num_absorbed / stats.num_entries if stats.num_entries else 0.0,
        "untied_embeddings": untied,
    }
    run.finish(partial, "merge", recipes.identity(recipe), inputs, results, started)
    partial.rename(out)
    print(
        f"{recipe.out}: {results['num_merged']} tensors merged, {results['num_replaced']} replaced, "
        f"{results['num_copied']} copied; {num_bytes / run.GIB:.2f} GiB in {time.time() - started:.0f} s; "
        f"{results['absorbed_share']:.1%} of the merged entries were too little changed for their dtype to show it"
    )
    return results


# --------------------------------------------------------------------------------------------------------- inputs


def open_base(base_dir: Path) -> tuple[dict[str, Stored], dict]:
    """The tensors and the config of the base, from the files transformers would load."""
    if not (base_dir / "config.json").is_file():
        raise ValueError(f"{base_dir} is no model directory: it has no config.json. Set base=DIR to one that has.")
    config = run.read_json(base_dir / "config.json")
    if config.get("quantization_config"):
        raise ValueError(
            f"{base_dir} is quantised ({config['quantization_config'].get('quant_method')}). The adapter is added to "
            "16-bit or 32-bit weights: name the model it was quantised from as base=DIR."
        )
    index = base_dir / "model.safetensors.index.json"
    if (base_dir / "model.safetensors").is_file():
        files = ["model.safetensors"]
    elif index.is_file():
        files = sorted(set(run.read_json(index)["weight_map"].values()))
    else:
        raise ValueError(
            f"No model.safetensors nor its index in {base_dir}. The base's weights must be safetensors (pickled *.bin "
            "weights are never loaded): convert it, or name another base=DIR."
        )
    if missing := [name for name in files if not (base_dir / name).is_file()]:
        raise ValueError(f"{base_dir} lacks {', '.join(missing)}, which its index names. Fetch the missing shards.")
    return {name: stored for file in files for name, stored in read_header(base_dir / file).items()}, config


def open_adapter(adapter_dir: Path) -> tuple[dict[str, Stored], dict]:
    """The adapter's tensors, named as in the base (`base_model.model.` taken off), and its config."""
    missing = [n for n in ("adapter_config.json", "adapter_model.safetensors") if not (adapter_dir / n).is_file()]
    if missing:
        raise ValueError(
            f"No adapter at {adapter_dir}: {' and '.join(missing)} missing. Merging needs what training writes at its "
            "end (safetensors, never a pickle): run training first, or set adapter=DIR."
        )
    settings = run.read_json(adapter_dir / "adapter_config.json")
    refused = {key for key, value in settings.items() if value and key not in OBEYED | SILENT}
    refused |= {key for key, allowed in ALLOWED.items() if settings.get(key, allowed[0]) not in allowed}
    if refused:
        raise ValueError(
            f"{adapter_dir} was made with {', '.join(f'{key}={settings[key]!r}' for key in sorted(refused))}, for "
            "which the merged weight is not W + s B A, or was never proved to be. Only LoRA, rsLoRA and DoRA on linear "
            "layers are merged here: merge this one with PEFT's merge_and_unload, or train without that setting."
        )
    tensors = read_header(adapter_dir / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model."): stored for name, stored in tensors.items()}, settings


def require_same_base(base_dir: Path, fingerprint: str, adapter_dir: Path) -> None:
    """Adapters of our own training name their base in training.json; others are only checked by shape."""
    path = adapter_dir / "training.json"
    training = run.read_json(path) if path.is_file() else {}
    if training.get("base_fingerprint", fingerprint) != fingerprint:
        raise ValueError(
            f"This adapter was trained on another base: {training.get('base')} (weights "
            f"{training['base_fingerprint'][:12]}), but base is {base_dir} (weights {fingerprint[:12]}). "
            "Set base=DIR to the model it was trained on, or train again on this one."
        )


def require_finite(adapter: dict[str, Stored], adapter_dir: Path) -> None:
    """Raises ValueError naming the tensors of the adapter that hold NaN or infinity."""
    broken = []
    for name, stored in adapter.items():
        pieces = (stored.rows(*piece) for piece in slices(stored.shape[0], 4 * math.prod(stored.shape[1:])))
        if not all(math.isfinite(bound) for rows in pieces for bound in torch.aminmax(rows)):
            broken.append(name)
    if broken:
        raise ValueError(
            f"{adapter_dir} holds NaN or infinity in {listed(broken)}. A merge needs finite weights: go back to an "
            "earlier checkpoint, and train on from it with a lower learning rate."
        )


# ----------------------------------------------------------------------------------------------------------- plan


def find_homes(
    base: dict[str, Stored], adapter: dict[str, Stored], settings: dict, tied: bool, embedding: str | None
) -> tuple[dict[str, dict[str, Stored]], dict[str, Stored]]:
    """The adapter's LoRA parts by module, and its whole tensors by the name of the base's they replace.

    Raises:
        ValueError: a tensor finds no home, lacks its partner, or is LoRA on embeddings.
    """
    if broken := [n for n in adapter if ".lora_embedding_" in n or (tied and n.startswith("lm_head.lora_"))]:
        raise ValueError(
            f"The adapter holds LoRA on {'tied ' * tied}embeddings: {listed(broken)}. Only linear layers are merged "
            "(on tied embeddings even PEFT's merge counts the update twice): train the embeddings whole, with "
            "modules_to_save, or leave them out of the targets."
        )
    loras, whole, orphans = {}, {}, []
    for name, stored in adapter.items():
        module, lora, part = name.partition(".lora_")
        replaced = name.replace(".base_layer.", ".")  # LoRA on the head: PEFT saves the head's base weight beside it
        if replaced in base or (replaced == HEAD and tied and embedding):
            whole[replaced] = stored
        elif lora and module + ".weight" in base and part in LORA_PARTS:
            loras.setdefault(module, {})[part] = stored
        else:
            orphans.append(name)
    needed = set(LORA_PARTS[: 3 if settings.get("use_dora") else 2])
    orphans += [f"{module}.lora_{part}" for module, parts in loras.items() if set(parts) != needed for part in parts]
    if orphans:
        raise ValueError(
            f"The adapter holds {listed(orphans)}, which find no home in the base. Every tensor of an adapter must "
            "meet a weight of the base (and LoRA needs its A and its B): set base=DIR to the model it was trained on."
        )
    for saved in settings.get("modules_to_save") or ():
        if not any(re.match(rf"(.*\.)?{re.escape(saved)}\.", name) for name in whole):
            raise ValueError(
                f"adapter_config.json has {saved!r} in modules_to_save, but the adapter holds no such tensor. All that "
                "was trained must be merged: save the adapter again with PEFT's save_pretrained."
            )
    return loras, whole


def plan_tensors(
    base: dict[str, Stored], config: dict, adapter: dict[str, Stored], settings: dict
) -> tuple[dict[str, Planned], bool]:
    """Every tensor of the result by name, and whether it unties the embeddings of the base.

    Raises:
        ValueError: a tensor of the adapter has no home in the base, or does not fit there.
    """
    tied = bool(config.get("tie_word_embeddings")) or HEAD not in base
    embedding = next((name for name in base if name.endswith("embed_tokens.weight")), None)
    loras, whole = find_homes(base, adapter, settings, tied, embedding)
    plan = {name: Planned(stored, stored.dtype) for name, stored in base.items()}
    untied = (
        tied
        and embedding is not None
        and not {HEAD, embedding}.isdisjoint(whole)
        and not settings.get("ensure_weight_tying")
    )
    if untied:  # as PEFT does: one of the two, or a copy of each, was trained
        plan.setdefault(HEAD, plan[embedding])
    for name, stored in whole.items():
        if name in plan:
            require_fit(name, stored.shape == plan[name].source.shape, stored.shape, plan[name].source.shape)
            plan[name] = Planned(stored, plan[name].dtype, from_adapter=True)
        elif embedding not in whole or not same_bytes(whole[embedding], stored):
            raise ValueError(
                f"The adapter's {name} is not its {embedding}, although ensure_weight_tying keeps them one. They must "
                "be equal: save the adapter again with PEFT's save_pretrained."
            )
    for module, parts in loras.items():
        name, lora = module + ".weight", lora_of(module, parts, settings)
        W, A, B = base[name].shape, lora.A.shape, lora.B.shape
        fits = len(W) == len(A) == len(B) == 2 and (*W, A[0]) == (B[0], A[1], B[1])
        require_fit(name, fits and (not lora.magnitude or lora.magnitude.shape == W[:1]), f"A {A}, B {B}", W)
        plan[name] = replace(plan[name], lora=lora)
    touched = [(name, p) for name, p in plan.items() if p.lora or p.from_adapter]
    if strange := [name for name, p in touched if not {p.dtype, *(t.dtype for t in p.inputs)} <= set(DTYPES)]:
        raise ValueError(
            f"{listed(strange)} of the base or of the adapter is neither bf16, fp16 nor fp32, the only types merged. "
            "Name the model as it was before it was quantised as base=DIR."
        )
    return plan, untied


def lora_of(module: str, parts: dict[str, Stored], settings: dict) -> Lora:
    """Rank and alpha by PEFT's rule: the first pattern that matches the end of the module's name, else the default."""

    def setting(pattern: str, default: str) -> float:
        values = settings.get(pattern) or {}
        key = next((key for key in values if re.match(rf"(.*\.)?({key})$", module)), None)
        return settings[default] if key is None else values[key]

    A, B, magnitude = (parts.get(part) for part in LORA_PARTS)
    rank, alpha = setting("rank_pattern", "r"), setting("alpha_pattern", "lora_alpha")
    require_fit(module, A.shape[:1] == (rank,), f"A {A.shape}", f"rank {rank} in adapter_config.json")
    scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
    return Lora(A, B, scale, magnitude)


def require_fit(name: str, fits: bool, found: object, needed: object) -> None:
    if not fits:
        raise ValueError(
            f"{name}: the adapter has {found}, which does not fit {needed}. Shapes must agree: set base=DIR to the "
            "model the adapter was trained on."
        )


def listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# ---------------------------------------------------------------------------------------------------------- write


@dataclass(slots=True)
class Stats:
    """What the merged tensors show while they pass."""

    max_abs_delta: float = 0.0  # of s B A
    num_absorbed: int = 0  # entries of W' with the bits of W: the change was below half an ulp
    num_entries: int = 0


def write_weights(folder: Path, plan: dict[str, Planned], shard_bytes: int, stats: Stats, bar: tqdm) -> None:
    """The shards, of at most `shard_bytes` unless one tensor alone is larger; several get an index."""
    shards, filled = [[]], 0
    for name, planned in plan.items():
        if shards[-1] and filled + planned.num_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += planned.num_bytes
    weight_map = {}
    for number, names in enumerate(shards, 1):
        many = len(shards) > 1
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if many else "model.safetensors"
        write_shard(folder / file_name, {name: plan[name] for name in names}, stats, bar)
        weight_map |= dict.fromkeys(names, file_name)
    if len(shards) > 1:
        total = {"total_size": sum(planned.num_bytes for planned in plan.values())}
        run.write_json(folder / "model.safetensors.index.json", {"metadata": total, "weight_map": weight_map})


def write_shard(path: Path, plan: dict[str, Planned], stats: Stats, bar: tqdm) -> None:
    """Source: the format's README, https://github.com/huggingface/safetensors (header length, JSON header, data)."""
    wide_first = sorted(plan.items(), key=lambda item: -item[1].num_bytes // max(1, math.prod(item[1].source.shape)))
    ordered = dict(wide_first)  # so that every tensor begins at a multiple of its entries' size
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, planned in ordered.items():
        ends = [offset, offset + planned.num_bytes]
        header[name] = {"dtype": planned.dtype, "shape": planned.source.shape, "data_offsets": ends}
        offset = ends[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, planned in ordered.items():
            for piece in pieces(name, planned, stats):
                file.write(piece)
                bar.update(len(piece))
        file.flush()
        os.fsync(file.fileno())


def pieces(name: str, planned: Planned, stats: Stats) -> Iterator[memoryview | bytearray]:
    """The bytes of one tensor of the result, a slice at a time."""
    source, dtype = planned.source, planned.dtype
    if planned.lora is None and dtype == source.dtype:
        for first, last in slices(source.num_bytes, 1):
            yield source.read(first, last)
        return
    row_bytes = 4 * math.prod(source.shape[1:])
    if planned.lora is None:
        for first, last in slices(source.shape[0], row_bytes):
            yield as_bytes(source.rows(first, last).to(DTYPES[dtype]))
        return
    A_RI = planned.lora.A.rows().float()
    for first, last in slices(source.shape[0], row_bytes):
        W_OI = source.rows(first, last).to(DTYPES[dtype])
        delta_OI = (planned.lora.B.rows(first, last).float() @ A_RI).mul_(planned.lora.scale)
        low, high = torch.aminmax(delta_OI)
        stats.max_abs_delta = max(stats.max_abs_delta, -low.item(), high.item())
        sum_OI = W_OI + delta_OI  # fp32, whatever W is
        if planned.lora.magnitude is not None:
            m_O = planned.lora.magnitude.rows(first, last).float()
            sum_OI = (m_O / torch.linalg.norm(sum_OI, dim=1)).view(-1, 1) * sum_OI
        merged_OI = sum_OI.to(W_OI.dtype)
        if not all(math.isfinite(bound) for bound in torch.aminmax(merged_OI)):
            raise ValueError(
                f"{name} is not finite once merged into {dtype}. The base or the update is out of that range: check "
                "the adapter's held-out loss, or use a bf16 base in place of an fp16 one."
            )
        bits = np.int32 if dtype == "F32" else np.int16
        new, old = as_bytes(merged_OI), as_bytes(W_OI)
        stats.num_absorbed += int(np.count_nonzero(np.frombuffer(new, bits) == np.frombuffer(old, bits)))
        stats.num_entries += W_OI.numel()
        yield new
