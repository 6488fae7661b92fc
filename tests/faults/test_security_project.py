"""The project itself: what its code never calls, what it never tells, what its packages are pinned to."""

import ast
import contextlib
import importlib.metadata as metadata
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nsllm_lite
from nsllm_lite import cli
from tests.conftest import pico_values
from tests.corpus.small import paper, values, write_sources
from tests.test_packaging import make  # noqa: F401

ROOT = Path(__file__).parents[2]
PACKAGE = Path(nsllm_lite.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# ------------------------------------------------------------------------------------------------------------- code

FORBIDDEN = tomllib.loads((ROOT / "tests/data/faults/forbidden.toml").read_text())


def dotted(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def offences(tree: ast.AST) -> list[str]:
    """What in a file could run code that is not the project's own."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.partition(".")[0] in FORBIDDEN["modules"]]
        elif isinstance(node, ast.Call):
            name, options = dotted(node.func), ast.unparse(node)
            unsafe = {"allow_pickle", "trust_remote_code", "weights_only"}
            unsafe |= {"shell"} if name != "shtab.complete" else set()
            found += [name] if name in FORBIDDEN["calls"] or name.endswith(".extractall") else []
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            found += [f"{name}({key})" for key in unsafe & given.keys() if given[key] != "False"]
            if re.match(r"Auto.*from_pretrained$", name) and "**options" not in options:
                needed = ["trust_remote_code=False", *["use_safetensors=True"] * ("Model" in name)]
                found += [f"{name} without {option}" for option in needed if option not in options]
    return found


def test_no_code_is_run_that_is_not_the_projects_own():
    for path in SOURCES:
        found = offences(ast.parse(path.read_text()))
        if path.name == "doctor.py":  # its own tiny model
            found = [word for word in found if not word.startswith("AutoModelForCausalLM.from_pretrained without")]
        assert not found, path


def test_what_is_forbidden_is_found():
    for line in (
        "import pickle", "from dill import load", "eval(x)", "torch.load(p)", "np.load(p, allow_pickle=True)",
        "subprocess.run(x, shell=True)", "yaml.load(x)", "AutoModel.from_pretrained(x, use_safetensors=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=False)", "f(trust_remote_code=yes)", "a.extractall()",
    ):  # fmt: skip
        assert offences(ast.parse(line)), line


def test_no_name_in_a_common_temporary_folder_can_be_foretold():
    for path in SOURCES:
        text = path.read_text()
        assert "/tmp" not in text
        made = set(re.findall(r"tempfile\.(\w+)", text))
        assert made <= {"SpooledTemporaryFile", "TemporaryDirectory", "gettempdir"}, path


SHOWS_ENVIRONMENT = re.compile(r"print\(os\.environ|!\s*env\b|%env\s*$|printenv|dict\(os\.environ", re.MULTILINE)
KEYS = re.compile(r"hf_[A-Za-z0-9]{30}|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY")


def test_notebooks_and_recipes_hold_no_secret_and_show_no_environment():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") for cell in cells), path
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert not SHOWS_ENVIRONMENT.search(code), path
    for path in [*(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "notebooks").glob("*.ipynb"), *SOURCES]:
        assert not KEYS.search(path.read_text()), path


# ----------------------------------------------------------------------------------------------------------- secrets

SECRETS = {
    "HF_TOKEN": "hf_XyzzySecretToken0123456789abcdef", "WANDB_API_KEY": "xyzzywandb" * 4,
    "AWS_SECRET_ACCESS_KEY": "XyzzyAwsSecret", "OPENAI_API_KEY": "sk-XyzzyOpenAi",
    "HTTPS_PROXY": "http://user:XyzzyProxyPassword@127.0.0.1:9", "HTTP_PROXY": "http://user:XyzzyProxyPassword@127.0.0.1:9",
    "PIP_INDEX_URL": "https://user:XyzzyIndexPassword@127.0.0.1:9/simple",
}  # fmt: skip
TELLS = re.compile(rb"xyzzy", re.IGNORECASE)


def assert_no_secret_in(folder: Path) -> int:
    """How many files there are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert [path for path in files if TELLS.search(path.read_bytes())] == []
    return len(files)


def test_secrets_of_the_environment_are_in_no_file_and_no_output(pico, tmp_path, monkeypatch, capfd):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    before = os.umask(0o022)
    try:
        corpus = values(tmp_path, "corpus", write_sources(tmp_path, papers=map(paper, range(60))))
        train = pico_values(pico, tmp_path / "run") | {"report_to": ["tensorboard"], "checkpoint_steps": 12}
        for name, recipe in {"corpus": corpus, "train": train}.items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
            assert cli.main([name, str(tmp_path / f"{name}.yaml")]) == 0
        adapter, out = str(tmp_path / "run/adapter"), str(tmp_path / "merged")
        merge = ["merge", "--base", str(pico / "base"), "--adapter", adapter, "--out", out]
        assert cli.main([*merge, "--push-to-hub", "org/name"]) == 2  # no hub can be reached
        assert cli.main(merge) == 0
        for words in (["runs", str(tmp_path)], ["show", out]):
            assert cli.main(words) == 0
        assert cli.main(["eval", "org/no-such-model", "--out", str(tmp_path / "eval"), "--tasks", "bundled"]) == 2
        assert cli.main(["train", str(tmp_path / "train.yaml"), "modle=x"]) == 2
    finally:
        os.umask(before)
    printed = capfd.readouterr()
    assert not TELLS.search((printed.out + printed.err).encode())
    assert assert_no_secret_in(tmp_path) > 40
    for path in tmp_path.rglob("*"):
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH), path  # as the umask says


@pytest.mark.slow
def test_no_password_is_told_when_the_network_fails(tmp_path):
    """With a hub that is asked for in earnest, through a proxy that is not there."""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"} | SECRETS
    environment |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    words = ["plan", "--model", "org/no-such-model", "--recipes", str(ROOT / "recipes/nano"), f"--out={tmp_path}/run"]
    command = [sys.executable, "-m", "nsllm_lite.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert b"[plan-model-not-found]" in done.stderr
    assert not TELLS.search(done.stdout + done.stderr)
    assert_no_secret_in(tmp_path)


# ---------------------------------------------------------------------------------------------------------- packages

OUTSIDE = re.compile(r"nvidia-|cuda-|triton$|setuptools$|pip$|wheel$|torch$")  # come with torch's build, or with Python


def closure(names: list[str]) -> set[str]:
    """Packages and all that they need, as installed here; what is not installed is left out."""
    installed: set[str] = set()
    waiting, seen = [(name, "") for name in names], set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        with contextlib.suppress(metadata.PackageNotFoundError):
            for needed in map(Requirement, metadata.requires(name) or ()):
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting += [(needed.name, inner) for inner in ("", *needed.extras)]
            installed.add(canonicalize_name(name))
    return installed


def test_every_package_that_is_needed_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, equals, version = line.partition("==")
            assert equals, f"{line}: constraints.txt pins with =="
            assert re.fullmatch(r"[\w.]+", version), line
            pins[canonicalize_name(name)] = version
    needed = closure([Requirement(line).name for line in lines])
    assert len(needed) > 100
    unpinned = {name for name in needed if name not in pins and not OUTSIDE.match(name)}
    assert not unpinned


def test_a_wheelhouse_is_checked_before_anything_of_it_is_installed(make, tmp_path):  # noqa: F811
    make("wheelhouse")
    wheels = tmp_path / "wheels"
    sums = (wheels / "SHA256SUMS").read_text()
    assert {"constraints.txt", *(path.name for path in wheels.glob("*.whl"))} == set(sums.split()[1::2])
    assert any("install --no-index" in line for line in make("install-offline"))
    torch = next(wheels.glob("torch-*.whl"))
    whole = {path: path.read_bytes() for path in wheels.iterdir()}
    for name, content in (
        (torch.name, b"evil"), ("numpy-99-py3-none-any.whl", b""), ("six-99.tar.gz", b""),  # would run setup.py
        ("constraints.txt", b"x"), ("SHA256SUMS", None), ("SHA256SUMS", b"no sums\n"),
    ):  # fmt: skip
        path = wheels / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        (told,) = make("install-offline", status=2)
        assert "make wheelhouse wrote" in told
        path.unlink(missing_ok=True)
        if path in whole:
            path.write_bytes(whole[path])
        assert any("install --no-index" in line for line in make("install-offline"))


def test_the_audit_fails_where_it_could_not_be_made(make):  # noqa: F811
    """pip-audit alone says "no known vulnerabilities" of packages that it could not ask about."""
    assert "pip_audit --strict" in (ROOT / "Makefile").read_text().split("\naudit:")[1].split("\n\n")[0]
    assert re.search(r"install --upgrade --target \S+/audit pip-audit==[\d.]+", "\n".join(make("audit")))
