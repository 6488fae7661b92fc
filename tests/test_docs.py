"""What README and the recipes' heads tell a user to type exists."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from nsllm_lite import cli
from nsllm_lite.cli import build_parser
from nsllm_lite.commands import plan
from nsllm_lite.models.sizes import QWEN3
from tests.paths import load_whole

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
    values = load_whole(ROOT / "recipes/qwen3" / f"{name}.yaml", base="Qwen/Qwen3-8B-Base").model_dump()
    for part in key.split("."):
        assert part in values
        values = values[part]


def test_every_link_inside_the_readme_leads_to_a_heading():
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", README, re.M)
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", README))
    assert {"your-gpu", "what-it-does-not-do-yet"} <= links
    assert links <= headings


def said() -> list[str]:
    """All that the package's code and the Makefile can say; a NUL stands for what is filled in."""
    texts = [(ROOT / "Makefile").read_text()]
    for path in (ROOT / "nsllm_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(
                        str(getattr(part, "value", "")) if isinstance(part, ast.Constant) else "\0"
                        for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_every_message_explained_is_one_that_is_said():
    section = README.split("## When something goes wrong")[1].split("\n## ")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert len(messages) > 40
    texts = said()
    for message in messages:
        pieces = [piece.strip() for piece in message.split("...") if piece.strip(" .,%=")]
        pattern = re.compile(".*".join(map(re.escape, pieces)))
        assert any(pattern.search(text) for text in texts), message


def test_the_table_of_cards_is_what_the_planner_says(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no speed measured on the machine at hand
    table = README.split("## Your GPU")[1].split("\n## ")[0]
    lines = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+b) \| (.+) \|$", table, re.MULTILINE)
    assert len(lines) > 12
    assert {name for _, _, name, _ in lines} == set(QWEN3)
    monkeypatch.chdir(ROOT)
    for card, vram_gib, name, rest in lines:
        words = ["plan", "--size", name, "--vram", vram_gib, "--json", "--out", str(tmp_path / "run")]
        assert cli.main(words) == 0
        told = json.loads(capsys.readouterr().out)
        how, size = told["execution"], QWEN3[name][2]
        recomputed = f"{how['recompute_layers']} of {size.layers}" + (", cheap" if how["recompute_cheap"] else "")
        held = "dequantised" if how["dequantised"] else "as NF4"
        memory = f"{sum(told['memory_bytes'].values()) / 2**30:.1f}"
        speed = plan._speed(size, card)
        hours = " + ".join(f"{tokens / speed[0] / 3600:.1f}" for tokens in told["tokens"].values()) if speed else "—"
        assert rest.split(" | ") == [str(how["micro_batch_rows"]), recomputed, held, memory, hours], (card, name)


def test_the_table_of_models_is_what_the_planner_says(monkeypatch, tmp_path, capsys):
    table = README.split("## Your model")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `recipes/qwen3`, ([\d.]+b) \| (.+) \|$", table, re.MULTILINE)
    assert {name for name, _ in lines} == set(QWEN3)
    monkeypatch.chdir(ROOT)
    for name, rest in lines:
        hub_id, least_gib, _ = QWEN3[name]
        assert cli.main(["plan", "--size", name, "--vram", "139", "--out", str(tmp_path / "run")]) == 0
        printed = capsys.readouterr().out
        download = re.search(r"^Download +([\d.]+ GiB)", printed, re.MULTILINE)[1]
        disk = re.search(r"^Disk +([\d.]+ GiB)", printed, re.MULTILINE)[1]
        asked = "only where asked" if name == "14b" else f"{least_gib} GiB"
        assert rest.split(" | ") == [hub_id, asked, download, disk]
