"""Likelihoods of labels and greedy answers of one model, with every shared token computed once.

All prompts of a task begin alike (instruction and examples), and all labels of an item follow the same prompt. So the
keys and values of the common beginning are computed once for the task, those of an item once for its labels, and the
first token of every label is read from the item's own forward: on five-shot classification that is a small part of
the tokens of scoring each label by itself.
"""

import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, takewhile
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from nsllm_lite.formats.tokenizer import begin_of_text_ids, spoken, text_tokenizer
from nsllm_lite.models.architectures import unpacked_attention

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

    from nsllm_lite.models.grammar import Grammars, Schema

T = TypeVar("T")

CPU_BATCH_TOKENS = 8_192
CACHE_SHARE = 0.5  # of the free memory of a card, for keys and values


@dataclass(frozen=True, slots=True)
class Ranked:
    """A prompt and the labels that may follow it, as tokens.

    Where a label's first letters join the prompt's last token, that token stands in `tails`, and `skip` says how many
    of their first tokens are the prompt's.
    """

    prompt: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]
    skip: tuple[int, ...]


class Engine:
    """A model with its tokenizer. `forward_tokens` counts every token that went through it, padding included.

    Which prompts go through it together depends on all of them, also on those that are `done`: the last digits of a
    likelihood do too, so that what is asked again after a kill gets the answers of a run that was not killed.

    Args:
        batch_tokens: Tokens of a forward, the shared beginning counted once for each row; None: by the memory there is.
        notes: What a reader of the scores has to know of how the model was run.
        ends: Tokens that end an answer, beside those that the model's files name.
    """

    is_batched = True
    tuned_in: str | None = None  # the template of an instruction tuning of ours

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        batch_tokens: int | None = None,
        notes: Sequence[str] = (),
        ends: Sequence[int] = (),
    ):
        self._causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        if self.is_batched:
            self._causal.set_attn_implementation(unpacked_attention(self._causal.config))  # heeds a padded batch's mask
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.notes = list(notes)
        self.ends = list(ends)
        self.config = self._causal.config.get_text_config()
        self.device = next(model.parameters()).device
        self.begin_ids = list(begin_of_text_ids(tokenizer.backend_tokenizer))
        self.window = getattr(self.config, "max_position_embeddings", None) or 2_048
        self.batch_tokens = batch_tokens or self._affordable_tokens()
        self.forward_tokens = 0
        self.num_cut = 0  # prompts that lost their beginning, because the model's window is shorter
        self.num_short = 0  # answers for which the window leaves less room than was asked for
        self._grammars: Grammars | None = None

    def rank(
        self, prompts: Sequence[str], labels: Sequence[Sequence[str]], done: Container[int] = ()
    ) -> Iterator[tuple[int, list[float]]]:
        """(number of the prompt, log-likelihood of each of its labels) of those not `done`, the longest prompts first.

        A label is the text that follows: " Physics". Its tokens are those that it has after its prompt.
        """
        requests = [self._ranked(prompt, row) for prompt, row in zip(prompts, labels, strict=True)]

        def score(group: list[int], cache: "DynamicCache", past: int) -> list[list[float]]:
            logits, mask, last = self._read([requests[n].prompt[past:] for n in group], cache, past)
            firsts = torch.log_softmax(logits[:, -1:].float(), -1)
            found = [[0.0] * len(requests[n].tails) for n in group]
            for place in range(max(map(len, found))):
                tails = [tail for n in group for tail in requests[n].tails[place : place + 1] or ((),)]
                scored, width = firsts, max(map(len, tails)) - 1
                if width:
                    rows = [[*tail[:-1], *[0] * (width - len(tail[:-1]))] for tail in tails]
                    more, _ = self._forward(rows, cache, mask, last[:, None] + 1)
                    scored = torch.cat([firsts, torch.log_softmax(more.float(), -1)], 1)
                    cache.crop(-width)
                for row, (number, tail) in enumerate(zip(group, tails, strict=True)):
                    if tail:
                        own = torch.arange(requests[number].skip[place], len(tail), device=self.device)
                        picked = scored[row, own, torch.tensor(tail, device=self.device)[own]]
                        found[row][place] = float(picked.double().sum())
            return found

        return self._batches([request.prompt for request in requests], 0, score, done)

    def generate(
        self,
        prompts: Sequence[str],
        new_tokens: int,
        stops: Sequence[str],
        done: Container[int] = (),
        rendered: bool = False,
        schemas: "Sequence[Schema | None] | None" = None,
    ) -> Iterator[tuple[int, str]]:
        """(number of the prompt, the model's answer) of those not `done`, the longest prompts first.

        Greedy, up to an end token, a stop, `new_tokens` or the end of the window. `rendered` prompts are a chat
        template's. The answer to a prompt that has a schema is its JSON, up to its end and with no heed of stops; one
        that reaches `new_tokens` before is incomplete.

        Raises:
            UserError: the tokenizer or a schema is none that grammars are made of.
        """
        ends, grammars = self._end_ids(), self._grammars_of(schemas)
        requests = [tuple(self._cut(encode(self.tokenizer, prompt, rendered), new_tokens)) for prompt in prompts]
        rooms = [min(new_tokens, self.window - len(request)) for request in requests]
        self.num_short += sum(room < new_tokens for room in rooms)

        def say(group: list[int], cache: "DynamicCache", past: int) -> list[str]:
            logits, mask, last = self._read([requests[n][past:] for n in group], cache, past)
            said: list[list[int]] = [[] for _ in group]
            left = list(range(len(group)))  # the rows of `said` whose answers have not ended
            answers = grammars.begin([schemas[n] for n in group]) if grammars else None
            can_jump = len(group) == 1 or self._can_share(sys.maxsize)  # a pad would count in a sliding window
            held = [() if answers and schemas[n] is not None else stops for n in group]
            while left:
                scores = answers.masked(logits[:, -1], left) if answers else logits[:, -1]
                chosen = scores.argmax(-1).tolist()
                on, fed = [], []  # of the rows of the batch, those that go on, and with which tokens
                for row, (number, token) in enumerate(zip(left, chosen, strict=True)):
                    if token in ends:
                        continue
                    said[number].append(token)
                    stopped = any(stop in self.tokenizer.decode(said[number]) for stop in held[number])
                    sure: list[int] = []
                    if answers:
                        room = rooms[group[number]] - len(said[number])
                        sure, is_whole = answers.take(number, token, room if can_jump else 0)
                        said[number] += sure
                        stopped |= is_whole
                    if not stopped and len(said[number]) < rooms[group[number]]:
                        on.append(row)
                        fed.append([token, *sure])
                if 0 < len(on) < len(left):
                    rows = torch.tensor(on, device=self.device)
                    cache.batch_select_indices(rows)
                    mask, last = mask[rows], last[rows]
                left = [left[row] for row in on]
                if left:
                    logits, mask, last = self._go_on(fed, cache, mask, last)
            return [before(spoken(self.tokenizer, ids), mine) for ids, mine in zip(said, held, strict=True)]

        return self._batches(requests, new_tokens, say, done)

    def _grammars_of(self, schemas: "Sequence[Schema | None] | None") -> "Grammars | None":
        """None where no prompt has a schema."""
        if schemas is None or all(schema is None for schema in schemas):
            return None
        if self._grammars is None:
            from nsllm_lite.models.grammar import Grammars

            self._grammars = Grammars(self.tokenizer, self._end_ids())
        for schema in schemas:
            if schema is not None:
                self._grammars.compile(schema)
        return self._grammars

    def _ranked(self, prompt: str, labels: Sequence[str]) -> Ranked:
        alone = encode(self.tokenizer, prompt)
        wholes = [encode(self.tokenizer, prompt + label) for label in labels]
        shared = _common([alone, *wholes])
        shared = max(1, shared - (shared == min(map(len, wholes))))
        head = self._cut(alone[:shared], max(map(len, wholes)) - shared)
        tails = tuple(tuple(whole[shared:]) for whole in wholes)
        skips = tuple(min(len(alone), len(whole) - 1) - shared for whole in wholes)
        return Ranked(tuple(head), tails, skips)

    def _cut(self, ids: list[int], more: int) -> list[int]:
        """A prompt that is longer than the model's window allows with `more` tokens after it, or with half a window of
        them, without its beginning; what begins every text stays."""
        room = self.window - min(more, self.window // 2)
        if len(ids) <= room:
            return ids
        self.num_cut += 1
        kept = 0 if self.begin_ids != ids[: len(self.begin_ids)] else len(self.begin_ids)
        return ids[:kept] + ids[len(ids) - room + kept :]

    def _batches(
        self,
        prompts: Sequence[tuple[int, ...]],
        new_tokens: int,
        answer: Callable[[list[int], "DynamicCache", int], list[T]],
        done: Container[int],
    ) -> Iterator[tuple[int, T]]:
        """(number of a prompt, its answer) of those not `done`, the longest prompts first.

        `answer` gets the numbers of some prompts, the keys and values of what all prompts share, a row for each, and
        how many tokens that are. The last token of a prompt is never among them, since its logits are wanted.
        """
        if not prompts:
            return
        shared = min(_common(prompts), min(map(len, prompts)) - 1)
        if not self._can_share(max(map(len, prompts)) + new_tokens):
            shared = 0
        head = self._prefill(prompts[0][:shared]) if shared else None
        order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
        start, batch_tokens = 0, self.batch_tokens
        while start < len(order):
            length = len(prompts[order[start]]) + new_tokens + 8
            count = max(1, batch_tokens // length) if shared else 1  # where nothing is shared, a pad would see nothing
            group = order[start : start + count]
            left = [n not in done for n in group]
            if not any(left):
                start += len(group)
                continue
            try:
                answers = answer(group, self._copies(head, len(group)), shared)
            except torch.cuda.OutOfMemoryError:
                if len(group) == 1:
                    raise
                batch_tokens = len(group) * length // 2
                torch.cuda.empty_cache()
                continue
            yield from compress(zip(group, answers, strict=True), left)
            start += len(group)

    def _can_share(self, length: int) -> bool:
        """Whether keys and values of all earlier tokens are kept: not with attention over a sliding window."""
        kinds = set(getattr(self.config, "layer_types", None) or ["full_attention"])
        width = getattr(self.config, "sliding_window", None) or 0
        return (kinds == {"full_attention"} and not width) or length <= width

    @torch.no_grad()
    def _prefill(self, ids: Sequence[int]) -> "DynamicCache":
        from transformers import DynamicCache

        cache = DynamicCache()
        self.forward_tokens += len(ids)
        self.model(
            input_ids=torch.tensor([ids], device=self.device), past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return cache

    def _copies(self, head: "DynamicCache | None", count: int) -> "DynamicCache":
        from transformers import DynamicCache

        cache = DynamicCache()
        for number, layer in enumerate(head.layers if head else ()):
            cache.update(layer.keys.expand(count, -1, -1, -1), layer.values.expand(count, -1, -1, -1), number)
        return cache

    def _read(self, rows: list[tuple[int, ...]], cache: "DynamicCache", past: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits after each prompt (R, 1, V), the mask of all columns (R, C) and each row's last position (R,).

        Rows are padded on the left, so that the last column is the last token of each.
        """
        longest = max(map(len, rows))
        padded = [[0] * (longest - len(row)) + list(row) for row in rows]
        real = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.device)
        positions = past + (real.cumsum(1) - 1).clamp(min=0)
        logits, mask = self._forward(padded, cache, real.new_ones(len(rows), past), positions, real)
        return logits, mask, positions[:, -1]

    def _go_on(
        self, rows: list[list[int]], cache: "DynamicCache", mask: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same after more tokens of each row, whose last position was `last`: one of each, or some rows' more."""
        longest = max(map(len, rows))
        if longest == 1:
            logits, mask = self._forward(rows, cache, mask, last[:, None] + 1)
            return logits, mask, last + 1
        padded = [[0] * (longest - len(row)) + row for row in rows]
        real = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.device)
        positions = last[:, None] + real.cumsum(1)
        logits, mask = self._forward(padded, cache, mask, positions, real)
        return logits, mask, positions[:, -1]

    @torch.no_grad()
    def _forward(
        self, rows: list[list[int]], cache: "DynamicCache", mask: Tensor, positions: Tensor, real: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of new columns, and the mask with them.

        `positions` are those of all new columns, or of the first alone. With `real` (1 for a token, 0 for a pad) the
        logits are those of the last column.
        """
        ids = torch.tensor(rows, device=self.device)
        self.forward_tokens += ids.numel()
        if positions.shape != ids.shape:
            positions = positions + torch.arange(ids.shape[1], device=self.device)
        mask = torch.cat([mask, torch.ones_like(ids) if real is None else real], 1)
        logits = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0 if real is None else 1,
        ).logits
        return logits, mask

    def _end_ids(self) -> set[int]:
        """Every id that ends a text for this model: the tokenizer's, and those its generation settings name."""
        named = [self.tokenizer.eos_token_id, self._causal.generation_config.eos_token_id, self.config.eos_token_id]
        flat = [x for value in named for x in (value if isinstance(value, list) else [value])]
        return {x for x in (*flat, *self.ends) if x is not None}

    def _affordable_tokens(self) -> int:
        if self.device.type == "cpu":
            return CPU_BATCH_TOKENS
        heads = getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads
        width = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads
        token_bytes = 2 * self.config.num_hidden_layers * heads * width * 2
        free_bytes, _ = torch.cuda.mem_get_info(self.device)
        return max(4_096, int(CACHE_SHARE * free_bytes / token_bytes))


def before(text: str, stops: Sequence[str]) -> str:
    """What of a text stands before the first of the stops."""
    return min((text.partition(stop)[0] for stop in stops), key=len, default=text)


@contextmanager
def without_own_settings(model: "PreTrainedModel") -> Iterator[None]:
    """`generate` inside does what it is told, and nothing of the model's generation_config, which transformers adds to
    that: some penalise repetitions, which is not greedy."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def encode(tokenizer: "PreTrainedTokenizerBase", text: str, rendered: bool = False) -> list[int]:
    """Token ids of a prompt. What a chat template `rendered` is whole; before other text comes what the tokenizer puts
    there, no end token behind it, and the name of a control token in it is text, as in rows."""
    if rendered:
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    of_text, num_closing = _text_tokenizer(tokenizer)
    ids = of_text.encode(text).ids
    return ids[: len(ids) - num_closing]


@lru_cache(maxsize=4)
def _text_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> tuple["Tokenizer", int]:
    """The tokenizer of plain texts, and how many tokens it puts behind one."""
    of_text = text_tokenizer(tokenizer.backend_tokenizer)
    mask = of_text.encode("a").special_tokens_mask
    return of_text, len(list(takewhile(bool, reversed(mask))))


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many first tokens all rows have in common."""
    least, most = min(rows), max(rows)
    return next((n for n, (one, other) in enumerate(zip(least, most, strict=False)) if one != other), len(least))
