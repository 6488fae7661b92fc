"""Generated crystals, measured between floors and real ones.

Every figure is over all samples asked for: one that cannot be read is invalid, and none is drawn again. Beside each
stand the same figure of crystals made without a model and of real crystals, each with its number and its interval: a
training cell with random elements is already valid, and coverage of real crystals by other real ones is far from 1.
Letters: N samples, M reference crystals.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nsllm_lite import terminal
from nsllm_lite.errors import UserError
from nsllm_lite.science import crystal_floors, crystal_matching, crystal_validity
from nsllm_lite.science.crystal_coverage import CUTOFFS, Scale, coverage, read_scale, scale_of
from nsllm_lite.science.crystal_fingerprints import Fingerprint, Fingerprints
from nsllm_lite.science.crystal_matching import Buckets, by_formula, formula_of
from nsllm_lite.tasks import scores

if TYPE_CHECKING:
    from pymatgen.core import Structure

GENERATED, RANDOM, REAL = "generated", "floor: random elements", "real"
SHUFFLED, PLACED = "floor: shuffled prompts", "floor: wanted elements in a training cell"
SETS = (GENERATED, RANDOM, SHUFFLED, PLACED, REAL)
DISTANCES = (0.5, 0.7, 1.0)  # Å
LOWER_IS_BETTER = ("density, Wasserstein", "elements, Wasserstein", "displacement of matches")
NEW = ("novel", "novel formula", "valid, unique, novel")
UNWARNED = ("readable", "unique", "novel", "novel formula")  # of random elements they are 1 as well
CONDITIONAL = ("formula as wanted", "structure as wanted", "displacement of matches")


class Unread(NamedTuple):
    """In place of a crystal: why a sample is none."""

    reason: str


class Known(NamedTuple):
    """What all sets are measured against."""

    reference: list["Structure"]
    references: Buckets
    trained: Buckets
    fingerprints: list[Fingerprint]
    scale: Scale | None
    made: Fingerprints
    data_set: str | None
    coverage_n: int


class Judged(NamedTuple):
    """Of one set: {figure: rows of it}, whose mean it is; where it is a distance of distributions, what to compare
    with. `notes` are counts of what was not judged."""

    rows: dict[str, np.ndarray]
    against: dict[str, np.ndarray]
    notes: list[str]


def read(texts: Iterable[str], decode: Callable[[str], "Structure"]) -> list["Structure | Unread"]:
    """Each text decoded, or why it could not be: the message of the ValueError."""
    found: list[Structure | Unread] = []
    for text in texts:
        try:
            found.append(decode(text))
        except ValueError as error:  # a UserError is one
            found.append(Unread(getattr(error, "found", str(error))))
    return found


def measure(
    samples: Sequence["Structure | Unread"],
    reference: Sequence["Structure"],
    training: Sequence["Structure"],
    wanted: Sequence[str] | None = None,
    seed: int = 0,
    *,
    data_set: str | None = None,
    scale: Path | None = None,
    cache: Path | None = None,
    coverage_n: int | None = None,
) -> dict[str, Any]:
    """{"n", "figures": {name: {set: {"value", "low", "high", "n"}}}, "unreadable", "left_out", "notes", "warnings",
    "settings"} of the samples, their floors and real crystals; `table` draws it. Recall's `n` are reference crystals,
    and its `by` the samples that may cover them.

    `reference` are test crystals, `training` those of which floors are made and which novelty is against; `wanted` the
    formula that each sample was asked for. `data_set` names the cutoffs of coverage (CUTOFFS; None: coverage is not
    measured), `scale` CDVAE's file of its scale (None: the reference set's own), `cache` a folder for fingerprints.
    Coverage is that of the first `coverage_n` of each set, for 27 ms a site.
    Raises UserError where nothing was asked for, nothing is there to compare with, or a formula is none.
    """
    crystal_validity.require_materials()
    _require(samples, wanted, data_set)
    fixed = read_scale(scale) if scale and data_set else None
    left_out: dict[str, dict[str, int]] = {}
    real = _sound(reference, "reference", left_out)
    trained = _sound(training, "training", left_out)
    asked = [_reduced(formula) for formula in wanted] if wanted is not None else None

    made = Fingerprints(cache)
    prints = [one for one in _prints(real, made) if one] if data_set else []
    if data_set:
        left_out["reference"] |= {"no fingerprint": len(real) - len(prints)} if len(prints) < len(real) else {}
        fixed = fixed or (scale_of(prints) if prints else None)
    first = min(coverage_n or len(samples), len(samples))
    known = Known(real, by_formula(real), by_formula(trained), prints, fixed, made, data_set, first)
    judged = _judge_all(samples, trained, asked, known, seed)

    figures: dict[str, dict[str, Any]] = {}
    for name, one in judged.items():
        for figure, rows in one.rows.items():
            cell = _estimate(rows, one.against.get(figure), seed)
            by = {"by": len(one.rows["coverage, precision"])} if figure.startswith("coverage, recall") else {}
            figures.setdefault(figure, {})[name] = cell | by
    unread = Counter(reason for one in samples if (reason := _reason(one)))
    notes = [f"{name}: {note}" for name, one in judged.items() for note in one.notes]
    if asked is not None and (absent := sum(formula not in known.references for formula in asked)):
        notes.append(f"{absent:,} wanted formulas are not in the reference: no structure can be as wanted there")
    return {
        "n": len(samples),
        "figures": figures,
        "unreadable": dict(unread.most_common()),
        "left_out": {name: reasons for name, reasons in left_out.items() if reasons},
        "notes": notes,
        "warnings": _warnings(figures),
        "settings": _settings(known, seed),
    }


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown: each set a column, each cell a value with its interval and its number."""
    sets = [name for name in SETS if any(name in cells for cells in found["figures"].values())]
    rows = [(figure, *(_cell(cells.get(name)) for name in sets)) for figure, cells in found["figures"].items()]
    lines = [terminal.as_markdown((f"of {found['n']:,} asked for", *sets), rows), ""]
    lines += [f"- unreadable: {reason}: {count:,}" for reason, count in found["unreadable"].items()]
    for name, reasons in found["left_out"].items():
        lines += [f"- left out of the {name} crystals: {reason}: {count:,}" for reason, count in reasons.items()]
    lines += [f"- {words}" for words in (*found["warnings"], *found["notes"])]
    lines += [f"- {name}: {value}" for name, value in found["settings"].items()]
    return "\n".join(lines)


