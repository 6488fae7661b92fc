"""What a folder states of its head, and whether that is true of its model: labels in another order, tags that no score
reads, or windows that the model does not take would give scores that mean nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nsllm_lite.artifact.json_files import read_object, validated
from nsllm_lite.errors import UserError
from nsllm_lite.models.encoder import positions_of
from nsllm_lite.models.tag_sequences import is_iob2

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

HeadTask = Literal["classification", "multilabel", "ner", "qa", "pair"]
ABOUT = "finetune.json"
CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "multilabel": "AutoModelForSequenceClassification",
    "pair": "AutoModelForSequenceClassification",
    "ner": "AutoModelForTokenClassification",
    "qa": "AutoModelForQuestionAnswering",
}
MAX_ANSWER_TOKENS = 30
NUM_LOGITS = {"pair": 1, "qa": 2}  # of the tasks without labels


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """What `finetune.json` states beside a model. `labels` are classes, or tags ("O", "B-X", "I-X"), in the order of
    the logits. `thresholds`: the least probability of a label (multilabel), or of "related" (pair). `no_answer`: by how
    much an answer's score may lie below that of none."""

    task: HeadTask
    labels: tuple[str, ...]
    max_tokens: int
    stride: int
    thresholds: dict[str, float] | None = None
    no_answer: float = 0.0
    max_answer_tokens: int = MAX_ANSWER_TOKENS


def stated_in(path: Path) -> HeadSettings:
    value = read_object(path, task=str, labels=list, max_tokens=int, stride=int)
    known = {name: value[name] for name in HeadSettings.__dataclass_fields__ if name in value}
    return HeadSettings(**validated(path, **{name: (_TYPES[name], of) for name, of in known.items()}))


_TYPES = {
    "task": HeadTask, "labels": tuple[str, ...], "max_tokens": int, "stride": int,
    "thresholds": dict[str, float] | None, "no_answer": float, "max_answer_tokens": int,
}  # fmt: skip


def task_of(config: dict[str, Any]) -> HeadTask | None:
    """What the head that a config names is for; None where it names none for a task."""
    name = _architecture(config)
    if name.endswith("ForTokenClassification"):
        return "ner"
    if name.endswith("ForQuestionAnswering"):
        return "qa"
    if not name.endswith("ForSequenceClassification"):
        return None
    if config.get("problem_type") == "multi_label_classification":
        return "multilabel"
    return "pair" if len(config.get("id2label") or "LABEL") == 1 else "classification"


def require_task(config: dict[str, Any], folder: Path) -> HeadTask:
    """`task_of`. Raises UserError where there is none."""
    if task := task_of(config):
        return task
    found = f"{folder}/config.json names the architecture {_architecture(config)!r}, which has no head for a task."
    needed = "Needed is a model for classification of texts or tokens, or for questions."
    raise UserError("head-architecture-unknown", found, needed, "Train one with `nsllm-lite finetune`.")


def _architecture(config: dict[str, Any]) -> str:
    return str((config.get("architectures") or [""])[0]).removesuffix("Simple")  # XLMForQuestionAnsweringSimple


def labels_of(config: "PretrainedConfig") -> tuple[str, ...]:
    """Names of the logits, in order; "" where the config has none."""
    return tuple(str(config.id2label.get(number, "")) for number in range(config.num_labels))


def require_same_task(path: Path, stated: HeadSettings, task: str, config: "PretrainedConfig") -> None:
    """Holds what `path` states against the model's config, which tells `task`.

    Raises:
        UserError: the task, the labels or their order are others, or a threshold is of no label.
    """
    if stated.task != task:
        raise _differs(path, f"the task {stated.task!r}", f"and its model is one for {task}")
    labels = () if task in NUM_LOGITS else labels_of(config)
    if stated.labels != labels:
        raise _differs(path, f"the labels ({_listed(stated.labels)})", f"and the model's are ({_listed(labels)})")
    cuts = {"multilabel": labels, "pair": ("related",)}.get(task, ())
    if stated.thresholds and set(stated.thresholds) != set(cuts):
        others = sorted(set(stated.thresholds) ^ set(cuts))
        raise _differs(path, "thresholds", f"one too many, or none, for {others[0]!r}")
    if stated.max_answer_tokens < 1:
        raise _differs(path, f"max_answer_tokens={stated.max_answer_tokens}", "and an answer has one token or more")


def require_usable(
    folder: Path, settings: HeadSettings, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Raises UserError where tags are not read or a label stands twice, the number of logits is not that of the task,
    or the windows are longer than the model's texts, or too short for their stride."""
    labels, task = labels_of(model.config), settings.task
    if task == "ner" and not ("O" in labels and is_iob2(labels) and len(set(labels)) == len(labels) > 1):
        found = f"{folder} tells the tags {_listed(labels)}."
        needed = "Read are O and, of each type, B- and I-, each once: of other tags no entity would be found."
        raise UserError("head-tags-unread", found, needed, "Name them so in its config.json, or train on such tags.")
    if len(labels) != NUM_LOGITS.get(task, len(labels)):
        raise _differs(folder, f"the task {task!r}", f"which has {NUM_LOGITS[task]} logits, and has {len(labels)}")
    if task not in NUM_LOGITS and len({*labels, ""}) != len(labels) + 1:
        raise _differs(folder, f"the labels {_listed(labels)}", "of which one stands twice or is empty")
    most, least, stride = positions_of(model), settings.max_tokens, settings.stride
    room = least - tokenizer.num_special_tokens_to_add(pair=task in ("pair", "qa"))
    if not (0 <= 2 * stride < least <= most and stride < room):
        found = f"{folder} states windows of max_tokens={least} tokens that share stride={stride}."
        needed = (
            f"Windows have at most {most:,} tokens, {least - room} of them special ones, and more than two strides."
        )
        raise UserError("head-windows-unfit", found, needed, f"Correct them in {folder}/finetune.json.")


def _listed(labels: Sequence[str], shown: int = 12) -> str:
    return ", ".join(map(str, labels[:shown])) + (", ..." if len(labels) > shown else "")


def _differs(place: Path, stated: str, what: str) -> UserError:
    todo = "Restore the folder from a copy, or correct it there."
    return UserError("head-settings-differ", f"{place} states {stated}, {what}.", todo)
