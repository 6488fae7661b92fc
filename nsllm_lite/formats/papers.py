"""The papers of a finished corpus, as the steps behind it read them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.errors import UserError
from nsllm_lite.formats.documents import TEXTUAL, Document, read_documents


class CorpusPapers:
    """Each with its split: test where the corpus holds the paper out of training, else train. General text is left out,
    and so is a paper that the corpus dropped. Raises UserError where there is no finished corpus."""

    def __init__(self, folder: Path):
        manifest = read_manifest(folder)
        if manifest is None or manifest["verb"] != "corpus":
            found = f"No finished corpus at {folder}."
            needed = "Needed is what `nsllm-lite corpus` wrote."
            raise UserError("corpus-absent", found, needed, "Run it first, or name its folder with corpus=DIR.")
        integrity.verify(folder)
        integrity.verify(folder / "documents")
        self.documents = folder / "documents"
        self.sources = {source["name"] for source in manifest["recipe"]["sources"]}
        ledger = pq.read_table(folder / "ledger.parquet", columns=["id", "phase", "outcome"])
        held = ledger.filter(pc.and_(pc.equal(ledger["outcome"], "heldout"), pc.not_equal(ledger["phase"], "general")))
        self._held = set(held["id"].to_pylist())

    def split(self, name: str) -> str:
        return "test" if name in self._held else "train"

    def __iter__(self) -> Iterator[Document]:
        return self.read(TEXTUAL)

    def read(self, columns: Sequence[str]) -> Iterator[Document]:
        """With these fields alone, `source` among them."""
        for document in read_documents(self.documents, columns):
            if document.source in self.sources:
                yield document
