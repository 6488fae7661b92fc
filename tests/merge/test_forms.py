"""Forms of bases and adapters that others write: stored tied heads, resized vocabularies, names of wrappers."""

import shutil
from itertools import product

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.formats import weights
from nsllm_lite.formats.weights import ties_embeddings
from nsllm_lite.merge import verify, write_model
from nsllm_lite.merge.write_model import merge
from nsllm_lite.models.loading import load_base
from nsllm_lite.models.lora import add_adapter, load_adapter
from nsllm_lite.recipe.train import Adapter
from tests.merge.make import edit_json, edit_tensors, make_adapter, make_base, make_recipe
from tests.raising import raises

HEAD, EMBEDDING, PREFIX = "lm_head.weight", "model.embed_tokens.weight", "base_model.model."
Q = "model.layers.0.self_attn.q_proj.weight"
SAVED = {
    "untouched": {},
    "both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "embeddings": {"modules_to_save": ["embed_tokens"]},
    "kept one": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "rows": {"trainable_token_indices": [3, 170, 200]},
}
TELLING = {
    ("a copy", None): ("kept one", "rows"),
    ("another head", None): ("kept one", "rows"),
    ("untied", 207): ("both", "rows"),
    ("tied", 207): ("untouched", "embeddings", "rows"),
}
IDS = torch.arange(203)[None]


def store_head(base, add: float):
    """The head beside the embeddings that config.json ties it to: a copy, or (`add`) another."""
    edit_tensors(base / "model.safetensors", lambda t: t.update({HEAD: t[EMBEDDING].clone() + add}))


