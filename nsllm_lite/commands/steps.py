"""The steps of each story, each with its recipe and the paths that follow from where the run is written."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from nsllm_lite.artifact.layout import Layout
from nsllm_lite.recipe.evals import BEFORE

STORIES = {
    "phase1": ("convert", "corpus", "base", "phase1", "model1"),
    "phase2": ("convert", "corpus", "phase2", "model2"),
    "two-phase": ("convert", "corpus", "base", "phase1", "model1", "phase2", "model2", "report"),
    "eval-run": ("tasks", "eval"),
    "instruct": ("tasks", "sft", "model-sft", "eval-sft"),
    "encoder": ("corpus", "tokenizer", "mlm", "distill", "embed", "embed-small", "tasks", "finetune"),
}
"""What is typed -> the steps it runs; `base` only where the folder has a recipe for it, `convert` for a GGUF. A story
that is not here runs all steps of its run."""


LABELLED = ("moves", "classification")
"""The tasks whose labels the encoders' story learns: the first that its corpus gives."""


class Planned(NamedTuple):
    """A step: its name, its kind, its recipe file, and what of the recipe follows from the run (dotted keys)."""

    step: str
    kind: str
    recipe: str
    changes: dict[str, Any]


def planned_steps(at: Layout, base: str) -> list[Planned]:
    """All steps there can be, in order; `base` is the model that phase 1 begins with."""

    def train(name: str, rows: str, **more: str) -> Planned:
        shared = {"out": at.step(name), "rows": at.rows(rows, "train"), "replay.rows": at.rows("general", "train")}
        domain = at.rows("phase1" if rows == "general" else rows, "heldout")
        heldout = {"evaluation.domain_rows": domain, "evaluation.general_rows": at.rows("general", "heldout")}
        return Planned(name, "train", name, shared | heldout | more)

    def merge(name: str, model: str, trained: str, rows: str, then_requantize: bool = False) -> Planned:
        paths = {"base": model, "adapter": at.adapter(trained), "out": at.step(name)}
        return Planned(
            name, "merge", "merge",
            paths | {"then_requantize": then_requantize, "heldout_rows": at.rows(rows, "heldout")},
        )  # fmt: skip

    def scores(name: str, models: dict[str, str], **more: Any) -> Planned:
        listed = [{"name": called, "path": path, **more} for called, path in models.items()]
        return Planned(name, "eval", "eval", {"out": at.step(name), "tasks": at.step("tasks"), "models": listed})

    model1, model2, tuned = map(at.step, ("model1", "model2", "model-sft"))
    phases = {"phase 1": model1, "phase 2": model2, "phase 2, adapter on NF4": at.adapter("phase2")}
    rows = {"abstract_rows": "phase1", "experiment_rows": "phase2", "general_rows": "general"}
    return [
        Planned("corpus", "corpus", "corpus", {"out": at.step("corpus")}),
        Planned("tokenizer", "tokenizer", "tokenizer", {"out": at.step("tokenizer"), "corpus": at.step("corpus")}),
        train("base", "general", **{"build.tokenizer": at.tokenizer}),
        train("phase1", "phase1", model=base),
        merge("model1", base, "phase1", "phase1", then_requantize=True),  # phase 2 loads model 1 in NF4
        train("phase2", "phase2", model=model1),
        merge("model2", model1, "phase2", "phase2"),
        Planned(
            "report", "report", "report",
            {"base": base, "out": at.step("report"), "documents": at.documents}
            | {name: at.step(name) for name in ("phase1", "model1", "phase2", "model2")}
            | {name: at.rows(phase, "heldout") for name, phase in rows.items()},
        ),
        Planned("tasks", "tasks", "tasks", {"out": at.step("tasks"), "corpus": at.step("corpus")}),
        scores("eval", {"base": base, **phases}),
        Planned(
            "sft", "sft", "sft",
            {"out": at.step("sft"), "model": model2, "data": [at.tasks("train")], "heldout": [at.tasks("test")]},
        ),
        merge("model-sft", model2, "sft", "phase2"),
        scores("eval-sft", {"phase 2": model2, "tuned": tuned}, modes=["few-shot", "instruction"]),
    ]  # fmt: skip


def encoder_steps(at: Layout, model: str | None) -> list[Planned]:
    """Those of the encoders' story, in order; `model` is the encoder that it begins with, None: it makes one."""
    own, twin, teacher = (f"{at.step(name)}/model" for name in ("mlm", "distill", "embed"))
    rows = {"rows": at.rows("phase1", "train"), "evaluation.domain_rows": at.rows("phase1", "heldout")}
    begun = {"model": model, "build": None} if model else {"build.tokenizer": at.tokenizer}
    begun |= {"evaluation.general_rows": at.rows("general", "heldout")}
    papers = {"corpus": at.step("corpus")}
    labelled = {"data": [f"{at.tasks('train')}/{LABELLED[0]}.jsonl"], "test": f"{at.tasks('test')}/{LABELLED[0]}.jsonl"}
    return [
        Planned("corpus", "corpus", "encoder-corpus", {"out": at.step("corpus")}),
        Planned("tokenizer", "tokenizer", "encoder-tokenizer", {"out": at.step("tokenizer")} | papers),
        Planned("mlm", "mlm", "mlm", {"out": at.step("mlm")} | rows | begun),
        Planned("distill", "distill", "distill", {"out": at.step("distill"), "teacher": own} | rows),
        Planned("embed", "embed", "embed", {"out": at.step("embed"), "model": own} | papers),
        Planned(
            "embed-small", "embed", "embed-small",
            {"out": at.step("embed-small"), "model": twin, "teacher.model": teacher} | papers,
        ),
        Planned("tasks", "tasks", "tasks", {"out": at.step("tasks")} | papers),
        Planned("finetune", "finetune", "finetune", {"out": at.step("finetune"), "model": own} | labelled),
    ]  # fmt: skip


def materials_steps(at: Layout, model2: str, stages: Sequence[str], heldout: dict[str, list[str]]) -> list[Planned]:
    """Those of the materials' story behind the two phases: `stages` are recipes of kind sft, each of which tunes the
    merged model of the one before; `heldout` are the files and folders that each holds out."""
    models = {BEFORE: model2} | {stage: at.step(f"model-{stage}") for stage in stages}
    steps = [
        Planned("tasks", "tasks", "tasks", {"out": at.step("tasks"), "corpus": at.step("corpus")}),
        Planned("gold", "tasks", "gold", {"out": at.step("gold")}),
    ]
    for before, stage in pairwise(models):
        merged = {"base": models[before], "adapter": at.adapter(stage), "out": models[stage]}
        merged |= {"then_requantize": False, "heldout_rows": at.rows("phase2", "heldout")}
        steps += [
            Planned(stage, "sft", stage, {"out": at.step(stage), "model": models[before]}),
            Planned(f"model-{stage}", "merge", "merge", merged),
        ]
    listed = [{"name": name, "path": path} for name, path in models.items()]
    own = [{"name": stage, "sft": at.step(stage), "heldout": heldout[stage]} for stage in stages]
    return [
        *steps,
        Planned("eval", "eval", "eval", {"out": at.step("eval"), "tasks": at.step("gold"), "models": listed}),
        Planned("stages", "stages", "stages", {"out": at.step("stages"), "stages": own, "scores": at.step("eval")}),
    ]
