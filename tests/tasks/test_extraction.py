"""Extraction: one serialiser, strict reading, facts counted over all items, floors."""

import json
from dataclasses import replace

import pytest

from nsllm_lite.formats.records import COMPACT
from nsllm_lite.recipe.evals import EXTRACTION_TASKS
from nsllm_lite.tasks.gold import UnfitGoldError
from nsllm_lite.tasks.items import Item
from nsllm_lite.tasks.scores import estimate
from nsllm_lite.tasks.similarity import jaro_winkler, matched
from nsllm_lite.tasks.table_text import Table, read_table, write_table
from nsllm_lite.tasks.task import TaskSet, all_tasks
from tests.raising import raises
from tests.tasks.test_every_task import mutilations

TASKS = {name: all_tasks()[name] for name in EXTRACTION_TASKS}


def doping(hosts=(), dopants=(), links=()):
    """An answer with hosts b0, b1, ..., dopants d0, d1, ..., and links by their numbers."""
    joined: dict[str, list[str]] = {}
    for one, other in links:
        joined.setdefault(f"d{one}", []).append(f"b{other}")
    named = ({f"{mark}{n}": text for n, text in enumerate(texts)} for mark, texts in (("b", hosts), ("d", dopants)))
    return {**dict(zip(("basemats", "dopants"), named, strict=True)), "dopants2basemats": joined}


def material(name="", formula="", **lists):
    blank = {"description": [], "structure_or_phase": [], "applications": []}
    return {"name": name, "formula": formula, "acronym": ""} | blank | lists


GOLD = {
    "doping": [
        ("ZnO and GaN were doped with Mg and Mn.", doping(["ZnO", "GaN"], ["Mg", "Mn"], [(0, 0), (1, 1)])),
        ("Mg raised the gap of the films of ZnO.", doping(["ZnO"], ["Mg"], [(0, 0)])),
        ("The films were annealed in air.", doping()),
        ("Si was the substrate.", doping(["Si"])),
    ],
    "mof_general": [
        ("Ceria bears gold.", [material("ceria"), material("gold", applications=["catalyst", "oxidation"])]),
        ("LiCoO2 is a cathode.", [material(formula="LiCoO2", applications=["cathode"])]),
        ("A thermal model.", []),
    ],
    "mof": [
        ("UiO-66 takes up CO2.", [{
            "name_of_mof": "UiO-66", "mof_formula": "", "mof_description": ["porous"], "guest_species": ["CO2"],
            "applications": ["capture"],
        }]),
        ("No frameworks.", []),
    ],
    "table_roles": [
        ("Table 1", {
            "comp_table": [1], "regex_table": [0], "composition_row_index": [1, 2], "chemical_col_index": [3],
        }),
        ("Table 2", {"comp_table": [0], "regex_table": [0]}),
        ("Table 3", {"comp_table": [1], "regex_table": [1], "gid_col_index": [0]}),
    ],
}  # fmt: skip


def set_of(name, pool=()) -> TaskSet:
    task = TASKS[name]
    rows = [Item(number, text, task.canonical(value), {}) for number, (text, value) in enumerate(GOLD[name])]
    return TaskSet(name, task, tuple(rows), tuple(pool), (), ())


@pytest.mark.parametrize("name", TASKS)
def test_gold_scores_one_no_answer_nothing_and_no_mutilation_more_than_gold(name):
    one = set_of(name)
    for number, item in enumerate(one.items):
        other = one.items[number - 1].output
        score = one.task.score(one.task.parse(f" {item.output}\n", ()), item)
        assert (score.read, score.value, score.exact) == (True, 1.0, True)
        for text in ("", " \n", *mutilations(item.output, other, ()).values()):
            worse = one.task.score(one.task.parse(text, ()), item)
            assert 0 <= worse.value <= 1
            assert worse.read == (one.task.read(text)[0] == "json")
            assert worse.parts.keys() == score.parts.keys()
        assert one.task.score(None, item)[:3] == (False, 0.0, False), "an item without facts too"
    figures = one.task.figures([item.output for item in one.items], one)
    assert {value for key, value in figures.items() if key != "grounded"} == {1.0}
    assert figures.keys() <= {**one.task.metrics, **one.task.details}.keys()
    assert set(one.task.figures([None] * len(one.items), one).values()) == {0.0}
    floors = one.task.floors(one, 0)
    assert floors["always empty"]["f1"] == 0
    assert floors["always empty"]["negatives"] == 1
    assert all(figures["f1"] < 0.9 for figures in floors.values())


