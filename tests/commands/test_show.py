"""Runs and where they come from, from the files of a chain made by hand."""

import json
import os
from pathlib import Path
from string import Template

import numpy as np
import pytest
from matplotlib.image import imread
from safetensors.numpy import save_file

from nsllm_lite import cli
from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import sha256_json, write_json
from nsllm_lite.artifact.lineage import read_step
from nsllm_lite.artifact.step import manifest_sha256
from nsllm_lite.formats.rows import Row, Rows, RowTotals, write_rows
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.recipe.kinds import KINDS
from tests.raising import fails

DATA = Path(__file__).parents[1] / "data/commands"
CHAIN, TREE = Template((DATA / "chain.json").read_text()), (DATA / "tree.txt").read_text()
ROWS = ("general", "phase1")


def make_rows(folder: Path, seed: int) -> str:
    ids = np.random.default_rng(seed).integers(1, 9, 8).astype(np.int32)
    write_rows(folder, [Row(ids, [8], ["doc"], ["s"], [30])], RowTotals(8, 0, "tokenizer"))
    return Rows(folder).sha256


def weights(folder: Path, name: str, value: float) -> Path:
    folder.mkdir(parents=True)
    save_file({"w": np.full((2, 2), value, np.float32)}, folder / name)
    return folder / name


def finish(folder: Path, verb: str, recipe: dict, inputs: dict, results: dict, minute: int, **measured: object) -> None:
    times = {"started": f"2026-01-02T03:{minute:02}:00Z", "finished": f"2026-01-02T03:{minute:02}:30Z", "seconds": 30.0}
    write_json(folder / "times.json", times | measured)
    manifest = {"verb": verb, "recipe": {"kind": verb} | recipe, "inputs": inputs, "versions": {}, "results": results}
    write_json(folder / "manifest.json", manifest)


def heldout(domain: float, general: float) -> dict:
    losses = {"domain": domain, "general": general}
    return {name: {"all": {"loss": loss, "bits_per_byte": loss / 2, "tokens": 9}} for name, loss in losses.items()}


def trained(
    folder: Path, recipe: dict, inputs: dict, before: tuple[float, float], after: tuple[float, float], minute: int
) -> None:
    """A finished training; `before` and `after` are its losses on papers and on general text."""
    first, last = heldout(*before), heldout(*after)
    lines = [{"step": 0, "tokens": 0, "heldout": first}, {"step": 1, "tokens": 1000, "loss": 2.5}]
    lines += [{"step": 1, "tokens": 1000, "heldout": last}]
    write_atomic(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    results = {"tokens": 1000, "coverage": 0.5, "heldout": {"before": first, "after": last}}
    finish(folder, "train", recipe, inputs, results, minute, train_tokens_per_s=123.4, peak_memory_gib=1.5)


@pytest.fixture
def chain(tmp_path) -> Path:
    """project/runs/x: sources -> corpus -> base -> phase1 -> model1; the recipes' paths start at the project."""
    root = tmp_path / "project/runs/x"
    hashes = {name: make_rows(root / f"corpus/rows/{name}/train", seed) for seed, name in enumerate(ROWS)}
    weights(root / "base/model", "model.safetensors", 1)
    weights(root / "model1", "model.safetensors", 3)
    hashes["base"] = fingerprint_weights(root / "base/model")
    hashes["adapter"] = sha256_file(weights(root / "phase1/adapter", "adapter_model.safetensors", 2))
    for name, step in json.loads(CHAIN.substitute(hashes)).items():
        (finish if "verb" in step else trained)(root / name, **step)
    return root


def make_tasks(chain: Path, counts: dict) -> None:
    inputs = {"corpus": manifest_sha256(chain / "corpus")}
    finish(chain / "tasks", "tasks", {"corpus": "runs/x/corpus"}, inputs, {"tasks": counts}, 5)


def told(capsys, *words: str) -> str:
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


def test_the_list_as_a_table_and_as_json(chain, capsys, monkeypatch):
    monkeypatch.chdir(chain.parents[1])
    lines = told(capsys, "runs").splitlines()
    assert lines[0].split("  ")[0] == "run"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[1:]]
    assert [row[:2] for row in cells] == [
        ["runs/x/corpus", "corpus"], ["runs/x/base", "train general"], ["runs/x/phase1", "train phase1"],
        ["runs/x/model1", "merge"],
    ]  # fmt: skip
    assert cells[0][2:5] == ["dumps/arxiv.json, bundled:general", "2026-01-02 03:01", "1,434"]
    assert cells[2][2:7] == ["x/base/model", "2026-01-02 03:03", "1,000", "6.000 -> 4.250", "5.000 -> 5.125"]
    assert cells[3][2:4] == ["x/phase1/adapter", "2026-01-02 03:04"]
    assert {row[-1] for row in cells} == {"finished"}
    phase1 = json.loads(told(capsys, "runs", str(chain), "--json"))["runs"][2]
    assert phase1["run"] == str(chain / "phase1")
    assert (phase1["step"], phase1["rows"], phase1["state"], phase1["tokens"]) == ("train", "phase1", "finished", 1000)
    assert phase1["loss"] == {"domain": {"before": 6, "after": 4.25}, "general": {"before": 5, "after": 5.125}}
    assert phase1["made_from"] == ["runs/x/base/model"]
    assert phase1["bytes"] == sum(path.stat().st_size for path in (chain / "phase1").rglob("*") if path.is_file())


