"""Dry runs of the training step at the sizes and executions of `CASES`, one JSON line for each.

PYTHONPATH=.:.venv/kernels python tests/kernels/traced.py
"""

import dataclasses
import json
from pathlib import Path

from nsllm_lite.models.cards import card_named
from nsllm_lite.models.cost import work
from nsllm_lite.models.execution import UNTRACED, memory
from nsllm_lite.models.sizes import QWEN3
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Execution
from nsllm_lite.train.trace import trace, trace_whole
from tests.paths import load_whole

ROW_TOKENS = 4096
# size, rows, layers recomputed, cheap, dequantised, card, what the recipe says otherwise
CASES = {
    "0.6b on 40 GiB": ("0.6b", 4, 0, True, True, "A100", {}),
    "0.6b, the leanest": ("0.6b", 16, 28, True, False, "A100", {}),
    "1.7b on a T4": ("1.7b", 2, 7, True, False, "T4", {"compute_dtype": "float16"}),
    "8b on 24 GiB": ("8b", 1, 3, True, False, "4090", {}),
    "8b, all recomputed": ("8b", 1, 36, False, False, "4090", {}),
    "8b on an H200": ("8b", 4, 0, False, True, "H200", {}),
    "8b on an H200, fp8": ("8b", 4, 0, False, True, "H200", {"products": "fp8"}),
    "8b on 24 GiB, fp8": ("8b", 1, 3, True, False, "4090", {"products": "fp8"}),
    "8b, head of our own": ("8b", 2, 25, True, False, "4090", {"head": "chunked"}),
    "14b on 40 GiB": ("14b", 1, 9, True, False, "A100", {}),
    "14b on 48 GiB": ("14b", 1, 0, False, False, "A6000", {"double_quantisation": False}),
}
WHOLE = "0.6b on 40 GiB"  # traced with all its layers, too


def main() -> None:
    recipe = load_whole(Path("recipes/qwen3/phase1.yaml"), base="Qwen/Qwen3-8B-Base")
    for name, (size, rows, recomputed, cheap, dequantised, card_name, changes) in CASES.items():
        changes = dict(changes)
        how = Execution(
            micro_batch_rows=rows, recompute_layers=recomputed, recompute_cheap=cheap, dequantised=dequantised,
            compile=False, head=changes.pop("head", "liger"), device="cuda",
        )  # fmt: skip
        widths, card, changed = QWEN3[size][2], card_named(card_name), recipes.update(recipe, **changes)
        found = trace(changed, widths, ROW_TOKENS, how, card)
        need = memory(changed, widths, ROW_TOKENS, how, card)
        computed = work(changed, widths, ROW_TOKENS, how)._asdict()
        told = {"case": name, "layers": widths.layers, "recomputed": recomputed, "peak": found.peak}
        told |= {"predicted": sum(part for key, part in need.items() if key not in UNTRACED)}
        whole = trace_whole(changed, widths, ROW_TOKENS, how, card) if name == WHOLE else None
        told |= {
            "whole": whole and dataclasses.asdict(whole),
            "traced": dataclasses.asdict(found),
            "computed": computed,
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
