"""Records in every form of the field, under several chat templates: which text is trained, what is left out by name."""

import json
import tomllib
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer import begin_of_text_ids
from nsllm_lite.models.generate import encode
from nsllm_lite.recipe.train import Fields
from nsllm_lite.safety import render_chat
from nsllm_lite.tasks.items import plain_prompt
from nsllm_lite.train.conversations import LeftOutError, Reader
from nsllm_lite.train.examples import read_examples
from nsllm_lite.train.template import Template
from tests.corpus.small import write_lines
from tests.raising import raises

DATA = Path(__file__).parents[1] / "data/train"
TEMPLATES = tomllib.loads((DATA / "templates.toml").read_text())
CASES = [json.loads(line) for line in (DATA / "conversations.jsonl").read_text().splitlines()]
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>")


def template_of(kind: str, *begin: str) -> Template:
    """On a tokenizer whose tokens are bytes and the special tokens, and which puts those of `begin` before a text."""
    tokenizer = Tokenizer(BPE({byte: n for n, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL, *begin])
    ids = [(token, tokenizer.token_to_id(token)) for token in begin]
    tokenizer.post_processor = TemplateProcessing(single=[*begin, "$A"], special_tokens=ids)
    chosen = TEMPLATES.get(kind, {"end": "</s>", "text": None})
    chat = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=chosen["text"])
    if chosen["text"]:
        return Template("chat", chosen["end"], tokenizer, chat)
    return Template("plain", chosen["end"], tokenizer, chat, begin_of_text_ids(tokenizer))


def read(folder: Path, records: list[dict], kind: str = "chatml", **fields: str):
    path = write_lines(folder / "given.jsonl", records)
    return read_examples([path], template_of(kind), 10_000, Reader(Fields(**fields)))


def outcome(kind: str, record: dict) -> dict:
    """What becomes of a record: the text of its examples with [answers] in brackets, and its parts in none of them."""
    try:
        talk = Reader().read(record, "here")
        examples = template_of(kind).examples(talk, "here")
    except LeftOutError as reason:
        return {"left_out": str(reason)} | ({"code": reason.error.code} if reason.error else {})
    texts = ["".join(f"⟦{text}⟧" if is_answer else text for text, is_answer in pieces) for pieces in examples]
    return {"examples": texts} | ({"unused": sorted(talk.unused)} if talk.unused else {})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['template']}-{CASES.index(case)}")
def test_a_record_is_used_counted_or_left_out_by_name(case):
    """Answers stand in brackets: nothing of another turn is within, and each follows the prompt of evaluation."""
    expected = {key: value for key, value in case.items() if key not in ("template", "record")}
    assert outcome(case["template"], case["record"]) == expected