def _require(samples: Sequence[Any], wanted: Sequence[str] | None, data_set: str | None) -> None:
    if not samples:
        raise UserError("crystals-none-asked", "There is no sample to measure.", "Ask for one at least.")
    if wanted is not None and len(wanted) != len(samples):
        found = f"{len(wanted):,} formulas were wanted, and there are {len(samples):,} samples."
        raise UserError("crystals-wanted-differ", found, "Give each sample, unreadable ones too, its formula.")
    if data_set is not None and data_set not in CUTOFFS:
        found = f"There are no cutoffs of coverage for {data_set}."
        raise UserError("crystals-cutoffs-unknown", found, f"Name one of: {', '.join(CUTOFFS)}.")


def _sound(structures: Sequence["Structure"], name: str, left_out: dict[str, dict[str, int]]) -> list["Structure"]:
    """Those that can be judged, and whose atoms are apart; why others are left out is counted."""
    kept, reasons = [], Counter()
    for one in structures:
        reason = crystal_validity.fault(one) or ("" if _apart(one) else f"atoms nearer than {DISTANCES[0]} Å")
        kept += [] if reason else [one]
        reasons[reason] += 1
    del reasons[""]
    left_out[name] = dict(reasons)
    if not kept:
        found = f"None of the {len(structures):,} {name} crystals can be used."
        needed = "Floors and distances need some."
        raise UserError("crystals-nothing-to-compare", found, needed, "Name files of ordered crystals.")
    return kept


def _reduced(formula: str) -> str:
    from pymatgen.core import Composition, Element

    try:
        composition = Composition(formula)
        if composition and all(isinstance(kind, Element) for kind in composition):
            return composition.reduced_formula
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError("crystals-formula-unread", f"{formula[:80]!r} is no formula.", "Write it as Fe2O3.")


