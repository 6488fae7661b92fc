"""Encoders trained on masked tokens: what is masked, what a table would tell, learning, resuming, the result."""

import math
import shutil
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import RobertaConfig

from nsllm_lite.artifact import integrity, interrupts
from nsllm_lite.artifact.disk import GIB
from nsllm_lite.artifact.json_files import read_json, read_lines
from nsllm_lite.formats.documents import Document, parquet_writer, table_of
from nsllm_lite.formats.rows import Row, Rows, RowTotals, write_rows
from nsllm_lite.formats.tokenizer import load_tokenizer
from nsllm_lite.kernels.linear_cross_entropy import IGNORE
from nsllm_lite.models.device import Card
from nsllm_lite.recipe import load as recipes
from nsllm_lite.train import encoders, masked_scores, mlm, token_tables
from nsllm_lite.train.fallback import Fallback, OutOfMemoryError
from nsllm_lite.train.keywords import Keywords
from nsllm_lite.train.masking import HELD_OUT, Masking
from nsllm_lite.train.token_tables import BACKOFF, TokenTables
from tests.raising import raises
from tests.train.conftest import FIRST, NUM, ROW_TOKENS, VOCAB, few_steps, row_of

SHAPE = {"hidden_size": 48, "intermediate_size": 96, "num_layers": 2, "num_heads": 4, "max_positions": 64}


@pytest.fixture
def recipe_of(encoder_rows, tmp_path):
    def made(**changes):
        values = yaml.safe_load(Path("recipes/nano/mlm.yaml").read_text())
        values |= few_steps(encoder_rows, tmp_path / "out", changes.pop("steps", 6))
        build = {"tokenizer": str(encoder_rows / "tokenizer"), "architecture": "roberta", **SHAPE}
        values["build"] = build | changes.pop("build", {})
        return recipes.validate(values | changes, "test")

    return made


def weights_of(out) -> bytes:
    return (Path(out) / "model/model.safetensors").read_bytes()


def masking(share=0.3, seed=0) -> Masking:
    ordinary = np.ones(VOCAB, bool)
    ordinary[:5] = False
    return Masking(share, 4, ordinary, seed)


def test_masks_are_eight_one_one_and_never_special():
    rng = np.random.default_rng(0)
    rows = [row_of(rng, str(n)) for n in range(200)]
    before = np.concatenate([row.input_ids for row in rows])
    ids, targets = masking().of_rows(rows, step=3)
    told = targets != IGNORE
    assert not told[before < 5].any()
    assert (targets[told] == before[told]).all()
    assert (ids[~told] == before[~told]).all()
    assert told[before >= 5].mean() == pytest.approx(0.3, abs=0.01)
    hidden, same = ids[told] == 4, ids[told] == before[told]
    assert hidden.mean() == pytest.approx(0.8, abs=0.02)
    assert same.mean() == pytest.approx(0.1, abs=0.02)
    others = ids[told][~hidden & ~same]
    assert others.min() >= 5
    assert len(np.unique(others)) > 50, "of the whole vocabulary"


def test_of_held_out_rows_every_token_that_is_to_be_told_is_hidden():
    """Else a rule that copies what it sees is better than both floors."""
    rng = np.random.default_rng(0)
    rows = [row_of(rng, str(n)) for n in range(50)]
    ids, targets = masking().of_rows(rows, HELD_OUT)
    told = targets != IGNORE
    assert told.sum() > 300
    assert (ids[told] == 4).all()
    assert (ids[~told] == np.concatenate([row.input_ids for row in rows])[~told]).all()


def test_held_out_masks_are_the_same_whatever_the_recipes_seed_and_share():
    """Else figures of two runs are of different tokens."""
    rng = np.random.default_rng(0)
    rows = [row_of(rng, str(n)) for n in range(200)]
    ids, targets = masking().of_rows(rows, HELD_OUT)
    for other in (masking(share=0.6), masking(seed=1)):
        assert all((one == two).all() for one, two in zip(other.of_rows(rows, HELD_OUT), (ids, targets), strict=True))
    may_be = np.concatenate([row.input_ids for row in rows]) >= 5
    assert (targets != IGNORE)[may_be].mean() == pytest.approx(0.15, abs=0.01)


