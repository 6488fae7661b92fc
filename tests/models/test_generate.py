"""Shared beginnings, padding and batches change no likelihood and no answer."""

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from nsllm_lite.formats.tokenizer import load_auto_tokenizer
from nsllm_lite.models.alone_engine import AloneEngine
from nsllm_lite.models.engines import open_engine
from nsllm_lite.models.generate import Engine, encode
from nsllm_lite.models.sizes import read_size
from nsllm_lite.recipe.evals import EvalExecution
from tests.models.make import add_lora, load_plain
from tests.models.schemas import SCHEMAS, closed, written
from tests.raising import raises

LABELS = [" Background", " Methods", " A", " Results of all"]
ONE = closed(part={"enum": ["Background", "Methods"]}, sure={"type": "boolean"}) | {"required": ["part", "sure"]}
HEAD = "Which part of an abstract is it?\n\nSentence: Light is fast.\nPart: Background\n\n"


@pytest.fixture(scope="module")
def engine(talker) -> Engine:
    return open_engine(str(talker), device="cpu", how=EvalExecution(batch_tokens=600))


def prompts(count: int = 7) -> list[str]:
    words = "the rate of cells was measured at 25 °C with a slope and then ± again".split()  # noqa: SIM905
    return [f"{HEAD}Sentence: {' '.join((words * 3)[: 2 + 5 * n])}.\nPart:" for n in range(count)]


def likelihood(engine: Engine, prompt: str, label: str) -> float:
    """By one forward over prompt and label alone."""
    return of_ids(engine, encode(engine.tokenizer, prompt), encode(engine.tokenizer, prompt + label))


def of_ids(engine: Engine, before: list[int], whole: list[int]) -> float:
    with torch.no_grad():
        found = engine.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(found[place - 1, whole[place]].item() for place in range(len(before), len(whole)))


def assert_likelihoods(engine: Engine, asked: list[str], labels: list[list[str]]) -> None:
    """`rank` gives those of each label alone."""
    found = dict(engine.rank(asked, labels))
    for number, prompt in enumerate(asked):
        alone = [likelihood(engine, prompt, label) for label in labels[number]]
        assert found[number] == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        (prompts(), [LABELS] * 7),
        (prompts(3), [LABELS[:2], LABELS[:3], LABELS[2:]]),
        (["A b c", "the rate of it", "°"], [LABELS] * 3),
    ],
    ids=["the same labels", "labels of their own", "prompts with nothing in common"],
)
def test_likelihoods_are_those_of_each_label_alone(engine, asked, labels):
    assert_likelihoods(engine, asked, labels)


def test_a_label_whose_letters_join_the_prompts_last_token(engine):
    word = " measurement of concentration"
    pairs = [(f"{HEAD}The{word[:place]}", word[place:]) for place in range(2, len(word) - 1)]
    alone = [encode(engine.tokenizer, prompt) for prompt, _ in pairs]
    wholes = [encode(engine.tokenizer, prompt + label) for prompt, label in pairs]
    assert sum(whole[: len(ids)] != ids for ids, whole in zip(alone, wholes, strict=True)) > 5
    found = dict(engine.rank([prompt for prompt, _ in pairs], [[label] for _, label in pairs]))
    for number, (ids, whole) in enumerate(zip(alone, wholes, strict=True)):
        if len(whole) > len(ids):
            assert found[number] == pytest.approx([of_ids(engine, ids, whole)], abs=1e-4)


def test_answers_are_those_of_generate(engine):
    asked = prompts(5)
    found = dict(engine.generate(asked, 12, []))
    for number, prompt in enumerate(asked):
        ids = torch.tensor([encode(engine.tokenizer, prompt)])
        out = engine.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        assert found[number] == engine.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_an_answer_ends_before_a_stop(engine):
    """And the rows that have ended leave the batch, which goes on with the others."""
    asked, engine.forward_tokens = prompts(3), 0
    whole = dict(engine.generate(asked, 10, []))
    stop, of_all, engine.forward_tokens = whole[0][3:5], engine.forward_tokens, 0
    for number, text in engine.generate(asked, 10, [stop]):
        assert text == whole[number].partition(stop)[0]
    assert sum(stop in text for text in whole.values()) in (1, 2)
    assert engine.forward_tokens < of_all


