"""Every command that README, CONTRIBUTING and docs/ show in a block is run once, in order, in a copy of the project.

There is no GPU: what needs one, a model of the hub or another machine must end in the error that says so. What names
folders of the reader's own gets those of the nano run in their place, and few steps.
"""

import json
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
    """Commands that match `pattern` end with `status` and say `words`, once `changes` have filled in gaps."""

    pattern: str
    status: int
    words: str
    changes: tuple[tuple[str, str], ...] = ()


MODEL, BASE, ADAPTER = "runs/nano/model2", "runs/nano/base/model", "runs/nano/phase1/adapter"
ROWS = "runs/nano/corpus/rows/phase1/heldout"
ALWAYS = (
    (r"runs/(first|NAME)\b", "runs/nano"), (r"(?<![\w/])papers/", "path/to/papers"), ("wikitext/", "path/to/papers"),
    (r"\b(test|my)\.json\b", "mine.json"), (r"\btrain\.json\b", "more.json"), (r"> ~\S+", "> completed"),
)  # fmt: skip
MERGED = (("--base DIR", f"--base {BASE}"), ("--adapter DIR", f"--adapter {ADAPTER}"), ("rows DIR", f"rows {ROWS}"))
SHOWN_ONLY = (("make", "make -n"),)
TWO = (("A:", f"{ADAPTER}:"), ("B:", f"{ADAPTER}:"), ("out DIR", "out two"), *MERGED)
OWN = (("DIR .*", f"{MODEL} --file open=mine.json --out own --max-items 2"),)
TEN_STEPS = (("1e-4", "1e-4 budget.steps=10 budget.tokens=10240 schedule.warmup_steps=1"),)
FEW = (
    "base.budget.steps=20 base.budget.tokens=40960 base.evaluation.max_rows=8 "
    "phase1.budget.steps=20 phase1.budget.tokens=20480 phase1.evaluation.max_rows=8"
)
RULES = (
    # run by CI, by tests/test_packaging.py and tests/faults/test_security_project.py, or fetching other packages
    Rule(r"make (test|lint|docs|dist|wheelhouse|install-offline|setup.*)$", 0, "", SHOWN_ONLY),
    Rule(r"make corpus CORPUS=.* RECIPES=recipes/nano$", 0, "kept"),
    Rule(r"(make|nsllm-lite) (phase1|two-phase) .*(SIZE=|--size )", 2, "[execution-needs-card]"),
    Rule(r"make \S+ CORPUS=", 2, "[card-missing]"),
    Rule(r"nsllm-lite (phase1|phase2|two-phase) --corpus", 2, "[card-missing]"),
    Rule(r"make phase1$", 0, "Done: runs/nano/model1"),
    Rule(r"make two-phase$", 0, "Done: runs/nano/report"),
    Rule(r"make (eval|sft)$", 0, "Done: runs/nano/"),
    Rule(r"make phase1 .*tensorboard", 0, "finished, skipped"),
    Rule(r"make phase1 SET=", 0, "Done: runs/settings", (('SET="', f'SET="{FEW} '),)),
    Rule(r"nsllm-lite phase1 phase1", 0, "Done: runs/few", (("phase1 .*51200", f"phase1 --out runs/few {FEW}"),)),
    Rule(r"nsllm-lite (eval-run|instruct) --out", 2, "[finished-result-differs]"),  # other settings, the same folder
    Rule(r"nsllm-lite (phase1|phase2|two-phase|eval-run|instruct)\b", 0, "finished, skipped"),
    Rule(r"(make|nsllm-lite) doctor", 0, "bitsandbytes"),
    Rule(r"nsllm-lite plan .*--json$", 0, '"memory_bytes"'),
    Rule(r"nsllm-lite plan ", 0, "GiB"),
    Rule(r"nsllm-lite corpus ", 0, "kept", (("mine/corpus min", "other/corpus min"),)),
    Rule(r"nsllm-lite train ", 0, "10 steps", TEN_STEPS),
    Rule(r"nsllm-lite (eval|merge --base) Qwen/", 2, "[model-not-fetched]"),
    Rule(r"nsllm-lite merge .*A:0.7", 0, "tensors merged", TWO),
    Rule(r"nsllm-lite merge .*auto.*--verify", 0, "tensors merged", (("out DIR", "out auto"), *MERGED)),
    Rule(r"nsllm-lite merge .*--compare", 0, "dequantized", MERGED),
    Rule(r"nsllm-lite merge recipes/nano", 0, "tensors merged", (("out DIR", "out rounded"), *MERGED)),
    Rule(r"nsllm-lite tasks .*out=", 0, "moves"),
    Rule(r"nsllm-lite tasks recipes/nano", 0, "finished, skipped"),
    Rule(r"nsllm-lite sft .*template=chat", 2, "[template-end-token-missing]", (("my.jsonl,more/", "mine.json"),)),
    Rule(r"nsllm-lite sft recipes/nano", 0, "2 steps", ((" out=", " steps=2 schedule.warmup_steps=0 out="),)),
    Rule(r"nsllm-lite eval DIR .*--file", 0, "own: report.md", OWN),
    Rule(r"nsllm-lite eval DIR .*--json", 0, '"', (("DIR", MODEL), ("items 20", "items 2 --out few"))),
    Rule(r"nsllm-lite eval recipes/nano", 0, "| base | few-shot |", (("=20", "=2 out=runs/scores"),)),
    Rule(r"lm_eval run", 0, "nsllm_title", (("DIR", MODEL), ("--tasks", "--limit 1 --tasks"))),
    Rule(r"nsllm-lite report ", 0, "finished, skipped"),
    Rule(r"nsllm-lite audit ", 0, "mine.json"),
    Rule(r"nsllm-lite runs .*\| jq", 0, "runs/nano/model1", (("jq -r .*", "grep -o 'runs/nano/model1' | head -1"),)),
    Rule(r"nsllm-lite runs", 0, "model1"),
    Rule(r"nsllm-lite show ", 0, "phase1", (("DIR", MODEL),)),
    Rule(r"nsllm-lite init ", 0, "Makefile", (("my-run --recipe", "small --recipe"),)),
    Rule(r"nsllm-lite completion ", 0, ""),
)  # fmt: skip


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
    for name in ("made", "ready"):
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
        for old, new in (*rule.changes, *ALWAYS):
            command = re.sub(old, new, command)
        done = subprocess.run(["bash", "-c", command], cwd=project, env=environment, capture_output=True, text=True)
        said = done.stdout + done.stderr
        print(f"{done.returncode}  {command}", flush=True)
        if done.returncode != rule.status or rule.words not in said:
            failed.append(f"$ {command}\n{done.returncode}, not {rule.status} and {rule.words!r}\n{said[-1500:]}")
    assert not failed, "\n\n".join(failed)