def test_masks_follow_from_seed_step_and_place_alone():
    rng = np.random.default_rng(0)
    rows = [row_of(rng, str(n)) for n in range(4)]
    whole = masking().of_rows(rows, step=3)
    halves = [masking().of_rows(rows[:2], 3), masking().of_rows(rows[2:], 3, first=2)]
    for n in range(2):
        assert (np.concatenate([half[n] for half in halves]) == whole[n]).all()
    others = (masking(seed=1).of_rows(rows, 3), masking().of_rows(rows, 4), masking().of_rows(rows, HELD_OUT))
    assert all((other[1] != whole[1]).any() for other in others)


def documents_of(folder, **keywords) -> Path:
    """The folder `documents` of a corpus with these papers."""
    table = table_of([Document(name, "s", "o", keywords=stated) for name, stated in keywords.items()])
    folder.mkdir()
    with parquet_writer(folder / "00000-000.parquet") as writer:
        writer.write_table(table)
    integrity.record(folder, ["00000-000.parquet"])
    return folder


def test_keywords_are_found_in_their_own_paper(encoder_rows, tmp_path):
    tokenizer = load_tokenizer(encoder_rows / "tokenizer")
    texts = ["Compressive stress makes tin whiskers grow", "no Stress, no tin"]
    parts = [tokenizer.encode(text).ids for text in texts]
    ids = np.concatenate(parts).astype(np.int32)
    row = Row(ids, [len(part) for part in parts], ["a", "b"], ["s"] * 2, [1] * 2)
    keywords = Keywords(
        documents_of(tmp_path / "d", a=("tin whiskers", "compressive stress"), b=("STRESS", "lead")), tokenizer
    )
    found = keywords.places(row)

    def words(place):
        inside = found[sum(map(len, parts[:place])) :][: len(parts[place])]
        return tokenizer.decode([token for token, is_one in zip(parts[place], inside, strict=True) if is_one])

    assert words(0) == "Compressive stress tin whiskers"
    assert words(1) == ""  # "STRESS" is not how it is written there, and "tin" is the other paper's
    with raises("mlm-no-keywords", tmp_path / "none"):
        Keywords(documents_of(tmp_path / "none", a=()), tokenizer)
    with raises("mlm-no-documents", tmp_path / "nowhere"):
        Keywords(tmp_path / "nowhere", tokenizer)


def test_a_share_of_the_masks_falls_on_keywords():
    rng = np.random.default_rng(0)
    rows = [row_of(rng, str(n)) for n in range(300)]
    inside = np.arange(ROW_TOKENS) % 10 == 5  # a tenth of the tokens
    ordinary = masking().ordinary
    weighted = Masking(0.15, 4, ordinary, 0, keyword_share=0.4, keywords=lambda row: inside)
    told = weighted.of_rows(rows, 3)[1] != IGNORE
    may_be = ordinary[np.concatenate([row.input_ids for row in rows])]
    at_keyword = np.tile(inside, len(rows))
    assert told[may_be].mean() == pytest.approx(0.15, abs=0.005)
    assert at_keyword[told].mean() == pytest.approx(0.4, abs=0.02)
    assert (weighted.of_rows(rows, HELD_OUT)[1] == masking(0.15).of_rows(rows, HELD_OUT)[1]).all()
    nearly_all = (
        Masking(0.15, 4, ordinary, 0, keyword_share=1.0, keywords=lambda row: inside).of_rows(rows, 3)[1] != IGNORE
    )
    assert nearly_all[may_be & at_keyword].all(), "a tenth is less than the budget"
    assert nearly_all[may_be].mean() == pytest.approx(0.15, abs=0.005)
    none = Masking(0.15, 4, ordinary, 0, keyword_share=0.4, keywords=lambda row: inside & False)
    assert none.of_rows(rows, 3)[1].tolist() == masking(0.15).of_rows(rows, 3)[1].tolist()


