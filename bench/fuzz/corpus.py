"""Targets of the corpus: every reader, the cleaning of every text, and whole builds against their ledger.

python -m bench.fuzz.run builds "read latex"    other names: --list
"""

import contextlib
import io
import itertools
import json
import re
import shutil
import zlib
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

import pyarrow.parquet as pq

from bench.fuzz.mutate import mutate
from bench.fuzz.target import Target, put, seeds_of
from nsllm_lite.corpus import build, ingest, sources
from nsllm_lite.corpus.decontaminate import Index
from nsllm_lite.corpus.files.opening import Unread
from nsllm_lite.corpus.texts import clean, language, quality
from nsllm_lite.corpus.texts.render import RENDER
from nsllm_lite.errors import UserError
from nsllm_lite.formats.documents import Document, Section, read_documents
from nsllm_lite.recipe.corpus import Corpus, Source
from tests.corpus.small import prose, values, write_lines

FILES_A_BUILD = 200
PACKED = ("packed", "parquet", "docx")
FIELDS = {"title": "title", "abstract": "body.summary", "text": "text", "id": "id", "doi": "doi", "language": "lang"}
FIELDS |= {"date": "when", "authors": "by", "venue": "where", "keywords": "words", "references": "cited"}


def read(path: Path, general: bool = False, form: str = "auto") -> list[Document | Unread]:
    """All records of a file, each as it must be."""
    fields = FIELDS if form == "fields" else None
    source = Source(name="s", path=str(path), format=form, fields=fields)
    found = [record for file in sources.files_of(source) for record in sources.read(source, file, general)]
    assert found, "a file without a line"
    for record in found:
        if isinstance(record, Unread):
            assert record.reason, record
            assert record.message, record
        else:
            assert isinstance(record, Document)
            assert record.id, record
        assert "#" in record.origin, record
    return found


def check_reader(form: str, content: bytes, folder: Path) -> None:
    """Detected, in papers or in general text; read as its own format; and as another."""
    path = folder / "x"
    path.write_bytes(content)
    chance = zlib.crc32(content)
    found = read(path, general=form == "text" or chance % 2 == 0)
    if form not in PACKED:
        found += read(path, form=form)
    found += read(path, form=list(sources.READERS)[chance % len(sources.READERS)])
    for record in found[:20]:
        if isinstance(record, Document):
            check_document(record, folder)


def check_document(document: Document, folder: Path) -> None:
    """Cleaning ends in text that can be written, and settles; all that looks at it gives a word.

    A title of two paragraphs, a word cut between them, is evidence for itself only the second time: it settles then.
    """
    cleaned = clean.clean_document(document)
    texts = [cleaned.id, cleaned.origin, cleaned.discipline, *ingest.texts_in(cleaned), *map(str, cleaned.moves)]
    "\n".join(texts).encode()
    again = clean.clean_document(cleaned)
    for field in ("abstract", "text", "discipline"):
        assert getattr(again, field) == getattr(cleaned, field), f"{field} is not settled"
    assert clean.clean_document(again).title == again.title, "title is not settled"
    assert isinstance(quality.reason_to_drop(cleaned), str)
    for render in RENDER.values():
        text, reason = render(cleaned, 60)
        assert bool(reason) or text.strip(), "no text, and no reason"
        assert re.fullmatch(r"(language:[a-z]{2,3})?", language.reason(language.sure_language(text), ("en",)))


def check_texts(content: bytes, folder: Path) -> None:
    """Any text as the parts of a paper, lone surrogates too, as \\ud800 in JSON gives them."""
    text = content.decode("utf-8", "surrogateescape")
    title, abstract, *rest = [*text.split("\n\n"), ""]
    pairs = itertools.zip_longest(rest[::2], rest[1::2], fillvalue="")
    sections = tuple(Section(heading, body, (heading,), "methods") for heading, body in pairs)
    check_document(Document(title or "t", "s", "f#1", title, abstract, sections, moves=((title, abstract),)), folder)
    check_document(Document("g", "s", "f#2", text=text), folder)


