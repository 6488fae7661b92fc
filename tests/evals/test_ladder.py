"""The figures of an adaptation ladder by hand, and what is no ladder."""

import math
import re
import shutil

import numpy as np
import pytest

from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.evals.ladder import Measure, figures, ladder
from nsllm_lite.evals.ladder_checks import require_alike, require_equal, require_rows
from nsllm_lite.evals.ladder_report import lines_of, write_report
from nsllm_lite.formats.rows import Rows
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.ladder import Adapted
from nsllm_lite.train.cpt import train
from tests.raising import raises

SIZES = {"y": 300} | {f"x{number}": 100 for number in range(9)}
BUDGET = {"steps": 4, "tokens_per_step": 64, "tokens": 256}


def recipe_of(*names: str, **changes):
    values = {
        "kind": "ladder", "out": "o", "bases": [{"name": name, "model": "m"} for name in names], "corpus": "c.yaml",
        "train": "t.yaml", "budget": BUDGET, "equal": "tokens", "max_epochs": 4, "seeds": 2,
    }  # fmt: skip
    return recipes.validate(values | changes, "ladder")


def manifest_of(seed: int, num_bytes: int, tokens: int = 500_000):
    recipe = {"seed": seed, "optimizer": {"learning_rate": 1e-3}, "adapter": {"rank": 8}, "quantisation": "nf4"}
    results = {"steps": 4, "bytes": num_bytes, "tokens": tokens, "coverage": 0.5, "replay_share": 0.05}
    return {"recipe": recipe, "results": results}


def documents(bits_per_byte: float, **sizes: int):
    """Of documents that all have this figure."""
    sizes = sizes or SIZES
    return {name: [bits_per_byte * size * math.log(2), size] for name, size in sizes.items()}


def scored_of(before: float, *after: float, general=(1.0, 1.1, 1.3)):
    models = ("before", "0", "1")
    domain = zip(models, (before, *after), strict=True)
    control = dict(zip(models, general, strict=True))
    return {key: {"domain": documents(value), "general": documents(control[key], g=50)} for key, value in domain}


MANIFESTS = {
    "a": [manifest_of(0, 1_000_000), manifest_of(1, 2_000_000)],
    "b": [manifest_of(0, 1_000_000), manifest_of(1, 1_000_000)],
}


def test_gains_and_intervals_by_hand():
    scored = {"a": scored_of(2.0, 1.5, 1.7), "b": scored_of(3.0, 2.0, 2.02)}
    found = figures(recipe_of("a", "b"), MANIFESTS, scored)
    a, b = found["bases"]
    assert found["heldout"] == {"domain": {"documents": 10, "bytes": 1_200}, "general": {"documents": 1, "bytes": 50}}
    assert (a["domain"]["before"], a["after"]["value"]) == (pytest.approx(2.0), pytest.approx(1.6))
    assert a["gain"]["by_seed"] == pytest.approx([0.5, 0.3])
    # two seeds: t is 12.706, the deviation 0.2 / sqrt 2, that of the mean 0.1
    assert a["gain"]["over_seeds"] == pytest.approx([0.4 - 1.2706, 0.4 + 1.2706])
    assert a["gain"]["over_documents"] == pytest.approx([0.4, 0.4])
    assert a["share"]["value"] == pytest.approx(0.2)
    assert a["per_million_bytes"]["by_seed"] == pytest.approx([0.5, 0.15])
    assert a["per_million_tokens"]["by_seed"] == pytest.approx([1.0, 0.6])
    assert (a["bytes"], a["bytes_per_token"]) == (1_500_000, 3)
    assert a["general_lost"]["by_seed"] == pytest.approx([0.1, 0.3])
    assert b["gain"]["by_seed"] == pytest.approx([1.0, 0.98])

    (pair,) = found["differences"]
    assert (pair["one"], pair["other"], pair["gain"]["value"]) == ("a", "b", pytest.approx(-0.59))
    # Welch: variances of the means 0.01 and 0.0001, 1.02 degrees of freedom, so 1
    half = 12.706 * math.sqrt(0.01 + 0.0001)
    assert pair["gain"]["over_seeds"] == pytest.approx([-0.59 - half, -0.59 + half])
    assert pair["gain"]["over_documents"] == pytest.approx([-0.59, -0.59])
    assert not pair["gain"]["beyond_chance"], "two seeds that differ so much show nothing"

    scored["a"] = scored_of(2.0, 1.5, 1.5001)
    (pair,) = figures(recipe_of("a", "b"), MANIFESTS, scored)["differences"]
    assert pair["gain"]["beyond_chance"]

    text = "\n".join(lines_of(found))
    assert "| a | 2.0000 | 1.6000 | +0.4000 | -0.8706 to +1.6706 | +0.4000 to +0.4000 | 20.0% |" in text
    assert "learning rate 0.001" in " ".join(text.split())
    assert re.search(r"\| a \| 1.0000 \| 1.2000 \| \+0.2000 \| [^|]* \| too few \|", text), "one passage"
    assert "Of fewer than 10 held-out papers or passages" in text


