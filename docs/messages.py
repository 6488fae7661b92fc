"""Reads every error of the package from its source: code, what is found, what is needed, what to do."""

import ast
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

ERRORS = ("UserError", "RunError")
GAP = "…"  # stands for what is filled in
MAX_WORDINGS = 4

Known = dict[str, list[str]]


class Message(NamedTuple):
    """`parts` are what is found, what is needed (where that is not plain) and what to do, each in all its wordings."""

    path: Path
    line: int
    code: str
    parts: list[list[str]]


def messages(folder: Path) -> list[Message]:
    """All errors raised in the Python files below `folder`, in order of file and line."""
    return [message for path in sorted(folder.rglob("*.py")) for message in messages_in(path)]


def messages_in(path: Path) -> list[Message]:
    found = []
    for call, known in _calls(ast.parse(path.read_text())):
        code, *rest = call.args
        assert isinstance(code, ast.Constant), f"{path}:{call.lineno}: the code must be a plain text"
        parts = [_wordings(arg, known)[:MAX_WORDINGS] for arg in rest]
        assert len(parts) in (2, 3), f"{path}:{call.lineno}: found, needed where that is not plain, to do"
        found.append(Message(path, call.lineno, code.value, parts))
    return sorted(found, key=lambda message: message.line)


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, Known]]:
    """Each call that makes an error, with the texts that the local names of its function may hold there."""
    function_of, statement_of = {}, {}  # the innermost comes last
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            function_of |= {id(inner): node for inner in ast.walk(node)}
        elif isinstance(node, ast.Raise | ast.Return | ast.Assign | ast.Expr):
            statement_of |= {id(inner): node for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ERRORS:
            yield node, _known(function_of.get(id(node), tree), statement_of[id(node)])


def _known(function: ast.AST, statement: ast.stmt) -> Known:
    """What names hold at `statement`: the last text assigned in its own block, or all that branches before it assign."""
    known: Known = {}
    assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
    for node in sorted(assigned, key=lambda node: node.lineno):
        if node.lineno < statement.lineno and isinstance(node.targets[0], ast.Name):
            name, texts = node.targets[0].id, _wordings(node.value, known)
            is_sure = node.col_offset <= statement.col_offset
            known[name] = texts if is_sure else known.get(name, []) + texts
    return known


def _wordings(node: ast.AST, known: Known) -> list[str]:
    """The texts that an expression may be, with GAP for what is filled in."""
    if isinstance(node, ast.Name):
        return known.get(node.id, [GAP])
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)]
    if isinstance(node, ast.IfExp):
        return _wordings(node.body, known) + _wordings(node.orelse, known)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return ["".join(pair) for pair in product(_wordings(node.left, known), _wordings(node.right, known))]
    return [GAP]
