"""What services and libraries export: INSPIRE, DataCite, Zotero, Semantic Scholar's data sets, peS2o."""

import json

import pytest

from nsllm_lite.corpus.sources import datacite, inspire, pes2o, s2ag, zotero
from nsllm_lite.formats.documents import Document
from tests.corpus.sources.reading import DATA, outline_of, read, read_path, titles

SEEDS = DATA.parents[1] / "faults/seeds/read"


def seed(name):
    return json.loads((SEEDS / name).read_text())


ANSWER, WORK = seed("inspire/stated.json"), seed("datacite/stated.json")
RECORD, ITEM = ANSWER["hits"]["hits"][0], seed("zotero/stated-api.json")[0]["data"]
TITLE = "Whiskers of tin on copper"


@pytest.mark.parametrize("content", [ANSWER, RECORD, RECORD["metadata"], [RECORD, RECORD]])
def test_inspire_in_every_wrapping(content):
    for paper in read(inspire, content):
        assert (paper.id, paper.doi, paper.title) == ("arxiv:1903.00001", "10.1000/tin.9", TITLE)
        assert (paper.abstract[:8], paper.discipline, paper.language) == ("Whiskers", "Physics", "")


def test_inspire_without_numbers_and_with_nothing():
    thesis = {"titles": [{"title": "T"}], "control_number": 5, "thesis_info": {}, "imprints": [{"date": "2018-02"}],
              "inspire_categories": [{"term": "Theory-HEP"}], "languages": ["de"]}  # fmt: skip
    paper, *rest = read(inspire, {"hits": {"hits": [thesis, 3, {"id": "1"}]}})
    assert (paper.id, paper.date, paper.language, paper.categories) == ("inspire:5", "2018-02", "de", ("Theory-HEP",))
    assert [one.reason for one in rest] == ["unreadable", "unreadable"]


def test_inspire_tells_the_paper_from_what_stands_beside_it():
    record = {
        "titles": [{"title": "Tin", "subtitle": "A metal"}], "control_number": 7, "document_type": ["thesis"],
        "authors": [
            {"full_name": "Ito, Kenji", "inspire_roles": 3}, {"full_name": "Fox, Ann", "inspire_roles": ["supervisor"]},
            {"full_name": "Ray, Bo", "inspire_roles": ["editor", "author"]},
            {"full_name": "Lee, Cy", "inspire_roles": ["editor"]},
        ],
        "dois": [
            {"value": "10.1000/e", "material": "erratum"}, {"value": "10.1000/r", "material": "reprint"},
            {"value": "10.1000/u"}, {"value": "10.1000/p", "material": "publication"},
        ],
        "publication_info": [
            {"journal_title": "Errata", "year": 2021, "material": "erratum"}, {"journal_title": "J.Tin", "year": 2019},
        ],
        "references": [
            {"raw_refs": [{"schema": "Elsevier XML", "value": "<a/>"}, {"schema": "text", "value": "Lee, in print"}]},
            {"raw_refs": [{"schema": "text", "value": "Fox, J.Tin 1, doi:10.1000/Tin.1"}],
             "reference": {"title": {"title": "On tin"}}},
        ],
    }  # fmt: skip
    dated = record | {"thesis_info": {"date": "2018-05", "defense_date": "2018-01-02"}, "dois": record["dois"][:1]}
    paper, thesis = read(inspire, [record, dated])
    assert (paper.doi, paper.title, paper.venue, paper.date) == ("10.1000/p", "Tin: A metal", "J.Tin", "2019")
    assert (paper.authors, paper.references) == (("Ito, Kenji", "Ray, Bo"), ("Lee, in print", "doi:10.1000/tin.1"))
    assert (thesis.id, thesis.doi, thesis.date) == ("inspire:7", "", "2018-05")


def test_inspire_counts_what_it_marks_as_deleted():
    found = read(inspire, [{"deleted": True}, RECORD["metadata"] | {"deleted": True}])
    assert [one.reason for one in found] == ["deleted", "deleted"]


