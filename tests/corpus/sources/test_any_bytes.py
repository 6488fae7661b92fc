"""Whatever bytes a file holds: no reader raises, none takes long, and each file ends in at least one line.

The files that damage starts from, and the kinds of damage, are those of bench/fuzz; hypothesis draws them here.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.fuzz.corpus import PACKED, TARGETS, read
from bench.fuzz.mutate import mutate
from bench.fuzz.target import seeds_of
from nsllm_lite.formats.documents import Document

READERS = {name.removeprefix("read "): target for name, target in TARGETS.items() if name.startswith("read ")}
VALID = {
    form: {name: content for name, content in seeds_of(target).items() if not name.startswith("found")}
    for form, target in READERS.items()
}
PLAIN = settings(max_examples=40, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("form", [form for form in READERS if form not in (*PACKED, "fields")])
def test_each_example_is_read_by_its_own_reader(tmp_path, form):
    content = next(content for name, content in VALID[form].items() if name.startswith("valid"))
    found = read(tmp_path_with(tmp_path, content), general=form == "text")
    assert all(isinstance(record, Document) for record in found)
    assert [record.id for record in read(tmp_path / "x", form=form)] == [record.id for record in found]


def tmp_path_with(folder, content):
    (folder / "x").write_bytes(content)
    return folder / "x"


@pytest.mark.timed
@PLAIN
@given(content=st.binary(max_size=400), general=st.booleans())
def test_any_bytes(tmp_path, content, general):
    read(tmp_path_with(tmp_path, content), general)


@pytest.mark.timed
@pytest.mark.parametrize("form", READERS)
@settings(PLAIN, max_examples=25)
@given(random=st.randoms(use_true_random=False))
def test_a_valid_file_with_damage(tmp_path, form, random):
    READERS[form].check(mutate(random, list(VALID[form].values())), tmp_path)
