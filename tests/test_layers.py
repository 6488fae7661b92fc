"""The rooms of the house: which may import which. A new file in a room needs no line here."""

import ast
from functools import cache
from pathlib import Path

import nsllm_lite

ROOT = Path(nsllm_lite.__file__).parent
GROUND = {"kernels", "formats", "artifact", "recipe", "terminal", "safety", "errors", "__init__", "sample"}
SHARED = {"tasks", "science", "models", "retrieval"}
VERBS = {"corpus", "train", "merge", "evals"}
MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND - {"kernels"}),
    "science": GROUND - {"kernels"},
    "tasks": (GROUND - {"kernels"}) | {"science"},
    "models": GROUND,
    "retrieval": (GROUND - {"kernels"}) | {"tasks"},
    **dict.fromkeys(VERBS, GROUND | SHARED),
    "commands": GROUND | SHARED | VERBS,
    "cli": GROUND | SHARED | VERBS | {"commands"},
}
"""Of each room those that it may import, itself apart. Verbs meet on disk only."""

FILES = sorted(ROOT.rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in FILES}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def imported(path: Path) -> set[str]:
    """The names that a file imports, also within functions, and the modules that they are taken from."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports."""
    return imported(path) & MODULES.keys()


def test_imports_point_down():
    for path in FILES:
        for module in imports(path):
            other = room(MODULES[module])
            assert other == room(path) or other in MAY_IMPORT[room(path)], f"{path} may not import {module}"


def test_no_circle_of_imports():
    """Nor one that imports within functions, or for annotations only, would hide."""
    waiting = {module: imports(path) - {module} for module, path in MODULES.items()}
    while ready := {module for module, needed in waiting.items() if not needed & waiting.keys()}:
        waiting = {module: needed for module, needed in waiting.items() if module not in ready}
    assert not waiting, f"in a circle, or above one: {sorted(waiting)}"


def test_the_top_of_the_package_is_a_few_files():
    assert len(list(ROOT.glob("*.py"))) <= 5  # __init__.py among them
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))} <= MAY_IMPORT.keys()


def test_the_corpus_room_needs_no_torch():
    for path in (ROOT / "corpus").rglob("*.py"):
        assert not [name for name in imported(path) if name.split(".")[0] == "torch"], path
