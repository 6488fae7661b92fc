"""Decontamination on real evaluation files and real papers: two of them are known to be in both."""

from nsllm_lite.corpus import sources
from nsllm_lite.corpus.decontaminate import Index
from nsllm_lite.corpus.shingles import shingles_of
from nsllm_lite.corpus.texts import clean
from nsllm_lite.formats.documents import Document
from nsllm_lite.recipe.corpus import Source

EVALUATION = ("Abstract-Classification", "Move-Recognition", "Title-Generation", "MMLU-stem", "math500")
SOURCES = (
    "arxiv_daily_jsonl", "arxiv_kaggle_snapshot", "conf_papers_json", "pubmed_xml_mokztk", "pubmed_xml_pubMR",
    "plos_jats", "elife_jats",
)  # fmt: skip


def test_the_two_papers_known_to_be_in_the_evaluation_files_are_found_and_no_other(real_data):
    index = Index.load([real_data / "nsllm" / f"{name}.json" for name in EVALUATION])
    assert index.num_items["Title-Generation.json"] > 1800
    assert index.num_items["MMLU-stem.json"] > 3100
    found, by_abstract, count = {}, {}, 0
    for name in SOURCES:
        source = Source(name=name, path=str(real_data / name))
        for file in sources.files_of(source):
            for record in sources.read(source, file, general=False):
                if isinstance(record, Document):
                    document = clean.clean_document(record)
                    parts = (document.title, document.abstract, *(s.text for s in document.sections))
                    found[file.name, document.origin] = index.find(shingles_of("\n\n".join(parts)))
                    by_abstract[file.name, document.origin] = index.find(shingles_of(document.abstract))
                    count += 1
    assert count > 4500
    expected = {"Title-Generation.json#510", "Title-Generation.json#634"}
    for answers in (found, by_abstract):
        answers = {place: answer for place, answer in answers.items() if answer}
        assert {file for file, _ in answers} == {"rss/rss2023.json"}
        assert {item for item, _ in answers.values()} == expected
        assert len(answers) == 2
        assert all(share > 0.75 for _, share in answers.values())
