"""The merge on real weights: a small Llama that tells stories."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.drift import convert_stories
from nsllm_lite.merge.write_model import merge
from tests.merge.make import assert_equals_peft, make_adapter, make_recipe

STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."


@pytest.fixture(scope="module")
def stories(real_data, tmp_path_factory):
    return convert_stories(real_data / "weights_stories260K/data", tmp_path_factory.mktemp("stories") / "base")


def story_loss(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)("<s>" + STORY, return_tensors="pt").input_ids
    return model(ids, labels=ids).loss.item()


def small_adapter(stories, folder):
    """An update of a thousandth or so of the weights, as a short training makes."""
    adapter = make_adapter(stories, folder)
    path = adapter / "adapter_model.safetensors"
    save_file({name: w * (0.01 if "lora_B" in name else 1) for name, w in load_file(path).items()}, path)
    return adapter


def test_the_merge_of_real_weights_equals_peft_and_still_tells_stories(stories, tmp_path):
    adapter = small_adapter(stories, tmp_path / "adapter")
    assert_equals_peft(stories, adapter, tmp_path / "out", execution={"verify": True})
    assert abs(story_loss(tmp_path / "out") - story_loss(stories)) < 0.05
    assert story_loss(stories) < 0.3


def test_a_small_update_survives_nf4_from_original_weights_and_not_from_rounded_ones(stories, tmp_path):
    adapter = small_adapter(stories, tmp_path / "adapter")
    shares = {
        choice: merge(make_recipe(stories, adapter, tmp_path / choice, base_weights=choice, double_quantisation=True))
        for choice in ("original", "dequantized")
    }
    assert 0.8 < shares["original"]["nf4_kept_share"] < 1.2
    assert shares["dequantized"]["nf4_kept_share"] < 0.1
    weights = load_file(tmp_path / "dequantized/model.safetensors")
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())
