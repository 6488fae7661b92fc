"""Finished corpora of a few made-up papers, and a tiny encoder for them."""

import random
from collections.abc import Collection, Sequence
from itertools import permutations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.json_files import write_json, write_sealed
from nsllm_lite.corpus.tokenizer import train_for_encoder
from nsllm_lite.formats.documents import Document, parquet_writer, table_of
from nsllm_lite.formats.tokenizer import load_auto_tokenizer
from tests.corpus.small import NOUNS

VOCAB = 400
TRIPLES = random.Random(0).sample(list(permutations(NOUNS[:12], 3)), 100)


def write_corpus(folder: Path, papers: Sequence[Document], heldout: Collection[str] = ()) -> Path:
    """What `nsllm-lite corpus` leaves of these papers, without rows."""
    (folder / "documents").mkdir(parents=True)
    with parquet_writer(folder / "documents/00000-000.parquet") as writer:
        writer.write_table(table_of(papers))
    integrity.record(folder / "documents", ["00000-000.parquet"])
    outcomes = ["heldout" if paper.id in heldout else "kept" for paper in papers]
    ledger = {"id": [paper.id for paper in papers], "phase": ["phase1"] * len(papers), "outcome": outcomes}
    pq.write_table(pa.table(ledger), folder / "ledger.parquet")
    recipe = {"kind": "corpus", "sources": [{"name": "s", "path": "p"}], "languages": ["en"]}
    counts = {"in": len(papers), "kept": len(papers), "heldout": 0, "duplicate": 0, "unused": 0, "dropped": {}}
    manifest = {"verb": "corpus", "recipe": recipe, "inputs": {}, "results": {"documents": {"s": counts}}}
    write_sealed(folder / "manifest.json", manifest)
    write_json(folder / "times.json", {"started": "2026", "finished": "2026"})
    return folder


def paper(number: int, **changes) -> Document:
    """Its title has three words of a short list, and its abstract the same ones spelt backwards: no word is shared, and
    which go together can be learnt."""
    own = TRIPLES[number]
    told = [word[::-1] for word in own]
    values = {
        "id": f"arxiv:{number:04}",
        "source": "s",
        "origin": f"f#{number}",
        "title": f"On {' '.join(own)} in paper {number}",
        "abstract": f"We look at {told[0]} and {told[1]} here. The {told[2]} is then measured with care. It is.",
    }
    return Document(**(values | changes))


def make_encoder(folder: Path, dropout: float = 0.0, hidden: int = 32, seed: int = 0) -> Path:
    """A RoBERTa of two layers with its tokenizer, untrained."""
    texts = [f"{paper(n).title} {paper(n).abstract}" for n in range(40)]
    train_for_encoder(texts, VOCAB, folder)
    tokenizer = load_auto_tokenizer(folder)
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=66, pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(folder)
    return folder
