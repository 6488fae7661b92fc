"""Fine-tuning: every task learns, opens in transformers, goes on after a stop; splits by paper; floors and refusals."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, pipeline

from nsllm_lite.artifact import interrupts
from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.models.device import Card
from nsllm_lite.models.heads import Said, open_head, said
from nsllm_lite.models.windows import Window
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks import classes, scores
from nsllm_lite.tasks.heads import read_items
from nsllm_lite.train import finetune as module
from nsllm_lite.train import finetune_inputs, finetune_loss, finetune_model, finetune_report, finetune_scores
from nsllm_lite.train.fallback import Fallback, OutOfMemoryError
from tests.models.small_encoders import VOCAB, WORDS, save_decoder, save_encoder
from tests.raising import raises

FILLER = ["the", "a", "of", "in", "at", "on", *(f"w{n}" for n in range(4, 20))]
NUM = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models and files of examples: texts about metals and heat, entities, questions, pairs."""
    root = tmp_path_factory.mktemp("finetune")
    for kind in ("bert", "modernbert"):
        save_encoder(root / kind, kind)
    save_encoder(root / "dropout", hidden_dropout_prob=0.2)
    save_decoder(root / "decoder")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(FILLER, 3)) for _ in range(NUM)]
    metals, heat = ["tin", "lead", "copper"], ["cold", "hot", "melts"]
    words = [(metals if n % 2 else heat)[n % 3] for n in range(NUM)]
    write(root / "classes.jsonl", [
        {"text": f"{text} {word}", "label": "metal" if n % 2 else "heat", "paper": f"p{n // 2}"}
        for n, (text, word) in enumerate(zip(texts, words, strict=True))
    ])  # fmt: skip
    write(root / "several.jsonl", [
        {"text": f"{text} {metals[n % 3]} {heat[n % 3] * (n % 4 > 0)}", "labels": ["metal", "heat"][: 1 + (n % 4 > 0)]}
        for n, text in enumerate(texts)
    ])  # fmt: skip
    lines = [
        "\n".join([*(f"{word} O" for word in text.split()), f"{metals[n % 3]} B-M", "whiskers I-M", "grows O"])
        for n, text in enumerate(texts)
    ]
    (root / "entities.txt").write_text("\n\n".join(lines) + "\n")
    write(root / "questions.jsonl", [
        {"question": "who ?", "context": " ".join([*around[:left], *["w3"] * (n % 3 > 0), *around[left:]]),
         "answers": ["w3"] * (n % 3 > 0), "id": f"q{n}", "paper": f"p{n}"}
        for n, left in enumerate(rng.integers(9, size=3 * NUM).tolist())
        for around in [rng.choice(FILLER, 9).tolist()]
    ])  # fmt: skip
    write(root / "pairs.jsonl", [
        {"text": f"what {metals[n % 3]} {FILLER[n % 22]}", "text_pair": f"{metals[(n + n % 2) % 3]} grows",
         "label": 1 - n % 2, "paper": str(1000 + n)}
        for n in range(NUM)
    ])  # fmt: skip
    return root


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    """Of the intervals, which are tested elsewhere."""
    monkeypatch.setattr(scores, "RESAMPLES", 20)
    monkeypatch.setattr(scores, "PERMUTATIONS", 200)


