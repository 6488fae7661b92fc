"""`nsllm-lite tokenizer`: a tokenizer trained on a corpus's papers, and how it and others cut its held-out papers."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import save_picture, write_atomic
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.artifact.step import begin, finish, finished, manifest_sha256
from nsllm_lite.corpus import fertility
from nsllm_lite.corpus.tokenizer import sha256_tokenizer, train_for_encoder, train_tokenizer
from nsllm_lite.errors import UserError
from nsllm_lite.formats.papers import CorpusPapers
from nsllm_lite.formats.tokenizer import load_tokenizer
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.tokenizer import TokenizerRecipe
from nsllm_lite.terminal import as_markdown

COLUMNS = ["id", "source", "title", "abstract", "sections"]
OWN = "this one"
END_OF_TEXT = "<|endoftext|>"  # of a decoder


def learn_tokenizer(recipe: TokenizerRecipe) -> dict[str, Any]:
    """Writes the tokenizer and fertility.json, .md and .png to `recipe.out`; returns the manifest's results.

    Raises:
        UserError: there is no finished corpus, it holds no paper out, its papers give fewer tokens than asked for, or a
            tokenizer cannot be loaded.
    """
    started, out = time.time(), Path(recipe.out)
    papers = CorpusPapers(Path(recipe.corpus))
    others = {name: load_tokenizer(name) for name in recipe.compare}
    identity = recipes.identity(recipe)
    inputs = {"corpus": manifest_sha256(Path(recipe.corpus))}
    inputs |= {f"tokenizer:{name}": sha256_tokenizer(name) for name in recipe.compare}
    if (results := finished(out, identity, inputs)) is not None:
        return results
    if all(papers.split(paper.id) != "test" for paper in papers.read(["id", "source"])):
        todo = "Build it with a larger heldout.share."
        raise UserError("tokenizer-no-held-out", f"{recipe.corpus} holds no paper out to compare on.", todo)
    begin(out, identity, inputs)
    tokenizers = ({OWN: train(recipe, papers, out)} if recipe.train else {}) | others

    held_out = (paper for paper in papers.read(COLUMNS) if papers.split(paper.id) == "test")
    found = fertility.count(tokenizers, held_out)
    report = report_of(tokenizers, found, recipe.min_papers)
    text = text_of(report)
    write_json(out / "fertility.json", report)
    write_atomic(out / "fertility.md", text)
    draw(report, out / "fertility.png")
    print(text)
    results = {"vocab_size": report["vocabularies"], "papers": len(found.sources), "by_source": report["by_source"]}
    finish(out, "tokenizer", identity, inputs, results, started)
    return results


def train(recipe: TokenizerRecipe, papers: CorpusPapers, out: Path) -> Tokenizer:
    """Trains on the training papers alone. Raises UserError where they do not give as many tokens."""
    wanted, made = recipe.train.vocab_size, out / "tokenizer.part"
    shutil.rmtree(made, ignore_errors=True)
    texts = (fertility.text_of(paper) for paper in papers.read(COLUMNS) if papers.split(paper.id) == "train")
    if recipe.train.model == "encoder":
        train_for_encoder(texts, wanted, made)
    else:
        train_tokenizer(texts, wanted, END_OF_TEXT, made)
    tokenizer = load_tokenizer(made)
    if tokenizer.get_vocab_size() < wanted:
        found = f"The training papers of {recipe.corpus} give {tokenizer.get_vocab_size():,} tokens, not {wanted:,}."
        raise UserError("tokenizer-too-few-pairs", found, "Lower train.vocab_size, or take a larger corpus.")
    names = [path.name for path in made.iterdir()]
    for name in names:
        (made / name).replace(out / name)
    made.rmdir()
    integrity.record(out, names)
    return tokenizer


def report_of(tokenizers: Mapping[str, Tokenizer], found: fertility.Fertility, min_papers: int) -> dict[str, Any]:
    first = next(iter(tokenizers))
    return {
        "first": first,
        "vocabularies": {name: tokenizer.get_vocab_size() for name, tokenizer in tokenizers.items()},
        "by_source": fertility.by_source(found, first),
        "shared": {name: fertility.shared(tokenizers[first], tokenizers[name]) for name in list(tokenizers)[1:]},
        "min_papers": min_papers,
        "cut": {
            name: [cut._asdict() for cut in cuts]
            for name, cuts in fertility.cut_words(tokenizers, found.papers_with, min_papers).items()
        },
    }


def text_of(report: dict[str, Any]) -> str:
    """fertility.md."""
    first, names = report["first"], list(report["vocabularies"])
    heads = ("source", "papers", "tokenizer", "vocabulary", "tokens a paper", "tokens a word", "bytes a token")
    heads += (f"tokens over those of {first}",)
    lines = []
    for line in report["by_source"]:
        for name in names:
            of = line[name]
            told = "1" if name == first else f"{of['of_first']:.3f}"
            if name != first and line["papers"] > 1:
                told += " ({:.3f} to {:.3f})".format(*of["interval"])
            cells = (f"{of['tokens_a_paper']:,.1f}", f"{of['tokens_a_word']:.3f}", f"{of['bytes_a_token']:.2f}", told)
            size = f"{report['vocabularies'][name]:,}"
            lines.append((line["source"], f"{line['papers']:,}", name, size, *cells))
    parts = ["# Tokens of held-out papers", as_markdown(heads, lines, right=heads[3:7])]
    parts.append("In brackets: 95 % over the papers. Fewer tokens a word are a shorter text, not yet a better model.")
    for name, of in report["shared"].items():
        told = (
            f"{of['common']:,} pieces are common to {first} ({of['share_of_first']:.1%} of its vocabulary) and {name} "
        )
        parts.append(told + f"({of['share_of_second']:.1%}).")
    for name, cuts in report["cut"].items():
        if cuts:
            parts.append(f"## The longest words that {name} cuts and another keeps whole")
            rows = [(cut["word"], f"{cut['papers']:,}", " + ".join(map(_shown, cut["pieces"][name]))) for cut in cuts]
            parts.append(as_markdown(("word", f"papers (of at least {report['min_papers']})", "pieces"), rows))
    return "\n\n".join(parts) + "\n"


def _shown(piece: str) -> str:
    return piece.lstrip("Ġ▁").removeprefix("##") or "␣"


def draw(report: dict[str, Any], png: Path) -> None:
    """Tokens a word by source, a bar for each tokenizer."""
    from matplotlib.figure import Figure

    sources, names = [line["source"] for line in report["by_source"]], list(report["vocabularies"])
    figure = Figure(figsize=(2 + 1.2 * len(sources), 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(sources))]
        axes.bar(places, [line[name]["tokens_a_word"] for line in report["by_source"]], width, label=name)
    axes.set_xticks(range(len(sources)), sources, rotation=20 if len(sources) > 2 else 0)
    axes.set(ylabel="tokens a word", title="Held-out papers")
    axes.legend()
    save_picture(figure, png)