@pytest.mark.parametrize("content", [WORK, {"data": WORK["data"][0]}, WORK["data"][0], WORK["data"][0]["attributes"]])
def test_datacite_in_every_wrapping(content):
    (paper,) = read(datacite, content)
    assert (paper.id, paper.title, paper.venue) == ("doi:10.1000/tin.9", TITLE, "Journal of Tin")
    assert paper.abstract.startswith("Whiskers of tin grow")


def test_datacite_names_what_is_no_paper_and_reads_the_english_abstract():
    own = WORK["data"][0]["attributes"]
    data, preprint, bare = read(datacite, [
        own | {"types": {"resourceTypeGeneral": "Dataset"}},
        seed("datacite/valid.jsonl"),
        {"doi": "10.1000/x", "titles": [{"title": "T"}], "creators": [{"name": "Fox, A."}], "publicationYear": 2018,
         "dates": [{"date": "2018-05-01", "dateType": "Issued"}], "publisher": {"name": "Tin"}},
    ])  # fmt: skip
    assert (data.reason, preprint.abstract, preprint.venue) == ("not_a_paper", "Tin is in lead.", "Tin Repository")
    assert (bare.date, bare.authors, bare.venue, bare.abstract) == ("2018-05-01", ("Fox, A.",), "Tin", "")


@pytest.mark.parametrize(
    "content",
    [
        [{"key": "A", "data": ITEM}, {"data": {"itemType": "note"}}],
        [ITEM],
        {"items": [ITEM, {"itemType": "attachment"}]},
        ITEM,
    ],
)  # fmt: skip
def test_zotero_items_without_their_attachments(content):
    (paper,) = read(zotero, content)
    assert (paper.id, paper.doi, paper.title, paper.venue) == (
        "pmid:32000001",
        "10.1000/tin.9",
        TITLE,
        "Journal of Tin",
    )
    assert (paper.authors, paper.keywords) == (("Müller, Karin B.", "Tin Collaboration"), ("whiskers", "plated copper"))


def test_zotero_finds_ids_in_extra_and_names_what_is_no_item():
    preprint = {
        "itemType": "preprint",
        "title": "T",
        "extra": "arXiv:1901.00001 [cond-mat]\nnote",
        "repository": "arXiv",
    }
    archived = {"itemType": "preprint", "title": "T", "archiveID": "arXiv:1901.00002", "tags": ["a", "b"]}
    first, second, *rest = read(zotero, [preprint, archived, {"title": "x"}])
    assert (first.id, second.id, second.keywords) == ("arxiv:1901.00001", "arxiv:1901.00002", ("a", "b"))
    assert rest[0].reason == "unreadable"


@pytest.mark.parametrize(
    ("kind", "role"), [("presentation", "presenter"), ("computerProgram", "programmer"), ("book", "author")]
)
def test_zotero_takes_the_main_creators_of_each_type(kind, role):
    creators = [{"creatorType": one, "lastName": one, "firstName": "A"} for one in (role, "editor", "contributor")]
    (paper,) = read(zotero, {"itemType": kind, "title": "T", "creators": creators})
    assert paper.authors == (f"{role}, A",)
    person = "<foaf:Person><foaf:surname>Ito</foaf:surname></foaf:Person>"
    item = f"<z:itemType>{kind}</z:itemType><z:{role}s>{person}</z:{role}s><z:editors>{person * 2}</z:editors>"
    spaces = 'xmlns:rdf="r" xmlns:z="zotero.org/namespaces/export" xmlns:foaf="f"'
    (paper,) = read(zotero, f"<rdf:RDF {spaces}><rdf:Description>{item}</rdf:Description></rdf:RDF>")
    assert paper.authors == ("Ito",)


