"""`nsllm-lite ladder`, its last step: how much the same training gained on each of several bases.

All is measured in bits per byte of the same held-out documents, since a loss per token means another thing to each
tokenizer. A base is scored as its training held it (its weights in NF4, say); a run with a learning rate of 0 would
gain 0 by construction.
Letters: S seeds, D held-out documents.
"""

import gc
import math
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.artifact.step import begin, finish, finished, manifest_sha256, read_manifest
from nsllm_lite.errors import UserError
from nsllm_lite.evals.ladder_checks import require_alike, require_base, require_equal, require_rows
from nsllm_lite.evals.ladder_report import write_report
from nsllm_lite.formats.rows import Rows
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import PackedLM, autocast
from nsllm_lite.models.device import find_device
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.loading import load_base
from nsllm_lite.models.lora import load_adapter
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.ladder import Adapted, Ladder
from nsllm_lite.tasks.scores import resampled_interval, student_interval, welch_interval
from nsllm_lite.terminal import progress

SETS = {"domain": "phase1", "general": "general"}
BEFORE = "before"
MILLION = 1_000_000
MIN_DOCUMENTS = 10  # of fewer, resamples are too much alike: an interval over one paper has no width
COMPARED = ("gain", "per_million_bytes", "share")

Scored = dict[str, dict[str, dict[str, list[float]]]]
"""Of one base: "before" or a seed -> domain or general -> document -> [nats, bytes]."""


class Measure(NamedTuple):
    """A quotient of two sums over held-out documents, for each seed."""

    counts: np.ndarray  # (S, D)
    others: np.ndarray  # (D,)

    @property
    def by_seed(self) -> list[float]:
        return [float(value) for value in self.counts.sum(1) / self.others.sum()]

    def resampled(self, drawn: np.ndarray) -> np.ndarray:
        """The mean over seeds, for documents `drawn` (resamples, D)."""
        return self.counts.mean(0)[drawn].sum(1) / self.others[drawn].sum(1)

    def figure(self) -> dict[str, Any]:
        return {
            "value": float(np.mean(self.by_seed)),
            "by_seed": self.by_seed,
            "over_seeds": list(student_interval(self.by_seed)),
            "over_documents": _over_documents(self.resampled, len(self.others)),
        }

    def minus(self, other: "Measure") -> dict[str, Any]:
        """The difference, beyond chance where neither seeds nor documents could have made it alone; None: too few
        documents to judge."""
        over_seeds = welch_interval(self.by_seed, other.by_seed)
        over_documents = _over_documents(lambda drawn: self.resampled(drawn) - other.resampled(drawn), len(self.others))
        both = [over_seeds, over_documents]
        return {
            "value": float(np.mean(self.by_seed) - np.mean(other.by_seed)),
            "over_seeds": list(over_seeds),
            "over_documents": over_documents,
            "beyond_chance": over_documents and (min(low for low, _ in both) > 0 or max(high for _, high in both) < 0),
        }


def _over_documents(statistic: Callable[[np.ndarray], np.ndarray], num_documents: int) -> list[float] | None:
    return list(resampled_interval(statistic, num_documents)) if num_documents >= MIN_DOCUMENTS else None


def ladder(recipe: Ladder) -> dict[str, Any]:
    """Scores every base and every training of it on all held-out documents; writes documents.json, ladder.json,
    ladder.md and ladder.png.

    Raises:
        UserError: a training is not finished, is of another recipe, length or seeds than the others, on another base
            or on other rows, or the bases were held out different documents.
    """
    started, out, adapted = time.time(), Path(recipe.out), recipe.adapted or []
    manifests = {one.name: [_training(Path(path)) for path in one.trainings] for one in adapted}
    require_alike(adapted, manifests)
    require_equal(recipe, adapted, manifests)
    inputs = {
        f"{one.name}, {number}": manifest_sha256(Path(path))
        for one in adapted
        for number, path in enumerate(one.trainings, 1)
    }
    inputs |= {f"corpus of {one.name}": manifest_sha256(Path(one.corpus)) for one in adapted}
    identity = recipes.identity(recipe)
    if (results := finished(out, identity, inputs)) is not None:
        return results
    for one in adapted:
        require_base(one, manifests[one.name])
    require_rows(adapted, manifests)
    begin(out, identity, inputs)
    scored = _score_all(recipe, adapted, manifests)
    results = figures(recipe, manifests, scored)
    write_json(out / "ladder.json", results)
    write_report(results, out)
    finish(out, "ladder", identity, inputs, results, started)
    return results