def _reason(sample: "Structure | Unread") -> str:
    return sample.reason if isinstance(sample, Unread) else crystal_validity.fault(sample)


def _judge_all(
    samples: Sequence["Structure | Unread"],
    trained: list["Structure"],
    asked: list[str] | None,
    known: Known,
    seed: int,
) -> dict[str, Judged]:
    given = [None if _reason(one) else one for one in samples]
    count = len(samples)
    judged = {GENERATED: _judge(given, asked, known)}
    judged[RANDOM] = _judge(crystal_floors.random_elements(trained, count, seed), asked, known)
    if asked is not None:
        rows = _conditional(given, crystal_floors.shuffled(asked, seed), known)
        judged[SHUFFLED] = Judged(rows, {}, [])
        judged[PLACED] = _judge(crystal_floors.wanted_in_training_cells(asked, trained, seed), asked, known)
    real = _judge(crystal_floors.draw(trained, count, seed), None, known, is_new=False)
    new = _judge(crystal_floors.draw(known.reference, count, seed), None, known._replace(data_set=None))
    real.rows.update({figure: rows for figure, rows in new.rows.items() if figure in NEW})
    return judged | {REAL: real}


def _judge(
    structures: Sequence["Structure | None"], asked: list[str] | None, known: Known, is_new: bool = True
) -> Judged:
    """One row a sample, but for recall (one a reference crystal) and for distances of distributions, whose rows are the
    valid crystals' own."""
    nearest = [None if one is None else crystal_validity.closest(one) for one in structures]
    rows = {"readable": np.array([one is not None for one in structures])}
    for distance in DISTANCES:
        rows[f"structure, {distance} Å"] = np.array([near is not None and near.pair >= distance for near in nearest])
    usable = [_apart(one) for one in structures]
    rows[f"structure, {DISTANCES[0]} Å, own images too"] = np.array([one is not None for one in usable])
    notes: list[str] = []
    for name in crystal_validity.SMACT_SETS:
        given = [None if one is None else crystal_validity.is_neutral(one.composition, name) for one in structures]
        rows[f"composition, {name}"] = np.array([one is True for one in given])
        unknown = sum(one is None for one in given) - sum(one is None for one in structures)
        notes += [f"{unknown:,} compositions that {name} cannot judge count as invalid"] if unknown else []
    valid = rows[f"structure, {DISTANCES[0]} Å"] & rows[f"composition, {crystal_validity.SMACT_SETS[0]}"]
    rows["valid"] = valid
    if known.data_set:
        rows |= _covered(usable[: known.coverage_n], known, notes)
    first = crystal_matching.first_of_kind(usable)
    rows["unique"] = first
    if is_new:
        novel = crystal_matching.is_novel(usable, known.trained)
        rows["novel"] = novel
        new = [one is not None and formula_of(one) not in known.trained for one in usable]
        rows["novel formula"] = np.array(new)
        shortest = min(len(first), len(novel))
        rows["valid, unique, novel"] = first[:shortest] & novel[:shortest] & valid[:shortest]
        if shortest < len(structures):
            notes.append(f"unique and novel are of the first {shortest:,}: the comparisons were spent")
    kept = [one for one, is_valid in zip(structures, valid, strict=True) if is_valid]
    against = {}
    for figure, value in zip(LOWER_IS_BETTER, (_density, _elements), strict=False):
        rows[figure], against[figure] = (np.array([value(one) for one in some]) for some in (kept, known.reference))
    return Judged(rows | (_conditional(structures, asked, known) if asked is not None else {}), against, notes)


def _apart(structure: "Structure | None") -> "Structure | None":
    """A crystal whose atoms, their own images too, keep DISTANCES[0]; others are compared with none."""
    is_apart = structure is not None and min(crystal_validity.closest(structure)) >= DISTANCES[0]
    return structure if is_apart else None


def _density(structure: "Structure") -> float:
    return float(structure.density)


def _elements(structure: "Structure") -> int:
    return len(structure.composition.element_composition)


