"""Windows of long texts, and what heads say of them: every word, every window, the best span."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.formats.tokenizer import load_auto_tokenizer
from nsllm_lite.models import heads
from nsllm_lite.models.windows import Window, batches, collate, cut, first_tokens, num_windows
from tests.models.small_encoders import VOCAB, save_decoder, save_encoder, save_head
from tests.raising import raises

TAGS = ["O", "B-M", "I-M"]
NER = {"task": "ner", "labels": TAGS, "max_tokens": 16, "stride": 4}
QA = {"task": "qa", "labels": [], "max_tokens": 16, "stride": 3}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def tokenizer(encoder):
    return load_auto_tokenizer(encoder)


def ids(words):
    return [VOCAB.index(word) for word in words.split()]


def test_windows_share_the_stride_and_leave_nothing_out(tokenizer):
    text = " ".join(f"w{n}" for n in range(10))
    windows = cut(tokenizer, [text, "tin"], None, max_tokens=6, stride=2, has_types=False)
    assert [window.input_ids for window in windows] == [
        ids(f"[CLS] {' '.join(f'w{n}' for n in range(first, first + 4))} [SEP]") for first in (0, 2, 4, 6)
    ] + [ids("[CLS] tin [SEP]")]
    assert num_windows(windows, 2) == [4, 1]
    assert windows[1].offsets == [None, (6, 8), (9, 11), (12, 14), (15, 17), None]
    assert [text[start:end] for start, end in windows[3].offsets[1:-1]] == ["w6", "w7", "w8", "w9"]


def test_of_two_texts_the_second_is_cut(tokenizer):
    windows = cut(tokenizer, ["who"], ["w0 w1 w2 w3 w4 w5 w6"], max_tokens=8, stride=1, has_types=True)
    assert windows[1].input_ids == ids("[CLS] who [SEP] w3 w4 w5 w6 [SEP]")
    assert windows[1].type_ids == [0, 0, 0, 1, 1, 1, 1, 1]
    assert windows[1].offsets[:4] == [None, None, None, (9, 11)]
    with raises("windows-first-text-long", "stride=2"):
        cut(tokenizer, ["who what the a"], ["w0"], max_tokens=8, stride=2, has_types=True)


def test_a_text_of_which_nothing_is_left_is_named(tmp_path):
    tokenizer = load_auto_tokenizer(save_decoder(tmp_path))
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("q", "")
    with raises("windows-text-without-token", "qq"):
        cut(tokenizer, ["tin", "qq"], None, max_tokens=16, stride=4, has_types=False)


def test_special_tokens_in_a_text_are_text(tokenizer):
    (window,) = cut(tokenizer, ["tin [SEP] tin"], None, max_tokens=16, stride=4, has_types=False)
    assert window.input_ids.count(VOCAB.index("[SEP]")) == 1


def test_each_word_is_told_once_by_its_first_piece_where_most_is_around_it(tokenizer):
    text = "w0 growsing tin tins x y"  # growsing and tins are two pieces each
    words = [(0, 2), (3, 11), (12, 15), (16, 20), (21, 22), (23, 24)]
    windows = cut(tokenizer, [text], None, max_tokens=8, stride=4, has_types=False)
    assert [window.input_ids for window in windows] == [
        ids("[CLS] w0 grows ##ing tin tin ##s [SEP]"),
        ids("[CLS] ##ing tin tin ##s x y [SEP]"),
    ]
    # of the six tokens in each window "tin" has 2 on its narrower side in the first and 1 in the second
    assert first_tokens(windows, [words]) == [{1: 0, 2: 1, 4: 2}, {3: 3, 5: 4, 6: 5}]


def test_a_word_without_a_token_of_its_own_is_in_no_window():
    window = Window(0, [2, 5, 6, 3], None, [None, (0, 4), (5, 7), None])  # one token covers "ab" and "cd"
    assert first_tokens([window], [[(0, 2), (2, 4), (5, 7), (8, 9)]]) == [{1: 0, 2: 2}]


def test_a_word_without_a_token_goes_on_and_no_tag_is_mended():
    given = ["I-M", "I-M", None, "O", None, "B-M", "I-N", "I-N"]
    assert heads.filled(given) == ["I-M", "I-M", "I-M", "O", "O", "B-M", "I-N", "I-N"]


def test_batches_are_of_like_length_and_padding_changes_nothing(encoder):
    windows = [Window(n, [2, *[5 + n] * length, 3], [0] * (length + 2), []) for n, length in enumerate((3, 9, 3, 1))]
    assert list(batches(windows, max_tokens=12)) == [[1], [0, 2], [3]]
    assert list(batches(windows, max_tokens=44, max_rows=3)) == [[1, 0, 2], [3]]
    model, _ = heads.load_with_head(encoder, "classification", num_labels=3)
    model.eval()
    with torch.no_grad():
        together = model(**collate(windows, 0, "cpu")).logits
        alone = torch.cat([model(**collate([window], 0, "cpu")).logits for window in windows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_class_logits_are_the_mean_over_windows(tmp_path):
    settings = {"task": "classification", "labels": ["a", "b", "c"], "max_tokens": 16, "stride": 4}
    folder = save_head(tmp_path, "AutoModelForSequenceClassification", settings)
    head = heads.open_head(folder)
    texts = ["tin " * 30, "lead melts"]
    pooled = heads.class_logits(head, texts)
    assert pooled.num_windows == [3, 1]  # 14 tokens each, of which 4 are shared: 14, 24, 30
    by_window = np.concatenate([output.logits.numpy() for _, output in head.forward(head.windows(texts[:1]), 1)])
    assert len(by_window) == 3
    np.testing.assert_allclose(pooled.logits[0], by_window.mean(0), rtol=1e-5)
    assert heads.said(head, texts, None, None).values == [settings["labels"][n] for n in pooled.logits.argmax(1)]
    np.testing.assert_allclose(heads.probabilities(head, pooled.logits).sum(1), 1, rtol=1e-6)


def test_every_word_of_a_long_sentence_is_tagged(tmp_path):
    """By a head that says B-M of "tin" alone, in whichever window it stands."""
    folder = save_head(tmp_path, "AutoModelForTokenClassification", NER)
    head = heads.open_head(folder)

    def forward(input_ids, **inputs):
        logits = torch.nn.functional.one_hot((input_ids == VOCAB.index("tin")).long(), 3).float()
        return type("Output", (), {"logits": logits})

    head.model.forward = forward
    words = ["tin" if n in (3, 17, 40) else "melts" for n in range(50)]
    text, spans = " ".join(words), []
    for word in words:
        start = spans[-1][1] + 1 if spans else 0
        spans.append((start, start + len(word)))
    tagged = heads.said(head, [text], None, [spans])
    assert [n for n, tag in enumerate(tagged.values[0]) if tag == "B-M"] == [3, 17, 40]
    assert tagged.values[0].count("O") == 47
    assert (tagged.num_windows, tagged.num_unseen) == ([5], 0)


def test_the_best_span_is_one_of_the_context_and_not_too_long():
    window = Window(0, list(range(7)), None, [None, None, None, (0, 2), (3, 5), (6, 8), None])
    starts = np.array([9, 8, 0, 1, 5, 0, 9.0])
    ends = np.array([9, 9, 0, 4, 1, 2, 9.0])
    assert heads.best_span(window, starts, ends, max_tokens=3) == (7.0, (3, 8))  # 5 + 2: no token before, nor behind
    assert heads.best_span(window, starts, ends, max_tokens=1) == (6.0, (3, 5))


def test_an_answer_is_found_in_any_window_and_none_is_said_by_the_threshold(tmp_path):
    head = heads.open_head(save_head(tmp_path, "AutoModelForQuestionAnswering", QA))

    def forward(input_ids, **inputs):
        here = (input_ids == VOCAB.index("tin")).float() * 6
        here[:, 0] = 2  # no answer: 4 in all
        return type("Output", (), {"start_logits": here, "end_logits": here})

    head.model.forward = forward
    contexts = ["w1 " * 25 + "tin w2", "w1 " * 25]
    found = heads.answers(head, ["who ?", "who ?"], contexts)
    assert found.answers[0] == heads.Answer("tin", (75, 78), "tin", 8.0)  # 12 above 4
    assert (found.answers[1].text, found.answers[1].margin) == ("", -4.0)
    assert found.num_windows == [3, 3]  # 11 tokens of a context each, of which 3 are shared
    strict = replace(head, settings=replace(head.settings, no_answer=-9.0))
    assert heads.answers(strict, ["who ?"], contexts[:1]).answers[0] == heads.Answer("", None, "tin", 8.0)
    lenient = replace(head, settings=replace(head.settings, no_answer=4.0))
    assert heads.answers(lenient, ["who ?"], contexts[1:]).answers[0].text == "w1"


def test_a_folder_of_others_tells_its_task(tmp_path):
    ner = save_head(tmp_path / "ner", "AutoModelForTokenClassification", id2label=dict(enumerate(TAGS)))
    settings = heads.open_head(ner).settings
    assert settings == heads.HeadSettings("ner", tuple(TAGS), 66, 16)
    assert heads.open_head(save_head(tmp_path / "qa", "AutoModelForQuestionAnswering")).settings.task == "qa"
    several = {"num_labels": 3, "problem_type": "multi_label_classification"}
    for name, expected, config in (("multi", "multilabel", several), ("pair", "pair", {"num_labels": 1})):
        folder = save_head(tmp_path / name, "AutoModelForSequenceClassification", **config)
        assert heads.open_head(folder).settings.task == expected


def test_what_cannot_be_opened_is_named(encoder, tmp_path):
    with raises("head-architecture-unknown", "BertForMaskedLM"):
        heads.open_head(encoder)
    settings = {"task": "classification", "labels": ["a", "b"], "max_tokens": 16, "stride": 4}
    headless = save_encoder(tmp_path / "headless")
    write_json(headless / "finetune.json", settings)
    with raises("head-not-stored", "classifier"):
        heads.open_head(headless)
    write_json(headless / "finetune.json", settings | {"task": "poetry"})
    with raises("file-damaged", "task"):
        heads.open_head(headless)
    damaged = save_head(tmp_path / "nan", "AutoModelForSequenceClassification", settings, num_labels=2)
    head = heads.open_head(damaged)
    head.model.classifier.bias.data[0] = torch.nan
    with raises("head-not-finite"):
        heads.class_logits(head, ["tin"])
    tokenizer = load_auto_tokenizer(save_decoder(tmp_path / "decoder"))
    tokenizer.eos_token = None
    with raises("head-no-padding"):
        heads.require_padding(head.model, tokenizer)


@pytest.mark.parametrize(
    ("stated", "code", "quoted"),
    [
        ({"labels": ["O", "B-M", "I-N"]}, "head-settings-differ", "I-N"),
        ({"labels": TAGS[:2]}, "head-settings-differ", "B-M"),
        ({"labels": [*TAGS, "B-X"]}, "head-settings-differ", "B-X"),
        ({"labels": ["B-M", "O", "I-M"]}, "head-settings-differ", "B-M, O"),
        ({"thresholds": {"z": 0.5}}, "head-settings-differ", "'z'"),
        ({"max_answer_tokens": 0}, "head-settings-differ", "max_answer_tokens"),
        ({"max_tokens": -5}, "head-windows-unfit", "max_tokens=-5"),
        ({"max_tokens": 0}, "head-windows-unfit", "max_tokens=0"),
        ({"max_tokens": 3, "stride": 1}, "head-windows-unfit", "stride=1"),
        ({"max_tokens": 8, "stride": 4}, "head-windows-unfit", "stride=4"),
        ({"max_tokens": 67}, "head-windows-unfit", "66"),
        ({"stride": -1}, "head-windows-unfit", "stride=-1"),
    ],
)
def test_what_the_folder_states_is_held_against_its_model(tmp_path, stated, code, quoted):
    names = {"id2label": dict(enumerate(TAGS))}
    heads.open_head(save_head(tmp_path, "AutoModelForTokenClassification", NER, **names))
    write_json(tmp_path / "finetune.json", NER | stated)
    with raises(code, tmp_path, quoted):
        heads.open_head(tmp_path)


BAD_TAGS = [["x", "y", "z"], ["B-M", "I-M"], ["O", "I-M"], ["O", "B-M", "S-M"], ["O", "B-M", "B-M"]]


@pytest.mark.parametrize("tags", BAD_TAGS)
@pytest.mark.parametrize("stated", [True, False])
def test_tags_that_would_be_scored_as_nothing_are_refused(tmp_path, tags, stated):
    settings, names = NER | {"labels": tags} if stated else None, {"id2label": dict(enumerate(tags))}
    with raises("head-tags-unread", tags[-1]):
        heads.open_head(save_head(tmp_path, "AutoModelForTokenClassification", settings, **names))


@pytest.mark.parametrize(("task", "num_labels"), [("pair", 2), ("qa", 3), ("multilabel", 2)])
def test_a_head_of_another_task_is_refused(tmp_path, task, num_labels):
    """Two logits are two classes, of which each text has one."""
    settings = {"task": task, "labels": [], "max_tokens": 16, "stride": 4}
    config = {"id2label": {number: f"c{number}" for number in range(num_labels)}}
    settings["labels"] = ["c0", "c1"] if task == "multilabel" else []
    with raises("head-settings-differ", tmp_path):
        heads.open_head(save_head(tmp_path, heads.CLASSES[task], settings, **config))


def test_tags_are_no_classes(tmp_path):
    """The heads of both have the same tensors in a ModernBERT."""
    folder = save_head(tmp_path, "AutoModelForTokenClassification", NER | {"task": "classification"}, "modernbert")
    with raises("head-settings-differ", "classification", "ner"):
        heads.open_head(folder)


def test_classes_stand_once(tmp_path):
    settings = {"task": "classification", "labels": ["a", "a"], "max_tokens": 16, "stride": 4}
    config = {"id2label": {0: "a", 1: "a"}}
    with raises("head-settings-differ", "a, a"):
        heads.open_head(save_head(tmp_path, "AutoModelForSequenceClassification", settings, **config))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    folder = save_head(tmp_path, "AutoModelForTokenClassification", NER, vocab_size=len(VOCAB) - 1)
    with raises("model-vocabulary-differs", len(VOCAB) - 1, len(VOCAB)):
        heads.open_head(folder)


def test_a_body_that_is_not_all_there_is_refused(encoder, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in encoder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("bert.encoder.layer.1.output.dense.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with raises("head-body-missing", "layer.1"):
        heads.load_with_head(tmp_path, "ner", num_labels=3)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_decoders_are_told_from_encoders(kind, tmp_path):
    from transformers import AutoConfig

    assert not heads.is_causal(AutoConfig.from_pretrained(save_encoder(tmp_path / kind, kind)))
    if kind == "bert":
        assert heads.is_causal(AutoConfig.from_pretrained(save_decoder(tmp_path / "decoder")))