def test_zotero_rdf_in_a_series_and_in_a_journal():
    series = "<dcterms:isPartOf><bib:Series><dc:title>Notes</dc:title></bib:Series></dcterms:isPartOf>"
    text = (SEEDS / "zotero/stated-rdf.xml").read_text()
    first, second = read(zotero, text.replace("<dcterms:isPartOf", f"{series}<dcterms:isPartOf"))
    assert (first.venue, first.doi) == ("Journal of Tin", "10.1000/tin.9")
    assert (second.venue, second.doi) == ("Proceedings on Tin", "10.1000/tin.10")


def test_zotero_rdf_keeps_dois_with_the_journal_inside_or_beside():
    text = (SEEDS / "zotero/stated-rdf.xml").read_text()
    beside, inside = read(zotero, text)
    assert (beside.id, beside.doi, beside.title, beside.venue[:7]) == (
        "pmid:32000001",
        "10.1000/tin.9",
        TITLE,
        "Journal",
    )
    assert (inside.id, inside.title, inside.venue) == ("doi:10.1000/tin.10", "Tin again", "Proceedings on Tin")
    assert "no RDF" in read(zotero, '<rdf xmlns:rdf="r"/>')[0].message
    assert "no item" in read(zotero, '<rdf:RDF xmlns:rdf="r"><a/></rdf:RDF>')[0].message


def test_semantic_scholars_data_sets_one_by_one():
    paper, abstract, other = read(s2ag, [seed("s2ag/stated.json"), seed("s2ag/valid.jsonl"), {"corpusid": 1}])
    assert (paper.id, paper.title, paper.abstract) == ("arxiv:1903.00001", TITLE, "")
    assert (abstract.id, abstract.title, abstract.abstract[:8]) == ("arxiv:1903.00001", "", "Whiskers")
    assert other.reason == "unreadable"
    (unnamed,) = read(s2ag, {"corpusid": 12, "title": "T", "externalids": {}})
    assert unnamed.id == "s2:12"


def test_pes2o_is_papers_or_in_general_sources_text(tmp_path):
    text = (SEEDS / "pes2o/valid.jsonl").read_text() + (SEEDS / "pes2o/stated.json").read_text()
    full, short = read(pes2o, text)
    assert (full.id, full.title, full.date) == ("s2:5", TITLE, "2019-01-01")
    assert outline_of(full) == [
        ((), "Introduction", "Known since long (Ito, 1998)."), ((), "Methods", ""),
        (("Methods",), "Growth", "We waited."),
    ]  # fmt: skip
    assert (short.title, short.sections, full.abstract) == (TITLE, (), short.abstract)
    (tmp_path / "x").write_text(text)
    assert [record.text[:8] for record in read_path(tmp_path / "x", general=True)] == ["Whiskers", "Whiskers"]
    assert titles(read(pes2o, {"id": 1, "source": "s2ag", "text": " "})) == ["unreadable"]
    body = "It grows.\n\nMethods\n\nWe waited."
    (labelled,) = read(pes2o, {"id": 1, "source": "s2orc/train", "text": f"Tin\n\nAbstract\n\n{body}"})
    assert (labelled.abstract, outline_of(labelled)) == ("It grows.", [((), "Methods", "We waited.")])


@pytest.mark.parametrize("reader", [inspire, datacite, zotero, s2ag, pes2o], ids=lambda reader: reader.__name__[-6:])
@pytest.mark.parametrize("value", [None, 3, "x", [1, [2]], {"a": {"b": []}}, [{"title": 1, "value": {}, "name": [0]}]])
def test_fields_of_other_types_cost_no_more_than_themselves(reader, value):
    known = (
        "titles abstracts authors references dois creators types dates subjects descriptions relatedIdentifiers tags"
    )
    record = {"title": "T", "titles": [{"title": "T"}], "itemType": "book", "text": "T", "corpusid": 1}
    found = [
        read(reader, {**record, key: value}) for key in (*known.split(), "publication_info", "extra", "DOI", "date")
    ]
    assert all(found)
    assert sum(isinstance(one[0], Document) for one in found) >= len(found) - 2
