"""`nsllm-lite embed`: learning, resuming, a teacher, held-out scores, the folder that is left, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from nsllm_lite.artifact import interrupts
from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.json_files import read_json, read_lines
from nsllm_lite.commands.show import show
from nsllm_lite.formats.documents import Section
from nsllm_lite.models.device import Card
from nsllm_lite.models.execution import USABLE_SHARE
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.kinds import KINDS
from nsllm_lite.train import embed, embed_outputs, embed_teacher
from nsllm_lite.train.embed_loss import CachedEmbedder
from nsllm_lite.train.embed_model import open_to_train
from nsllm_lite.train.embed_scores import HeldoutSet, rank
from tests.raising import raises
from tests.train.papers import make_encoder, paper, write_corpus

NUM, HELD = 60, 20
STEPS = 6


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("embed")
    make_encoder(folder / "encoder", dropout=0.1)
    papers = [
        paper(n, references=(f"arxiv:{(n + 7) % NUM:04}",), sections=(Section("Methods", f"Heat {n} of it, twice."),))
        for n in range(NUM)
    ]
    write_corpus(folder / "corpus", papers, {one.id for one in papers[::3]})
    return folder


@pytest.fixture
def recipe_of(inputs, tmp_path):
    def made(**changes):
        values = yaml.safe_load(Path("recipes/nano/embed.yaml").read_text())
        values |= {
            "out": str(tmp_path / "out"),
            "model": str(inputs / "encoder"),
            "corpus": str(inputs / "corpus"),
            "max_tokens": 48,
            "dimensions": [16],
            "stages": [{"pairs": ["title-abstract"], "steps": STEPS, "batch_pairs": 16}],
            "schedule": {"shape": "constant", "warmup_steps": 1},
            "evaluation": {"every_steps": 3, "max_queries": 50, "max_texts": 50},
            "checkpoint_steps": 2,
        }
        return recipes.validate(values | changes, "test")

    return made


def weights_of(out) -> bytes:
    return (Path(out) / "model/model.safetensors").read_bytes()


def test_what_goes_together_is_learnt_and_opens_in_sentence_transformers(recipe_of, inputs, tmp_path, capsys):
    from sentence_transformers import SentenceTransformer

    evaluation = {"every_steps": 30, "max_queries": 50, "max_texts": 50}
    stages = [
        {"pairs": ["title-abstract"], "steps": 26, "batch_pairs": 16},
        {"pairs": ["title-abstract", "citing-cited"], "steps": 4, "batch_pairs": 8},
    ]
    optimizer = {"name": "adamw", "learning_rate": 2e-3, "betas": [0.9, 0.98], "weight_decay": 0.0, "max_grad_norm": 1}
    recipe = recipe_of(stages=stages, evaluation=evaluation, checkpoint_steps=30, optimizer=optimizer)
    results = embed.embed(recipe)
    before, after = (results["heldout"][when]["pairs"]["title-abstract"] for when in ("before", "after"))
    assert (after["queries"], after["documents"]) == (HELD, 50), "and of 30 training papers"
    assert after["mrr@10"]["value"] > before["mrr@10"]["value"] + 0.3
    assert after["mrr@10"]["low"] <= after["mrr@10"]["value"] <= after["mrr@10"]["high"]
    assert after["loss"] < before["loss"] - 0.3
    assert 0 < after["dimensions"]["16"] <= 1
    assert results["floors"]["title-abstract"]["mrr@10"]["value"] < 0.3, "they share no words"
    assert results["epochs_by_stage"] == {
        "stage 1, title-abstract": 26 * 16 / 40,
        "stage 2, title-abstract": 2 * 8 / 40,
        "stage 2, citing-cited": 2 * 8 / 20,
    }
    assert results["pairs"]["title-abstract"] == {"train": 40, "papers": 40, "heldout": 20, "left_out": {}}
    assert results["pairs"]["keywords-abstract"]["left_out"] == {"states no keywords": NUM}
    printed = capsys.readouterr().out
    assert "keywords-abstract" in printed.split("Not scored")[1].splitlines()[0]

    out = Path(recipe.out)
    model = SentenceTransformer(f"{out}/model", device="cpu", local_files_only=True)
    assert model.max_seq_length == 48
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Normalize"]
    one, other = model.encode([paper(3).title, paper(3).abstract])
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ other > one @ model.encode(paper(9).abstract)
    assert not [path for path in out.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    assert not (out / "work").exists()
    card, report = (out / "model/README.md").read_text(), (out / "report.md").read_text()
    shown: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], shown)  # as a reader of the card would
    assert np.allclose(shown["embeddings"], model.encode(["a text"]), atol=1e-5)
    assert f"`{recipe.corpus}` (manifest " in card
    assert f"`{recipe.model}` (weights " in card
    assert "The licence of s was not stated" in card
    assert "| title-abstract | BM25 | 20 | 50 |" in report
    assert report.count("| after |") == len(results["floors"]) >= 3
    beside = results["differences"]["title-abstract"]
    assert beside["before"]["value"] == pytest.approx(after["mrr@10"]["value"] - before["mrr@10"]["value"])
    assert beside["BM25"]["value"] == pytest.approx(
        after["mrr@10"]["value"] - results["floors"]["title-abstract"]["mrr@10"]["value"]
    )
    words = f"title-abstract: this model finds more than itself before, mrr@10 {beside['before']['value']:+.3f} ["
    assert all(words in text for text in (printed, card, report))
    assert {line["step"] for line in read_lines(out / "metrics.jsonl") if "heldout" in line} == {0, 30}
    assert embed.embed(recipe) == results
    assert "skipped" in capsys.readouterr().out
    show(out, tmp_path / "curves.png", tmp_path / "page.html")
    assert "mrr@10" in (tmp_path / "page.html").read_text()
    # and goes on from its own folder
    again = embed.embed(recipe_of(out=str(tmp_path / "more"), model=f"{out}/model"))
    assert again["heldout"]["before"]["pairs"]["title-abstract"]["mrr@10"] == after["mrr@10"]


HARD = {"count": 1, "first_rank": 2, "last_rank": 8}


@pytest.mark.parametrize("is_taught", [False, True])
def test_a_stopped_run_ends_bit_for_bit_as_one_that_was_not(recipe_of, inputs, tmp_path, monkeypatch, is_taught):
    (tmp_path / "own.csv").write_text("query,positive\n" + "\n".join(f"what is {n},it is {n * n}" for n in range(20)))
    changes = {"teacher": {"model": str(teacher_of(tmp_path)), "softening": 2}} if is_taught else {}
    changes["stages"] = [
        {"pairs": ["title-abstract", "citing-cited"], "steps": 4, "batch_pairs": 8, "hard_negatives": HARD},
        {"file": str(tmp_path / "own.csv"), "steps": 2, "batch_pairs": 10},
    ]
    whole, halted = (recipe_of(out=str(tmp_path / name), **changes) for name in ("whole", "halted"))
    results = embed.embed(whole)
    add_gradients = CachedEmbedder.add_gradients

    def stop(self, loss, columns, labels, step):
        if step == 3:
            raise interrupts.Stop(15)
        return add_gradients(self, loss, columns, labels, step)

    with monkeypatch.context() as patch:
        patch.setattr(CachedEmbedder, "add_gradients", stop)
        with pytest.raises(interrupts.Stop):
            embed.embed(halted)
    assert not (Path(halted.out) / "manifest.json").exists()
    assert embed.embed(halted) == results
    assert weights_of(halted.out) == weights_of(whole.out)
    assert (Path(halted.out) / "metrics.jsonl").read_bytes() == (Path(whole.out) / "metrics.jsonl").read_bytes()


def teacher_of(folder) -> Path:
    """Of another width, and another tokenizer."""
    return make_encoder(folder / "teacher", hidden=48, seed=5)


def test_a_teachers_similarities_are_learnt(recipe_of, tmp_path, capsys, monkeypatch):
    teacher = {"model": str(teacher_of(tmp_path)), "softening": 1}
    evaluation = {"every_steps": 30, "max_queries": 50, "max_texts": 50}
    stages = [{"pairs": ["title-abstract"], "steps": 30, "batch_pairs": 16}]
    recipe = recipe_of(teacher=teacher, evaluation=evaluation, stages=stages)
    embedded = embed_teacher.embedded
    counts = []
    monkeypatch.setattr(
        embed_teacher, "embedded", lambda *args: counts.append(len(args[2])) or embedded(*args)
    )  # fmt: skip
    results = embed.embed(recipe)
    assert counts == [2 * (NUM - HELD)], "titles and abstracts to train on, once"
    assert results["last_loss"] < 0.5 * results["first_loss"]
    assert results["teacher"]["title-abstract"]["queries"] == HELD
    assert "| title-abstract | teacher |" in (Path(recipe.out) / "report.md").read_text()
    assert read_json(Path(recipe.out, "manifest.json"))["inputs"]["teacher"]
    assert "teacher" in {one.label for one in KINDS["embed"].inputs(recipe)}


def test_embeddings_of_a_teacher_are_continued_where_a_kill_left_them(tmp_path, monkeypatch):
    from nsllm_lite.models.embedding import open_embedder
    from nsllm_lite.train.texts import TextWriter

    monkeypatch.setattr(embed_teacher, "BLOCK_TEXTS", 4)
    with TextWriter(tmp_path / "texts") as writer:
        numbers = np.array([writer.add(paper(n).abstract) for n in range(10)])
    teacher = open_embedder(teacher_of(tmp_path))
    whole = np.array(embed_teacher.embedded(teacher, writer.opened(), numbers, "document", tmp_path / "one"))
    encode, seen = teacher.encode, []

    def once(texts, role):
        seen.append(len(texts))
        if len(seen) == 2:
            raise interrupts.Stop(15)
        return encode(texts, role)

    teacher.encode = once
    with pytest.raises(interrupts.Stop):
        embed_teacher.embedded(teacher, writer.opened(), numbers, "document", tmp_path / "two")
    found = embed_teacher.embedded(teacher, writer.opened(), numbers, "document", tmp_path / "two")
    assert (found == whole).all()
    assert seen == [4, 4, 4, 2]
    assert np.abs(found - encode([paper(n).abstract for n in range(10)], "document")).max() < 1e-3


def test_ranks_and_losses_by_hand():
    queries, documents = (
        np.eye(3, dtype=np.float32)[:2],
        np.array([[0.6, 0.8, 0], [0.8, 0.6, 0], [0, 0, 1]], np.float32),
    )
    ranking, losses = rank(queries, documents, HeldoutSet([], [], [{0: 1}, {0: 1, 2: 1}], [-1, 1]), temperature=0.5)
    assert ranking[:, :3].tolist() == [[1, 0, 2], [0, 2, -1]], "its own text is no answer"
    terms = np.exp(np.array([1.2, 1.6, 0.0]))
    assert losses[0] == pytest.approx(np.log(terms.sum()) - 1.2, rel=1e-5)
    assert losses[1:].tolist() == pytest.approx([np.log(np.exp(1.6) + 1) - 1.6, np.log(np.exp(1.6) + 1)], rel=1e-5)


def test_a_kind_that_gives_nothing_is_told_and_alone_refused(recipe_of, capsys):
    few = [{"pairs": ["title-abstract", "keywords-abstract"], "steps": 2, "batch_pairs": 8}]
    results = embed.embed(recipe_of(stages=few))
    assert list(results["epochs_by_stage"]) == ["stage 1, title-abstract"]
    printed = capsys.readouterr().out
    assert "states no keywords 60" in printed
    assert "Stage 1 goes without: " in printed
    alone = recipe_of(out="nowhere", stages=[{**few[0], "pairs": ["keywords-abstract"]}])
    with raises("embed-no-pairs", "keywords-abstract", "states no keywords 60"):
        embed.embed(alone)
    assert not Path("nowhere").exists()
    with raises("embed-batch-not-filled", 41):
        embed.embed(recipe_of(out="nowhere", stages=[{**few[0], "pairs": ["title-abstract"], "batch_pairs": 41}]))


def test_without_held_out_papers_nothing_is_scored_and_it_is_said(recipe_of, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [paper(n) for n in range(20)])
    recipe = recipe_of(corpus=str(corpus))
    results = embed.embed(recipe)
    assert (results["floors"], results["heldout"]["after"]) == ({}, {"pairs": {}})
    assert "nothing was scored" in (Path(recipe.out) / "report.md").read_text()


def test_pairs_of_a_file_that_are_held_out_are_left_out(recipe_of, tmp_path, capsys):
    records = [{"query": f"what is {n}", "positive": f"it is {n * n}", "score": n} for n in range(8)]
    records.append({"query": "about tin", "positive": paper(3).abstract.upper()})  # of a held-out paper
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, records)))
    stage = {"file": str(tmp_path / "own.jsonl"), "steps": 2, "batch_pairs": 8}
    results = embed.embed(recipe_of(stages=[stage]))
    assert results["pairs"]["file of stage 1"] == {"train": 8, "left_out": {"a text of a held-out paper": 1}}
    printed = capsys.readouterr().out
    assert "score (8)" in printed
    assert "a text of a held-out paper" in printed
    assert "own.jsonl" in {Path(one.path).name for one in KINDS["embed"].inputs(recipe_of(stages=[stage]))}


def test_what_cannot_be_trained_is_named(recipe_of, inputs, tmp_path):
    from safetensors.torch import load_file, save_file

    stage = {"pairs": ["title-abstract"], "steps": 3, "batch_pairs": 8}
    for code, changes in {
        "embed-batch-of-one": {"stages": [{**stage, "batch_pairs": 1}]},
        "embed-kind-twice": {"stages": [{**stage, "pairs": ["sentences", "sentences"]}]},
        "embed-ranks-few": {"stages": [{**stage, "hard_negatives": {"count": 4, "first_rank": 2, "last_rank": 4}}]},
        "embed-directions": {"directions": ["doc_to_query"]},
        "embed-teacher-directions": {
            "teacher": {"model": "t", "softening": 1}, "directions": ["query_to_doc"],
        },
        "key-not-one": {"stages": [{**stage, "file": "f"}]},
    }.items():  # fmt: skip
        with raises(code):
            recipe_of(**changes)
    with raises("embed-positions-few", 64, 65):
        embed.embed(recipe_of(max_tokens=65))
    with raises("embed-dimensions-many", 33, 32):
        embed.embed(recipe_of(dimensions=[33]))
    with raises("corpus-absent", tmp_path):
        embed.embed(recipe_of(corpus=str(tmp_path)))
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (inputs / "encoder").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in tensors if "layer.1" in name)
    save_file({key: one for key, one in tensors.items() if key != name}, broken / "model.safetensors")
    with raises("embed-weights-missing", name.partition(".")[2]):
        embed.embed(recipe_of(model=str(broken)))


def test_what_others_have_in_the_folder_is_left_alone(recipe_of, inputs, tmp_path):
    shutil.copytree(inputs / "encoder", tmp_path / "out/model")
    (tmp_path / "out/work").mkdir()
    (tmp_path / "out" / "work" / "thesis.tex").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    nothing = [{"pairs": ["citing-cited"], "steps": 2, "batch_pairs": 4096}]
    for changes in ({}, {"stages": nothing}):
        with raises("out-not-empty", tmp_path / "out"):
            embed.embed(recipe_of(model=str(tmp_path / "out/model"), **changes))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("role", ["base", "teacher"])
def test_a_model_that_pools_otherwise_is_another_one(recipe_of, inputs, tmp_path, role):
    place = tmp_path / "embedder"
    open_to_train(inputs / "encoder", 48, []).save_pretrained(str(place))
    changes = {"model": str(place)} if role == "base" else {"teacher": {"model": str(place), "softening": 1}}
    before = embed.read_inputs(recipe_of(**changes)).hashes
    for name in ("1_Pooling/config.json", "sentence_bert_config.json", "modules.json"):
        stated = (place / name).read_bytes()
        (place / name).write_bytes(stated.replace(b"mean", b"cls") + b" ")
        assert embed.read_inputs(recipe_of(**changes)).hashes != before, name
        (place / name).write_bytes(stated)
    assert embed.read_inputs(recipe_of(**changes)).hashes == before


def test_texts_at_a_time_follow_from_the_cards_memory(recipe_of):
    recipe = recipe_of()
    model = open_to_train(Path(recipe.model), 48, [])

    def texts(gib, **execution):
        card = Card("cuda", int(gib * GIB), "a card", int(gib * GIB), (8, 0))
        return embed.choose_execution(recipe_of(execution=execution), model, card).micro_batch_rows

    wide = embed.need_bytes(recipe, model, 64) / GIB / USABLE_SHARE
    narrow = embed.need_bytes(recipe, model, 8) / GIB / USABLE_SHARE
    assert [texts(wide + 0.01), texts(narrow + 0.001), texts(0.01)] == [64, 8, 1]
    assert texts(0.01, micro_batch_rows=5) == 5
    assert texts(80, memory_gib=narrow + 0.001) == 8


def test_prompts_of_a_model_are_left_out_and_told(recipe_of, tmp_path, capsys):
    from sentence_transformers import SentenceTransformer

    recipe = recipe_of()
    model = open_to_train(Path(recipe.model), 48, [])
    model.prompts = {"query": "query: ", "document": ""}
    model.save_pretrained(str(tmp_path / "prompted"))
    embed.embed(recipe_of(model=str(tmp_path / "prompted")))
    assert "prompts (query) are left out" in capsys.readouterr().out
    assert not any(SentenceTransformer(f"{recipe.out}/model", device="cpu").prompts.values())


def test_the_saved_folder_does_not_depend_on_what_was_embedded_last(recipe_of, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_outputs, "card_of", lambda *_: "")
    saved = []
    for number, texts in enumerate(([], ["one", "two of them " * 40])):
        model = open_to_train(inputs / "encoder", 48, [])
        model.encode(texts)
        (out := tmp_path / str(number)).mkdir()
        embed_outputs.save_model(recipe_of(), model, {}, {}, out, [])
        saved.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert saved[0] == saved[1]
    stored = read_json(tmp_path / "1/model/tokenizer.json")
    assert stored["truncation"] is None
    assert stored["padding"] is None


def test_a_saved_folder_that_embeds_otherwise_is_refused(recipe_of, monkeypatch):
    from sentence_transformers import SentenceTransformer

    save = SentenceTransformer.save_pretrained

    def spoilt(self, path, **options):
        save(self, path, **options)
        config = json.loads(Path(path, "1_Pooling/config.json").read_text())
        config |= {"pooling_mode": "cls"}
        Path(path, "1_Pooling/config.json").write_text(json.dumps(config))

    monkeypatch.setattr(SentenceTransformer, "save_pretrained", spoilt)
    with raises("embed-saved-differs"):
        embed.embed(recipe_of())
