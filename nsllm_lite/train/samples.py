"""What the model writes: greedy continuations of held-out papers, before and after training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.formats.rows import Rows
from nsllm_lite.models.attention import unpacked
from nsllm_lite.models.causal import PackedLM
from nsllm_lite.models.heldout import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def prompts(rows: Rows, count: int, prompt_tokens: int) -> list[list[int]]:
    """The openings of the first `count` held-out documents that are longer than the prompt."""
    openings: list[list[int]] = []
    for index in range(len(rows)):
        row, start = rows[index], 0
        for number, length in enumerate(row.doc_lengths):
            if len(openings) == count:
                return openings
            if (number > 0 or not row.continued) and length > prompt_tokens:
                openings.append(row.input_ids[start : start + prompt_tokens].tolist())
            start += length
    return openings


def continuations(lm: PackedLM, openings: list[list[int]], new_tokens: int, end_of_text_id: int) -> list[list[int]]:
    """The most likely continuation of each opening, up to `new_tokens` tokens, token by token."""
    options = {"max_new_tokens": new_tokens, "do_sample": False}
    options |= {"eos_token_id": end_of_text_id, "pad_token_id": end_of_text_id}
    written = []
    with evaluating(lm), unpacked(lm.causal_lm), by_no_settings(lm.causal_lm), torch.no_grad():
        for opening in openings:
            ids = torch.tensor([opening], device=lm.head_VH.device)
            out = lm.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
            written.append(out[0, len(opening) :].tolist())
    return written


@contextmanager
def by_no_settings(model: "PreTrainedModel") -> Iterator[None]:
    """Inside, `generate` knows none of the model's own settings, such as a penalty on repetitions."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def write_samples(path: Path, tokenizer: Tokenizer, head: list[str], columns: dict[str, list[list[int]]]) -> None:
    """A Markdown page of `head`, then of each sample its tokens in every column ("Prompt", "Before", ...) as text."""
    lines = list(head)
    for number, row in enumerate(zip(*columns.values(), strict=True), start=1):
        lines += ["", f"## {number}"]
        for name, ids in zip(columns, row, strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            lines += ["", f"**{name}:**", "", *(f"> {line}" for line in text.splitlines() or [""])]
    write_atomic(path, "\n".join(lines) + "\n")
