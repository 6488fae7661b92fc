"""Questions about a crystal: what its text states, and what follows from it.

Items are made of any structures (evals/crystal_files.py). All answers are computed from the text that is asked about,
rounded as it is, so that a file's own "P 1" or unrounded cell is in none of them. Numbers of atoms, lengths, angles
and elements at a site stand in the text: a model that scores low there has not learnt to read it.
"""

import hashlib
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, NamedTuple

from nsllm_lite.errors import UserError
from nsllm_lite.science.crystal import KNOWN, Crystal, counts_of, decode, reduced
from nsllm_lite.science.crystal_symmetry import SYMPREC, Symmetry
from nsllm_lite.tasks.answers import parse_result
from nsllm_lite.tasks.floors import commonest
from nsllm_lite.tasks.items import Item, without_thinking
from nsllm_lite.tasks.task import ItemOrReason, Task, TaskSet

NUMBER = re.compile(r"(?<![\w.])-?[0-9]{1,9}(?:\.[0-9]{1,9})?(?!\w|\.[0-9])", re.ASCII)  # 5.64Å too
SYMBOL = re.compile(r"[PIFABCR][-/0-9a-z]{0,11}")
SMALL_DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
SITE = "Site"


class Known(NamedTuple):
    """A crystal as its text has it, and what is known of it."""

    name: str
    formula: str  # reduced
    text: str
    crystal: Crystal
    symmetry: Symmetry
    replacements: Mapping[str, Sequence[str]]  # {element: those in its place in other crystals of this structure}


class Tolerance(NamedTuple):
    """How far an answer may be off, in the unit of the number or as a share of it."""

    absolute: float = 0.0
    relative: float = 0.0

    def allows(self, said: float, gold: float) -> bool:
        return abs(said - gold) <= max(self.absolute, self.relative * abs(gold)) + 1e-9


class CrystalTask(Task):
    """A task of crystals; an answer may have several lines."""

    stop: ClassVar[str] = "\n\n"  # of an answer behind a few-shot prompt

    @abstractmethod
    def of_crystal(self, one: Known) -> ItemOrReason:
        """The item made from a crystal, or why there is none."""

    def fitted(self, items: Sequence[Item], where: str) -> tuple[Item, ...]:
        """The items. Raises UserError where an output is no answer of this task."""
        for item in items:
            if self.parse(item.answer, ()) is None:
                found = f"{where}: record {item.number} has the answer {item.answer[:40]!r}."
                todo = "Correct that record, or name the file for another task."
                raise UserError("crystal-answer-unfit", found, f"That is no answer of {self.name!r}.", todo)
        return tuple(items)

    def item(self, one: Known, text: str, answer: str) -> ItemOrReason:
        return ItemOrReason(self.record(f"{one.name}/{self.name}", one.formula, text, answer))

    def pick(self, one: Known, options: Sequence[str]) -> str:
        """One of the options, by a hash of the crystal's name."""
        digest = hashlib.sha256(f"{one.name}/{self.name}".encode()).digest()
        return options[int.from_bytes(digest[:8], "big") % len(options)]

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        common = commonest([item.answer for item in asked.pool or asked.items])
        return {"commonest answer": [common] * len(asked.items)}


@dataclass(frozen=True, kw_only=True)
class Numbers(CrystalTask):
    """The answer is lines of numbers, right where each is within its tolerance."""

    within: tuple[tuple[Tolerance, ...], ...]  # a row for each line

    def parse(self, text: str, options: Sequence[str]) -> str | None:
        if len(self.within) == 1:
            lines = [parse_result(text) or ""]
        else:
            lines = [line for line in without_thinking(text).splitlines() if line.strip()]
        if len(lines) != len(self.within):
            return None
        rows = [NUMBER.findall(line) for line in lines]
        if [len(row) for row in rows] != [len(row) for row in self.within]:
            return None
        return "\n".join(map(" ".join, rows))

    def compare(self, answer: str, item: Item) -> float:
        said, gold = numbers(answer), numbers(item.answer)
        allowed = [tolerance for row in self.within for tolerance in row]
        return float(all(one.allows(*pair) for one, *pair in zip(allowed, said, gold, strict=True)))

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """The commonest answer, and of each number the median."""
        known = [item.answer for item in asked.pool or asked.items]
        middle = iter(map(median, zip(*map(numbers, known), strict=True)))
        text = "\n".join(" ".join(f"{next(middle):g}" for _ in row) for row in self.within)
        return super().rules(asked, seed) | {"median of each number": [text] * len(asked.items)}


