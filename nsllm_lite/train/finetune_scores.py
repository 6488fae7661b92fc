"""What a fine-tuned model is worth: scores of a split, by length, and the time of a query."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nsllm_lite.models.head_settings import HeadSettings
from nsllm_lite.models.heads import Head, Said, said
from nsllm_lite.models.query_time import query_time
from nsllm_lite.recipe.finetune import Finetune
from nsllm_lite.tasks import heads
from nsllm_lite.tasks.entities import num_unbegun
from nsllm_lite.tasks.heads import MAIN, Cuts, Figures
from nsllm_lite.tasks.scores import compare, estimate
from nsllm_lite.train.finetune_inputs import Data, Split, label_counts

LENGTHS = {"1 window": (1, 1), "2 windows": (2, 2), "3 windows or more": (3, 10**9)}


class Developed(NamedTuple):
    """Of a model on development items: its main score, and what was chosen on them."""

    main: float
    cuts: Cuts


def answer(head: Head, split: Split) -> Said:
    return said(head, split.given.texts, split.given.seconds, split.given.words)


def develop(task: str, head: Head, split: Split) -> Developed:
    """The main score on development items, with what is chosen on them."""
    values = answer(head, split).values
    cuts = heads.cuts_of(task, split.items, values, head.settings.labels)
    return Developed(main_of(heads.figures(task, split.items, values, head.settings.labels, cuts), task), cuts)


def main_of(figures: Figures, task: str) -> float:
    results, metric = figures[MAIN[task]]
    return metric(results)


def scores_of(recipe: Finetune, head: Head, data: Data, floors: dict[str, Figures]) -> dict[str, Any]:
    """The scores of a trained model on the test items, or without a test file on the development items, on which its
    epoch was chosen; with intervals over the items, and the difference from the highest of the `floors`."""
    cuts = develop(recipe.task, head, data.development).cuts
    where = "test" if data.test else "development"
    split = data.test or data.development
    told = answer(head, split)
    figures = heads.figures(recipe.task, split.items, told.values, head.settings.labels, cuts)
    return {
        "scored_on": where,
        "scores": with_intervals(figures, recipe.seed),
        "beside_floor": beside_floor(recipe, figures, floors),
        "with_label": dict(label_counts(recipe.task, split.items)),
        "by_length": by_length(recipe, head.settings, split, told, cuts),
        "thresholds": cuts.thresholds,
        "no_answer": cuts.no_answer,
        "words_without_token": told.num_unseen,
        "tags_that_begin_nothing": num_unbegun(told.values) if recipe.task == "ner" else 0,
    }


def with_intervals(figures: Figures, seed: int) -> dict[str, dict[str, Any]]:
    """{metric: {"value", "low", "high", "n"}}; None for one that has no value, as that of a label that no item has."""
    found = {}
    for name, (results, metric) in figures.items():
        of = estimate(results, metric, seed)._asdict()
        found[name] = {key: None if np.isnan(value) else value for key, value in of.items()} | {"n": len(results.given)}
    return found


def by_length(recipe: Finetune, settings: HeadSettings, split: Split, told: Said, cuts: Cuts) -> list[dict[str, Any]]:
    """The main score of items of one window, of two, and of more, with their number; in order."""
    counts, rows = np.array(told.num_windows), []
    for name, (least, most) in LENGTHS.items():
        places = np.flatnonzero((counts >= least) & (counts <= most)).tolist()
        if not places:
            continue
        values = [told.values[place] for place in places]
        values = np.array(values) if isinstance(told.values, np.ndarray) else values
        figures = heads.figures(recipe.task, [split.items[n] for n in places], values, settings.labels, cuts)
        rows.append({"length": name, "n": len(places), "value": main_of(figures, recipe.task)})
    return rows


def floors_of(recipe: Finetune, data: Data) -> dict[str, Figures]:
    """{rule without understanding: its figures on the items that the model is scored on}"""
    split = data.test or data.development
    return heads.floors(recipe.task, split.items, data.train.items, recipe.seed, data.labels)


def estimates(recipe: Finetune, floors: dict[str, Figures]) -> dict[str, dict[str, Any]]:
    """{rule: its main score, with its interval}"""
    name = MAIN[recipe.task]
    return {rule: with_intervals({name: of[name]}, recipe.seed)[name] for rule, of in floors.items()}


def beside_floor(recipe: Finetune, figures: Figures, floors: dict[str, Figures]) -> dict[str, Any]:
    """{"floor": the highest one, "value", "low", "high", "p": of the difference from it to the model, in the main
    score}"""
    name = MAIN[recipe.task]
    highest = heads.highest(floors, name)
    (floor, metric), (own, _) = floors[highest][name], figures[name]
    return {"floor": highest, **compare(floor, own, metric, recipe.seed)._asdict()}


def with_cuts(settings: HeadSettings, scored: dict[str, Any]) -> HeadSettings:
    return replace(settings, thresholds=scored["thresholds"], no_answer=scored["no_answer"])


def latency(head: Head, split: Split) -> dict[str, Any]:
    """The time of one query, from text to answer."""

    def ask(place: int) -> Said:
        return said(head, *(None if of is None else [of[place]] for of in split.given))

    return query_time(ask, len(split), head.device)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
