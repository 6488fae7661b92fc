"""The model card: what the merged model is made of, and what was measured, for the reader of its folder."""

import re
from pathlib import Path
from typing import Any

import yaml

from nsllm_lite import recipe as recipes
from nsllm_lite import run
from nsllm_lite.merge.inputs import Adapter, Base

UNKNOWN = "not stated by the base"


def write(path: Path, recipe: recipes.Merge, base: Base, adapters: list[Adapter], results: dict) -> None:
    licence = base_licence(base.folder)
    front = {"base_model": recipe.base, "library_name": "transformers", "tags": ["nsllm-lite", "merge"]}
    if licence != UNKNOWN:
        front["license"] = licence
    lines = ["---", yaml.safe_dump(front, sort_keys=True).strip(), "---", f"# {Path(recipe.out).name}", ""]
    lines += [f"`{recipe.base}` with {len(adapters)} LoRA adapter(s) merged in by nsllm-lite.", ""]
    rows = [("base", f"`{recipe.base}`, weights {base.fingerprint[:12]}"), ("licence of the base", licence)]
    for adapter in adapters:
        rows += adapter_rows(adapter)
    rows += [
        ("merged into", f"the {results['base_weights']} weights"),
        ("share of the update in the weights", f"{results['kept_share']:.2%}"),
        ("share after rounding to NF4", f"{results['nf4_kept_share']:.2%}"),
    ]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
    if results.get("comparison"):
        from nsllm_lite.merge.compare import table

        lines += ["Held-out loss, nats per token:", "", table(results["comparison"]), ""]
    if results.get("verified"):
        verified = results["verified"]
        lines += [
            f"Loaded again by transformers and compared with base + adapter: KL {verified['kl']:.2e} nats a token, the "
            f"same first choice at {verified['top1']:.2%} of {verified['tokens']:,} tokens.",
            "",
        ]
    lines += ["SHA-256 of each shard and all settings: `manifest.json`; each tensor's update: `tensors.json`.", ""]
    run.write_atomic(path, "\n".join(lines))


def adapter_rows(adapter: Adapter) -> list[tuple[str, str]]:
    """The adapter, and what its training tells beside it: data, losses."""
    settings = adapter.settings
    weight = f", {adapter.weight} times" if adapter.weight != 1 else ""
    rows = [("adapter", f"`{adapter.folder.name}`, {adapter.sha256[:12]}, rank {settings['r']}{weight}")]
    manifest = run.read_manifest(adapter.folder.parent) or {}
    if manifest.get("verb") != "train":
        return rows
    rows += [
        (f"data: {label}", f"`{value[:12]}`")
        for label, value in manifest["inputs"].items()
        if value and label != "base"
    ]
    results: dict[str, Any] = manifest["results"]
    if results.get("tokens"):
        rows.append(("trained on", f"{results['tokens']:,} tokens in {results['steps']:,} steps"))
    losses = results.get("heldout") or {}
    for name, before in losses.get("before", {}).items():
        after = losses["after"][name]
        rows.append((f"held-out loss, {name}", f"{before['all']['loss']:.4f} -> {after['all']['loss']:.4f}"))
    return rows


def base_licence(folder: Path) -> str:
    """As the base's own card states it."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        values = yaml.safe_load(front[1]) if front else {}
    except yaml.YAMLError:
        return UNKNOWN
    stated = values.get("license") if isinstance(values, dict) else None
    return stated if isinstance(stated, str) else UNKNOWN
