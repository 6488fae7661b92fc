"""The folder that an embedding model's training leaves, and the counts of its pairs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import replace_folder, write_atomic
from nsllm_lite.errors import RunError
from nsllm_lite.models.loading import without_report
from nsllm_lite.recipe.embed import Embed
from nsllm_lite.train.embed_card import card_of
from nsllm_lite.train.embed_plan import AllPairs

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MOST_APART = 1e-4  # of a cosine's two embeddings, once the model is opened again


def counts_of(pairs: AllPairs) -> dict[str, Any]:
    """{kind, or file of a stage: {"train", "papers", "heldout", "left_out"}}."""
    corpus = pairs.corpus
    counts = {
        kind: {
            "train": len(corpus.train[kind]),
            "papers": len(np.unique(corpus.train[kind].papers)),
            "heldout": len(corpus.heldout[kind]),
            "left_out": dict(sorted(corpus.left_out[kind].items())),
        }
        for kind in corpus.train
    }
    for number, found in pairs.files.items():
        counts[f"file of stage {number + 1}"] = {"train": len(found.pairs), "left_out": dict(found.left_out)}
    return counts


def save_model(
    recipe: Embed, model: "SentenceTransformer", hashes: dict[str, str | None], results: dict[str, Any],
    out: Path, texts: list[str],
) -> None:  # fmt: skip
    """The folder that sentence-transformers opens, in `out/model`; whole or absent. Raises RunError where it gives
    other embeddings when it is opened again."""
    from sentence_transformers import SentenceTransformer

    part = out / "model.part"
    if stored := getattr(model.tokenizer, "backend_tokenizer", None):  # which keeps those of the last call
        stored.no_truncation()
        stored.no_padding()
    model.save_pretrained(str(part), create_model_card=False)
    write_atomic(part / "README.md", card_of(recipe, hashes, results))
    with without_report():
        again = SentenceTransformer(str(part), device="cpu", local_files_only=True)
    one, other = (each.encode(texts, convert_to_numpy=True, show_progress_bar=False) for each in (model.eval(), again))
    if texts and float(np.abs(one - other).max()) > MOST_APART:
        found = f"{part} gives other embeddings than the model that was trained."
        raise RunError("embed-saved-differs", found, "Its tokenizer is not stored as it was used; report this.")
    names = [str(path.relative_to(part)) for path in sorted(part.rglob("*")) if path.is_file()]
    integrity.record(part, [name for name in names if name.endswith((".safetensors", "config.json", "modules.json"))
                            or name in integrity.BESIDE_WEIGHTS])  # fmt: skip
    replace_folder(part, out / "model")