def write(path: Path, records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def recipe_of(folder, tmp_path):
    def made(data="classes.jsonl", **changes):
        values = yaml.safe_load(Path("recipes/nano/finetune.yaml").read_text())
        values |= {
            "out": str(tmp_path / "out"),
            "model": str(folder / "bert"),
            "data": [str(folder / data)] if isinstance(data, str) else data,
        }
        values |= {"max_tokens": 32, "stride": 4, "learning_rate": 5e-3, "epochs": 2, "batch_size": 8}
        return recipes.validate(values | changes, "test")

    return made


def weights_of(out) -> bytes:
    return (Path(out) / "model/model.safetensors").read_bytes()


def main_of(results, name):
    return results["seeds"][0]["scores"][name]["value"]


def test_classes_are_learnt_above_their_floors_and_open_in_a_pipeline(recipe_of, folder):
    recipe = recipe_of(epochs=12, patience="none", test=str(folder / "classes.jsonl").replace("classes", "others"))
    records = [json.loads(line) for line in (folder / "classes.jsonl").read_text().splitlines()]
    records = [
        record | {"text": " ".join([*reversed((words := record["text"].split())[:-1]), words[-1]]), "paper": f"t{n}"}
        for n, record in enumerate(records)
    ]
    write(folder / "others.jsonl", [*records, {"text": "w1 w2", "label": "poem", "paper": "t99"}])
    results = module.finetune(recipe)
    seed = results["seeds"][0]
    assert (seed["scored_on"], seed["scores"]["accuracy"]["n"]) == ("test", 41)
    assert 0.9 < seed["scores"]["accuracy"]["value"] <= 40 / 41, "of a label that training has not nothing is right"
    assert seed["scores"]["macro_f1"]["value"] > 0.6 > results["floors"]["always heat"]["value"]
    assert seed["scores"]["f1 poem"]["value"] == 0
    assert set(results["floors"]) == {"always heat", "TF-IDF words"}
    assert results["examples"] == {"training": 32, "development": 8, "test": 41}
    report = (Path(recipe.out) / "report.md").read_text()
    assert "no training example has, counted as not found: poem (1)" in report
    assert "floor: always heat" in report
    assert "The model cannot be told from the floor TF-IDF words in macro_f1: +0.0" in report, "one error of 41 less"
    assert "**Never found** (F1 is 0), with the number of items that have them: poem (1)." in report
    assert "| f1 metal |" in report
    assert [line.split("|")[-2].strip() for line in report.splitlines() if line.startswith("| f1 poem")] == ["1"]
    ask = pipeline("text-classification", f"{recipe.out}/model")
    head = open_head(Path(recipe.out) / "model")
    assert [ask(text)[0]["label"] for text in ("copper of the", "hot in a")] == ["metal", "heat"]
    assert said(head, ["copper of the", "hot in a"], None, None).values == ["metal", "heat"]
    assert head.settings.labels == ("heat", "metal")
    assert read_json(Path(recipe.out) / "times.json")["queries"] == 30
    assert module.finetune(recipe) == results, "finished, and skips itself"
    assert not list(Path(recipe.out).rglob("best.safetensors"))


def test_several_labels_have_thresholds_of_their_own(recipe_of):
    recipe = recipe_of("several.jsonl", task="multilabel", epochs=8, class_weights="balanced", patience="none")
    results = module.finetune(recipe)
    assert main_of(results, "mean_ap") > results["floors"]["how often a label is"]["value"]
    thresholds = open_head(Path(recipe.out) / "model").settings.thresholds
    assert set(thresholds) == {"metal", "heat"}
    assert thresholds == results["seeds"][0]["thresholds"]
    told = pipeline("text-classification", f"{recipe.out}/model", top_k=None)(["tin of the"])[0]
    assert {one["label"] for one in told} == {"metal", "heat"}
    assert AutoModelForSequenceClassification.from_pretrained(f"{recipe.out}/model").config.problem_type == (
        "multi_label_classification"
    )


@pytest.mark.parametrize("kind", ["bert", "decoder", pytest.param("modernbert", marks=pytest.mark.slow)])
def test_entities_are_learnt_and_open_in_a_pipeline(recipe_of, folder, kind):
    recipe = recipe_of("entities.txt", task="ner", model=str(folder / kind), epochs=14, patience="none")
    results = module.finetune(recipe)
    assert main_of(results, "f1") > 0.9
    assert results["floors"]["dictionary of training entities"]["n"] == results["examples"]["development"]
    seed = results["seeds"][0]
    assert (seed["tags_that_begin_nothing"] <= 1, seed["words_without_token"]) == (True, 0)
    tagger = pipeline("token-classification", f"{recipe.out}/model", aggregation_strategy="first")
    (found,) = tagger("the of in tin whiskers grows")
    assert (found["entity_group"], found["start"], found["end"]) == ("M", 10, 22)
    assert open_head(Path(recipe.out) / "model").settings.labels == ("O", "B-M", "I-M")


def test_answers_are_learnt_and_none_where_there_is_none(recipe_of):
    recipe = recipe_of("questions.jsonl", task="qa", epochs=6, max_tokens=16)
    results = module.finetune(recipe)
    assert main_of(results, "f1") == 1.0
    assert results["floors"]["never an answer"]["value"] < 0.7
    assert {of["length"] for of in results["seeds"][0]["by_length"]} == {"1 window"}
    assert {"f1 has answer", "f1 no answer"} <= results["seeds"][0]["scores"].keys()
    AutoModelForQuestionAnswering.from_pretrained(f"{recipe.out}/model")
    head = open_head(Path(recipe.out) / "model")
    long = "the of a in " * 12
    values = said(head, ["who ?"] * 2, [f"{long} w3 {long}", long], None)
    assert values.num_windows[0] > 3
    assert [text for text, margin in values.values if margin >= -head.settings.no_answer] == ["w3"]


def test_pairs_are_scored_by_one_number(recipe_of):
    recipe = recipe_of("pairs.jsonl", task="pair", epochs=2)
    results = module.finetune(recipe)
    assert {"ap", "accuracy", "f1"} == results["seeds"][0]["scores"].keys()
    assert {"words that both have", "TF-IDF cosine"} <= results["floors"].keys()
    model = AutoModelForSequenceClassification.from_pretrained(f"{recipe.out}/model")
    assert model.config.num_labels == 1
    told = pipeline("text-classification", f"{recipe.out}/model")({"text": "what tin", "text_pair": "tin grows"})
    value = said(open_head(Path(recipe.out) / "model"), ["what tin"], ["tin grows"], None).values[0]
    told = told[0] if isinstance(told, list) else told
    assert told["score"] == pytest.approx(float(value), abs=1e-5)


def test_a_decoder_is_a_classifier_with_padding(recipe_of, folder):
    """Its tokenizer has no token for padding, and puts none around a text."""
    recipe = recipe_of(model=str(folder / "decoder"), epochs=8)
    assert main_of(module.finetune(recipe), "accuracy") == 1.0
    ask = pipeline("text-classification", f"{recipe.out}/model", batch_size=2)
    texts = ["copper of the", "hot"]
    assert [one["label"] for one in ask(texts)] == ["metal", "heat"]
    assert said(open_head(Path(recipe.out) / "model"), texts, None, None).values == ["metal", "heat"]


CHANGED = {
    "head": set(),
    "last_layers": {"encoder.layer.1"},
    "lora": {"encoder.layer.0", "encoder.layer.1"},
    "all": {"encoder.layer.0", "encoder.layer.1", "embeddings"},
}


@pytest.mark.parametrize("train", CHANGED)
def test_what_is_trained_is_what_the_recipe_says(recipe_of, folder, train):
    """The rest is bit for bit the base; LoRA is merged into ordinary weights, which answer as it did."""
    from safetensors.torch import load_file

    part = {"lora": {"lora": {"rank": 2, "alpha": 4}}, "last_layers": {"last_layers": 1}}.get(train, {})
    recipe = recipe_of(train=train, epochs=1, **part)
    results = module.finetune(recipe)
    base, tuned = load_file(folder / "bert/model.safetensors"), load_file(f"{recipe.out}/model/model.safetensors")
    assert not [name for name in tuned if "lora" in name or "base_layer" in name]
    changed = {name for name in base.keys() & tuned.keys() if not torch.equal(base[name], tuned[name])}
    assert {place for place in CHANGED["all"] if any(f"bert.{place}" in name for name in changed)} == CHANGED[train]
    assert {name for name in tuned if name not in base} == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias",
    }  # fmt: skip
    if train == "lora":
        matrices = {name for name in changed if "encoder" in name}
        assert len(matrices) == 12
        assert all(name.endswith(".weight") and base[name].ndim == 2 for name in matrices)
        assert results["trained_parameters"] == 2 * 2 * (4 * 64 + 2 * 96) + 32 * 33 + 33 * 2
    assert results["parameters"] >= results["trained_parameters"] > 0