@pytest.mark.parametrize("kind", ["chatml", "llama3", "gemma", "mistral", "qwen3", "hybrid", "deaf"])
def test_the_trained_tokens_are_those_of_the_assistant_alone(kind, tmp_path):
    turns = [("user", "ask"), ("assistant", "tell"), ("user", "ask again"), ("assistant", "tell more")]
    messages = [{"role": role, "content": content} for role, content in turns]
    examples, _ = read(tmp_path, [{"messages": messages}], kind)
    tokenizer = template_of(kind)._tokenizer
    trained = "".join(tokenizer.decode(e.input_ids[e.is_answer].tolist()) for e in examples).split()
    assert " ".join(trained).replace("telltell", "tell tell") == "tell tell more"
    prompt = template_of(kind)._chat.apply_chat_template(
        messages[:3], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    ids, is_answer = examples[-1].input_ids, examples[-1].is_answer
    before = ids[: len(ids) - int(is_answer[::-1].argmin())]
    assert tokenizer.decode(before.tolist(), skip_special_tokens=False) == prompt


@pytest.mark.parametrize(
    ("kind", "begin"),
    [
        ("plain", ["<s>"]),
        ("chatml", ["<bos>"]),
        ("gemma", ["<bos>"]),
        ("mistral", ["<s>"]),
        ("qwen3", ["[M]", "<sop>"]),
    ],
)
def test_a_prompt_begins_as_in_evaluation(kind, begin):
    """A chat template's text is whole: nothing is put before it, as in transformers."""
    template = template_of(kind, *begin)
    talk = Reader().read({"instruction": "q</s>", "output": "a"} if kind == "plain" else GOOD, "here")
    ids, is_answer = template.encode(template.examples(talk, "here")[0])
    own = [template._chat.convert_tokens_to_ids(token) for token in begin]
    begun = [number for number in ids.tolist() if number in own]
    if kind == "plain":
        assert ids[~is_answer].tolist() == encode(template._chat, plain_prompt("q</s>", ""))
        assert begun == own
        return
    asked = [{"role": "user", "content": "q"}]
    prompt = render_chat(template._chat, asked, add_generation_prompt=True, enable_thinking=False)
    assert ids[~is_answer].tolist() == encode(template._chat, prompt, rendered=True)
    assert begun == [number for number, token in zip(own, begin, strict=True) if prompt.startswith(token)]


def test_pieces_have_the_tokens_of_the_whole_where_a_tokenizer_begins_each_text_with_a_blank():
    """As SentencePiece does; but for an answer whose first letters join the prompt's last."""
    vocab = {token: n for n, token in enumerate(["</s>", "\u2581", *"abq:\n", "\u2581a", "\u2581b", "q:"])}
    tokenizer = Tokenizer(BPE(vocab, [("\u2581", "a"), ("\u2581", "b"), ("q", ":")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["</s>"])
    template = Template("plain", "</s>", tokenizer, None)
    ids, is_answer = template.encode([("q:\n", False), ("ab", True)])
    assert [tokenizer.id_to_token(number) for number in ids] == ["\u2581", "q:", "\n", "a", "b", "</s>"]
    assert is_answer.tolist() == [False] * 3 + [True] * 3
    joined, _ = template.encode([("q", False), (":", True)])
    assert [tokenizer.id_to_token(number) for number in joined] == ["\u2581", "q", "\u2581", ":", "</s>"]


GOOD = {"instruction": "q", "output": "a"}


@pytest.mark.parametrize(
    "odd",
    [["no"], {"text": "t"}, {"messages": [{"role": "narrator", "content": "x"}]}, {"prompt": "q", "chosen": "a"},
     {"instruction": "q", "output": "a", "weight": 0.5}, {"instruction": "q", "output": "a", "system": "Be."}],
)  # fmt: skip
def test_one_odd_record_is_left_out_and_a_file_of_them_ends_the_run(odd, tmp_path):
    examples, ledger = read(tmp_path, [GOOD, odd], "gemma")
    assert [len(examples), ledger.counts()["given"]["in"]] == [1, 2]
    (line,) = ledger.lines("data")
    assert [line["name"], "record 2" in line["found"]] == ["given.jsonl#2", True]
    files = [write_lines(tmp_path / f"{n}.jsonl", [record]) for n, record in enumerate((GOOD, odd))]
    assert len(read_examples(files, template_of("gemma"), 10_000)[0]) == 1, "a folder of files of one record"
    with pytest.raises(UserError):
        read(tmp_path, [odd, odd], "gemma")


def test_parts_in_no_example_are_counted_and_said(tmp_path):
    records = [GOOD | {"source": "x", "empty": None}, GOOD | {"source": "y", "\x1b\ud800": "z"}, GOOD]
    _, ledger = read(tmp_path, records)
    assert ledger.counts()["given"]["unused"] == {"source": 2, "\x1b?": 1}
    assert {"data": "data", "source": "given", "unused": "source", "records": 2} in ledger.lines("data")
    assert "source 2, \\x1b? 1" in ledger.words()
    _, ledger = read(tmp_path, [GOOD, {"id": "\ud800", "\ud800": 1}])
    assert json.dumps(ledger.lines("data"), ensure_ascii=False).encode()
    _, many = read(tmp_path, [GOOD | {f"key {n}": 1 for n in range(1_100)}])
    assert many.counts()["given"]["unused"]["other keys"] == 100
    assert read(tmp_path, [GOOD])[1].words() == ""
    assert "1 records make 2 examples" in read(tmp_path, [GOOD | {"history": [["q", "a"]]}], "qwen3")[1].words()


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ({"frage": "q", "antwort": "a"}, {"instruction": "frage", "output": "antwort"}),
        ({"dialog": [{"who": "P", "says": "q"}, {"who": "D", "says": "a"}]},
         {"messages": "dialog", "role": "who", "content": "says", "user": "p", "assistant": "D"}),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, {"output": "chosen"}),
        ({"question": "q", "answer": "long", "response": "a"}, {"output": "response"}),
        (GOOD | {"use": 1}, {"weight": "use"}),
        ({"instruction": "q", "question": " ", "answer": "a"}, {"input": "question"}),
        ({"x": {"frage": "q", "more": {"say": "a"}}}, {"instruction": "x.frage", "output": "x.more.say"}),
        ({"data.q": "q", "data": {"q": "no", "a": "a"}}, {"instruction": "data.q", "output": "data.a"}),
        ({"a.b": {"c": {"d.e": "q"}}, "a": {}, "output": "a"}, {"instruction": "a.b.c.d.e"}),
        ({"d": {"talk": [{"by": {"who": "user"}, "text": "q"}, {"by": {"who": "gpt"}, "text": "a"}]}},
         {"messages": "d.talk", "role": "by.who", "content": "text"}),
        ({"prompt": "q", "chosen": {"text": "a"}, "rejected": {"text": "b"}}, {"output": "chosen.text"}),
        ({"input": {"q": "q"}, "output": "a"}, {"instruction": "input.q"}),
        (GOOD | {"meta": {"use": 1}}, {"weight": "meta.use"}),
    ],
)  # fmt: skip
def test_other_keys_are_mapped(record, fields, tmp_path):
    (same,), _ = read(tmp_path, [GOOD])
    reader, path = Reader(Fields(**fields)), write_lines(tmp_path / "given.jsonl", [record])
    (example,), _ = read_examples([path], template_of("chatml"), 10_000, reader)
    reader.require_seen()
    assert example.input_ids.tolist() == same.input_ids.tolist()