def test_keywords_are_read_from_documents(recipe_of, tmp_path, capsys):
    documents = documents_of(tmp_path / "documents", **{"train-0-0": ("tin",)})
    mlm.mlm(recipe_of(keyword_share=0.5, documents=str(documents), steps=2))
    assert "Keywords: 1 papers" in capsys.readouterr().out
    with raises("mlm-keywords-and-documents", "0.5"):
        recipe_of(keyword_share=0.5)


def test_tables_are_counted_as_by_hand():
    ordinary = np.array([False, True, True, True])
    tables = TokenTables([np.array([0, 1, 2, 1, 2, 1, 3])], ordinary, np.array([1, 3]))
    assert tables.words(1) == (pytest.approx(-math.log(4 / 9)), True)  # 3, 2 and 1 of them, and one each
    assert tables.words(3) == (pytest.approx(-math.log(2 / 9)), False)
    share = (2 + BACKOFF * 3 / 9) / (3 + BACKOFF)  # behind 1: 2, 2 and 3
    assert tables.word_before(1, 2) == (pytest.approx(-math.log(share)), True)
    assert tables.word_before(None, 2) == tables.words(2) == tables.word_before(3, 2)


def test_tables_are_the_same_however_often_pairs_are_added_up(monkeypatch):
    """And, of the tokens before, as one counts in Python."""
    rows = [np.random.default_rng(n).integers(0, 9, 50) for n in range(20)]
    ordinary = np.arange(9) > 1
    whole = TokenTables(rows, ordinary, np.arange(0, 9, 2))
    monkeypatch.setattr(token_tables, "AT_ONCE", 70)
    parts = TokenTables(rows, ordinary, np.arange(0, 9, 2))
    pairs = Counter(pair for ids in rows for pair in pairwise(ids.tolist()) if ordinary[pair[1]])
    for left in range(9):
        behind = sum(count for (other, _), count in pairs.items() if other == left)
        likeliest = min((-count, right) for (other, right), count in pairs.items() if other == left)[1]
        for right in range(2, 9):
            share = (pairs[left, right] + BACKOFF * math.exp(-whole.words(right)[0])) / (behind + BACKOFF)
            wanted = whole.words(right) if left % 2 else (pytest.approx(-math.log(share)), right == likeliest)
            assert whole.word_before(left, right) == wanted
            assert parts.word_before(left, right) == whole.word_before(left, right)


def test_floors_are_of_rows_from_the_whole_set(tmp_path, monkeypatch):
    """Here one source stands behind the other, each with a token of its own, and two rows of eight are counted."""
    rows = [Row(np.array([0, token, token, 2], np.int32), [4], [f"{n}"], ["s"], [9])
            for n, token in enumerate([7] * 4 + [8] * 4)]  # fmt: skip
    write_rows(tmp_path / "rows", rows, RowTotals(4, 2, "hash"))
    monkeypatch.setattr(masked_scores, "TABLE_TOKENS", 8)
    held_out = [row for row in rows for _ in range(9)]
    found = masked_scores.floors(Rows(tmp_path / "rows"), held_out, masking())
    assert found["words"]["loss"] == pytest.approx(-math.log(3 / (4 + VOCAB - 5)))  # two of each, and one each
    monkeypatch.setattr(masked_scores, "TABLE_TOKENS", 100)
    all_rows = masked_scores.floors(Rows(tmp_path / "rows"), held_out, masking())
    assert all_rows["words"]["loss"] == pytest.approx(-math.log(9 / (16 + VOCAB - 5)))


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_each_architecture_trains_and_opens_in_transformers(recipe_of, architecture):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    local = {"local_attention": 16} if architecture == "modernbert" else {}
    recipe = recipe_of(build={"architecture": architecture, **local}, steps=3)
    results = mlm.mlm(recipe)
    assert results["first_loss"] == pytest.approx(math.log(VOCAB), abs=0.5)
    model = AutoModelForMaskedLM.from_pretrained(f"{recipe.out}/model")
    tokenizer = AutoTokenizer.from_pretrained(f"{recipe.out}/model")
    assert model.config.model_type == architecture
    assert sum(p.numel() for p in model.parameters()) == results["parameters"]
    logits = model(**tokenizer("tin <mask> grow", return_tensors="pt")).logits
    assert logits.shape[-1] == VOCAB
    assert mlm.mlm(recipe) is not None  # finished


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_built_model_is_trained_without_dropout_and_saved_with_it(recipe_of, architecture, monkeypatch, capsys):
    """Else it alone would be fine-tuned without dropout."""
    seen = []
    add_gradients = mlm.add_gradients

    def see(lm, *args):
        assert lm.training
        seen.append(max(module.p for module in lm.modules() if isinstance(module, torch.nn.Dropout)))
        return add_gradients(lm, *args)

    monkeypatch.setattr(mlm, "add_gradients", see)
    recipe = recipe_of(build={"architecture": architecture}, steps=2)
    mlm.mlm(recipe)
    assert seen == [0.0, 0.0]
    config = read_json(Path(recipe.out) / "model/config.json")
    assert (config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]) == (0.1, 0.1)
    assert "built from nothing is trained without dropout; its config states 0.1" in capsys.readouterr().out
    values = recipe.model_dump(mode="json") | {"build": None, "model": f"{recipe.out}/model", "out": f"{recipe.out}2"}
    mlm.mlm(recipes.validate(values, "test"))
    assert seen[2:] == [0.1, 0.1]
    assert "Attention's own dropout of 0.1" in capsys.readouterr().out


