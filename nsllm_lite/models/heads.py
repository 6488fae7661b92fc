"""Models with a head, encoders and decoders: opened from a folder, and what they say of texts of any length.

A text of many windows (`models.windows`) is of the class with the highest mean of its windows' logits; a word has the
tag of its first token in the window in which most of its context is; an answer is the best span of all windows, or none
where no answer scores higher.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nsllm_lite import safety
from nsllm_lite.artifact import interrupts
from nsllm_lite.artifact.json_files import without_marks
from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer import load_auto_tokenizer, num_ids
from nsllm_lite.formats.weights import require_sound
from nsllm_lite.models.causal import autocast
from nsllm_lite.models.encoder import positions_of, require_vocabulary
from nsllm_lite.models.head_settings import (
    ABOUT,
    CLASSES,
    HeadSettings,
    HeadTask,
    labels_of,
    require_same_task,
    require_task,
    require_usable,
    stated_in,
)
from nsllm_lite.models.heldout import evaluating
from nsllm_lite.models.loading import UNREADABLE, quiet_libraries, refused_by_transformers, without_report
from nsllm_lite.models.quantised import require_unquantised
from nsllm_lite.models.tag_sequences import best_sequence
from nsllm_lite.models.windows import Span, Window, batches, collate, cut, first_tokens, num_windows

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = {"cpu": 4_096, "cuda": 65_536}  # of a forward without gradients, padding among them
MAX_TOKENS = 512  # of a window, of a folder that does not state it


@dataclass(frozen=True, slots=True)
class Head:
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    settings: HeadSettings
    compute_dtype: str = "float32"

    @property
    def device(self) -> str:
        return self.model.device.type

    def windows(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> list[Window]:
        limits = self.settings.max_tokens, self.settings.stride
        return cut(self.tokenizer, texts, seconds, *limits, has_types=has_types(self.model.config))

    def forward(self, windows: Sequence[Window], max_rows: int | None = None) -> Iterator[tuple[list[int], Any]]:
        """(places of windows, the model's output for them), without gradients, padded on the right."""
        with torch.no_grad(), evaluating(self.model):
            for places in batches(windows, BATCH_TOKENS[self.device], max_rows):
                inputs = collate([windows[place] for place in places], self.model.config.pad_token_id, self.device)
                with autocast(self.device, self.compute_dtype):
                    output = self.model(**inputs)
                yield places, output
                interrupts.raise_if_requested()


class Pooled(NamedTuple):
    logits: np.ndarray  # (texts, labels) fp32
    num_windows: list[int]


class Tagged(NamedTuple):
    tags: list[list[str]]  # IOB2 where the model tells such
    num_windows: list[int]
    num_unseen: int  # words without a token of their own


class Answer(NamedTuple):
    """`text` is empty where no answer scores higher. `margin`: the best span's score above that of no answer."""

    text: str
    span: Span | None
    best: str  # of the best span, whatever the threshold
    margin: float


class Answered(NamedTuple):
    answers: list[Answer]
    num_windows: list[int]


class Said(NamedTuple):
    values: Any
    num_windows: list[int]
    num_unseen: int = 0  # words without a token of their own


def open_head(folder: Path, device: str = "cpu", compute_dtype: str = "float32") -> Head:
    """The model in `folder` with what it states of itself in finetune.json; of a folder without one its config tells
    the task, and windows are of MAX_TOKENS.

    Raises:
        UserError: there is no model, its weights are damaged or not all there, it is for no task that is known here, or
            what the folder states is not true of it.
    """
    config = safety.require_plain_model(folder)
    settings = stated_in(folder / ABOUT) if (folder / ABOUT).is_file() else None
    task = settings.task if settings else require_task(config, folder)
    model, new = load_with_head(folder, task)
    if new:
        found = f"{folder} does not store {', '.join(sorted(new)[:3])} ({len(new)} in all)."
        needed = "Its head would be drawn at random."
        raise UserError("head-not-stored", found, needed, "Name a folder that was trained for a task.")
    if settings:
        require_same_task(folder / ABOUT, settings, require_task(config, folder), model.config)
    else:
        max_tokens = min(MAX_TOKENS, positions_of(model))
        settings = HeadSettings(task, labels_of(model.config), max_tokens, max_tokens // 4)
    tokenizer = load_auto_tokenizer(folder)
    require_padding(model, tokenizer)
    require_usable(folder, settings, model, tokenizer)
    return Head(model.to(device).eval(), tokenizer, settings, compute_dtype)


def load_with_head(folder: Path, task: HeadTask, **config: Any) -> tuple["PreTrainedModel", set[str]]:
    """(the model in fp32 on the CPU, names of tensors that the folder does not store and that are drawn at random from
    torch's global state). `config` holds values of its config, such as `num_labels`.

    Raises:
        UserError: transformers has no such head for the architecture, or the body is not all there.
    """
    import transformers

    quiet_libraries()
    stored = safety.require_plain_model(folder)
    require_sound(folder)
    require_unquantised(folder, stored)
    if stored.get("attn_logit_softcapping"):
        config["attn_implementation"] = "eager"  # no other caps them
    cls = getattr(transformers, CLASSES[task])
    try:
        with without_marks(folder) as place, without_report():
            model, told = cls.from_pretrained(
                place, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
                **config,
            )  # fmt: skip
    except UNREADABLE as error:
        if isinstance(error, RuntimeError) and "memory" in str(error):
            raise
        raise refused_by_transformers(folder, error) from None
    missing = set(told["missing_keys"])
    body = f"{model.base_model_prefix}."
    if lost := sorted(name for name in missing if name.startswith(body) and "pooler" not in name):
        found = f"{folder} does not store {', '.join(lost[:3])} ({len(lost)} of the model's body)."
        needed = "They would be drawn at random."
        raise UserError("head-body-missing", found, needed, "Fetch the model again, or name another.")
    return model, missing


def require_padding(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Sets what a batch needs: texts are padded on the right, with a token that the model's config names too. Raises
    UserError where the tokenizer has none, nor one that ends a text, or has tokens that the model does not know."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            found = "The tokenizer has no token for padding, and none that ends a text."
            raise UserError("head-no-padding", found, "State one of them in its tokenizer_config.json.")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    model.config.pad_token_id = tokenizer.pad_token_id
    require_vocabulary(model, num_ids(tokenizer))


def has_types(config: "PretrainedConfig") -> bool:
    """Whether the model tells two texts apart by types of tokens."""
    return (getattr(config, "type_vocab_size", None) or 0) > 1


def is_causal(config: "PretrainedConfig") -> bool:
    """Whether a token sees those before it alone: a decoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    return config.model_type in CAUSAL and (config.model_type not in MASKED or getattr(config, "is_decoder", False))


def class_logits(head: Head, texts: Sequence[str], seconds: Sequence[str] | None = None) -> Pooled:
    """The mean of the logits of each text's windows."""
    windows = head.windows(texts, seconds)
    sums = np.zeros((len(texts), head.model.config.num_labels), dtype=np.float32)
    counts = num_windows(windows, len(texts))
    for places, output in head.forward(windows):
        np.add.at(sums, [windows[place].example for place in places], _numpy(output.logits))
    require_numbers(sums)
    return Pooled(sums / np.array(counts, dtype=np.float32)[:, None], counts)


def probabilities(head: Head, logits: np.ndarray) -> np.ndarray:
    """Of logits (n, labels): of one class each (classification), or each for itself."""
    if head.settings.task == "classification":
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-logits))


def word_tags(head: Head, texts: Sequence[str], words: Sequence[Sequence[Span]]) -> Tagged:
    """The tag of each word, whose spans in the text are given: of each text the likeliest sequence in which an I-
    continues something (`tag_sequences`).

    A word without a token of its own goes on with the entity of the word before it.
    """
    windows = head.windows(texts)
    chosen = first_tokens(windows, words)
    told: list[dict[int, np.ndarray]] = [{} for _ in words]
    for places, output in head.forward(windows):
        logits = _numpy(output.logits)
        require_numbers(logits)
        for row, place in enumerate(places):
            for token, word in chosen[place].items():
                told[windows[place].example][word] = logits[row, token]
    tags = []
    for of_text, logits_of in zip(words, told, strict=True):
        seen = sorted(logits_of)
        best = best_sequence(np.stack([logits_of[word] for word in seen]), head.settings.labels) if seen else []
        numbers = dict(zip(seen, best, strict=True))
        tags.append(filled([head.settings.labels[numbers[n]] if n in numbers else None for n in range(len(of_text))]))
    unseen = sum(len(of_text) - len(logits_of) for of_text, logits_of in zip(words, told, strict=True))
    return Tagged(tags, num_windows(windows, len(texts)), unseen)


def filled(tags: Sequence[str | None]) -> list[str]:
    """Tags in which None continues the entity before it."""
    result: list[str] = []
    for tag in tags:
        before = result[-1] if result else "O"
        if tag is None:
            tag = "O" if before == "O" else f"I-{before[2:]}"
        result.append(tag)
    return result


def answers(head: Head, questions: Sequence[str], contexts: Sequence[str]) -> Answered:
    """The best span of each context, of at most `max_answer_tokens` tokens. The score of a span is the sum of its two
    logits, that of no answer the least such sum at the first token of a window."""
    windows = head.windows(questions, contexts)
    none = np.full(len(questions), np.inf)
    best: list[tuple[float, Span]] = [(-np.inf, (0, 0))] * len(questions)
    for places, output in head.forward(windows):
        starts, ends = _numpy(output.start_logits), _numpy(output.end_logits)
        for row, place in enumerate(places):
            window, (start, end) = windows[place], (starts[row], ends[row])
            require_numbers(start[: len(window.input_ids)])
            none[window.example] = min(none[window.example], start[0] + end[0])
            score, span = best_span(window, start, end, head.settings.max_answer_tokens)
            if score > best[window.example][0]:
                best[window.example] = score, span
    found = []
    for context, no_answer, (score, span) in zip(contexts, none, best, strict=True):
        margin, text = float(score - no_answer), context[span[0] : span[1]]
        is_answered = margin >= -head.settings.no_answer and span[0] < span[1]
        found.append(Answer(text if is_answered else "", span if is_answered else None, text, margin))
    return Answered(found, num_windows(windows, len(questions)))


def best_span(window: Window, starts: np.ndarray, ends: np.ndarray, max_tokens: int) -> tuple[float, Span]:
    """(score, characters) of the best span of a window: of at most `max_tokens` tokens of the context."""
    inside = [place for place, span in enumerate(window.offsets) if span and span[0] < span[1]]
    if not inside:
        return -np.inf, (0, 0)
    first, last = inside[0], inside[-1] + 1
    scores = starts[first:last, None] + ends[None, first:last]
    allowed = np.tri(last - first, k=max_tokens - 1, dtype=bool) & ~np.tri(last - first, k=-1, dtype=bool)
    seen = np.zeros(last - first, dtype=bool)
    seen[[place - first for place in inside]] = True
    scores = np.where(allowed & seen[:, None] & seen[None, :], scores, -np.inf)
    start, end = np.unravel_index(scores.argmax(), scores.shape)
    return float(scores[start, end]), (window.offsets[first + start][0], window.offsets[first + end][1])


def said(
    head: Head, texts: Sequence[str], seconds: Sequence[str] | None, words: Sequence[Sequence[Span]] | None
) -> Said:
    """What the model says of each item, in the form of its task (`tasks.heads`)."""
    task = head.settings.task
    if task == "ner":
        assert words is not None, "words are needed"
        tagged = word_tags(head, texts, words)
        return Said(tagged.tags, tagged.num_windows, tagged.num_unseen)
    if task == "qa":
        assert seconds is not None, "contexts are needed"
        answered = answers(head, texts, seconds)
        return Said([(answer.best, answer.margin) for answer in answered.answers], answered.num_windows)
    pooled = class_logits(head, texts, seconds)
    if task == "classification":
        return Said([head.settings.labels[n] for n in pooled.logits.argmax(axis=1)], pooled.num_windows)
    shares = probabilities(head, pooled.logits)
    return Said(shares if task == "multilabel" else shares[:, 0], pooled.num_windows)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


def require_numbers(values: np.ndarray) -> None:
    """Raises UserError where a model answers with NaN or infinity: no score of it would mean anything."""
    if not np.isfinite(values).all():
        found = "The model answers with NaN or infinity."
        raise UserError("head-not-finite", found, "Look at its weights, or compute in float32.")
