"""Prompts, examples and the bundled sets."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from nsllm_lite.corpus.decontaminate import Index
from nsllm_lite.corpus.shingles import shingles_of
from nsllm_lite.recipe import evals
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks.items import Item, choices_of, normal, read_items
from nsllm_lite.tasks.sets import apart, bundled, load_sets
from nsllm_lite.tasks.task import TaskSet, all_tasks
from tests.raising import raises
from tests.tasks.test_every_task import EVAL

TASKS = {name: all_tasks()[name] for name in evals.TASKS}
FIELDS = ("input", "output")
DISCIPLINES = ("Biology", "Chemistry", "Computer Science", "Medicine", "Physics")
NUMBERED = [(f"Question {n}?", str(n)) for n in range(10)]


def item(text: str, answer: str, number: int = 0, instruction: str = "") -> Item:
    return Item(number, text, answer, choices_of(text), instruction)


def test_a_few_shot_prompt_to_the_letter():
    task = TASKS["classification"]
    asked = task.few_shot_prompt(item("Light is fast. ", "Physics"), [item("Cells divide.", "Biology")])
    assert asked == (
        f"{task.instruction}\n\nAbstract: Cells divide.\nDiscipline: Biology\n\nAbstract: Light is fast.\nDiscipline:"
    )
    own = item("Light is fast.", "Physics", instruction="Choose one:\n")
    assert task.few_shot_prompt(own).startswith("Choose one:\n\nAbstract: Light")
    assert task.chat_prompt(own, ("Biology", "Physics")) == "Choose one:\n\nLight is fast."
    asked = task.chat_prompt(item("Light.", "Physics"), ("Biology", "Physics"))
    assert asked.endswith("Answer with one of: Biology, Physics.")
    shot = item("1 + 1?", "<think>Two ones.</think>\n2")  # whose reasoning is not shown
    assert "Answer: 2\n\n" in TASKS["open"].few_shot_prompt(item("2 + 2?", "4"), [shot])


def test_examples_hold_every_label_and_come_from_other_papers():
    for name in ("classification", "moves"):
        sets = bundled(name)
        shots = TASKS[name].choose_shots(sets["train"], 0)
        counts = Counter(shot.answer for shot in shots)
        assert len(counts) == 5
        assert max(counts.values()) == min(counts.values())
        assert not {shot.document for shot in shots} & {asked.document for asked in sets["test"]}
        assert TASKS[name].choose_shots(sets["train"][::-1], 0) == shots
        assert TASKS[name].choose_shots(sets["train"], 1) != shots


def test_every_task_has_a_bundled_set():
    sizes = {name: len(bundled(name)["test"]) for name in TASKS}
    assert sizes.pop("moves") > 600
    assert sizes.pop("open") >= 40
    assert sizes == dict.fromkeys(("classification", "title", "paper_title", "multiple_choice"), 90)


def test_scores_of_one_item():
    choice = item("?\n(A): 1\n(B): 2", "B")
    assert TASKS["multiple_choice"].score("B", choice) == (True, 1.0, True, {"accuracy": 1.0})
    assert TASKS["multiple_choice"].score(None, choice) == (False, 0.0, False, {"accuracy": 0.0})
    score = TASKS["title"].score("the speed of light", item("x", "The speed of sound"))
    assert score == (True, pytest.approx(0.75), False, {"rouge_l": score.value})
    assert TASKS["open"].score("0.5", item("x", "\\frac12")).exact
    assert TASKS["title"].parse("Title: A b\nmore", ()) == "A b"


def set_of(tmp_path, rows: list, task: str, tasks: str | None = None, **more) -> TaskSet:
    """The first set of a recipe with `tasks` and an own file of `rows`: (input, output), or whole records."""
    path = tmp_path / "own.json"
    path.write_text(json.dumps([row if isinstance(row, dict) else dict(zip(FIELDS, row, strict=True)) for row in rows]))
    file = {"name": "own", "task": task, "path": str(path), **more}
    return load_sets(recipes.validate(EVAL | {"tasks": tasks, "files": [file]}, "x"))[0]


def test_a_file_of_ones_own_gives_its_own_examples_and_does_not_score_them(tmp_path, capsys):
    found = set_of(tmp_path, NUMBERED, "open")
    assert len(found.shots) == 2  # a fifth of them, though the task asks for 4
    assert len(found.items) == 8
    assert not {shot.input for shot in found.shots} & {asked.input for asked in found.items}
    assert "2 of its 10 records" in capsys.readouterr().out


def test_no_scored_item_is_an_example(tmp_path, capsys):
    """Whether examples come from the file itself, from the sample or from a folder of tasks."""
    own = set_of(tmp_path, [(f"Question {n % 7}{'?!'[n % 2]}", str(n % 7)) for n in range(28)], "open")
    known = [(one.input.upper(), one.answer) for one in bundled("classification")["train"][::2]]
    rows = known + [(f"Abstract {n}", DISCIPLINES[n % 5]) for n in range(10)]
    sample = set_of(tmp_path, rows, "classification")
    assert len(sample.items) == len(rows), "the sample's labels take the sample's examples"
    assert {shot.document[:7] for shot in sample.shots} == {"sample:"}
    for split, numbers in (("train", range(8)), ("test", range(5, 12))):
        (tmp_path / split).mkdir()
        lines = [json.dumps({"input": f"Question {n}?", "output": str(n)}) for n in numbers]
        (tmp_path / split / "open.jsonl").write_text("\n".join(lines))
    folder = set_of(tmp_path, [("Question?", "1")] * 9, "open", tasks=str(tmp_path))
    for one in (own, sample, folder):
        assert one.shots
        assert one.items
        assert not {normal(item.input) for item in one.items} & {normal(item.input) for item in one.pool}
    assert len(own.items) + 4 * len({normal(shot.input) for shot in own.shots}) == 28
    assert (len(folder.items), len(folder.pool)) == (7, 5)
    assert "open: 3 of its 8 " in capsys.readouterr().out
    assert len(set_of(tmp_path, [("Question?", "1")] * 9, "open").items) == 9, "all are equal: no examples"


def test_questions_in_the_instruction_are_told_apart(tmp_path):
    rows = [{"instruction": f"What is {n} + 1?", "input": "", "output": str(n + 1)} for n in range(10)]
    assert len(set_of(tmp_path, rows, "open").items) == 8


def test_what_decides_floors_and_options_is_part_of_a_sets_identity(tmp_path):
    one = set_of(tmp_path, [(f"Question {n}?", "ab"[n % 2]) for n in range(20)], "classification")
    first = one.items[0]
    others = [
        replace(one, pool=one.pool[1:]),
        replace(one, labels=("a", "b", "c")),
        replace(one, shots=one.shots[1:]),
        replace(one, items=(replace(first, place=0.5), *one.items[1:])),
        replace(one, items=(replace(first, instruction="Say it."), *one.items[1:])),
    ]
    assert len({one.sha256, *(other.sha256 for other in others)}) == 6
    assert replace(one, name="other").sha256 == one.sha256


def test_examples_that_are_asked_too_are_refused(tmp_path):
    path = tmp_path / "shots.jsonl"
    path.write_text(json.dumps({"input": "question 3", "output": "3"}) + "\n")
    with raises("eval-examples-scored", f"{path}: record 0 ", tmp_path / "own.json"):
        set_of(tmp_path, NUMBERED, "open", shots=str(path))


def test_an_example_with_the_text_of_a_scored_item_is_none_where_the_text_is_all_that_is_asked():
    """Of another instruction and another answer too; a question about the same text is another item."""
    one = Item(0, "ZnO doped with Al.", "a : B", {}, "Say it.")
    other = Item(0, "ZnO, doped with Al", "a : C", {}, "Which?")
    names = ("doping", "mof", "table_roles", "named_entities", "slots", "title", "open", "classification")
    kept = {name: len(apart((other,), (one,), all_tasks()[name])) for name in names}
    assert kept == dict.fromkeys(names[:5], 0) | dict.fromkeys(names[5:], 1)


def test_the_choices_of_a_question_with_a_list_of_references():
    references = "\n".join(f"B. Author {n}" for n in range(12))
    assert choices_of(f"Which?\nA. iron\nB. gold\n{references}") == {"A": "iron", "B": "gold"}
    assert choices_of("\n".join(f"{letter}. {letter}" for letter in "ABCDEFGHIJ")).keys() == set("ABCDEFGHIJ")


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    with raises("task-labels-unfit", 30, "'classification'"):
        set_of(tmp_path, [(f"Question {n}?", str(n)) for n in range(30)], "classification")
    with raises("task-answer-unfit", tmp_path / "own.json", "'multiple_choice'"):
        set_of(tmp_path, NUMBERED, "multiple_choice")
    with raises("eval-file-name-taken", "title"):
        set_of(tmp_path, NUMBERED, "open", tasks="bundled", name="title")
    with raises("tasks-folder-empty", tmp_path):
        set_of(tmp_path, NUMBERED, "open", tasks=str(tmp_path))


def test_decontamination_sees_every_text_that_is_asked(tmp_path):
    """What `eval` asks and what clears a corpus is one and the same file."""
    for name in ("classification", "moves", "multiple_choice"):
        path = tmp_path / f"{name}.jsonl"
        asked = bundled(name)["test"]
        lines = [{"instruction": one.instruction, "input": one.input, "output": one.output} for one in asked]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        index = Index.load([path])
        for one in read_items(path):
            question = one.input.partition("\nChoices")[0]
            if len(question.split()) >= 16:
                document = f"It rained all day on the hill behind our house. {question} Then the sun came out again."
                found = index.find(shingles_of(document))
                assert found, (name, one.number, question)
                assert found[0] == f"{name}.jsonl#{one.number + 1}" or name == "moves"