SMALL = {"vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 2, "eos_token_id": 0, "initializer_range": 0.3}
OTHERS = {
    "learned positions": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 2}),
    "positions by distance": ("BloomConfig", {"n_layer": 2, "n_head": 2}),
    "no keys": ("MambaConfig", {"state_size": 4}),
    "attention sinks": ("GptOssConfig", {
        "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "sliding_window": 8, "num_local_experts": 2, "num_experts_per_tok": 1}),
}  # fmt: skip


def wants_what_is_forbidden(engine: Engine, token: int) -> Engine:
    """The model's logits with one token far above all others."""
    head = engine.model.get_output_embeddings()

    def raised(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., token] += 1e4
        return logits

    engine.hook = head.register_forward_hook(raised)
    return engine


@pytest.mark.parametrize("kind", [Engine, AloneEngine])
def test_constrained_answers_are_json_and_others_stay_what_they_were(talker, kind):
    """Also of a model that always wants a token which may not follow; a batch loses its rows at different times."""
    tokenizer, asked = load_auto_tokenizer(talker), prompts(6)
    engine = kind(load_plain(talker), tokenizer, batch_tokens=600)
    free = dict(engine.generate(asked, 24, ["of"]))
    schemas = [SCHEMAS["roles"], None, ONE, None, SCHEMAS["records"], ONE]
    mixed = dict(engine.generate(asked, 24, ["of"], schemas=schemas))
    assert [mixed[number] for number in (1, 3)] == [free[number] for number in (1, 3)]
    assert dict(engine.generate(asked, 24, ["of"], schemas=[None] * 6)) == free
    hook = wants_what_is_forbidden(engine, 0).hook
    assert set(dict(engine.generate(asked, 24, [])).values()) == {""}
    eager = dict(engine.generate(asked, 24, [], schemas=schemas))
    hook.remove()
    for said in (mixed, eager):
        for number in (2, 5):
            jsonschema.validate(json.loads(said[number]), ONE)
            assert said[number] == written(json.loads(said[number])), "it ends with its JSON"
    assert len({*mixed.values()}) > 3
    assert dict(engine.generate(asked, 24, ["of"])) == free


def test_tokens_that_alone_may_follow_take_no_forward_of_their_own(talker, monkeypatch):
    """In a batch others are padded beside them: each answer stays that of its prompt alone, token by token."""
    engine = Engine(load_plain(talker), load_auto_tokenizer(talker), batch_tokens=900)
    asked, schemas = prompts(6), [SCHEMAS["roles"], ONE, SCHEMAS["doping"], ONE, SCHEMAS["roles"], None]
    calls, forward = [], engine._forward
    monkeypatch.setattr(
        engine, "_forward", lambda rows, *more: calls.append(list(map(len, rows))) or forward(rows, *more)
    )
    together = dict(engine.generate(asked, 80, [], schemas=schemas))
    assert any(len(set(row)) == 1 and len(row) > 1 and row[0] > 1 for row in calls[1:]), "rows of several tokens"
    num_jumped = len(calls)
    calls.clear()
    monkeypatch.setattr(engine, "_can_share", lambda length: length < 1_000)
    list(engine.generate(asked, 80, [], schemas=schemas))
    assert num_jumped < len(calls), "with a sliding window they come one by one"
    for number, prompt in enumerate(asked):
        assert together[number] == dict(engine.generate([prompt], 80, [], schemas=[schemas[number]]))[0]


@pytest.mark.parametrize("kind", [Engine, AloneEngine])
def test_an_answer_that_reaches_its_limit_is_cut(talker, kind):
    engine = kind(load_plain(talker), load_auto_tokenizer(talker), batch_tokens=600)
    wants_what_is_forbidden(engine, engine.tokenizer.convert_tokens_to_ids("x"))
    for _, text in engine.generate(prompts(2), 20, ["xx", "name"], schemas=[SCHEMAS["records"]["items"]] * 2):
        assert text.lstrip().startswith('{"name":"xx')
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)


