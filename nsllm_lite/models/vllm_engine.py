"""`generate.Engine`'s two methods through vLLM, whose prefix cache shares common prompt beginnings."""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer import spoken
from nsllm_lite.formats.weights import require_sound
from nsllm_lite.models.generate import encode

CHUNK = 256  # prompts handed over at once, so that answers are written down as they come


class VllmEngine:
    """`llm` is a vllm.LLM with prefix caching; prompts are tokenised by `tokenizer`."""

    def __init__(self, llm: Any, tokenizer: Any, notes: list[str]):
        self.llm = llm
        self.tokenizer = tokenizer
        self.forward_tokens = 0  # of prompts; savings of the prefix cache are not reported by vLLM
        self.num_cut = self.num_short = 0
        self.notes = notes

    def rank(
        self, prompts: Sequence[str], labels: Sequence[Sequence[str]], done: Container[int] = ()
    ) -> Iterator[tuple[int, list[float]]]:
        """(number of the prompt, log-likelihood of each of its labels) of those not `done`."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        for start in range(0, len(prompts), CHUNK):
            numbers = [n for n in range(start, min(start + CHUNK, len(prompts))) if n not in done]
            wholes = [encode(self.tokenizer, prompts[n] + label) for n in numbers for label in labels[n]]
            outputs = iter(self._run(wholes, params))
            for number in numbers:
                alone = len(encode(self.tokenizer, prompts[number]))
                yield number, [_tail_log_likelihood(next(outputs), alone) for _ in labels[number]]

    def generate(
        self,
        prompts: Sequence[str],
        new_tokens: int,
        stops: Sequence[str],
        done: Container[int] = (),
        rendered: bool = False,
    ) -> Iterator[tuple[int, str]]:
        """(number of the prompt, the model's answer) of those not `done`, greedy."""
        from vllm import SamplingParams

        told = {"stop": list(stops) or None, "skip_special_tokens": False}  # reasoning is told by its tokens
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, **told)
        for start in range(0, len(prompts), CHUNK):
            numbers = [n for n in range(start, min(start + CHUNK, len(prompts))) if n not in done]
            group = [encode(self.tokenizer, prompts[n], rendered) for n in numbers]
            for number, output in zip(numbers, self._run(group, params), strict=True):
                text = spoken(self.tokenizer, output.outputs[0].token_ids)
                yield number, min((text.partition(stop)[0] for stop in stops), key=len, default=text)

    def _run(self, token_lists: list[list[int]], params: Any) -> list[Any]:
        self.forward_tokens += sum(map(len, token_lists))
        given = [{"prompt_token_ids": ids} for ids in token_lists]
        return self.llm.generate(given, params, use_tqdm=False) if given else []


def _tail_log_likelihood(output: Any, alone: int) -> float:
    """Sum over the tokens of a prompt with its label, from number `alone` on, or of the last where the label's first
    letters join the prompt's last token; vLLM gives each as {token: its logprob}."""
    before = min(alone, len(output.prompt_token_ids) - 1)
    pairs = zip(output.prompt_token_ids[before:], output.prompt_logprobs[before:], strict=True)
    return float(sum(of[token].logprob for token, of in pairs))


def open_vllm(folder: Path, tokenizer: Any, notes: list[str]) -> VllmEngine:
    """Raises UserError where vLLM is not installed."""
    try:
        from vllm import LLM
    except ImportError:
        found = "execution.backend=vllm needs vLLM, which is not installed here."
        todo = "Run pip install vllm (NVIDIA cards), or leave the backend at transformers."
        raise UserError("vllm-not-installed", found, todo) from None
    require_sound(folder)
    llm = LLM(str(folder), enable_prefix_caching=True, trust_remote_code=False, load_format="safetensors")
    return VllmEngine(llm, tokenizer, notes)
