from pathlib import Path

import pytest
import yaml

from nsllm_lite import chain, recipe

RECIPES = Path(__file__).parents[1] / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))


def test_every_shipped_recipe_loads():
    assert len(FILES) >= 43
    kinds = {(path.parent.name, path.stem): recipe.load(path).kind for path in FILES}
    for folder in ("nano", *chain.QWEN3):
        for name, kind in (("corpus", "corpus"), ("phase1", "train"), ("phase2", "train"), ("merge", "merge"),
                           ("tasks", "tasks"), ("sft", "sft")):  # fmt: skip
            assert kinds[folder, name] == kind


@pytest.mark.parametrize("folder", ["nano", *chain.QWEN3])
def test_a_recipe_folder_joins_as_it_stands(folder):
    """The paths in the YAMLs already lead from corpus to report: joining them changes nothing."""
    joined = chain.load_chain(RECIPES / folder)
    for name, step in (("corpus", joined.corpus), ("phase1", joined.phase1), ("phase2", joined.phase2),
                       ("merge", joined.merge1), ("report", joined.report), ("base", joined.base),
                       ("tasks", joined.tasks), ("eval", joined.eval), ("sft", joined.sft)):  # fmt: skip
        if step is not None:
            assert step == recipe.load(RECIPES / folder / f"{name}.yaml")
    assert joined.phase2.model == joined.merge1.out == joined.merge2.base
    assert joined.sft.model == joined.merge_sft.base == joined.merge2.out
    assert joined.merge_sft.adapter == f"{joined.sft.out}/adapter"
    assert not joined.merge_sft.then_requantize
    assert joined.phase1.schedule.shape == "constant"
    assert joined.phase1.budget.steps == 200
    assert joined.phase2.schedule.shape == "cosine"


def test_what_is_evaluated_is_cleared_from_the_corpus():
    """One list of files serves both."""
    asked = "eval", ["files=[{name: M, task: multiple_choice, path: mmlu.json}]"]
    joined = chain.load_chain(RECIPES / "nano", overrides=dict([asked]))
    assert joined.corpus.decontaminate == ["mmlu.json"]
    assert [file.path for file in joined.eval.files] == ["mmlu.json"] == [f.path for f in joined.eval_sft.files]
    assert joined.eval.tasks == joined.tasks.out
    assert [model.path for model in joined.eval.models][1:3] == [joined.merge1.out, joined.merge2.out]


def test_all_errors_at_once_with_the_nearest_key(tmp_path):
    values = yaml.safe_load((RECIPES / "nano/phase1.yaml").read_text())
    values["adapter"]["rnk"] = values["adapter"].pop("rank")
    values["modle"] = values.pop("model")
    values["optimizer"]["learning_rate"] = "fast"
    values["budget"]["tokens"] = 7
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"problem\(s\)") as caught:
        recipe.load(path)
    text = str(caught.value)
    assert "adapter.rnk: unknown key; did you mean `rank`?" in text
    assert "modle: unknown key; did you mean `model`?" in text
    assert "adapter.rank: is missing" in text
    assert "optimizer.learning_rate" in text
    assert "'fast'" in text
    assert "budget: steps x tokens_per_step = 204800, but tokens says 7" in text


