import pytest
from tokenizers.processors import TemplateProcessing

from nsllm_lite.corpus import tokenizer
from nsllm_lite.formats.tokenizer import chosen_begin_of_text, save_tokenizer
from tests.corpus.small import END
from tests.raising import raises

TEXTS = ["Tin grows whiskers under compressive stress at 25 °C.", "The rate was 1.5 ± 0.2 µm per day."] * 5


def test_training_is_deterministic_and_readable_by_transformers(tmp_path):
    for name in ("a", "b"):
        tokenizer.train_tokenizer(iter(TEXTS), 400, END, tmp_path / name)
    written = (tmp_path / "a" / "tokenizer.json").read_bytes()
    assert written == (tmp_path / "b" / "tokenizer.json").read_bytes()
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "a"), tokenizer.load_tokenizer(str(tmp_path / "a"))
    assert (theirs.eos_token, theirs.pad_token, theirs.eos_token_id) == (END, END, 0)
    unseen = "A never-seen text: 你好 🧪 ½, 1234."
    assert theirs(unseen)["input_ids"] == ours.encode(unseen).ids
    assert ours.decode(ours.encode(unseen).ids) == unseen
    assert len(set(ours.encode("2024").ids)) == 3  # digit by digit


def test_a_model_tokenizer_is_copied_and_special_tokens_become_text(tmp_path):
    tokenizer.train_tokenizer(TEXTS, 400, END, tmp_path / "model")
    save_tokenizer(tmp_path / "model", tmp_path / "out")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()
    assert 0 not in tokenizer.load_tokenizer(str(tmp_path / "out")).encode(END).ids


@pytest.mark.parametrize(
    ("own", "chosen", "expected"),
    [
        ("", None, ((), "auto")), ("", "none", ((), "auto")), ("", END, ((0,), END)),
        (END, "auto", ((0,), "auto")), (END, "none", ((), "none")), (END, END, ((0,), "auto")),
        (f"a {END}", None, ((65, 0), "auto")),
    ],
)  # fmt: skip
def test_what_begins_a_text(tmp_path, own, chosen, expected):
    tokenizer.train_tokenizer(TEXTS, 400, END, tmp_path)
    opened = tokenizer.load_tokenizer(str(tmp_path))
    ids = [(word, opened.token_to_id(word)) for word in own.split()]
    opened.post_processor = TemplateProcessing(single=[*own.split(), "$A", END], special_tokens=[*ids, (END, 0)])
    assert chosen_begin_of_text(opened, chosen) == expected
    with raises("tokenizer-no-begin-of-text", "'<s>'"):
        chosen_begin_of_text(opened, "<s>")


def test_a_missing_end_of_text_token_or_tokenizer_is_named(tmp_path):
    tokenizer.train_tokenizer(TEXTS, 400, "</s>", tmp_path)
    with raises("tokenizer-no-end-of-text", repr(END), " </s>", "`end_of_text`"):
        tokenizer.end_of_text_id(tokenizer.load_tokenizer(str(tmp_path)), END)
    (tmp_path / "empty").mkdir()
    with raises("tokenizer-missing", tmp_path / "empty"):
        tokenizer.load_tokenizer(str(tmp_path / "empty"))
