"""Crystals written by a model: of a formula, of elements, the cell that fits given sites, and the element left out.

A crystal counts where its text can be read, it is what was asked for, and no two atoms are nearer than 0.5 Å; neither
alone says much, as a known cell with other elements put in passes all three (the floor). How well it is a crystal is
measured by evals/crystal_report.py.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from statistics import median
from typing import ClassVar

from nsllm_lite.science.crystal import REACH, Crystal, closest, counts_of, decode, reduced
from nsllm_lite.tasks.crystals import ABOUT, CrystalTask, Element, Known, Numbers, Tolerance, num_sites, numbers
from nsllm_lite.tasks.items import Item, without_thinking
from nsllm_lite.tasks.task import ItemOrReason, Score, TaskSet

MASK = "[MASK]"
FORM = (
    "lengths (Å) and angles (degrees) of its cell, then of each site the element and the fractional coordinates, a "
    "line each."
)


class Writing(CrystalTask):
    """The answer is a crystal."""

    metrics: ClassVar[dict[str, str]] = {
        "as_asked": "as asked, atoms apart",
        "composition": "composition as asked",
        "apart": "atoms apart",
    }
    value_is = "as_asked"

    def parse(self, text: str, options: Sequence[str]) -> str | None:
        text = without_thinking(text)
        return text if decode(text).crystal else None

    @abstractmethod
    def is_asked(self, counts: Mapping[str, int], item: Item) -> bool:
        """Whether a crystal with these atoms is what the item asks for."""

    @abstractmethod
    def kind(self, counts: Mapping[str, int]) -> tuple[int, ...]:
        """Equal for compositions of which one becomes the other when elements are exchanged."""

    def score(self, answer: str | None, item: Item) -> Score:
        crystal = None if answer is None else decode(answer).crystal
        if crystal is None:
            return Score(False, 0.0, False, dict.fromkeys(self.metrics, 0.0))
        is_asked, is_apart = self.is_asked(crystal.counts, item), closest(crystal) >= REACH
        value = float(is_asked and is_apart)
        parts = {"as_asked": value, "composition": float(is_asked), "apart": float(is_apart)}
        return Score(True, value, value == 1, parts)

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """An example's cell with the elements that are asked for; None where no example has such a formula."""
        known: dict[tuple[int, ...], str] = {}
        for item in asked.pool:
            if crystal := decode(item.answer).crystal:
                known.setdefault(self.kind(crystal.counts), item.answer)
        answers = [self._exchanged(known, item) for item in asked.items]
        return {"an example's cell with these elements": answers if any(answers) else None}

    def _exchanged(self, known: Mapping[tuple[int, ...], str], item: Item) -> str | None:
        wanted = _wanted(item)
        example = known.get(self.kind(wanted)) if wanted else None
        if example is None:
            return None
        crystal = decode(example).crystal
        of_example = sorted(crystal.counts, key=lambda name: (crystal.counts[name], name))
        by_count = sorted(wanted, key=lambda name: (wanted[name], name))
        new = dict(zip(of_example, by_count, strict=True))
        rows = example.strip().split("\n")
        rows[2::2] = [new[element] for element in crystal.elements]
        return "\n".join(rows)


class OfFormula(Writing):
    def is_asked(self, counts: Mapping[str, int], item: Item) -> bool:
        return reduced(counts) == reduced(_wanted(item) or {})

    def kind(self, counts: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(sorted(reduced(counts).values()))

    def of_crystal(self, one: Known) -> ItemOrReason:
        return self.item(one, one.formula, one.text)


class OfElements(Writing):
    def is_asked(self, counts: Mapping[str, int], item: Item) -> bool:
        return counts.keys() == (_wanted(item) or {}).keys()

    def kind(self, counts: Mapping[str, int]) -> tuple[int, ...]:
        return (len(counts),)

    def of_crystal(self, one: Known) -> ItemOrReason:
        return self.item(one, ", ".join(sorted(one.crystal.counts)), one.text)


class Infill(Element):
    """All sites of one element are hidden, site by site: C within Ca and Cl stays."""

    def of_crystal(self, one: Known) -> ItemOrReason:
        if len(one.crystal.counts) == 1:
            return ItemOrReason(None, "one element alone")
        hidden, rows = self.pick(one, sorted(one.crystal.counts)), one.text.split("\n")
        rows[2::2] = [MASK if element == hidden else element for element in one.crystal.elements]
        return self.item(one, "\n".join(rows), hidden)


class Lattice(Numbers):
    def of_crystal(self, one: Known) -> ItemOrReason:
        rows = one.text.split("\n")
        return self.item(one, "\n".join([one.formula, *rows[2:]]), "\n".join(rows[:2]))

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """And a cube with the volume of an atom, the median of the examples, times the atoms."""
        each = median(_volume_of_an_atom(item) for item in asked.pool or asked.items)
        edges = [f"{(each * num_sites(item.input)) ** (1 / 3):.2f}" for item in asked.items]
        cubes = [f"{edge} {edge} {edge}\n90 90 90" for edge in edges]
        return super().rules(asked, seed) | {f"cube, {each:.1f} Å³ an atom": cubes}


def _volume_of_an_atom(item: Item) -> float:
    values = numbers(item.answer)
    return Crystal(tuple(values[:3]), tuple(values[3:]), (), ()).volume / max(num_sites(item.input), 1)


def _wanted(item: Item) -> dict[str, int] | None:
    """Of an input that is a formula, or elements with commas between."""
    text = item.input.strip()
    return dict.fromkeys(text.split(", "), 1) if ", " in text else counts_of(text)


OF_FORMULA = OfFormula(
    **ABOUT | {"lead": "Formula", "cue": "Crystal", "new_tokens": 1024, "chat_tokens": 2048},
    name="crystal_of_formula", title="A crystal of a formula",
    instruction=f"Write a crystal with this reduced formula: {FORM}",
)  # fmt: skip
OF_ELEMENTS = OfElements(
    **ABOUT | {"lead": "Elements", "cue": "Crystal", "new_tokens": 1024, "chat_tokens": 2048},
    name="crystal_of_elements", title="A crystal of given elements",
    instruction=f"Write a crystal of exactly these elements: {FORM}",
)  # fmt: skip
INFILL = Infill(
    name="crystal_infill", title="The element left out",
    instruction=f"One element of this crystal is hidden, {MASK} stands in its place. Which is it? Answer with its "
    "symbol.", **ABOUT,
)  # fmt: skip
LATTICE = Lattice(
    name="crystal_lattice", title="The cell of given sites",
    within=((Tolerance(relative=0.05),) * 3, (Tolerance(5.0),) * 3),
    instruction="These are the formula and the sites of a crystal, with fractional coordinates. Give the lengths of "
    "its cell (Å) in one line and its angles (degrees) in the next.", **ABOUT,
)  # fmt: skip
