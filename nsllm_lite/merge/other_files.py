"""What a merged model takes over beside its weights: tokenizer, licence, config. Nothing is left out without a word."""

import shutil
from pathlib import Path

from nsllm_lite import safety
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.formats.generation import stop_ids
from nsllm_lite.formats.tokenizer import FILES, TEMPLATES
from nsllm_lite.formats.tokenizer_choice import Chosen, tokenizer_files
from nsllm_lite.merge.inputs import Adapter, Base
from nsllm_lite.merge.plan import Plan
from nsllm_lite.recipe.merge import Merge

COPIED = ("generation_config.json", "*processor_config.json", "LICENSE*", "NOTICE*")
TAKEN_OVER = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".md", "")  # of those; neither code nor pickles
MADE_ANEW = ("config.json", "README.md", "*.safetensors", "*.safetensors.index.json", ".*")
MADE_ANEW += ("manifest.json", "files.json", "tensors.json", "times.json", "comparison.json")  # of an earlier merge
REMOTE_CODE = ("auto_map", "custom_pipelines")  # settings that name code, which a merge cannot vouch for


def write_other_files(
    partial: Path, base: Base, adapters: list[Adapter], plan: Plan, recipe: Merge, tokenizer: Chosen
) -> list[str]:
    """Copies tokenizer, licence and config; returns what is left out: code, pickles, settings that name code, and all
    that is not known here."""
    left = copy(base.folder, COPIED, partial)
    write_ends(partial, base, adapters)
    for folder, patterns in ((tokenizer.tokenizer, FILES), (tokenizer.template, TEMPLATES)):
        if folder != tokenizer.tokenizer or patterns is FILES:
            left += copy(folder, patterns, partial)
    left += write_config(partial, base, plan, recipe)
    mine = {path for pattern in (*MADE_ANEW, *COPIED, *FILES) for path in base.folder.glob(pattern)}
    strange = [path for path in sorted(base.folder.iterdir()) if path not in mine and path.name != TEMPLATES[1][:-2]]
    left += [path.name + "/" * path.is_dir() for path in strange]
    if left:
        what = "code, a pickle, a setting that names code, or unknown here"
        print(f"Not copied from {base.folder}: {', '.join(left)} ({what})")
    return left


def write_ends(partial: Path, base: Base, adapters: list[Adapter]) -> None:
    """Adds the tokens at which the adapters' answers end to those at which generation stops."""
    ends = stop_ids(base.folder)
    more = {adapter.training.get("end_of_text_id") for adapter in adapters} - {None, *ends}
    if not more:
        return
    path = partial / "generation_config.json"
    settings = read_json(path) if path.is_file() else {}
    write_json(path, settings | {"eos_token_id": [*dict.fromkeys(ends), *sorted(more)]})
    print(f"Generation also stops at {', '.join(map(str, sorted(more)))}, where the adapter's answers end")


def copy(folder: Path, patterns: tuple[str, ...], partial: Path) -> list[str]:
    """Copies what matches; returns what was left out."""
    left = []
    for path in tokenizer_files(folder, patterns):
        if path.suffix.lower() not in TAKEN_OVER:
            left.append(path.name)
            continue
        safety.require_inside(path, folder)
        to = partial / path.relative_to(folder)
        to.parent.mkdir(exist_ok=True)
        settings = read_json(path) if path.name == "tokenizer_config.json" else {}
        if named := [key for key in REMOTE_CODE if key in settings]:
            write_json(to, {key: value for key, value in settings.items() if key not in named})
            left += [f"{key} of {path.name}" for key in named]
        else:
            shutil.copyfile(path, to)
    return left


def write_config(partial: Path, base: Base, plan: Plan, recipe: Merge) -> list[str]:
    """config.json of the base, with what the merge changed; returns the settings that are left out."""
    safety.require_inside(base.folder / "config.json", base.folder)
    config = {key: value for key, value in base.config.items() if key not in REMOTE_CODE}
    if plan.untied:
        config["tie_word_embeddings"] = False
    if recipe.dtype:
        config |= {key: recipe.dtype for key in ("dtype", "torch_dtype") if key in config} or {"dtype": recipe.dtype}
    if plan.vocab_rows:
        size, text = {"vocab_size": plan.vocab_rows}, config.get("text_config")
        config |= size if not text or "vocab_size" in config else {}
        config |= {"text_config": text | size} if text else {}
    if config == base.config:
        shutil.copyfile(base.folder / "config.json", partial / "config.json")
    else:
        write_json(partial / "config.json", config)
    return [f"{key} of config.json" for key in REMOTE_CODE if key in base.config]
