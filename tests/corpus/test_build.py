"""The whole room: sources in, rows out, every record accounted for."""

import contextlib
import errno
import gzip
import io
import json
import shutil
import tomllib
import zipfile
from collections import Counter
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers.processors import TemplateProcessing

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.cli import run_step
from nsllm_lite.corpus import near_heldout, shards, sources, tokenizer
from nsllm_lite.corpus.build import build
from nsllm_lite.corpus.files import archives
from nsllm_lite.corpus.ingest import evaluation_index
from nsllm_lite.corpus.ledger import OUTCOMES
from nsllm_lite.formats.documents import read_documents
from nsllm_lite.formats.rows import Rows
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.corpus import Corpus
from tests.corpus.small import DATA, digests, general, paper, prose, sample, values, write_lines
from tests.raising import raises


def make_in(folder):
    """A function from changes to a corpus recipe on small files of two paper sources and one general."""
    papers = [paper(i, abstract=prose(1000 + i, 50 + i)) for i in range(30)]  # of as many lengths
    near = {**papers[3], "id": "2502.00009", "abstract": papers[3]["abstract"] + " Indeed."}
    faults = [
        {**papers[0], "id": "2501.00000v7", "abstract": "Changed in the next version. " + prose(77)},
        {**papers[1], "id": "2502.00001"}, near,
        paper(50, title=""), paper(51, abstract=""), paper(52, abstract="Short."),
        paper(53, abstract="This paper has been withdrawn by the authors for a crucial error in equation 4 of it."),
        "{broken",
    ]  # fmt: skip
    write_lines(folder / "arxiv" / "one.jsonl", [*papers, *faults])
    (folder / "arxiv" / "README.md").write_text("# Not papers")
    write_lines(folder / "full" / "papers.jsonl", [sample(i) for i in range(12)])
    write_lines(folder / "general.jsonl", general())
    sources = [{"name": name, "path": str(folder / name)} for name in ("arxiv", "full")]
    sources[0]["licence"] = "CC0"
    return lambda **changes: recipes.validate({**values(folder, "out", sources), **changes}, "test")


@pytest.fixture
def make(tmp_path):
    return make_in(tmp_path)


