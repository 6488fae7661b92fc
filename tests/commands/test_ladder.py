"""The adaptation ladder end to end on tiny bases: shared rows, equal text, the same figures after a stop."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from nsllm_lite import cli
from nsllm_lite.commands.ladder import as_typed, corpora_of, first_of, story, trainings_of
from nsllm_lite.corpus.build import build
from nsllm_lite.evals.ladder import ladder
from nsllm_lite.formats.rows import Rows
from nsllm_lite.models.loading import build_base
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import ModelShape
from nsllm_lite.train.order import order_of
from tests.conftest import SHAPE, pico_values
from tests.corpus.small import END, paper, values, write_sources
from tests.raising import fails, raises

SEEDS = (3, 4)  # those of the recipe, and the next


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a ladder.yaml of two bases that are built, and the recipes that it names."""
    root = tmp_path_factory.mktemp("ladder")
    corpus = values(root, "unread", write_sources(root, papers=[paper(number) for number in range(60)]))
    del corpus["out"]
    corpus |= {"row_tokens": 128, "execution": {"workers": 1}}
    phase = pico_values(root, root) | {"schedule": {"shape": "constant", "warmup_steps": 1}}
    phase["evaluation"] = {"every_steps": 4, "max_rows": 1000}
    phase["replay"] = {"share": 0.1, "max_epochs": 4}
    for key in ("out", "model", "rows"):
        del phase[key]
    base = phase | {"build": SHAPE, "adapter": "none", "quantisation": "none", "replay": "none"}
    base |= {"budget": {"steps": 9, "tokens_per_step": 256, "tokens": 2304}, "seed": 0}
    asked = {
        "kind": "ladder",
        "out": str(root / "run"),
        "bases": [{"name": f"steps-{n}", "build": str(root / "base.yaml"), "steps": n} for n in (2, 8)],
        "corpus": str(root / "corpus.yaml"),
        "train": str(root / "phase.yaml"),
        "budget": {"steps": 6, "tokens_per_step": 256, "tokens": 1536},
        "equal": "tokens",
        "max_epochs": 3,
        "seeds": 2,
        "execution": {"device": "cpu"},
    }
    for name, content in (("corpus", corpus), ("phase", phase), ("base", base), ("ladder", asked)):
        (root / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return root


def typed(files: Path, *words: str):
    return SimpleNamespace(recipe=files / "ladder.yaml", overrides=list(words), run=None)


@pytest.mark.slow
def test_from_nothing_to_gains_and_again(files, capsys):
    command, run = ["ladder", str(files / "ladder.yaml")], files / "run"
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert "4 trainings of 6 steps at most, 1 tokenizers" in text
    assert f"{files}/phase.yaml: budget not read" in text
    assert text.count("rows of ") == 1, "equal tokenizers share rows"
    found = json.loads((run / "ladder/ladder.json").read_text())
    assert [base["name"] for base in found["bases"]] == ["steps-2", "steps-8"]
    for base in found["bases"]:
        manifests = [json.loads((run / f"trained/{base['name']}/seed-{n}/manifest.json").read_text()) for n in SEEDS]
        results = [manifest["results"] for manifest in manifests]
        before = results[0]["heldout"]["before"]["domain"]["all"]["bits_per_byte"]
        after = [of["heldout"]["after"]["domain"]["all"]["bits_per_byte"] for of in results]
        assert base["domain"]["before"] == pytest.approx(before)
        assert base["after"]["by_seed"] == pytest.approx(after)
        gains = [(before - value) / of["bytes"] * 1e6 for value, of in zip(after, results, strict=True)]
        assert base["per_million_bytes"]["value"] == pytest.approx(sum(gains) / 2)
        assert base["steps"] == [6, 6]
        assert base["gain"]["value"] > 0
        lost = results[0]["heldout"]["after"]["general"]["all"]["bits_per_byte"]
        assert base["general_after"]["by_seed"][0] == pytest.approx(lost)
    assert found["bases"][0]["tokens"] == found["bases"][1]["tokens"]
    made = [json.loads((run / f"bases/steps-{n}/manifest.json").read_text())["results"]["steps"] for n in (2, 8)]
    assert made == [2, 8]

    # finished: nothing is made again
    assert cli.main(command) == 0
    assert capsys.readouterr().out.count("finished, skipped") == 1 + 2 + 4 + 1

    # stopped in a training and in the middle of the scores: the same figures
    figures = (run / "ladder/ladder.json").read_text()
    report = (run / "ladder/ladder.md").read_text()
    for name in ("ladder/manifest.json", "ladder/ladder.json", "trained/steps-8/seed-4/manifest.json"):
        (run / name).unlink()
    scored = json.loads((run / "ladder/documents.json").read_text())
    del scored["steps-8"]["4"]
    (run / "ladder/documents.json").write_text(json.dumps(scored))
    shutil.rmtree(run / "trained/steps-8/seed-4/adapter")
    last = max((run / "trained/steps-8/seed-4/checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    shutil.rmtree(last)
    assert cli.main(command) == 0
    assert "continuing after step 4 of 6" in capsys.readouterr().out
    assert (run / "ladder/ladder.json").read_text() == figures
    assert (run / "ladder/ladder.md").read_text() == report

    # other rates are other trainings, and the page names what the table is made from
    fails(capsys, "finished-result-differs", *command, "train.optimizer.learning_rate=1e-4")
    assert cli.main(["show", str(run)]) == 0
    assert "ladder" in capsys.readouterr().out
    the_order_of_bases_changes_nothing(files, found)
    finished_trainings_are_compared_as_they_are(files, found, capsys)


def the_order_of_bases_changes_nothing(files: Path, found: dict) -> None:
    """(Of the run above.)"""
    last = list(story(typed(files)))[-1]
    turned = last.model_dump(mode="json") | {"out": str(files / "turned"), "bases": last.model_dump()["bases"][::-1]}
    other = ladder(recipes.validate(turned | {"adapted": turned["adapted"][::-1]}, "turned"))
    assert other["bases"] == found["bases"][::-1]
    assert other["differences"] == found["differences"]


def finished_trainings_are_compared_as_they_are(files: Path, found: dict, capsys) -> None:
    """(Of the run above.)"""
    adapted = list(story(typed(files)))[-1].model_dump(mode="json")["adapted"]
    words = ["ladder", str(files / "ladder.yaml"), f"out={files / 'again'}", f"adapted={json.dumps(adapted)}"]
    assert cli.main(words) == 0
    assert json.loads((files / "again/ladder.json").read_text()) == found
    assert not (files / "again/corpus").exists()
    fails(capsys, "ladder-budget-differs", *words, "budget.steps=5", "budget.tokens=1280")
    shutil.copytree(files / "run/corpus", files / "moved/corpus")
    rows = files / "moved/corpus/rows/phase1/train/rows.json"
    rows.write_text(rows.read_text() + "\n")  # other bytes, other rows
    (rows.parent / "files.json").unlink()
    moved = [adapted[0] | {"corpus": str(files / "moved/corpus")}, adapted[1]]
    fails(capsys, "ladder-rows-differ", *words[:2], f"out={files / 'moved/out'}", f"adapted={json.dumps(moved)}")
    fails(capsys, "ladder-word-unused", *words, "train.seed=5")
    fails(capsys, "ladder-adapted-differ", *words, "bases=[{name: a, model: x},{name: b, model: y}]")


def save_model(files: Path, name: str, tokenizer: Path, seed: int) -> str:
    shape = ModelShape(**SHAPE, tokenizer=str(tokenizer))
    build_base(shape, tokenizer, 0, seed).save_pretrained(files / name)
    for path in tokenizer.iterdir():
        if path.name.startswith("tokenizer"):
            shutil.copyfile(path, files / name / path.name)
    return str(files / name)


@pytest.fixture(scope="module")
def models(files):
    """Three models, of which two have one tokenizer, and the third cuts texts in longer tokens."""
    paths = {}
    for name, vocab_size in (("long", 900), ("short", 300)):
        asked = recipes.load(files / "corpus.yaml", [f"out={files / name}", f"train_tokenizer.vocab_size={vocab_size}"])
        build(asked)
        paths[name] = save_model(files, f"{name}-model", files / name / "tokenizer", 1)
    paths["twin"] = save_model(files, "twin-model", files / "long/tokenizer", 2)
    return paths


def of_models(models: dict[str, str], *names: str) -> str:
    return f"bases={json.dumps([{'name': name, 'model': models[name]} for name in names])}"


def test_equal_tokenizers_share_rows_and_others_have_their_own(files, models, capsys):
    found = corpora_of(as_typed(typed(files, of_models(models, "twin", "short", "long"))))
    assert found["twin"] == found["long"]
    assert found["twin"].tokenizer == models["long"], "of equal ones that of the first name"
    assert found["short"].out != found["long"].out
    assert found["short"].tokenizer == models["short"]
    assert found == corpora_of(as_typed(typed(files, of_models(models, "long", "twin", "short"))))
    assert f"{files}/corpus.yaml: train_tokenizer not read" in capsys.readouterr().out


def test_equal_bytes_are_equal_within_a_step(files, models):
    asked = as_typed(typed(files, of_models(models, "short", "long"), "equal=bytes", "corpus.row_tokens=64"))
    corpora = corpora_of(asked)
    for corpus in corpora.values():
        build(corpus)
    firsts = {base.name: first_of(asked, base, corpora[base.name], base.model) for base in asked.recipe.bases}
    trainings = trainings_of(asked.recipe, corpora, firsts)
    seen, steps, largest = {}, {}, 0
    for name, of_base in trainings.items():
        for training in of_base:
            rows, replay = Rows(Path(training.rows)), Rows(Path(training.replay.rows))
            order = order_of(training, rows, replay, training.budget.steps)
            of_steps = [sum(map(sum, (row.doc_bytes for row in order.rows(n)))) for n in range(training.budget.steps)]
            assert order.num_bytes(training.budget.steps) == sum(of_steps)
            seen[training.out], largest = sum(of_steps), max(largest, *of_steps)
            steps.setdefault(name, []).append(training.budget.steps)
    assert max(seen.values()) - min(seen.values()) <= largest
    assert steps["short"] == [6, 6], "the base that reads the fewest bytes makes all steps"
    assert max(steps["long"]) < 6
    whole = trainings_of(recipes.update(asked.recipe, equal="tokens"), corpora, firsts)
    assert {one.budget.steps for of_base in whole.values() for one in of_base} == {6}
    assert [one.seed for one in whole["long"]] == list(SEEDS)


@pytest.mark.parametrize(
    ("words", "code", "quoted"),
    [
        (["bases=[{name: a, model: x}]"], "value-wrong", "bases"),
        (["bases=[{name: a, model: x},{name: A, model: y}]"], "names-repeat", "bases"),
        (["bases=[{name: a},{name: b, model: y}]"], "key-not-one", "build"),
        (["bases=[{name: ../a, model: x},{name: b, model: y}]"], "value-wrong", "name"),
        (["bases=[{name: a, model: x, steps: 5},{name: b, model: y}]"], "ladder-base-key", "a"),
        (["bases=[{name: a, build: x, end_of_text: e},{name: b, model: y}]"], "ladder-base-key", "a"),
        (["seeds=1"], "value-wrong", "seeds"),
        (["train.budget.steps=5"], "ladder-key-derived", "budget.steps"),
        (["train.rows=mine"], "ladder-key-derived", "rows"),
        (["corpus.out=mine"], "ladder-key-derived", "out"),
        (["corpus=recipes/nano/phase1.yaml"], "recipe-of-other-kind", "train"),
        (["bases=[{name: a, model: x},{name: b, model: y}]", "build.seed=5"], "ladder-word-unused", "build.seed"),
    ],
)
def test_what_is_no_ladder_is_refused_before_anything_starts(files, capsys, words, code, quoted):
    text = fails(capsys, code, "ladder", str(files / "ladder.yaml"), f"out={files / 'no'}", *words)
    assert quoted in text
    assert not (files / "no").exists()


@pytest.mark.parametrize(
    ("word", "code"),
    [("train.optimizer.learning_rat=1", "key-unknown"), ("build.optimizer.learning_rate=x", "value-wrong")],
)
def test_a_wrong_word_of_a_training_is_refused_before_the_papers_are_packed(files, capsys, word, code):
    text = fails(capsys, code, "ladder", str(files / "ladder.yaml"), f"out={files / 'no'}", word)
    assert word.partition("=")[0].removeprefix("build.") in text
    assert not (files / "no").exists()


def test_a_base_that_cannot_read_the_corpus_is_refused(files, models, capsys):
    bases = of_models(models, "short", "long")
    with raises("tokenizer-no-end-of-text", "long", "</s>"):
        corpora_of(as_typed(typed(files, bases.replace('"long", ', '"long", "end_of_text": "</s>", '))))
    with raises("rows-beyond-positions", "32,768"):
        corpora_of(as_typed(typed(files, bases, "corpus.row_tokens=65536")))


def test_papers_that_are_seen_too_often_are_refused(files, models, capsys):
    words = ["ladder", str(files / "ladder.yaml"), of_models(models, "long", "twin"), f"out={files / 'often'}"]
    text = fails(capsys, "ladder-epochs", *words, "max_epochs=0.1")
    assert "budget.steps=" in text
    assert not (files / "often/trained").exists()


def test_the_text_of_a_model_ends_as_it_states(files, models):
    asked = as_typed(typed(files, of_models(models, "long", "short")))
    assert {corpus.end_of_text for corpus in corpora_of(asked).values()} == {END}