def test_overrides_are_typed_and_dotted():
    loaded = recipe.load(RECIPES / "nano/phase1.yaml", ["optimizer.learning_rate=3e-4", "adapter.rank=8", "out=/x/y"])
    assert (loaded.optimizer.learning_rate, loaded.adapter.rank, loaded.out) == (3e-4, 8, "/x/y")
    with pytest.raises(ValueError, match="not of the form key=value"):
        recipe.load(RECIPES / "nano/phase1.yaml", ["rank"])
    with pytest.raises(ValueError, match="holds no keys of its own"):
        recipe.load(RECIPES / "nano/phase1.yaml", ["seed.x=1"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["build={tokenizer: t, hidden_size: 8, intermediate_size: 8, num_layers: 1, num_heads: 1, num_kv_heads: 1, "
          "head_dim: 8, tied_embeddings: true}"], "not both or neither"),
        (["adapter=none"], "an NF4 base cannot be trained itself"),
        (["schedule.warmup_steps=200"], "leaves no step"),
        (["adapter.targets=[q_proj, lm_head]"], "LoRA on lm_head is refused: the fused cross-entropy"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        recipe.load(RECIPES / "nano/phase1.yaml", overrides)


@pytest.mark.parametrize("text", ["[1", "a: b: c", "!!python/object:os.system x", "\x01", "[" * 5000])
def test_an_override_that_is_no_yaml(text):
    with pytest.raises(ValueError, match=r"^Override 'seed=[^\0]*: what stands after = is not YAML"):
        recipe.load(RECIPES / "nano/phase1.yaml", [f"seed={text}"])


def test_a_missing_recipe_names_the_nearest(monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    with pytest.raises(ValueError, match=r"Did you mean recipes/nano/phase1\.yaml\?"):
        recipe.load(Path("recipes/nano/phase_1.yaml"))


def test_a_file_that_is_no_recipe(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: [1\n")
    with pytest.raises(ValueError, match="is not YAML"):
        recipe.load(path)
    path.write_text("[" * 5000)
    with pytest.raises(ValueError, match="is not YAML"):
        recipe.load(path)
    path.write_text("- a\n")
    with pytest.raises(ValueError, match="a recipe is a list of keys with values; found list"):
        recipe.load(path)
    path.write_text("kind: [train]\n")
    with pytest.raises(ValueError, match=r"`kind` must be one of corpus, train, .*, eval; found \['train'\]"):
        recipe.load(path)
    path.write_text("kind: dance\n")
    with pytest.raises(ValueError, match=r"`kind` must be one of corpus, train, .*, eval; found 'dance'"):
        recipe.load(path)


def test_redirected_chain(tmp_path):
    papers = tmp_path / "papers.v2"
    papers.mkdir()
    joined = chain.load_chain(RECIPES / "qwen3-8b", corpus=str(papers), model="some/model", overrides={
        "phase1": ["seed=5"]})  # fmt: skip
    assert joined.corpus.sources[0].path == str(papers)
    assert joined.corpus.tokenizer == joined.phase1.model == joined.merge1.base == joined.report.base == "some/model"
    assert joined.phase1.out == "runs/qwen3-8b-papers/phase1"
    assert joined.phase1.rows == "runs/qwen3-8b-papers/corpus/rows/phase1/train"
    assert joined.phase2.model == "runs/qwen3-8b-papers/model1"
    assert joined.tasks.corpus == joined.corpus.out
    assert joined.sft.data == [f"{joined.tasks.out}/train"] == ["runs/qwen3-8b-papers/tasks/train"]
    assert joined.merge_sft.out == "runs/qwen3-8b-papers/model-sft"
    assert joined.phase1.seed == 5
    with pytest.raises(ValueError, match=r"CORPUS=.*no such file or folder"):
        chain.load_chain(RECIPES / "nano", corpus=str(tmp_path / "absent"))


def test_a_folder_without_recipes_for_tuning(tmp_path):
    for path in (RECIPES / "nano").glob("*.yaml"):
        if path.stem not in ("tasks", "sft"):
            (tmp_path / path.name).write_text(path.read_text())
    joined = chain.load_chain(tmp_path)
    assert joined.tasks is joined.sft is joined.merge_sft is None
    assert chain.without_bfloat16(joined) == joined
    with pytest.raises(ValueError, match="there is no step 'sft' here"):
        chain.load_chain(tmp_path, overrides={"sft": ["seed=1"]})


def test_the_card_decides():
    assert chain.choose_recipes(23.6)[0].name == "qwen3-8b"
    assert chain.choose_recipes(22.0)[0].name == "qwen3-8b"
    folder, why = chain.choose_recipes(79.2)
    assert folder.name == "qwen3-8b"
    assert "recipes/qwen3-14b would fit too" in why
    assert chain.choose_recipes(15.9)[0].name == "qwen3-4b"
    assert chain.choose_recipes(11.0)[0].name == "qwen3-1.7b"
    assert chain.choose_recipes(8.0)[0].name == "qwen3-0.6b"
    with pytest.raises(ValueError, match="smallest recipe"):
        chain.choose_recipes(4.0)
    with pytest.raises(ValueError, match="needs an NVIDIA card"):
        chain.choose_recipes(None)