def _prints(structures: Sequence["Structure | None"], made: Fingerprints) -> list[Fingerprint | None]:
    found = []
    with terminal.progress(len(structures), 0, "fingerprints", "crystal") as bar:
        for one in structures:
            found.append(None if one is None else made.of(one))
            bar.update()
    return found


def _covered(structures: Sequence["Structure | None"], known: Known, notes: list[str]) -> dict[str, np.ndarray]:
    prints = _prints(structures, known.made)
    if missing := sum(one is None for one in prints) - sum(one is None for one in structures):
        notes.append(f"{missing:,} crystals have no fingerprint and are covered by none")
    if len(structures) < known.coverage_n:
        notes.append(f"only {len(structures):,} crystals are there: recall by {known.coverage_n:,} would be higher")
    found = coverage(prints, known.fingerprints, CUTOFFS[known.data_set], known.scale)
    return {
        "coverage, precision": found.precision,
        "coverage, precision, strict": found.precision_strict,
        "coverage, recall": found.recall,
        "coverage, recall, strict": found.recall_strict,
    }


def _conditional(structures: Sequence["Structure | None"], asked: list[str], known: Known) -> dict[str, np.ndarray]:
    pairs = zip(structures, asked, strict=True)
    moved = crystal_matching.distances([_apart(one) for one in structures], asked, known.references)
    is_match = np.isfinite(moved)
    return {
        CONDITIONAL[0]: np.array([one is not None and formula_of(one) == formula for one, formula in pairs]),
        CONDITIONAL[1]: is_match,
        CONDITIONAL[2]: moved[is_match],
    }


def _estimate(rows: np.ndarray, against: np.ndarray | None, seed: int) -> dict[str, Any]:
    """The mean of the rows, or how far their distribution is from another (Wasserstein, in the unit of the rows), and
    its interval over resampled rows; `value` None where there are none."""
    if not len(rows):
        return {"value": None, "low": None, "high": None, "n": 0}
    if against is None:
        found = scores.estimate_mean(rows.astype(float), seed)
    else:
        from scipy.stats import wasserstein_distance

        results = scores.Results(None, rows)
        found = scores.estimate(results, lambda drawn: float(wasserstein_distance(drawn.given, against)), seed)
        found = found._replace(
            low=min(found.low, found.value)
        )  # resamples of what is alike are less alike, all of them
    return found._asdict() | {"n": len(rows)}


def _warnings(figures: dict[str, dict[str, Any]]) -> list[str]:
    """Of each floor, the figures in which the samples are not clearly better: the intervals meet."""
    found: dict[str, list[str]] = {}
    for figure, cells in figures.items():
        one, sign = cells[GENERATED], -1 if figure in LOWER_IS_BETTER else 1
        for name, floor in cells.items():
            if figure in UNWARNED or not name.startswith("floor") or one["value"] is None or floor["value"] is None:
                continue
            worst, best = (one["low"], floor["high"]) if sign > 0 else (-one["high"], -floor["low"])
            if worst <= best:
                found.setdefault(name, []).append(figure)
    return [f"not clearly better than the {name}: {'; '.join(names)}" for name, names in found.items()]


def _settings(known: Known, seed: int) -> dict[str, Any]:
    found = {
        "smact": version("smact"),
        "pymatgen-core": version("pymatgen-core"),
        "valid is": f"structure, {DISTANCES[0]} Å, and composition, {crystal_validity.SMACT_SETS[0]}",
        "same crystal": ", ".join(f"{name} {value}" for name, value in crystal_matching.TOLERANCES.items()),
        "reference crystals": len(known.reference),
        "training crystals": sum(map(len, known.trained.values())),
        "seed": seed,
    }
    if known.data_set:
        cutoffs = CUTOFFS[known.data_set]
        found["coverage"] = (
            f"cutoffs {cutoffs.structure} and {cutoffs.composition} ({known.data_set}), compositions on the scale of:"
            f" {known.scale.name}, first {known.coverage_n:,} samples"
        )
    return found


def _cell(one: dict[str, Any] | None) -> str:
    if one is None or one["value"] is None:
        return "-"
    by = f" by {one['by']:,}" if "by" in one else ""
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}], n {one['n']:,}{by}"
