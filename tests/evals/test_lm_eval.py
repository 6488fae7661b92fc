"""Stock lm-evaluation-harness runs the six tasks from their YAMLs, offline, and agrees with `nsllm-lite eval`."""

import json
from pathlib import Path

import pytest

import nsllm_lite.tasks
from nsllm_lite.evals.evaluate import evaluate, read_predictions
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks.task import all_tasks
from tests.raising import raises

TASKS = all_tasks()
YAMLS = Path(nsllm_lite.tasks.__file__).parent / "lm_eval"
lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is in the dev extra")


@pytest.fixture(scope="module")
def small_tasks(tmp_path_factory) -> Path:
    """A folder as `nsllm-lite tasks` writes it, of short items."""
    folder = tmp_path_factory.mktemp("tasks")
    moves = [("We asked why it is so.", "Objective"), ("It was weighed.", "Methods"), ("It was 3 ± 1 g.", "Results")]
    rows = {
        "classification": [(f"Cells {n} divide.", "Biology") for n in range(3)]
        + [(f"Light {n} is fast at 25 °C.", "Physics") for n in range(4)],
        "moves": [(f"{text} {n}", label) for n in range(4) for text, label in moves],
        "title": [(f"We show that light number {n} is fast.", f"Light number {n}") for n in range(3)],
        "paper_title": [(f"Light {n} is fast.\n\nMethods\n\nWe ran.", f"Light number {n}") for n in range(3)],
        "multiple_choice": [(f"{n}?\nChoices:\n(A): x\n(B): y\n(C): z", "ABC"[n % 3]) for n in range(5)],
        "open": [(f"What is {n} + 1?", str(n + 1)) for n in range(4)],
    }
    for split, mark in (("train", "again"), ("test", "now")):
        (folder / split).mkdir()
        for task, records in rows.items():
            lines = [
                {"document": f"{split}{n}", "instruction": "Say it.", "input": f"{mark}: {a}", "output": b}
                for n, (a, b) in enumerate(records)
            ]  # fmt: skip
            (folder / split / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def theirs(talker, small_tasks):
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(talker), device="cpu", dtype="float32", batch_size=4)
    calls, forward = [], model._model_call

    def counted(ids, *args, **kwargs):
        calls.append(ids.numel())
        return forward(ids, *args, **kwargs)

    model._model_call = counted
    manager = TaskManager(include_path=str(YAMLS), metadata={"tasks": str(small_tasks)})
    found = lm_eval.simple_evaluate(
        model, tasks=[f"nsllm_{name}" for name in TASKS], task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    return found, sum(calls)


@pytest.fixture(scope="module")
def ours(talker, small_tasks, tmp_path_factory):
    out = tmp_path_factory.mktemp("ours") / "eval"
    values = {
        "kind": "eval", "out": str(out), "models": [{"name": "one", "path": str(talker)}], "tasks": str(small_tasks),
        "seed": 0, "execution": {"device": "cpu"},
    }  # fmt: skip
    return out, evaluate(recipes.validate(values, "eval"))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_same_prompts_and_answers(theirs, ours, task):
    out, _ = ours
    samples = sorted(theirs[0]["samples"][f"nsllm_{task}"], key=lambda sample: sample["doc_id"])
    predictions = {p.item: p for p in read_predictions(out / f"predictions/one/{task}.few-shot.jsonl")}
    assert len(samples) == len(predictions)
    for number, sample in enumerate(samples):
        if TASKS[task].is_ranked:
            values = [float(response[0][0]) for response in sample["resps"]]
            assert [float(x) for x in predictions[number].text.split()] == pytest.approx(values, abs=2e-3)
        else:
            assert predictions[number].text.strip() == sample["resps"][0][0].strip()


@pytest.mark.slow
def test_the_same_scores(theirs, ours):
    rows = {row["set"]: row for row in ours[1]["scores"]}
    metrics = {about["name"]: about["metrics"] for about in ours[1]["sets"]}
    for task in TASKS:
        found = theirs[0]["results"][f"nsllm_{task}"]
        for metric in metrics[task]:
            assert found[f"{metric},none"] == pytest.approx(rows[task][metric]["value"], abs=1e-6), (task, metric)


def test_a_folder_without_the_tasks_items_is_refused(tmp_path):
    from nsllm_lite.tasks.lm_eval import functions

    (tmp_path / "test").mkdir()
    (tmp_path / "test/open.jsonl").write_text('{"input": "1 + 1?", "output": "2"}\n')
    with raises("lm-eval-no-items", tmp_path, "'title'"):
        functions.dataset("title", tasks=str(tmp_path))


@pytest.mark.parametrize("task", TASKS)
def test_the_yaml_files_are_those_of_the_tasks(task):
    from nsllm_lite.tasks.lm_eval import functions

    assert (YAMLS / f"{task}.yaml").read_text() == functions.yaml_of(TASKS[task]), functions.__doc__
    assert {path.stem for path in YAMLS.glob("*.yaml")} == TASKS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_harness_reads_version_and_examples_from_them(theirs, task):
    assert theirs[0]["versions"][f"nsllm_{task}"] == TASKS[task].version
    assert theirs[0]["configs"][f"nsllm_{task}"]["num_fewshot"] == TASKS[task].shots
