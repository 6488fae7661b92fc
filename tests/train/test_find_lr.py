"""The learning-rate range test: what it proposes, where it ends, what it leaves alone."""

from pathlib import Path

import pytest
import yaml

from nsllm_lite import cli
from nsllm_lite.artifact.json_files import read_json
from tests.conftest import ROW_TOKENS, make_rows

STEP = 2 * ROW_TOKENS


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return make_rows(tmp_path_factory.mktemp("rows") / "rows", 200, "papers", 9)


@pytest.fixture
def recipe(pico_recipe, rows):
    return lambda **changes: pico_recipe(
        rows=str(rows), budget={"steps": 40, "tokens_per_step": STEP, "tokens": 40 * STEP}, **changes
    )


def words_of(recipe, tmp_path) -> list[str]:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True)))
    return ["train", str(path)]


def test_the_proposal_lowers_the_loss_and_the_run_s_folder_is_not_touched(recipe, tmp_path, capsys):
    chosen = recipe()
    words = words_of(chosen, tmp_path)
    out, beside = Path(chosen.out), Path(f"{chosen.out}-find-lr")
    out.mkdir()
    (out / "mine").write_text("x")
    assert cli.main([*words, "--find-lr"]) == 0
    printed = capsys.readouterr().out
    print(printed)
    assert [path.name for path in out.iterdir()] == ["mine"]
    assert sorted(path.name for path in beside.iterdir()) == [
        "find_lr.json", "find_lr.png", "manifest.json", "times.json",
    ]  # fmt: skip
    found = read_json(beside / "find_lr.json")
    print(found["why"], [round(p["loss"], 2) for p in found["curve"]])
    assert 0
