"""The rules for experimental sections, on headings made up for them; tests/real/test_headings_real.py has real ones."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.corpus.texts.headings import Mark, experimental, mark
from nsllm_lite.formats.documents import Section

NAMES = {
    Mark.METHODS: (
        "Methods", "METHODS:", "Materials & methods", "Material and Methods", "2. Materials and Methods",
        "STAR★Methods", "Online Methods", "Patients and methods", "Subjects, Materials and Methods",
        "II. EXPERIMENTAL SETUP", "IV EXPERIMENTS", "3) Experimental set-up", "A. Data collection",
        "(b) Experimental procedures", "4.2Experiments", "Section 3: Methodology", "Experimental",
        "Experimental Section", "Numerical experiments", "Observations", "Observations and data reduction",
        "Data", "Datasets and evaluation metrics", "Data analysis", "Ablation study", "Evaluation",
        "Implementation details", "Theory and experiment", "Experimental and theoretical methods",
        "Method and Results", "Models and methods", "Matériel et méthodes", "Material und Methoden",
        "Patienten und Methodik", "Experimenteller Teil", "Materiales y métodos", "METODOLOGÍA",
        "Materiais e métodos", "Pacientes y métodos", "Materiali e metodi", "材料与方法", "1 资料与方法",
        "一、实验部分", "实 验", "２．实验方法", "方法と材料", "研究對象",
    ),
    Mark.RESULTS: (
        "Results", "3. RESULTS.", "Results and Discussion", "Results/Discussion", "Results & discussions",
        "Main results", "Findings", "Discussion and results", "Ergebnisse", "Ergebnisse und Diskussion",
        "Résultats", "Resultados", "Resultados y discusión", "Resultados e discussão",
        "Risultati e discussione", "结果与讨论", "結果及討論", "结果和讨论",
    ),
    Mark.TELLING: (
        "Sample preparation", "Gel assays", "Detector layout", "Search strategy", "Proof of concept",
        "Case Report", "Animals and strains", "Appendix B: Simulation parameters", "Cell lines",
        "Questionnaire", "Literature search", "Imaging of the cores", "Computational details", "Interviews",
        "Description of the case",
    ),
    Mark.HINTING: (
        "Statistical treatment", "Model", "The algorithm", "Performance of the pump", "Error analysis",
        "Characterisation of the films",
    ),
    Mark.NEUTRAL: (
        "", "  ", "7.", "Our approach", "Why tin matters", "Hypermethods", "The frost line", "3D printing",
    ),
    Mark.FOREIGN: (
        "Previous experiments", "A theory of rust", "Theoretical results", "Appendix A", "The main theorem",
        "Discussion of the results", "Introduction to the method", "Summary of results",
    ),
    Mark.OTHER: (
        "Introduction", "I. INTRODUCTION", "1 Introduction", "Background", "Related literature", "Theory",
        "Discussion", "5.Conclusions", "Conclusion and outlook", "Concluding remarks",
        "Strengths and limitations", "Limitations", "Motivation", "Einleitung", "Diskussion",
        "Zusammenfassung und Ausblick", "Discusión", "Conclusões", "引言", "0 前言", "讨论", "结论",
        "结论与展望", "考察",
    ),
    Mark.NEVER: (
        "Acknowledgements", "Acknowledgment.", "Funding", "Competing interests",
        "Declaration of competing interest", "Conflict of Interest", "Supplementary materials",
        "Appendix A. Supplementary data", "Supporting Information", "Data availability",
        "Data and code availability", "Availability of data and materials", "Ethics statement",
        "Ethical approval", "Authors' contributions", "Author Contributions", "Abbreviations", "References",
        "Highlights", "Related work", "Proof of Theorem 2", "Derivation of the rate", "Danksagung",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("heading", "expected"), [(h, m) for m, headings in NAMES.items() for h in headings])
def test_one_heading(heading, expected):
    assert mark(heading) is expected


def chosen(*sections: Section) -> list[str]:
    return [s.heading for s, keep in zip(sections, experimental(sections), strict=True) if keep]


def tops(*headings: str) -> list[str]:
    return chosen(*(Section(h, "Text.") for h in headings))


def test_names_of_their_own_count_in_a_paper_with_methods_until_its_discussion():
    assert tops("Introduction", "Our filter", "Experiments", "Speed", "Discussion", "Leaks") == [
        "Our filter", "Experiments", "Speed",
    ]  # fmt: skip
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
    assert tops("Characterisation of sums", "The model", "Methods") == [
        "Characterisation of sums",
        "The model",
        "Methods",
    ]
    assert tops("Main results", "Proof of Theorem 1") == []
    assert tops("Main results", "Proof of Theorem 1", "Numerical experiments") == [
        "Main results",
        "Numerical experiments",
    ]


def test_subsections_follow_the_headings_above_them():
    assert chosen(
        Section("Methods", ""),
        Section("Background subtraction", "Text.", ("Methods",)),
        Section("Theory of the fit", "Text.", ("Methods",)),
        Section("Ethics", "Text.", ("Methods",)),
        Section("Results and Discussion", "Text."),
        Section("Limitations", "Text.", ("Results and Discussion",)),
        Section("Discussion", ""),
        Section("Methods compared", "Text.", ("Discussion",)),
        Section("Appendix", ""),
        Section("More experiments", "Text.", ("Appendix",)),
    ) == ["Methods", "Background subtraction", "Theory of the fit", "Results and Discussion", "More experiments"]


def test_the_label_of_the_source_counts_where_the_heading_does_not_say_otherwise():
    def one(heading: str, kind: str) -> bool:
        return experimental([Section(heading, "Text.", kind=kind)])[0]

    assert one("What we did", "materials|methods")
    assert one("", "cases")
    assert not one("Limitations", "methods")
    assert not one("What we did", "discussion")
    assert not one("Gels", "supplementary-material")
    assert one("Results/Discussion", "conclusions")


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
