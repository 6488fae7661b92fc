"""The paths that a whole run gives a recipe, as the words that a single step needs on the command line."""

import json
from pathlib import Path

from nsllm_lite.artifact.layout import Layout
from nsllm_lite.commands.steps import planned_steps
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.kinds import Recipe


def paths_of(name: str, root: str | Path = "runs/nano", base: str | None = None) -> list[str]:
    """`key=value` words for the recipe file `name`, in a run at `root` whose first phase begins with `base`."""
    at = Layout(str(root))
    step = next(step for step in planned_steps(at, base or at.base) if step.recipe == name)
    return [f"{key}={json.dumps(value)}" for key, value in step.changes.items()]


def load_whole(path: Path, overrides: list[str] | tuple[str, ...] = (), base: str | None = None) -> Recipe:
    """The recipe at `path` as a whole run would have it, then `overrides`."""
    return recipes.load(path, [*paths_of(path.stem, base=base), *overrides])