def test_few_papers_have_no_interval_and_no_verdict(tmp_path):
    scored = {"a": scored_of(2.0, 1.5, 1.5001), "b": scored_of(3.0, 2.0, 2.02)}
    for sets in (sets for of_base in scored.values() for sets in of_base.values()):
        del sets["domain"]["x0"]
    found = figures(recipe_of("a", "b"), MANIFESTS, scored)
    assert found["bases"][0]["gain"]["over_documents"] is None
    (pair,) = found["differences"]
    assert (pair["gain"]["over_documents"], pair["gain"]["beyond_chance"]) == (None, None)
    write_report(found, tmp_path)
    row = r"\| a - b \| gain, bits per byte \| [^|]* \| [^|]* \| too few \| not judged \|"
    assert re.search(row, (tmp_path / "ladder.md").read_text())


def test_an_interval_over_papers_is_that_of_their_quotient():
    """Five papers gain nothing, five larger ones 1 bit a byte; of ten drawn 2 to 8 are of the latter in 95 %."""
    measure = Measure(np.array([[0.0] * 5 + [300.0] * 5] * 2), np.array([100] * 5 + [300] * 5))
    assert measure.figure()["value"] == pytest.approx(0.75)
    assert measure.figure()["over_documents"] == pytest.approx([600 / 1400, 2400 / 2600], abs=0.04)
    assert measure.figure()["over_seeds"] == pytest.approx([0.75, 0.75])


def test_no_general_text_leaves_no_control():
    scored = {"a": scored_of(2.0, 1.5, 1.7), "b": scored_of(3.0, 2.0, 2.02)}
    for of_base in scored.values():
        for sets in of_base.values():
            sets["general"] = {}
    found = figures(recipe_of("a", "b"), MANIFESTS, scored)
    assert "general_lost" not in found["bases"][0]
    assert "Control: no general text" in "\n".join(lines_of(found))


def test_bases_are_compared_on_the_same_documents():
    scored = {"a": scored_of(2.0, 1.5, 1.7), "b": scored_of(3.0, 2.0, 2.02)}
    scored["b"]["before"]["domain"]["y"][1] = 301
    with raises("ladder-heldout-differs", "y"):
        figures(recipe_of("a", "b"), MANIFESTS, scored)
    for of_base in scored.values():
        for sets in of_base.values():
            sets["domain"] = {}
    with raises("ladder-nothing-held-out"):
        figures(recipe_of("a", "b"), MANIFESTS, scored)


def test_trainings_that_differ_are_no_ladder(pico_recipe):
    one = Adapted(name="a", model="m", corpus="c", trainings=["x", "y"])
    values = recipes.identity(pico_recipe())
    faster = values | {"optimizer": values["optimizer"] | {"learning_rate": 1e-2}, "seed": 9}
    longer = values | {"budget": values["budget"] | {"steps": 2, "tokens": 512}, "seed": 9, "model": "other"}
    require_alike([one], {"a": [{"recipe": values}, {"recipe": longer}]})
    with raises("ladder-trainings-differ", "y and x", "optimizer"):
        require_alike([one], {"a": [{"recipe": values}, {"recipe": faster}]})
    with raises("ladder-seeds-repeat", "3, 3"):
        require_alike([one], {"a": [{"recipe": values}, {"recipe": values}]})


