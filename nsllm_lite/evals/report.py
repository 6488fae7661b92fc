"""`nsllm-lite report`: held-out losses of papers and of general English after each step of two phases."""

import gc
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import save_picture, write_atomic
from nsllm_lite.artifact.json_files import read_json, read_object, write_json
from nsllm_lite.artifact.step import BESIDE, begin, finish, finished, manifest_sha256, read_manifest
from nsllm_lite.errors import UserError
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import PackedLM, autocast
from nsllm_lite.models.device import find_device
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.loading import load_base
from nsllm_lite.models.lora import load_adapter
from nsllm_lite.models.trained_on import read_training, require_trained_on
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import Report
from nsllm_lite.terminal import as_markdown, progress

LINE = ("base", "phase 1: merged", "phase 2: merged")
SETS = {"abstracts": "abstract_rows", "experiments": "experiment_rows", "general": "general_rows"}


class Stage(NamedTuple):
    """A model to score; `options` are those of `load_base`."""

    model: str
    adapter: Path | None
    options: dict[str, Any]


def report(recipe: Report) -> dict:
    """Scores every stage on the held-out rows; writes scores.json, report.md and report.png. Raises UserError where a
    phase is not finished."""
    started, out = time.time(), Path(recipe.out)
    row_sets = {name: Rows(Path(getattr(recipe, field))) for name, field in SETS.items()}
    inputs = {name: rows.sha256 for name, rows in row_sets.items()}
    for name in ("phase1", "model1", "phase2", "model2"):
        folder = Path(getattr(recipe, name))
        if read_manifest(folder) is None:
            found = f"{folder} is not finished."
            needed = "The report needs both phases."
            raise UserError("report-phase-unfinished", found, needed, "Run `make two-phase` first.")
        inputs[name] = manifest_sha256(folder)
    base, listed = Path(recipe.base), Path(recipe.documents or "") / integrity.FILES
    inputs[f"{BESIDE}base"] = fingerprint_weights(base) if base.is_dir() else None
    if recipe.documents:
        inputs[f"{BESIDE}documents"] = integrity.sha256_file(listed) if listed.is_file() else None
    identity = recipes.identity(recipe)
    if (results := finished(out, identity, inputs)) is not None:
        return results
    stages = _stages(recipe)
    require_bases(stages.values())
    begin(out, identity, inputs)

    domains = disciplines_of(Path(recipe.documents)) if recipe.documents else {}
    samples = {name: heldout.sample_rows(rows, recipe.max_rows) for name, rows in row_sets.items()}
    scores_path = out / "scores.json"
    scores = read_json(scores_path) if scores_path.is_file() else {}
    device = find_device(recipe.execution.device).device
    micro_batch_rows = recipe.execution.micro_batch_rows or (4 if device == "cpu" else 1)
    with progress(len(stages), 0, str(out), "model") as bar:
        for name, stage in stages.items():
            if name not in scores:
                scores[name] = _score(stage, samples, domains, device, micro_batch_rows)
                write_json(scores_path, scores)
            bar.update()
    scores = {name: scores[name] for name in stages}  # in the order of the steps, also after a resume
    table = f"{markdown_table(scores)}\n\n{forgetting_table(scores)}\n\n{domain_table(scores)}"
    write_atomic(out / "report.md", f"# Held-out losses after each step\n\n{table}\n")
    plot(scores, out / "report.png")
    print(table)
    finish(out, "report", identity, inputs, scores, started)
    return scores


def _stages(recipe: Report) -> dict[str, Stage]:
    """The base, each adapter on the NF4 base it was trained on, each merge as is and in NF4, by name."""
    stages: dict[str, Stage] = {}
    base, label = recipe.base, "base"
    kinds = {"quantisation": str, "double_quantisation": bool, "compute_dtype": str}
    for number, phase, merged in ((1, recipe.phase1, recipe.model1), (2, recipe.phase2, recipe.model2)):
        adapter = Path(phase) / "adapter"
        training = read_object(adapter / "training.json", **kinds)
        trained = {key: training[key] for key in kinds}
        plain = trained | {"quantisation": "none"}
        if number == 1:
            stages["base"] = Stage(base, None, plain)
            stages["NF4(base)"] = Stage(base, None, trained)
        stages[f"phase {number}: adapter on NF4({label})"] = Stage(base, adapter, trained)
        stages[f"phase {number}: merged"] = Stage(merged, None, plain)
        stages[f"phase {number}: NF4(merged)"] = Stage(merged, None, trained)
        base, label = merged, f"phase {number} merged"
    return stages


