"""Tokenizers of a corpus: trained on its training papers, compared on its held-out ones, counted as by hand."""

import json
import re

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.corpus import fertility
from nsllm_lite.corpus.build import build
from nsllm_lite.corpus.learn_tokenizer import OWN, learn_tokenizer
from nsllm_lite.corpus.tokenizer import train_tokenizer
from nsllm_lite.formats.documents import Document, Section
from nsllm_lite.formats.papers import CorpusPapers
from nsllm_lite.formats.pieces import piece_bytes
from nsllm_lite.formats.tokenizer import load_tokenizer
from nsllm_lite.recipe import load as recipes
from tests.corpus.small import END, paper, sample, values, write_sources
from tests.raising import raises


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    sources = write_sources(folder, full=[sample(n) for n in range(20)], arxiv=[paper(50 + n) for n in range(20)])
    changes = {"heldout": {"share": 0.25, "general_share": 0.25, "max_papers": 10, "seed": 1}}
    build(recipes.validate({**values(folder, "out", sources), **changes}, "test"))
    return folder / "out"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    train_tokenizer(["tin whiskers grow under compressive stress"] * 3, 300, END, folder)
    return folder


def recipe_of(corpus, out, **changes):
    asked = {"kind": "tokenizer", "out": str(out), "corpus": str(corpus), "compare": []}
    return recipes.validate({**asked, "train": {"vocab_size": 390, "model": "encoder"}, **changes}, "test")


def test_an_encoder_has_robertas_special_tokens_and_opens_in_transformers(corpus, tmp_path):
    from transformers import AutoTokenizer

    learn_tokenizer(recipe_of(corpus, tmp_path / "out"))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.convert_ids_to_tokens(range(5)) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert (theirs.cls_token_id, theirs.sep_token_id, theirs.pad_token_id, theirs.mask_token_id) == (0, 2, 1, 4)
    assert len(theirs) == 390
    text = "Alrobe casa, 你好 1234."
    ids = theirs(text)["input_ids"]
    assert (ids[0], ids[-1]) == (0, 2)
    assert theirs.decode(ids, skip_special_tokens=True) == text
    assert (
        len(theirs("alro ti <mask>")["input_ids"]) == len(theirs("alro ti")["input_ids"]) + 1 + 1
    )  # a blank before it


def test_only_training_papers_are_learnt_from(corpus, tmp_path):
    learn_tokenizer(recipe_of(corpus, tmp_path / "out"))
    papers = CorpusPapers(corpus)
    texts = {split: [] for split in ("train", "test")}
    for document in papers:
        texts[papers.split(document.id)].append(fertility.text_of(document))
    assert len(texts["test"]) > 5
    from nsllm_lite.corpus.tokenizer import train_for_encoder

    train_for_encoder(texts["train"], 390, tmp_path / "by-hand")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (tmp_path / "by-hand/tokenizer.json").read_bytes()
    train_for_encoder([*texts["train"], *texts["test"]], 390, tmp_path / "all")
    assert (tmp_path / "out/tokenizer.json").read_bytes() != (tmp_path / "all/tokenizer.json").read_bytes()


def test_counts_are_those_of_held_out_papers(corpus, other, tmp_path):
    results = learn_tokenizer(recipe_of(corpus, tmp_path / "out", compare=[str(other)]))
    papers = CorpusPapers(corpus)
    held = [document for document in papers if papers.split(document.id) == "test"]
    assert results["papers"] == len(held)
    *lines, all_ = json.loads((tmp_path / "out/fertility.json").read_text())["by_source"]
    assert [line["source"] for line in lines] == ["arxiv", "full"]
    texts = [fertility.text_of(document) for document in held]
    words = sum(len(text.split()) for text in texts)
    for name, folder in ((OWN, tmp_path / "out"), (str(other), other)):
        opened = load_tokenizer(folder)
        tokens = sum(len(opened.encode(text, add_special_tokens=False).ids) for text in texts)
        assert all_[name]["tokens_a_word"] == pytest.approx(tokens / words)
        assert all_[name]["tokens_a_paper"] == pytest.approx(tokens / len(held))
        assert all_[name]["bytes_a_token"] == pytest.approx(sum(len(t.encode()) for t in texts) / tokens)
    low, high = all_[str(other)]["interval"]
    assert 1 < low < all_[str(other)]["of_first"] < high
    assert all_[OWN]["interval"] == [1, 1]
    report = (tmp_path / "out/fertility.md").read_text()
    assert re.search(r"\| all \| \d+ \| this one \| 390 \|", report)
    assert (tmp_path / "out/fertility.png").is_file()
    again = learn_tokenizer(recipe_of(corpus, tmp_path / "out", compare=[str(other)]))  # finished
    assert json.dumps(again, sort_keys=True) == json.dumps(results, sort_keys=True)
    assert read_manifest(tmp_path / "out")["verb"] == "tokenizer"


