"""Papers in two files of a source are read as one, in shares that fit in memory, with an account of each half."""

import gzip
import json

import pyarrow.parquet as pq
import pytest

from nsllm_lite.corpus import build, join, shards
from nsllm_lite.formats.documents import read_documents
from nsllm_lite.recipe.corpus import Corpus, Source
from tests.corpus.small import prose, values, write_lines, write_sources


def half(number, **fields):
    return {"corpusid": number, **fields}


def title_of(number, **changes):
    return (
        half(number, externalids={"DOI": f"10.1000/{number}"}, title=f"Title {prose(number, 4)}", year=2019) | changes
    )


def abstract_of(number):
    return half(number, openaccessinfo={"externalids": {}}, abstract=prose(1000 + number), updated="2022")


def write(folder, name, records):
    path = folder / "s2" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in records).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)


@pytest.fixture
def folder(tmp_path):
    write_lines(tmp_path / "general.jsonl", [{"text": prose(n)} for n in range(8)])
    write(tmp_path, "papers/0.gz", [title_of(n) for n in range(1, 30)] + ["{broken", title_of(99)])
    write(tmp_path, "papers/1.jsonl", [title_of(n) for n in range(30, 41)])
    write(tmp_path, "abstracts/0.gz", [abstract_of(n) for n in reversed(range(1, 40, 2))])
    write(
        tmp_path, "abstracts/1.gz", [abstract_of(n) for n in range(2, 41, 2)] + [abstract_of(77), {"abstract": "lost"}]
    )
    write(tmp_path, "other.jsonl", [{"id": "0704.0001", "title": "Other", "abstract": prose(5)}])
    return tmp_path


def built(folder, out):
    sources = [{"name": "s2", "path": str(folder / "s2")}]
    own = {"max_drop_share": 1, "execution": {"workers": 1}}
    own["heldout"] = {"share": 0, "general_share": 0.25, "max_papers": 1, "seed": 1}
    recipe = Corpus(**{**values(folder, out, sources), **own})
    build.build(recipe)
    return {d.id: d for d in read_documents(folder / out / "documents") if d.source == "s2"}


def test_halves_are_joined_in_any_order_and_number_of_shares(folder, monkeypatch):
    monkeypatch.setattr(shards, "TASK_BYTES", 3000)
    monkeypatch.setattr(join, "BUFFER_BYTES", 1500)
    found = built(folder, "out")
    assert set(found) == {"arxiv:0704.0001", *(f"doi:10.1000/{n}" for n in range(1, 41))}
    for number in range(1, 41):
        paper = found[f"doi:10.1000/{number}"]
        assert (paper.title, paper.abstract, paper.date) == (title_of(number)["title"], prose(1000 + number), "2019")
    assert found["doi:10.1000/31"].origin == "papers/1.jsonl#2"
    lines = pq.read_table(folder / "out/ledger.parquet").to_pylist()
    dropped = {(line["origin"], line["reason"]) for line in lines if line["source"] == "s2" and line["reason"]}
    dropped = {(origin, reason) for origin, reason in dropped if reason != "no_experimental_section"}
    assert dropped == {
        ("papers/0.gz#30", "unreadable"), ("papers/0.gz#31", "no_abstract"), ("abstracts/1.gz#21", "no_title"),
        ("abstracts/1.gz#22", "no_title"),
    }  # fmt: skip
    manifest = json.loads((folder / "out/manifest.json").read_text())
    assert manifest["results"]["formats"]["s2"] == ["arxiv", "s2ag"]


def test_halves_without_others_and_archives_are_read_as_they_are(tmp_path):
    write(tmp_path, "papers.jsonl", [title_of(1)])
    source = Source(name="s2", path=str(tmp_path / "s2"))
    assert join.halves_of(source) == []
    write(tmp_path, "more.jsonl", [title_of(2)])
    assert join.halves_of(source) == []
    write(tmp_path, "abstracts.jsonl", [abstract_of(1)])
    assert [file.name for file in join.halves_of(source)] == ["abstracts.jsonl", "more.jsonl", "papers.jsonl"]
    assert join.halves_of(Source(name="s2", path=str(tmp_path / "s2"), format="arxiv")) == []


def test_a_half_that_is_listed_again_is_a_paper_again():
    titles = [("a#1", {"title": "T"}), ("a#2", {"title": "U"})]
    again = list(join._pairs(join.READERS["s2ag"], titles, [("b#1", {"abstract": "A"})]))
    assert again == [("a#1", {"title": "T", "abstract": "A"}), ("a#2", {"title": "U", "abstract": "A"})]


def test_s2orc_of_2020_gets_its_titles_from_the_metadata(folder):
    write_lines(folder / "s2" / "metadata_0.jsonl", [
        {"paper_id": "501", "title": "Whiskers", "abstract": prose(7), "has_pdf_parse": True, "year": 2018},
        {"paper_id": "502", "title": "Alone", "abstract": prose(8), "has_pdf_parse": False},
    ])  # fmt: skip
    write_lines(folder / "s2" / "pdf_parses_0.jsonl", [
        {"paper_id": "501", "_pdf_hash": "x", "abstract": [], "body_text": [{"section": "Methods", "text": prose(9)}],
         "bib_entries": {"BIBREF0": {"title": "On tin"}}},
    ])  # fmt: skip
    found = built(folder, "out")
    paper = found["s2:501"]
    assert (paper.title, paper.abstract, paper.date, paper.references) == ("Whiskers", prose(7), "2018", ("On tin",))
    assert [(s.heading, s.text) for s in paper.sections] == [("Methods", prose(9))]
    assert found["s2:502"].title == "Alone"


def test_an_unfinished_build_keeps_what_was_divided(folder, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "choose_at_once", die)
        with pytest.raises(KeyboardInterrupt):
            built(folder, "out")
    with monkeypatch.context() as patch:
        patch.setattr(join, "divide", die)
        assert len(built(folder, "out")) > 30


def test_a_source_of_one_file_opens_none_to_look_for_halves(tmp_path, monkeypatch):
    (source,) = write_sources(tmp_path, one=[title_of(1)])
    monkeypatch.setattr(join, "_kind", None)
    assert join.halves_of(Source(**source)) == []
