"""Every command that README, CONTRIBUTING and docs/ show in a block is run once, in order, in a copy of the project.

There is no GPU: what needs one, a model of the hub or another machine must end in the error that says so. The rules are
in data/page_commands.toml.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.corpus.small import paper, write_lines

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("make ", "nsllm-lite ", "lm_eval ")


def shown() -> list[str]:
    """The commands of all blocks that are a shell's, each once."""
    found, inside, is_shell = [], False, False
    for line in "\n".join(page.read_text() for page in PAGES).splitlines():
        if line.startswith("```"):
            inside, is_shell = not inside, line in ("```", "```bash")
        elif inside and is_shell and line.startswith(PROGRAMS):
            found.append(re.sub(r"\s+# .*", "", line).strip())
    return list(dict.fromkeys(found))


class Rule(NamedTuple):
    """Commands that match `pattern` end with `status` and print `words`, once `changes` have filled in gaps."""

    pattern: str
    status: int = 0
    words: str = ""
    changes: tuple[str | tuple[str, str], ...] = ()

    def filled_in(self, command: str) -> str:
        pairs = [pair for change in self.changes for pair in (STATED[change] if isinstance(change, str) else [change])]
        for pattern, replacement in (*pairs, *STATED["always"]):
            command = re.sub(pattern, replacement, command)
        return command


STATED = tomllib.loads((ROOT / "tests/data/page_commands.toml").read_text(encoding="utf-8"))
RULES = [Rule(**rule) for rule in STATED["rules"]]


def rule_for(command: str) -> Rule:
    fitting = [rule for rule in RULES if re.match(rule.pattern, command)]
    assert fitting, f"a page shows a command that no rule runs: {command}"
    return fitting[0]


def test_every_command_has_a_rule():
    commands = shown()
    assert len(commands) > 60
    assert all(map(rule_for, commands))


@pytest.mark.slow
def test_the_commands_do_what_the_pages_say(tmp_path):
    project = tmp_path / "project"
    left_out = shutil.ignore_patterns(".git", ".venv", "runs", "*.egg-info", ".hypothesis", "__pycache__", "*_cache")
    shutil.copytree(ROOT, project, symlinks=True, ignore=left_out)
    (project / ".venv").mkdir()
    (project / ".venv/bin").symlink_to(Path(sys.prefix) / "bin")
    for name in ("made", "ready", "extra-encoders"):
        (project / ".venv" / name).touch()
    write_lines(project / "path/to/papers/arxiv.jsonl", [paper(number) for number in range(20)])
    for name in ("mine", "more"):
        records = [{"instruction": "Add.", "input": f"{name} {n} + {n}", "output": f"{n + n}"} for n in range(8)]
        (project / f"{name}.json").write_text(json.dumps(records))
    environment = os.environ | {"PATH": f"{project}/.venv/bin:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONPATH": str(project)}
    failed = []
    for command in shown():
        rule = rule_for(command)
        command = rule.filled_in(command)
        done = subprocess.run(["bash", "-c", command], cwd=project, env=environment, capture_output=True, text=True)
        printed = done.stdout + done.stderr
        print(f"{done.returncode}  {command}", flush=True)
        if done.returncode != rule.status or rule.words not in printed:
            failed.append(f"$ {command}\n{done.returncode}, not {rule.status} and {rule.words!r}\n{printed[-1500:]}")
    assert not failed, "\n\n".join(failed)
