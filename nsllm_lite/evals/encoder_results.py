"""The scores of encoders as results.json has them: intervals, floors, differences, seeds."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from nsllm_lite.evals import retrieval
from nsllm_lite.evals.encoder_report import TITLES
from nsllm_lite.evals.encoder_sets import EncoderSet
from nsllm_lite.tasks import heads, scores
from nsllm_lite.tasks.heads import MAIN, Cuts, Figures

PREDICTED, DENSE, UNTRAINED, FUSED = "predicted", "dense", "dense, untrained", "fused with BM25"
SEED = re.compile(r"[-_/]?seed[-_]?\d+", re.IGNORECASE)
PART = re.compile(r"(f1|exact|ap) ")  # begins a metric of one type, label or part


class Row(NamedTuple):
    """Scores of one model (or rule) on one set."""

    model: str
    mode: str
    set: str
    figures: Figures


class Told(NamedTuple):
    """What a model with a head said of one set: probabilities (items, labels) of several labels, else a list."""

    model: str
    set: str
    said: Any
    labels: tuple[str, ...]
    cuts: Cuts


def rows_of(one: EncoderSet, told: Sequence[Told]) -> list[Row]:
    """Scores of all models on one set, with one list of labels, so that they can be compared."""
    labels = labels_on(one, told)
    return [
        Row(
            of.model,
            PREDICTED,
            one.name,
            heads.figures(one.task, one.items, _widened(one, of, labels), labels, of.cuts),
        )
        for of in told
        if of.set == one.name
    ]


def labels_on(one: EncoderSet, told: Sequence[Told]) -> tuple[str, ...]:
    """All labels that the models, the items and the training items of a set have."""
    known = {label for of in told if of.set == one.name for label in of.labels}
    return tuple(sorted(known.union(heads.labels_in(one.task, [*one.items, *one.train]))))


def _widened(one: EncoderSet, told: Told, labels: Sequence[str]) -> Any:
    """Of several labels the probabilities with a column for each of `labels`: 0 where the model does not know it."""
    if one.task != "multilabel":
        return told.said
    wide = np.zeros((len(one.items), len(labels)))
    wide[:, [labels.index(label) for label in told.labels]] = told.said
    return wide


def results_of(
    sets: Sequence[EncoderSet],
    ranked: Sequence[Row],
    told: Sequence[Told],
    lexical: Mapping[str, dict[str, retrieval.Rankings]],
    seed: int,
) -> dict[str, Any]:
    """Sets with their floors, scores with intervals, differences, seeds."""
    found: dict[str, Any] = {"sets": [], "scores": [], "differences": [], "seeds": []}
    for one in sets:
        mine = [row for row in ranked if row.set == one.name] if one.collection else rows_of(one, told)
        rules = _floors(one, seed, lexical, labels_on(one, told))
        shown = [name for name in next(iter(rules.values())) if not PART.match(name)]
        shown.sort(key=lambda name: name != main_of(one))
        about = {"name": one.name, "task": one.task, "title": f"{TITLES[one.task]}: {one.name}"}
        floors = {rule: _estimates(figures, seed) for rule, figures in rules.items()}
        found["sets"].append(about | {"items": one.num_items, "metrics": shown, "floors": floors})
        for row in mine:
            stated = {"model": row.model, "mode": row.mode, "set": row.set}
            found["scores"].append(stated | _estimates(row.figures, seed))
        found["differences"] += _differences(one, mine, rules, seed)
        found["seeds"] += _seeds(one.name, mine, shown)
    return found


def main_of(one: EncoderSet) -> str:
    return MAIN.get(one.task) or next(iter(retrieval.metrics.METRICS))


def _floors(
    one: EncoderSet, seed: int, lexical: Mapping[str, dict[str, retrieval.Rankings]], labels: Sequence[str]
) -> dict[str, Figures]:
    if one.collection is None:
        return heads.floors(one.task, one.items, one.train, seed, labels)
    return {rule: retrieval.figures(found, one.collection) for rule, found in lexical[one.name].items()}


def _estimates(figures: Figures, seed: int) -> dict[str, dict[str, float]]:
    """Without those that have no value, such as F1 of a type that neither the items nor the answers have."""
    there = {name: of for name, of in figures.items() if not math.isnan(_value(figures, name))}
    return {name: scores.estimate(*of, seed)._asdict() | {"n": len(of[0].given)} for name, of in there.items()}


def _differences(one: EncoderSet, rows: Sequence[Row], rules: dict[str, Figures], seed: int) -> list[dict[str, Any]]:
    """Of the main metric: from each model to each other, and from the highest floor to each row."""
    metric = main_of(one)
    best = heads.highest(rules, metric)
    floor = Row(best, "floor", one.name, rules[best])
    own = [row for row in rows if row.mode in (PREDICTED, DENSE)]
    found = []
    for first, second in (*combinations(own, 2), *((floor, row) for row in rows)):
        (before, _), (after, how) = first.figures[metric], second.figures[metric]
        about = {"set": one.name, "metric": metric, "first": first.model, "second": second.model}
        about |= {"first_mode": first.mode, "mode": second.mode}
        found.append(about | scores.compare(before, after, how, seed)._asdict())
    return found


def _value(figures: Figures, metric: str) -> float:
    rows, how = figures[metric]
    return how(rows)


def _seeds(name: str, rows: Sequence[Row], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Mean and standard deviation of models whose names differ by their seed alone, such as ner/seed1 and ner/seed2."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if SEED.search(row.model):
            groups.setdefault((SEED.sub("", row.model), row.mode), []).append(row)
    found = []
    for (model, mode), alike in groups.items():
        if len(alike) > 1:
            values = {metric: [_value(row.figures, metric) for row in alike] for metric in metrics}
            told = {
                key: {"mean": statistics.fmean(of), "deviation": statistics.stdev(of)} for key, of in values.items()
            }
            found.append({"model": model, "mode": mode, "set": name, "seeds": len(alike), "metrics": told})
    return found
