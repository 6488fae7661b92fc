from pathlib import Path

import pytest
import yaml

from nsllm_lite.artifact.layout import Layout
from nsllm_lite.commands.encoder_run import load_encoder_run
from nsllm_lite.commands.recipe_folder import choose_size
from nsllm_lite.commands.steps import encoder_steps, planned_steps
from nsllm_lite.commands.stories import load_run, without_bfloat16
from nsllm_lite.models.sizes import SIZED
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.kinds import KINDS
from tests.paths import load_whole
from tests.raising import raises

RECIPES = Path(__file__).parents[2] / "recipes"
STORIES = ("materials",)  # files of a whole story
FILES = sorted(path for path in RECIPES.rglob("*.yaml") if path.stem not in STORIES)
FOLDERS = {"nano": 200, SIZED: 200, "smollm2": 12}  # and the steps of a phase


def test_every_shipped_recipe_loads():
    assert 25 <= len(FILES) <= len([path for path in RECIPES.rglob("*") if path.is_file()]) <= 50
    kinds = {(path.parent.name, path.stem): recipes.read(path)["kind"] for path in FILES}
    assert {*kinds.values()} == KINDS.keys() - {"convert"}  # which is given a file and needs none
    for folder in FOLDERS:
        for name, kind in (("corpus", "corpus"), ("phase1", "train"), ("phase2", "train"), ("merge", "merge"),
                           ("tasks", "tasks"), ("sft", "sft")):  # fmt: skip
            assert kinds[folder, name] == kind


@pytest.mark.parametrize("folder", ["nano", "encoder"])
def test_the_recipes_of_encoders_join_as_they_stand(folder):
    """No YAML states a path that follows from the run; together they lead from corpus to classifier."""
    joined = load_encoder_run(RECIPES / folder, out="x")
    steps = encoder_steps(Layout("x"), None)
    for step in steps:
        values = yaml.safe_load((RECIPES / folder / f"{step.recipe}.yaml").read_text())
        assert [key for key in step.changes if recipes.has(values, key)] == [], step.step
        assert joined[step.step].kind == step.kind
    assert list(joined) == [step.step for step in steps]
    corpus, mlm, distill, embed, small, finetune = (
        joined[name] for name in ("corpus", "mlm", "distill", "embed", "embed-small", "finetune")
    )
    assert joined["tokenizer"].compare == [mlm.build.tokenizer] == ["x/corpus/tokenizer"]
    assert distill.teacher == embed.model == finetune.model == f"{mlm.out}/model"
    assert (small.model, small.teacher.model) == (f"{distill.out}/model", f"{embed.out}/model")
    width = distill.build.hidden_size if distill.build else mlm.build.hidden_size
    assert mlm.build.hidden_size % distill.relation_heads == width % distill.relation_heads == 0
    assert mlm.build.max_positions >= corpus.row_tokens


@pytest.mark.parametrize("kind", ["mlm", "distill", "embed", "finetune"])
def test_numbers_that_no_library_takes_are_refused(kind):
    rate = "weight_decay" if kind == "finetune" else "optimizer.weight_decay"
    for setting in ("seed=-1", f"seed={2**32}", f"{rate}=.inf"):
        with raises("value-wrong", setting.partition("=")[0]):
            load_encoder_run(RECIPES / "nano", out="x", overrides={kind: [setting]})


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_recipe_folder_joins_as_it_stands(folder):
    """No YAML states a path that follows from the run; together they lead from corpus to report."""
    joined = load_run(RECIPES / folder)
    states_model = [(SIZED, "phase1"), ("smollm2", "phase1")]
    for step in planned_steps(Layout("x"), "base"):
        path = RECIPES / folder / f"{step.recipe}.yaml"
        values = yaml.safe_load(path.read_text()) if path.is_file() else {}
        stated = [key for key in step.changes if recipes.has(values, key)]
        assert stated == (["model"] if (folder, step.step) in states_model else []), step.step
        assert not values or joined[step.step].kind == step.kind
    assert joined["phase2"].model == joined["model1"].out == joined["model2"].base
    assert joined["sft"].model == joined["model-sft"].base == joined["model2"].out
    assert joined["model-sft"].adapter == f"{joined['sft'].out}/adapter"
    assert not joined["model-sft"].then_requantize
    assert joined["phase1"].schedule.shape == "constant"
    assert joined["phase1"].budget.steps == FOLDERS[folder]
    assert joined["phase2"].schedule.shape == "cosine"


