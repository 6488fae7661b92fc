"""How well masked tokens of held-out rows are told: by a model, by tables of words, by a base as it was."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from nsllm_lite.artifact import interrupts
from nsllm_lite.formats.pieces import piece_bytes
from nsllm_lite.formats.rows import Row, Rows, in_groups
from nsllm_lite.formats.tokenizer import load_auto_tokenizer, load_tokenizer
from nsllm_lite.kernels.linear_cross_entropy import IGNORE
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import Batch, autocast, collate
from nsllm_lite.models.encoder import PackedEncoder, load_encoder, positions_of
from nsllm_lite.recipe.train import Execution
from nsllm_lite.tasks.scores import quotient_interval
from nsllm_lite.train.masking import HELD_OUT, Masking
from nsllm_lite.train.token_tables import TokenTables

TABLE_TOKENS = 20_000_000  # of the training rows, from which the floors' tables are made
Figures = dict[str, dict[str, Any]]  # by source, and of "all"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is masked of a tokenizer's texts, and the bytes that each token stands for, (V,)."""

    masking: Masking
    num_bytes: np.ndarray

    @classmethod
    def of(cls, masking: Masking, tokenizer: Tokenizer) -> "Asked":
        pieces = piece_bytes(tokenizer)
        return cls(masking, np.array([len(pieces.get(number, b"")) for number in range(len(masking.ordinary))]))


def micro_batches(rows: Sequence[Row], masking: Masking, step: int, how: Execution) -> Iterator[Batch]:
    """Rows a few at a time, as batches whose targets are the masked tokens themselves."""
    first = 0
    for group in in_groups(list(rows), how.micro_batch_rows):
        ids, targets = masking.of_rows(group, step, first)
        batch = replace(collate(group, "cpu"), input_ids=torch.from_numpy(ids), targets=torch.from_numpy(targets))
        yield batch.to(how.device)
        first += len(group)


def score(lm: PackedEncoder, rows: Sequence[Row], asked: Asked, how: Execution, dtype: str) -> Figures:
    """{source or "all": {"loss": nats a masked token, "top1": share told right, "bits_per_byte", each with its interval
    of 95 % over papers, "papers", "tokens"}}.

    Bits are over the bytes that the masked tokens stand for: tokenizers can be compared by them, a token's loss not.
    """
    papers: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(4))  # nats, right ones, tokens, bytes
    with torch.no_grad(), heldout.evaluating(lm):
        for batch in micro_batches(rows, asked.masking, HELD_OUT, how):
            told = batch.targets != IGNORE
            with autocast(how.device, dtype):
                logits = lm.logits(lm.hidden(batch)[told]).float()
            targets = batch.targets[told]
            losses = functional.cross_entropy(logits, targets, reduction="none").double().cpu().numpy()
            right = (logits.argmax(1) == targets).cpu().numpy()
            each = np.stack([losses, right, np.ones(len(right)), asked.num_bytes[targets.cpu().numpy()]], 1)
            owners = np.repeat(np.arange(len(batch.doc_ids)), np.diff(batch.layout.bounds))[told.cpu().numpy()]
            sums = np.zeros((len(batch.doc_ids), 4))
            np.add.at(sums, owners, each)
            for name, of_paper in zip(zip(batch.doc_sources, batch.doc_ids, strict=True), sums, strict=True):
                papers[name] += of_paper
            interrupts.raise_if_requested()
    masked = {name: of for name, of in papers.items() if of[2]}
    keys = ("all", *sorted({source for source, _ in masked})) if masked else ()
    return {key: _figures([of for (source, _), of in masked.items() if key in ("all", source)]) for key in keys}


def _figures(papers: list[np.ndarray]) -> dict[str, Any]:
    """Of one source; a paper is (nats, right ones, tokens, bytes)."""
    nats, right, tokens, num_bytes = np.array(papers).T
    figures: dict[str, Any] = {"papers": len(papers), "tokens": int(tokens.sum())}
    bits = nats / math.log(2)
    for name, counts, others in (("loss", nats, tokens), ("top1", right, tokens), ("bits_per_byte", bits, num_bytes)):
        figures[name] = float(counts.sum() / max(1, others.sum()))
        figures["interval" if name == "loss" else f"{name}_interval"] = list(quotient_interval(counts, others))
    return figures


