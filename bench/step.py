"""Training on the CPU, LoRA in NF4 or on 16-bit weights: our tokens/s and memory beside other loops, on the same rows.

    python bench/step.py                                                        the nano model
    python bench/step.py --recipes recipes/smollm2 --run runs/smollm2 --steps 6 SmolLM2-135M
    python bench/step.py ... --quantisation none

    ours          `nsllm-lite train` with its log: documents do not see each other, layers are recomputed as planned
    bare          what one would write by hand: transformers' model with PEFT, its own attention over each whole row,
                  torch's cross-entropy over all logits, clip, AdamW; nothing is recomputed
    trl           TRL's SFTTrainer as it comes: each document an example of at most 1,024 tokens, eight a step, padded;
                  layers recomputed
    trl, packed   the same with packing="bfd_split" at the length of our rows, and nothing recomputed

Every run is a process of its own, so that its peak memory can be told, and the loops take turns. A step of each has the
same number of tokens (of `trl` about as many); tokens that are padding do not count. The first step is not timed. The
median of the rounds' ratios is printed. Needs the run's corpus and base (`make phase1`).
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import turns
from torch.nn import functional

from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.commands.stories import load_run
from nsllm_lite.formats.rows import Row, Rows
from nsllm_lite.models.loading import _keep_nf4_layout
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Train
from nsllm_lite.train import cpt

ROOT = Path(__file__).parents[1]
LOOPS = ("ours", "bare", "trl", "trl, packed")


def model_of(recipe: Train) -> tuple[Any, Any]:
    """(the base of the recipe as transformers loads it, PEFT's settings of its LoRA)"""
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, recipe.compute_dtype)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    quantised = {"quantization_config": nf4} if recipe.quantisation == "nf4" else {}
    base = AutoModelForCausalLM.from_pretrained(recipe.model, dtype=dtype, **quantised)
    if quantised:
        _keep_nf4_layout(base)
    lora = recipe.adapter
    return base, LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets, task_type="CAUSAL_LM"
    )  # fmt: skip


def rows_of(recipe: Train) -> list[Row]:
    """Those of all steps, with one more for the step that is not timed."""
    rows = Rows(Path(recipe.rows))
    a_step = recipe.budget.tokens_per_step // rows.totals.row_tokens
    return [rows[n % len(rows)] for n in range((recipe.budget.steps + 1) * a_step)]


def bare(recipe: Train) -> float:
    from peft import get_peft_model

    model = get_peft_model(*model_of(recipe)).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=recipe.optimizer.learning_rate)
    rows = rows_of(recipe)
    a_step = len(rows) // (recipe.budget.steps + 1)
    seconds, tokens = 0.0, 0
    for first in range(0, len(rows), a_step):
        ids = [torch.from_numpy(row.input_ids).long() for row in rows[first : first + a_step]]
        started = time.perf_counter()
        length = min(map(len, ids))
        batch = torch.stack([row[:length] for row in ids])
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.compute_dtype == "bfloat16"):
            logits = model(input_ids=batch, use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe.optimizer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        if first:
            seconds += time.perf_counter() - started
            tokens += batch.numel()
    return tokens / seconds


def trl(recipe: Train, packed: bool) -> float:
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = rows_of(recipe)
    documents = [
        ids.tolist()
        for row in rows
        for ids in torch.from_numpy(row.input_ids).long().split(row.doc_lengths)
    ]  # fmt: skip
    row_tokens = Rows(Path(recipe.rows)).totals.row_tokens
    own: dict[str, Any] = {}
    if packed:
        own = {"packing": True, "packing_strategy": "bfd_split", "max_length": row_tokens}
        own |= {
            "gradient_checkpointing": False,
            "per_device_train_batch_size": recipe.budget.tokens_per_step // row_tokens,
        }
    base, lora = model_of(recipe)
    steps: list[tuple[float, int]] = []  # (seconds, tokens)

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started, self.seen = time.perf_counter(), seen[0]

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.append((time.perf_counter() - self.started, seen[0] - self.seen))

    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder, use_cpu=True, bf16=recipe.compute_dtype == "bfloat16", report_to=[], save_strategy="no",
            learning_rate=recipe.optimizer.learning_rate, num_train_epochs=1, logging_steps=1, disable_tqdm=True, **own,
        )  # fmt: skip
        trainer = SFTTrainer(
            base, args=settings, train_dataset=Dataset.from_dict({"input_ids": documents}), peft_config=lora,
            processing_class=AutoTokenizer.from_pretrained(recipe.model), callbacks=[Clock()],
        )  # fmt: skip
        seen = [0]
        step = trainer.training_step

        def counted(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            seen[0] += (
                int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else inputs["input_ids"].numel()
            )
            return step(model, inputs, *rest)

        trainer.training_step = counted
        trainer.train()
    return sum(tokens for _, tokens in steps[1:]) / sum(seconds for seconds, _ in steps[1:])


def ours(recipe: Train) -> float:
    """The run's own figure, of all its steps."""
    cpt.train(recipe)
    return read_json(Path(recipe.out) / "times.json")["train_tokens_per_s"]


def run_one(loop: str, recipe: Train) -> dict[str, float]:
    functions = {"ours": ours, "bare": bare, "trl": lambda r: trl(r, False), "trl, packed": lambda r: trl(r, True)}
    speed = functions[loop](recipe)
    return {"tokens_per_s": speed, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def recipe_of(args: argparse.Namespace, out: str) -> Train:
    phase1 = load_run(args.recipes)["phase1"]
    base = args.run / "base/model"
    per_step = phase1.budget.tokens_per_step
    return recipes.update(
        phase1,
        out=out,
        model=str(base if base.is_dir() else phase1.model),
        quantisation=args.quantisation or phase1.quantisation,
        rows=str(args.run / "corpus/rows/phase1/train"),
        replay=None,
        schedule={"shape": "constant", "warmup_steps": 0},
        budget={"steps": args.steps, "tokens_per_step": per_step, "tokens": args.steps * per_step},
        evaluation={
            "domain_rows": str(args.run / "corpus/rows/phase1/heldout"),
            "general_rows": str(args.run / "corpus/rows/general/heldout"),
            "every_steps": args.steps, "max_rows": 1,
        },
        samples={"count": 0, "prompt_tokens": 4, "new_tokens": 4},
        checkpoint_steps=args.steps,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=Path, default=ROOT / "recipes/nano")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/nano")
    parser.add_argument("--quantisation", choices=["nf4", "none"], help="default: the recipe's")
    turns.main(parser, __file__, LOOPS, 25, recipe_of, run_one)


if __name__ == "__main__":
    main()
