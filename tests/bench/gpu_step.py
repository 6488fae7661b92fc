"""Speed and memory of a real training step on this GPU, beside what `execution.py` predicts.

    python tests/bench/gpu_step.py                              Qwen3-8B shape, NF4, LoRA r 64, rows of 4,096
    python tests/bench/gpu_step.py --layers 36 --steps 8 --recipe recipes/qwen3-8b/phase1.yaml

The model has random weights (speed does not depend on them), built layer by layer in a temporary folder; rows hold
documents of 250 (abstracts), 1,024 and 4,096 tokens. Prints tokens/s (real tokens, no padding), the share of the card's
bf16 peak by the 4N convention, and peak memory predicted and measured, for the chosen execution and for full
recomputation.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from nsllm_lite import chain, execution, model
from nsllm_lite import recipe as recipes
from nsllm_lite.plan import PEAK_TFLOPS
from nsllm_lite.rows import Row, in_groups
from nsllm_lite.run import GIB
from nsllm_lite.train import cpt


def build_base(size: execution.ModelSize, layers: int, folder: Path) -> None:
    """Random bf16 weights in Qwen3's shape, on disk."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=size.vocab, hidden_size=size.hidden, intermediate_size=size.intermediate, num_hidden_layers=layers,
        num_attention_heads=size.query // 128, num_key_value_heads=size.key_value // 128, head_dim=128,
        tie_word_embeddings=size.tied,
    )  # fmt: skip
    with torch.device("cuda"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    base.save_pretrained(folder)
    del base
    torch.cuda.empty_cache()


def rows_of(length: int, row_tokens: int, count: int, vocab: int) -> list[Row]:
    rng, lengths = np.random.default_rng(0), [length] * (row_tokens // length)
    names = [str(i) for i in range(len(lengths))]
    return [
        Row(rng.integers(0, vocab, sum(lengths)).astype(np.int32), lengths, names, ["s"] * len(names), [4] * len(names))
        for _ in range(count)
    ]


def measure(recipe: recipes.Train, how: recipes.Execution, base: Path, rows: list[Row], steps: int) -> dict:
    torch.cuda.reset_peak_memory_stats()
    loaded = model.load_base(
        base, quantisation="nf4", double_quantisation=True, compute_dtype="bfloat16", device="cuda"
    )
    from nsllm_lite.kernels.liger import use_liger_kernels

    use_liger_kernels(loaded)
    if how.recompute_layers:
        model.recompute_layers(loaded, how.recompute_layers)
    lm = model.PackedLM(model.add_adapter(loaded, recipe.adapter, "bench", seed=0)).train()
    trained = [p for p in lm.parameters() if p.requires_grad]
    optimizer = cpt.make_optimizer(recipe.optimizer, trained)
    targets, seconds = sum(row.num_targets for row in rows), []
    for _ in range(steps):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for micro_rows in in_groups(rows, how.micro_batch_rows):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = lm(model.collate(micro_rows, "cuda")) / targets
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    tokens = sum(len(row.input_ids) for row in rows)
    return {
        "tokens_per_s": tokens / float(np.median(seconds[2:])),
        "peak_gib": torch.cuda.max_memory_reserved() / GIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/qwen3-8b/phase1.yaml")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    recipe = recipes.load(args.recipe)
    size = chain.QWEN3[Path(args.recipe).parent.name][2]
    size = execution.ModelSize(
        **{**{f: getattr(size, f) for f in size.__slots__}, "layers": args.layers or size.layers}
    )
    _, card_bytes, card = execution.find_device("cuda")
    peak = next((tflops for word, tflops in PEAK_TFLOPS.items() if word in card), None)
    chosen = execution.choose(recipe, size, 4096, "cuda", card_bytes)
    leanest = chosen.model_copy(update={"recompute_layers": size.layers})
    print(f"{card}, torch {torch.__version__}, {size.layers} layers, chosen {json.dumps(chosen.model_dump())}")
    with tempfile.TemporaryDirectory() as folder:
        build_base(size, size.layers, Path(folder))
        for how in (chosen, leanest):
            predicted = sum(execution.memory(recipe, size, 4096, how).values()) / GIB
            for length in (250, 1024, 4096):
                rows = rows_of(length, 4096, recipe.budget.tokens_per_step // 4096, size.vocab)
                found = measure(recipe, how, Path(folder), rows, args.steps)
                flops = 4 * (size.linear_params + size.vocab * size.hidden) * found["tokens_per_s"]
                mfu = f"{flops / (peak * 1e12):.1%}" if peak else "?"
                print(
                    f"documents of {length:>5}, {how.micro_batch_rows} rows, {how.recompute_layers:>2} recomputed: "
                    f"{found['tokens_per_s']:>8,.0f} tok/s, MFU(4N) {mfu}, memory {predicted:.1f} GiB predicted, "
                    f"{found['peak_gib']:.1f} measured"
                )


if __name__ == "__main__":
    main()
