"""`nsllm-lite init DIR`: a starter project for users who installed the package without a clone.

The recipes lie at the top of the repository; a link in the package carries them into the wheel.
"""

import shutil
from pathlib import Path

from nsllm_lite.commands.recipe_folder import ENCODER, INSTALLED, MATERIALS, pick_size
from nsllm_lite.errors import UserError, did_you_mean
from nsllm_lite.models.sizes import SIZED

NANO = "nano"
STARTER = INSTALLED.parent / "starter"


def init(folder: Path, recipe: str) -> list[Path]:
    """Writes recipes, Makefile, .gitignore and README into `folder`; returns what was written. Raises UserError where
    there is no recipe folder of that name, or a file is there already (then nothing is written)."""
    taken, size = pick_size(Path(recipe))
    recipe = str(taken)
    known = sorted(path.name for path in INSTALLED.iterdir() if path.is_dir())
    if recipe not in known:
        todo = did_you_mean(recipe, known, f"Name one of {', '.join(known)}.")
        raise UserError("init-recipe-unknown", f"--recipe {recipe}: no recipe folder of that name.", todo)
    folders = dict.fromkeys((recipe, *([SIZED] if recipe == MATERIALS else ()), NANO))
    sources = [path for name in folders for path in sorted((INSTALLED / name).glob("*.yaml"))]
    copies = {folder / "recipes" / path.relative_to(INSTALLED): path for path in sources}
    texts = {
        folder / name: (STARTER / name.removeprefix(".")).read_text()
        for name in ("Makefile", ".gitignore", "README.md")
    }
    there = [str(path) for path in (*texts, *copies) if path.exists()]
    if there:
        found = f"{', '.join(there[:4])}{', ...' if there[4:] else ''} exist already, and nothing is overwritten:"
        raise UserError("init-file-exists", found, "name a new folder.")
    for path, source in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    size_line = f"SIZE    ?= $(if $(filter recipes/{recipe},$(RECIPES)$(MODEL)),{size})\n" if size else ""
    is_other = recipe in (ENCODER, MATERIALS)  # whose folder has no recipes of two phases
    shown = {"Makefile": SIZED if is_other else recipe}
    for path, text in texts.items():
        path.write_text(text.replace("{recipe}", shown.get(path.name, recipe)).replace("{size}", size_line))
    print(f"{folder}: {', '.join(path.name for path in texts)}, {', '.join(f'recipes/{name}' for name in folders)}")
    print(f"Next: cd {folder} && make {recipe if is_other else 'phase1'}")
    return [*texts, *copies]