def test_what_is_evaluated_is_cleared_from_the_corpus():
    """One list of files serves both."""
    asked = "eval", ["files=[{name: M, task: multiple_choice, path: mmlu.json}]"]
    joined = load_run(RECIPES / "nano", overrides=dict([asked]))
    assert joined["corpus"].decontaminate == ["mmlu.json"]
    assert [file.path for file in joined["eval"].files] == ["mmlu.json"] == [f.path for f in joined["eval-sft"].files]
    assert joined["eval"].tasks == joined["tasks"].out
    assert [model.path for model in joined["eval"].models][1:3] == [joined["model1"].out, joined["model2"].out]


def test_all_errors_at_once_with_the_nearest_key(tmp_path):
    values = load_whole(RECIPES / "nano/phase1.yaml").model_dump(mode="json")
    values["adapter"]["rnk"] = values["adapter"].pop("rank")
    values["modle"] = values.pop("model")
    values["optimizer"]["learning_rate"] = "fast"
    values["budget"]["tokens"] = 7
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(values))
    with raises("recipe-invalid", path, "5 problem") as caught:
        recipes.load(path)
    told = {line.removeprefix("  - ").split(":")[0]: line for line in str(caught.value).splitlines()[1:]}
    for key, quoted, code in (
        ("adapter.rnk", "`adapter.rank=16`", "key-unknown"), ("modle", "`model=", "key-unknown"),
        ("adapter.rank", "", "key-missing"), ("optimizer.learning_rate", "'fast'", "value-wrong"),
        ("budget", "= 204800, but tokens says 7:", "budget-disagrees"),
    ):  # fmt: skip
        assert quoted in told[key]
        assert told[key].endswith(f" [{code}]")
    assert len(told) == 5


def test_overrides_are_typed_and_dotted():
    loaded = load_whole(RECIPES / "nano/phase1.yaml", ["optimizer.learning_rate=3e-4", "adapter.rank=8", "out=/x/y"])
    assert (loaded.optimizer.learning_rate, loaded.adapter.rank, loaded.out) == (3e-4, 8, "/x/y")
    with raises("override-form", "'rank'"):
        recipes.load(RECIPES / "nano/phase1.yaml", ["rank"])
    with raises("override-of-value", "'seed.x=1'", "'seed'"):
        recipes.load(RECIPES / "nano/phase1.yaml", ["seed.x=1"])


SHAPE = (
    "build={tokenizer: t, hidden_size: 8, intermediate_size: 8, num_layers: 1, num_heads: 1, num_kv_heads: 1, "
    "head_dim: 8, tied_embeddings: true}"
)
SOURCE = "sources=[{name: s, path: p, %s}]"