def made(seed: int, steps: int = 4, num_bytes: int = 400, per_step: int = 64, **inputs: str):
    recipe = {"seed": seed, "budget": {"steps": steps, "tokens_per_step": per_step}}
    return {"recipe": recipe, "results": {"steps": steps, "bytes": num_bytes}, "inputs": inputs}


def test_trainings_of_other_seeds_and_lengths_are_no_ladder():
    adapted = [Adapted(name=n, model="m", corpus="c", trainings=[f"{n}0", f"{n}1"]) for n in "ab"]

    def check(equal: str, *of_b: dict):
        require_equal(recipe_of("a", "b", equal=equal), adapted, {"a": [made(0), made(1)], "b": list(of_b)})

    check("tokens", made(1, num_bytes=900), made(0))
    check("bytes", made(0, 2, 300), made(1))
    with raises("ladder-seeds-differ", "b are 0, 2", "a are 0, 1"):
        check("tokens", made(0), made(2))
    with raises("ladder-budget-differs", "b1 has 3 steps of 64"):
        check("tokens", made(0), made(1, 3))
    with raises("ladder-budget-differs", "b0 has 5 steps"):
        check("bytes", made(0, 5), made(1))
    with raises("ladder-budget-differs", "steps of 128"):
        check("bytes", made(0, per_step=128), made(1))
    with raises("ladder-bytes-differ", "b0 has read 100 bytes", "a0 400"):
        check("bytes", made(0, 2, 100), made(1))


def test_trainings_on_other_rows_are_no_ladder(pico, tmp_path):
    corpora, adapted, manifests = {}, [], {}
    for name in "ab":
        corpora[name] = tmp_path / name
        for phase in ("phase1", "general"):
            shutil.copytree(pico / "rows/papers/train", corpora[name] / "rows" / phase / "train")
        adapted.append(Adapted(name=name, model="m", corpus=str(corpora[name]), trainings=[f"{name}0", f"{name}1"]))
        own = Rows(corpora[name] / "rows/phase1/train").sha256
        manifests[name] = [made(seed, rows=own, replay_rows=own) for seed in (0, 1)]
    require_rows(adapted, manifests)
    for key in ("rows", "replay_rows"):
        right = manifests["b"][1]["inputs"][key]
        manifests["b"][1]["inputs"][key] = "other"
        with raises("ladder-rows-differ", f"b1 was not trained on the {key} of {corpora['b']}"):
            require_rows(adapted, manifests)
        manifests["b"][1]["inputs"][key] = right
    for name, source in (("a", "x"), ("b", "y")):
        inputs = {"source:papers": source, "tokenizer": name}
        write_json(corpora[name] / "manifest.json", {"verb": "corpus", "recipe": {}, "inputs": inputs, "results": {}})
    with raises("ladder-sources-differ", corpora["b"]):
        require_rows(adapted, manifests)


def test_a_training_that_is_not_finished_or_of_another_base(pico, pico_recipe, tmp_path):
    outs = [str(tmp_path / f"seed-{seed}") for seed in (0, 1)]

    def asked(model: str):
        adapted = [{"name": name, "model": model, "corpus": str(pico), "trainings": outs} for name in ("a", "b")]
        return recipe_of("a", "b", out=str(tmp_path / "ladder"), adapted=adapted, budget=budget)

    budget = {"steps": 1, "tokens_per_step": 256, "tokens": 256}
    schedule = {"shape": "constant", "warmup_steps": 0}
    train(pico_recipe(out=outs[0], seed=0, budget=budget, schedule=schedule))
    with raises("ladder-training-unfinished", outs[1]):
        ladder(asked(str(pico / "base")))
    train(pico_recipe(out=outs[1], seed=1, budget=budget, schedule=schedule))
    with raises("merge-base-differs", outs[0], pico / "deep"):
        ladder(asked(str(pico / "deep")))
    assert not (tmp_path / "ladder").exists()
    write_json(tmp_path / "seed-1/manifest.json", {"verb": "mlm", "recipe": {}, "inputs": {}, "results": {}})
    with raises("ladder-training-unfinished", outs[1]):
        ladder(asked(str(pico / "base")))
