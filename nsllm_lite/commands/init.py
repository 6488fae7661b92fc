"""`nsllm-lite init DIR`: a starter project for who installed the package and has no clone of it.

The recipes lie at the top of the repository; a link in the package carries them into the wheel.
"""

import shutil
from pathlib import Path

from nsllm_lite.commands.recipe_folder import INSTALLED, pick_size
from nsllm_lite.errors import UserError, did_you_mean

NANO = "nano"

GITIGNORE = "runs/\n*.part\n"

README = """# A run of nsllm-lite

`recipes/{recipe}` says what is trained, `recipes/nano` is the same chain for a CPU in minutes; edit either.

    make phase1                          # tries everything with the tiny CPU model
    make plan CORPUS=path/to/papers      # memory, time, disk and download of the real run; starts nothing
    make two-phase CORPUS=path/to/papers # the real run: both phases and the report; then make eval, make sft

Results go to `runs/`, which git ignores: `nsllm-lite runs` lists them, `nsllm-lite show RUN` tells where
one comes from. A command run again skips what is finished and continues what was stopped.
"""

MAKEFILE = """# make phase1 tries the chain on the CPU; with CORPUS=path/to/papers it is recipes/{recipe}, the real run.
#   GENERAL=path  your general text   SIZE=8b  the size of Qwen3 (unset: by the card)   MODEL=id|dir  another base model
#   RECIPES=dir  another recipe folder   OUT=dir  where the run is written   SET="phase1.seed=1"  single recipe values
NSLLM   ?= nsllm-lite
RECIPES ?= $(if $(CORPUS),recipes/{recipe},recipes/nano)
{size}RUN := --recipes '$(RECIPES)' $(if $(CORPUS),--corpus '$(CORPUS)') $(if $(GENERAL),--general '$(GENERAL)') \\
       $(if $(SIZE),--size '$(SIZE)') $(if $(MODEL),--model '$(MODEL)') $(if $(OUT),--out '$(OUT)') $(SET)

.PHONY: help phase1 phase2 two-phase eval sft plan doctor
help:  ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\\t/' | expand -t 12
phase1:  ## corpus, phase 1, merge
	@$(NSLLM) phase1 $(RUN)
phase2:  ## phase 2 from phase 1's merged model, merge
	@$(NSLLM) phase2 $(RUN)
two-phase:  ## both phases and the report
	@$(NSLLM) two-phase $(RUN)
eval:  ## scores of base, phase 1 and phase 2
	@$(NSLLM) eval-run $(RUN)
sft:  ## instruction tuning of model 2, merge, scores
	@$(NSLLM) instruct $(RUN)
plan:  ## what a run will use; starts nothing
	@$(NSLLM) plan $(RUN)
doctor:  ## does this machine train and merge right?
	@$(NSLLM) doctor
"""


def init(folder: Path, recipe: str) -> list[Path]:
    """Writes recipes, Makefile, .gitignore and README into `folder`; returns what was written.

    Raises:
        UserError: there is no recipe folder of that name, or a file is there already (then nothing is written).
    """
    taken, size = pick_size(Path(recipe))
    recipe = str(taken)
    known = sorted(path.name for path in INSTALLED.iterdir() if path.is_dir())
    if recipe not in known:
        todo = did_you_mean(recipe, known, f"Name one of {', '.join(known)}.")
        raise UserError("init-recipe-unknown", f"--recipe {recipe}: no recipe folder of that name.", todo)
    sources = [path for name in dict.fromkeys((recipe, NANO)) for path in sorted((INSTALLED / name).glob("*.yaml"))]
    copies = {folder / "recipes" / path.relative_to(INSTALLED): path for path in sources}
    texts = {folder / "Makefile": MAKEFILE, folder / ".gitignore": GITIGNORE, folder / "README.md": README}
    there = [str(path) for path in (*texts, *copies) if path.exists()]
    if there:
        raise UserError(
            "init-file-exists",
            f"{', '.join(there[:4])}{', ...' if there[4:] else ''} exist already, and nothing is overwritten:",
            "name a new folder.",
        )
    for path, source in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    size_line = f"SIZE    ?= $(if $(filter recipes/{recipe},$(RECIPES)$(MODEL)),{size})\n" if size else ""
    for path, text in texts.items():
        path.write_text(text.replace("{recipe}", recipe).replace("{size}", size_line))
    print(f"{folder}: {', '.join(path.name for path in texts)}, recipes/{recipe}" + ", recipes/nano" * (recipe != NANO))
    print(f"Next: cd {folder} && make phase1")
    return [*texts, *copies]