@pytest.mark.parametrize("name", TASKS)
def test_canonical_gold_is_what_the_schema_and_its_grammar_allow(name):
    """A grammar takes keys in the order of the schema alone, and no other ids."""
    from jsonschema import Draft202012Validator
    from llguidance import LLMatcher, LLTokenizer

    one, tokenizer = set_of(name), LLTokenizer("byte")
    schema = one.task.answer_schema(one.items[0])
    form = {"whitespace_flexible": False, "item_separator": COMPACT[0], "key_separator": COMPACT[1]}
    grammar = LLMatcher.grammar_from_json_schema(schema, defaults=form)
    for item in one.items:
        Draft202012Validator(schema).validate(json.loads(item.output))
        matcher = LLMatcher(tokenizer, grammar)
        assert matcher.consume_tokens(list(item.output.encode()))
        assert matcher.is_accepting()
    unlike = {"doping": doping() | {"basemats": {"x0": "ZnO"}}, "table_roles": {"comp_table": [2], "regex_table": [0]}}
    wrong = unlike.get(name) or [GOLD[name][0][1][0] | {"year": 2020}]
    assert not Draft202012Validator(schema).is_valid(wrong)
    assert one.task.parse(json.dumps(wrong), ()) is None


def test_there_is_one_way_to_write_an_answer():
    value = {"dopants2basemats": {"d0": ["b0"]}, "dopants": {"d0": "Mg"}, "basemats": {"b0": "ZnO – α"}}
    written = '{"basemats":{"b0":"ZnO – α"},"dopants":{"d0":"Mg"},"dopants2basemats":{"d0":["b0"]}}'
    assert TASKS["doping"].canonical(value) == written == TASKS["doping"].parse(json.dumps(value, indent=2), ())
    roles = {"regex_table": [0], "comp_table": [1], "gid_col_index": [0]}
    assert TASKS["table_roles"].canonical(roles) == '{"comp_table":[1],"regex_table":[0],"gid_col_index":[0]}'


def same(name, one, other) -> bool:
    task = TASKS[name]
    return task.score(task.canonical(one), Item(0, "", task.canonical(other), {})).exact


def test_what_says_the_same():
    two = doping(["ZnO", "GaN"], ["Mg", "Mn"], [(0, 0), (1, 1)])
    renamed = {"basemats": {"b7": "GaN", "b2": "ZnO"}, "dopants": {"d1": "Mg", "d0": "Mn"}}
    assert same("doping", renamed | {"dopants2basemats": {"d0": ["b7"], "d1": ["b2"]}}, two)
    assert not same("doping", renamed | {"dopants2basemats": {"d0": ["b2"], "d1": ["b7"]}}, two)
    assert same("doping", two | {"dopants2basemats": {"d0": ["b0"], "d1": ["b1"]}}, two)
    assert same("doping", doping(["ZnO"]) | {"dopants2basemats": {}}, doping(["ZnO"]))
    twice = doping(["ZnO", "ZnO"], ["Mg"], [(0, 0)])
    assert not same("doping", twice, doping(["ZnO"], ["Mg"], [(0, 0)])), "a material that is given twice"
    twins = doping(["ZnO", "GaN"], ["Mg", "Mg"], [(0, 0), (1, 1)])
    assert not same("doping", doping(["ZnO", "GaN"], ["Mg", "Mg"], [(0, 0), (0, 1)]), twins)
    one, other = material("gold", applications=["a", "b"]), material("ceria")
    assert same("mof_general", [other, material("gold", applications=["b", "a"])], [one, other])
    assert same("mof_general", [one, material(description=[""])], [one]), "blanks state nothing"
    assert not same("mof_general", [material("gold"), material("ceria", applications=["a", "b"])], [one, other])
    assert same("table_roles", {"comp_table": [1], "regex_table": [0], "gid_row_index": [2, 1]},
                {"comp_table": [1], "regex_table": [0], "gid_row_index": [1, 2]})  # fmt: skip