def test_unfinished_and_damaged_runs_are_said_to_be_so(chain, capsys):
    (chain / "phase1/manifest.json").rename(chain / "phase1/run.json")
    (chain / "phase1/times.json").unlink()
    with open(chain / "phase1/metrics.jsonl", "a") as file:
        file.write('{"step": 2, "tok')  # being written
    begun = {"recipe": {"kind": "merge", "base": "B", "adapter": "A"}, "inputs": {}, "version": "1"}
    write_json(chain / "model2.partial/merging.json", begun)
    begun = {"recipe": {"sources": []}, "inputs": {}, "version": "1"}
    write_json(chain.parent / "y/corpus" / KINDS["corpus"].begun, begun)
    (chain / "base/manifest.json").write_text("{")
    write_json(chain / "wandb/manifest.json", {"of": "something else"})
    found = json.loads(told(capsys, "runs", str(chain.parent), "--json"))["runs"]
    states = {str(Path(row["run"]).relative_to(chain.parent)): row["state"] for row in found}
    assert states == {
        "x/corpus": "finished", "x/base": "damaged", "x/phase1": "unfinished", "x/model1": "finished",
        "x/model2.partial": "unfinished", "y/corpus": "unfinished",
    }  # fmt: skip
    phase1 = next(row for row in found if row["run"].endswith("phase1"))
    assert (phase1["tokens"], phase1["loss"]["domain"]["after"]) == (1000, 4.25)
    assert found[-1]["step"] == "corpus"
    ends = [line.split()[-1] for line in told(capsys, "runs", str(chain)).splitlines()]
    assert (ends.count("unfinished"), ends.count("damaged"), ends.count("finished")) == (2, 1, 2)