@pytest.mark.parametrize(
    ("name", "overrides", "code", "quoted"),
    [
        ("phase1", [SHAPE], "key-not-one", "`model`"),
        ("phase1", ["model=null"], "key-not-one", "`build`"),
        ("phase1", ["model=null", SHAPE], "adapter-on-build", "`adapter: none`"),
        ("phase1", ["adapter=none"], "nf4-without-adapter", "`adapter`"),
        ("phase1", ["schedule.warmup_steps=200"], "warmup-too-long", "200"),
        ("phase1", ["adapter.targets=[q_proj, lm_head]"], "lora-on-head", "lm_head"),
        ("corpus", ["tokenizer=t"], "key-not-one", "`train_tokenizer`"),
        ("corpus", ["general=[{name: s, path: p}]", SOURCE % "format: text"], "names-repeat", "['s', 's']"),
        ("corpus", [SOURCE % "format: fields"], "fields-missing", "fields` without `fields`"),
        ("corpus", [SOURCE % "fields: {text: t}"], "fields-unused", "`format: auto`"),
        ("corpus", [SOURCE % "format: fields, fields: {title: t}"], "fields-incomplete", "mapped: title."),
        ("corpus", [SOURCE % "format: fields, fields: {}"], "fields-incomplete", "mapped: none."),
        ("merge", ["base_weights=auto", "heldout_rows=null"], "auto-without-rows", "`heldout_rows`"),
        ("sft", ["steps=1", "epochs=1"], "key-not-one", "`epochs`"),
        ("eval", ["models=[{name: m, path: a}, {name: m, path: b}]"], "names-repeat", "models repeat: ['m', 'm']"),
        ("eval", ["tasks=none"], "eval-without-tasks", "`files`"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(name, overrides, code, quoted):
    with raises(code, f"nano/{name}.yaml: ", quoted):
        load_whole(RECIPES / f"nano/{name}.yaml", overrides)


@pytest.mark.parametrize("text", ["[1", "a: b: c", "!!python/object:os.system x", "\x01", "[" * 600])
def test_an_override_that_is_no_yaml(text):
    with raises("override-not-yaml", repr(f"seed={text}")):
        recipes.load(RECIPES / "nano/phase1.yaml", [f"seed={text}"])


def test_a_file_that_is_missing_or_no_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    with raises("recipe-missing", "recipes/nano/phase_1.yaml.", "mean recipes/nano/phase1.yaml?"):
        recipes.load(Path("recipes/nano/phase_1.yaml"))
    path = tmp_path / "x.yaml"
    for text, code, quoted in (
        ("a: [1\n", "recipe-not-yaml", ""),
        ("[" * 600, "recipe-not-yaml", ""),
        ("? [kind, train]\n: 1\n", "recipe-not-yaml", "unhashable key"),
        ("kind: train\nrow_tokens: 256\nrow_tokens: 128\n", "recipe-not-yaml", "'row_tokens' stands twice"),
        ("- a\n", "recipe-not-keys", "a list"),
        ("kind: [train]\n", "recipe-kind-unknown", "['train']"),
        ("kind: dance\n", "recipe-kind-unknown", "'dance'"),
    ):
        path.write_text(text)
        with raises(code, path, quoted) as caught:
            recipes.load(path)
        assert code != "recipe-kind-unknown" or all(kind in str(caught.value) for kind in KINDS)


def test_redirected_chain(tmp_path):
    papers = tmp_path / "papers.v2"
    papers.mkdir()
    joined = load_run(RECIPES / "qwen3", corpus=str(papers), model="some/model", overrides={"phase1": ["seed=5"]})
    assert joined["corpus"].sources[0].path == str(papers)
    base = {joined["corpus"].tokenizer, joined["phase1"].model, joined["model1"].base, joined["report"].base}
    assert base == {"some/model"}
    assert joined["phase1"].out == "runs/qwen3-8b-papers/phase1"
    assert joined["phase1"].rows == "runs/qwen3-8b-papers/corpus/rows/phase1/train"
    assert joined["phase2"].model == "runs/qwen3-8b-papers/model1"
    assert joined["tasks"].corpus == joined["corpus"].out
    assert joined["sft"].data == [f"{joined['tasks'].out}/train"] == ["runs/qwen3-8b-papers/tasks/train"]
    assert joined["model-sft"].out == "runs/qwen3-8b-papers/model-sft"
    assert joined["phase1"].seed == 5


def test_a_folder_without_recipes_for_tuning(tmp_path):
    for path in (RECIPES / "nano").glob("*.yaml"):
        if path.stem not in ("tasks", "sft"):
            (tmp_path / path.name).write_text(path.read_text())
    joined = load_run(tmp_path)
    assert not joined.keys() & {"tasks", "eval", "sft", "model-sft", "eval-sft"}
    assert without_bfloat16(joined) == joined
    with raises("setting-step-unknown", "sft.seed=1", "'sft'"):
        load_run(tmp_path, overrides={"sft": ["seed=1"]})


def test_the_card_decides():
    cards = {79.2: "8b", 23.6: "8b", 22.0: "8b", 15.9: "4b", 11.0: "1.7b", 8.0: "0.6b"}
    assert {gib: choose_size(gib)[0] for gib in cards} == cards
    assert "SIZE=14b" in choose_size(79.2)[1]
    with raises("card-below-smallest-recipe", "4.0 GiB", "6 GiB"):
        choose_size(4.0)
    with raises("card-missing", "recipes/nano"):
        choose_size(None)
