"""Training on masked tokens: our tokens/s and memory beside bare transformers loops, on the same rows.

    python bench/mlm.py rows=DIR evaluation.domain_rows=DIR build.tokenizer=DIR
    python bench/mlm.py build=null model=DIR new_head=true rows=DIR evaluation.domain_rows=DIR --steps 4 --rounds 3

    ours      `nsllm-lite mlm` with its log: documents do not see each other, logits are those of the masked tokens
    bare      what one would write by hand: AutoModelForMaskedLM on whole rows with transformers' own attention
              (documents see each other), masks drawn 80/10/10, its own loss over all logits, clip, torch's AdamW
    padded    the same, but each document a line of its own, padded to the longest and masked: isolated, as ours

Words are those of recipes/nano/mlm.yaml (--recipe for another). A step of each has the same rows, `bare` and `padded`
all of them at once; tokens that are padding do not count. The loops take turns, each in a process of its own; their
first step is not timed, ours is.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch
import turns

from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.formats.rows import Row, Rows
from nsllm_lite.models.encoder import build_encoder, load_encoder
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.mlm import Mlm
from nsllm_lite.train import mlm

ROOT = Path(__file__).parents[1]
LOOPS = ("ours", "bare", "padded")
IGNORE = -100


def ours(recipe: Mlm) -> float:
    """The run's own figure, of all its steps."""
    mlm.mlm(recipe)
    return read_json(Path(recipe.out) / "times.json")["train_tokens_per_s"]


def lines_of(rows: list[Row], pad_id: int, padded: bool) -> dict[str, torch.Tensor]:
    """Input ids and attention mask: a line is a row, or a document."""
    lines = [torch.from_numpy(row.input_ids).long() for row in rows]
    if padded:
        lines = [document for line, row in zip(lines, rows, strict=True) for document in line.split(row.doc_lengths)]
    ids = torch.nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=pad_id)
    seen = torch.nn.utils.rnn.pad_sequence([torch.ones_like(line) for line in lines], batch_first=True)
    return {"input_ids": ids, "attention_mask": seen}


def mask(batch: dict[str, torch.Tensor], share: float, ordinary: torch.Tensor, mask_id: int) -> dict[str, torch.Tensor]:
    """As transformers' DataCollatorForLanguageModeling does."""
    ids = batch["input_ids"]
    told = (torch.rand(ids.shape) < share) & ordinary[ids]
    kind = torch.rand(ids.shape)
    labels = torch.where(told, ids, IGNORE)
    ids = torch.where(told & (kind < 0.8), mask_id, ids)
    ids = torch.where(told & (kind >= 0.8) & (kind < 0.9), torch.randint_like(ids, len(ordinary)), ids)
    return batch | {"input_ids": ids, "labels": labels}


def bare(recipe: Mlm, padded: bool) -> float:
    inputs = mlm.read_inputs(recipe)
    model: Any = build_encoder(recipe.build, recipe.seed) if recipe.build else load_encoder(
        inputs.base_dir, recipe.seed if recipe.new_head else None
    )  # fmt: skip
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.optimizer.learning_rate, weight_decay=recipe.optimizer.weight_decay
    )
    rows, ordinary = Rows(Path(recipe.rows)), torch.from_numpy(inputs.masking.ordinary)
    a_step = recipe.budget.tokens_per_step // rows.totals.row_tokens
    seconds, tokens = 0.0, 0
    for step in range(recipe.budget.steps + 1):
        of_step = [rows[n % len(rows)] for n in range(step * a_step, (step + 1) * a_step)]
        started = time.perf_counter()
        batch = lines_of(of_step, model.config.pad_token_id, padded)
        batch = mask(batch, recipe.mask_share, ordinary, inputs.masking.mask_id)
        if not padded and bool(batch["attention_mask"].all()):
            batch.pop("attention_mask")
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.compute_dtype == "bfloat16"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        if step:
            seconds += time.perf_counter() - started
            tokens += sum(len(row.input_ids) for row in of_step)
    return tokens / seconds


def run_one(loop: str, recipe: Mlm) -> dict[str, float]:
    speed = ours(recipe) if loop == "ours" else bare(recipe, padded=loop == "padded")
    return {"tokens_per_s": speed, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def recipe_of(args: argparse.Namespace, out: str) -> Mlm:
    values = recipes.read(args.recipe, [*args.settings, f"out={out}"])
    per_step = int(values["budget"]["tokens_per_step"])
    values["budget"] = {"steps": args.steps, "tokens_per_step": per_step, "tokens": args.steps * per_step}
    values["evaluation"] |= {"every_steps": args.steps, "max_rows": 1}
    values |= {"schedule": {"shape": "constant", "warmup_steps": 0}, "checkpoint_steps": args.steps}
    values["execution"] = {"device": "cpu"}
    return recipes.validate(values, str(args.recipe))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/nano/mlm.yaml")
    turns.main(parser, __file__, LOOPS, 10, recipe_of, run_one)


if __name__ == "__main__":
    main()
