"""Likelihoods and greedy answers of a class that is not trained here, each prompt alone."""

from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nsllm_lite.formats.tokenizer import spoken
from nsllm_lite.models.generate import Engine, before, encode, without_own_settings

if TYPE_CHECKING:
    from nsllm_lite.models.grammar import Answers, Schema


class AloneEngine(Engine):
    """`Engine` of any class that transformers loads: each text alone through its own forward, with nothing shared.

    What padding and shared keys do to a class is known for those that are trained here; state-space models have no
    keys, others take positions from elsewhere.
    """

    is_batched = False

    def rank(
        self, prompts: Sequence[str], labels: Sequence[Sequence[str]], done: Container[int] = ()
    ) -> Iterator[tuple[int, list[float]]]:
        for number in (n for n in range(len(prompts)) if n not in done):
            request = self._ranked(prompts[number], labels[number])
            found = []
            for tail, skip in zip(request.tails, request.skip, strict=True):
                ids = torch.tensor([[*request.prompt, *tail]], device=self.device)
                self.forward_tokens += ids.numel()
                with torch.no_grad():
                    scored = torch.log_softmax(self.model(input_ids=ids, use_cache=False).logits[0].float(), -1)
                own = torch.arange(len(request.prompt) + skip, ids.shape[1], device=self.device)
                found.append(float(scored[own - 1, ids[0, own]].double().sum()))
            yield number, found

    def generate(
        self,
        prompts: Sequence[str],
        new_tokens: int,
        stops: Sequence[str],
        done: Container[int] = (),
        rendered: bool = False,
        schemas: "Sequence[Schema | None] | None" = None,
    ) -> Iterator[tuple[int, str]]:
        ends, grammars = sorted(self._end_ids()), self._grammars_of(schemas)
        options = {"do_sample": False, "eos_token_id": ends or None, "pad_token_id": 0}
        for number in (n for n in range(len(prompts)) if n not in done):
            prompt = self._cut(encode(self.tokenizer, prompts[number], rendered), new_tokens)
            ids = torch.tensor([prompt], device=self.device)
            room = min(new_tokens, self.window - len(prompt))
            self.num_short += room < new_tokens
            answer = grammars.begin([schemas[number]]) if grammars and schemas[number] is not None else None
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": room}
            given |= self._heeding(len(prompt), () if answer else stops, answer)
            with without_own_settings(self._causal):
                out = self.model.generate(**given, **options)
            self.forward_tokens += out.numel()
            text = spoken(self.tokenizer, [token for token in out[0, ids.shape[1] :].tolist() if token not in ends])
            yield number, before(text, () if answer else stops)

    def _heeding(self, begin: int, stops: Sequence[str], answer: "Answers | None") -> dict[str, list[Callable]]:
        """The options of transformers' `generate` that end an answer, whose first token is number `begin`, at stops,
        or hold it to its grammar."""

        def stopped(written: Tensor, *_: object, **__: object) -> Tensor:
            text = self.tokenizer.decode(written[0, begin:])
            return torch.tensor([any(stop in text for stop in stops)], device=written.device)

        def is_whole(written: Tensor, *_: object, **__: object) -> Tensor:
            token = int(written[0, -1])
            return torch.tensor([token in self._end_ids() or answer.take(0, token, 0)[1]], device=written.device)

        if answer is None:
            return {"stopping_criteria": [stopped]}
        return {"stopping_criteria": [is_whole], "logits_processor": [lambda _, scores: answer.masked(scores, [0])]}
