"""What pieces of vocabularies stand for, and how another vocabulary cuts them."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from nsllm_lite.corpus.tokenizer import train_for_encoder
from nsllm_lite.formats.pieces import Cutter, piece_bytes
from nsllm_lite.formats.tokenizer import load_tokenizer
from tests.raising import raises

PIECES = ["[UNK]", "[CLS]", "[SEP]", "tin", "##tin", "whisk", "##ers", "##s", "grow", "-", "co", "##o", "é"]
ID = {piece: number for number, piece in enumerate(PIECES)}


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    """Of small letters, as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(dict(ID), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tokenizer.add_special_tokens(PIECES[:3])
    return tokenizer


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("bytes")
    train_for_encoder(["tin whiskers grow under compressive stress at 25 degrees"] * 3, 300, folder)
    return load_tokenizer(folder)


def test_pieces_stand_for_bytes(wordpiece, of_bytes):
    found = piece_bytes(wordpiece)
    assert found.keys() == set(range(3, len(PIECES)))
    assert (found[ID["tin"]], found[ID["##tin"]], found[ID["é"]]) == (b" tin", b"tin", " é".encode())
    found = piece_bytes(of_bytes)
    assert {bytes([number]) for number in range(256)} <= set(found.values())
    assert found.keys() == set(range(5, 300))
    ids = of_bytes.encode(" tin 你", add_special_tokens=False).ids
    assert b"".join(found[number] for number in ids) == " tin 你".encode()


@pytest.mark.parametrize(
    ("piece", "pieces", "shared"),
    [
        (b" tin", ["tin"], True),
        (b"tin", ["##tin"], True),
        (b" Tin", ["tin"], False),
        (b" whiskers", ["whisk", "##ers"], False),
        (b"tinoers", ["##tin", "##o", "##ers"], False),  # within a word
        (b"-tin", ["-", "tin"], False),  # a sign ends a word, and what is behind it begins one
        (b"Tin-Tin", ["##tin", "-", "tin"], False),
        (b" whiskx", [], False),
        (b"growers", [], False),  # no piece begins with it within a word
        (b" ", [], False),
        ("é".encode()[:1], [], False),
        (" É".encode(), ["é"], False),
    ],
)
def test_wordpiece_cuts_as_where_a_piece_stands(wordpiece, piece, pieces, shared):
    assert Cutter(wordpiece, "x").cut(piece) == ([ID[name] for name in pieces], shared)


def test_bytes_are_joined_by_merges(of_bytes):
    cutter, own = Cutter(of_bytes, "x"), piece_bytes(of_bytes)
    assert all(cutter.cut(piece) == ([number], True) for number, piece in own.items())
    for text in (" tinstress", "stress25", " 你", "\n\n"):
        ids, shared = cutter.cut(text.encode())
        assert (ids, shared) == (of_bytes.encode(text, add_special_tokens=False).ids, False)
    assert cutter.cut("你".encode()[:2])[0] == [
        number for byte in "你".encode()[:2] for number in cutter.cut(bytes([byte]))[0]
    ]


def test_others_are_not_cut():
    with raises("pieces-not-cut", "folder", "BPE"):
        Cutter(Tokenizer(models.BPE({"▁t": 0}, [])), "folder")
    with raises("pieces-not-cut", "Unigram"):
        Cutter(Tokenizer(models.Unigram([("a", 0.0)])), "folder")
