"""Encoders are scored on files of their tasks, beside floors; what does not fit is named before anything starts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nsllm_lite import cli
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.commands.typed import parse_task_file
from nsllm_lite.evals import encoders, retrieval
from nsllm_lite.evals.encoder_sets import kind_of, spread, training_file
from nsllm_lite.evals.evaluate import evaluate
from nsllm_lite.models.embedding import open_embedder
from nsllm_lite.recipe import load as recipes
from nsllm_lite.retrieval import metrics
from nsllm_lite.retrieval.exact import search
from nsllm_lite.retrieval.sets import read_retrieval
from nsllm_lite.tasks import entities
from tests.models.embedders import WORDS, save_encoder, save_head
from tests.raising import fails, raises
from tests.retrieval.test_sets import beir

TAGS = ("O", "B-M", "I-M", "B-Q", "I-Q")
SENTENCES = [("cold tin grows", "O B-M O"), ("copper melts", "B-M O"), ("old sea ice", "B-Q I-Q I-Q"), ("tin", "B-M")]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A file of each task, with training files for some."""
    folder = tmp_path_factory.mktemp("data")
    rows = [zip(words.split(), tags.split(), strict=True) for words, tags in SENTENCES]
    text = "\n".join("".join(f"{word}\t{tag}\n" for word, tag in row) for row in rows)
    (folder / "test.tsv").write_text(text)
    (folder / "train.tsv").write_text("tin\tB-M\n\nsea\tB-Q\nice\tI-Q\n")
    qa = [
        ("who grows ?", "old tin grows in ice.", "tin"),
        ("who melts ?", "copper melts.", "copper"),
        ("who ?", "ice.", ""),
    ]
    write(folder / "qa.jsonl", [{"question": q, "context": c, "answers": [a] if a else []} for q, c, a in qa])
    texts = [("tin grows", "metal"), ("ice melts", "sea"), ("copper and lead", "metal"), ("old sea", "sea")]
    write(folder / "classes.jsonl", [{"text": text, "label": label} for text, label in texts])
    write(folder / "labels.jsonl", [{"text": text, "labels": [label]} for text, label in texts])
    pairs = [("tin", "tin grows", 1), ("tin", "sea", 0), ("ice", "old ice", 1), ("ice", "cells", 0)]
    write(folder / "pairs.jsonl", [{"text": a, "text_pair": b, "label": label} for a, b, label in pairs])
    documents = {f"d{n}": ("", " ".join(WORDS[n : n + 4])) for n in range(12)}
    queries = {f"q{n}": f"{WORDS[n]} {WORDS[n + 1]}" for n in range(8)}
    lines = {
        split: "".join(f"q{n}\td{n}\t1\n" for n in part) for split, part in (("test", range(5)), ("dev", range(5, 8)))
    }
    (folder / "beir").mkdir()
    beir(folder / "beir", documents, queries, **lines)
    return folder