def _training(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest is None or manifest["verb"] != "train":
        found = f"{folder} is no finished training."
        raise UserError("ladder-training-unfinished", found, "Run `nsllm-lite ladder` with its recipe: it makes them.")
    return manifest


def _score_all(recipe: Ladder, adapted: list[Adapted], manifests: dict[str, list[dict]]) -> dict[str, Scored]:
    """Of all bases; what an earlier try has scored is taken as it is."""
    path = Path(recipe.out) / "documents.json"
    scored: dict[str, Scored] = read_json(path) if path.is_file() else {}
    device = find_device(recipe.execution.device).device
    micro_batch_rows = recipe.execution.micro_batch_rows or (4 if device == "cpu" else 1)
    total = sum(1 + len(one.trainings) for one in adapted)
    with progress(total, sum(map(len, scored.values())), recipe.out, "model") as bar:
        for one in adapted:
            rows = {name: Rows(Path(one.corpus) / "rows" / phase / "heldout") for name, phase in SETS.items()}
            of_base = scored.setdefault(one.name, {})
            seeds = [str(manifest["recipe"]["seed"]) for manifest in manifests[one.name]]
            models = {BEFORE: None} | dict(zip(seeds, one.trainings, strict=True))
            for key, trained in models.items():
                if key not in of_base:
                    how = manifests[one.name][0]["recipe"]
                    of_base[key] = _score(one.model, trained, how, rows, device, micro_batch_rows)
                    write_json(path, scored)
                    bar.update()
    return scored


def _score(
    model: str, trained: str | None, how: dict[str, Any], rows: dict[str, Rows], device: str, micro_batch_rows: int
) -> dict[str, dict[str, list[float]]]:
    """Nats and bytes of each held-out document, of the base or of what was `trained` from it, held as in training."""
    import torch

    whole = how["adapter"] is None
    folder = Path(trained) / "model" if trained and whole else resolve_model(model)
    loaded = load_base(
        folder,
        quantisation=how["quantisation"],
        double_quantisation=how["double_quantisation"],
        compute_dtype="float32" if whole else how["compute_dtype"],
        device=device,
    )
    lm = PackedLM(load_adapter(loaded, Path(trained) / "adapter") if trained and not whole else loaded)
    found = {}
    for name, of_set in rows.items():
        of_set.require_sound()
        listed = [of_set[number] for number in range(len(of_set))]
        groups = {document: f"document {document}" for row in listed for document in row.doc_ids}
        with autocast(device, how["compute_dtype"]):
            scores = heldout.score(lm, listed, micro_batch_rows, device, groups)
        found[name] = {
            document: [scores[group].nats, scores[group].bytes] for document, group in sorted(groups.items())
        }
    del lm, loaded
    gc.collect()
    torch.cuda.empty_cache()
    return found


def figures(recipe: Ladder, manifests: dict[str, list[dict]], scored: dict[str, Scored]) -> dict[str, Any]:
    """All of ladder.json. Raises UserError where the bases were held out different documents, or none."""
    sizes = {name: _sizes(name, scored) for name in SETS}
    if not len(sizes["domain"]):
        todo = "Give more papers, or raise corpus.heldout.share."
        raise UserError("ladder-nothing-held-out", "No paper is held out, so no gain can be measured.", todo)
    measures = {name: measures_of(manifests[name], scored[name], sizes) for name in manifests}
    first = next(iter(manifests.values()))[0]["recipe"]
    return {
        "equal": recipe.equal,
        "budget": recipe.budget.model_dump(),
        "training": {
            "learning_rate": first["optimizer"]["learning_rate"],
            "adapter": first["adapter"] and f"LoRA rank {first['adapter']['rank']}",
            "quantisation": first["quantisation"],
            "seeds": [manifest["recipe"]["seed"] for manifest in next(iter(manifests.values()))],
        },
        "min_documents": MIN_DOCUMENTS,
        "heldout": {name: {"documents": len(of), "bytes": int(of.sum())} for name, of in sizes.items()},
        "bases": [
            {
                "name": name,
                **_seen(manifests[name]),
                **{key: _before(scored[name], key, of) for key, of in sizes.items() if len(of)},
                **{key: measure.figure() for key, measure in measures[name].items()},
            }
            for name in manifests
        ],
        "differences": [
            {"one": one, "other": other} | {key: measures[one][key].minus(measures[other][key]) for key in COMPARED}
            for one, other in combinations(sorted(measures), 2)
        ],
    }


def _sizes(name: str, scored: dict[str, Scored]) -> np.ndarray:
    """Bytes of each held-out document of a set (D,), by its id."""
    (first, expected), *others = ((base, _bytes_of(of[BEFORE][name])) for base, of in scored.items())
    for base, found in others:
        if found != expected:
            odd = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
            told = f"{len(odd)} held-out documents ({name}) of {base} and {first} differ: {', '.join(odd[:3])}."
            needed = "Gains are compared on the same texts."
            raise UserError("ladder-heldout-differs", told, needed, "Make both corpora of the same recipe.")
    return np.array([expected[key] for key in sorted(expected)], dtype=np.int64)


def _bytes_of(documents: dict[str, list[float]]) -> dict[str, int]:
    return {document: int(size) for document, (_, size) in documents.items()}


def _nats(documents: dict[str, list[float]]) -> np.ndarray:
    return np.array([documents[document][0] for document in sorted(documents)])


def _before(scored: Scored, name: str, sizes: np.ndarray) -> dict[str, float]:
    return {"before": float(_nats(scored[BEFORE][name]).sum() / math.log(2) / sizes.sum())}


def _seen(manifests: list[dict]) -> dict[str, Any]:
    """What the trainings of a base have read, replay included."""
    results = [manifest["results"] for manifest in manifests]
    tokens, num_bytes = (sum(of[key] for of in results) / len(results) for key in ("tokens", "bytes"))
    return {
        "seeds": len(results),
        "steps": [of["steps"] for of in results],
        "bytes_by_seed": [of["bytes"] for of in results],
        "tokens": tokens,
        "bytes": num_bytes,
        "bytes_per_token": num_bytes / tokens,
        "epochs": max(of["coverage"] for of in results),
        "replay_share": results[0]["replay_share"],
    }


def measures_of(manifests: list[dict], scored: Scored, sizes: dict[str, np.ndarray]) -> dict[str, Measure]:
    """The measures of one base by name."""
    seeds = [str(manifest["recipe"]["seed"]) for manifest in manifests]
    nats = {name: _nats(scored[BEFORE][name]) for name in sizes}
    after = {name: np.stack([_nats(scored[seed][name]) for seed in seeds]) for name in sizes}
    gain_SD = (nats["domain"] - after["domain"]) / math.log(2)
    seen = {key: np.array([of["results"][key] / MILLION for of in manifests])[:, None] for key in ("bytes", "tokens")}
    found = {
        "after": Measure(after["domain"] / math.log(2), sizes["domain"]),
        "gain": Measure(gain_SD, sizes["domain"]),
        "share": Measure(gain_SD, nats["domain"] / math.log(2)),
        "per_million_bytes": Measure(gain_SD / seen["bytes"], sizes["domain"]),
        "per_million_tokens": Measure(gain_SD / seen["tokens"], sizes["domain"]),
    }
    if len(sizes["general"]):
        lost_SD = (after["general"] - nats["general"]) / math.log(2)
        found["general_after"] = Measure(after["general"] / math.log(2), sizes["general"])
        found["general_lost"] = Measure(lost_SD, sizes["general"])
    return found
