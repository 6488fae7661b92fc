"""The time of our training step against a bare PyTorch loop: the nano model in NF4 with LoRA, on the CPU.

    python bench/step.py

The bare loop is what one would write by hand: transformers' model with PEFT, its own attention over each whole row,
torch's cross-entropy over all logits, clip, AdamW. Ours is `nsllm-lite train` with its log. Both see the same rows.
Short runs take turns; the median of the pairs' ratios is printed. Needs the nano run's corpus and base (`make phase1`).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional

from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.commands.stories import load_run
from nsllm_lite.formats.rows import Rows
from nsllm_lite.models.loading import _keep_nf4_layout
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Train
from nsllm_lite.train import cpt

ROOT = Path(__file__).parents[1]


def bare(recipe: Train) -> float:
    """Seconds a step."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    base = AutoModelForCausalLM.from_pretrained(recipe.model, quantization_config=nf4, dtype=torch.float32)
    _keep_nf4_layout(base)
    settings = recipe.adapter
    lora = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=settings.targets, task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, lora).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.optimizer.learning_rate)
    rows = Rows(Path(recipe.rows))
    a_step = recipe.budget.tokens_per_step // rows.totals.row_tokens
    seconds = 0.0
    for step in range(recipe.budget.steps):
        ids = [torch.from_numpy(rows[(step * a_step + n) % len(rows)].input_ids).long() for n in range(a_step)]
        started = time.perf_counter()
        length = min(map(len, ids))
        batch = torch.stack([row[:length] for row in ids])
        logits = model(input_ids=batch, use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe.optimizer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds += time.perf_counter() - started
    return seconds / recipe.budget.steps


def ours(recipe: Train) -> float:
    results = cpt.train(recipe)
    speed = read_json(Path(recipe.out) / "times.json")["train_tokens_per_s"]
    return results["tokens"] / speed / recipe.budget.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs/nano")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25)
    args = parser.parse_args()
    phase1 = load_run(ROOT / "recipes/nano")["phase1"]
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(args.pairs):
            per_step = phase1.budget.tokens_per_step
            recipe = recipes.update(
                phase1,
                out=f"{folder}/{pair}",
                model=str(args.run / "base/model"),
                rows=str(args.run / "corpus/rows/phase1/train"),
                replay=None,
                budget={"steps": args.steps, "tokens_per_step": per_step, "tokens": args.steps * per_step},
                evaluation={
                    "domain_rows": str(args.run / "corpus/rows/phase1/heldout"),
                    "general_rows": str(args.run / "corpus/rows/general/heldout"),
                    "every_steps": args.steps, "max_rows": 1,
                },
                samples={"count": 0, "prompt_tokens": 4, "new_tokens": 4},
                checkpoint_steps=args.steps,
            )  # fmt: skip
            first, second = (ours, bare) if pair % 2 else (bare, ours)
            seconds = {function: function(recipe) for function in (first, second)}
            ratios.append(seconds[ours] / seconds[bare])
            print(f"pair {pair + 1}: ours {seconds[ours]:.3f} s, bare {seconds[bare]:.3f} s a step, {ratios[-1]:.2f} x")
    print(f"median: {statistics.median(ratios):.2f} x the bare loop")


if __name__ == "__main__":
    main()
