"""Tasks of crystals: the items by hand, gold scores 1, what is off by more than its tolerance 0."""

import json
from dataclasses import replace

import pytest

from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.evals import CRYSTAL_TASKS
from nsllm_lite.science.crystal import Crystal, decode, encode
from nsllm_lite.science.crystal_symmetry import Symmetry
from nsllm_lite.tasks.crystals import Known
from nsllm_lite.tasks.items import Item, item_of
from nsllm_lite.tasks.sets import make_set
from nsllm_lite.tasks.task import TaskSet, all_tasks
from tests.raising import raises
from tests.tasks.test_every_task import EVAL, mutilations

TASKS = {name: all_tasks()[name] for name in CRYSTAL_TASKS}
CUBIC = Symmetry(221, "Pm-3m", "221 A:a1 B:b1 C:c3")
SITES = ((0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5))


def perovskite(a: str, b: str, edge: float, name: str = "x", c: str = "O", **others) -> Known:
    crystal = Crystal((edge,) * 3, (90.0,) * 3, (a, b, c, c, c), SITES)
    return Known(name, f"{a}{b}{c}3", encode(crystal), decode(encode(crystal)).crystal, CUBIC, others)


def item(task: str, one: Known) -> Item:
    found, reason = TASKS[task].of_crystal(one)
    assert not reason
    return item_of(found, 0)


