"""Evaluation on this machine's CPU: nsllm-lite's engine against lm-evaluation-harness, in one run.

    python bench/eval.py [--model DIR] [--items 40]            labels, few-shot
    python bench/eval.py --model DIR --chat [--items 16]       answers through the chat template

The same model and prompts go through both. Few-shot: bundled discipline classification, five examples, against
multiple_choice. Chat: moves of sentences, at most 64 tokens an answer, both in batches of 8, against generate_until.
Printed: forward tokens (padding included) or answers, seconds, items/s, the largest difference between log-likelihoods,
and how many answers are the same. Without --model a small model with random weights is made.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from nsllm_lite.evals.evaluate import as_told
from nsllm_lite.models.engines import open_engine
from nsllm_lite.models.generate import encode
from nsllm_lite.recipe.evals import EvalExecution
from nsllm_lite.tasks.sets import bundled
from nsllm_lite.tasks.task import all_tasks
from tests.evals.conftest import make_talker

CHAT_TOKENS, CHAT_BATCH = 64, 8
SHAPE = {
    "hidden_size": 256, "intermediate_size": 768, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--chat", action="store_true", help="needs a model with a chat template")
    args = parser.parse_args()
    if args.chat:
        compare_chat(args.model, args.items)
        return
    with tempfile.TemporaryDirectory() as scratch:
        compare(args.model or make_talker(Path(scratch), vocab_size=4000, **SHAPE), args.items)


def compare(model: Path, num_items: int) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    task = all_tasks()["classification"]
    sets = bundled(task.name)
    items = sets["test"][:: max(1, len(sets["test"]) // num_items)][:num_items]
    labels = [f" {label}" for label in task.labels_of(sets["test"])]
    shots = task.choose_shots(sets["train"], 0)
    prompts = [task.few_shot_prompt(item, shots) for item in items]

    engine = open_engine(str(model), device="cpu", how=EvalExecution())
    started = time.perf_counter()
    ours = dict(engine.rank(prompts, [labels] * len(prompts)))
    our_seconds = time.perf_counter() - started

    harness = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=4)
    tokens, call = [], harness._model_call

    def counted(ids: object, *rest: object, **more: object) -> object:
        tokens.append(ids.numel())
        return call(ids, *rest, **more)

    harness._model_call = counted
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=(prompt, label), idx=place)
        for prompt in prompts
        for place, label in enumerate(labels)
    ]
    started = time.perf_counter()
    found = harness.loglikelihood(asked, disable_tqdm=True)
    their_seconds = time.perf_counter() - started
    theirs = np.array([value for value, _ in found]).reshape(len(prompts), len(labels))

    matrix = np.array([ours[number] for number in range(len(prompts))])
    same = bool((matrix.argmax(1) == theirs.argmax(1)).all())
    print(f"{len(prompts)} items, {len(labels)} labels, {len(shots)} examples, {model}")
    print(f"  lm-evaluation-harness {sum(tokens):>10,} forward tokens {their_seconds:8.1f} s")
    print(f"  nsllm-lite            {engine.forward_tokens:>10,} forward tokens {our_seconds:8.1f} s")
    print(f"  {len(prompts) / their_seconds:.2f} and {len(prompts) / our_seconds:.2f} items/s")
    print(
        f"  {sum(tokens) / engine.forward_tokens:.1f} times fewer tokens, {their_seconds / our_seconds:.1f} x the speed"
    )
    print(f"  largest difference of a log-likelihood {np.abs(matrix - theirs).max():.1e}; same answers: {same}")
    if not same or engine.forward_tokens * 3 > sum(tokens):
        sys.exit(1)


def compare_chat(model: Path, num_items: int) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    task = all_tasks()["moves"]
    items = bundled(task.name)["test"]
    items = items[:: max(1, len(items) // num_items)][:num_items]
    labels = task.labels_of(items)
    engine = open_engine(str(model), device="cpu", how=EvalExecution())
    prompts = [as_told(engine.tokenizer, task, item, labels) for item in items]
    longest = max(len(encode(engine.tokenizer, prompt, rendered=True)) for prompt in prompts)
    engine.batch_tokens = CHAT_BATCH * (longest + CHAT_TOKENS + 8)
    started = time.perf_counter()
    ours = dict(engine.generate(prompts, CHAT_TOKENS, [], rendered=True))
    our_seconds = time.perf_counter() - started

    harness = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=CHAT_BATCH)
    settings = {"until": [], "max_gen_toks": CHAT_TOKENS, "do_sample": False}
    asked = [
        Instance(request_type="generate_until", doc={}, arguments=(prompt, settings), idx=place)
        for place, prompt in enumerate(prompts)
    ]
    started = time.perf_counter()
    theirs = harness.generate_until(asked, disable_tqdm=True)
    their_seconds = time.perf_counter() - started
    same = sum(ours[number].strip() == text.strip() for number, text in enumerate(theirs))
    print(f"{len(prompts)} answers of at most {CHAT_TOKENS} tokens through the chat template, {model}")
    print(f"  lm-evaluation-harness {their_seconds:8.1f} s {len(prompts) / their_seconds:8.2f} items/s")
    print(f"  nsllm-lite            {our_seconds:8.1f} s {len(prompts) / our_seconds:8.2f} items/s")
    print(f"  {their_seconds / our_seconds:.1f} x the speed; same answers: {same} of {len(prompts)}")


if __name__ == "__main__":
    main()
