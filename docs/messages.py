"""Reads every error of the package from its source: code, what is found, what is needed, what to do."""

import ast
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

from nsllm_lite import errors

ERRORS = ("UserError", "RunError")
GAP = "…"  # stands for what is filled in

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
        parts = [_wordings(arg, known) for arg in rest]
        assert len(parts) in (2, 3), f"{path}:{call.lineno}: found, needed where that is not plain, to do"
        found.append(Message(path, call.lineno, code.value, parts))
    return sorted(found, key=lambda message: message.line)


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, Known]]:
    """Each call that makes an error, with the texts that the local names of its function may hold there."""
    parents = {id(child): node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ERRORS:
            above = [node]
            while id(above[-1]) in parents and not isinstance(above[-1], ast.FunctionDef):
                above.append(parents[id(above[-1])])
            yield node, _constants(tree) | _known(above)


def _known(above: list[ast.AST]) -> Known:
    """What names hold at a call: the last text assigned in a block around it, with what is added to it, or all that
    branches before it assign.

    `above` are the call and what is around it, outwards to its function.
    """
    known: Known = {}
    around = {id(statement) for node in above for block in _blocks(node) if _has(block, above) for statement in block}
    kinds = (ast.Assign, ast.AugAssign)
    assigned = [node for node in ast.walk(above[-1]) if isinstance(node, kinds) and node.lineno < above[0].lineno]
    for node in sorted(assigned, key=lambda node: node.lineno):
        target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
        if isinstance(target, ast.Name):
            name, texts = target.id, _wordings(node.value, known)
            if isinstance(node, ast.AugAssign):
                texts = [text + more for text in known.get(name, [GAP]) for more in texts]
            known[name] = texts if id(node) in around else known.get(name, []) + texts
    return known


def _constants(tree: ast.Module) -> Known:
    """The texts of a module's own constants."""
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return {node.targets[0].id: texts for node in assigned if (texts := _wordings(node.value, {})) != [GAP]}


def _blocks(node: ast.AST) -> list[list[ast.stmt]]:
    return [block for name in ("body", "orelse", "finalbody") if isinstance(block := getattr(node, name, None), list)]


def _has(block: list[ast.stmt], nodes: list[ast.AST]) -> bool:
    return any(statement is node for statement in block for node in nodes)


def _wordings(node: ast.AST, known: Known) -> list[str]:
    """The texts that an expression may be, with GAP for what is filled in."""
    if isinstance(node, ast.Name):
        return known.get(node.id, [GAP])
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else _filled(part.value) for part in node.values)]
    if isinstance(node, ast.IfExp):
        return _wordings(node.body, known) + _wordings(node.orelse, known)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return ["".join(pair) for pair in product(_wordings(node.left, known), _wordings(node.right, known))]
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "did_you_mean":
        return [f"Did you mean {GAP}?", *_wordings(node.args[2], known)]
    return [GAP]


def _filled(node: ast.expr) -> str:
    """A phrase of `nsllm_lite.errors` as it is, anything else as GAP."""
    return getattr(errors, node.id, GAP) if isinstance(node, ast.Name) and node.id.isupper() else GAP
