"""Every command that README shows in a block is run, in README's order, in a copy of the project without a GPU.

What needs a card, a model of the hub or another machine must end in the error that says so.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.corpus.small import paper, write_lines

ROOT = Path(__file__).parents[1]
PROGRAMS = ("make ", "nsllm-lite ", "lm_eval ")


def shown(text: str) -> list[str]:
    """The commands of all blocks that are a shell's."""
    found, inside, is_shell = [], False, False
    for line in text.splitlines():
        if line.startswith("```"):
            inside, is_shell = not inside, line in ("```", "```bash")
        elif inside and is_shell and line.startswith(PROGRAMS):
            found.append(re.sub(r"\s+# .*", "", line).strip())
    return found


class Rule(NamedTuple):
    """Commands that match `pattern` end with `status` and say `words`, once `changes` have filled in gaps."""

    pattern: str
    status: int
    words: str
    changes: tuple[tuple[str, str], ...] = ()


BASE, ADAPTER, ROWS = "runs/nano/base/model", "runs/nano/phase1/adapter", "runs/nano/corpus/rows/phase1/heldout"
SHOWN_ONLY = (("make", "make -n"),)
MINE = (("DIR .*", "runs/nano/model2 --file open=mine.json --out own --max-items 2"),)
TWO = (("A:", f"{ADAPTER}:"), ("B:", f"{ADAPTER}:"), ("--base DIR", f"--base {BASE}"), ("--out DIR", "--out two"))
AUTO = (("--base DIR --adapter DIR --out DIR", f"--base {BASE} --adapter {ADAPTER} --out auto"), ("NAME", "nano"))
COMPARED = (
    ("--base DIR --adapter DIR --heldout-rows DIR", f"--base {BASE} --adapter {ADAPTER} --heldout-rows {ROWS}"),
)
RULES = (
    Rule(r"make test$", 0, "pytest -n auto", SHOWN_ONLY),  # it would run itself
    Rule(r"make setup TORCH=", 0, "install $TORCH", SHOWN_ONLY),  # fetches another torch
    Rule(r"make \S+ CORPUS=\S+( MODEL=\S+)?$", 2, "[card-missing]"),
    Rule(r"make phase1$", 0, "Done: runs/nano/report", (("phase1", "phase1 && make two-phase"),)),
    Rule(r"make (eval|sft)$", 0, "Done: runs/nano/"),
    Rule(r"nsllm-lite plan .*--json$", 0, '"memory_bytes"'),
    Rule(r"nsllm-lite plan ", 0, "GiB"),
    Rule(r"nsllm-lite runs --json", 0, "runs/nano/model1", (("jq -r .*", "grep -o 'runs/nano/model1' | head -1"),)),
    Rule(r"nsllm-lite completion ", 0, "", ((r"> \S+", "> completed"),)),
    Rule(r"nsllm-lite init ", 0, "my-run"),
    Rule(r"nsllm-lite (eval|merge --base) Qwen/", 2, "[model-not-fetched]"),
    Rule(r"nsllm-lite eval DIR", 0, "own: report.md", MINE),
    Rule(r"nsllm-lite eval recipes/nano", 0, "| base | few-shot |", (("$", " out=runs/scores"),)),
    Rule(r"lm_eval run", 0, "nsllm_title", (("DIR", "runs/nano/model2"), ("--tasks", "--limit 1 --tasks"))),
    Rule(r"nsllm-lite merge .*auto.*--verify", 0, "tensors merged", AUTO),
    Rule(r"nsllm-lite merge .*--compare", 0, "dequantized", COMPARED),
    Rule(r"nsllm-lite merge .*A:0.7", 0, "tensors merged", TWO),
    Rule(r"nsllm-lite tasks recipes/nano", 0, "finished, skipped"),
    Rule(r"nsllm-lite sft recipes/nano", 2, "[template-end-token-missing]", (("my.jsonl,more/", "mine.json"),)),
)


def rule_for(command: str) -> Rule:
    fitting = [rule for rule in RULES if re.match(rule.pattern, command)]
    assert fitting, f"README shows a command that no rule runs: {command}"
    return fitting[0]


def test_every_command_has_a_rule_and_every_rule_a_command():
    commands = shown((ROOT / "README.md").read_text())
    assert len(commands) > 25
    used = {rule_for(command).pattern for command in commands}
    assert used == {rule.pattern for rule in RULES}


@pytest.mark.slow
def test_the_commands_do_what_readme_says(tmp_path):
    project = tmp_path / "project"
    left_out = shutil.ignore_patterns(".git", ".venv", "runs", "*.egg-info", ".hypothesis", "__pycache__", "*_cache")
    shutil.copytree(ROOT, project, symlinks=True, ignore=left_out)
    (project / ".venv").mkdir()
    (project / ".venv/bin").symlink_to(Path(sys.prefix) / "bin")
    for name in ("made", "ready"):
        (project / ".venv" / name).touch()
    write_lines(project / "path/to/papers/arxiv.jsonl", [paper(number) for number in range(20)])
    (project / "mine.json").write_text('[{"instruction": "Add.", "input": "1 + 1", "output": "2"}]')
    environment = os.environ | {"PATH": f"{project}/.venv/bin:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONPATH": str(project)}
    failed = []
    for command in shown((ROOT / "README.md").read_text()):
        rule = rule_for(command)
        for old, new in rule.changes:
            command = re.sub(old, new, command)
        done = subprocess.run(["bash", "-c", command], cwd=project, env=environment, capture_output=True, text=True)
        said = done.stdout + done.stderr
        print(f"{done.returncode}  {command}", flush=True)
        if done.returncode != rule.status or rule.words not in said:
            failed.append(f"$ {command}\n{done.returncode}, not {rule.status} and {rule.words!r}\n{said[-1500:]}")
    assert not failed, "\n\n".join(failed)
