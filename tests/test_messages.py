"""Every error has a code that a test matches; to read all messages: pytest -s tests/test_messages.py."""

import ast
import pickle
import re
from collections import defaultdict
from itertools import chain
from pathlib import Path

from docs.messages import GAP, messages
from nsllm_lite.errors import RunError, UserError

ROOT = Path(__file__).parents[1]
MAX_WORDING_CHARS = 30
MESSAGES = messages(ROOT / "nsllm_lite")


def test_all_messages_for_review():
    print()
    for path, line, code, parts in MESSAGES:
        print(f"{path.relative_to(ROOT)}:{line} [{code}]", *(f"    {' / '.join(part)}" for part in parts), sep="\n")
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", code), f"{path}:{line}: {code}"
        for part, name in ((parts[0], "what was found"), (parts[-1], "what to do")):
            assert any(re.search(r"[a-z]{2}", wording) for wording in part), f"{path}:{line}: {code}: {name}?"


def test_a_code_has_one_meaning():
    places = defaultdict(set)
    for path, _, code, parts in MESSAGES:
        places[code].add((path, tuple(parts[0])))
    assert not {code: found for code, found in places.items() if len(found) > 1}


def test_no_other_value_error_is_raised():
    """A plain ValueError has no code; what a caller catches at once, and no user sees, is marked."""
    for path in sorted((ROOT / "nsllm_lite").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"raise (ValueError|RuntimeError)\b", line):
                assert "# caught" in line, f"{path}:{number}: {line.strip()}"


def test_every_code_is_matched_by_a_test():
    files = [path for kind in ("py", "toml", "json") for path in (ROOT / "tests").rglob(f"*.{kind}")]
    texts = "\n".join(path.read_text() for path in files)
    unmatched = {code for _, _, code, _ in MESSAGES if f'"{code}"' not in texts and f"[{code}]" not in texts}
    assert not unmatched


def test_no_test_depends_on_wording():
    """No text in a test has more than 30 characters in a row in common with an error's message."""
    size = MAX_WORDING_CHARS + 1
    pieces = set()
    for _, _, _, parts in MESSAGES:
        for piece in GAP.join(chain(*parts)).split(GAP):
            pieces |= {piece[start : start + size] for start in range(len(piece) - size + 1)}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                text = node.value.replace("\\", "")  # of a regular expression
                for start in range(len(text) - size + 1):
                    assert text[start : start + size] not in pieces, f"{path}:{node.lineno}: {text!r}"


def test_an_error_crosses_processes():
    for cls in (UserError, RunError):
        again = pickle.loads(pickle.dumps(cls("rows-empty", "No rows.", "Make some.")))
        assert (type(again), again.code, str(again)) == (cls, "rows-empty", "No rows. Make some.")
