import csv
import gzip
import io
import json
import pickle
import random
import tomllib
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nsllm_lite.corpus.decontaminate import Index
from nsllm_lite.corpus.shingles import shingles_of
from nsllm_lite.errors import UserError
from tests.corpus.small import DATA
from tests.raising import raises

WORDS = [f"w{i}" for i in range(3000)]
ABSENT, UNREADABLE = "decontaminate-file-absent", "decontaminate-file-unreadable"
NO_ITEM = "decontaminate-file-no-item"


def words(seed, count):
    return random.Random(seed).choices(WORDS, k=count)


def text(seed, count=200):
    return " ".join(words(seed, count))


@pytest.fixture
def load(tmp_path):
    """A function from a file's content (records are written as JSON) to its index."""

    def load(content, name="test.json"):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return Index.load([tmp_path / name])

    return load


@pytest.fixture
def index_of(load):
    return lambda *texts: load([{"input": t} for t in texts])


def find(index, document):
    return index.find(shingles_of(document))


# ------------------------------------------------------------------------------------------------------ what is found


def test_an_item_is_found_with_its_name_and_share(index_of):
    index = index_of(text(1), text(2))
    assert find(index, text(2)) == ("test.json#2", 1.0)
    changed = text(1).upper().replace(" ", ", ")
    assert find(index, f"{text(9, 3000)} {changed}. {text(8, 3000)}") == ("test.json#1", 1.0)
    assert find(index, text(3)) is None
    assert find(index, "") is None
    assert find(Index.load([]), text(1)) is None


@pytest.mark.parametrize(("every", "found"), [(20, True), (10, True), (5, False)])
def test_an_abstract_is_found_with_every_tenth_word_changed(index_of, every, found):
    changed = [f"x{n}" if n % every == 0 else word for n, word in enumerate(words(1, 200))]
    assert (find(index_of(text(1)), " ".join(changed)) is not None) == found


def test_the_item_held_most_is_named_and_of_equal_ones_the_longer(index_of):
    long, part = words(1, 100), words(1, 100)[20:40]
    others = (" ".join([*long[:60], *words(2, 60)]), *map(text, range(100, 110)))
    index = index_of(" ".join(part), " ".join(long), *others)
    assert find(index, " ".join(long)) == ("test.json#2", 1.0)
    assert find(index, " ".join(long[:60])) == ("test.json#1", 1.0)


