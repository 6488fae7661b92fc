"""What README and the recipes' heads tell a user to type exists."""

import re
import shlex
from pathlib import Path

import pytest

from nsllm_lite import recipe
from nsllm_lite.cli import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
HEADS = "\n".join(path.read_text() for path in (ROOT / "recipes").rglob("*.yaml"))


def test_every_make_target_named_exists():
    named = set(re.findall(r"(?:`|^|#   )make ([a-z0-9-]+)", README + "\n" + HEADS, re.MULTILINE))
    assert {"phase1", "phase2", "two-phase", "test", "test-slow", "lint", "plan"} <= named
    assert named <= TARGETS
    assert {"corpus", "merge", "clean", "help", "setup"} <= TARGETS


def test_every_command_named_parses():
    lines = re.findall(r"^(?:#   )?(nsllm-lite [^#\n`]*)$", README + "\n" + HEADS, re.MULTILINE)
    lines += re.findall(r"`(nsllm-lite [^`]*)`", README)
    assert len(lines) > 10
    for line in lines:
        build_parser().parse_args(shlex.split(re.split(r" [>|] ", line)[0])[1:])


def test_every_file_named_exists():
    for name in re.findall(r"`((?:tests|nsllm_lite|recipes)/[\w./-]*)`", README):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("step", re.findall(r"SET=\"?([\w.]+)", README))
def test_every_setting_named_is_one(step):
    name, key = step.split(".", 1)
    values = recipe.load(ROOT / "recipes/qwen3-8b" / f"{name}.yaml").model_dump()
    for part in key.split("."):
        assert part in values
        values = values[part]
