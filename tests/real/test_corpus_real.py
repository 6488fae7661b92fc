"""The corpus room on real dumps: thousands of records, several files broken in real ways."""

from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from nsllm_lite.corpus.build import build
from nsllm_lite.corpus.encoder import Encoder
from nsllm_lite.formats.documents import read_documents
from nsllm_lite.formats.rows import Rows
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.corpus import Corpus
from tests.corpus.small import values
from tests.corpus.test_pack import ADVERSARIAL

SOURCES = (
    "arxiv_kaggle_snapshot", "arxiv_daily_jsonl", "arxiv_daily_peiyade", "pubmed_xml_jmjamison", "pubmed_xml_mokztk",
    "pubmed_xml_pubMR", "plos_jats", "elife_jats",
)  # fmt: skip


def corpus(folder: Path, sources: list[dict], general: list[dict], **changes) -> Corpus:
    own = {"general": general, "row_tokens": 1024, "min_chars": 200, "max_drop_share": 0.1}
    own["heldout"] = {"share": 0.05, "general_share": 0.05, "max_papers": 150, "seed": 1}
    return recipes.validate({**values(folder, "out", sources), **own, **changes}, "real files")


@pytest.mark.slow
def test_real_dumps_with_the_real_tokenizer(real_data, tmp_path):
    sources = [{"name": name, "path": str(real_data / name)} for name in SOURCES]
    general = [{"name": "wikitext", "path": str(real_data / "general_wikitext2")}]
    own_tokenizer = {"train_tokenizer": None, "tokenizer": str(real_data / "qwen3_tokenizer")}
    results = build(corpus(tmp_path, sources, general, **own_tokenizer))
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


@pytest.mark.pictures
def test_everything_in_one_run(real_data, tmp_path):
    """All folders as one source: nothing stops the build, the ledger adds up to the last record, and where it must drop
    it does."""
    general = [{"name": n, "path": str(real_data / n)} for n in ("general_wikitext2", "general_nltk")]
    evaluation = [str(real_data / "nsllm" / f"{n}.json") for n in ("Abstract-Classification", "Title-Generation")]
    sources = [{"name": "everything", "path": str(real_data)}]
    own = {"train_tokenizer": {"vocab_size": 1000}, "languages": ["en"], "decontaminate": evaluation}
    results = build(corpus(tmp_path, sources, general, max_drop_share=0.3, **own))
    counts = results["documents"]["everything"]
    assert counts["in"] > 15_000
    assert counts["in"] == counts["kept"] + counts["heldout"] + counts["duplicate"] + sum(counts["dropped"].values())
    assert counts["kept"] > 11_000
    assert counts["duplicate"] > 1_300
    assert counts["dropped"]["contaminated"] == 2
    assert counts["dropped"]["language:la"] >= 20
    assert counts["dropped"]["language:de"] >= 1
    assert counts["dropped"]["unreadable_file"] == 1
    assert results["phases"]["phase2"]["everything"]["kept"] >= 50
    assert set(results["formats"]["everything"]) >= {
        "arxiv", "atom", "bibtex", "conference", "jats", "latex", "medline", "oai", "pubmed", "ris", "table", "tei",
        "unarxive", "wos",
    }  # fmt: skip
    ledger = pq.read_table(tmp_path / "out/ledger.parquet", columns=["source", "origin", "phase", "outcome", "tokens"])
    whole = {(r["source"], r["origin"]) for r in ledger.to_pylist()}
    assert len(whole) == sum(c["in"] for c in results["documents"].values())
    assert sum(ledger["tokens"].to_pylist()) == sum(row["tokens"] for row in results["rows"].values())
    assert (tmp_path / "out/ledger.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_ids_of_gigatoken_are_those_of_tokenizers_on_adversarial_strings(real_data):
    pytest.importorskip("gigatoken")
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(real_data / "qwen3_tokenizer").backend_tokenizer
    encoder = Encoder(tokenizer)
    wikitext = (real_data / "general_wikitext2/word_language_model/data/wikitext-2/valid.txt").read_text()
    texts = [*ADVERSARIAL, *(a + b for a in ADVERSARIAL for b in ADVERSARIAL), *wikitext.splitlines()]
    ids, starts = encoder.encode(pa.array(texts), check=True)
    assert encoder.name == "gigatoken"
    expected = encoder.reference.encode_batch_fast(texts, add_special_tokens=False)
    assert [ids[a:b].tolist() for a, b in pairwise(starts)] == [e.ids for e in expected]
