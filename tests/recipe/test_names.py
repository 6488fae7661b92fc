"""What is typed by hand: words of other tools, values that YAML reads as others, and advice that is right."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe import names
from nsllm_lite.recipe.kinds import KINDS
from tests.paths import load_whole
from tests.raising import raises

RECIPES = Path(__file__).parents[2] / "recipes"
TABLE = tomllib.loads(Path(names.__file__).with_name("names.toml").read_text())


def advised(name: str, word: str, code: str = "key-unknown") -> list[str]:
    """The words that the refusal of `word` says to type, between its last `type` or `set` and the end."""
    with raises(code, f"{name}.yaml: ") as caught:
        load_whole(RECIPES / f"nano/{name}.yaml", [word])
    return shlex.split(re.split(r"\b(?:type|set|or) ", str(caught.value))[-1].strip("`"))


def value(recipe, key: str):
    for part in key.split("."):
        recipe = getattr(recipe, part)
    return recipe


@pytest.mark.parametrize(
    ("name", "word", "typed", "right"),
    [
        ("phase1", "learning_rate=1e-4", "optimizer.learning_rate=1e-4", 1e-4),
        ("phase1", "lr=1e-4", "optimizer.learning_rate=1e-4", 1e-4),
        ("phase1", "training.lr=1e-4", "optimizer.learning_rate=1e-4", 1e-4),
        ("phase1", "lora_r=8", "adapter.rank=8", 8),
        ("phase1", "lora-alpha=32", "adapter.alpha=32", 32),
        ("phase1", "lora_target=q_proj,v_proj", "adapter.targets=[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("phase1", "optim=paged_adamw_8bit", "optimizer.name=paged_adamw8bit", "paged_adamw8bit"),
        ("phase1", "per_device_train_batch_size=2", "execution.micro_batch_rows=2", 2),
        ("phase1", "load_in_4bit=true", "quantisation=nf4", "nf4"),
        ("phase1", "load_in_4bit=false", "quantisation=none", "none"),
        ("phase1", "fp8=true", "products=fp8", "fp8"),
        ("phase1", "gradient_checkpointing=off", "execution.recompute_layers=0", 0),
        ("phase1", "targets=q_proj,v_proj", "adapter.targets=[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("phase1", "num_steps=50", "budget.steps=50", 50),
        ("phase1", "output_dir=a b", "out=a b", "a b"),
        ("phase1", "modle=m", "model=m", "m"),
        ("sft", "num_train_epochs=2", "epochs=2", 2),
        ("sft", "batch_size=4", "examples_per_step=4", 4),
        ("sft", "max_seq_length=512", "max_tokens=512", 512),
        ("sft", "dataset=my, x.jsonl", "data=[my, x.jsonl]", ["my", "x.jsonl"]),
        ("corpus", "cutoff_len=128", "row_tokens=128", 128),
        ("merge", "base_model=B", "base=B", "B"),
        ("merge", "max_shard_size=5GB", "shard_bytes=5e9", 5_000_000_000),
        ("eval", "limit=10", "max_items=10", 10),
    ],
)  # fmt: skip
def test_a_name_of_another_tool_is_answered_by_ours(name, word, typed, right):
    assert advised(name, word) == [typed]
    assert value(load_whole(RECIPES / f"nano/{name}.yaml", [typed]), typed.partition("=")[0]) == right


@pytest.mark.parametrize(
    "word",
    ["epochs=1", "batch_size=8", "gradient_accumulation_steps=4", "lora_dropout=0.1", "bf16=false", "adam_beta2=0.95"],
)
def test_what_has_no_key_of_its_own_is_said(word):
    key = word.partition("=")[0]
    with raises("key-unknown", key, names.said(KINDS["train"].recipe, key)):
        load_whole(RECIPES / "nano/phase1.yaml", [word])


def test_every_name_of_the_table_leads_to_a_key():
    known = {key for kind in KINDS.values() for key in names.keys_of(kind.recipe)}
    ours = {
        word.partition("=")[0]
        for part in ("same", "words", "false")
        for words in TABLE[part].values()
        for word in words
    }
    assert ours <= known
    assert not {name for name in TABLE["same"] if name != name.lower() or "-" in name}
    for row in TABLE["said"]:
        told = set(re.findall(r"(?<![\w.])([a-z_.]+)=", row["todo"]))
        for kind in row.get("kinds", KINDS):
            assert told <= set(names.keys_of(KINDS[kind].recipe)) | ({"adapter"} if "`train`" in row["todo"] else set())


@pytest.mark.parametrize(
    ("name", "word", "right"),
    [
        ("sft", "data=my.jsonl", ["my.jsonl"]),
        ("sft", "data='a, b: c.jsonl'", ["a, b: c.jsonl"]),
        ("corpus", "languages=no", ["no"]),
        ("phase1", "report_to=none", []),
        ("corpus", "sources=papers/x", [{"name": "x", "path": "papers/x"}]),
        ("eval", "models=runs/m", [{"name": "m", "path": "runs/m"}]),
    ],
)
def test_a_list_without_brackets_is_answered_by_one_with_them(name, word, right):
    words = advised(name, word, "value-wrong")
    found = load_whole(RECIPES / f"nano/{name}.yaml", words).model_dump(include={word.partition("=")[0]})
    (listed,) = found.values()
    assert [one if isinstance(one, str) else {key: one[key] for key in ("name", "path")} for one in listed] == right


@pytest.mark.parametrize("word", ["budget.tokens_per_step=2048", "budget.tokens=3000", "budget.steps=4"])
def test_a_budget_that_cannot_follow_is_answered_by_one_that_agrees(word):
    code = "warmup-too-long" if "steps=4" in word else "budget-disagrees"
    changed = load_whole(
        RECIPES / "nano/phase1.yaml", [word, *advised("phase1", word, code), "schedule.warmup_steps=0"]
    )
    assert changed.budget.steps * changed.budget.tokens_per_step == changed.budget.tokens


def test_what_follows_from_one_word_alone():
    for word in ("budget.steps=50", "budget.tokens=51200"):
        budget = load_whole(RECIPES / "nano/phase1.yaml", [word]).budget
        assert (budget.steps, budget.tokens) == (50, 51_200)
    both = [load_whole(RECIPES / "nano/sft.yaml", [word]) for word in ("epochs=0.5", "steps=7")]
    assert [(recipe.epochs, recipe.steps) for recipe in both] == [(0.5, None), (None, 7)]


def test_values_are_what_was_typed():
    corpus = load_whole(RECIPES / "nano/corpus.yaml", ["languages=[en, no]", "out=12:30"])
    assert (corpus.languages, corpus.out) == (["en", "no"], "12:30")
    train = load_whole(
        RECIPES / "nano/phase1.yaml", ["out=007", "double_quantisation=off", "optimizer.weight_decay=1e-2"]
    )
    assert (train.out, train.double_quantisation, train.optimizer.weight_decay) == ("007", False, 0.01)
    assert [load_whole(RECIPES / "nano/phase1.yaml", [f"double_quantisation={word}"]).double_quantisation
            for word in ("yes", "on", "true", "True", "1")] == [True] * 5  # fmt: skip


def test_a_recipe_in_any_unicode(tmp_path):
    text = (RECIPES / "nano/merge.yaml").read_text() + "\nbase: µ\nadapter: a\nout: o\n"
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "x.yaml").write_bytes(text.encode(encoding))
        assert recipes.load(tmp_path / "x.yaml").base == "µ"


def test_paths_are_expanded_wherever_they_stand(monkeypatch):
    """In every recipe each value that begins with the variable is a path, and no folder gets its name."""
    monkeypatch.setenv("RUNS", "~/r")
    monkeypatch.setenv("HOME", "/h")
    for name in ("corpus", "phase1", "merge", "report", "tasks", "sft", "eval"):
        words = [word.replace("runs/nano", "$RUNS") for word in paths_of_nano(name)]
        recipe = recipes.load(RECIPES / f"nano/{name}.yaml", words)
        assert "$" not in recipe.model_dump_json()
        assert recipe.model_dump_json().count("/h/r/") == sum(word.count("$RUNS") for word in words) > 0


def paths_of_nano(name: str) -> list[str]:
    from tests.paths import paths_of

    words = paths_of(name)
    words += {"corpus": ["sources=[{name: s, path: runs/nano/s}]", "decontaminate=[runs/nano/d]"],
              "phase1": ["overlay=runs/nano/o"], "tasks": ["questions=[runs/nano/q]"],
              "eval": ["encoder=runs/nano/e", "files=[{name: f, task: open, path: runs/nano/f, shots: runs/nano/s}]"],
              }.get(name, [])  # fmt: skip
    return words


@pytest.mark.parametrize(
    ("path", "code"),
    [("$NOPE/c", "path-variable-unset"), ("${NOPE}", "path-variable-unset"), ("a/$EMPTY/c", "path-variable-unset"),
     ("${HOME", ""), ("~nobody-here/c", "path-user-unknown"), ("./~/c", ""), ("5$/c", "")],
)  # fmt: skip
def test_a_path_that_stands_for_nothing_is_refused(path, code, monkeypatch):
    monkeypatch.setenv("EMPTY", "")
    if code:
        with raises(code, path):
            load_whole(RECIPES / "nano/corpus.yaml", [f"out={path}"])
    else:
        assert "${" not in load_whole(RECIPES / "nano/corpus.yaml", [f"out='{path}'"]).out


@pytest.mark.parametrize(
    ("name", "word", "code", "told"),
    [
        ("corpus", "sources=[{nme: s, path: p}]", "recipe-invalid", "`name`"),
        ("corpus", "sources=[papers]", "value-wrong", "sources.0.path"),
        ("phase1", "budget=50", "value-wrong", "budget.steps"),
        ("phase1", "optimizer.betas=0.9", "value-wrong", "'0.9'"),
        ("merge", "adapter=null", "recipe-invalid", "adapter"),
        ("phase1", "zzz=1", "key-unknown", "keep_checkpoints"),
        ("corpus", "out=~", "value-wrong", "~"),
    ],
)
def test_a_part_of_another_form_is_answered_by_its_keys(name, word, code, told):
    with raises(code, told):
        load_whole(RECIPES / f"nano/{name}.yaml", [word])