def test_the_lineage_of_a_model_from_any_folder(chain, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # not the folder that the paths in the recipes start from
    text = told(capsys, "show", str(chain / "model1"))
    assert text.startswith(TREE)
    assert "Of 8 inputs 6 were hashed" in text
    line = next(line for line in text.splitlines() if line.startswith("phase1") and " domain " in line)
    assert " ".join(line.split()) == "phase1 1,000 0.50 x domain 6.0000 -> 4.2500 3.0000 -> 2.1250 123 1.50"
    assert f"{chain}/model1/curves.png: " in text
    heads, arxiv = (" ".join(line.split()) for line in text.split("corpus: documents that state\n")[1].splitlines()[:2])
    assert (heads, arxiv) == ("source authors date of all", "arxiv 80 79 80")


@pytest.mark.pictures
def test_the_curves_are_one_picture_with_a_panel_a_phase(chain, capsys, tmp_path):
    pictures = {}
    for name in ("model1", "base"):
        told(capsys, "show", str(chain / name), "--out", str(tmp_path / f"{name}.png"))
        pictures[name] = imread(tmp_path / f"{name}.png")
    assert pictures["model1"].shape[1] == (1 + 4 * 2) * 120
    assert pictures["base"].shape[1] == (1 + 4) * 120
    for picture in pictures.values():  # the curves of the held-out losses are there
        blue, orange = (abs(picture[..., :3] - colour).max(-1) < 0.02 for colour in ((0.122, 0.467, 0.706),
                                                                                    (1, 0.498, 0.055)))  # fmt: skip
        assert blue.sum() > 200
        assert orange.sum() > 200


def test_what_was_made_anew_since_is_told(chain, capsys):
    make_rows(chain / "corpus/rows/phase1/train", 9)
    text = told(capsys, "show", str(chain / "model1"))
    assert "├─ base  train on general" in text
    assert "corpus  corpus: tokens of general 200, phase1 1,234 (above)  (rows changed since)" in text
    assert "1 of 6 inputs" in text
    weights(chain / "other", "adapter_model.safetensors", 5).replace(chain / "phase1/adapter/adapter_model.safetensors")
    assert "(adapter changed since)" in told(capsys, "show", str(chain / "model1"))


def test_a_base_from_elsewhere_and_a_corpus_that_is_gone(chain, capsys):
    manifest = json.loads((chain / "phase1/manifest.json").read_text())
    recipe = manifest["recipe"] | {"model": "Qwen/Qwen3-8B-Base", "rows": "runs/gone/rows/phase1/train", "replay": None}
    trained(chain / "phase1", recipe, {"rows": "x", "base": "y"}, (6, 5), (4, 5), 3)
    text = told(capsys, "show", str(chain / "phase1"))
    assert "├─ Qwen/Qwen3-8B-Base  a hub id" in text
    assert "└─ runs/gone/rows/phase1/train  a hub id" in text
    assert "hashed again" not in text


@pytest.mark.pictures
def test_a_whole_run_shows_each_end_once(chain, capsys):
    make_tasks(chain, {"title": {"train": 5, "test": 2}, "open": {"train": 1, "test": 1}})
    text = told(capsys, "show", str(chain))
    assert text.startswith(TREE)
    assert "tasks  tasks: 6 items to train, 3 to test\n└─ corpus  corpus: tokens of " in text
    assert (chain / "curves.png").stat().st_size > 5000


def test_instruction_tuning_with_its_data(chain, capsys):
    data = chain / "tasks/train/title.jsonl"
    write_atomic(data, "{}\n")
    make_tasks(chain, {})
    answers = [{"answers": {"all": {"loss": loss, "tokens": 3}}} for loss in (3.0, 1.5)]
    recipe = {"model": "runs/x/model1", "data": ["runs/x/tasks/train"]}
    inputs = {"base": fingerprint_weights(chain / "model1"), "data": sha256_json([sha256_file(data)])}
    results = {"tokens": 70, "epochs": 2, "heldout": {"before": answers[0], "after": answers[1]}}
    finish(chain / "sft", "sft", recipe, inputs, results, 6)
    last = json.loads(told(capsys, "show", str(chain / "sft"), "--json"))["lineage"][-1]
    assert {one["label"]: one["state"] for one in last["inputs"]} == {"model": "as used", "data": "as used"}
    assert [one["made_by"] for one in last["inputs"]] == [str(chain / "model1"), str(chain / "tasks")]
    assert last["loss"] == {"answers": {"before": 3.0, "after": 1.5}}
    assert "instruction tuning: 70 tokens, answers 3.000 -> 1.500" in told(capsys, "show", str(chain / "sft"))
    write_atomic(data, "{}\n{}\n")
    assert "(data changed since)" in told(capsys, "show", str(chain / "sft"))


def test_a_run_as_one_page(chain, tmp_path, capsys):
    dropped = {"not an article": 2, "too short": 30}
    counts = {"in": 1040, "kept": 1000, "heldout": 8, "duplicate": 0, "unused": 0, "dropped": dropped, "chars": {}}
    write_json(chain / "corpus/ledger.json", {"documents": {"<script>mine</script>": counts}})
    finish(chain / "eval", "eval", {"models": [{"name": "a", "path": "runs/x/model1"}]}, {}, {}, 7)
    scores = "# Scores\n\n| model | title |\n|---|---:|\n| <b>base</b> | 0.51 |\n\n![x](http://y/z.png) [l](http://y)\n"
    (chain / "eval/report.md").write_text(scores)
    page = tmp_path / "new/page.html"
    assert f"{page}: " in told(capsys, "show", str(chain), "--html", str(page))
    text = page.read_text()
    assert "<td>1,040</td><td>1,000</td><td>8</td><td>0</td><td>32</td><td>0</td>" in text
    assert "<td>too short 30, not an article 2</td>" in text
    assert "<td>phase1</td>" in text
    assert "train on phase1, LoRA rank 16 on nf4" in text
    assert '<td style="text-align:right">0.51</td>' in text
    assert text.count("<img ") == 1  # the curves; nothing is fetched from elsewhere
    assert 'src="data:image/png;base64,iVBOR' in text
    assert "&lt;script&gt;mine" in text
    for unsafe in ("<script", "<b>", 'src="http', 'href="http'):
        assert unsafe not in text


@pytest.mark.parametrize(
    ("name", "change", "where"),
    [
        ("manifest.json", {"recipe": {"kind": "train", "rows": 5}}, "recipe.rows: "),
        ("manifest.json", {"results": []}, "results: "),
        ("manifest.json", {"inputs": {"base": 1}}, "inputs.base: "),
        ("manifest.json", {"verb": ["train"]}, "kind"),
        ("times.json", {"started": 5}, "started: "),
    ],
)
def test_a_manifest_that_tells_something_else_is_damaged(chain, capsys, name, change, where):
    path = chain / "phase1" / name
    values = json.loads(path.read_text()) | change
    values.pop("seal", None)  # as somebody would who changes it by hand
    path.write_text(json.dumps(values))
    text = fails(capsys, "file-damaged", "show", str(chain / "phase1"))
    assert str(path) in text
    assert where in text
    assert "damaged" in told(capsys, "runs", str(chain))


def test_metrics_end_where_a_line_is_none(chain):
    path = chain / "phase1/metrics.jsonl"
    whole = path.read_text().split("\n")
    not_of_metrics = ('{"step": "1", "tokens": 2}', '{"step": 1, "tokens": 2, "heldout": {"domain": 1}}')
    for line in ('{"step": 1, "tok', "[1]", *not_of_metrics):
        path.write_text("\n".join([whole[0], line, *whole[1:]]))
        assert [found["step"] for found in read_step(chain / "phase1").metrics()] == [0]


def test_what_is_no_run(tmp_path, capsys):
    fails(capsys, "run-not-found", "show", str(tmp_path))
    fails(capsys, "runs-folder-absent", "show", str(tmp_path / "none"))
    assert str(tmp_path) in told(capsys, "runs", str(tmp_path))
    assert os.listdir(tmp_path) == []
