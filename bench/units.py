"""The figures of finished training runs, in a file that outlives the runs: what is in it is not trained again."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.json_files import sha256_json
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.recipe.train import Train

Figures = dict[str, dict[str, float]]
CAME_LATER = {"products"}  # keys of which None says what their absence says
NO_MATTER = {"out", "model", "rows", "execution", "checkpoint_steps", "keep_checkpoints", "samples"}


class Units:
    """A JSON line each: its name, date, seconds, figures, and the hash of all that these depend on."""

    def __init__(self, path: Path):
        self.path = path

    def of(self, unit: str, inputs: dict[str, Any], make: Callable[[], Figures]) -> Figures:
        """The figures of `inputs`, whatever the unit's name; made where the file does not have them."""
        key = sha256_json(inputs)
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else ():
            known = json.loads(line)
            if known["key"] == key:
                return known["figures"]
        started = time.time()
        figures = make()
        told = {"unit": unit, "date": time.strftime("%Y-%m-%d"), "seconds": round(time.time() - started)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**told, "figures": figures, "key": key}) + "\n")
        return figures


def inputs_of(measured: str, phases: list[Train], model: str, corpus: str) -> dict[str, Any]:
    """What the figures of `phases`, trained one after the other from the base `model`, depend on."""
    of_phases = []
    for phase in phases:
        dumped = phase.model_dump(mode="json")
        values = {name: value for name, value in dumped.items() if name not in NO_MATTER}
        values = {name: value for name, value in values.items() if value is not None or name not in CAME_LATER}
        rows = {"rows": Rows(Path(phase.rows)).sha256}
        if phase.replay:
            values["replay"].pop("rows")
            rows["replay"] = Rows(Path(phase.replay.rows)).sha256
        values["evaluation"] = phase.evaluation.max_rows
        of_phases.append(values | {"rows": rows})
    held_out = {path.parent.name: Rows(path).sha256 for path in sorted(Path(corpus).glob("rows/*/heldout"))}
    weights = fingerprint_weights(Path(model))
    return {"measured": measured, "base": weights, "phases": of_phases, "held out": held_out}
