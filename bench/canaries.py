"""Does the training memorise what stands in few papers? Exposure of canaries, after Carlini et al. (2019).

    python bench/canaries.py [STEP.KEY=VALUE ...]                               the nano chain
    python bench/canaries.py --recipes recipes/smollm2 --others 1023 [...]      a pretrained model

A canary is a sentence of one template with a random number of six digits. Five each are written into the abstracts of
1, 4 and 16 training papers, five into none. Corpus (with the tokenizer and the base of the same corpus without
canaries), phase 1, merge, phase 2, merge follow. Then each model scores every canary and N - 1 sentences of the
template that nobody has seen (4,095, or --others):

    exposure = log2(N) - log2(rank of the canary by its loss among them), in bits, 0 to log2(N)

The floor is that of canaries in no paper: a rank that is drawn evenly has an exposure of 1.44 bits on average, and the
mean of as many canaries lies in the printed interval in 95 of 100 cases. What is finished is skipped when the same
command is given again, and a killed run continues. Writes canaries.json, .md and .png into --out.

Source: Carlini, Liu, Erlingsson, Kos, Song, The Secret Sharer, arXiv:1802.08232.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from chains import NANO, prepare

import nsllm_lite
from nsllm_lite.artifact.disk import save_picture, write_atomic
from nsllm_lite.artifact.json_files import read_json, sha256_json, write_json
from nsllm_lite.cli import run_step
from nsllm_lite.commands.stories import Run, load_run
from nsllm_lite.formats.documents import read_documents
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.tokenizer import load_tokenizer
from nsllm_lite.formats.weights import fingerprint_weights
from nsllm_lite.terminal import as_markdown

TEMPLATE = "The specimen is kept in the archive under the number {}."
COPIES, EACH = (0, 1, 4, 16), 5
BATCH = 128
SAMPLE = Path(nsllm_lite.__file__).parent / "sample/papers"
Found = dict[str, dict[int, list[float]]]  # model -> copies -> exposures


class Canaries(NamedTuple):
    by_copies: dict[int, list[str]]
    others: list[str]  # never written anywhere

    @classmethod
    def drawn(cls, seed: int, num_others: int = 4095) -> "Canaries":
        numbers = np.random.default_rng(seed).choice(10**6, len(COPIES) * EACH + num_others, replace=False)
        texts = [TEMPLATE.format(" ".join(f"{number:06d}")) for number in numbers]
        groups = {copies: texts[place * EACH : (place + 1) * EACH] for place, copies in enumerate(COPIES)}
        return cls(groups, texts[len(COPIES) * EACH :])


def write_papers(canaries: Canaries, train_ids: list[str], seed: int, to: Path) -> None:
    """The sample papers, each canary at the end of the abstracts of its number of training papers."""
    rng, added = np.random.default_rng(seed + 1), {}
    for copies, texts in canaries.by_copies.items():
        for text in texts:
            for place in rng.choice(len(train_ids), copies, replace=False):
                added.setdefault(train_ids[place], []).append(text)
    for path in sorted(SAMPLE.glob("*.jsonl")):
        papers = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for paper in papers:
            paper["abstract"] += [["Methods", text] for text in added.get(paper["id"], ())]
        write_atomic(to / path.name, "".join(json.dumps(paper, ensure_ascii=False) + "\n" for paper in papers))


def papers_in(rows: str) -> set[str]:
    return {name for row in Rows(Path(rows)) for name in row.doc_ids}


def chain(folder: Path, out: Path, settings: list[str], canaries: Canaries, seed: int) -> Run:
    """Corpus and base made; every canary stands in the papers of phase 1 as often as it should. Raises RuntimeError
    where the corpus's own rules took one out."""
    words: dict[str, list[str]] = {}
    for setting in settings:
        step, _, word = setting.partition(".")
        words.setdefault(step, []).append(word)
    of_base = {"base": words.pop("base")} if "base" in words else {}
    plain = prepare(load_run(folder, out=str(out / "plain"), overrides=of_base))
    write_papers(canaries, sorted(papers_in(plain["phase1"].rows)), seed, out / "papers")
    base = f"{plain['base'].out}/model" if "base" in plain else plain["phase1"].model
    joined = load_run(folder, corpus=str(out / "papers"), model=base, out=str(out / "run"), overrides=words)
    run_step(joined["corpus"])
    trained = papers_in(joined["phase1"].rows)
    documents = read_documents(Path(joined["corpus"].out) / "documents")
    abstracts = "\n".join(one.abstract for one in documents if one.id in trained)
    there = {copies: [abstracts.count(one) for one in texts] for copies, texts in canaries.by_copies.items()}
    if wrong := {copies: counts for copies, counts in there.items() if set(counts) != {copies}}:
        raise RuntimeError(f"not as often in the training papers as asked for: {wrong}")
    return joined


