"""The direction of imports: door -> verbs -> shared -> ground, and verbs never import each other."""

import ast
from pathlib import Path

import pytest

import nsllm_lite

ROOT = Path(nsllm_lite.__file__).parent
FLOORS = {
    "ground": {"recipe", "weights", "document", "rows", "kernels", "__init__"}
    | {"run", "stop", "lock", "intact", "manifests", "driver", "tables", "untrusted", "errors"},
    "shared": {"tasks", "model", "execution", "heldout", "chain", "steps"},
    "verb": {"corpus", "train", "evals", "merge", "plan", "sample", "starter"},
    "door": {"cli", "arguments", "doctor", "runs", "page"},
}
ORDER = list(FLOORS)


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(number for number, floor_name in enumerate(ORDER) if name in FLOORS[floor_name])


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "nsllm_lite":
            rooms |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nsllm_lite."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("nsllm_lite.")}
    return rooms


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path):
    here = room(path)
    for other in imported_rooms(path) - {here}:
        assert floor(other) <= floor(here), f"{here} imports {other}, which is above it"
        if ORDER[floor(here)] == "verb":
            assert ORDER[floor(other)] != "verb", f"the verbs {here} and {other} must meet on disk only"
        if ORDER[floor(here)] == "ground":
            assert other != "kernels", f"{here} is on the ground floor and must not need kernels"


def test_the_corpus_room_needs_no_torch():
    for path in (ROOT / "corpus").rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        assert not {n for n in names if n.split(".")[0] == "torch"}, path
