"""Whatever a file of examples contains, it is read or refused by name."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.errors import UserError
from nsllm_lite.formats.examples import read_labelled, read_pairs
from nsllm_lite.tasks.entities import read_entities
from nsllm_lite.tasks.spans import read_questions

ASKED = {"id": "q", "question": "When?", "answers": [{"text": "ice", "answer_start": 4}], "is_impossible": False}
SQUAD = {"data": [{"title": "T", "paragraphs": [{"context": "The ice melts.", "qas": [ASKED]}]}]}
RECORD = {"question": "When?", "context": "ice melts", "answers": {"text": ["ice"], "answer_start": [0]}, "id": 3}
SPANS = {"text": "Old sea-ice melts.", "spans": [{"start": 4, "end": 11, "label": "X"}], "paper": "p"}
SEEDS = {
    "a.txt": ("-DOCSTART- NN O O\n\nOld NN O I-X\nice NN O I-X\n\nice NN O B-X\n", read_entities),
    "a.tsv": ("Old\tB-X\nice\tI-X\nmelts\tO\n", read_entities),
    "a.jsonl": (json.dumps(SPANS), read_entities),
    "q.json": (json.dumps(SQUAD), read_questions),
    "q.jsonl": (json.dumps(RECORD), read_questions),
    "l.csv": ('text,label\n"a, b",x\nc,y\n', read_labelled),
    "l.jsonl": ('{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n', read_labelled),
    "p.jsonl": ('{"text": "a", "text_pair": "b", "label": 1}\n', read_pairs),
}
PIECES = st.sampled_from(
    ["null", "true", "-1", "1e999", "NaN", "[]", "{}", '"', "\\", "\t", "\n", ",", " ", "I-", "O", "\x00"]
)


@pytest.mark.parametrize("name", SEEDS)
@given(cuts=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9), PIECES | st.text(max_size=3)), max_size=4))
def test_changed_files(name, cuts):
    text, read = SEEDS[name]
    for place, length, piece in cuts:
        text = text[:place] + piece + text[place + length :]
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(text.encode(errors="surrogatepass"))
        try:
            found = bool(read(path).items)
        except UserError as error:
            found = name in str(error)
        assert found
