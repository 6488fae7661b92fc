"""Stock lm-evaluation-harness runs the six tasks from their YAMLs, offline, and agrees with `nsllm-lite eval`."""

from pathlib import Path

import pytest

import nsllm_lite.tasks
from docs.harness import yaml_of
from nsllm_lite.evals.evaluate import evaluate, read_predictions
from nsllm_lite.recipe import evals
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks.lm_eval import functions
from nsllm_lite.tasks.task import all_tasks
from tests.corpus.small import write_lines
from tests.raising import raises

from .conftest import SMALL_TASKS

TASKS = {name: all_tasks()[name] for name in evals.TASKS}
YAMLS = Path(nsllm_lite.tasks.__file__).parent / "lm_eval"
lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is in the dev extra")


@pytest.fixture(scope="module")
def small_tasks(tmp_path_factory) -> Path:
    """A folder as `nsllm-lite tasks` writes it, of short items."""
    folder = tmp_path_factory.mktemp("tasks")
    for split, mark in (("train", "again"), ("test", "now")):
        for task, rows in SMALL_TASKS.items():
            records = [
                {"instruction": "Say it.", "input": f"{mark} {n}: {a}", "output": b} for n, (a, b) in enumerate(rows)
            ]
            write_lines(folder / split / f"{task}.jsonl", records)
    return folder


@pytest.fixture(scope="module")
def theirs(talker, small_tasks):
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(talker), device="cpu", dtype="float32", batch_size=4)
    manager = TaskManager(include_path=str(YAMLS), metadata={"tasks": str(small_tasks)})
    return lm_eval.simple_evaluate(
        model, tasks=[f"nsllm_{name}" for name in TASKS], task_manager=manager, log_samples=True, bootstrap_iters=0
    )


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
    assert theirs["versions"][f"nsllm_{task}"] == TASKS[task].version
    assert theirs["configs"][f"nsllm_{task}"]["num_fewshot"] == TASKS[task].shots
    out, _ = ours
    samples = sorted(theirs["samples"][f"nsllm_{task}"], key=lambda sample: sample["doc_id"])
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
        found = theirs["results"][f"nsllm_{task}"]
        for metric in metrics[task]:
            assert found[f"{metric},none"] == pytest.approx(rows[task][metric]["value"], abs=1e-6), (task, metric)


def test_a_folder_without_the_tasks_items_is_refused(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test/open.jsonl").write_text('{"input": "1 + 1?", "output": "2"}\n')
    with raises("lm-eval-no-items", tmp_path, "'title'"):
        functions.dataset("title", tasks=str(tmp_path))


@pytest.mark.parametrize("task", TASKS)
def test_the_yaml_files_are_those_of_the_tasks(task):
    assert (YAMLS / f"{task}.yaml").read_text() == yaml_of(TASKS[task]), "run docs/harness.py"
    assert {path.stem for path in YAMLS.glob("*.yaml")} == TASKS.keys()
