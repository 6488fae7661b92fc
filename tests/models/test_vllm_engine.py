"""What is asked of vLLM and read from it, with a stand-in for the library."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from nsllm_lite.formats.tokenizer import load_auto_tokenizer
from nsllm_lite.models.engines import open_engine
from nsllm_lite.recipe.evals import EvalExecution
from tests.raising import raises


class StandIn:
    """A vllm.LLM in the form of its 0.18 interface, answering from a transformers model."""

    def __init__(self, folder, **options):
        from transformers import AutoModelForCausalLM

        assert options == {"enable_prefix_caching": True, "trust_remote_code": False, "load_format": "safetensors"}
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(self, prompts, params, use_tqdm):
        for prompt in prompts:
            ids = prompt["prompt_token_ids"]
            with torch.no_grad():
                logprobs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
                written = self.model.generate(
                    torch.tensor([ids]), max_new_tokens=params.max_tokens, do_sample=False, pad_token_id=0
                )[0, len(ids) :]
            of_prompt = [None] + [
                {ids[n]: SimpleNamespace(logprob=logprobs[n - 1, ids[n]].item())} for n in range(1, len(ids))
            ]
            assert not getattr(params, "skip_special_tokens", False)
            yield SimpleNamespace(
                prompt_token_ids=ids,
                prompt_logprobs=of_prompt if params.prompt_logprobs is not None else None,
                outputs=[SimpleNamespace(token_ids=written.tolist())],
            )


@pytest.fixture
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.LLM = StandIn
    module.SamplingParams = lambda **o: SimpleNamespace(**{"prompt_logprobs": None, "stop": None, **o})
    monkeypatch.setitem(sys.modules, "vllm", module)


def test_it_agrees_with_the_other_engine(vllm, talker):
    ours, theirs = (
        open_engine(str(talker), device="cpu", how=EvalExecution(backend=name)) for name in ("transformers", "vllm")
    )
    prompts = ["The rate was", "The rate was measured at 25 °C", "It was a"]
    labels = [[" fast", " slow and long"], [" so"], ["nd", "lso"]]
    joined = [len(theirs.tokenizer(text)["input_ids"]) for text in ("It was a", "It was and")]
    assert joined[0] == joined[1], "the label has joined the prompt's last token"
    one, other = dict(ours.rank(prompts, labels)), dict(theirs.rank(prompts, labels))
    for number in range(3):
        assert other[number] == pytest.approx(one[number], abs=1e-4)
    assert dict(theirs.generate(prompts, 8, ["e"])) == dict(ours.generate(prompts, 8, ["e"]))


def test_an_adapter_is_refused(vllm, talker, tmp_path):
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(talker)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with raises("vllm-not-whole", tmp_path):
        open_engine(str(tmp_path), device="cpu", how=EvalExecution(backend="vllm"))


class Constrained(StandIn):
    """The same with structured outputs: it writes what a schema of one string allows."""

    def __init__(self, folder, structured_outputs_config, **options):
        assert structured_outputs_config == {"backend": "xgrammar"}
        super().__init__(folder, **options)
        self.encode = load_auto_tokenizer(folder).encode

    def generate(self, prompts, params, use_tqdm):
        for one in params:
            if one.structured_outputs and "oneOf" in one.structured_outputs.json:
                raise ValueError("not supported by xgrammar")
        return [next(self.answer(prompt, one)) for prompt, one in zip(prompts, params, strict=True)]

    def answer(self, prompt, one):
        if one.structured_outputs:
            assert one.stop is None
            text = json.dumps(one.structured_outputs.json["const"])
            yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[*self.encode(text), 0])])
        else:
            yield from super().generate([prompt], one, use_tqdm=False)


@pytest.fixture
def structured(vllm, monkeypatch):
    sampling = ModuleType("vllm.sampling_params")
    sampling.StructuredOutputsParams = lambda json: SimpleNamespace(json=json)
    module = sys.modules["vllm"]
    module.LLM = Constrained
    module.SamplingParams = lambda **o: SimpleNamespace(
        **{"prompt_logprobs": None, "stop": None, "structured_outputs": None, **o}
    )
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
    return sampling


def test_a_schema_goes_to_its_structured_outputs(structured, talker):
    """And stops are for free answers alone."""
    engine = open_engine(str(talker), device="cpu", how=EvalExecution(backend="vllm"), constrain=True)
    prompts = ["The rate was", "The rate was measured at 25 °C", "It was a"]
    schemas = [{"const": "a, e"}, None, {"const": "b"}]
    found = dict(engine.generate(prompts, 8, ["e"], schemas=schemas))
    ours = dict(open_engine(str(talker), device="cpu", how=EvalExecution()).generate(prompts, 8, ["e"]))
    assert found == {0: '"a, e"', 1: ours[1], 2: '"b"'}
    with raises("vllm-schema-refused", "not supported by xgrammar"):
        list(engine.generate(prompts, 8, [], schemas=[{"oneOf": [{"type": "null"}]}] * 3))


def test_a_release_without_structured_outputs_says_so(structured, talker):
    del structured.StructuredOutputsParams
    with raises("vllm-no-structured-outputs"):
        open_engine(str(talker), device="cpu", how=EvalExecution(backend="vllm"), constrain=True)
