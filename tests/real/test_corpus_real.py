"""The corpus room on real dumps: thousands of records, several files broken in real ways."""

from pathlib import Path

from nsllm_lite import recipe
from nsllm_lite.corpus.build import build
from nsllm_lite.document import read_documents
from nsllm_lite.rows import Rows

SOURCES = (
    "arxiv_kaggle_snapshot", "arxiv_daily_jsonl", "arxiv_daily_peiyade", "pubmed_xml_jmjamison", "pubmed_xml_mokztk",
    "pubmed_xml_pubMR", "plos_jats", "elife_jats",
)  # fmt: skip


def corpus(out: Path, **changes) -> recipe.Corpus:
    values = {
        "kind": "corpus",
        "out": str(out),
        "general": [],
        "end_of_text": "<|endoftext|>",
        "row_tokens": 1024,
        "heldout": {"share": 0.05, "general_share": 0.05, "max_papers": 150, "seed": 1},
        "near_duplicate_jaccard": 0.8,
        "languages": [],
        "decontaminate": [],
        "balance": "none",
        "min_chars": 200,
        "max_drop_share": 0.1,
    }
    return recipe.validate({**values, **changes}, "real files")


def test_real_dumps_with_the_real_tokenizer(real_data, tmp_path):
    results = build(
        corpus(
            tmp_path / "out",
            sources=[{"name": name, "path": str(real_data / name)} for name in SOURCES],
            general=[{"name": "wikitext", "path": str(real_data / "general_wikitext2")}],
            tokenizer=str(real_data / "qwen3_tokenizer"),
        )
    )
    documents = results["documents"]
    assert documents["arxiv_daily_jsonl"]["in"] == 3168
    assert documents["arxiv_daily_jsonl"]["duplicate"] > 1000
    assert documents["pubmed_xml_jmjamison"]["dropped"] == {"no_abstract": 2, "unreadable_file": 1}
    assert documents["pubmed_xml_pubMR"]["kept"] > 85
    rows = results["rows"]
    assert rows["phase1/train"]["tokens"] > 1_200_000
    assert rows["phase1/train"]["fill"] > 0.99
    assert rows["phase2/train"]["documents"] >= 18
    train = Rows(tmp_path / "out/rows/phase1/train")
    assert train.totals.end_of_text_id == 151643
    assert all(train[i].input_ids[-1] == 151643 for i in range(20))
    plos = {d.id: d for d in read_documents(tmp_path / "out/documents") if d.source == "plos_jats"}
    assert any("Materials and Methods" in s.heading for d in plos.values() for s in d.sections)


def test_a_folder_of_mixed_files(real_data, tmp_path):
    """Files of other kinds are named, none stops the build."""
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for folder in sorted([*real_data.glob("arxiv_*"), *real_data.glob("pubmed_*")]):
        (mixed / folder.name).symlink_to(folder)
    sources = [{"name": "mixed", "path": str(mixed)}]
    results = build(corpus(tmp_path / "out", sources=sources, train_tokenizer={"vocab_size": 1000}))
    assert results["documents"]["mixed"]["kept"] > 6000
    assert results["documents"]["mixed"]["dropped"]["not_this_format"] == 28
    assert results["phases"]["phase2"]["mixed"]["kept"] >= 6