def test_a_stopped_run_ends_bit_for_bit_as_one_that_was_not(recipe_of, folder, tmp_path, monkeypatch):
    """Stopped within a step, or killed without a word, while a search goes on; dropout is that of the step."""
    options = {"search": 2, "grid": {"learning_rate": [1e-3], "epochs": [3]}, "seeds": 2, "checkpoint_steps": 2}
    options["model"] = str(folder / "dropout")
    whole, halted = (recipe_of(out=str(tmp_path / name), **options) for name in ("whole", "halted"))
    results = module.finetune(whole)
    assert len(results["trials"]) == len(results["seeds"]) == 2
    counted, calls = module.add_gradients, []

    def stop(*values):
        calls.append(values)
        loss = counted(*values)
        if len(calls) in (4, 14, 24):
            raise interrupts.Stop(15) if len(calls) == 4 else KeyError("killed")
        return loss

    monkeypatch.setattr(module, "add_gradients", stop)
    for error in (interrupts.Stop, KeyError, KeyError):
        with pytest.raises(error):
            module.finetune(halted)
    assert module.finetune(halted) == results
    again = len(calls) - 3 - 4 * (2 + 3 + results["chosen"]["epochs"])
    assert 0 <= again <= 2, "steps since the last checkpoint, of those that were killed"
    assert weights_of(halted.out) == weights_of(whole.out)
    assert read_json(Path(halted.out) / "manifest.json")["results"] == results


