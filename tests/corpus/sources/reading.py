"""What the tests of the readers share: the examples in tests/data/sources, and how they are read and damaged."""

import io
import json
from pathlib import Path

from hypothesis import strategies as st

from nsllm_lite.corpus import sources
from nsllm_lite.corpus.files.opening import read_each
from nsllm_lite.formats.documents import Document
from nsllm_lite.recipe.corpus import Source

DATA = Path(__file__).parents[2] / "data/sources"


def example(name):
    return (DATA / name).read_text()


def read(reader, content, languages=()):
    """The records of a text, or of a value written as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    return read_stream(reader, io.StringIO(text, newline=None), languages)


def read_stream(reader, stream, languages=()):
    return list(read_each(reader.records(stream), "s", "f", reader.document, languages))


def read_path(path, form="auto", general=False, **changes):
    source = Source(name="s", path=str(path), format=form, **changes)
    return [record for file in sources.files_of(source) for record in sources.read(source, file, general)]


def titles(records):
    """The title of each document, the reason of each record that was not read."""
    return [record.title if isinstance(record, Document) else record.reason for record in records]


def outline_of(document):
    return [(section.parents, section.heading, section.text) for section in document.sections]


def damaged(data, content, words):
    """The text with up to 40 characters replaced by words, as hypothesis draws them."""
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    return content[:start] + "".join(data.draw(st.lists(words, max_size=8))) + content[end:]
