"""`nsllm-lite crystals`: instruction files {id, document, instruction, input, output} made from structures.

`document` is the reduced formula: all items of one formula are in one split. OUT/structures.jsonl has each crystal with
its split and text, OUT/left_out.jsonl what became of the others. What is said of a crystal is computed from its rounded
text; where the rounding changes its space group it is left out.
"""

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite import terminal
from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.json_files import sha256_json
from nsllm_lite.artifact.step import begin, finish, finished
from nsllm_lite.errors import UserError
from nsllm_lite.evals.instruct_files import SPLITS, HashSample, words_of
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.crystals import Crystals
from nsllm_lite.recipe.evals import CRYSTAL_TASKS
from nsllm_lite.science.crystal import REACH, CrystalError, closest, decode, encode, formula_of
from nsllm_lite.science.crystal_symmetry import SYMPREC, symmetry_of
from nsllm_lite.science.structure_files import Found, files_in, read_structures
from nsllm_lite.tasks.crystals import CrystalTask, Known
from nsllm_lite.tasks.task import all_tasks

TRAIN, TEST = SPLITS


class LeftOut(NamedTuple):
    name: str
    reason: str
    detail: str = ""


def make_crystals(recipe: Crystals) -> dict[str, Any]:
    """Writes OUT/{train,test}/TASK.jsonl; returns the manifest's results, in which every structure is accounted for.

    Raises:
        UserError: pymatgen or spglib is not installed, a file is absent or unfit, there are no crystals, or too few
            formulas (structure types) for two splits.
    """
    started, out, paths = time.time(), Path(recipe.out), [Path(name) for name in recipe.structures]
    found = read_structures(paths)
    first = next(found, None)  # what is absent or unfit is told before anything is written
    identity, inputs = recipes.identity(recipe), hashes_of(paths)
    if (results := finished(out, identity, inputs)) is not None:
        return results
    begin(out, identity, inputs)
    known, left_out = read_known([first] if first else [], found, recipe.layout)
    splits = split_known(known, left_out, recipe)
    known = [one for one in known if one.name in splits]
    chosen, missing = make_items(known, splits, recipe)

    tasks = {}
    for task in CRYSTAL_TASKS:
        items = {split: chosen[task, split].items() for split in SPLITS}
        surplus = sum(chosen[task, split].num_seen - len(items[split]) for split in SPLITS)
        reasons = dict(sorted(missing[task].items())) | ({"max_per_task": surplus} if surplus else {})
        tasks[task] = {split: len(items[split]) for split in SPLITS} | {"left_out": reasons}
        for split in SPLITS:
            (out / split).mkdir(parents=True, exist_ok=True)
            write_lines(out / split / f"{task}.jsonl", items[split])
    about = ({"id": one.name, "split": splits[one.name]} | _about(one) for one in known)
    write_lines(out / "structures.jsonl", about)
    write_lines(out / "left_out.jsonl", (one._asdict() for one in left_out))
    counts = Counter(splits.values())
    results = {
        "structures": {split: counts[split] for split in SPLITS},
        "left_out": dict(sorted(Counter(one.reason for one in left_out).items())),
        "formulas": {split: len({one.formula for one in known if splits[one.name] == split}) for split in SPLITS},
        "symprec": SYMPREC,
        "tasks": tasks,
    }
    print(words_of(tasks))
    print(told(results))
    finish(out, "crystals", identity, inputs, results, started)
    return results


def hashes_of(paths: Sequence[Path]) -> dict[str, str | None]:
    """{label: hash} of all files, their names too; a link that leads to none has no hash of its own."""
    found = {}
    for number, path in enumerate(paths, 1):
        hashes = [
            [str(file.relative_to(path)), integrity.sha256_file(file) if file.is_file() else None]
            for file in files_in(path)
        ]
        found[f"structures {number}"] = sha256_json(hashes if path.is_dir() else hashes[0][1])
    return found


def read_known(first: list[Found], found: Iterable[Found], layout: str) -> tuple[list[Known], list[LeftOut]]:
    """The crystals with their texts, and why others are left out; a text that was there before is one of them."""
    known, left_out, texts = [], [], set()
    with terminal.progress(None, 0, "structures", "structure") as bar:
        for one in (*first, *found):
            bar.update()
            made = _known(one, layout)
            if isinstance(made, Known) and made.text in texts:
                made = LeftOut(one.name, "written as another one is")
            if isinstance(made, LeftOut):
                left_out.append(made)
            else:
                texts.add(made.text)
                known.append(made)
    return known, left_out