def write(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    made = {
        "ner": ("ner", TAGS), "ner/seed1": ("ner", TAGS), "ner/seed2": ("ner", TAGS), "qa": ("qa", ()),
        "classes": ("classification", ("metal", "rock")), "labels": ("multilabel", ("metal", "sea")),
        "pair": ("pair", ()),
    }  # fmt: skip
    top, found = tmp_path_factory.mktemp("models"), {}
    for number, (name, (task, labels)) in enumerate(made.items()):
        (top / name).mkdir(parents=True)
        found[name] = save_head(top / name, task, labels, seed=number)
    (top / "plain").mkdir()
    return found | {"plain": save_encoder(top / "plain")}


def recipe(out: Path, models: dict[str, Path], files: list[tuple], **more):
    given = [{"name": name, "path": str(path)} for name, path in models.items()]
    asked = [{"name": name, "task": task, "path": str(path)} for name, task, path in files]
    values = {"kind": "eval", "out": str(out), "models": given, "files": asked, "tasks": None, "seed": 0}
    return recipes.validate(values | {"execution": {"device": "cpu"}} | more, "eval")


@pytest.fixture(scope="module")
def scored(tmp_path_factory, models, data):
    """Every task at once."""
    out = tmp_path_factory.mktemp("out") / "all"
    files = [
        ("entities", "ner", data / "test.tsv"), ("questions", "qa", data / "qa.jsonl"),
        ("classes", "classification", data / "classes.jsonl"), ("labels", "classification", data / "labels.jsonl"),
        ("pairs", "pair", data / "pairs.jsonl"), ("search", "retrieval", data / "beir"),
    ]  # fmt: skip
    asked = recipe(out, models, files)
    return asked, evaluate(asked)


def row_of(results: dict, model: str, name: str, mode: str = "predicted") -> dict:
    found = [row for row in results["scores"] if (row["model"], row["set"], row["mode"]) == (model, name, mode)]
    assert len(found) == 1
    return found[0]


def about(results: dict, name: str) -> dict:
    return next(one for one in results["sets"] if one["name"] == name)


def test_all_tasks_have_scores_intervals_floors_and_numbers(scored):
    asked, results = scored
    out = Path(asked.out)
    assert read_json(out / "results.json") == json.loads(json.dumps(results))
    assert {one["task"] for one in results["sets"]} == {
        "ner",
        "qa",
        "classification",
        "multilabel",
        "pair",
        "retrieval",
    }
    for one in results["sets"]:
        assert one["floors"]
        assert one["items"] > 0
        for found in (*one["floors"].values(), *(row for row in results["scores"] if row["set"] == one["name"])):
            for metric in one["metrics"]:
                assert 0 <= found[metric]["low"] <= found[metric]["value"] <= found[metric]["high"] <= 1
                assert found[metric]["n"] > 0
    assert (out / "scores.png").is_file()
    report = (out / "report.md").read_text()
    assert all(one["title"] in report for one in results["sets"])
    assert read_json(out / "times.json")["models"].keys() == {one.name for one in asked.models}


def test_models_are_doubted_on_the_files_of_their_task(tmp_path, models, data, monkeypatch):
    seen = {}
    monkeypatch.setattr(encoders, "warnings_of", lambda recipe, asked: seen.update(asked) or ["one.", "two."])
    files = [("entities", "ner", data / "test.tsv"), ("questions", "qa", data / "qa.jsonl")]
    files.append(("search", "retrieval", data / "beir"))
    evaluate(recipe(tmp_path / "x", {name: models[name] for name in ("ner", "qa", "plain")}, files))
    assert seen == {"ner": [str(data / "test.tsv")], "qa": [str(data / "qa.jsonl")], "plain": []}
    assert "\n\n**Doubtful:** one.\n\n**Doubtful:** two.\n\n" in (tmp_path / "x/report.md").read_text()


def test_entities_are_those_that_the_head_tells(scored, data):
    asked, results = scored
    told = read_json(Path(asked.out) / "predictions/ner/entities.json")["said"]
    gold = [tags.split() for _, tags in SENTENCES]
    rows = entities.tallies(gold, told, ("M", "Q"))
    assert row_of(results, "ner", "entities")["f1"]["value"] == entities.f1(rows)
    floor = about(results, "entities")["floors"]["dictionary of training entities"]
    assert floor["f1"]["value"] == pytest.approx(2 * 2 / (4 + 3))  # `tin` twice; `sea ice` is not `old sea ice`


def test_answers_are_not_mended_before_they_are_scored(models, data, tmp_path, monkeypatch):
    """Every gold tag, but I- in place of B-: seqeval's default counts them all as right."""
    from nsllm_lite.models import heads

    tags = [tags.replace("B-", "I-").split() for _, tags in SENTENCES]
    monkeypatch.setattr(heads, "word_tags", lambda *_: heads.Tagged(tags, [1] * 4, 0))
    results = evaluate(recipe(tmp_path / "x", {"ner": models["ner"]}, [("entities", "ner", data / "test.tsv")]))
    assert row_of(results, "ner", "entities")["f1"]["value"] == 0
    assert any(": 4 tags I-" in note for note in about(results, "entities")["notes"])


def test_seeds_are_joined_by_name(scored):
    _, results = scored
    (found,) = [row for row in results["seeds"] if row["set"] == "entities"]
    assert (found["model"], found["seeds"]) == ("ner", 2)
    values = [row_of(results, f"ner/seed{n}", "entities")["f1"]["value"] for n in (1, 2)]
    assert found["metrics"]["f1"] == {
        "mean": pytest.approx(np.mean(values)),
        "deviation": pytest.approx(np.std(values, ddof=1)),
    }


def test_labels_that_a_model_does_not_know_are_wrong_and_named(scored):
    _, results = scored
    assert any("sea (2)" in note for note in about(results, "classes")["notes"])
    assert row_of(results, "classes", "classes")["f1 sea"]["value"] == 0


def test_a_score_that_has_no_value_is_left_out(scored):
    """No text is rock, and the floors, which do not know it, give it to none."""
    _, results = scored
    for floor in about(results, "classes")["floors"].values():
        assert "f1 rock" not in floor
        assert "f1 sea" in floor
    assert "nan" not in json.dumps(results).lower().replace('"name', "")


def test_retrieval_is_that_of_the_embedder(scored, models, data):
    _, results = scored
    collection = read_retrieval(data / "beir")
    embedder = open_embedder(models["plain"])
    ranking, _ = search(embedder.encode(collection.test.queries), embedder.encode(collection.documents), 12)
    found = row_of(results, "plain", "search", "dense")
    assert found["ndcg@10"]["value"] == pytest.approx(metrics.ndcg(ranking, collection.test.grades).mean())
    untrained = row_of(results, "plain", "search", "dense, untrained")
    assert untrained["ndcg@10"]["value"] != found["ndcg@10"]["value"]
    assert about(results, "search")["floors"].keys() == {"BM25", "BM25, Porter", "chance"}
    assert any("3 development queries" in note for note in about(results, "search")["notes"])
    first = [(row["first"], row["second"], row["mode"]) for row in results["differences"] if row["set"] == "search"]
    assert ("BM25, Porter", "plain", "dense") in first or ("BM25", "plain", "dense") in first


def test_a_query_that_is_a_document_does_not_find_itself(models, tmp_path):
    """Both queries are documents, and the right one comes second: 1 / log2(3) = 0.631 where 1 is due."""
    texts = {"q1": "old tin grows", "a1": "old tin", "q2": "copper melts in ice", "a2": "copper melts"}
    queries = {name: texts[name] for name in ("q1", "q2")}
    lines = {"test": "q1\ta1\t1\nq2\ta2\t1\n", "dev": "q2\ta2\t1\n"}
    (tmp_path / "beir").mkdir()
    beir(tmp_path / "beir", {name: ("", text) for name, text in texts.items()}, queries, **lines)
    asked = recipe(tmp_path / "out", {"plain": models["plain"]}, [("search", "retrieval", tmp_path / "beir")])
    results = evaluate(asked)
    found = about(results, "search")
    assert {name: of["ndcg@10"]["value"] for name, of in found["floors"].items() if "BM25" in name} == {
        "BM25": 1, "BM25, Porter": 1,
    }  # fmt: skip
    assert any("test: 2 of 2 queries are documents" in note for note in found["notes"])
    told = {path.name: read_json(path) for path in Path(asked.out).glob("predictions/plain/search*.json")}
    assert len(told) == 2
    for of in told.values():
        for line in of["lines"]:
            assert sorted([*line["documents"], line["query"]]) == sorted(texts), "all others"
    collection = read_retrieval(tmp_path / "beir")
    for ranking in retrieval.floors(collection, 0).values():
        for row, own in zip(ranking.test, collection.test.own, strict=True):
            assert own not in row


def test_sizes(scored, models):
    _, results = scored
    found = results["models"]["plain"]
    assert found["bytes"] == (models["plain"] / "model.safetensors").stat().st_size
    assert (found["dimensions"], found["max_tokens"]) == (32, 66)
    assert results["models"]["ner"]["max_tokens"] == 32


def test_a_finished_evaluation_is_not_made_again(scored, monkeypatch, capsys):
    asked, results = scored
    monkeypatch.setattr(encoders, "_predict", None)
    assert evaluate(asked) == json.loads(json.dumps(results))
    assert "# Scores" in capsys.readouterr().out


def test_answers_that_a_model_is_too_short_for_are_told(tmp_path, models):
    """One of two is longer than its limit: exact match is lost with it, and a third of its F1."""
    records = [{"question": "who ?", "context": "old tin grows.", "answers": [one]} for one in ("tin", "old tin")]
    write(tmp_path / "qa.jsonl", records)
    shutil.copytree(models["qa"], tmp_path / "qa")
    stated = read_json(tmp_path / "qa/finetune.json")
    for limit, expected in ((2, []), (1, ["qa: 1 questions"])):
        write_json(tmp_path / "qa/finetune.json", stated | {"max_answer_tokens": limit})
        asked = recipe(tmp_path / f"out{limit}", {"qa": tmp_path / "qa"}, [("questions", "qa", tmp_path / "qa.jsonl")])
        notes = [note for note in about(evaluate(asked), "questions")["notes"] if "max_answer_tokens" in note]
        assert [note.partition(" have")[0] for note in notes] == expected
        assert all(note.endswith("exact match is 0.500 at most, F1 0.833") for note in notes)


def test_a_rare_label_takes_no_floor_away_and_is_told(scored):
    _, results = scored
    assert "TF-IDF words" in about(results, "classes")["floors"]
    assert any(
        "fewer than 5 texts" in note and "metal (2), sea (2)" in note for note in about(results, "classes")["notes"]
    )


def test_a_stopped_evaluation_goes_on_behind_what_was_told(tmp_path, models, data, monkeypatch):
    files = [("entities", "ner", data / "test.tsv"), ("questions", "qa", data / "qa.jsonl")]
    both = {name: models[name] for name in ("ner", "qa")}
    whole = evaluate(recipe(tmp_path / "whole", both, files))
    from nsllm_lite.models import heads

    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(heads, "answers", broken)
        with pytest.raises(KeyboardInterrupt):
            evaluate(recipe(tmp_path / "part", both, files))
    assert not (tmp_path / "part/manifest.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(heads, "word_tags", broken)  # told already
        assert evaluate(recipe(tmp_path / "part", both, files)) == whole
    assert (tmp_path / "part/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


def test_models_and_files_without_each_other(tmp_path, models, data):
    ner, qa = ("entities", "ner", data / "test.tsv"), ("questions", "qa", data / "qa.jsonl")
    with raises("eval-model-without-file", "qa (qa)"):
        evaluate(recipe(tmp_path / "x", {name: models[name] for name in ("ner", "qa")}, [ner]))
    with raises("eval-file-without-model", "questions (qa)"):
        evaluate(recipe(tmp_path / "x", {"ner": models["ner"]}, [ner, qa]))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "more",
    [
        {"encoder": "x"},
        {"modes": ["few-shot"]},
        {"calibrate": True},
        {"constrain": True},
        {"execution": {"batch_tokens": 9}},
        {"execution": {"backend": "vllm"}},
    ],
)
def test_options_of_language_models_are_refused(tmp_path, models, data, more):
    with raises("eval-options-of-language-models"):
        recipe(tmp_path, {"ner": models["ner"]}, [("entities", "ner", data / "test.tsv")], **more)


def test_tasks_of_language_models_are_refused_beside_those_of_encoders(tmp_path, models, data, capsys):
    with raises("eval-kinds-mixed", "x (open)"):
        recipe(tmp_path, models, [("entities", "ner", data / "test.tsv"), ("x", "open", "x.json")])
    words = ("eval", str(models["ner"]), "--file", f"ner={data}/test.tsv", "--tasks", "bundled", "--out", str(tmp_path))
    fails(capsys, "eval-kinds-mixed", *words)
    fails(capsys, "task-unknown", "eval", "x", "--file", "nerr=x", "--out", str(tmp_path / "x"))


def test_the_command(tmp_path, models, data, capsys):
    words = ["eval", str(models["classes"]), "--file", f"classification={data}/classes.jsonl", "--max-items", "2"]
    assert cli.main([*words, "--out", str(tmp_path / "x"), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert about(results, "classes")["items"] == 2
    assert row_of(results, str(models["classes"]), "classes")["accuracy"]["n"] == 2


def test_test_files_of_several_sets_have_several_names():
    found = [parse_task_file(f"{task}=data/{name}") for task, name in (("ner", "a/test.txt"), ("ner", "b/test.txt"))]
    assert [one["name"] for one in found] == ["a/test", "b/test"]
    assert parse_task_file("ner=mine.txt")["name"] == "mine"
    assert parse_task_file("open=a/test.json")["name"] == "test"


def test_kinds_of_folders(models):
    kinds = {name: kind_of(folder) for name, folder in models.items()}
    assert kinds["labels"] == "multilabel"
    assert kinds["plain"] == "retrieval"
    for name, kind in (("ner", "ner"), ("qa", "qa"), ("classes", "classification"), ("pair", "pair")):
        assert kinds[name] == kind
        about = models[name] / "finetune.json"
        text = about.read_text()
        about.unlink()  # by its architecture alone
        assert kind_of(models[name]) == kind
        about.write_text(text)


@pytest.mark.parametrize(
    ("test", "train"),
    [
        ("test.txt", "train.txt"),
        ("en.val.txt", "en.train.txt"),
        ("sq2_test.v2.json", "sq2_train.v2.json"),
        ("x.txt", None),
        ("latest.txt", None),
    ],
)
def test_training_files_beside_test_files(tmp_path, test, train):
    for name in ("train.txt", "en.train.txt", "sq2_train.v2.json", "latrain.txt"):
        (tmp_path / name).write_text("x")
    assert training_file(tmp_path / test) == (tmp_path / train if train else None)


def test_items_are_spread_evenly():
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(2, 4) == [0, 1]