def test_what_the_whole_text_tells_is_learnt_and_tables_cannot(recipe_of, tmp_path, capsys):
    """Every third token is the topic of its text, one of 12, the others are drawn at random of 12 more."""
    for split, count, seed in (("train", 96, 1), ("heldout", 24, 2)):
        rng, rows = np.random.default_rng(seed), []
        for n in range(count):
            row = row_of(rng, f"{split}-{n}")
            for first, topic in zip((1, 33), rng.integers(FIRST + NUM, FIRST + 2 * NUM, 2), strict=True):
                row.input_ids[first : first + 30] = rng.integers(FIRST, FIRST + NUM, 30)
                row.input_ids[first : first + 30 : 3] = topic
            rows.append(row)
        write_rows(tmp_path / split, rows, RowTotals(ROW_TOKENS, 2, "hash"))
    optimizer = {"name": "adamw", "learning_rate": 3e-3, "betas": [0.9, 0.98], "weight_decay": 0.0, "max_grad_norm": 1}
    evaluation = {"domain_rows": str(tmp_path / "heldout"), "every_steps": 100, "max_rows": 24}
    changes = {"rows": str(tmp_path / "train"), "evaluation": evaluation, "checkpoint_steps": 100}
    results = mlm.mlm(recipe_of(steps=100, optimizer=optimizer, mask_share=0.15, **changes))
    after, tables = results["heldout"]["after"]["masked"], results["floors"]
    assert tables["words"]["loss"] == pytest.approx(math.log(18) * 2 / 3 + math.log(36) / 3, abs=0.1)
    assert after["all"]["loss"] < min(of["loss"] for of in tables.values()) - 0.4
    assert after["all"]["top1"] > max(of["top1"] for of in tables.values()) + 0.1
    assert sum(after[source]["tokens"] for source in "ab") == after["all"]["tokens"] > 100
    printed = capsys.readouterr().out
    assert all(f"\n  floor, {name}: loss {of['loss']:.4f}" in printed for name, of in tables.items())


def test_a_stopped_run_ends_bit_for_bit_as_one_that_was_not(recipe_of, tmp_path, monkeypatch):
    whole = recipe_of(out=str(tmp_path / "whole"))
    mlm.mlm(whole)
    halted = recipe_of(out=str(tmp_path / "halted"))
    counted = mlm.add_gradients

    def stop(lm, rows, of, step, how, dtype):
        if step == 3:
            raise interrupts.Stop(15)
        return counted(lm, rows, of, step, how, dtype)

    monkeypatch.setattr(mlm, "add_gradients", stop)
    with pytest.raises(interrupts.Stop):
        mlm.mlm(halted)
    monkeypatch.setattr(mlm, "add_gradients", counted)
    mlm.mlm(halted)
    assert weights_of(halted.out) == weights_of(whole.out)
    assert (Path(halted.out) / "metrics.jsonl").read_bytes() == (Path(whole.out) / "metrics.jsonl").read_bytes()


