"""`generate.Engine`'s two methods through vLLM, whose prefix cache shares common prompt beginnings."""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer import spoken
from nsllm_lite.formats.weights import require_sound
from nsllm_lite.models.generate import before, encode
from nsllm_lite.models.grammar import bounded

CHUNK = 256  # prompts handed over at once, so that answers are written down as they come


class VllmEngine:
    """`llm` is a vllm.LLM with prefix caching; prompts are tokenised by `tokenizer`."""

    tuned_in: str | None = None  # as `generate.Engine` has it

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
        schemas: Sequence[dict[str, Any] | None] | None = None,
    ) -> Iterator[tuple[int, str]]:
        """(number of the prompt, the model's answer) of those not `done`, greedy; an answer that has a schema is its
        JSON. Raises UserError where vLLM takes a schema not."""
        from vllm import SamplingParams

        told = {"max_tokens": new_tokens, "temperature": 0.0, "skip_special_tokens": False}  # its tokens tell reasoning
        free = SamplingParams(stop=list(stops) or None, **told)
        held = [schema is not None for schema in schemas or [None] * len(prompts)]
        params = [SamplingParams(**told, **structured(schemas[n])) if held[n] else free for n in range(len(prompts))]
        for start in range(0, len(prompts), CHUNK):
            numbers = [n for n in range(start, min(start + CHUNK, len(prompts))) if n not in done]
            group = [encode(self.tokenizer, prompts[n], rendered) for n in numbers]
            outputs = self._run(group, [params[n] for n in numbers] if any(held) else free)
            for number, output in zip(numbers, outputs, strict=True):
                yield number, before(spoken(self.tokenizer, output.outputs[0].token_ids), () if held[number] else stops)

    def _run(self, token_lists: list[list[int]], params: Any) -> list[Any]:
        self.forward_tokens += sum(map(len, token_lists))
        given = [{"prompt_token_ids": ids} for ids in token_lists]
        try:
            return self.llm.generate(given, params, use_tqdm=False) if given else []
        except ValueError as error:
            if not isinstance(params, list):
                raise
            found = f"vLLM takes a schema of the answers not ({error})."
            raise UserError("vllm-schema-refused", found, "Use execution.backend=transformers for it.") from None


def _tail_log_likelihood(output: Any, alone: int) -> float:
    """Sum over the tokens of a prompt with its label, from number `alone` on, or of the last where the label's first
    letters join the prompt's last token; vLLM gives each as {token: its logprob}."""
    before = min(alone, len(output.prompt_token_ids) - 1)
    pairs = zip(output.prompt_token_ids[before:], output.prompt_logprobs[before:], strict=True)
    return float(sum(of[token].logprob for token, of in pairs))


def structured(schema: dict[str, Any]) -> dict[str, Any]:
    """The options of SamplingParams that hold an answer to a schema. Raises UserError where this vLLM has none."""
    try:
        from vllm.sampling_params import StructuredOutputsParams
    except ImportError:
        found = "This release of vLLM has no StructuredOutputsParams, which constrains answers."
        todo = "Install 0.12 or later, or use execution.backend=transformers."
        raise UserError("vllm-no-structured-outputs", found, todo) from None
    return {"structured_outputs": StructuredOutputsParams(json=bounded(schema))}


def open_vllm(folder: Path, tokenizer: Any, notes: list[str], constrain: bool = False) -> VllmEngine:
    """With `constrain` an engine that takes schemas, through xgrammar. White space is left to the model there: xgrammar
    could only demand a blank behind each comma and colon, which answers of ours do not have.

    Raises UserError where vLLM is not installed, or its release constrains nothing.
    Source: docs.vllm.ai/en/latest/features/structured_outputs, vllm/config/structured_outputs.py.
    """
    try:
        from vllm import LLM
    except ImportError:
        found = "execution.backend=vllm needs vLLM, which is not installed here."
        todo = "Run pip install vllm (NVIDIA cards), or leave the backend at transformers."
        raise UserError("vllm-not-installed", found, todo) from None
    require_sound(folder)
    options = {"enable_prefix_caching": True, "trust_remote_code": False, "load_format": "safetensors"}
    if constrain:
        structured({"type": "object"})
        options["structured_outputs_config"] = {"backend": "xgrammar"}
    llm = LLM(str(folder), **options)
    return VllmEngine(llm, tokenizer, notes)
