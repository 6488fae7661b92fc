"""The model card of an embedding model: what it is made of, what was measured, and what it is not for."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from nsllm_lite.artifact.lineage import Step, finished_step
from nsllm_lite.recipe.embed import Embed
from nsllm_lite.terminal import as_cell, as_markdown
from nsllm_lite.train.embed_report import dimension_table, score_table, words_of

UNSTATED = "not stated"  # as a corpus has it


def card_of(recipe: Embed, hashes: dict[str, str | None], results: dict[str, Any]) -> str:
    """README.md. The licence is for the user to state: that of the base and of the sources decide it."""
    corpus = finished_step(Path(recipe.corpus))
    tags = ["nsllm-lite", "sentence-transformers", "sentence-similarity", "feature-extraction", "science"]
    languages = sorted(corpus.recipe.languages or []) if corpus else []
    front = ModelCardData(
        library_name="sentence-transformers", pipeline_tag="sentence-similarity", tags=tags, language=languages or None
    )
    name = Path(recipe.out).name
    made_of = {"start": (recipe.model, "base", "weights"), "corpus": (recipe.corpus, "corpus", "manifest")}
    if recipe.teacher:
        made_of["teacher"] = (recipe.teacher.model, "teacher", "weights")
    lines = [(name, f"`{path}` ({what} {(hashes[key] or '')[:12]})") for name, (path, key, what) in made_of.items()]
    lines += [
        ("embedding", f"{results['dimensions']} numbers of at most {recipe.max_tokens} tokens, no prompts"),
        ("loss", loss_words(recipe)),
        ("steps", f"{results['steps']:,}, learning rate {recipe.optimizer.learning_rate:g}, seed {recipe.seed}"),
    ]
    lines += [(f"stage {number}", stage_words(stage)) for number, stage in enumerate(recipe.stages, 1)]
    parts = [
        f"---\n{front.to_yaml().strip()}\n---",
        f"# {name}",
        f"A bi-encoder of {results['parameters']:,} parameters for scientific text, trained by nsllm-lite.",
        as_markdown(("", ""), [(one, as_cell(other)) for one, other in lines]),
        f"```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        f"model = SentenceTransformer({json.dumps(f'{recipe.out}/model')})\n"
        'embeddings = model.encode(["a text"])\n```',
        "## Data",
        pair_table(results),
        *(source_table(corpus) if corpus else ()),
        "## Queries of held-out papers",
        score_table(results),
        *(["mrr@10 by dimensions:", dimension_table(results)] if dimension_table(results) else []),
        *words_of(results),
        "## Limits",
        "- The scores are those of queries of held-out papers, among papers of the same sources; other collections\n"
        "  are not measured.\n"
        "- Two texts are near each other where papers like these put them side by side. That neither states the\n"
        "  other's findings, nor that one of them is true.\n"
        "- Longer texts are cut, and what is behind the cut has no part in the embedding.",
    ]
    return "\n\n".join(parts) + "\n"


def loss_words(recipe: Embed) -> str:
    if recipe.teacher:
        words = f"divergence from the teacher's similarities, temperature {recipe.temperature:g} x "
        words += f"{recipe.teacher.softening:g}"
    else:
        words = f"contrastive, temperature {recipe.temperature:g}, {' + '.join(recipe.directions)}"
    return words + (
        f", also of the first {', '.join(map(str, recipe.dimensions))} numbers" if recipe.dimensions else ""
    )


def stage_words(stage: Any) -> str:
    what = ", ".join(stage.pairs or ()) or f"file `{stage.file}`"
    words = f"{stage.steps:,} steps of {stage.batch_pairs:,} pairs: {what}"
    if hard := stage.hard_negatives:
        words += f"; of each query {hard.count} hard negatives of BM25's ranks {hard.first_rank} to {hard.last_rank}"
    return words


def pair_table(results: dict[str, Any]) -> str:
    rows = [
        (kind, f"{of['train']:,}", f"{of.get('papers', of['train']):,}", f"{of.get('heldout', 0):,}")
        for kind, of in results["pairs"].items()
        if of["train"] or of.get("heldout")
    ]
    heads = ("pairs", "to train on", "of papers", "held out")
    return as_markdown(heads, rows, right=heads[1:])


def source_table(corpus: Step) -> list[str]:
    """The sources of the corpus with their licences, and a word on those that state none."""
    licences = corpus.results.get("licences") or {}
    counts = corpus.results.get("documents") or {}
    names = [source.name for source in corpus.recipe.sources or () if source.name in counts]
    rows = [(name, licences.get(name, UNSTATED), f"{counts[name].get('kept', 0):,}") for name in names]
    parts = [as_markdown(("source", "licence", "papers kept"), rows, right=("papers kept",))] if rows else []
    if unstated := [name for name, licence, _ in rows if licence == UNSTATED]:
        told = f"The licence of {', '.join(map(as_cell, unstated))} was not stated"
        parts.append(f"{told}: find out before this model is passed on.")
    return parts
