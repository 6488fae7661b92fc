"""Known figures on real files: BM25 on Cranfield, the dictionary of SciERC, answers of COVID-QA."""

import pytest

from nsllm_lite.retrieval import metrics
from nsllm_lite.retrieval.bm25 import Bm25
from nsllm_lite.retrieval.sets import read_retrieval
from nsllm_lite.tasks import entities, spans
from tests.raising import raises


@pytest.mark.parametrize(("porter", "ndcg", "recall"), [(False, 0.352, 0.389), (True, 0.372, 0.399)])
def test_bm25_on_cranfield(real_data, porter, ndcg, recall):
    found = read_retrieval(real_data / "ir_cranfield")
    ranking, _ = Bm25(found.documents, porter).search(found.test.queries, 10)
    assert metrics.ndcg(ranking, found.test.grades).mean() == pytest.approx(ndcg, abs=0.0005)
    assert metrics.recall(ranking, found.test.grades).mean() == pytest.approx(recall, abs=0.0005)
    assert any("lack 73" in note for note in found.notes)


def test_cranfield_with_a_judgement_too_many_is_refused(real_data, tmp_path):
    for name in ("cran.all.1400", "cran.qry", "cranqrel"):
        (tmp_path / name).write_bytes((real_data / "ir_cranfield" / name).read_bytes())
    with open(tmp_path / "cranqrel", "a") as file:
        file.write("\n226 1 1\n")
    with raises("retrieval-ids-unknown"):
        read_retrieval(tmp_path)


@pytest.mark.parametrize(("name", "documents", "queries"), [("cisi", 1460, 76), ("med", 1033, 30), ("adi", 82, 35)])
def test_other_collections(real_data, name, documents, queries):
    found = read_retrieval(real_data / "ir_cisi_med_adi" / name)
    assert (len(found.documents), len(found.test.ids)) == (documents, queries)


def test_the_dictionary_floor_of_scierc(real_data):
    train, test = (
        entities.read_entities(real_data / f"scibert/data/ner/sciie/{name}.txt") for name in ("train", "test")
    )
    assert train.notes == test.notes == ("IOB1, read as IOB2",)
    given = entities.dictionary_floor(test.items, train.items)
    types = sorted({kind for one in (*train.items, *test.items) for _, _, kind in entities.entities(one.tags)})
    rows = entities.tallies([one.tags for one in test.items], given, types)
    assert entities.f1(rows) == pytest.approx(0.198, abs=0.001)


def test_every_bio_file_is_read(real_data):
    files = [file for room in ("ner_mtl_bio", "ner_matscholar") for file in (real_data / room).rglob("*.t*")]
    found = {file: entities.read_entities(file) for file in files}
    assert len(found) == 12
    assert all(len(one.items) > 500 for one in found.values())
    assert sum("without a tag" in note for one in found.values() for note in one.notes) == 2


def test_offsets_of_covid_qa(real_data):
    found = spans.read_questions(real_data / "qa_covid_squad/200423_covidQA.json")
    assert len(found.items) == 1380
    assert all(one.context[answer.start :].startswith(answer.text) for one in found.items for answer in one.answers)
    assert [note.rpartition("questions ")[2][:3] for note in found.notes] == ["234"]
