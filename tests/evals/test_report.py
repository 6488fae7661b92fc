"""Both phases on a pico model, then the report, through the verbs a user calls."""

import json
from pathlib import Path

import pytest

from nsllm_lite.evals.report import disciplines_of, markdown_table, report
from nsllm_lite.formats.documents import Document, parquet_writer, table_of
from nsllm_lite.formats.rows import Rows
from nsllm_lite.merge.write_model import merge
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import PackedLM
from nsllm_lite.recipe.evals import Report
from nsllm_lite.train.cpt import train
from tests.merge.make import make_recipe
from tests.models.make import load_plain
from tests.raising import raises


def report_recipe(pico, root: Path) -> Report:
    rows = str(pico / "rows/papers/heldout")
    return Report(
        kind="report", out=str(root / "report"), base=str(pico / "base"), phase1=str(root / "phase1"),
        model1=str(root / "model1"), phase2=str(root / "phase2"), model2=str(root / "model2"), abstract_rows=rows,
        experiment_rows=rows, general_rows=str(pico / "rows/general/heldout"), max_rows=4,
    )  # fmt: skip


@pytest.mark.pictures
def test_the_whole_chain_ends_in_a_report(pico, pico_recipe, tmp_path, capsys):
    with raises("report-phase-unfinished", tmp_path / "phase1"):
        report(report_recipe(pico, tmp_path))
    first = train(pico_recipe(out=str(tmp_path / "phase1")))
    merge(make_recipe(pico / "base", tmp_path / "phase1/adapter", tmp_path / "model1"))
    second = train(pico_recipe(out=str(tmp_path / "phase2"), model=str(tmp_path / "model1"), seed=8))
    merge(make_recipe(tmp_path / "model1", tmp_path / "phase2/adapter", tmp_path / "model2"))
    scores = report(report_recipe(pico, tmp_path))

    assert list(scores) == [
        "base", "NF4(base)", "phase 1: adapter on NF4(base)", "phase 1: merged", "phase 1: NF4(merged)",
        "phase 2: adapter on NF4(phase 1 merged)", "phase 2: merged", "phase 2: NF4(merged)",
    ]  # fmt: skip
    # the report and the training logs speak of the same model
    for stage, results in (("phase 1: adapter on NF4(base)", first),
                           ("phase 2: adapter on NF4(phase 1 merged)", second)):  # fmt: skip
        logged = results["heldout"]["after"]["domain"]["all"]["loss"]
        assert scores[stage]["abstracts"]["loss"] == pytest.approx(logged, abs=1e-6)
    logged = second["heldout"]["before"]["domain"]["all"]["loss"]
    assert scores["phase 1: NF4(merged)"]["abstracts"]["loss"] == pytest.approx(logged, abs=1e-6)
    assert scores["phase 2: merged"]["abstracts"]["loss"] < scores["base"]["abstracts"]["loss"]
    assert (tmp_path / "report/report.png").stat().st_size > 10_000
    table = (tmp_path / "report/report.md").read_text()
    assert f"| phase 2: merged | {scores['phase 2: merged']['abstracts']['loss']:.4f} |" in table
    assert markdown_table(scores) in capsys.readouterr().out
    assert "| abstracts, papers | " in table  # no documents, no disciplines: by source
    forgot = scores["phase 2: merged"]["general"]["loss"] - scores["base"]["general"]["loss"]
    assert f"| phase 2: merged | {scores['phase 2: merged']['general']['loss']:.4f} | {forgot:+.4f} |" in table
    # lineage: each manifest carries the hash of what it was made from
    manifest = json.loads((tmp_path / "report/manifest.json").read_text())
    assert {"phase1", "model1", "phase2", "model2"} <= set(manifest["inputs"])
    assert report(report_recipe(pico, tmp_path)) == scores
    assert "finished, skipped" in capsys.readouterr().out

    other = report_recipe(pico, tmp_path).model_copy(update={"base": str(tmp_path / "model2"), "out": f"{tmp_path}/o"})
    with raises("merge-base-differs", tmp_path / "phase1/adapter", tmp_path / "model2"):
        report(other)
    assert not (tmp_path / "o").exists()

    # killed half-way: what was scored is taken as it is, the rest is scored, and the table is the same
    half = dict(list(scores.items())[::2])
    (tmp_path / "report/scores.json").write_text(json.dumps(half))
    for name in ("manifest.json", "report.md"):
        (tmp_path / "report" / name).unlink()
    again = report(report_recipe(pico, tmp_path))
    assert list(again) == list(scores)
    assert again == scores
    assert (tmp_path / "report/report.md").read_text() == table


def test_bits_per_byte_by_discipline(pico, tmp_path):
    """Groups of documents add up to all of them."""
    rows = heldout.sample_rows(Rows(pico / "rows/papers/heldout"), 8)
    ids = sorted({name for row in rows for name in row.doc_ids})
    labels = ["Physics", "Biology", ""]
    documents = [Document(name, "s", "o", discipline=labels[number % 3]) for number, name in enumerate(ids)]
    with parquet_writer(tmp_path / "00000.parquet") as writer:
        writer.write_table(table_of(documents))
    found = heldout.score(PackedLM(load_plain(pico / "base")), rows, 2, "cpu", disciplines_of(tmp_path))
    assert set(found) == {"all", "Physics", "Biology", "papers"}
    parts = [found[name] for name in ("Physics", "Biology", "papers")]
    for count in ("targets", "nats", "bytes"):
        assert sum(getattr(one, count) for one in parts) == pytest.approx(getattr(found["all"], count))
