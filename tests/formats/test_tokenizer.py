"""A text has the same tokens in the corpus, in tuning and in evaluation, whatever stands beside tokenizer.json."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from nsllm_lite import safety
from nsllm_lite.corpus.encoder import Encoder
from nsllm_lite.corpus.tokenizer import train_tokenizer
from nsllm_lite.formats.generation import stop_ids
from nsllm_lite.formats.tokenizer import apart, load_auto_tokenizer, load_tokenizer, spoken, text_tokenizer
from nsllm_lite.models.generate import encode
from tests.corpus.small import END
from tests.raising import raises

TEXT = "In 2024 we measured 2,500 rates."


@pytest.fixture
def folder(tmp_path) -> Path:
    """A byte-level tokenizer whose words begin with their spaces, but for "rates", which it takes letter by letter."""
    train_tokenizer([TEXT] * 5, 330, END, tmp_path / "own")
    tokenizer = load_tokenizer(tmp_path / "own")
    letters = pre_tokenizers.Split(Regex("[rates]"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([letters, tokenizer.pre_tokenizer])
    tokenizer.save(str(tmp_path / "own/tokenizer.json"))
    return tmp_path / "own"


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "GPT2Tokenizer", "Qwen2Tokenizer"])
def test_the_class_that_a_config_names_does_not_split_a_text_otherwise(folder, name, tmp_path):
    right = load_tokenizer(folder).encode(TEXT, add_special_tokens=False).ids
    edit(folder / "tokenizer_config.json", tokenizer_class=name, bos_token=END, add_bos_token=False)
    tokenizer = load_auto_tokenizer(folder)
    assert encode(tokenizer, TEXT) == right
    assert tokenizer.decode(right) == TEXT
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").encode(TEXT, add_special_tokens=False).ids == right


def test_a_hub_id_has_the_tokens_of_its_file(folder, tmp_path, monkeypatch):
    """In the cache's own form; without the file's parts the spaces are lost."""
    edit(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", bos_token=END, add_bos_token=False)
    cached = tmp_path / "models--who--what"
    (cached / "snapshots").mkdir(parents=True)
    folder.rename(cached / "snapshots" / "abc")
    (cached / "snapshots/abc/config.json").write_text('{"model_type": "llama"}')
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for tokenizer in (load_tokenizer("who/what"), load_auto_tokenizer("who/what").backend_tokenizer):
        assert tokenizer.decode(tokenizer.encode(TEXT, add_special_tokens=False).ids) == TEXT


def test_what_the_file_says_of_cutting_and_padding_does_not_count(folder):
    stored = load_tokenizer(folder)
    stored.enable_truncation(4)
    stored.enable_padding(length=64, pad_token=END)
    stored.save(str(folder / "tokenizer.json"))
    assert load_tokenizer(folder).decode(load_tokenizer(folder).encode(TEXT).ids, False) == TEXT


def test_a_chat_template_says_the_same_tomorrow(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}: {{ messages[0].content }}"
    assert safety.render_chat(tokenizer, [{"role": "user", "content": "Hi"}]) == "26 Jul 2024: Hi"


def test_names_of_control_tokens_in_a_text_are_text_and_added_words_are_tokens(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens(["<|im_end|>"])  # not in the model's own vocabulary: those behind keep their ids
    tokenizer.add_tokens(["<think>", "[SMILES]"])
    tokenizer.post_processor = TemplateProcessing(single=[END, "$A", END], special_tokens=[(END, 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    text = f"[SMILES] <think> {END} <|im_end|>"
    smiles = tokenizer.token_to_id("[SMILES]")
    rows, _ = Encoder(tokenizer).encode(pa.array([text]))
    prompt = encode(load_auto_tokenizer(folder), text)
    assert prompt == [0, *rows.tolist()]
    assert [number for number in rows.tolist() if number == 0 or number >= smiles - 2] == [smiles]
    assert text_tokenizer(tokenizer).decode(rows.tolist(), skip_special_tokens=False) == text
    rendered = f"{END}<|im_end|>"
    assert encode(load_auto_tokenizer(folder), rendered, rendered=True) == [0, smiles - 2]
    assert apart(load_auto_tokenizer(folder), rendered) == "< |endoftext|>< |im_end|>"


def test_a_piece_of_a_unigram_vocabulary_that_is_a_control_token_is_no_text():
    tokenizer = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("</s>", -1.0), *((letter, -2.0) for letter in "</s>ab ")], 0)
    )
    tokenizer.add_special_tokens(["</s>"])
    assert tokenizer.encode("a </s>").ids[-1] == 1
    ids = text_tokenizer(tokenizer).encode("a </s>").ids
    assert 1 not in ids
    assert "".join(map(tokenizer.id_to_token, ids)) == "a </s>"


def test_reasoning_between_special_tokens_is_told_from_the_answer(folder):
    tokenizer = load_auto_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<|call|>"]})
    ids = tokenizer("[THINK]2024[/THINK]rates<|call|>").input_ids
    assert spoken(tokenizer, ids) == "[THINK]2024[/THINK]rates"


@pytest.mark.parametrize("stops", [[[1]], "x", 1.5])
def test_stops_that_are_no_tokens_are_refused(folder, stops):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    with raises("generation-eos-wrong", repr(stops)):
        stop_ids(folder)
