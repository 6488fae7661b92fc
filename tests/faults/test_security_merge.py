"""Hostile templates, names and folders to merge: what is passed on is what was looked at."""

import json
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from nsllm_lite import cli, safety
from nsllm_lite.errors import UserError
from nsllm_lite.evals.evaluate import as_told
from nsllm_lite.formats.tokenizer import save_tokenizer
from nsllm_lite.models.engines import open_engine
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.recipe.evals import EvalExecution
from nsllm_lite.tasks.answers import is_equal
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.task import all_tasks
from tests.corpus.sources.reading import read_path
from tests.evals.conftest import make_talker
from tests.faults import hostile
from tests.faults.hostile import CODE, PICKLED, SECRET, ends_within, litter, merge_words, ran, with_code
from tests.raising import fails, raises

ROOT = Path(__file__).parents[2]
marker, made, pair = hostile.marker, hostile.made, hostile.pair

# ------------------------------------------------------------------------------------------------------- chat templates


TEMPLATES = tomllib.loads((ROOT / "tests/data/faults/chat_templates.toml").read_text())


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return open_engine(str(make_talker(tmp_path_factory.mktemp("talker"))), device="cpu", how=EvalExecution())


@pytest.mark.parametrize("attack", TEMPLATES)
@pytest.mark.timed
def test_a_chat_template_can_neither_leave_its_sandbox_nor_run_for_ever(engine, monkeypatch, marker, attack):
    monkeypatch.setattr(safety, "CHAT_SECONDS", 0.5)
    engine.tokenizer.chat_template = TEMPLATES[attack].replace("MARKER", repr(str(marker)))
    with ends_within(20), raises("eval-chat-template-refused", "few-shot"):
        as_told(engine.tokenizer, all_tasks()["open"], Item(0, "Is it?", "yes", {}), ())


# --------------------------------------------------------------------------------------------------- what a merge takes


def test_a_merge_takes_over_neither_code_nor_pickles_nor_their_names(pair, tmp_path, capsys):
    base, adapter = pair
    (base / "tokenizer_config.json").write_text('{"eos_token": "x"}')
    with_code(base, custom_pipelines={"evil": {"impl": "evil.Evil"}})
    litter(base)
    (base / "LICENSE.py").write_text(CODE)
    (base / "LICENSE").write_text("Free.")
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 0
    out = tmp_path / "out"
    assert {path.suffix for path in out.rglob("*") if path.is_file()} == {".json", ".safetensors", ".md", ""}
    assert (out / "LICENSE").read_text() == "Free."
    for path in out.glob("*.json"):
        if path.name != "manifest.json":
            assert "evil" not in path.read_text().lower(), path
    said = capsys.readouterr().out
    for name in ("tokenizer_evil.py", "vocab.pkl", "tokenizer.joblib", "LICENSE.py", "auto_map of config.json"):
        assert name in said
        assert name in json.loads((out / "manifest.json").read_text())["results"]["left_behind"]


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json", "config.json", "chat_template.jinja"])
def test_a_link_out_of_the_base_is_not_copied_into_the_merged_model(pair, tmp_path, capsys, name):
    """Which could be sent to the hub with a key of yours in it."""
    base, adapter = pair
    content = (base / name).read_text() if (base / name).is_file() else SECRET
    (tmp_path / "secret").write_text(content)
    (base / name).unlink(missing_ok=True)
    (base / name).symlink_to("../secret")
    words = merge_words(base, adapter, tmp_path / "out")
    assert str(tmp_path / "secret") in fails(capsys, "model-link-outside", *words)
    assert not (tmp_path / "out").exists()


