"""The auditor on NSLLM's own evaluation files: known counts, none of the text."""

import pytest

from nsllm_lite.evals import audit
from nsllm_lite.tasks.items import read_items


@pytest.fixture(scope="module")
def found(real_data):
    folder = real_data / "nsllm"
    names = ("Abstract-Classification", "Move-Recognition", "Title-Generation", "MMLU-stem", "math500")
    files = {name: read_items(folder / f"{name}.json") for name in names}
    leaks = audit.leaked(files["Move-Recognition"], files["Abstract-Classification"])
    by_position = audit.by_position(files["Move-Recognition"], leaks)
    return {name: audit.examine(items) for name, items in files.items()}, leaks, by_position


def test_abstracts(found):
    of = found[0]["Abstract-Classification"]
    assert of["kind"] == "classification"
    assert (of["duplicates"]["normalised"], of["duplicates"]["conflicting"]) == (21, 19)
    assert len(of["duplicates"]["conflicting_rows"]) == 38
    assert of["duplicates"]["ceiling"] == pytest.approx(0.981)
    assert set(of["classes"]["labels"].values()) == {200}
    assert of["classes"]["non_ascii"]["Medicine"] == 0
    assert of["classes"]["words"]["macro_f1"] == pytest.approx(0.821, abs=0.02)
    assert of["classes"]["look"]["macro_f1"] == pytest.approx(0.60, abs=0.02)
    assert of["classes"]["look"]["f1"]["Medicine"] == pytest.approx(0.91, abs=0.015)


def test_moves(found):
    of, leaks, by_position = found[0]["Move-Recognition"], *found[1:]
    assert (of["duplicates"]["exact"], of["duplicates"]["conflicting"]) == (7, 2)
    assert of["classes"]["words"]["macro_f1"] == pytest.approx(0.483, abs=0.02)
    assert (len(leaks), len({leak.other_row for leak in leaks})) == (987, 270)
    assert by_position["order"] == ["Background", "Objective", "Methods", "Results", "Conclusions"]
    assert by_position["accuracy"] > 0.536  # of four thresholds found otherwise
    assert by_position["macro_f1"] > 0.512


def test_titles(found):
    of = found[0]["Title-Generation"]
    assert of["kind"] == "free text"
    characters = of["characters"]
    assert (len(characters["lost_inputs"]), len(characters["lost_outputs"])) == (61, 3)
    assert characters["lost_characters"] == 618
    assert len(characters["strange_letters"]) == 14
    assert len(of["forms"]["urls"]) == 114
    assert of["titles"]["first sentence"] == pytest.approx(0.176, abs=0.0005)
    assert of["titles"]["first 12 words"] == pytest.approx(0.187, abs=0.0005)
    assert of["titles"]["after 'we propose'"] == pytest.approx(0.232, abs=0.0005)


def test_questions(found):
    of = found[0]["MMLU-stem"]
    assert (of["duplicates"]["exact"], of["duplicates"]["normalised"], of["duplicates"]["conflicting"]) == (12, 19, 2)
    assert of["choices"]["letters"] == {"A": 670, "B": 753, "C": 828, "D": 902}
    assert of["choices"]["equal_options"] == [1289, 1526, 2241, 2773]
    assert of["choices"]["gold_is_longest"] == pytest.approx(0.187, abs=0.0005)
    assert of["choices"]["majority"] == pytest.approx(0.286, abs=0.0005)
    assert len(found[0]["math500"]["forms"]["reasoning_in_output"]) == 500