ONE = perovskite("Ca", "Cr", 3.9, c="C", Ca=["Sr"], Cr=[])
ROWS = ONE.text.split("\n")
EXPECTED = {
    "crystal_atoms": (ONE.text, "5"),
    "crystal_lengths": (ONE.text, "3.90 3.90 3.90"),
    "crystal_angles": (ONE.text, "90.0 90.0 90.0"),
    "crystal_volume": (ONE.text, "59.3"),
    "crystal_space_group": (ONE.text, "Pm-3m"),
    "crystal_formula": (ONE.text, "CaCrC3"),
    "crystal_replacements": (f"{ONE.text}\n\nElement: Ca", "Sr"),
    "crystal_of_formula": ("CaCrC3", ONE.text),
    "crystal_of_elements": ("C, Ca, Cr", ONE.text),
    "crystal_lattice": ("\n".join(["CaCrC3", *ROWS[2:]]), "3.90 3.90 3.90\n90.0 90.0 90.0"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_items_to_the_letter(name):
    found = item(name, ONE)
    assert (found.input, found.output) == EXPECTED[name]
    assert found.document == "CaCrC3"
    assert found.instruction == TASKS[name].instruction


def test_a_mask_hides_whole_sites_of_one_element():
    """Replaced as text, C would be hidden within Ca and Cr as well."""
    hidden = {item("crystal_infill", ONE._replace(name=f"x{n}")).output: n for n in range(20)}
    assert hidden.keys() == {"C", "Ca", "Cr"}
    rows = item("crystal_infill", ONE._replace(name=f"x{hidden['C']}")).input.split("\n")
    assert rows[:2] == ROWS[:2]
    assert rows[2::2] == ["Ca", "Cr", "[MASK]", "[MASK]", "[MASK]"]
    assert rows[3::2] == ROWS[3::2]
    diamond = ONE._replace(crystal=Crystal((3, 3, 3), (90, 90, 90), ("C", "C"), SITES[:2]))
    assert TASKS["crystal_infill"].of_crystal(diamond) == (None, "one element alone")


def test_the_site_that_is_asked_for_is_one_of_the_crystal():
    for number in range(10):
        found = item("crystal_element", ONE._replace(name=f"x{number}"))
        text, place = found.input.split("\n\nSite: ")
        assert text == ONE.text
        assert ROWS[ROWS.index(place) - 1] == found.output
    twice = "\n".join([*ROWS[:4], ROWS[4], ROWS[3]])
    assert TASKS["crystal_element"].of_crystal(ONE._replace(text=twice)).reason


READ = {
    "crystal_atoms": {"5": 1, "There are 5 atoms.": 1, "5.0": 1, "4": 0, "5 or 6": None, "five": None},
    "crystal_lengths": {
        "3.90, 3.91 and 3.89 Å": 1, "3.90Å 3.91Å 3.89Å": 1, "3.9 3.9 3.92": 0, "3.9 3.9": None, "3.9 3.9 3.9 3.9": None,
    },
    "crystal_angles": {"90 90 90": 1, "90 90 90.2": 0},
    "crystal_volume": {"59.3": 1, "59.8 Å³": 1, "59.3Å³": 1, "60": 0, "59.3e1": None},
    "crystal_space_group": {"Pm-3m": 1, "P m -3 m": 1, "Pm-3m (221)": 1, "P1": 0, "cubic": None, "$Pm-3m$": 1},
    "crystal_formula": {"CaCrC3": 1, "CrCaC3": 1, "Ca2Cr2C6": 1, "CaCrC₃": 1, "CaCrC": 0, "a carbide": None},
    "crystal_replacements": {"Sr": 1, "Sr, Ba": 2 / 3, "Ba": 0, "Xx": None, "none": None, "Sr Sr": 1},
    "crystal_of_formula": {
        ONE.text: 1, f" {ONE.text}\n": 1, f"<think>Well.</think>\n{ONE.text}": 1, f"Here:\n{ONE.text}": None,
        perovskite("Cr", "Ca", 4.1, c="C").text: 1, perovskite("Ca", "Cr", 3.9).text: 0,
        ONE.text.replace("0.500 0.500 0.000", "0.000 0.000 0.050"): 0,
        ONE.text + "\nC\n0.250 0.250 0.250": 0, ONE.text[:-4]: None,
    },
    "crystal_of_elements": {
        ONE.text + "\nC\n0.250 0.250 0.250": 1, perovskite("Ca", "Cr", 3.9).text: 0, ONE.text[:-1]: None,
        "\n".join(ROWS[:6]): 0,
    },
    "crystal_lattice": {
        "3.8 4.0 3.9\n94 86 90": 1, "3.9 3.9 4.2\n90 90 90": 0, "3.9 3.9 3.9\n90 90 96": 0, "3.9 3.9 3.9": None,
        "3.9 3.9 3.9\n90 90 90\n90": None,
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "value"), [(n, t, v) for n, row in READ.items() for t, v in row.items()])
def test_answers_are_read_and_scored_within_their_tolerance(name, text, value):
    found = TASKS[name].score(TASKS[name].parse(text, ()), item(name, ONE))
    assert found.read == (value is not None)
    assert found.value == pytest.approx(value or 0)


@pytest.mark.parametrize("text", ["P2_1/c", "P21/c", "P 2₁/c", "$P2_{1}/c$", "P2_1/c (14)", "P2/c", "P-1"])
def test_screw_axes_are_read_however_they_are_written(text):
    task = TASKS["crystal_space_group"]
    asked = item("crystal_space_group", ONE._replace(symmetry=Symmetry(14, "P2_1/c", "x")))
    assert asked.output == "P2_1/c"
    assert task.score(task.parse(text, ()), asked).value == (text not in ("P2/c", "P-1"))


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
def test_each_of_the_space_groups_is_its_own_answer():
    from spglib import get_spacegroup_type

    task, symbols = TASKS["crystal_space_group"], {get_spacegroup_type(n).international_short for n in range(1, 531)}
    asked = [Item(0, "", symbol, {}) for symbol in sorted(symbols)]
    said = [task.parse(one.answer, ()) for one in asked]
    assert [task.score(answer, one).value for answer, one in zip(said, asked, strict=True)] == [1] * len(symbols)
    assert len(set(said)) == len(symbols) >= 230


def test_a_written_crystal_is_scored_part_by_part():
    task, asked = TASKS["crystal_of_formula"], item("crystal_of_formula", ONE)
    near = ONE.text.replace("0.500 0.500 0.000", "0.000 0.000 0.050")
    assert task.score(near, asked).parts == {"as_asked": 0, "composition": 1, "apart": 0}
    other = perovskite("Ca", "Ti", 3.9).text
    assert task.score(other, asked).parts == {"as_asked": 0, "composition": 0, "apart": 1}


@pytest.fixture(scope="module")
def sets() -> dict[str, TaskSet]:
    """16 perovskites to test, 8 others to learn from."""
    pairs = [(a, b) for a in ("Ca", "Sr", "Ba", "Pb", "Mg", "Cd") for b in ("Ti", "Zr", "Hf", "Sn")]
    known = [
        perovskite(a, b, 3.6 + 0.05 * n, f"p{n}", **{a: ["Ra"], b: ["V", "Cr"][: 1 + n % 2]})
        for n, (a, b) in enumerate(pairs)
    ]
    known[3] = known[3]._replace(symmetry=Symmetry(136, "P4_2/mnm", "x"))
    recipe = recipes.validate(EVAL, "x")
    rows = {
        name: [item_of(task.of_crystal(one).item, n) for n, one in enumerate(known)] for name, task in TASKS.items()
    }
    return {
        name: make_set(name, TASKS[name], tuple(row[:16]), tuple(row[16:]), recipe, "x") for name, row in rows.items()
    }


@pytest.mark.parametrize("name", CRYSTAL_TASKS)
def test_gold_scores_one_nothing_zero_and_no_damage_more(sets, name):
    one = sets[name]
    for number, asked in enumerate(one.items):
        other = one.items[number - 1].answer
        gold = one.task.score(one.task.parse(asked.output, ()), asked)
        assert gold[:3] == (True, 1.0, True)
        assert one.task.score(one.task.parse("", ()), asked)[:3] == (False, 0.0, False)
        for what, text in mutilations(asked.answer, other, ()).items():
            score = one.task.score(one.task.parse(text, ()), asked)
            assert 0 <= score.value <= 1, what
            assert score.parts.keys() == gold.parts.keys()
    assert one.task.figures([asked.answer for asked in one.items], one) == dict.fromkeys(one.task.metrics, 1.0)
    assert one.task.figures([None] * len(one.items), one) == dict.fromkeys(one.task.metrics, 0.0)


def test_floors_by_hand(sets):
    found = {name: one.task.floors(one, 0) for name, one in sets.items()}
    assert all(found.values())
    first = {name: next(iter(next(iter(rules.values())).values())) for name, rules in found.items()}
    assert first["crystal_atoms"] == 1  # all have five
    assert first["crystal_angles"] == 1
    assert first["crystal_lengths"] == 0
    assert first["crystal_element"] == sum(one.answer == "O" for one in sets["crystal_element"].items) / 16
    assert first["crystal_space_group"] == 15 / 16
    assert found["crystal_formula"]["each element once"] == {"accuracy": 0}
    (rule,) = found["crystal_of_formula"]
    assert found["crystal_of_formula"][rule] == {"as_asked": 1, "composition": 1, "apart": 1}, "ABC3 is in the pool"
    (rule,) = found["crystal_of_elements"]
    assert found["crystal_of_elements"][rule] == {"as_asked": 1, "composition": 1, "apart": 1}
    bare = replace(sets["crystal_of_formula"], pool=())
    assert bare.task.floors(bare, 0) == {}, "no example, no such rule"


def test_the_median_volume_of_an_atom_is_a_floor(sets):
    one = sets["crystal_volume"]
    edges = sorted(round((3.6 + 0.05 * n) ** 3, 1) / 5 for n in range(16, 24))
    each = (edges[3] + edges[4]) / 2
    rules = one.task.rules(one, 0)
    assert rules[f"{each:.1f} Å³ an atom"] == [f"{5 * each:.1f}"] * 16
    cube = sets["crystal_lattice"].task.rules(sets["crystal_lattice"], 0)
    said = next(answers[0] for rule, answers in cube.items() if rule.startswith("cube"))
    assert float(said.split(" ")[0]) == pytest.approx((5 * each) ** (1 / 3), abs=0.02)
    assert said.endswith("\n90 90 90")


def test_an_output_that_is_no_answer_is_named():
    with raises("crystal-answer-unfit", "many", "own.json"):
        TASKS["crystal_atoms"].fitted([Item(0, ONE.text, "many", {})], "own.json")
    with raises("crystal-answer-unfit", "crystal_of_formula"):
        TASKS["crystal_of_formula"].fitted([Item(0, "CaO", json.dumps("x"), {})], "own.json")