def test_a_stop_in_an_evaluation_loses_no_epoch(recipe_of, tmp_path, monkeypatch):
    whole, halted = (recipe_of(out=str(tmp_path / name)) for name in ("whole", "halted"))
    results, evaluate, calls = module.finetune(whole), module.develop, []

    def stop(*values):
        calls.append(values)
        if len(calls) == 1:
            raise interrupts.Stop(15)
        return evaluate(*values)

    monkeypatch.setattr(module, "develop", stop)
    with pytest.raises(interrupts.Stop):
        module.finetune(halted)
    assert module.finetune(halted) == results
    assert weights_of(halted.out) == weights_of(whole.out)


def long_texts(path: Path) -> Path:
    """Of 24 texts every third is of 3 windows of 14 tokens of which 2 are shared; a quarter has the label a."""
    words = [f"{'lead' if n % 4 else 'tin'} w{n % 20} " * (16 if n % 3 == 0 else 1) for n in range(24)]
    records = [{"text": f"{of}w{n // 20}", "label": "ab"[n % 4 > 0]} for n, of in enumerate(words)]
    return write(path, records)


def test_windows_at_a_time_change_rounding_alone(recipe_of, tmp_path):
    losses = []
    data = [str(long_texts(tmp_path / "long.jsonl"))]
    for rows in (1, 8):
        execution = {"micro_batch_rows": rows, "device": "cpu"}
        options = {"out": str(tmp_path / str(rows)), "max_tokens": 16, "stride": 2, "class_weights": "balanced"}
        recipe = recipe_of(data=data, epochs=1, execution=execution, **options)
        losses.append(module.finetune(recipe)["seeds"][0]["history"][0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_long_text_weighs_as_much_as_a_short_one_and_a_rare_class_as_a_common_one(recipe_of, tmp_path):
    options = {"data": [str(long_texts(tmp_path / "long.jsonl"))], "max_tokens": 16, "stride": 2}
    for weights in ("none", "balanced"):
        recipe = recipe_of(class_weights=weights, **options)
        data = finetune_inputs.read_data(recipe)
        targets = finetune_loss.Targets.of(recipe, data, finetune_model.open_to_train(recipe, data, 0).head)
        of_text = [sum(targets.weights[place] for place in places) for places in targets.places]
        assert {len(places) for places in targets.places} == {1, 3}
        of_label = {label: [w for w, one in zip(of_text, data.train.items, strict=True) if one.labels == (label,)]
                    for label in "ab"}  # fmt: skip
        if weights == "none":
            assert of_text == pytest.approx([1.0] * len(of_text))
        else:
            assert sum(of_label["a"]) == pytest.approx(sum(of_label["b"])) == pytest.approx(len(of_text) / 2)
    logits = torch.randn(4, 2, generator=torch.manual_seed(0))
    output, places = type("Output", (), {"logits": logits}), [0, 1, 2, 3]
    loss = finetune_loss.loss_of("classification", output, targets, places)
    each = -torch.log_softmax(logits, 1)[range(4), [targets.values[place] for place in places]]
    assert float(loss) == pytest.approx(float((each * torch.tensor(targets.weights[:4])).sum()), rel=1e-6)


def test_patience_ends_a_training_and_the_best_epoch_is_kept(recipe_of, monkeypatch):
    found = iter([0.2, 0.9, 0.5, 0.9, 0.1])
    monkeypatch.setattr(module, "develop", lambda *values: type("Developed", (), {"main": next(found)}))
    kept = []
    monkeypatch.setattr(module, "keep_best", lambda folder, model: kept.append(1))
    recipe = recipe_of(epochs=9, patience=2)
    data = finetune_inputs.read_data(recipe)
    how = module.choose_execution(recipe, finetune_model.open_to_train(recipe, data, 0).sizes, Card())
    outcome = module.train_trial(recipe, data, how, module.Trial(1e-3, 9, 0))
    assert (outcome["epoch"], outcome["best"], len(outcome["history"]), len(kept)) == (2, 0.9, 4, 2)
    assert module.is_over([], 1) is module.is_over([{"development": 1.0}] * 9, None) is False


def test_the_development_split_never_parts_a_paper_or_a_text():
    alone = [("", str(n)) for n in range(20)]
    placed = [
        finetune_inputs.Placed(n, str(n), paper, text, False)
        for n, (paper, text) in enumerate([*zip("aab", "xyy", strict=True), ("", "z"), ("", "z"), *alone])
    ]
    sizes = set()
    for seed in range(20):
        train, held = finetune_inputs.split_off([placed], "ner", 0.2, seed)
        sides = [one in held for one in placed]
        assert sides[0] == sides[1] == sides[2]
        assert sides[3] == sides[4]
        assert len(train) + len(held) == 25
        sizes.add(len(held))
        assert finetune_inputs.split_off([placed], "ner", 0.2, seed) == (train, held)
    assert sizes <= {5, 6, 7}
    with raises("finetune-no-split", "0.2"):
        finetune_inputs.split_off([placed[:3]], "ner", 0.2, 0)


def test_sentences_of_no_stated_paper_are_split_by_blocks_of_their_file(recipe_of, tmp_path):
    """Neighbours are of one paper mostly: two development sentences at most have one in training. One that stands
    twice is on one side, wherever it stands."""
    files = {
        name: write_tags(tmp_path / name, [f"{name} {'again' if n % 50 == 7 else n}" for n in range(100)])
        for name in "ab"
    }
    starts = set()
    for seed in range(10):
        recipe = recipe_of(task="ner", data=list(files.values()), development_share=0.1, seed=seed)
        data = finetune_inputs.read_data(recipe)
        assert [note for note in data.notes if "no paper" in note] == [
            f"{path}: no paper is stated: split by blocks of the file" for path in files.values()
        ]
        for path in files.values():
            lines = [int(name.rpartition(":")[2]) for name in data.development.names if name.startswith(path)]
            block = [line for line in lines if line % 50 != 7]
            assert (len(block) in (9, 10), block[-1] - block[0] < 10) == (True, True)
            assert {7, 57} & set(lines) in (set(), {7, 57})
            starts.add(block[0])
        assert len(data.train) + len(data.development) == 200
    assert len(starts) > 5
    stated = recipe_of("classes.jsonl")
    assert not [note for note in finetune_inputs.read_data(stated).notes if "no paper" in note]
    texts = finetune_inputs.read_data(recipe_of("several.jsonl", task="multilabel"))
    assert [note.rpartition(": ")[2] for note in texts.notes if "no paper" in note] == ["split text by text"]


def test_sentences_of_stated_papers_are_split_by_paper_beside_others(recipe_of, tmp_path):
    papers = "\n\n".join(f"-DOCSTART- O\n\nw{n} O\n\ntin B-M\nw{n} O" for n in range(10))
    (tmp_path / "stated").write_text(papers + "\n")
    bare = write_tags(tmp_path / "bare", [f"ice w{n}" for n in range(20)])
    data = finetune_inputs.read_data(
        recipe_of(task="ner", data=[str(tmp_path / "stated"), bare], development_share=0.1)
    )
    assert [len([n for n in data.development.names if f"{path}:" in n]) for path in ("stated", "bare")] == [2, 2]
    assert len([note for note in data.notes if "no paper" in note]) == 1
    with raises("finetune-no-split", "0.5"):
        finetune_inputs.split_off([finetune_inputs.placed_in("ner", read_items("ner", Path(bare)))[:1]], "ner", 0.5, 0)


def write_tags(path: Path, sentences) -> str:
    """Sentences whose first word is an entity, without papers."""
    texts = ["\n".join(f"{word}\t{'O' if n else 'B-M'}" for n, word in enumerate(one.split())) for one in sentences]
    path.write_text("\n\n".join(texts) + "\n")
    return str(path)


def test_a_label_that_no_item_has_has_no_score():
    figures = classes.single_figures(["a", "b"], ["a", "b"], ["a", "b", "c"])
    found = finetune_scores.with_intervals(figures, 0)
    assert (found["f1 c"], found["f1 a"]["value"]) == ({"value": None, "low": None, "high": None, "n": 2}, 1.0)
    assert finetune_report._row("f1 c", found["f1 c"]) == ("f1 c", "-", "-", "2")
    assert finetune_report.in_order({"f1 c": 1, "accuracy": 1, "f1 a": 1, "macro_f1": 1}, "macro_f1") == [
        "macro_f1", "accuracy", "f1 a", "f1 c",
    ]  # fmt: skip


def test_a_model_below_its_floor_is_told_in_its_report(recipe_of, monkeypatch):
    """It says the other one of two labels of every text but two."""

    def wrong(head, split):
        labels = [one.labels[0] for one in split.items]
        told = ["metal" if label == "heat" else "heat" for label in labels[2:]]
        return Said(labels[:2] + told, [1] * len(labels))

    monkeypatch.setattr(finetune_scores, "answer", wrong)
    recipe = recipe_of(epochs=1, development_share=0.4)
    results = module.finetune(recipe)
    of = results["seeds"][0]["beside_floor"]
    best = max(results["floors"], key=lambda rule: results["floors"][rule]["value"])
    assert of["floor"] == best
    assert of["value"] == pytest.approx(main_of(results, "macro_f1") - results["floors"][best]["value"])
    assert of["p"] < 0.05
    assert (
        f"\n\n**The model is below the floor {best}** in macro_f1: {of['value']:+.3f} ["
        in (Path(recipe.out) / "report.md").read_text()
    )


def test_labels_that_are_never_found_are_named_where_items_have_them():
    of = {"f1 a": {"value": 0.0}, "f1 b": {"value": 0.5}, "f1 c": {"value": 0.0}, "f1 d": {"value": None}}
    saved = {"scores": {"f1": {"value": 0.0}, **of}, "with_label": {"a": 1200, "b": 3}}
    assert finetune_report.labels_not_found(saved).endswith("items that have them: a (1,200).")
    assert finetune_report.labels_not_found(saved | {"with_label": {"b": 3}}) == ""


def test_the_rate_rises_and_falls():
    assert [round(module.rate_factor(done, 10, 0.2), 3) for done in range(10)] == [
        0.333, 0.667, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125,
    ]  # fmt: skip


def test_classes_are_balanced_and_answers_are_placed_as_by_hand():
    from collections import Counter

    assert finetune_loss.balance(Counter({0: 6, 1: 2}), 2, True) == {0: pytest.approx(8 / 12), 1: 2.0}
    assert finetune_loss.balance(Counter({0: 6, 1: 2}), 2, False) == {0: 1.0, 1: 1.0}
    window = Window(0, [2, 5, 3, 6, 7, 8, 3], None, [None, None, None, (10, 13), (14, 16), (16, 20), None])
    asked = {(14, 20): (4, 5), (15, 17): (4, 5), (8, 13): None, (18, 25): None, (0, 9): (0, 0), (10, 13): (3, 3)}
    assert {span: finetune_loss.answer_tokens(window, span) for span in asked} == asked
    assert finetune_loss.answer_tokens(window, None) == (0, 0)


def test_windows_at_a_time_follow_from_the_cards_memory(recipe_of):
    recipe = recipe_of(max_tokens=66, batch_size=2)
    sizes = finetune_model.Sizes(125_000_000, 125_000_000, 12, 768, 3072)

    def rows(recipe, gib):
        return module.choose_execution(recipe, sizes, Card("cuda", int(gib * GIB), "a card", int(gib * GIB)))

    assert [rows(recipe, gib).micro_batch_rows for gib in (80, 10, 1)] == [496, 62, 1]
    need = module.need_bytes(recipe, sizes, 496)
    card = Card("cuda", 80 * GIB, "a card", 80 * GIB)
    choose = partial(module.choose_execution, sizes=sizes, card=card)
    with (
        pytest.raises(OutOfMemoryError) as caught,
        Fallback(recipe, choose(recipe), need, card, choose).where_it_runs_out(True),
    ):
        raise RuntimeError("CUDA out of memory")
    assert choose(caught.value.leaner).micro_batch_rows == 248


def test_a_search_draws_from_its_grid(recipe_of, monkeypatch):
    recipe = recipe_of(search=12)
    tried = []
    best = {(5e-3, 2): 0.5}

    def train(trial):
        tried.append((trial.learning_rate, trial.epochs))
        return {"best": best.get(tried[-1], 0.4 + 0.3 * (len(tried) == 7))}

    outcomes, chosen = module.search(recipe, train)
    assert len(set(tried)) == len(outcomes) == 12
    assert tried[0] == (5e-3, 2), "the recipe's own"
    assert set(tried[1:]) <= set(recipe.grid.pairs())
    assert (chosen.learning_rate, chosen.epochs) == tried[6]
    assert module.search(recipe_of(), train)[0] == []
    with raises("finetune-search-large", "22", "21"):
        recipe_of(search=22)


def test_what_cannot_be_trained_is_named(recipe_of, folder, tmp_path):
    def refused(code, *quoted, records=None, **changes):
        if records is not None:
            changes["data"] = [str(write(tmp_path / "own.jsonl", records))]
        with raises(code, *quoted):
            module.finetune(recipe_of(**changes))

    one = {"text": "tin", "label": "metal"}
    refused("finetune-labels-few", "metal", records=[one | {"text": word} for word in WORDS])
    refused("example-unfit", "line 2", records=[one, {"text": " ", "label": "metal"}])
    refused("example-unfit", "label", records=[{"text": "tin"}])
    refused("finetune-batch-large", 41, batch_size=41)
    refused("head-labels-form", "label", task="multilabel")
    refused("finetune-papers-shared", "p0", development=str(folder / "classes.jsonl"))
    texts = [json.loads(line)["text"] for line in (folder / "classes.jsonl").read_text().splitlines()]
    copy = write(tmp_path / "copy.jsonl", [{"text": text, "label": "heat"} for text in texts])
    refused("finetune-files-same", "test", test=str(copy))
    refused("finetune-trained-part", "lora", train="lora")
    refused("finetune-trained-part", "last_layers", last_layers=2)
    refused("finetune-layers-few", 3, train="last_layers", last_layers=3)
    refused("finetune-stride-long", 16, stride=16)
    refused("finetune-positions-few", 66, max_tokens=67)
    few = save_encoder(tmp_path / "few", vocab_size=len(VOCAB) - 1)
    refused("model-vocabulary-differs", len(VOCAB) - 1, model=str(few))
    refused("finetune-weights-without-classes", data="questions.jsonl", task="qa", class_weights="balanced")
    refused("finetune-qa-causal", "qwen3", data="questions.jsonl", task="qa", model=str(folder / "decoder"))
    refused("finetune-pair-unparted", data="pairs.jsonl", task="pair", model=str(folder / "decoder"))
    none = [{"question": "who ?", "context": f"tin {word}", "answers": []} for word in WORDS]
    refused("finetune-no-answers", task="qa", records=none)
    refused(
        "example-unfit", "span", task="ner", records=[{"text": "tin", "spans": [{"start": 0, "end": 9, "label": "M"}]}]
    )
    pairs = [{"text": word, "text_pair": "tin", "label": 1} for word in WORDS]
    refused("pairs-one-label", task="pair", records=pairs)
    several = [{"text": word, "labels": ["a"] if n == 0 else []} for n, word in enumerate(WORDS)]
    refused("finetune-none-labelled", task="multilabel", records=several)


def test_a_tokenizer_linked_from_elsewhere_is_refused_before_the_work(recipe_of, folder, tmp_path):
    base = shutil.copytree(folder / "bert", tmp_path / "bert")
    (base / "tokenizer.json").rename(tmp_path / "private.json")
    (base / "tokenizer.json").symlink_to(tmp_path / "private.json")
    with raises("model-link-outside", base / "tokenizer.json"):
        module.finetune(recipe_of(model=str(base)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model", "trials"])
def test_a_model_or_trials_of_others_are_not_taken_for_its_own(recipe_of, folder, tmp_path, name):
    shutil.copytree(folder / "bert", tmp_path / "out" / name)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with raises("out-not-empty", tmp_path / "out", name):
        module.finetune(recipe_of())
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_models_without_known_layers_are_named(recipe_of):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=20, n_embd=8, n_layer=2, n_head=2))
    with raises("finetune-lora-nowhere", "gpt2"):
        finetune_model._add_lora(recipe_of(train="lora", lora={"rank": 2, "alpha": 4}), model, 0)
    assert len(finetune_model.layers_of(model)) == 2
    model.config.n_layer = 3
    with raises("finetune-layers-unknown", "3"):
        finetune_model.layers_of(model)


def test_answers_that_stand_nowhere_are_not_taught_as_none(recipe_of, tmp_path):
    records = [{"question": "who ?", "context": f"tin {word}", "answers": ["tin"], "id": word} for word in WORDS]
    records[3]["answers"] = ["iron"]
    recipe = recipe_of(task="qa", data=[str(write(tmp_path / "q.jsonl", records))])
    data = finetune_inputs.read_data(recipe)
    held = sum(one.id == WORDS[3] for one in data.development.items)
    assert sum(data.counts.values()) == len(WORDS) - (1 - held)
    assert held or any("not trained on" in note for note in data.notes)


def test_answers_that_are_too_long_to_give_are_counted_in_every_split(recipe_of, tmp_path):
    """`in of` are two tokens: exact match is lost with them, and of their F1 a third."""
    files = {}
    for name, answers in {"train": ["tin", "in of", "in of"], "dev": ["tin", "in of"], "test": ["tin", "tin"]}.items():
        records = [
            {"question": "who ?", "context": f"{name} tin in of w{n}", "answers": [text], "id": f"{name}{n}"}
            for n, text in enumerate(answers)
        ]
        files[name] = str(write(tmp_path / f"{name}.jsonl", records))
    data = {"data": [files["train"]], "development": files["dev"], "test": files["test"]}
    for length, expected in ((1, {"training": 2, "development": 1}), (2, {})):
        recipe = recipe_of(
            task="qa", epochs=1, batch_size=3, max_answer_tokens=length, out=str(tmp_path / str(length)), **data
        )
        module.finetune(recipe)
        told = [
            line for line in (Path(recipe.out) / "report.md").read_text().splitlines() if "max_answer_tokens" in line
        ]
        assert [line.split(" questions")[0].split(": ") for line in told] == [
            [f"  {k}", str(v)] for k, v in expected.items()
        ]
        assert [line.rpartition(": ")[2] for line in told[1:]] == ["exact match is 0.500 at most, F1 0.833"][
            : len(told)
        ]


def test_a_loss_that_is_not_finite_stops_the_run(recipe_of, monkeypatch):
    monkeypatch.setattr(module, "add_gradients", lambda *values: float("nan"))
    with raises("finetune-loss-not-finite", "step 1", "classes.jsonl"):
        module.finetune(recipe_of())