def test_the_cache_of_the_hub_is_merged_through_its_links(pair, tmp_path):
    base, adapter = pair
    snapshot = tmp_path / "models--org--base/snapshots/0123"
    (tmp_path / "models--org--base/blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(base.iterdir())):
        path.rename(tmp_path / f"models--org--base/blobs/{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert cli.main([*merge_words(snapshot, adapter, tmp_path / "out"), "--trust-base"]) == 0
    copied = (tmp_path / "out/tokenizer.json", tmp_path / "out/config.json")
    assert all(path.is_file() and not path.is_symlink() for path in copied)


HOSTILE = "evil\n---\nlicense: mit\n---\n# Owned <script>alert(1)</script> | x | `y` \x1b[2J"


def test_the_card_cannot_be_written_by_the_base(pair, tmp_path):
    base, adapter = pair
    front = {"license": HOSTILE, "license_name": HOSTILE, "license_link": "javascript:alert(1)", "tags": [HOSTILE]}
    (base / "README.md").write_text(f"---\n{yaml.safe_dump(front)}---\n")
    manifest = {"verb": "merge", "recipe": {}, "inputs": {}, "results": {"base_model": HOSTILE}, "versions": {}}
    (base / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main([*merge_words(base, adapter, tmp_path / "out"), "--trust-base"]) == 0
    text = (tmp_path / "out/README.md").read_text()
    _, head, body = text.split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["tags"] == ["nsllm-lite"]
    assert values["license"] == HOSTILE  # as data; the hub knows no such licence
    assert "base_model" not in values
    assert "<script" not in body
    assert "\x1b" not in text
    assert next(line for line in body.splitlines() if line.startswith("#")) == "# out"
    assert "# Owned" not in body.splitlines()


FRONTS = {
    "a: &a [x]\nb: &b [*a,*a]\nlicense: mit": "mit", "d: 2001-99-99": "unknown", "[" * 600: "unknown",
    "a: !!python/object/apply:os.mkdir [x]": "unknown",
}  # fmt: skip


@pytest.mark.parametrize("front", FRONTS)
def test_front_matter_of_a_hostile_card_ends_in_no_licence(pair, tmp_path, front):
    base, adapter = pair
    (base / "README.md").write_text(f"---\n{front}\n---\n")
    assert cli.main(merge_words(base, adapter, tmp_path / "out")) == 0
    head = (tmp_path / "out/README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["license"] == FRONTS[front]


# ---------------------------------------------------------------------------------------------------------------- names

NAMES = ["https://evil.example/m", "http://evil/m", "file:///etc/passwd", "hf://evil/m", "-rf/x", "--out/x", "a/b\nc"]
NAMES += ["../../etc/passwd", "/etc/passwd", "~/x/y", "a/../b", "evil/..", "a\\b/c", "a/b@main", "a b/c", "s3:x/y", ""]


@pytest.mark.parametrize("name", NAMES)
def test_a_models_name_is_a_folder_or_a_hub_id_and_nothing_else(monkeypatch, tmp_path, capsys, name):
    monkeypatch.setattr("huggingface_hub.snapshot_download", ran)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", ran)
    assert not safety.HUB_ID.fullmatch(name)
    with pytest.raises(UserError) as caught:
        resolve_model(name)
    assert caught.value.code in ("model-not-found", "model-no-config")
    words = [f"--model={name}", f"--out={tmp_path / 'run'}", "--recipes=recipes/nano"]
    if name:
        assert cli.main(["plan", *words]) == 2
        assert "\n" not in capsys.readouterr().err.strip()


@pytest.mark.parametrize("name", [*filter(None, NAMES), "a", "a/b/c", "-a/b"])
def test_models_are_sent_to_a_hub_id_and_nowhere_else(pair, tmp_path, capsys, name):
    fails(capsys, "push-id-invalid", *merge_words(*pair, tmp_path / "out"), f"--push-to-hub={name}")
    assert not (tmp_path / "out").exists()


def test_an_extension_type_with_a_pickle_in_it_is_not_unpickled(tmp_path):
    """As Arrow once did of itself (CVE-2023-47248)."""
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": PICKLED}
    fields = [pa.field(name, pa.string(), metadata=extension) for name in ("title", "abstract")]
    table = pa.table({"title": ["Tin"], "abstract": ["Whiskers"]}, schema=pa.schema(fields, {"pandas": PICKLED}))
    pq.write_table(table, tmp_path / "a.parquet")
    names = {"title": "title", "abstract": "abstract"}
    (document,) = read_path(tmp_path / "a.parquet", "fields", fields=names)
    assert document.title == "Tin"


def test_a_good_model_stays_good(pair):
    """The refusals above are not refusals of everything."""
    base, _ = pair
    safety.require_plain_model(base)
    (base / "model.safetensors").rename(base / "model-1.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert safety.weight_files(base) == ["model-1.safetensors"]


# ------------------------------------------------------------------------------------------------------------ answers

PYTHON = "__import__('os').mkdir(MARKER)"
ANSWERS = [PYTHON, f"1+{PYTHON}", f"${PYTHON}$", f"\\frac{{1}}{{{PYTHON}}}", f"\\mathrm{{{PYTHON}}}^2", f"1=({PYTHON})"]
ANSWERS += [f"\\boxed{{1+{PYTHON}}}", f"(1).__class__.__base__+{PYTHON}", "9**9**9**9"]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.timed
def test_what_a_model_answers_is_read_as_mathematics_and_never_as_python(marker, monkeypatch, answer):
    """SymPy's own parser evaluates Python; nothing of a model's answer may come to it."""
    monkeypatch.setattr("nsllm_lite.tasks.answers.COMPARE_SECONDS", 1)
    with ends_within(20):
        for right in ("1", "x^2"):
            assert not is_equal(answer.replace("MARKER", repr(str(marker))), right)


def test_a_link_out_of_the_model_is_not_copied_beside_the_rows(tmp_path):
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tokenizer.json").symlink_to("../secret")
    with raises("model-link-outside", tmp_path / "model/tokenizer.json", tmp_path / "secret"):
        save_tokenizer(str(tmp_path / "model"), tmp_path / "out")