def check_evaluation_file(content: bytes, folder: Path) -> None:
    """An index of items, or UserError: none may be passed over unseen."""
    name, _, rest = content.partition(b"\n")
    path = folder / (f"x.{name.decode()}" if name in (b"json", b"jsonl", b"csv", b"txt") else "x")
    path.write_bytes(rest)
    try:
        index = Index.load([path])
    except UserError as error:
        assert str(path.name) in str(error), error  # noqa: PT017
    else:
        assert len(index), "no item, and no word"


# ---------------------------------------------------------------------------------------------------------- builds


def check_build(content: bytes, folder: Path) -> None:
    """A corpus of the bundled papers, and of files damaged by chance; the ledger must have a line for each record.

    `content` is the seed of that chance, so that a build can be made again.
    """
    random = Random(content)
    readers = [target for name, target in TARGETS.items() if name.startswith("read ")]
    files = {}
    for number in range(FILES_A_BUILD):
        seeds = list(seeds_of(random.choice(readers)).values())
        files[f"{number:05}.{random.choice(('json', 'txt', 'xml', 'gz', 'zip', 'dat'))}"] = mutate(random, seeds)
    account(files, folder)


def account(files: dict[str, bytes], folder: Path) -> None:
    """Builds a corpus of `files`, and compares its ledger with what the readers give file by file."""
    for name in ("papers", "out"):
        shutil.rmtree(folder / name, ignore_errors=True)
    put(folder / "papers", files)
    write_lines(folder / "general.jsonl", [{"text": prose(n)} for n in range(8)])
    fuzzed = {"name": "fuzzed", "path": str(folder / "papers")}
    own = [fuzzed, {"name": "own", "path": "bundled:papers"}]
    chosen = Corpus(**{**values(folder, "out", own), "max_drop_share": 1, "execution": {"workers": 1}})
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            build.build(chosen)
        except UserError as error:
            assert error.code == "source-unreadable", error  # noqa: PT017  # all of `fuzzed` is damaged
            return
    expected: Counter[str] = Counter()
    for file in sources.files_of(chosen.sources[0]):
        expected.update(clean.clean_name(record.origin) for record in sources.read(chosen.sources[0], file, False))
    lines = [line for line in pq.read_table(folder / "out/ledger.parquet").to_pylist() if line["source"] == "fuzzed"]
    found = Counter(line["origin"] for line in lines if line["phase"] in ("corpus", "phase1"))
    assert found == expected, f"lost or doubled: {list((expected - found) + (found - expected))[:5]}"
    summary = json.loads((folder / "out/ledger.json").read_text())
    phases = [table["fuzzed"] for table in summary["phases"].values() if "fuzzed" in table]
    for counts in (summary["documents"]["fuzzed"], *phases):
        for unit in (counts, counts["chars"]):
            out = sum(unit[name] for name in ("kept", "heldout", "duplicate", "unused")) + sum(unit["dropped"].values())
            assert unit["in"] == out, f"the ledger does not add up: {counts}"
    assert summary["documents"]["fuzzed"]["in"] == expected.total()
    list(itertools.chain.from_iterable(read_documents(path) for path in (folder / "out/documents").glob("*.parquet")))


# The pure-Python parsers are those that coverage guides well.
GUIDED = {"latex": 12_000, "bibtex": 12_000, "table": 8_000, "wos": 6_000, "ris": 6_000, "medline": 6_000}
GUIDED |= dict.fromkeys(("text", "jats", "tei", "s2orc", "unarxive", "conference"), 4_000)
FORMATS = (*sources.READERS, "fields", *PACKED)
MUTATED = dict.fromkeys(FORMATS, 3_000) | {"excel": 300}  # each of these starts a process


TARGETS: dict[str, Target] = {
    **{
        f"read {form}": Target(partial(check_reader, form), f"read/{form}", num, GUIDED.get(form, 0))
        for form, num in MUTATED.items()
    },
    "texts": Target(check_texts, "texts", 4_000, 4_000),
    "evaluation files": Target(check_evaluation_file, "evaluation_files", 3_000),
    "builds": Target(check_build, "builds", 10, inputs_each=FILES_A_BUILD),
}