def test_a_link_to_nothing_is_a_fact_that_is_wrong():
    task, item = TASKS["doping"], Item(0, "", TASKS["doping"].canonical(doping(["ZnO"], ["Mg"], [(0, 0)])), {})
    dangling = task.canonical(doping(["ZnO"], ["Mg"], [(0, 0), (0, 5), (3, 0)]))
    score = task.score(dangling, item)
    assert (score.value, score.exact) == (pytest.approx(2 * 3 / (3 + 5)), False)
    named = Item(0, "", task.canonical(doping(["no b5"], ["Mg"], [(0, 0)])), {})
    assert task.score(task.canonical(doping(["no b5"], ["Mg"], [(0, 5)])), named).value == pytest.approx(2 / 3)


def test_figures_by_hand():
    """Gold: 4 hosts, 3 dopants, 3 links on 3 items, and an item without facts.

    1: all but one link right, a link too many; 2: unread; 3: a host invented; 4: a host misspelt.
    """
    one = set_of("doping")
    answers = [
        one.task.canonical(doping(["ZnO", "GaN"], ["Mg", "Mn"], [(0, 0), (1, 0)])),
        None,
        one.task.canonical(doping(["GaAs"])),
        one.task.canonical(doping(["Sn"])),
    ]
    found = one.task.figures(answers, one)
    assert found["f1 basemats"] == pytest.approx(2 * 2 / (4 + 4))
    assert found["f1 dopants"] == pytest.approx(2 * 2 / (3 + 2))
    assert found["f1 links"] == pytest.approx(2 * 1 / (3 + 2))
    assert found["precision"] == pytest.approx(5 / 8)
    assert found["recall"] == pytest.approx(5 / 10)
    assert found["f1"] == pytest.approx(2 * 5 / 18)
    assert found["item_f1"] == pytest.approx((2 * 5 / 12 + 0 + 0 + 0) / 4)
    assert (found["exact"], found["negatives"]) == (0, 0)
    assert found["grounded"] == pytest.approx(4 / 6), "GaAs and Sn do not stand in their sentences"
    assert found["similarity"] == pytest.approx(2 * (4 + jaro_winkler("Si", "Sn")) / (7 + 6))
    texts = ["{'basemats': {}, 'dopants': {}, 'dopants2basemats': {}}"] * 4
    told = one.task.told(texts, answers, one, 0)
    assert told["read"] == {"python": 4}
    assert told["lenient"]["exact"]["value"] == 0.25
    assert told["hallucinated"] == {
        "negatives": {"items": 1, "with": 1, "facts": 1}, "positives": {"items": 3, "with": 2, "facts": 2},
    }  # fmt: skip


def test_links_of_records_are_of_their_first_name():
    facts = TASKS["mof_general"].facts([material("gold", "Au", applications=["a"]), material(applications=["b"])])
    assert facts["links"] == {("gold", "formula", "Au"): 1, ("gold", "applications", "a"): 1}
    assert facts["applications"] == {"a": 1, "b": 1}


def test_floors_of_doping():
    one = set_of("doping")
    pool = [
        replace(item, output=TASKS["doping"].canonical(doping(["ZnO"], ["Mg"], [(0, 0)]))) for item in one.items
    ] * 2
    rules = set_of("doping", pool).task.rules(set_of("doping", pool), 0)
    assert rules["always empty"] == [one.task.canonical(doping())] * 4
    assert rules["commonest answer"] == [pool[0].output] * 4
    both = one.task.canonical(doping(["ZnO"], ["Mg"], [(0, 0)]))
    assert rules["dictionary"] == [both, both, one.task.canonical(doping()), one.task.canonical(doping())]
    own = one.task.rules(one, 0)["dictionary"]
    assert own[1] == both, "with no pool, of the other items"
    assert own[3] == one.task.canonical(doping()), "Si is known from no other item"


@pytest.mark.parametrize(
    ("text", "kind", "lenient"),
    [
        ("[]", "json", True), (" []\n", "json", True), ("<think>Hm: [1]</think>\n[]", "json", True),
        (json.dumps([material("é")]), "json", True), (json.dumps([material("\ud800")]), "off-schema", False),
        ('[{"a": 1}]', "off-schema", False), ("[NaN]", "off-schema", False), ('{"a": 1, "a": 2}', "off-schema", False),
        (str([material("gold", applications=["x"])]), "python", True), ("[{'name': 3}]", "python", False),
        ("```json\n[]\n```", "fenced", True), ("```\nnothing\n```", "fenced", False),
        ("Here: [] as asked", "prose", True), ("[] []", "prose", True),
        ('[{"name": "gold"', "cut", False), ("['gold]", "cut", False), ("[" * 100_000, "cut", False),
        ("", "empty", False), ("<think>[]", "empty", False),
        ("None.", "none", False), ("[x]", "none", False), ("[__import__('os')]", "none", False),
        ("[" * 9999 + "]" * 9999, "none", False),
    ],
)  # fmt: skip
def test_how_a_text_is_read(text, kind, lenient):
    found, answer = TASKS["mof_general"].read(text)
    assert (found, answer is not None) == (kind, lenient)
    assert (TASKS["mof_general"].parse(text, ()) is not None) == (kind == "json")


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ("MARTHA", "MARHTA", 0.961),
        ("DWAYNE", "DUANE", 0.840),
        ("DIXON", "DICKSONX", 0.813),
        ("ab", "cd", 0),
        ("a", "a", 1),
    ],
)
def test_jaro_winkler(one, other, value):
    assert jaro_winkler(one, other) == pytest.approx(value, abs=5e-4) == jaro_winkler(other, one)