def train(base, folder, num_tokens=None, **lora):
    """PEFT's model with random updates, saved; its vocabulary may be resized first."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    if num_tokens:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
    settings = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | lora
    model = get_peft_model(model, LoraConfig(**settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.05)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("base_kind", "num_tokens", "kind"),
    [
        pytest.param(*case, kind, marks=[] if kind in TELLING.get(case, ()) else [pytest.mark.slow])
        for case in product(["untied", "tied", "a copy", "another head"], [None, 207]) for kind in SAVED
    ],
)  # fmt: skip
def test_the_result_is_the_model_that_peft_trained(tmp_path, base_kind, kind, num_tokens):
    base = make_base(tmp_path / "base", tied=base_kind != "untied")
    if base_kind in ("a copy", "another head"):
        store_head(base, 0.01 * (base_kind == "another head"))
    trained = train(base, tmp_path / "adapter", num_tokens, **SAVED[kind])
    if num_tokens:  # evaluation resizes too, and reads what PEFT saves twice
        loaded = load_adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
        assert torch.equal(loaded(IDS).logits, trained(IDS).logits)
    results = merge(make_recipe(base, tmp_path / "adapter", tmp_path / "out", execution={"verify": True}))
    assert results["verified"]["largest"] < 0.05 * results["verified"]["largest_of_adapter"]
    theirs, ours = trained.merge_and_unload(), AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(ours(IDS).logits, theirs(IDS).logits)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    assert ours.config.vocab_size == (num_tokens or 203)
    is_one = ours.get_input_embeddings().weight is ours.get_output_embeddings().weight
    assert is_one == ours.config.tie_word_embeddings == (base_kind != "untied" and not results["untied_embeddings"])


@pytest.mark.parametrize(("name", "row"), [(HEAD, 170), (EMBEDDING, 170), (Q, 5)])
@pytest.mark.parametrize("by", ["weights", "logits"])
def test_verify_finds_one_row_that_kept_its_old_values(tmp_path, monkeypatch, name, row, by):
    """As a merge leaves the stored head that follows config.json alone."""
    base = make_base(tmp_path / "base", tied=True)
    store_head(base, 0)
    train(base, tmp_path / "adapter", trainable_token_indices=[3, 170, 200])
    old, write = load_file(base / "model.safetensors")[name][row], write_model.write_weights

    def then_revert(folder, *rest):
        written = write(folder, *rest)
        edit_tensors(folder / "model.safetensors", lambda held: held[name][row].copy_(old))
        written.sha256["model.safetensors"] = sha256_file(folder / "model.safetensors")
        return written

    monkeypatch.setattr(write_model, "write_weights", then_revert)
    if by == "logits":  # of prompts that have no trained token but those that are added
        monkeypatch.setattr(verify, "require_weights", lambda *_: (0, 0))
        monkeypatch.setattr(verify, "prompts", lambda *_: torch.ones(4, 64, dtype=torch.long))
    recipe = make_recipe(base, tmp_path / "adapter", tmp_path / "out", execution={"verify": True})
    if by == "logits" and name == Q:  # too little of a change for them
        merge(recipe)
        return
    with raises("merge-verify-failed", *([name, row] if by == "weights" else [])):
        merge(recipe)
    assert not (tmp_path / "out.partial").exists()


def test_tied_or_not_is_asked_of_the_weights_where_a_model_trains(tmp_path):
    base = make_base(tmp_path / "base", tied=True)
    store_head(base, 0.01)
    how = {"quantisation": "none", "double_quantisation": False, "compute_dtype": "float32", "device": "cpu"}
    adapter = Adapter(rank=4, alpha=8, targets=["q_proj"], rslora=False, dora=False, modules_to_save=["lm_head"])
    model = add_adapter(load_base(base, **how), adapter, "base", 0)
    assert sum("lm_head" in name for name, of in model.named_parameters() if of.requires_grad) == 1
    store_head(base, 0)
    with raises("adapter-head-tied"):
        add_adapter(load_base(base, **how), adapter, "base", 0)


@pytest.mark.parametrize(
    ("config", "tied"),
    [({"tie_word_embeddings": True}, True), ({"text_config": {"tie_word_embeddings": False}}, False),
     ({"model_type": "gemma2"}, True), ({"model_type": "llama"}, False), ({"model_type": "unheard-of"}, False)],
)  # fmt: skip
def test_a_config_that_does_not_say_ties_as_its_kind_does(config, tied):
    assert ties_embeddings(config) == tied


def test_an_index_may_name_the_tied_head_that_no_shard_holds(tmp_path):
    base = make_base(tmp_path / "base", tied=True, max_shard_size="60KB")
    index = read_json(base / "model.safetensors.index.json")["weight_map"]
    edit_json(base / "model.safetensors.index.json", weight_map=index | {HEAD: index[EMBEDDING]})
    train(base, tmp_path / "adapter")
    merge(make_recipe(base, tmp_path / "adapter", tmp_path / "out"))
    assert HEAD not in load_file(tmp_path / "out/model.safetensors")
    weights.require_sound(base)
    edit_json(base / "config.json", tie_word_embeddings=False)
    with raises("weights-index-differs", HEAD):
        weights.model_files(base)


@pytest.fixture(scope="module")
def named(pair, tmp_path_factory):
    """A base, an adapter with all that has a name, the weights of its merge, and its logits."""
    base, folder = pair[0], tmp_path_factory.mktemp("named")
    patterns = {
        "rank_pattern": {r"layers\.1\.mlp\.up_proj": 3},
        "alpha_pattern": {Q.removesuffix(".weight"): 5},
    }
    adapter = make_adapter(base, folder / "adapter", use_dora=True, modules_to_save=["lm_head"], **patterns)
    merge(make_recipe(base, adapter, folder / "merged"))
    model = load_adapter(AutoModelForCausalLM.from_pretrained(base), adapter)
    return base, adapter, load_file(folder / "merged/model.safetensors"), model(IDS).logits


def state_dict_name(name: str) -> str:
    name = name.replace("_A.weight", "_A.default.weight").replace("_B.weight", "_B.default.weight")
    name = name.replace("magnitude_vector", "magnitude_vector.default.weight")
    return name.replace("lm_head.weight", "lm_head.modules_to_save.default.weight")


FORMS = {
    "a state dict": state_dict_name,
    "torch.compile": lambda name: PREFIX + "_orig_mod." + name.removeprefix(PREFIX),
    "FSDP": lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
    "DDP": lambda name: "module." + name,
    "no prefix": lambda name: name.removeprefix(PREFIX),
    "a decoder alone": lambda name: name.replace(PREFIX + "model.", PREFIX),
    "a wrapped module": lambda name: name.replace(".lora_", ".base_layer.lora_"),
    "images and text": lambda name: name.replace(PREFIX + "model.", PREFIX + "model.language_model."),
    "images and text before": lambda name: PREFIX + "language_model." + name.removeprefix(PREFIX),
}


@pytest.mark.parametrize("form", FORMS)
def test_names_of_wrappers_and_other_classes_are_understood(named, tmp_path, form):
    base, adapter, merged, logits = named
    held = load_file(adapter / "adapter_model.safetensors")
    adapter = shutil.copytree(adapter, tmp_path / "adapter")
    save_file({FORMS[form](name): of for name, of in held.items()}, adapter / "adapter_model.safetensors")
    merge(make_recipe(base, adapter, tmp_path / "out", execution={"verify": form == "a state dict"}))
    found = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(found[name], weight) for name, weight in merged.items())
    model = load_adapter(AutoModelForCausalLM.from_pretrained(base), adapter)
    assert torch.equal(model(IDS).logits, logits)


@pytest.mark.parametrize(
    ("code", "change", "quoted"),
    [("adapter-names-differ", lambda name: PREFIX + "tower." + name.removeprefix(PREFIX), "'tower.'"),
     ("adapter-tensors-unread", lambda name: name.replace("layers.0", "layers.7"), "layers.7"),
     ("adapter-tensors-unread", lambda name: name.replace("lora_A", "lora_C"), "lora_C")],
)  # fmt: skip
def test_an_adapter_that_peft_would_not_read_whole_is_not_evaluated(named, tmp_path, code, change, quoted):
    base, adapter, *_ = named
    adapter = shutil.copytree(adapter, tmp_path / "adapter")
    held = load_file(adapter / "adapter_model.safetensors")
    save_file({change(name): of for name, of in held.items()}, adapter / "adapter_model.safetensors")
    with raises(code, quoted):
        load_adapter(AutoModelForCausalLM.from_pretrained(base), adapter)


def test_an_adapter_whose_shapes_peft_refuses_is_not_evaluated(named, tmp_path):
    base, adapter, *_ = named
    adapter = shutil.copytree(adapter, tmp_path / "adapter")
    edit_json(adapter / "adapter_config.json", r=9)
    with raises("adapter-not-loaded", adapter, "size mismatch"):
        load_adapter(AutoModelForCausalLM.from_pretrained(base), adapter)


@pytest.mark.parametrize(
    ("values", "quoted"),
    [({"model_type": "qwen99"}, "qwen99"), ({"hidden_size": "wide"}, "hidden_size"), ({"num_attention_heads": 0}, ""),
     ({"rope_parameters": {"rope_type": "unheard-of", "rope_theta": 1e4}}, "unheard-of")],
)  # fmt: skip
def test_a_config_that_transformers_refuses_is_told_before_anything_is_written(named, tmp_path, values, quoted):
    base, adapter, *_ = named
    base = shutil.copytree(base, tmp_path / "base")
    edit_json(base / "config.json", **values)
    with raises("model-not-loaded", base, quoted):
        load_base(base, quantisation="none", double_quantisation=False, compute_dtype="float32", device="cpu")
    with raises("model-not-loaded", base, quoted):
        merge(make_recipe(base, adapter, tmp_path / "out", execution={"verify": True}))
    assert not list(tmp_path.glob("out*"))