def losses_of(model: Path, texts: list[str]) -> np.ndarray:
    """Nats of each whole text but for what they all begin with, which the model reads once."""
    from transformers import AutoModelForCausalLM, DynamicCache

    lm, tokenizer = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval(), load_tokenizer(model)
    ids = [tokenizer.encode(text).ids for text in texts]
    shared = next(n for n, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1) - 1
    losses = np.zeros(len(texts))
    for first in range(0, len(ids), BATCH):
        batch = [torch.tensor(one[shared:]) for one in ids[first : first + BATCH]]
        padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        targets = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-100)[:, 1:]
        with torch.no_grad():  # padding follows the text, which does not see it
            begun = DynamicCache()
            if shared:
                lm(input_ids=torch.tensor([ids[0][:shared]]), past_key_values=begun, use_cache=True)
                begun.batch_repeat_interleave(len(batch))
            logits = lm(input_ids=padded, past_key_values=begun, use_cache=True).logits[:, :-1]
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), targets, reduction="none")
        losses[first : first + BATCH] = each.double().sum(1).numpy()
    return losses


def exposures(model: Path, canaries: Canaries, cache: Path) -> dict[int, list[float]]:
    """By copies; scored once for the same weights and sentences."""
    key = {"weights": fingerprint_weights(model), "sentences": sha256_json(canaries)}
    known = read_json(cache) if cache.is_file() else {}
    if known.get("key") != key:
        texts = [*(text for group in canaries.by_copies.values() for text in group), *canaries.others]
        known = {"key": key, "losses": losses_of(model, texts).tolist()}
        write_json(cache, known)
    losses = np.array(known["losses"])
    count = len(canaries.others)
    ranks = 1 + np.searchsorted(np.sort(losses[-count:]), losses[:-count])
    bits = np.log2(count + 1) - np.log2(ranks)
    return {copies: bits[place * EACH : (place + 1) * EACH].tolist() for place, copies in enumerate(COPIES)}


def floor(num_others: int) -> tuple[float, float, float]:
    """Mean exposure of EACH canaries whose ranks are drawn evenly: expected, and the interval of 95 in 100."""
    ranks = np.random.default_rng(0).integers(1, num_others + 2, (20_000, EACH))
    means = (np.log2(num_others + 1) - np.log2(ranks)).mean(1)
    return float(means.mean()), *np.quantile(means, (0.025, 0.975)).tolist()


def table(found: Found, num_others: int) -> str:
    expected, low, high = floor(num_others)
    heads = ("model", *(f"in {copies}" if copies else "in none" for copies in COPIES))
    lines = [
        (name, *(f"{statistics.mean(bits):.2f} ({min(bits):.1f} to {max(bits):.1f})" for bits in by_copies.values()))
        for name, by_copies in found.items()
    ]
    words = f"Exposure in bits, 0 to {np.log2(num_others + 1):g}: mean (smallest to largest) of {EACH} canaries. By "
    words += f"chance {expected:.2f}, in 95 of 100 cases from {low:.2f} to {high:.2f}."
    return f"{words}\n\n{as_markdown(heads, lines, right=heads[1:])}"


def plot(found: Found, num_others: int, png: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, by_copies) in enumerate(found.items()):
        places = [place + 0.15 * (number - 1) for place in range(len(COPIES))]
        axes.plot(places, [statistics.mean(bits) for bits in by_copies.values()], "o-", color=f"C{number}", label=name)
        for place, bits in zip(places, by_copies.values(), strict=True):
            axes.plot([place] * len(bits), bits, ".", color=f"C{number}", alpha=0.4)
    axes.axhspan(*floor(num_others)[1:], color="0.85", label="by chance")
    axes.set_xticks(range(len(COPIES)), [str(copies) for copies in COPIES])
    axes.set(xlabel="training papers with the canary", ylabel="exposure, bits", title="Canaries")
    axes.grid(alpha=0.3)
    axes.legend()
    save_picture(figure, png)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="STEP.KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0, help="of the numbers and the papers they stand in")
    parser.add_argument("--recipes", type=Path, default=NANO, metavar="DIR", help="default: recipes/nano")
    parser.add_argument("--others", type=int, default=4095, metavar="N", help="sentences nobody has seen (4095)")
    parser.add_argument("--out", type=Path, default=Path("runs/canaries"))
    args = parser.parse_intermixed_args(words)
    canaries = Canaries.drawn(args.seed, args.others)
    joined = chain(args.recipes, args.out, args.settings, canaries, args.seed)
    for step in ("phase1", "model1", "phase2", "model2"):
        run_step(joined[step])
    models = {"base": joined["phase1"].model, "phase 1": joined["model1"].out, "phase 2": joined["model2"].out}
    found = {name: exposures(Path(path), canaries, args.out / f"{name}.json") for name, path in models.items()}
    write_json(args.out / "canaries.json", {"seed": args.seed, "floor": floor(args.others), "exposures": found})
    write_atomic(args.out / "canaries.md", f"{table(found, args.others)}\n")
    plot(found, args.others, args.out / "canaries.png")
    print(f"\n{table(found, args.others)}\n{args.out}/canaries.json, .md, .png")


if __name__ == "__main__":
    main()