class Atoms(Numbers):
    def of_crystal(self, one: Known) -> ItemOrReason:
        return self.item(one, one.text, str(len(one.crystal.elements)))


class Lengths(Numbers):
    def of_crystal(self, one: Known) -> ItemOrReason:
        return self.item(one, one.text, one.text.split("\n")[0])


class Angles(Numbers):
    def of_crystal(self, one: Known) -> ItemOrReason:
        return self.item(one, one.text, one.text.split("\n")[1])


class Volume(Numbers):
    def of_crystal(self, one: Known) -> ItemOrReason:
        return self.item(one, one.text, f"{one.crystal.volume:.1f}")

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """And the volume of an atom, the median of the examples, times the atoms."""
        known = asked.pool or asked.items
        each = median(numbers(item.answer)[0] / max(num_sites(item.input), 1) for item in known)
        by_atoms = [f"{each * num_sites(item.input):.1f}" for item in asked.items]
        return super().rules(asked, seed) | {f"{each:.1f} Å³ an atom": by_atoms}


class Element(CrystalTask):
    """The answer is the symbol of one element."""

    def parse(self, text: str, options: Sequence[str]) -> str | None:
        return found if (found := parse_result(text)) in KNOWN else None


class ElementAtSite(Element):
    def of_crystal(self, one: Known) -> ItemOrReason:
        rows = one.text.split("\n")[2:]
        places = Counter(rows[1::2])
        alone = [place for place in rows[1::2] if places[place] == 1]
        if not alone:
            return ItemOrReason(None, "every place holds several atoms")
        place = self.pick(one, alone)
        return self.item(one, f"{one.text}\n\n{SITE}: {place}", rows[rows.index(place) - 1])

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """The commonest element of the crystal."""
        found = [decode(item.input.split(f"\n\n{SITE}:")[0]).crystal for item in asked.items]
        return {"commonest of its crystal": [commonest(one.elements) if one else None for one in found]}


class SpaceGroup(CrystalTask):
    def parse(self, text: str, options: Sequence[str]) -> str | None:
        found = plain_symbol(parse_result(text) or "")
        return found if SYMBOL.fullmatch(found) else None

    def compare(self, answer: str, item: Item) -> float:
        return float(plain_symbol(answer) == plain_symbol(item.answer))

    def of_crystal(self, one: Known) -> ItemOrReason:
        return self.item(one, one.text, one.symmetry.symbol)


class Formula(CrystalTask):
    """Read as pure numbers of atoms: SrTiO3, TiSrO3 and Sr2Ti2O6 are one reduced formula."""

    def parse(self, text: str, options: Sequence[str]) -> str | None:
        counts = counts_of((parse_result(text) or "").translate(SMALL_DIGITS))
        return None if counts is None else written(counts)

    def compare(self, answer: str, item: Item) -> float:
        return float(counts_of(answer) == reduced(counts_of(item.answer) or {}))

    def of_crystal(self, one: Known) -> ItemOrReason:
        return self.item(one, one.text, one.formula)

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """Each element of the crystal once."""
        found = [decode(item.input).crystal for item in asked.items]
        return {"each element once": [written(dict.fromkeys(one.elements, 1)) if one else None for one in found]}