def test_micro_batches_change_rounding_alone(recipe_of, tmp_path):
    """And a model trained on goes on from its folder."""
    losses = []
    for rows in (1, 8):
        recipe = recipe_of(out=str(tmp_path / str(rows)), execution={"micro_batch_rows": rows, "device": "cpu"})
        mlm.mlm(recipe)
        losses.append([line["loss"] for line in read_lines(Path(recipe.out) / "metrics.jsonl") if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    values = recipe_of(out=str(tmp_path / "more"), steps=2).model_dump(mode="json") | {
        "build": None, "model": str(tmp_path / "8/model"),
    }  # fmt: skip
    results = mlm.mlm(recipes.validate(values, "test"))
    last = read_json(tmp_path / "8/manifest.json")["results"]["heldout"]["after"]
    assert results["heldout"]["before"] == last


def test_rows_at_a_time_follow_from_the_cards_memory(recipe_of):
    """And are fewer once it has run out of it."""
    config = RobertaConfig(vocab_size=50_000, hidden_size=768, num_hidden_layers=12, intermediate_size=3072)
    recipe = recipe_of(budget={"steps": 2, "tokens_per_step": 16 * 512, "tokens": 32 * 512}, steps=2)
    need_of = partial(mlm.need_bytes, recipe, config, 125_000_000)

    def rows(recipe, gib):
        card = Card("cuda", int(gib * GIB), "a card", int(gib * GIB), (8, 0))
        return encoders.choose_execution(recipe, need_of, 512, card).micro_batch_rows

    assert [rows(recipe, gib) for gib in (80, 12, 1)] == [16, rows(recipe, 12), 1]
    assert 1 < rows(recipe, 12) < 16
    need = need_of(16 * 512)
    card = Card("cuda", 80 * GIB, "a card", 80 * GIB, (8, 0))
    choose = partial(encoders.choose_execution, need=need_of, row_tokens=512, card=card)
    with (
        pytest.raises(OutOfMemoryError) as caught,
        Fallback(recipe, choose(recipe), need, card, choose).where_it_runs_out(True),
    ):
        raise RuntimeError("CUDA out of memory")
    assert choose(caught.value.leaner).micro_batch_rows == 8


def test_what_cannot_be_trained_is_named(recipe_of, encoder_rows, pico, tmp_path):
    from transformers import BertConfig, BertForMaskedLM, BertModel

    with raises("encoder-local-attention"):
        recipe_of(build={"architecture": "modernbert"})
    with raises("encoder-heads-uneven"):
        recipe_of(build={"num_heads": 5})
    with raises("mlm-positions-few", "32", "64"):
        mlm.mlm(recipe_of(build={"max_positions": 32}))
    with raises("train-tokens-per-step"):
        mlm.mlm(recipe_of(budget={"steps": 2, "tokens_per_step": 100, "tokens": 200}))
    with raises("tokenizer-not-loaded", "nowhere"):
        mlm.mlm(recipe_of(build={"tokenizer": "./nowhere"}))
    with raises("mlm-no-mask-token", pico / "tokenizer"):
        mlm.mlm(recipe_of(build={"tokenizer": str(pico / "tokenizer")}))
    sizes = {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    BertModel(BertConfig(**sizes, intermediate_size=64)).save_pretrained(tmp_path / "headless")
    for path in (encoder_rows / "tokenizer").iterdir():
        (tmp_path / "headless" / path.name).write_bytes(path.read_bytes())
    values = recipe_of().model_dump(mode="json") | {"build": None, "model": str(tmp_path / "headless")}
    with raises("encoder-head-missing", tmp_path / "headless"):
        mlm.mlm(recipes.validate(values, "test"))
    model = BertForMaskedLM(BertConfig(**{**sizes, "vocab_size": 250}, intermediate_size=64))
    model.save_pretrained(tmp_path / "few")
    for path in (encoder_rows / "tokenizer").iterdir():
        (tmp_path / "few" / path.name).write_bytes(path.read_bytes())
    with raises("model-vocabulary-differs", "250", "300"):
        mlm.mlm(recipes.validate(values | {"model": str(tmp_path / "few")}, "test"))
    (tmp_path / "few/adapter_config.json").write_text("{}")
    with raises("model-with-adapter", tmp_path / "few"):
        mlm.mlm(recipes.validate(values | {"model": str(tmp_path / "few")}, "test"))
    (tmp_path / "few/tokenizer.json").rename(tmp_path / "private.json")
    (tmp_path / "few/tokenizer.json").symlink_to(tmp_path / "private.json")
    with raises("model-link-outside", tmp_path / "few/tokenizer.json"):
        mlm.mlm(recipes.validate(values | {"model": str(tmp_path / "few")}, "test"))
    write_rows(tmp_path / "none", [], RowTotals(ROW_TOKENS, 2, "hash"))
    with raises("encoder-heldout-empty", tmp_path / "none", "domain_rows"):
        mlm.mlm(recipe_of(evaluation={"domain_rows": str(tmp_path / "none"), "every_steps": 3, "max_rows": 4}))
    trained_on = {"domain_rows": str(encoder_rows / "rows/train"), "every_steps": 3, "max_rows": 4}
    with raises("train-heldout-trained-on"):
        mlm.mlm(recipe_of(evaluation=trained_on))
    assert torch.get_default_dtype() == torch.float32


def test_what_is_printed_of_scores(capsys):
    """Losses before and after, bits a byte beside the base with its own tokenizer, and every floor."""

    def of(loss: float, top1: float, bits: float, tokens: int = 1200) -> dict:
        intervals = {"interval": [loss - 1, loss + 1], "top1_interval": [top1 / 2, 2 * top1]}
        intervals["bits_per_byte_interval"] = [bits - 0.5, bits + 0.5]
        return {"all": {"loss": loss, "top1": top1, "bits_per_byte": bits, "tokens": tokens, "papers": 40} | intervals}

    before = {"masked": of(6.0, 0.01, 3.5), "general": {}, mlm.AS_IT_WAS: of(2.0, 0.5, 1.25)}
    after = {"masked": of(2.5, 0.456, 1.5), "general": {}}
    floors = {"words": {"loss": 5.25, "top1": 0.0625}, "word before": {"loss": 4.125, "top1": 0.25}}
    mlm.print_scores({"heldout": {"before": before, "after": after}, "floors": floors})
    assert capsys.readouterr().out.splitlines() == [
        "  held-out masked tokens (1,200 of 40 papers): loss 6.0000 -> 2.5000 (1.5000 to 3.5000), "
        "told right 1.0% -> 45.6% (22.8% to 91.2%)",
        "  bits a byte of masked text: the base with its own tokenizer 1.250 (0.750 to 1.750), "
        "begun 3.500 (3.000 to 4.000), now 1.500 (1.000 to 2.000)",
        "  floor, words: loss 5.2500, told right 6.2%",
        "  floor, word before: loss 4.1250, told right 25.0%",
    ]
    del before[mlm.AS_IT_WAS]
    mlm.print_scores({"heldout": {"before": before, "after": after}, "floors": {}})
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_base_in_the_folder_that_is_written_to_is_left_alone(recipe_of, tmp_path):
    mlm.mlm(recipe_of(steps=2, out=str(tmp_path / "base")))
    base = shutil.copytree(tmp_path / "base/model", tmp_path / "out/model")
    before = {path: path.read_bytes() for path in base.iterdir()}
    values = recipe_of().model_dump(mode="json") | {"build": None, "model": str(base)}
    with raises("out-not-empty", tmp_path / "out"):
        mlm.mlm(recipes.validate(values, "test"))
    assert {path: path.read_bytes() for path in base.iterdir()} == before
