"""Which readers claim a file by its beginning, and that none of them takes long over a hostile one."""

import json
import time
import tomllib

import pytest

from nsllm_lite.corpus.files import objects, tables
from nsllm_lite.corpus.files.objects import objects_in
from nsllm_lite.corpus.sources import READERS, table
from tests.corpus.sources.reading import example, read_path

HEADS = list(map(json.loads, example("heads.jsonl").splitlines()))
OWNERS = {
    "two.wos.txt": ["wos"], "two.ris": ["ris"], "two.nbib": ["medline"], "same.bib": ["bibtex"], "jats.xml": ["jats"],
    "grobid.xml": ["tei"], "grobid_training.xml": ["tei"], "unarxive.json": ["unarxive", "s2orc", "conference"],
    "s2orc_2019.json": ["s2orc"], "oai_dc.xml": ["oai"], "atom.xml": ["atom"],
}  # fmt: skip


def claims(head):
    """`text`, which is asked last, takes any plain text."""
    return [name for name, reader in READERS.items() if name != "text" and reader.recognise(head)]


@pytest.mark.parametrize("line", HEADS, ids=lambda line: line["head"][:20])
def test_a_head_is_claimed_by_its_readers_alone(line):
    assert claims(line["head"]) == line["readers"]


@pytest.mark.parametrize("name", OWNERS)
def test_a_file_is_claimed_by_its_readers_alone(name):
    assert claims(example(name).lstrip()) == OWNERS[name]


def test_a_head_is_read_once_and_no_further_than_asked(monkeypatch):
    head = '[{"a": {"b": "x"}}, {"c": 1}]'
    assert next(objects_in(head)) == (1, {"a": "{"})
    monkeypatch.setattr(objects, "MAX_DEPTH", -1)  # ends what is read from here on
    assert [tuple(one) for one in objects_in(head)] == [(1, {"a": "{"}), (2, {"b": '"'})]
    monkeypatch.setattr(tables, "_judged", None)
    assert not table.recognise("Dear reader, here is\na letter, and no table\n")


HOSTILE = [
    (case, form, text, unit)
    for case in tomllib.loads(example("hostile.toml"))["case"]
    for form, texts in case["texts"].items()
    for text in texts
    for unit in case["units"]
]


@pytest.mark.parametrize(("case", "form", "text", "unit"), HOSTILE)
@pytest.mark.timed
def test_a_repetition_takes_linear_time(tmp_path, case, form, text, unit):
    (tmp_path / "x").write_text(text.replace("§", unit * (case["chars"] // len(unit))))
    started = time.process_time()
    records = read_path(tmp_path / "x", form)
    assert time.process_time() - started < 5
    assert len(records) == case.get("records", len(records))