def test_what_stands_beside_a_path_is_noted_and_ids_are_found_by_one(tmp_path):
    record = {"data": {"q": "q", "a": "a", "id": "n1", "x": 1, "in": {"y": {}, "z": 2}}, "output": "b"}
    fields = {"instruction": "data.q", "output": "data.a", "id": "data.id", "document": "data.in.doc"}
    (example,), ledger = read(tmp_path, [record], **fields)
    assert example.name == "n1"
    assert ledger.counts()["given"]["unused"] == {"data.in": 1, "data.x": 1, "output": 1}
    _, ledger = read(tmp_path, [record, {"data": []}], **fields)
    assert ledger.counts()["given"]["left_out"] == {"not this format": 1}


def test_fields_that_no_record_has_are_refused(tmp_path):
    reader = Reader(Fields(instruction="instruction", system="rolle"))
    read_examples([write_lines(tmp_path / "given.jsonl", [GOOD])], template_of("plain"), 100, reader)
    with raises("sft-field-missing", "system: rolle"):
        reader.require_seen()
    with raises("sft-field-missing", "output: antwrt"):
        read(tmp_path, [{"frage": "q", "antwort": "a"}] * 2, instruction="frage", output="antwrt")
    for path, told in {
        "data.q": "data has frage, x.y", "data.frage.q": "data.frage is no object, but list", "nix.q": "data.z",
    }.items():  # fmt: skip
        with raises("sft-field-missing", path, told):
            read(tmp_path, [{"data": {"frage": [], "x.y": 1}}] * 2, instruction=path, output="data.z")
    with pytest.raises(ValueError, match="repeat"):
        Fields(instruction="x", output="x")