def test_each_text_is_matched_once():
    assert matched(["ZnO", "ZnO"], ["ZnO"]) == 1
    assert matched(["MARTHA", "x"], ["x", "MARHTA"]) == pytest.approx(1.961, abs=5e-4)
    assert matched([], ["a"]) == 0


def test_examples_hold_items_with_facts_and_without():
    one = set_of("doping")
    shots = replace(one.task, shots=2).choose_shots(one.items, 0)
    assert {one.task.group(shot) for shot in shots} == {"facts", "none"}


def test_a_table_to_the_letter_and_back():
    table = Table("Glasses\nin mol%", (("Glass", "SiO2"), ("it's", 'a "b" : c\n')), {"a": "By XRF."})
    text = write_table(table)
    assert text.startswith(
        "Caption: Glasses\nin mol%\n\nTable:\n ['ROW=0', 'COL=0 : Glass', 'COL=1 : SiO2'],\n['ROW=1', "
    )
    assert text.endswith("]\n\nFooter: {'a': 'By XRF.'}")
    assert read_table(text) == table
    for broken in (text.replace("ROW=1", "ROW=2"), text.replace("COL=1 : S", "COL=2 : S"), text[:-30], "", "Caption"):
        with raises("table-text-unfit"):
            read_table(broken)


def test_the_commonest_answer_is_of_the_items_where_the_pool_is_the_examples():
    one = set_of("doping")
    pool = tuple(replace(item, output=one.task.canonical(doping(["ZnO"]))) for item in one.items)
    items = (*one.items, replace(one.items[3], input="Si again."))
    rules = one.task.rules(replace(one, items=items, pool=pool), 0)
    assert rules["commonest answer"] == [one.items[3].output] * 5


def test_a_perfect_answer_has_no_interval_down_to_zero_and_no_share_is_made_of_nothing():
    """Of 12 items one is without facts and one has a link: many resamples have none of these."""
    task = TASKS["doping"]
    values = [doping(), doping(["ZnO"], ["Mg"], [(0, 0)]), *[doping(["ZnO"])] * 10]
    items = tuple(Item(n, "ZnO with Mg", task.canonical(value), {}) for n, value in enumerate(values))
    asked = TaskSet("doping", task, items, (), (), ())
    found = task.results([item.output for item in items], asked)
    for name in ("negatives", "f1 links", "f1 dopants"):
        assert estimate(*found[name], 0) == (1, 1, 1)
    rare = replace(asked, items=(items[1], *items[:1] * 11))
    found = task.results([item.output for item in rare.items], rare)
    assert [estimate(*found[name], 0) for name in ("f1", "precision", "recall")] == [(1, 1, 1)] * 3
    figures = task.figures([task.canonical(doping())] * 12, asked)
    assert not {"grounded", "precision"} & figures.keys(), "no text and no fact is given"
    none = replace(asked, items=items[:1] * 3)
    assert task.figures([items[0].output] * 3, none) == {"f1": 0, "exact": 1, "item_f1": 1, "negatives": 1}
    assert (figures["similarity"], figures["negatives"]) == (0, 1)


@pytest.mark.parametrize("flag", ["true", "1.0", "1e0", '"1"', "2", "false"])
def test_a_flag_is_a_whole_number(flag):
    text = f'{{"comp_table":[{flag}],"regex_table":[0]}}'
    assert TASKS["table_roles"].read(text) == ("off-schema", None)
    with pytest.raises(UnfitGoldError, match=r"breaks the schema: comp_table\.0"):
        TASKS["table_roles"].gold_answer(text)