def test_comparing_alone_trains_nothing(corpus, other, tmp_path):
    learn_tokenizer(recipe_of(corpus, tmp_path / "out", train=None, compare=[str(other)]))
    assert not (tmp_path / "out/tokenizer.json").exists()
    assert (tmp_path / "out/fertility.md").is_file()


def test_what_cannot_be_is_named(corpus, other, tmp_path):
    with raises("tokenizer-nothing-to-do"):
        recipe_of(corpus, tmp_path / "a", train="none")
    with raises("tokenizer-too-few-pairs", "100,000"):
        learn_tokenizer(recipe_of(corpus, tmp_path / "b", train={"vocab_size": 100_000, "model": "decoder"}))
    assert not (tmp_path / "b/manifest.json").exists()
    with raises("corpus-absent"):
        learn_tokenizer(recipe_of(tmp_path, tmp_path / "c"))
    sources = write_sources(tmp_path / "few", full=[sample(n) for n in range(12)])
    changes = {"heldout": {"share": 0, "general_share": 0, "max_papers": 10, "seed": 1}}
    build(recipes.validate({**values(tmp_path / "few", "out", sources), **changes}, "test"))
    with raises("tokenizer-no-held-out"):
        learn_tokenizer(recipe_of(tmp_path / "few/out", tmp_path / "d", train=None, compare=[str(other)]))
    with raises("tokenizer-no-held-out"):
        learn_tokenizer(recipe_of(tmp_path / "few/out", tmp_path / "d"))
    assert not (tmp_path / "d").exists(), "refused before anything is trained"


def word_level(pieces, decoder):
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token=pieces[0]))
    tokenizer.decoder = decoder
    return tokenizer


def test_vocabularies_of_all_kinds_are_compared_as_bytes(other):
    byte_level = load_tokenizer(other)
    mine = set(piece_bytes(byte_level).values())
    assert {bytes([n]) for n in range(256)} <= mine
    assert any(piece[:1] == b" " and len(piece) > 1 for piece in mine)
    assert END.encode() not in mine
    wordpiece = word_level(["[UNK]", "t", "##t", "##in"], decoders.WordPiece())
    assert set(piece_bytes(wordpiece).values()) == {b" [UNK]", b" t", b"t", b"in"}
    sentencepiece = Tokenizer(models.BPE({"▁t": 0, "in": 1, "µ": 2, "▁": 3, "你": 4}, []))
    assert set(piece_bytes(sentencepiece).values()) == {b" t", b"in", "µ".encode(), b" ", "你".encode()}
    both = fertility.shared(byte_level, sentencepiece)
    assert both["common"] == len(mine & {b" t", b"in", "µ".encode(), b" ", "你".encode()})
    assert both["share_of_second"] == both["common"] / 5


def test_words_that_one_cuts_and_another_keeps():
    def whole(words):
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, **{f"Ġ{w}": n for n, w in enumerate(words, 1)}}, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return tokenizer

    def cuts(words):
        vocab = {piece: n for n, piece in enumerate(sorted({"Ġ", *"".join(words)}))}
        tokenizer = Tokenizer(models.BPE(vocab, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return tokenizer

    words = ["perovskite", "tungsten", "seen"]
    papers = [Document(f"p{n}", "s", "o", title="Tungsten and perovskite Perovskite") for n in range(3)]
    papers.append(Document("q", "s", "o", sections=(Section("seen", "perovskite"),)))
    tokenizers = {"whole": whole(words), "cut": cuts(words)}
    found = fertility.count(tokenizers, papers)
    assert found.papers_with == {"perovskite": 4, "tungsten": 3, "seen": 1}
    cut = fertility.cut_words(tokenizers, found.papers_with, 2)
    assert cut["whole"] == []
    assert [(one.word, one.papers) for one in cut["cut"]] == [("perovskite", 4), ("tungsten", 3)]
    assert cut["cut"][1].pieces == {"whole": ["Ġtungsten"], "cut": ["Ġ", *"tungsten"]}