def test_a_grammar_that_cannot_be_made_is_said_before_a_model_answers(talker):
    engine = Engine(load_plain(talker), load_auto_tokenizer(talker), batch_tokens=600)
    with raises("grammar-schema-unfit", "'not'"):
        engine.generate(prompts(2), 20, [], schemas=[None, {"not": {}}])
    assert engine.forward_tokens == 0


@pytest.mark.parametrize("other", OTHERS)
def test_classes_that_are_not_trained_go_through_their_own_forward_and_that_is_said(talker, tmp_path, other):
    name, options = OTHERS[other]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**SMALL | {"pad_token_id": 0} | options)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.generation_config.repetition_penalty = 3.0  # not greedy: not heeded
    model.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(talker / file, tmp_path)
    engine = open_engine(str(tmp_path), device="cpu", how=EvalExecution())
    assert [config.model_type in note for note in engine.notes] == [True]
    assert_likelihoods(engine, prompts(3), [LABELS] * 3)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for number, text in engine.generate(prompts(2), 6, []):
        ids = encode(engine.tokenizer, prompts(2)[number])
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(reference(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert text == engine.tokenizer.decode(ids[-6:]).partition("<|endoftext|>")[0]
    assert all(" " not in text for _, text in engine.generate(prompts(2), 6, [" "]))
    with raises("architecture-not-accepted", repr(config.model_type)):
        read_size(tmp_path)


def test_far_fewer_tokens_than_a_forward_for_each_label(engine):
    asked = prompts()
    engine.forward_tokens = 0
    list(engine.rank(asked, [LABELS] * len(asked)))
    alone = sum(len(encode(engine.tokenizer, prompt + label)) for prompt in asked for label in LABELS)
    assert engine.forward_tokens * 3 < alone


def test_a_prompt_longer_than_the_window_loses_its_beginning(engine, monkeypatch):
    monkeypatch.setattr(engine, "window", 40)
    monkeypatch.setattr(engine, "num_cut", 0)
    long, short = prompts(7)[-1], "It is:"
    found = dict(engine.rank([long, short], [[" A"]] * 2))
    assert engine.num_cut == 1
    ids, whole = encode(engine.tokenizer, long), encode(engine.tokenizer, f"{long} A")
    more = len(whole) - len(ids)
    assert found[0] == pytest.approx([of_ids(engine, ids[more - 40 :], whole[-40:])], abs=1e-4)


@pytest.mark.parametrize("kind", [Engine, AloneEngine])
def test_an_answer_ends_with_the_window_and_the_prompt_keeps_what_begins_a_text(engine, talker, kind):
    """Where more is asked for than half a window holds, the prompt keeps the other half."""
    tokenizer = load_auto_tokenizer(talker)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=["A", "$A"], special_tokens=[("A", 33)])
    short = kind(engine.model, tokenizer, batch_tokens=600)
    short.window = 40
    long = prompts(7)[-1]
    assert short._cut(encode(tokenizer, long), 500) == [33, *encode(tokenizer, long)[-19:]]
    found = dict(short.generate([long, "It is:"], 500, []))
    assert (short.num_cut, short.num_short) == (2, 2)
    with torch.no_grad():
        ids = short._cut(encode(tokenizer, long), 500)
        while len(ids) < 40 and 0 not in ids:
            ids.append(int(engine.model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert found[0] == tokenizer.decode(ids[20:], skip_special_tokens=True)


def test_an_answer_ends_where_the_adapters_training_ended_them(engine, talker):
    whole = dict(engine.generate(prompts(1), 8, []))[0]
    second = encode(engine.tokenizer, prompts(1)[0] + whole)[len(encode(engine.tokenizer, prompts(1)[0])) + 1]
    ending = Engine(engine.model, engine.tokenizer, 600, ends=[second])
    assert whole.startswith(found := dict(ending.generate(prompts(1), 8, []))[0])
    assert len(found) < len(whole)


def test_a_model_tuned_in_the_plain_prompt_is_asked_in_it(talker, tmp_path):
    folder = Path(shutil.copytree(talker, tmp_path / "merged"))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    manifest = {"verb": "merge", "recipe": {}, "inputs": {}, "results": {}}
    for told, template in (
        ({}, "{{ messages }}"),
        ({"template": "plain"}, None),
        ({"template": "chat"}, "{{ messages }}"),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | {"results": told}))
        opened = open_engine(str(folder), device="cpu", how=EvalExecution())
        assert opened.tokenizer.chat_template == template
        assert bool(opened.notes) == (template is None)


def test_a_sliding_window_shares_nothing_beyond_it(engine, monkeypatch):
    monkeypatch.setattr(engine.config, "sliding_window", 8, raising=False)
    monkeypatch.setattr(engine.config, "layer_types", ["sliding_attention"] * 2, raising=False)
    assert not engine._can_share(9)
    assert engine._can_share(8)


def test_a_smaller_batch_after_memory_ran_out(engine, monkeypatch):
    asked, sizes = prompts(), []
    whole = dict(engine.rank(asked, [LABELS] * len(asked)))
    read = engine._read

    def full(rows, cache, past):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.cuda.OutOfMemoryError("full")
        return read(rows, cache, past)

    monkeypatch.setattr(engine, "_read", full)
    monkeypatch.setattr(engine, "batch_tokens", 10_000)
    found = dict(engine.rank(asked, [LABELS] * len(asked)))
    assert max(sizes) > 2
    for number, values in whole.items():
        assert found[number] == pytest.approx(values, abs=1e-4)


def test_a_model_without_a_tokenizer_is_refused(talker, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((talker / name).read_bytes())
    with raises("eval-tokenizer-absent", tmp_path):
        open_engine(str(tmp_path), device="cpu", how=EvalExecution())


def test_without_vllm_its_backend_says_so(talker):
    with raises("vllm-not-installed"):
        open_engine(str(talker), device="cpu", how=EvalExecution(backend="vllm"))


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Glm", "Qwen2"])
def test_models_of_other_families(talker, tmp_path, family):
    """As peers are: Llama-3.1, Mistral, GLM-4; the tokenizer puts a token before each text, as Llama's does."""
    import transformers

    config = getattr(transformers, f"{family}Config")(
        vocab_size=500, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, bos_token_id=1, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    if family == "Mistral":
        config.sliding_window = None
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((talker / name).read_text())
    assert_likelihoods(open_engine(str(tmp_path), device="cpu", how=EvalExecution()), prompts(4), [LABELS] * 4)


def test_an_adapter_on_its_base(engine, talker, tmp_path):
    """Given by its folder alone: the base is the one its training named."""
    targets = ["q_proj", "v_proj", "down_proj"]
    peft_model = add_lora(load_plain(talker), targets, alpha=64, name=str(talker))
    torch.manual_seed(0)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.3
    peft_model.save_pretrained(tmp_path)
    asked = prompts(2)
    with_adapter = open_engine(str(tmp_path), device="cpu", how=EvalExecution())
    assert_likelihoods(with_adapter, asked, [LABELS] * 2)
    assert likelihood(with_adapter, asked[0], " A") != pytest.approx(likelihood(engine, asked[0], " A"), abs=1e-3)


def test_what_is_asked_again_goes_through_the_model_in_the_same_company(engine, monkeypatch):
    """Then it gets the same numbers to the last bit, which the lengths of others and of what all share would change."""
    monkeypatch.setattr(engine, "batch_tokens", 250)
    read, groups = engine._read, []
    monkeypatch.setattr(engine, "_read", lambda rows, *others: groups.append(rows) or read(rows, *others))
    asked = [f"Answer this. {'word ' * (n % 5)}Question {n}:" for n in range(30)]
    for question in (
        lambda done: engine.rank(asked, [LABELS] * 30, done),
        lambda done: engine.generate(asked, 6, [], done),
    ):
        groups.clear()
        whole = list(question(()))
        all_groups = list(groups)
        assert 2 < len(all_groups) < 30
        for number in (1, 7, 20, 29, 30):
            groups.clear()
            assert list(question({place for place, _ in whole[:number]})) == whole[number:]
            assert groups == all_groups[len(all_groups) - len(groups) :]
            assert sum(map(len, groups)) >= 30 - number
