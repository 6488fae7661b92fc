"""The command line as a target: a line a word. Whatever is typed ends in a documented exit status, without a traceback.

Nothing is really trained or built: what the words can name are damaged files and folders, and the steps of a chain are
not called.

    python -m bench.fuzz.run "command line"
"""

import contextlib
import io
import json
import re
from functools import cache
from pathlib import Path
from unittest.mock import patch

from bench.fuzz.files import adapter, model, rows, steps_of_a_run
from bench.fuzz.target import SEEDS, Target, put
from nsllm_lite import cli
from nsllm_lite.commands.arguments import STORY_VERBS

STATUSES = (0, 2, 3)
REAL_WORK = ("doctor", "bundled")  # minutes of it
LEADS_OUTSIDE = re.compile(r"\.\.|~|(^|[^\w.-])/|\0|://")


@cache
def _files() -> dict[str, bytes]:
    """What the words may name: whole and damaged, in one folder."""
    recipes = {path.name.removeprefix("valid-"): path.read_bytes() for path in (SEEDS / "recipes").glob("valid-*")}
    folders = {"base": model(), "adapter": adapter(), "rows": rows(), "runs": steps_of_a_run()}
    damaged = {"base": "config.json", "adapter": "adapter_model.safetensors", "rows": "state.json"}
    damaged |= {"runs": "half/run.json"}
    files = {f"{folder}/{name}": content for folder, inner in folders.items() for name, content in inner.items()}
    for folder, name in damaged.items():
        inner = folders[folder] | {name: folders[folder][name][:40]}
        files |= {f"damaged-{folder}/{name}": content for name, content in inner.items()}
    items = [{"input": f"Is {n} even?", "output": "no"} for n in range(3)]
    files |= {"items.jsonl": "\n".join(map(json.dumps, items)).encode(), "items.json": json.dumps(items).encode()}
    files |= {"broken.yaml": b"kind: [", "broken.json": b'[{"input": 1', "empty.jsonl": b""}
    return recipes | files


def check_words(content: bytes, folder: Path) -> None:
    words = content.decode("utf-8", "surrogateescape").split("\n")[:12]
    words = [word for word in words if not LEADS_OUTSIDE.search(word) and not any(name in word for name in REAL_WORK)]
    out, errors = io.StringIO(), io.StringIO()
    here = contextlib.chdir(put(folder / "here", _files()))
    is_story = set(words) & set(STORY_VERBS)  # whose steps would train for minutes
    steps = patch.object(cli, "run_step", lambda recipe: {}) if is_story else contextlib.nullcontext()
    with here, steps, contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = cli.main(words)
        except SystemExit as end:
            status = end.code or 0
            assert status in (0, 2), status
    assert status in STATUSES, status
    assert status == 0 or errors.getvalue().strip(), "no word of what is wrong"
    assert "Traceback" not in errors.getvalue()
    errors.getvalue().encode("utf-8", "surrogateescape")
    if status == 0 and "--json" in words:
        json.loads(out.getvalue())


TARGETS = {"command line": Target(check_words, "command_line", 200)}
