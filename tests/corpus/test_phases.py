import pyarrow as pa
import pyarrow.parquet as pq

from nsllm_lite.corpus.phases import COLUMNS, RENDER, texts_of
from nsllm_lite.formats.documents import Document, DocumentWriter, Section, read_documents

DOCUMENTS = [
    Document("a", "s", "f#1", "Títle", "Abstract ± 1", (Section("Methods", "We did."),)),
    Document("b", "s", "f#2", "Other", "More", (Section("Results", "It was."), Section("", "x"))),
    Document("c", "s", "f#3", text="General text"),
    Document("d", "s", "f#4", title="Titled", text="general"),
    Document("e", "s", "f#5", title="Titled", abstract="an abstract as general text"),
]


def test_a_batch_says_what_each_document_says(tmp_path):
    writer = DocumentWriter(tmp_path / "d.parquet")
    for document in DOCUMENTS:
        writer.add(document)
    writer.close()
    assert list(read_documents(tmp_path / "d.parquet")) == DOCUMENTS
    seen = 0
    for phase, render in RENDER.items():
        table = pq.read_table(tmp_path / "d.parquet", columns=COLUMNS[phase])
        fits = [not render(d, 1)[1] for d in DOCUMENTS]
        batch = table.combine_chunks().to_batches()[0].filter(pa.array(fits))
        assert texts_of(phase, batch, 1).to_pylist() == [render(d, 1)[0] for d in DOCUMENTS if not render(d, 1)[1]]
        seen += sum(fits)
    assert seen >= 8