def test_find_agrees_with_counting_every_pair(index_of):
    rng = random.Random(5)
    items = [words(n, rng.choice((8, 12, 20, 60, 200))) for n in range(60)]
    index = index_of(*map(" ".join, items))
    sets = [shingles_of(" ".join(item)) for item in items]
    num_found = 0
    for _ in range(200):
        parts = [item[rng.randrange(len(item) // 2) : rng.randrange(len(item) // 2, len(item) + 1)] for item in items]
        document = shingles_of(" ".join(word for part in rng.sample(parts, 3) for word in part))
        shared = [len(np.intersect1d(own, document)) for own in sets]
        shares = [
            n / len(own) for n, own in zip(shared, sets, strict=True) if n >= max(0.4 * len(own), min(10, len(own)))
        ]
        found = index.find(document)
        assert (found[1] if found else 0) == pytest.approx(max(shares, default=0))
        num_found += bool(found)
    assert 50 < num_found < 200


def test_texts_under_eight_words_and_lines_of_a_formula_are_no_items(index_of):
    index = index_of(text(1, 7), text(2, 8))
    assert index.num_items == {"test.json": 1}
    assert find(index, text(1, 7)) is None
    formula = "$f(x) = a x + b y + c z + 2$"
    index = index_of(f"{text(1)}\n{formula}\n{text(2)}")
    assert find(index, f"{text(5)} {formula} {text(6)}") is None
    assert find(index, text(2)) == ("test.json#1", 1.0)


def test_markup_of_characters_does_not_hide_an_item(index_of):
    index = index_of("Alpha &lt; beta in naïve cafés costs “ten” pounds and more each day")
    assert find(index, "alpha < beta in nai\u0308ve cafés costs ten pounds and more each day".replace("i\u0308", "ï"))


# ------------------------------------------------------------------------------------------------------- templates


def test_instructions_and_templates_are_no_items(load):
    instruction = "Choose the field of science that the following text belongs to and answer with one word."
    shots = ["Question: " + text(900 + n, 300) + " Answer: A. " for n in range(5)]  # one for each subject
    inputs = [f"{shots[n // 12]}Now answer this question: {text(n, 12)}\nAnswer:" for n in range(60)]
    index = load([{"instruction": instruction, "input": i} for i in inputs])
    assert index.num_items == {"test.json": 60}
    assert find(index, instruction + text(500)) is None
    assert find(index, shots[1] + text(500)) is None
    assert find(index, f"{text(500)} {text(7, 12)} {text(501)}") == ("test.json#8", 1.0)


def test_a_question_is_found_without_its_choices(index_of):
    inputs = [f"{text(n, 12)}\nChoices:\n(A): {text(n + 50, 6)}\n(B): {text(n + 100, 6)}\n" for n in range(30)]
    assert find(index_of(*inputs), f"{text(300)} {text(4, 12)} {text(301)}") == ("test.json#5", 1.0)


def test_a_passage_before_a_dozen_questions_is_an_item(load):
    index = load([{"passage": text(n // 12, 100), "question": text(1000 + n, 12)} for n in range(360)])
    assert index.num_items == {"test.json": 30 + 360}
    assert find(index, text(2, 100)) == ("test.json#25", 1.0)


def test_one_record_that_says_a_thing_thrice_keeps_it(load):
    sentences = [text(n, 12) for n in range(5)]
    record = {"sentences": sentences, "abstract": " ".join(sentences), "input": "Read: " + " ".join(sentences)}
    assert find(load(record), " ".join(sentences))[1] == 1.0


# ----------------------------------------------------------------------------------------------------- kinds of files

A, B, C = text(1, 20), text(2, 20), text(3, 20)


def table(delimiter):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["question", "answer"], [f"{A},\n{C}", "x"], [B, 'a "b"']])
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", json.dumps([{"title": "x", "abstract": A}, {"question": B, "choices": ["p", "q"]}]), 2),
        ("a.json", json.dumps([A, B]), 2),
        ("a.json", json.dumps({"version": "1", "note": C, "data": [{"text": A}, {"text": B}]}, indent=1), 2),
        ("a.json", json.dumps({"x1": {"CONTEXTS": [A]}, "x2": {"CONTEXTS": [C, B]}}), 2),
        ("a.json", json.dumps({"question": [A, B], "answer": ["x", "y"]}), 2),
        ("a.json", json.dumps({"question": {"0": A, "1": B}, "answer": {"0": "x", "1": "y"}}), 2),
        ("a.json", json.dumps({"columns": ["t", "l"], "index": [0, 1], "data": [[A, 0], [B, 1]]}), 2),
        ("a.jsonl", "\ufeff" + json.dumps({"text": A}) + "\n\n" + json.dumps({"messages": [{"content": B}]}), 2),
        ("a.txt", json.dumps({"text": A}) + "\n" + json.dumps({"text": B}) + "\n", 2),
        ("a.csv", table(","), 3),
        ("a.CSV", table(";"), 3),
        ("a.tsv", table("\t"), 3),
        ("a.txt", f"{A}\n{B}\n", 2),
        ("a.txt", f"METHODS\t{A}\nRESULTS\t{B}\n", 2),
        ("a.txt", f"[{A}]\n[{B}]\n", 2),
        ("a.txt", f"{A}\n\n" + B.replace(" ", "\n", 2), 3),
        ("a.conll", "\n".join(f"{w} NN O" for w in A.split()) + "\n\n" + "\n".join(f"{w} NN O" for w in B.split()), 22),
    ],
)
def test_each_kind_of_file(load, name, content, expected):
    index = load(content, name)
    assert find(index, f"{text(8)} {B} {text(9)}") == (f"{name}#{expected}", 1.0)
    assert find(index, A) is not None
    assert (find(index, C) is not None) == (C in content)


def test_a_list_of_sentences_is_also_one_text(load):
    sentences = [text(n, 20) for n in range(6)]
    index = load({"sentences": sentences})
    assert index.num_items == {"test.json": 7}
    changed = [f"x{n}" if n % 10 == 5 else word for n, word in enumerate(" ".join(sentences).split())]
    assert find(index, " ".join(changed))[1] == pytest.approx(0.5, abs=0.02)


def test_packed_files_and_parquet(tmp_path):
    content = json.dumps([{"text": A}, {"text": B}])
    with gzip.open(tmp_path / "a.json.gz", "wt") as file:
        file.write(content)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("test/x.json", content)
        archive.writestr("test/y.txt", C)
    pq.write_table(pa.table({"question": ["short", C], "options": [["p"], ["q"]]}), tmp_path / "c.parquet")
    assert find(Index.load([tmp_path / "a.json.gz"]), B) == ("a.json.gz#2", 1.0)
    assert find(Index.load([tmp_path / "b.zip"]), C)[0].endswith("test/y.txt#1")
    assert find(Index.load([tmp_path / "c.parquet"]), C) == ("c.parquet#2", 1.0)


@pytest.mark.parametrize(
    ("name", "content", "code", "found"),
    [
        ("a.json", None, ABSENT, "not exist"),
        ("folder", "", ABSENT, "folder"),
        ("a.json", b"", UNREADABLE, "empty"),
        ("a.bin", b"\x7fELF\0\0\1", UNREADABLE, "binary"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "y\n', UNREADABLE, "line 2 "),
        ("a.json", b'[{"text": "x"},\n{"text": "y"', UNREADABLE, "JSONDecodeError"),
        ("a.json.gz", gzip.compress(b"[1, 2]", mtime=0)[:-9], UNREADABLE, "EOFError"),
        ("a.csv", b'a,b\n"x,y\nz,w\n', UNREADABLE, "unexpected end of data"),
        ("a.parquet", b"PAR1 and no more", UNREADABLE, "Parquet"),
        ("a.json", b"[" * 100_000, UNREADABLE, "RecursionError"),
        ("a.json", json.dumps([{"text": "too short"}] * 3).encode(), NO_ITEM, " 3 "),
        ("a.json", json.dumps([{"text": A}] * 3).encode(), NO_ITEM, " 3 "),
    ],
)
def test_what_cannot_serve_is_refused(tmp_path, name, content, code, found):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    good = tmp_path / "good.txt"
    good.write_text(A)
    with raises(code, f"{name} ", found):
        Index.load([good, path])


VALUES = st.recursive(
    st.one_of(st.text(max_size=60), st.integers(), st.none()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
JSON = VALUES.map(lambda value: json.dumps(value).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode), JSON),
    name=st.sampled_from(["f.json", "f.jsonl", "f.csv", "f.tsv", "f.txt", "f"]),
)
def test_any_file_is_read_or_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    try:
        assert len(Index.load([tmp_path / name])) > 0
    except UserError as error:
        assert error.code in (UNREADABLE, NO_ITEM)  # noqa: PT017 (any file may also be read)


# --------------------------------------------------------------------------------------------------------- the index


LINES = st.lists(st.sampled_from(["one", "two", "three", "four", "five", "six"]), min_size=5, max_size=40).map(" ".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, min_size=1, max_size=12))
def test_an_item_always_finds_itself(load, lines):
    """Whatever its template, its repetitions, and what else is in the file."""
    try:
        index = load([{"text": line} for line in lines])
    except UserError:
        assume(False)
    for number in index._numbers.tolist():
        found = find(index, f"before {lines[number - 1]} after")
        assert found is not None
        assert found[1] == 1.0


def test_the_order_of_files_does_not_matter(tmp_path):
    paths = []
    for folder, seed in (("one", 1), ("two", 2), ("three", 1)):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "test.txt")
        paths[-1].write_text(text(seed))
    first, second = Index.load(paths), Index.load(paths[::-1])
    assert first.sha256 == second.sha256
    assert find(first, text(1)) == find(second, text(1)) == ("one/test.txt#1", 1.0)
    assert find(first, text(2)) == ("two/test.txt#1", 1.0)
    assert first.num_items == {"one/test.txt": 1, "three/test.txt": 1, "two/test.txt": 1}
    paths[0].write_text(text(3))
    assert Index.load(paths).sha256 != first.sha256


def test_the_index_is_compact_travels_and_its_prefilter_lets_few_foreign_shingles_pass(index_of):
    index = index_of(*map(text, range(300)))
    packed = pickle.dumps(index)
    assert len(packed) < 28 * 300 * 196
    assert find(pickle.loads(packed), text(17)) == ("test.json#18", 1.0)
    foreign = shingles_of(text(999, 20_000))
    slots = (foreign >> index._shift).view(np.int64)
    passed = (index._filter[slots >> 3] >> (slots & 7).astype(np.uint8)) & 1
    assert passed.mean() < 1 / 12


def test_chinese_items_of_fourteen_characters_and_more_are_found(index_of):
    text = tomllib.loads((DATA / "encodings.toml").read_text())["zh"]["text"]
    index = index_of([text, "".join(reversed(text[:14])), "研究结果表明方法有效"])
    assert index.find(shingles_of("研究结果表明方法有效")) is None  # ten characters say less than eight words
    for own in (text, text.replace("铁", "铜", 1), f"本文{''.join(reversed(text[:14]))}。"):
        assert index.find(shingles_of(own))
    assert index.find(shingles_of(text[::-2])) is None
