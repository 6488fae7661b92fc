"""What products in float8 cost: phase 1 with and without them, and the gradients that they give.

    python bench/fp8.py                                            the nano chain
    python bench/fp8.py --stories DATA                             a real Llama of 0.26 M parameters, real papers
    python bench/fp8.py --recipes recipes/smollm2 --real DATA      a pretrained model, real files

Phase 1 is trained as the recipe says and with products=fp8, over several seeds. Held-out losses are those of the base
in NF4 with the adapter, without float8, as the merged model is used later. At the start and at the end of the plain
training the gradient of the first step's rows is taken once more in fp32, in bf16 and with float8: told is the cosine
with that in fp32 of all A and B of a layer. On a CPU float8 is emulated. Words such as phase1.budget.steps=50 change
single recipe values. Writes fp8.json, .md and .png into --out; the figures of a finished run stand in --units.
"""

import argparse
import re
import statistics
from collections import defaultdict
from functools import partial
from pathlib import Path

import torch
from ablations import as_it_stands, judge, mean_and_range, seeded
from chains import add_options, parsed, prepare
from peft import set_peft_model_state_dict
from rounding import recipes_of
from safetensors.torch import load_file
from torch import Tensor
from units import Figures, Units, inputs_of

from nsllm_lite.artifact.disk import save_picture, write_atomic
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.cli import run_step
from nsllm_lite.formats.rows import in_groups
from nsllm_lite.models.causal import PackedLM, collate
from nsllm_lite.models.device import Card
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Train
from nsllm_lite.train import cpt, setup
from nsllm_lite.train.inputs import read_inputs

PLAIN, FP8 = "as it stands", "products=fp8"
ARMS = {PLAIN: None, FP8: "fp8"}
EXACT = {"products": None, "compute_dtype": "float32", "execution": {"device": "cpu"}}
WAYS = {"bf16": (EXACT, "bfloat16"), "fp8": ({**EXACT, "products": "fp8"}, "float32")}
SETS = {"abstracts": "domain", "general": "general"}
MOMENTS = ("start", "end")

Found = dict[str, dict[str, list[float]]]  # arm -> measure -> one value a seed
Cosines = dict[str, dict[str, list[float]]]  # "fp8, start" -> layer -> one value a seed


def gradients(recipe: Train, adapter: Path | None, dtype: str = "float32") -> dict[str, Tensor]:
    """{layer: the gradient of its A and B} of the first step's rows, with an adapter that begins or with `adapter`.

    Products are taken in `dtype`. The recipe's compute_dtype stays fp32: of weights that are rounded to bf16 first, NF4
    makes others.
    """
    inputs = read_inputs(recipe)
    how = cpt.choose_execution(recipe, inputs, Card(), 1)
    lm = PackedLM(setup.make_model(recipe, inputs, how), how.head).train()
    for module in lm.modules():
        if hasattr(module, "quant_state"):
            module.compute_dtype = getattr(torch, dtype)
    if adapter:
        set_peft_model_state_dict(lm.model, load_file(adapter / "adapter_model.safetensors"))
    rows = cpt.step_order(recipe, inputs).rows(0)
    batches = (collate(few, how.device) for few in in_groups(rows, how.micro_batch_rows))
    scaler = torch.amp.GradScaler(how.device, enabled=False)
    cpt.add_gradients(lm, scaler, rows, batches, how, dtype)
    found = defaultdict(list)
    for name, parameter in lm.named_parameters():
        if parameter.requires_grad and (layer := re.search(r"\.layers\.(\d+)\.", name)):
            found[layer[1]].append(parameter.grad.flatten())
    return {layer: torch.cat(parts).double() for layer, parts in found.items()}


def cosines(phase1: Train) -> Figures:
    """{"fp8, start": {layer: cosine}, ...}, the end being that of the finished `phase1`."""
    found = {}
    for moment, adapter in zip(MOMENTS, (None, Path(phase1.out) / "adapter"), strict=True):
        exact = gradients(recipes.update(phase1, **EXACT), adapter)
        for way, (changes, dtype) in WAYS.items():
            other = gradients(recipes.update(phase1, **changes), adapter, dtype)
            found[f"{way}, {moment}"] = {
                layer: float(torch.nn.functional.cosine_similarity(of, other[layer], dim=0))
                for layer, of in exact.items()
            }
    return found


def figures_of(phase1: Train) -> Figures:
    """Trains it; its held-out losses before and after, and where it is plain the cosines."""
    heldout = run_step(phase1)["heldout"]
    losses = {when: {name: heldout[when][of]["all"]["loss"] for name, of in SETS.items()} for when in heldout}
    return losses | (cosines(phase1) if phase1.products is None else {})