class Replacements(CrystalTask):
    """The answer is a list of elements; its value is the F1 of the two lists."""

    metrics: ClassVar[dict[str, str]] = {"elements_f1": "F1 of elements"}
    value_is = "elements_f1"

    def parse(self, text: str, options: Sequence[str]) -> str | None:
        words = re.split(r"[\s,;]+", parse_result(text) or "")
        return ", ".join(sorted(set(words))) if KNOWN.issuperset(words) else None

    def compare(self, answer: str, item: Item) -> float:
        said, gold = set(answer.split(", ")), set((self.parse(item.answer, ()) or "").split(", "))
        return 2 * len(said & gold) / (len(said) + len(gold))

    def of_crystal(self, one: Known) -> ItemOrReason:
        known = sorted(element for element, others in one.replacements.items() if others)
        if not known:
            return ItemOrReason(None, "no other crystal of its structure differs by one element")
        element = self.pick(one, known)
        answer = ", ".join(sorted(one.replacements[element]))
        return self.item(one, f"{one.text}\n\nElement: {element}", answer)

    def rules(self, asked: TaskSet, seed: int) -> dict[str, list[str] | None]:
        """The elements that are in at least half of the answers, or the commonest one."""
        known = [item.answer.split(", ") for item in asked.pool or asked.items]
        counts = Counter(element for row in known for element in row)
        often = sorted(name for name, count in counts.items() if 2 * count >= len(known)) or [commonest([*counts])]
        return super().rules(asked, seed) | {"elements of most answers": [", ".join(often)] * len(asked.items)}


def plain_symbol(text: str) -> str:
    """P2_1/c as P21/c, as are P 2₁/c, $P2_{1}/c$ and P2_1/c (14)."""
    return re.sub(r"\s*\(.*|[\s_$\\{}]", "", text.translate(SMALL_DIGITS))


def numbers(answer: str) -> list[float]:
    return [float(word) for word in NUMBER.findall(answer)]


def num_sites(text: str) -> int:
    """Rows that are a known element."""
    return sum(row in KNOWN for row in text.split("\n"))


def written(counts: Mapping[str, int]) -> str:
    """The reduced formula, elements in the order of the alphabet."""
    return "".join(f"{element}{count if count > 1 else ''}" for element, count in reduced(counts).items())


ABOUT = {"version": 2, "lead": "Crystal", "cue": "Answer", "shots": 3, "new_tokens": 32, "chat_tokens": 512}

ATOMS = Atoms(
    name="crystal_atoms", title="Atoms of a crystal", within=((Tolerance(),),),
    instruction="How many atoms are in the cell of this crystal? Answer with the number alone.", **ABOUT,
)  # fmt: skip
LENGTHS = Lengths(
    name="crystal_lengths", title="Lengths of a cell", within=((Tolerance(0.01),) * 3,),
    instruction="What are the lengths a, b and c of this crystal's cell, in Å? Answer with three numbers.", **ABOUT,
)  # fmt: skip
ANGLES = Angles(
    name="crystal_angles", title="Angles of a cell", within=((Tolerance(0.1),) * 3,),
    instruction="What are the angles alpha, beta and gamma of this crystal's cell, in degrees? Answer with three "
    "numbers.", **ABOUT,
)  # fmt: skip
VOLUME = Volume(
    name="crystal_volume", title="Volume of a cell", within=((Tolerance(relative=0.01),),),
    instruction="What is the volume of this crystal's cell, in Å³? Answer with the number alone.", **ABOUT,
)  # fmt: skip
ELEMENT = ElementAtSite(
    name="crystal_element", title="Element at a site",
    instruction="Which element stands at the site with these fractional coordinates? Answer with its symbol.", **ABOUT,
)  # fmt: skip
SPACE_GROUP = SpaceGroup(
    name="crystal_space_group", title="Space group of a crystal",
    instruction=f"What is the space group of this crystal, at a tolerance of {SYMPREC} Å? Answer with its "
    "international symbol, such as Pm-3m.", **ABOUT,
)  # fmt: skip
FORMULA = Formula(
    name="crystal_formula", title="Formula of a crystal",
    instruction="What is the reduced formula of this crystal? Answer with the formula alone.", **ABOUT,
)  # fmt: skip
REPLACEMENTS = Replacements(
    name="crystal_replacements", title="Elements that replace another",
    instruction="Which elements are known in the place of this element, in crystals of the same structure that differ "
    "in nothing else? Answer with their symbols.", **ABOUT,
)  # fmt: skip