def require_bases(stages: Iterable[Stage]) -> None:
    """Raises UserError where an adapter was trained on another base than the one it is scored on."""
    for model, adapter, _ in stages:
        if adapter:
            require_trained_on(resolve_model(model), adapter, read_training(adapter))


def _score(
    stage: Stage, samples: dict[str, list], domains: dict[str, str], device: str, micro_batch_rows: int
) -> dict[str, dict]:
    import torch

    loaded = load_base(resolve_model(stage.model), device=device, **stage.options)
    lm = PackedLM(load_adapter(loaded, stage.adapter) if stage.adapter else loaded)
    with autocast(device, stage.options["compute_dtype"]):
        found = {
            name: heldout.score(lm, rows, micro_batch_rows, device, domains if name != "general" else None)
            for name, rows in samples.items()
        }
    figures = {
        name: by.pop("all").figures() | {"by_domain": {domain: by[domain].figures() for domain in sorted(by)}}
        for name, by in found.items()
    }
    del lm, loaded
    gc.collect()
    torch.cuda.empty_cache()
    return figures


def disciplines_of(documents: Path) -> dict[str, str]:
    """{id: discipline} of the papers that state one."""
    import pyarrow.parquet as pq

    integrity.verify(documents)
    found: dict[str, str] = {}
    for file in sorted(documents.glob("*.parquet")):
        table = pq.read_table(file, columns=["id", "discipline"]).to_pydict()
        found |= {name: label for name, label in zip(*table.values(), strict=True) if label}
    return found


def forgetting_table(scores: dict[str, dict[str, dict]]) -> str:
    """What each step added to the loss on general English, in nats per token above the base."""
    base = scores["base"]["general"]["loss"]
    losses = {stage: figures["general"]["loss"] for stage, figures in scores.items()}
    rows = ((stage, f"{loss:.4f}", f"{loss - base:+.4f}") for stage, loss in losses.items())
    return as_markdown(("general English", "loss", "above the base"), rows, right=("loss", "above the base"))


def domain_table(scores: dict[str, dict[str, dict]]) -> str:
    """Bits per byte by discipline (or source, where papers state none), before and after each phase."""
    rows = [
        (f"{name}, {domain}", *(f"{scores[stage][name]['by_domain'][domain]['bits_per_byte']:.4f}" for stage in LINE))
        for name in SETS
        for domain in scores["base"][name]["by_domain"]
    ]
    return as_markdown(("bits/byte", *LINE), rows, right=LINE)


def markdown_table(scores: dict[str, dict[str, dict]]) -> str:
    """Loss in nats per token and bits per byte, of each stage on each held-out set."""
    columns = [(name, key) for name in SETS for key in ("loss", "bits_per_byte")]
    heads = [f"{name}, {'loss' if key == 'loss' else 'bits/byte'}" for name, key in columns]
    rows = ((stage, *(f"{found[name][key]:.4f}" for name, key in columns)) for stage, found in scores.items())
    return as_markdown(("", *heads), rows, right=heads)


def plot(scores: dict[str, dict[str, dict]], png: Path) -> None:
    """Two panels of held-out loss and bits per byte over the steps of a run; merged models as the main line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    labels = {"loss": "loss, nats per token", "bits_per_byte": "bits per byte"}
    for axes, (key, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        for number, name in enumerate(SETS):
            color = f"C{number}"
            axes.plot(range(3), [scores[s][name][key] for s in LINE], marker="o", color=color, label=f"{name}, merged")
            adapters = [scores[s][name][key] for s in scores if "adapter on" in s]
            axes.plot((1, 2), adapters, linestyle="", marker="x", color=color)
            requantised = [scores[s][name][key] for s in ("NF4(base)", "phase 1: NF4(merged)", "phase 2: NF4(merged)")]
            axes.plot(range(3), requantised, linestyle="", marker="v", mfc="none", color=color)
        axes.set_xticks(range(3), ["base", "after phase 1", "after phase 2"])
        axes.set(ylabel=label)
        axes.grid(alpha=0.3)
    axes.plot([], [], linestyle="", marker="x", color="0.3", label="adapter on NF4")
    axes.plot([], [], linestyle="", marker="v", mfc="none", color="0.3", label="NF4 of the model")
    axes.legend(fontsize="small")
    figure.suptitle("Held-out papers and general English, before and after each phase")
    save_picture(figure, png)