def run(args: argparse.Namespace) -> tuple[Found, Cosines]:
    found: Found = {arm: defaultdict(list) for arm in ARMS}
    of_layers: Cosines = defaultdict(lambda: defaultdict(list))
    units = Units(args.units or args.out / "units.jsonl")
    with recipes_of(args) as (folder, model, before):
        for seed in range(args.seeds):
            chain = seeded(folder, args.out, [*before, *args.settings], seed, model=model)
            prepare(chain)
            held = {**chain["phase1"].execution.model_dump(), "dequantised": True}  # which changes no bit, only time
            for arm, products in ARMS.items():
                to = as_it_stands(args.out, seed) if arm == PLAIN else f"{args.out}/fp8/seed-{seed}"
                phase1 = recipes.update(chain["phase1"], out=to, products=products, execution=held)
                inputs = inputs_of("adapter and cosines of gradients", [phase1], phase1.model, chain["corpus"].out)
                figures = units.of(f"fp8, {arm}, seed {seed}", inputs, partial(figures_of, phase1))
                for when in ("before", "after"):
                    for name, loss in figures.pop(when).items():
                        found[arm][f"{name}, {when}"].append(loss)
                for way, by_layer in figures.items():
                    for layer, cosine in by_layer.items():
                        of_layers[way][layer].append(cosine)
    return found, of_layers


def loss_table(found: Found) -> str:
    """Losses of each arm, and their differences, paired by seed."""
    measures = list(found[PLAIN])
    lines = [f"| held-out loss | {' | '.join(measures)} |", f"|---|{'---:|' * len(measures)}"]
    for arm, by_measure in found.items():
        lines.append(f"| {arm} | {' | '.join(mean_and_range(values) for values in by_measure.values())} |")
    cells = []
    for name in measures:
        differences = [a - b for a, b in zip(found[FP8][name], found[PLAIN][name], strict=True)]
        verdict = f": {judge(differences)}" if name.endswith("after") else ""
        cells.append(f"{mean_and_range(differences, '+', 5)}{verdict}")
    return "\n".join([*lines, f"| difference, same seed | {' | '.join(cells)} |"])


def cosine_table(of_layers: Cosines) -> str:
    """Over layers and seeds."""
    lines = ["| gradient, cosine with fp32's | smallest | mean |", "|---|---:|---:|"]
    for way, by_layer in of_layers.items():
        values = [cosine for of_seeds in by_layer.values() for cosine in of_seeds]
        lines.append(f"| {way} | {min(values):.5f} | {statistics.mean(values):.5f} |")
    return "\n".join(lines)


def plot(found: Found, of_layers: Cosines, png: Path) -> None:
    """Left: the differences in loss, a dot a seed; right: 1 - cosine by layer, a mean over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, name in enumerate(SETS):
        pairs = zip(found[FP8][f"{name}, after"], found[PLAIN][f"{name}, after"], strict=True)
        differences = [a - b for a, b in pairs]
        left.plot([place] * len(differences), differences, "o")
    left.axhline(0, color="0.7")
    left.set_xticks(range(len(SETS)), SETS)
    left.set(title="held-out loss: products=fp8 minus as it stands", ylabel="nats per token", xlim=(-0.5, 1.5))
    for way, by_layer in of_layers.items():
        layers = sorted(by_layer, key=int)
        right.semilogy([int(n) for n in layers], [1 - statistics.mean(by_layer[n]) for n in layers], ".-", label=way)
    right.set(title="gradient of a layer against fp32", xlabel="layer", ylabel="1 - cosine")
    right.legend()
    save_picture(figure, png)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, stories=True)
    parser.add_argument("--units", type=Path, metavar="FILE", help="finished runs' figures (default: OUT/units.jsonl)")
    args = parsed(parser, words, "runs/fp8")
    found, of_layers = run(args)
    seeds = f"{args.seeds} seed{'s' * (args.seeds > 1)}"
    rule = "Beyond the spread: the mean difference is larger than largest - smallest of the differences."
    text = f"## Products in float8\n\nLosses in nats a token: mean (smallest to largest) over {seeds}; cosines over "
    text += f"layers and seeds.\n\n{loss_table(found)}\n\n{rule}\n\n{cosine_table(of_layers)}\n"
    write_json(args.out / "fp8.json", {"seeds": args.seeds, "losses": found, "cosines": of_layers})
    write_atomic(args.out / "fp8.md", text)
    plot(found, of_layers, args.out / "fp8.png")
    print(f"\n{text}\n{args.out / 'fp8'}.json, .md, .png")


if __name__ == "__main__":
    main()
