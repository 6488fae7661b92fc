"""Every error has a code that a test matches; to read all messages: pytest -s tests/test_messages.py."""

import ast
import functools
import pickle
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from nsllm_lite.errors import RunError, UserError

ROOT = Path(__file__).parents[1]
ERRORS = ("UserError", "RunError")
MAX_WORDING_CHARS = 30


def words_of(node: ast.AST, known: dict[str, str]) -> str:
    """A text as it stands in the source, with {...} for what is filled in; `known` are the texts of local names."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "{...}")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{...}" for part in node.values)
    if isinstance(node, ast.IfExp):
        return words_of(node.body, known) + "\0" + words_of(node.orelse, known)
    if isinstance(node, ast.BinOp):
        return words_of(node.left, known) + words_of(node.right, known)
    return "{...}"


def errors_of(tree: ast.Module) -> Iterator[tuple[ast.Call, dict[str, str]]]:
    """Each call that makes an error, with the texts that the names of its function hold."""
    within = {}  # the innermost function comes last
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        known: dict[str, str] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name, text = node.targets[0].id, words_of(node.value, known)
                known[name] = known[name] + "\0" + text if name in known else text
        within |= {id(node): known for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ERRORS:
            yield node, within.get(id(node), {})


@functools.cache
def messages() -> list[tuple[Path, int, str, list[str]]]:
    """(file, line, code, [found, needed, to do]) of each error that the package raises."""
    found = []
    for path in sorted((ROOT / "nsllm_lite").rglob("*.py")):
        for call, known in errors_of(ast.parse(path.read_text())):
            assert isinstance(call.args[0], ast.Constant), f"{path}:{call.lineno}: the code must be a plain text"
            parts = [words_of(arg, known) for arg in call.args[1:]]
            assert len(parts) in (2, 3), f"{path}:{call.lineno}: found, needed where that is not plain, to do"
            found.append((path, call.lineno, call.args[0].value, parts))
    return found


def test_all_messages_for_review():
    print()
    for path, line, code, parts in sorted(messages(), key=lambda message: (message[0], message[1])):
        print(f"{path.relative_to(ROOT)}:{line} [{code}]", *(f"    {part}" for part in parts if part), sep="\n")
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", code), f"{path}:{line}: {code}"
        assert parts[0], f"{path}:{line}: {code} does not tell what was found"
        assert parts[-1], f"{path}:{line}: {code} does not tell what to do"


def test_a_code_has_one_meaning():
    places = defaultdict(set)
    for path, _, code, parts in messages():
        places[code].add((path, parts[0]))
    assert not {code: found for code, found in places.items() if len(found) > 1}


def test_no_other_value_error_is_raised():
    """A plain ValueError has no code; what a caller catches at once, and no user sees, is marked."""
    for path in sorted((ROOT / "nsllm_lite").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"raise (ValueError|RuntimeError)\b", line):
                assert "# caught" in line, f"{path}:{number}: {line.strip()}"


def test_every_code_is_matched_by_a_test():
    texts = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    unmatched = {code for _, _, code, _ in messages() if f'"{code}"' not in texts and f"[{code}]" not in texts}
    assert not unmatched


def test_no_test_depends_on_wording():
    """No text in a test has more than 30 characters in a row in common with an error's message."""
    size = MAX_WORDING_CHARS + 1
    pieces = set()
    for _, _, _, parts in messages():
        for piece in "\0".join(parts).replace("{...}", "\0").split("\0"):
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