def floors(rows: Rows, held_out: Sequence[Row], masking: Masking) -> dict[str, dict[str, float]]:
    """Loss and top-1 on the same masked tokens of tables that were counted on training rows, spread over all of them;
    a token that is masked itself is not known as the token before."""
    asked: list[tuple[int | None, int]] = []  # (token before, token)
    for place, row in enumerate(held_out):
        ids, targets = masking.of(row, HELD_OUT, place)
        for at in np.flatnonzero(targets != IGNORE).tolist():
            left = int(ids[at - 1]) if at and ids[at - 1] != masking.mask_id else None
            asked.append((left, int(targets[at])))
    if not asked:
        return {}
    lefts = np.array([left for left in {left for left, _ in asked} if left is not None], np.int64)
    tables = TokenTables(_spread(rows, TABLE_TOKENS), masking.ordinary, lefts)
    told = {
        "words": [tables.words(right) for _, right in asked],
        "word before": [tables.word_before(left, right) for left, right in asked],
    }
    means = {name: np.mean(values, axis=0).tolist() for name, values in told.items()}
    return {name: {"loss": loss, "top1": top1} for name, (loss, top1) in means.items()}


def _spread(rows: Rows, num_tokens: int) -> Iterator[np.ndarray]:
    """Ids of as many rows as have about so many tokens, at even distances."""
    count = min(len(rows), max(1, round(len(rows) * num_tokens / max(1, rows.totals.num_tokens))))
    for number in np.linspace(0, len(rows) - 1, count).astype(int).tolist():
        yield rows[number].input_ids
        interrupts.raise_if_requested()


def masking_of(tokenizer: Any, share: float, seed: int) -> Masking:
    """Of transformers' tokenizer: all but its special tokens may be masked."""
    ordinary = np.ones(len(tokenizer), bool)
    ordinary[list(tokenizer.all_special_ids)] = False
    return Masking(share, tokenizer.mask_token_id, ordinary, seed)


def score_as_it_was(
    base_dir: Path, rows: Sequence[Row], tokenizer_dir: Path, masking: Masking, how: Execution, dtype: str
) -> Figures:
    """`score` of the base with its own tokenizer on the texts of `rows`, which are of the tokenizer of `tokenizer_dir`.
    Texts longer than the base takes are scored in pieces. No random number is drawn."""
    with torch.random.fork_rng(devices=[]):
        lm = PackedEncoder(load_encoder(base_dir)).to(how.device)
    own = load_tokenizer(base_dir)
    of_base = masking_of(load_auto_tokenizer(base_dir), masking.share, masking.seed)
    texts = retokenised(rows, load_tokenizer(tokenizer_dir), own, positions_of(lm.model))
    return score(lm, texts, Asked.of(of_base, own), how, dtype)


def retokenised(rows: Sequence[Row], tokenizer: Tokenizer, other: Tokenizer, max_tokens: int) -> list[Row]:
    """The documents of `rows` as `other` cuts them, a row each, or several where one has more than `max_tokens`."""
    pieces = piece_bytes(tokenizer)
    other.encode_special_tokens = True  # what is written in a text is text
    around = other.encode("a", add_special_tokens=True)
    special = [number for number, is_one in zip(around.ids, around.special_tokens_mask, strict=True) if is_one]
    before = special[: around.special_tokens_mask.index(0)]
    behind, length = special[len(before) :], max_tokens - len(special)
    made = []
    for row in rows:
        documents = np.split(row.input_ids, np.cumsum(row.doc_lengths)[:-1])
        for document, name, source in zip(documents, row.doc_ids, row.doc_sources, strict=True):
            text = b"".join(pieces.get(int(number), b"") for number in document).decode(errors="replace")
            ids = other.encode(text, add_special_tokens=False).ids
            for first in range(0, len(ids), length):
                part = np.array([*before, *ids[first : first + length], *behind], np.int32)
                made.append(Row(part, [len(part)], [name], [source], [len(text.encode())]))
    return made