def _known(found: Found, layout: str) -> Known | LeftOut:
    if found.crystal is None:
        return LeftOut(found.name, found.reason, found.detail)
    try:
        text = encode(found.crystal, layout)
    except CrystalError as error:
        return LeftOut(found.name, f"{error} once rounded")
    crystal = decode(text).crystal
    if closest(crystal) < REACH:
        return LeftOut(found.name, f"atoms less than {REACH} Å apart once rounded")
    before, symmetry = symmetry_of(found.crystal), symmetry_of(crystal)
    if before is None or symmetry is None:
        return LeftOut(found.name, "no space group is found")
    if before.number != symmetry.number:
        detail = f"{before.symbol} -> {symmetry.symbol}"
        return LeftOut(found.name, "its space group changes with the rounding", detail)
    return Known(found.name, formula_of(crystal), text, crystal, symmetry, {})


def split_known(known: Sequence[Known], left_out: list[LeftOut], recipe: Crystals) -> dict[str, str]:
    """{name: split}; adds to `left_out` those that are in none. Raises UserError where a split would be empty."""
    of_formula = recipe.split == "formula"
    groups = {one.name: one.formula if of_formula else one.symmetry.prototype for one in known}
    ranked = sorted(set(groups.values()), key=lambda group: _hash(recipe.seed, group))
    what = "reduced formulas" if of_formula else "structure types"
    if len(ranked) < 2:
        reasons = "; ".join(
            f"{why}: {count:,}" for why, count in Counter(one.reason for one in left_out).most_common(3)
        )
        found = f"The structures have {len(ranked)} {what}, of {len(known):,} crystals; left out: {reasons or 'none'}."
        raise UserError("crystals-too-few", found, "Train and test need one each.", "Give more structures.")
    tests = set(ranked[: min(max(round(recipe.test_share * len(ranked)), 1), len(ranked) - 1)])
    splits = {name: TEST if group in tests else TRAIN for name, group in groups.items()}
    of_test = {one.formula for one in known if splits[one.name] == TEST}
    for one in known:
        if splits[one.name] == TRAIN and one.formula in of_test:
            left_out.append(LeftOut(one.name, "its formula is in test", one.formula))
            del splits[one.name]
    if TRAIN not in splits.values():
        found = f"All formulas of the structures are in test too (split: {recipe.split})."
        raise UserError("crystals-all-in-test", found, "Give more structures, or a smaller test_share.")
    return splits


def make_items(
    known: Sequence[Known], splits: dict[str, str], recipe: Crystals
) -> tuple[dict[tuple[str, str], HashSample], dict[str, Counter[str]]]:
    """({(task, split): items}, {task: reasons why a crystal has none}). What replaces an element is taken from the
    training crystals alone for these, from all for those of test."""
    tasks = {name: all_tasks()[name] for name in CRYSTAL_TASKS}
    chosen = {(task, split): HashSample(recipe.max_per_task, recipe.seed) for task in tasks for split in SPLITS}
    missing: dict[str, Counter[str]] = {task: Counter() for task in tasks}
    for split in SPLITS:
        seen = known if split == TEST else [one for one in known if splits[one.name] == TRAIN]
        for one in with_replacements([one for one in known if splits[one.name] == split], seen):
            for name, task in tasks.items():
                assert isinstance(task, CrystalTask)
                item, reason = task.of_crystal(one)
                if item:
                    chosen[name, split].add(item)
                else:
                    missing[name][reason] += 1
    return chosen, missing


def with_replacements(known: Sequence[Known], seen: Sequence[Known]) -> Iterator[Known]:
    """The crystals with, for each of their elements, those that stand in its place in a crystal of `seen` of the same
    structure and the same numbers of all other atoms."""
    there: dict[tuple, set[str]] = defaultdict(set)
    for one in seen:
        for element in one.crystal.counts:
            there[_without(one, element)].add(element)
    for one in known:
        others = {element: there[_without(one, element)] - {element} for element in one.crystal.counts}
        yield one._replace(replacements={element: sorted(names) for element, names in others.items()})


def _without(one: Known, element: str) -> tuple:
    """The structure with a hole for one element."""
    counts = one.crystal.counts
    rest = tuple(sorted((name, count) for name, count in counts.items() if name != element))
    return one.symmetry.prototype, counts[element], rest


def _about(one: Known) -> dict[str, Any]:
    return {
        "document": one.formula, "text": one.text, "space_group": one.symmetry.symbol,
        "prototype": one.symmetry.prototype,
    }  # fmt: skip


def _hash(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed} {text}".encode()).digest()


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """No file where there are no records."""
    path.unlink(missing_ok=True)
    if lines := "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records):
        write_atomic(path, lines)


def told(results: dict[str, Any]) -> str:
    """What became of the structures, in two lines."""
    counts = ", ".join(
        f"{results['structures'][split]:,} crystals of {results['formulas'][split]:,} formulas to {split}"
        for split in SPLITS
    )
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in results["left_out"].items())
    return f"{counts}\nleft out: {reasons or 'none'}"