class Built(NamedTuple):
    corpus: Corpus
    results: dict
    printed: str


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The corpus with no changes, for tests that only read it."""
    corpus = make_in(tmp_path_factory.mktemp("built"))()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        results = build(corpus)
    return Built(corpus, results, printed.getvalue())


def ledger_of(corpus):
    return pq.read_table(f"{corpus.out}/ledger.parquet").to_pylist()


def test_every_record_ends_in_one_outcome(built):
    corpus, results, printed = built
    arxiv = results["documents"]["arxiv"]
    assert arxiv["in"] == 39  # 30 + 8, and the README
    assert arxiv["dropped"] == {
        "no_title": 1, "no_abstract": 1, "too_short": 1, "withdrawn": 1, "unreadable": 1, "not_this_format": 1,
    }  # fmt: skip
    assert arxiv["duplicate"] == 3
    for counts in (c for table in (results["documents"], *results["phases"].values()) for c in table.values()):
        assert counts["in"] == sum(counts[o] for o in OUTCOMES if o != "dropped") + sum(counts["dropped"].values())
    rows = ledger_of(corpus)
    by_origin = {}
    for row in rows:
        by_origin.setdefault((row["source"], row["origin"]), set()).add(row["phase"])
    assert len(by_origin) == 39 + 12 + 20
    assert {frozenset(p) for p in by_origin.values()} == {
        frozenset(["corpus"]), frozenset(["phase1", "phase2"]), frozenset(["general"]),
    }  # fmt: skip
    assert {r["id"]: (r["reason"], r["other_id"]) for r in rows if r["outcome"] == "duplicate"} == {
        "arxiv:2501.00000": ("same_id", "arxiv:2501.00000"),
        "arxiv:2502.00001": ("same_text", "arxiv:2501.00001"),
        "arxiv:2502.00009": ("near_duplicate", "arxiv:2501.00003"),
    }
    lines = [json.loads(line) for line in Path(corpus.out, "dropped.jsonl").read_text().splitlines()]
    assert next(x["text"] for x in lines if x["reason"] == "too_short").endswith("| Short.")
    assert "no_experimental_section" in printed
    assert "phase1/train" in printed
    assert Path(corpus.out, "ledger.png").stat().st_size > 10_000  # drawn, as a fixture of a module is
    documents = list(read_documents(Path(corpus.out, "documents")))
    assert len(documents) == sum(c["kept"] + c["heldout"] for c in results["documents"].values())
    assert all(d.text or d.title for d in documents)


def test_rows_hold_what_the_ledger_says(built):
    corpus, results, _ = built
    rows = ledger_of(corpus)
    for phase in ("phase1", "phase2", "general"):
        for part, outcome in (("train", "kept"), ("heldout", "heldout")):
            packed = Rows(f"{corpus.out}/rows/{phase}/{part}")
            expected = {r["id"]: r["tokens"] for r in rows if r["phase"] == phase and r["outcome"] == outcome}
            found = Counter()
            for row in packed:
                for name, length in zip(row.doc_ids, row.doc_lengths, strict=True):
                    found[name] += length
            assert found == expected != {}
            if (phase, part) == ("general", "heldout"):
                assert len(found) == 5  # a share of its own: 0.25 of 20, where papers have 0.1
            assert packed.totals.num_tokens == results["rows"][f"{phase}/{part}"]["tokens"]
            assert packed.totals.tokenizer_sha256 == sha256_file(packed.path.parents[2] / "tokenizer/tokenizer.json")


def test_the_ledger_s_counts_are_those_of_its_lines(make, monkeypatch):
    monkeypatch.setattr(shards, "TASK_BYTES", 4_000)  # so that files are read in stretches
    corpus = make()
    results = build(corpus)
    lines, files = ledger_of(corpus), pq.read_table(f"{corpus.out}/ledger_files.parquet").to_pylist()
    assert any("one.jsonl@" in line["origin"] for line in lines)
    assert {row["file"] for row in files if row["source"] == "arxiv"} == {"one.jsonl", "README.md"}
    assert sum(row["records"] for row in files) == len(lines)
    for unit in ("chars", "tokens"):
        assert sum(row[unit] for row in files) == sum(line[unit] for line in lines) > 0
        for phase, counts in results["phases"].items():
            for source, outcome in product(counts, ("kept", "heldout")):
                mine = [x[unit] for x in lines if (x["phase"], x["source"], x["outcome"]) == (phase, source, outcome)]
                assert (counts[source][outcome], counts[source][unit][outcome]) == (len(mine), sum(mine))


def test_held_out_papers_are_the_same_in_both_phases_and_unseen_by_the_tokenizer(make, monkeypatch):
    train, seen = tokenizer.train_tokenizer, []
    monkeypatch.setattr(tokenizer, "train_tokenizer", lambda texts, *rest: train(seen.extend(texts) or seen, *rest))
    corpus = make(sources=[{"name": "full", "path": make().sources[1].path}], general=[])
    build(corpus)
    held = [(r["phase"], r["id"]) for r in ledger_of(corpus) if r["outcome"] == "heldout"]
    assert {name for phase, name in held if phase == "phase1"} == {name for phase, name in held if phase == "phase2"}
    assert held
    assert len(seen) == 22  # of 12 papers with two texts each, all but the one held out
    assert len(Rows(f"{corpus.out}/rows/general/train")) == 0  # there, though empty


def test_a_full_text_is_kept_before_its_abstract_alone(make, tmp_path):
    full = sample(99)
    write_lines(tmp_path / "full" / "papers.jsonl", [full, *(sample(i) for i in range(5))])
    same = paper(60, title=full["title"], abstract=full["abstract"][0][1])
    write_lines(tmp_path / "arxiv" / "one.jsonl", [same, *(paper(i) for i in range(9))])
    corpus = make(max_drop_share=0.5)
    build(corpus)
    (row,) = [r for r in ledger_of(corpus) if r["outcome"] == "duplicate"]
    assert (row["id"], row["other_id"]) == ("arxiv:2501.00060", "sample:99")


def test_training_papers_near_a_held_out_one_are_dropped(make, tmp_path):
    """Methods copied from paper to paper: abstracts differ, sections are nearly the same."""
    copies = [sample(i) for i in range(10)]
    for copy in copies:
        copy["sections"][0]["text"] = prose(1, 80) + f" Number {copy['id']}."
    write_lines(tmp_path / "full" / "papers.jsonl", copies)
    corpus = make(max_drop_share=1.0, heldout={"share": 0.1, "general_share": 0.1, "max_papers": 4, "seed": 1})
    results = build(corpus)
    assert results["documents"]["full"]["heldout"] == 1
    assert results["documents"]["full"]["dropped"] == {"near_heldout": 9}
    dropped = [r for r in ledger_of(corpus) if r["reason"] == "near_heldout"]
    held = {r["id"] for r in ledger_of(corpus) if r["outcome"] == "heldout"}
    assert all(r["other_id"] in held for r in dropped)


def test_a_second_build_is_skipped_a_rebuild_is_the_same_and_one_of_other_sources_refused(make, tmp_path, capsys):
    corpus = make()
    results = build(corpus)
    first = digests(tmp_path / "out")
    capsys.readouterr()
    assert build(corpus) == results
    assert capsys.readouterr().out == f"{corpus.out}: finished, skipped\n"
    (tmp_path / "out" / "manifest.json").unlink()  # as if killed before the end
    (tmp_path / "out" / "work").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("the user's own")
    build(corpus)
    assert (tmp_path / "out" / "notes.txt").exists()
    (tmp_path / "out" / "notes.txt").unlink()
    assert digests(tmp_path / "out") == first
    write_lines(tmp_path / "general.jsonl", general(first=7000))
    with raises("finished-result-differs", "source:general"):
        build(make())


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("name", ["documents/thesis.txt", "ledger.json", "work/notes.txt"])
def test_files_of_the_user_in_the_folder_are_not_touched(make, tmp_path, name):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with raises("corpus-folder-in-use", tmp_path / "out"):
        build(make())
    assert mine.read_text() == "mine"
    mine.unlink()
    if mine.parent.name == "documents":
        mine.parent.rmdir()
        build(make())


def test_a_corpus_of_nothing_is_refused(make, tmp_path):
    with raises("source-absent", "'x'", tmp_path / "nowhere"):
        build(make(sources=[{"name": "x", "path": str(tmp_path / "nowhere")}]))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("import os")
    with raises("source-unreadable", tmp_path / "code", "not_this_format 1", " a.py: plain text", " sample, ", "arxiv"):
        build(make(sources=[{"name": "x", "path": str(tmp_path / "code")}]))
    with raises("corpus-all-dropped", " 51 ", "(too_short 46, ", "`min_chars`"):
        build(make(min_chars=100_000, max_drop_share=1.0))


def test_a_drop_share_above_the_limit_needs_consent(make):
    with raises("corpus-many-dropped", "11.8%", "(6 of 51: ", "max_drop_share=0.05", "max_drop_share=0.12"):
        build(make(max_drop_share=0.05))
    assert build(make(max_drop_share=6 / 51)), "just what is allowed"


def test_a_tokenizer_without_the_end_of_text_token_is_refused_before_the_work(make, tmp_path):
    build(make())
    other = make(out=str(tmp_path / "other"), train_tokenizer=None, tokenizer=str(tmp_path / "out/tokenizer"))
    assert build(other)["rows"]["phase1/train"]["tokens"] > 0
    with raises("tokenizer-no-end-of-text", "'</s>'"):
        build(recipes.update(other, out=str(tmp_path / "third"), end_of_text="</s>"))
    assert not (tmp_path / "third").exists()


def test_texts_begin_as_the_tokenizer_begins_them(make, tmp_path):
    build(make())
    tokenizer_dir = tmp_path / "out/tokenizer"
    opened = tokenizer.load_tokenizer(str(tokenizer_dir))
    opened.post_processor = TemplateProcessing(single=["A", "$A"], special_tokens=[("A", opened.token_to_id("A"))])
    (tmp_path / "model").mkdir()
    opened.save(str(tmp_path / "model/tokenizer.json"))
    plain = Rows(tmp_path / "out/rows/phase1/train")
    rows = {}
    for name in ("auto", "none"):
        chosen = {"begin_of_text": name, "train_tokenizer": None, "tokenizer": str(tmp_path / "model")}
        build(make(out=str(tmp_path / name), **chosen))
        rows[name] = Rows(tmp_path / name / "rows/phase1/train")
    assert rows["auto"].totals.begin_of_text_ids == [opened.token_to_id("A")]
    assert rows["auto"].totals.num_tokens == plain.totals.num_tokens + rows["auto"].totals.num_pieces
    assert all(row.input_ids[0] == opened.token_to_id("A") for row in rows["auto"])
    assert (rows["none"].totals.begin_of_text_ids, rows["none"].totals.begin_of_text) == ([], "none")
    assert rows["none"].totals.num_tokens == plain.totals.num_tokens


def fail_for_lack_of_room(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_out_of_disk_before_writing(make, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with raises("disk-too-small", "the corpus"):
        build(make())
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_loses_nothing(make, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(near_heldout, "_write", fail_for_lack_of_room)
        with raises("disk-full", make().out):
            run_step(make())
    assert len(list((tmp_path / "out" / "work" / "tasks").glob("*.json"))) == 3
    assert not (tmp_path / "out/manifest.json").exists()
    assert build(make())["rows"]["phase1/train"]["tokens"] > 0


def test_no_room_for_an_archive_s_temporary_copy_is_no_fault_of_the_archive(make, monkeypatch, tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("papers.jsonl", "\n".join(json.dumps(sample(i)) for i in range(12)))
    (tmp_path / "full" / "papers.jsonl").unlink()
    (tmp_path / "full" / "papers.zip.gz").write_bytes(gzip.compress(inner.getvalue()))

    class Full(io.BytesIO):
        write = fail_for_lack_of_room

    with monkeypatch.context() as patch:
        patch.setattr(archives.tempfile, "SpooledTemporaryFile", lambda size: Full())
        with raises("disk-full", "temporary copy"):
            run_step(make())
    assert build(make())["documents"]["full"]["kept"] > 0


@pytest.mark.slow
def test_a_build_killed_when_only_its_work_folder_was_left_is_finished(make, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **options: None)
        build(make())
    assert (tmp_path / "out" / "work").is_dir()
    made = digests(tmp_path / "out")
    build(make())
    assert not (tmp_path / "out" / "work").exists()
    assert digests(tmp_path / "out") == {name: made[name] for name in made if not name.startswith("work/")}


@pytest.mark.slow
def test_an_index_of_heldout_papers_cut_short_is_made_again(make, monkeypatch, tmp_path):
    def fail(path, **arrays):
        Path(path).write_bytes(b"PK")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail)
        with pytest.raises(KeyboardInterrupt):
            build(make())
    assert build(make())["rows"]["phase1/train"]["tokens"] > 0


def test_lost_characters_are_counted(make, tmp_path):
    write_lines(tmp_path / "full" / "papers.jsonl", [{**sample(1), "title": "Tin \ufffd\ufffd whiskers"}, sample(2)])
    assert build(make())["lost_characters"]["full"] == 2


def test_licences_are_told_as_stated_and_those_of_web_of_science_as_known(make, tmp_path, capsys):
    records = [f"PT J\nTI Title {prose(i, 4)}\nAB {prose(100 + i)}\nUT WOS:{i:015}\nER\n" for i in range(5)]
    (tmp_path / "savedrecs.txt").write_text("FN Clarivate\nVR 1.0\n" + "\n".join(records) + "\nEF\n")
    wos = {"name": "mine", "path": str(tmp_path / "savedrecs.txt"), "licence": "by subscription"}
    results = build(make(sources=[*(s.model_dump() for s in make().sources), wos]))
    printed = capsys.readouterr().out
    expected = {"arxiv": "CC0", "full": "not stated", "mine": "by subscription", "general": "not stated"}
    assert results["licences"] == expected
    assert all(f"{source}: {licence}" in printed for source, licence in results["licences"].items())
    assert "mine: holds Web of Science" in printed
    assert results["formats"] == {"arxiv": ["arxiv"], "full": ["sample"], "mine": ["wos"], "general": ["text"]}


def test_a_balanced_corpus_leaves_the_surplus_unused(make, built):
    def kept(results):
        return {name: results["documents"][name]["chars"]["kept"] for name in ("arxiv", "full")}

    before = kept(built.results)
    larger, smaller = sorted(before, key=before.get, reverse=True)
    assert before[larger] / sum(before.values()) > 0.55
    even = {"max_source_share": 0.51, "max_discipline_share": None, "seed": 0}
    results = build(corpus := make(balance=even))
    after = kept(results)
    assert after[smaller] == before[smaller]
    assert 0.4 < after[larger] / sum(after.values()) <= 0.51
    assert results["documents"][larger]["unused"] > 0
    assert {r["reason"] for r in ledger_of(corpus) if r["outcome"] == "unused"} == {"balance_source"}
    with raises("balance-not-met", "balance.max_source_share=0.4", " 2 sources (arxiv, full)", " 0.50."):
        build(make(balance={**even, "max_source_share": 0.4}, out=corpus.out + "2"))


def test_papers_of_evaluation_files_and_of_other_languages_are_dropped(make, tmp_path):
    lines = (tmp_path / "arxiv" / "one.jsonl").read_text().splitlines()
    (tmp_path / "eval.json").write_text(json.dumps([{"input": json.loads(lines[4])["abstract"], "output": "x"}]))
    french = "Nous avons étudié les propriétés de la matière dans le cadre de la théorie. Les résultats sont "
    english = "We have studied the properties of matter in the framework of the theory. The results are in "
    texts = [french + "en accord avec les mesures faites au laboratoire.", english + "agreement with those of others."]
    texts.append(f"{english}disagreement with those of other laboratories. {texts[0]}")
    longer = "Films of tin grow whiskers where they are kept under stress. The rate was measured in the air at four "
    longer += "temperatures and is compared with a model of diffusion, which explains the delay and the length."
    texts.append(f"{longer} Показано, что скорость роста зависит от напряжения, и предложена модель этого явления.")
    write_lines(tmp_path / "two.jsonl", [paper(800 + i, abstract=text) for i, text in enumerate(texts)])
    two = {"name": "two", "path": str(tmp_path / "two.jsonl")}
    corpus = make(sources=[{"name": "arxiv", "path": str(tmp_path / "arxiv")}, two], max_drop_share=1.0)
    results = build(recipes.update(corpus, decontaminate=[str(tmp_path / "eval.json")]))
    assert results["documents"]["arxiv"]["dropped"]["contaminated"] == 1
    (row,) = [r for r in ledger_of(corpus) if r["reason"] == "contaminated"]
    assert (row["id"], row["other_id"]) == ("arxiv:2501.00004", "eval.json#1")
    results = build(recipes.update(corpus, languages=["en"], out=str(tmp_path / "english")))
    assert results["documents"]["two"]["dropped"] == {"language:fr": 1}
    kept = {d.id: d.abstract for d in read_documents(tmp_path / "english" / "documents")}
    assert kept["arxiv:2501.00803"] == longer
    assert kept["arxiv:2501.00802"] == f"{english}disagreement with those of other laboratories."


def test_methods_are_compared_with_evaluation_files_too(make, tmp_path):
    lines = (tmp_path / "full" / "papers.jsonl").read_text().splitlines()
    methods = json.loads(lines[3])["sections"][0]["text"]
    (tmp_path / "eval.json").write_text(json.dumps([{"input": methods, "output": "x"}]))
    corpus = make(decontaminate=[str(tmp_path / "eval.json")], max_drop_share=1.0)
    assert build(corpus)["documents"]["full"]["dropped"] == {"contaminated": 1}
    (tmp_path / "eval.json").write_text(json.dumps([{"input": prose(9), "output": "x"}]))
    evaluation_index.cache_clear()  # as in another process
    with raises("finished-result-differs", "(changed: decontaminate)"):
        build(corpus)


@pytest.fixture
def stopped(make, monkeypatch):
    """The recipe of a build that was stopped for consent; it fails if it reads the sources again."""
    with raises("corpus-many-dropped"):
        build(make(max_drop_share=0.01))
    monkeypatch.setattr(sources, "read", Mock(side_effect=AssertionError("read again")))
    return make


def test_later_settings_do_not_read_the_sources_again(stopped):
    assert build(stopped(row_tokens=128))["rows"]["phase1/train"]["tokens"] > 0


def test_settings_that_reading_obeys_read_the_sources_again(stopped):
    for change in ({"languages": ["de"]}, {"min_chars": 500}, {"near_duplicate_jaccard": 0.7}):
        with pytest.raises(AssertionError, match="read again"):
            build(stopped(**change))


def test_an_unreadable_source_is_refused_before_any_is_read(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "read", Mock(side_effect=AssertionError("read")))
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("import os")
    with raises("source-unreadable", "not_this_format 1"):
        build(make(sources=[*(s.model_dump() for s in make().sources), {"name": "x", "path": str(tmp_path / "code")}]))


def test_a_corrected_source_leaves_the_reading_of_the_others(stopped, tmp_path, monkeypatch):
    more = write_lines(tmp_path / "more.jsonl", [paper(700 + i) for i in range(9)])
    new = {"name": "more", "path": str(more)}
    old = [source.model_dump() for source in stopped().sources]
    read = Mock(side_effect=sources._records_of)
    monkeypatch.setattr(sources, "read", read)
    for listed, again in (
        ([new, *old], {"more"}), ([old[1], new, old[0]], set()), ([new, old[0]], set()),
        ([new, {**old[0], "licence": "other"}, old[1]], {"full"}),
    ):  # fmt: skip
        read.reset_mock()
        with raises("corpus-many-dropped"):
            build(stopped(sources=listed, max_drop_share=0.0))
        assert {call.args[0].name for call in read.call_args_list} == again
    corpus = stopped(sources=listed, max_drop_share=1.0)
    build(corpus)
    build(recipes.update(corpus, out=str(tmp_path / "fresh")))
    kept = digests(Path(corpus.out) / "documents")
    assert kept == digests(tmp_path / "fresh/documents")


def test_the_ledger_counts_by_language_and_names_encodings(make, tmp_path):
    text = tomllib.loads((DATA / "encodings.toml").read_text())["zh"]["text"]
    records = [f"TY  - JOUR\nTI  - {text[n : n + 9]}\nAB  - {text[n:]}{text[:n]}\nER  - \n" for n in (0, 40)]
    records[1] = records[1].replace("铁", "铜")
    (tmp_path / "z.ris").write_bytes("\n".join(records).encode("gbk"))
    results = build(corpus := make(sources=[*(s.model_dump() for s in make().sources),
                                            {"name": "z", "path": str(tmp_path / "z.ris")}]))  # fmt: skip
    counts = results["languages"]["zh"]
    assert counts["in"] == 2 == counts["kept"] + counts["heldout"] + counts["duplicate"]
    assert sum(c["in"] for c in results["languages"].values()) == sum(c["in"] for c in results["documents"].values())
    assert results["encodings"]["z"] == ["gb18030"]
    files = pq.read_table(f"{corpus.out}/ledger_files.parquet").to_pylist()
    assert {(f["source"], f["encoding"]) for f in files} >= {("z", "gb18030"), ("arxiv", "utf-8")}


def test_a_corpus_trains_the_tokenizer_of_an_encoder(make, tmp_path):
    asked = {"vocab_size": 400, "model": "encoder"}
    with raises("corpus-encoder-end", "'</s>'"):
        make(train_tokenizer=asked)
    build(make(train_tokenizer=asked, end_of_text="</s>"))
    opened = tokenizer.load_tokenizer(str(tmp_path / "out/tokenizer"))
    assert [opened.id_to_token(number) for number in range(5)] == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    row = Rows(tmp_path / "out/rows/phase1/train")[0].input_ids
    assert (row[0], row[-1]) == (0, 2)
    with raises("finished-result-differs"):
        build(make())
