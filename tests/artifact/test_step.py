import json
import time

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import require_disk
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.artifact.step import begin, finish, finished, read_manifest
from nsllm_lite.formats.documents import Document, Section, parquet_writer, read_documents, table_of
from nsllm_lite.formats.weights import fingerprint_weights
from tests.raising import raises


def test_a_directory_finished_by_its_manifest_alone(tmp_path):
    out = tmp_path / "out"
    recipe, inputs = {"seed": 1}, {"rows": "abc"}
    assert finished(out, recipe, inputs) is None
    begin(out, recipe, inputs)
    assert finished(out, recipe, inputs) is None
    finish(out, "train", recipe, inputs, {"loss": 1.5}, time.time(), {"peak_memory_gib": 2})
    assert finished(out, recipe, inputs) == {"loss": 1.5}
    manifest = read_manifest(out)
    assert manifest["results"] == {"loss": 1.5}
    assert manifest["versions"]["torch"].startswith("2.")
    assert "started" not in json.dumps(manifest)  # times are elsewhere: the manifest is reproducible
    assert json.loads((out / "times.json").read_text())["peak_memory_gib"] == 2
    assert finished(out, recipe | {"added later": False, "and this": None}, inputs) == {"loss": 1.5}
    with raises("finished-result-differs", out, "recipe.added later"):
        finished(out, recipe | {"added later": True}, inputs)
    with raises("finished-result-differs", out, "recipe.seed, rows"):
        finished(out, {"seed": 2}, {"rows": "abd"})
    with raises("unfinished-run-differs", out, ": rows)"):
        begin(out, recipe, {"rows": "abd"})
    (out / "manifest.json").write_text('{"recipe": {')
    with raises("file-damaged", out / "manifest.json"):
        finished(out, recipe, inputs)


@pytest.mark.parametrize("name", ["model/notes.md", "work/thesis.tex", "trials/x", "tokenizer.json", "manifest.txt"])
def test_a_folder_that_no_run_has_made_is_not_written_to(tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with raises("out-not-empty", tmp_path / "out", name.partition("/")[0]):
        begin(tmp_path / "out", {"seed": 1}, {})
    assert [each for each in (tmp_path / "out").rglob("*") if each.is_file()] == [path]


def test_a_run_json_of_another_program_is_not_overwritten(tmp_path):
    (tmp_path / "run.json").write_text('{"mine": 1}')
    with raises("file-damaged", tmp_path / "run.json"):
        begin(tmp_path, {"seed": 1}, {})
    assert read_json(tmp_path / "run.json") == {"mine": 1}


def test_an_empty_folder_and_one_that_a_kill_left_are_written_to(tmp_path):
    (tmp_path / "run.json.part").write_text("{")  # of a run that was killed while it wrote it
    (tmp_path / ".DS_Store").write_text("")
    begin(tmp_path, {"seed": 1}, {})
    (tmp_path / "work").mkdir()
    begin(tmp_path, {"seed": 1}, {})
    assert read_json(tmp_path / "run.json")["recipe"] == {"seed": 1}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_weights_have_an_identity(tmp_path):
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 1.001)):
        (tmp_path / name).mkdir()
        weight = torch.ones(700, 300)
        weight[350:] = value
        save_file({"w": weight}, tmp_path / name / "model.safetensors")
    prints = [fingerprint_weights(tmp_path / name) for name in "abc"]
    assert prints[0] == prints[1] != prints[2]
    with raises("weights-absent", tmp_path):
        fingerprint_weights(tmp_path)
    (tmp_path / "a/model.safetensors").write_bytes(b"\xff" * 40)
    with raises("weights-not-safetensors", tmp_path / "a/model.safetensors"):
        fingerprint_weights(tmp_path / "a")


def test_disk_is_asked_before_a_long_write(tmp_path):
    require_disk(tmp_path / "not" / "yet", 1000, "x")
    with raises("disk-too-small", "the merged model", tmp_path, f"{2**30:.1f} GiB"):
        require_disk(tmp_path, 2**60, "the merged model")


def test_documents_come_back_as_they_were(tmp_path):
    documents = [
        Document("pmid:1", "s", "f.xml#1", "T µ", "A ± b", (Section("Methods", "m", ("Top",), "methods"),), "", "",
                 (("Results", "r."),)),
        Document("x", "s", "a#b.txt#2", text="plain"),
    ]  # fmt: skip
    with parquet_writer(tmp_path / "d.parquet") as writer:
        writer.write_table(table_of(documents))
    assert list(read_documents(tmp_path / "d.parquet")) == documents
    group = pq.read_metadata(tmp_path / "d.parquet").row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"LZ4", "ZSTD"}  # none left out
    assert documents[0].num_chars == len("T µ") + len("A ± b") + len("Methods") + len("m")


def test_a_run_that_failed_at_once_binds_nobody(tmp_path):
    begin(tmp_path / "out", {"seed": 1}, {})
    begin(tmp_path / "out", {"seed": 2}, {})
    assert read_json(tmp_path / "out/run.json")["recipe"] == {"seed": 2}
    (tmp_path / "out/metrics.jsonl").touch()
    with raises("unfinished-run-differs", ": recipe.seed)"):
        begin(tmp_path / "out", {"seed": 3}, {})


@pytest.mark.parametrize(
    "text", ["{}", '{"files": null}', '{"files": []}', '{"files": {"a": 5}}', '{"files": {"a": {"bytes": "x"}}}',
             '{"files": {"../a": {"bytes": 1, "sha256": ""}}}', '{"files": {"/a": {"bytes": 1, "sha256": ""}}}'],
)  # fmt: skip
def test_a_damaged_list_of_files_is_named_and_leads_nowhere(tmp_path, text):
    (tmp_path / "files.json").write_text(text)
    with raises("file-damaged", tmp_path / "files.json"):
        integrity.verify(tmp_path)
