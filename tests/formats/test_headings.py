"""The rules for experimental sections, on headings made up for them; tests/real/test_headings_real.py has real ones."""

import time
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.formats.documents import Section
from nsllm_lite.formats.headings import Mark, experimental, mark
from tests.corpus.small import DATA

NAMES = tomllib.loads((DATA / "headings.toml").read_text())


@pytest.mark.parametrize(("name", "heading"), [(name, heading) for name in NAMES for heading in NAMES[name]])
def test_one_heading(name, heading):
    assert mark(heading) is Mark[name]


def chosen(*sections: Section) -> list[str]:
    return [s.heading for s, keep in zip(sections, experimental(sections), strict=True) if keep]


def tops(*headings: str) -> list[str]:
    return chosen(*(Section(h, "Text.") for h in headings))


def test_names_of_their_own_count_in_a_paper_with_methods_until_its_discussion():
    own = ("Our filter", "Experiments", "Speed")
    assert tops("Introduction", *own, "Discussion", "Leaks") == list(own)
    assert tops("Introduction", "Our filter", "Results", "Conclusion") == ["Results"]
    assert tops("Introduction", "Frost", "Conclusion", "Methods", "Ice") == ["Frost", "Methods", "Ice"]
    dust = ("Dust samples", "Its colour", "Ice samples", "Imaging")
    assert tops(*dust) == list(dust)
    assert tops("Introduction", "Our filter", "Dust samples") == ["Dust samples"]


def test_a_report_without_introduction_tells_what_was_done_before_its_results():
    assert chosen(Section("Tin bath", "t"), Section("Results", "t")) == ["Tin bath", "Results"]
    assert chosen(Section("Introduction", "t"), Section("Tin bath", "t"), Section("Results", "t")) == ["Results"]


def test_words_that_a_proof_may_hold_too_need_another_experimental_section():
    assert tops("Characterisation of sums", "The model") == []
    report = ("Characterisation of sums", "The model", "Methods")
    assert tops(*report) == list(report)
    assert tops("Main results", "Proof of Theorem 1") == []
    assert tops("Main results", "Proof of Theorem 1", "Experiments") == ["Main results", "Experiments"]


def test_subsections_follow_the_headings_above_them():
    assert chosen(
        Section("Methods", ""),
        Section("Background subtraction", "Text.", ("Methods",)),
        Section("Theory of the fit", "Text.", ("Methods",)),
        Section("Ethics", "Text.", ("Methods",)),
        Section("Recommendation", "Text.", ("Methods",)),
        Section("Definitions", "Text.", ("Methods",)),
        Section("Main text", "Text."),
        Section("Recommendations", "Text."),
        Section("Results and Discussion", "Text."),
        Section("Limitations", "Text.", ("Results and Discussion",)),
        Section("Discussion", ""),
        Section("Methods compared", "Text.", ("Discussion",)),
        Section("Appendix", ""),
        Section("More experiments", "Text.", ("Appendix",)),
    ) == [
        "Methods", "Background subtraction", "Theory of the fit", "Recommendation", "Definitions",
        "Results and Discussion", "More experiments",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("heading", "kind", "expected"),
    [
        ("What we did", "materials|methods", True),
        ("What we did", "", False),
        ("", "cases", True),
        ("Limitations", "methods", False),
        ("What we did", "discussion", False),
        ("Gels", "supplementary-material", False),
        ("Results/Discussion", "conclusions", True),
    ],
)
def test_the_label_of_the_source_counts_where_the_heading_does_not_say_otherwise(heading, kind, expected):
    assert experimental([Section(heading, "Text.", kind=kind)]) == [expected]


@given(st.lists(st.text(max_size=40), max_size=8), st.text(max_size=10))
def test_any_headings_are_read(headings, kind):
    sections = [Section(h, "Text.", tuple(headings[:n]), kind) for n, h in enumerate(headings)]
    assert len(experimental(sections)) == len(sections)


@pytest.mark.parametrize("piece", ["a ", "(", "1.", "proof of ", "{{", "data and ", "结", "\u0301", " ", "I"])
@pytest.mark.timed
def test_a_hostile_heading_takes_no_time(piece):
    start = time.process_time()
    mark(piece * (1_000_000 // len(piece)))
    assert time.process_time() - start < 5
