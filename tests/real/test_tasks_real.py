"""NSLLM's own evaluation files as task sets: they are read, floored and judged as their makers meant them."""

import pytest
from transformers import AutoTokenizer

from nsllm_lite.evals.evaluate import ceiling_of
from nsllm_lite.recipe import load as recipes
from nsllm_lite.tasks import answers
from nsllm_lite.tasks.items import read_items
from nsllm_lite.tasks.sets import load_sets
from nsllm_lite.train.conversations import Reader
from nsllm_lite.train.template import EARLIER_REASONING, Template

FILES = {
    "Abstract-Classification": "classification", "Move-Recognition": "moves", "Title-Generation": "title",
    "MMLU-stem": "multiple_choice", "math500": "open",
}  # fmt: skip


@pytest.fixture(scope="module")
def sets(real_data):
    files = [{"name": n, "task": t, "path": str(real_data / f"nsllm/{n}.json")} for n, t in FILES.items()]
    values = {"kind": "eval", "out": "x", "models": [{"name": "m", "path": "m"}], "tasks": None, "seed": 0}
    return {one.name: one for one in load_sets(recipes.validate({**values, "files": files}, "x"))}


def test_sizes_and_labels(sets):
    sizes = {name: len(one.items) for name, one in sets.items()}
    for name in ("Title-Generation", "MMLU-stem", "math500"):
        sizes[name] += len(sets[name].shots)
    assert sizes == dict(zip(FILES, (1000, 1000, 1000, 3153, 500), strict=True))
    assert sets["Abstract-Classification"].labels == ("Biology", "Chemistry", "Computer Science", "Medicine", "Physics")
    assert len(sets["Move-Recognition"].labels) == 5


def test_floors_and_ceilings(sets):
    """Naive Bayes: about the 0.82 and 0.48 that others found with a tokenizer of their own."""
    found = {n: one.task.floors(one, 0) for n, one in sets.items()}
    assert found["Abstract-Classification"]["naive Bayes"]["macro_f1"] == pytest.approx(0.82, abs=0.02)
    assert found["Move-Recognition"]["naive Bayes"]["macro_f1"] == pytest.approx(0.483, abs=0.02)
    assert found["Title-Generation"]["first sentence"]["rouge_l"] == pytest.approx(0.176, abs=0.001)
    assert found["Title-Generation"]["after 'we propose'"]["rouge_l"] == pytest.approx(0.232, abs=0.001)
    assert found["MMLU-stem"]["always D"]["accuracy"] == pytest.approx(0.286, abs=0.001)
    assert ceiling_of(sets["Abstract-Classification"]) == pytest.approx(0.981)


def test_every_solution_of_math500_is_judged_right(real_data):
    """The answer at the end of each, and the one in the box within its reasoning."""
    for item in read_items(real_data / "nsllm/math500.json"):
        assert answers.is_equal(answers.parse_result(item.output) or "", item.answer), item.number
        reasoning = item.output.partition("</think>")[0].removeprefix("<think>")
        assert answers.is_equal(answers.parse_result(reasoning) or "", item.answer), item.number


def test_every_answer_of_the_files_is_read_as_itself(sets):
    for one in sets.values():
        for item in one.items:
            read = one.task.parse(item.output, one.task.options(item, one.labels))
            assert read == item.answer or not one.task.is_ranked, (one.name, item.number)


def test_qwen3s_own_template_trains_each_answer_in_the_form_that_evaluation_asks_for(real_data):
    chat = AutoTokenizer.from_pretrained(real_data / "qwen3_tokenizer")
    template = Template("chat", "<|im_end|>", chat.backend_tokenizer, chat)
    pairs = [["2 + 2?", "<think>\ntwo twos\n</think>\n\n4"], ["3 + 3?", "6"]]
    talk = Reader().read({"history": pairs[:1], "instruction": pairs[1][0], "output": pairs[1][1]}, "here")
    (_, first), (prompt, last) = template.examples(talk, "here")
    assert first == ("<think>\ntwo twos\n</think>\n\n4<|im_end|>", True)
    assert last == ("6<|im_end|>", True)
    assert prompt[0].endswith(
        "<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\n3 + 3?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert talk.unused == {EARLIER_REASONING}
