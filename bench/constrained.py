"""What a grammar costs while decoding: items/s with and without it, by turns, on one model.

    python bench/constrained.py [--model DIR] [--items 32] [--rounds 3] [--new-tokens 96] [--out FILE.json]

Few-shot prompts of doped oxides, two examples each, go through the engine free (an answer ends at its line end, as in
`nsllm-lite eval`) and held to the schema of base materials, dopants and their links, after each other in every round.
Answers differ in length, so tokens and milliseconds a token of an answer are printed beside items/s, with the ratio of
each round, how many answers are JSON of the schema, and the time for masks alone: all of `Answers.masked`, from the
grammar to the masked logits. Without --model a small model with random weights is made.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import jsonschema

sys.path.insert(0, str(Path(__file__).parents[1]))

from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.models.engines import open_engine
from nsllm_lite.models.generate import Engine, encode
from nsllm_lite.models.grammar import Answers
from nsllm_lite.recipe.evals import EvalExecution
from tests.evals.conftest import make_talker
from tests.models.schemas import DOPING, written

BASES, DOPANTS = ("ZnO", "TiO2", "SrTiO3", "GaN", "CdS", "LiFePO4", "BaTiO3", "In2O3"), ("Mg", "Al", "Nb", "Mn", "Cu")
SHAPE = {
    "hidden_size": 256, "intermediate_size": 768, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64,
}  # fmt: skip


def sentence(number: int) -> tuple[str, str]:
    """(text, answer)"""
    base, dopant = BASES[number % len(BASES)], DOPANTS[number % len(DOPANTS)]
    text = f"Films of {dopant}-doped {base} were grown at {300 + 10 * number} °C and annealed in air."
    answer = {"basemats": {"b0": base}, "dopants": {"d0": dopant}, "dopants2basemats": {"d0": ["b0"]}}
    return text, written(answer)


def prompts(count: int) -> list[str]:
    shots = "".join(f"Text: {text}\nJSON: {answer}\n\n" for text, answer in map(sentence, (98, 99)))
    return [f"Extract base materials and dopants.\n\n{shots}Text: {sentence(n)[0]}\nJSON:" for n in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = args.model or make_talker(Path(scratch), vocab_size=4000, **SHAPE)
        engine = open_engine(str(model), device=args.device, how=EvalExecution())
    found = measure(engine, args.items, args.rounds, args.new_tokens)
    show(found | {"model": str(args.model or "random weights"), "device": args.device}, args.out)


def measure(engine: Engine, items: int, rounds: int, new_tokens: int) -> dict:
    """Of each way, by round: seconds, and the answers of the last."""
    asked, mask_seconds, masks = prompts(items), [0.0], [0]
    ways = {"free": None, "constrained": [DOPING] * items}
    list(engine.generate(asked[:2], 4, [], schemas=[DOPING] * 2))  # compiled, and warm
    masked = Answers.masked

    def timed(self: Answers, logits: object, numbers: list[int]) -> object:
        started = time.perf_counter()
        result = masked(self, logits, numbers)
        mask_seconds[0] += time.perf_counter() - started
        masks[0] += len(numbers)
        return result

    Answers.masked = timed
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    answers = {}
    for _ in range(rounds):
        for way, schemas in ways.items():
            started = time.perf_counter()
            answers[way] = dict(engine.generate(asked, new_tokens, ["\n"], schemas=schemas))
            seconds[way].append(time.perf_counter() - started)
    Answers.masked = masked
    tokens = {way: sum(len(encode(engine.tokenizer, text)) for text in said.values()) for way, said in answers.items()}
    fits = {way: sum(fit(text) for text in said.values()) for way, said in answers.items()}
    return {
        "items": items, "rounds": rounds, "new_tokens": new_tokens, "seconds": seconds, "tokens": tokens, "fits": fits,
        "mask_ms_per_token": 1e3 * mask_seconds[0] / max(1, masks[0]),
        "first": {way: said[0] for way, said in answers.items()},
    }  # fmt: skip


def fit(text: str) -> bool:
    try:
        jsonschema.validate(json.loads(text), DOPING)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def show(found: dict, out: Path | None) -> None:
    items, seconds = found["items"], found["seconds"]
    print(f"{items} items, {found['rounds']} rounds by turns, at most {found['new_tokens']} tokens, {found['model']}")
    for way, each in seconds.items():
        tokens = found["tokens"][way]
        print(
            f"  {way:12} {items / median(each):8.2f} items/s {tokens / items:6.1f} tokens an answer "
            f"{1e3 * median(each) / max(1, tokens):7.2f} ms a token; JSON of the schema: {found['fits'][way]}"
        )
    ratios = [free / held for free, held in zip(seconds["free"], seconds["constrained"], strict=True)]
    found["ratios"] = ratios
    print(f"  items/s with a grammar / without: {median(ratios):.2f} (n = {len(ratios)}, {min(ratios):.2f} to", end=" ")
    print(f"{max(ratios):.2f}); masks: {found['mask_ms_per_token']:.3f} ms a token")
    if out:
        write_json(out, found)


if __name__ == "__main__":
    main()
