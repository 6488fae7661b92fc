"""What is asked of vLLM and read from it, with a stand-in for the library."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

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
