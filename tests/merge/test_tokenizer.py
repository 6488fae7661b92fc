"""Whose tokenizer a merged model has, and an evaluated adapter: that which its training left beside it."""

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from nsllm_lite import cli
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.merge.write_model import merge
from nsllm_lite.models.engines import open_engine
from nsllm_lite.models.lora import load_adapter
from nsllm_lite.recipe.evals import EvalExecution
from tests.merge.make import edit_adapter, edit_json, make_recipe
from tests.raising import fails, raises

WORDS = ["<unk>", "tin", "lead", "zinc"]
TEMPLATE = "{% for m in messages %}[{{ m.content }}]{% endfor %}"


def make_tokenizer(folder: Path, words: list[str], added: tuple[str, ...] = (), template: str | None = None) -> None:
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")
    tokenizer.add_tokens(list(added))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def resize(adapter: Path, num_tokens: int) -> None:
    """As PEFT saves an adapter on a resized vocabulary that trained no embeddings."""
    rows = {
        f"base_model.model.{name}.weight": torch.randn(num_tokens, 64) for name in ("lm_head", "model.embed_tokens")
    }
    edit_adapter(adapter, lambda held: held.update(rows))


def engine_of(adapter: Path, **told):
    return open_engine(str(adapter), device="cpu", how=EvalExecution(batch_tokens=64), **told)


@pytest.fixture
def tokenized(copied):
    """The base has a tokenizer, and the adapter names it."""
    base, adapter, _ = copied
    make_tokenizer(base, WORDS)
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(base))
    return copied


CASES = {
    "added in spare rows": (["<doc>"], TEMPLATE, None, "that of the adapter", [4]),
    "only a template": ([], TEMPLATE, None, "that of the adapter", [0]),
    "told base": (["<doc>"], TEMPLATE, "base", "that of the base", [0]),
    "the very same": ([], None, None, "that of the base", [0]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_merged_model_and_the_evaluated_adapter_have_the_same_tokenizer(tokenized, case, capsys):
    _, adapter, chosen = tokenized
    added, template, told, words, ids = CASES[case]
    make_tokenizer(adapter, WORDS, added, template)
    results = merge(chosen.model_copy(update={"tokenizer_from": told}))
    merged = AutoTokenizer.from_pretrained(chosen.out)
    assert results["tokenizer"] == words
    assert (f"| tokenizer | {words} |" in (Path(chosen.out) / "README.md").read_text()) == (words != "that of the base")
    assert (words in capsys.readouterr().out) == (words != "that of the base")
    evaluated = engine_of(adapter, tokenizer_from=told).tokenizer
    for tokenizer in (merged, evaluated):
        assert tokenizer("<doc>").input_ids == ids
        assert tokenizer.chat_template == (template if words != "that of the base" else None)


def test_a_chat_template_alone_is_put_to_the_tokenizer_of_the_base(tokenized):
    base, adapter, chosen = tokenized
    make_tokenizer(base, WORDS, template="the base's")
    (adapter / "chat_template.jinja").write_text(TEMPLATE)
    assert merge(chosen)["tokenizer"] == "that of the base, with the adapter's chat template"
    for tokenizer in (AutoTokenizer.from_pretrained(chosen.out), engine_of(adapter).tokenizer):
        assert tokenizer("lead").input_ids == [2]
        assert tokenizer.chat_template == TEMPLATE
    (adapter / "chat_template.jinja").write_text("another")
    with raises("finished-result-differs", "tokenizer"):
        merge(chosen)


def test_a_vocabulary_that_training_resized_comes_with_its_tokenizer(tokenized):
    base, adapter, chosen = tokenized
    words = [*WORDS, *(f"w{number}" for number in range(199))]  # as many as embeddings
    make_tokenizer(base, words)
    make_tokenizer(adapter, words, ("<doc>", "<end>"))
    with raises("tokenizer-token-not-in-model", "'<end>'", 204, 203):
        merge(chosen)
    with raises("tokenizer-token-not-in-model", "'<end>'", 204, 203):
        engine_of(adapter)
    resize(adapter, 208)
    merge(chosen)
    assert read_json(Path(chosen.out) / "config.json")["vocab_size"] == 208
    assert AutoTokenizer.from_pretrained(chosen.out)("<end>").input_ids == [204]
    theirs = load_adapter(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    ours, ids = AutoModelForCausalLM.from_pretrained(chosen.out), torch.tensor([[3, 204, 207]])
    assert torch.equal(ours(ids).logits, theirs(ids).logits)
    assert engine_of(adapter).tokenizer("<end>").input_ids == [204]


def test_tokenizers_that_contradict_each_other_are_not_chosen_from(tokenized, tmp_path, capsys):
    base, adapter, chosen = tokenized
    with raises("tokenizer-not-the-adapter-s", adapter):
        merge(chosen.model_copy(update={"tokenizer_from": "adapter"}))
    for words, found in ((["<unk>", "tin", "zinc", "lead"], "'lead' is 2"), (WORDS[:3], "'zinc' is 3")):
        make_tokenizer(adapter, words)
        with raises("tokenizers-differ", found, adapter):
            merge(chosen)
        task = tmp_path / "task.json"
        task.write_text('[{"instruction": "Is it?", "input": "", "output": "yes"}]')
        words = f"eval {adapter} --file open={task} --out {tmp_path}/eval"
        assert "--tokenizer-from" in fails(capsys, "tokenizers-differ", *words.split())
        assert not (tmp_path / "eval").exists()
    told = f"merge --base {base} --adapter {adapter} --out {chosen.out} --tokenizer-from adapter"
    assert cli.main(told.split()) == 0
    assert len(AutoTokenizer.from_pretrained(chosen.out)) == 3
    second = shutil.copytree(adapter, tmp_path / "second")
    make_tokenizer(second, WORDS, ("<doc>",))
    two = [{"path": str(adapter)}, {"path": str(second)}]
    both = make_recipe(base, two, tmp_path / "both")
    with raises("tokenizers-several", adapter, second):
        merge(both)
    assert merge(both.model_copy(update={"tokenizer_from": "base"}))["tokenizer"] == "that of the base"


def test_parts_of_a_tokenizer_are_not_left_out_without_a_word(tokenized):
    _, adapter, chosen = tokenized
    (adapter / "added_tokens.json").write_text('{"<doc>": 4}')
    with raises("tokenizer-incomplete", adapter, "added_tokens.json"):
        merge(chosen)
    assert merge(chosen.model_copy(update={"tokenizer_from": "base"}))["tokenizer"] == "that of the base"


def test_every_file_of_the_base_is_copied_or_named(tokenized, capsys):
    base, _, chosen = tokenized
    copied_ones = ("tekken.json", "additional_chat_templates/tools.jinja", "preprocessor_config.json", "spiece.model")
    for name in (*copied_ones, "onnx/model.onnx", "quantize.py", "eval_results.json", ".gitattributes"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("{}")
    left = merge(chosen)["left_behind"]
    assert all((Path(chosen.out) / name).read_text() == "{}" for name in copied_ones)
    assert sorted(left) == ["eval_results.json", "onnx/", "quantize.py"]
    assert ", ".join(left) in capsys.readouterr().out
