"""What is found in small PDFs that code prints: the order of lines, headings, and what is left out of the text."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_lite.corpus.files.pdf import paper
from nsllm_lite.corpus.files.pdf.characters import PdfError
from tests.corpus.small import prose
from tests.corpus.sources.printing import COLUMNS, WIDE, Piece, Sheets, printed, stream

PICTURE = b"q 100 0 0 100 0 0 cm BI /W 1 /H 1 /BPC 8 /CS /G ID x EI Q"  # a page of it
ABSTRACT = "We grew whiskers of tin on plated copper, and saw them for six weeks under a microscope, day by day."


def begun(columns=COLUMNS, label="Abstract", title="Growth of whiskers on tin", doi="10.1234/tin.1"):
    """The front of a paper, above its columns."""
    sheets = Sheets(columns)
    sheets.wide(title, 16, "head").wide("Ann Ito1, Bo Chen2 and Carla Diaz1", 11, "bold").space(4)
    sheets.wide(f"University of Tin, Tinville. doi:{doi}. Published online: 3 March 2019", 8).space(12)
    for line in [label] if label else []:
        sheets.wide(line, 11, "head")
    for line in (ABSTRACT[:50], ABSTRACT[50:]):
        sheets.wide(line.strip())
    return sheets.space(20).wide("")


def found_in(sheets, **how):
    return paper.read(sheets.pdf(**how))


def texts(found):
    return {heading: text for heading, text, _ in found["sections"]}


def filled(sheets, sections=("1. Introduction", "2. Methods", "3. Results"), words=110):
    for number, heading in enumerate(sections):
        sheets.heading(heading).prose(prose(number, words))
    return sheets


def test_two_columns_of_a_paper():
    sheets = filled(begun()).heading("References")
    for number in range(1, 5):
        sheets.prose(f"{number}. Ito A. Tin {number}. J Tin. 2001;3:1.")
    found = found_in(sheets)
    assert (found["title"], found["abstract"]) == ("Growth of whiskers on tin", ABSTRACT)
    assert texts(found) == {h: prose(n, 110) for n, h in enumerate(("1. Introduction", "2. Methods", "3. Results"))}
    assert found["authors"] == ["Ann Ito", "Bo Chen", "Carla Diaz"]
    assert (found["dois"], found["dates"][0]) == (["10.1234/tin.1."], "3 March 2019")
    assert found["references"] == [f"Ito A. Tin {n}. J Tin. 2001;3:1." for n in range(1, 5)]


def test_lines_that_are_drawn_across_the_columns_are_read_down_them():
    sheets = filled(begun(), words=150)
    sheets.pages = [sorted(page, key=lambda piece: (-piece.y, piece.x)) for page in sheets.pages]
    assert texts(found_in(sheets))["2. Methods"] == prose(1, 150)


def test_a_short_last_column_takes_the_gutter_of_the_other_pages():
    sheets = filled(begun(), words=330)
    sheets.next_column().heading("4. Discussion").prose(prose(7, 30))
    sheets.next_column().heading("References").prose("1. Ito A. Tin. J Tin.")
    assert texts(found_in(sheets))["4. Discussion"] == prose(7, 30)


@pytest.mark.parametrize(
    ("headings", "parents"),
    [
        (("1 Introduction", "2 Methods", "2.1 Samples", "2.1.1 Plates", "3 Results"), [(), (), 1, 2, ()]),
        (("I. INTRODUCTION", "II. METHODS", "A. Samples", "B. Plates", "III. RESULTS"), [(), (), 1, 1, ()]),
    ],
)
def test_levels_follow_the_numbers(headings, parents):
    sheets = begun()
    for number, heading in enumerate(headings):
        sheets.heading(heading).prose(prose(number, 70))
    sections = found_in(sheets)["sections"]
    assert [heading for heading, _, _ in sections] == list(headings)
    assert [len(path) for _, _, path in sections] == [len(p) if isinstance(p, tuple) else p for p in parents]


def test_headings_in_capitals_of_the_text_s_font():
    sheets = begun()
    for number, heading in enumerate(("I. INTRODUCTION", "II. PLATING OF TIN", "III. RESULTS")):
        sheets.heading(heading, "body", 9).prose(prose(number, 70))
    assert list(texts(found_in(sheets))) == ["I. INTRODUCTION", "II. PLATING OF TIN", "III. RESULTS"]


def test_levels_follow_the_styles_of_headings_without_numbers():
    sheets = begun()
    for top, below in (("Methods", ("Seals", "Their plasma")), ("Results", ("Plasma of seals",))):
        sheets.heading(top, size=12)
        for number, heading in enumerate(below):
            sheets.heading(heading, font="bold", size=9.5).prose(prose(number, 80))
    paths = [(*path, heading) for heading, _, path in found_in(sheets)["sections"]]
    assert paths[1:3] == [("Methods", "Seals"), ("Methods", "Their plasma")]
    assert paths[-1] == ("Results", "Plasma of seals")


def test_items_of_a_list_are_no_sections_of_a_paper_without_numbers():
    sheets = begun().heading("Background").prose(prose(1, 60))
    sheets.line(("1. First aim. ", "italic"), "We take seals and", indent=12).prose(prose(2, 30).lower())
    sheets.line(("2. Second aim. ", "italic"), "We take tin and", indent=12).prose(prose(3, 30).lower())
    sheets.heading("Methods")
    for number, heading in enumerate(("Seals", "Tin"), start=4):
        sheets.heading(heading, "bold", 9.5).prose(prose(number, 60))
    sheets.heading("Discussion").prose(prose(6, 60))
    paths = [(*path, heading) for heading, _, path in found_in(sheets)["sections"]]
    assert paths == [("Background",), ("Methods",), ("Methods", "Seals"), ("Methods", "Tin"), ("Discussion",)]


def test_a_heading_may_run_into_its_paragraph():
    sheets = filled(begun(), ("1. Introduction", "2. Methods"))
    sheets.line(("2.1. Subjects. ", "italic"), "We took seals that", indent=12).prose(prose(5, 40).lower())
    sheets.line(("2.2. Plasma. ", "italic"), "It was cold and", indent=12).prose(prose(6, 40).lower())
    sheets.line(("Phoca vitulina ", "italic"), "is a seal of", indent=12).prose(prose(7, 40).lower())
    found = texts(found_in(sheets))
    assert found["2.1. Subjects"] == f"We took seals that {prose(5, 40).lower()}"
    assert "Phoca vitulina is a seal of" in found["2.2. Plasma"]


def test_what_is_set_beside_the_text_is_left_out():
    sheets = filled(begun(), words=260)
    for number, page in enumerate(sheets.pages):
        page += [Piece(50, 780, f"Journal of Tin 2019, {number}:70"), Piece(540, 780, str(number + 1))]
        page.append(Piece(50, 40, f"Page {number + 1} of {len(sheets.pages)}"))
    assert texts(found_in(sheets))["2. Methods"] == prose(1, 260)


def test_captions_tables_notes_and_formulas_are_left_out():
    sheets = begun().heading("1. Methods").prose(prose(1, 60))
    sheets.space(10).prose("Figure 1. " + prose(8, 30), size=7.5).space(10).prose(prose(2, 50))
    sheets.space(10).prose("Table 1: " + prose(9, 12)).space(3)
    for row in range(5):
        sheets.pages[-1] += [Piece(sheets.left + x, sheets.y, f"{row}.{x}") for x in (0, 80, 160)]
        sheets.space(11)
    sheets.space(12).prose("Figure 1 shows seals and " + prose(3, 50))
    sheets.space(6).line("x = (a + b)/c * 2 - 4 (1)", indent=40).space(6).prose(prose(4, 50))
    sheets.space(6).prose("1 Now at the zoo of Tinville, with seals.", size=6.5)
    text = texts(found_in(sheets))["1. Methods"]
    assert text.split("\n\n") == [
        prose(1, 60), prose(2, 50), "Figure 1 shows seals and " + prose(3, 50), prose(4, 50)
    ]  # fmt: skip


def test_back_matter_is_left_out_and_methods_behind_the_references_are_not():
    sheets = filled(begun(label="Summary"), ("Introduction", "Results"))
    sheets.heading("Acknowledgements").prose(prose(11, 30)).heading("References")
    sheets.prose("1. Ito A. Tin. J Tin.").prose("2. Ito B. Tin. J Tin.").prose("3. Ito C. Tin. J Tin.")
    sheets.heading("Methods").prose(prose(12, 60)).heading("Author contributions").prose(prose(13, 30))
    found = found_in(sheets)
    assert list(texts(found)) == ["Introduction", "Results", "Methods"]
    assert found["abstract"] == ABSTRACT


def test_citations_and_scripts():
    sheets = begun().heading("1. Methods").prose(prose(1, 60))
    sheets.line("as was shown", ("3,4", "body", 6, 4), ". It is 10", ("-5", "body", 6, 4), " m", ("2", "body", 6, 4))
    sheets.line("of CO", ("2", "body", 6, -2), ", and of tin [1,2] as in [3].")
    sheets.heading("References").prose("1. Ito A. Tin. J.").prose("2. Ito B. Tin. J.").prose("3. Ito C. Tin. J.")
    assert texts(found_in(sheets))["1. Methods"].endswith("as was shown. It is 10⁻⁵ m² of CO₂, and of tin as in [3].")


def test_brackets_that_are_no_citations_stay():
    sheets = begun().heading("1. Methods").prose(prose(1, 60))
    sheets.line("It lies in [1, 250] K, as is").line("said of tin [3] and lead [1,").line("2]; of benzo[1,2]furan in")
    sheets.line("[2], and [0, 3] too.").heading("References")
    sheets.prose("1. Ito A. Tin at rest. Tin J, page").prose("250 and page 251, 2009.")
    sheets.prose("2. Ito B. Tin at rest. J. 2009.").prose("3. Ito C. Tin at rest. J. 2009.")
    text = texts(found_in(sheets))["1. Methods"]
    kept = "It lies in [1, 250] K, as is said of tin and lead; of benzo[1,2]furan in [2], and [0, 3] too."
    assert text.endswith(kept)


def test_words_that_a_line_broke():
    sheets = begun().heading("1. Methods").prose(f"{prose(1, 40)} The experiment was well-known.")
    sheets.line("We made an experi-").line("ment that is well-").line("known to us.")
    text = texts(found_in(sheets))["1. Methods"]
    assert text.endswith("We made an experiment that is well-known to us.")


def test_an_abstract_without_a_label_and_with_keywords_behind_it():
    sheets = begun(WIDE, label="").space(10)
    sheets.prose(f"Received 3 May 2018; accepted 4 June 2018. {prose(3, 40)}")
    sheets.space(10).prose(f"Seals that received tin {prose(1, 60)}").space(12)
    sheets.wide("Keywords: tin, whiskers; seals").space(20)
    found = found_in(filled(sheets))
    assert found["abstract"] == f"Seals that received tin {prose(1, 60)}"
    assert found["keywords"] == "tin, whiskers; seals"


def test_numbers_of_lines_and_second_prints_are_left_out():
    sheets = filled(begun(((80, 550),), label="Abstract"), words=200)
    for page in sheets.pages:
        lines = sorted((piece for piece in page if piece.x == 80), key=lambda piece: -piece.y)
        page += [piece._replace(x=piece.x + 4, y=piece.y - 3) for piece in lines[:20]]
        page += [Piece(52, piece.y, f"{n:3}") for n, piece in enumerate(lines, start=101)]
    assert texts(found_in(sheets))["2. Methods"] == prose(1, 200)


def test_ligatures_of_fonts_without_a_map():
    """As TeX's bitmaps have them: characters drawn by procedures, whose codes are all that is known of them."""
    names = b" ".join(b"/c%d" % code for code in range(128))
    shapes = b" ".join(b"/c%d 40 0 R" % code for code in range(128))
    bitmap = (
        b"<< /Type /Font /Subtype /Type3 /FontMatrix [.001 0 0 .001 0 0] /FontBBox [0 0 600 600]"
        b" /FirstChar 0 /LastChar 127 /CharProcs << %s >> /Encoding << /Differences [0 %s] >> /Widths [%s] >>"
        % (shapes, names, b"600 " * 128)
    )
    sheets = begun().heading("1. Methods").prose(prose(1, 60))
    sheets.line(("We see that the di\x0berent de\x0cned e\x1bects", "bitmap"))
    sheets.line(("of the \x0daw and the \x1dame \x10a\x11 1\x152 are small.", "bitmap"))
    found = found_in(sheets, fonts={"bitmap": bitmap}, more={40: stream(b"600 0 0 0 600 600 d1 0 0 500 500 re f")})
    assert "the different defined effects of the flaw and the flame “a” 1–2 are small." in texts(found)["1. Methods"]


def test_letters_of_mathematical_fonts_are_plain_ones():
    to_unicode = b"beginbfchar <70> <D835DC5D> endbfchar"
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding /ToUnicode 40 0 R >>"
    sheets = begun().heading("1. Methods").prose(prose(1, 60)).line("We took it that ", ("p", "maths"), " < 0.05.")
    found = found_in(sheets, fonts={"maths": font}, more={40: stream(to_unicode)})
    assert texts(found)["1. Methods"].endswith("We took it that p < 0.05.")


def test_most_of_a_paper_in_a_font_without_a_map_is_not_read():
    codes = b"\n".join(b"<%02X> <%04X>" % (code, 0xE100 + code) for code in range(33, 126))
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding /ToUnicode 40 0 R >>"
    sheets = begun().heading("1. Methods")
    sheets.prose(prose(1, 300), font="strange")
    with pytest.raises(PdfError) as error:
        found_in(sheets, fonts={"strange": font}, more={40: stream(b"93 beginbfchar\n%s\nendbfchar" % codes)})
    assert error.value.reason == "no_unicode"


def test_chinese_lines_are_joined_without_a_blank():
    ranges = b"1 beginbfrange <0000> <FFFF> <0000> endbfrange"
    font = (
        b"<< /Type /Font /Subtype /Type0 /BaseFont /SimSun /Encoding /Identity-H /ToUnicode 40 0 R /DescendantFonts ["
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /SimSun /DW 1000 /CIDSystemInfo << /Registry (Adobe)"
        b" /Ordering (Identity) /Supplement 0 >> >>] >>"
    )
    lines = [
        ("锡晶须的生长", 18),
        ("摘要：锡晶须在铜镀层上生长，本文在显微镜下", 10),
        ("观察了六周，并测量其长度。", 10),
        ("1 引言", 14),
    ]
    lines += [("锡晶须在室温下生长，其原因尚不清楚，影响", 10), ("电子器件的可靠性。", 10), ("2 实验方法", 14)]
    lines += [("在铜板上镀锡，每天测量每根晶须的长度，持", 10), ("续六周。", 10)] * 3
    drawn, y = [], 760
    for text, size in lines:
        y -= 1.2 * size + (14 if size != 10 else 0)
        drawn.append(b"BT /song %d Tf 1 0 0 1 60 %d Tm <%s> Tj ET" % (size, y, text.encode("utf-16-be").hex().encode()))
    content = printed([b"\n".join(drawn)], fonts={"song": font}, more={40: stream(ranges)})
    found = paper.read(content)
    assert found["title"] == "锡晶须的生长"
    assert found["abstract"] == "锡晶须在铜镀层上生长，本文在显微镜下观察了六周，并测量其长度。"
    assert texts(found)["1 引言"] == "锡晶须在室温下生长，其原因尚不清楚，影响电子器件的可靠性。"
    assert "2 实验方法" in texts(found)


def test_what_is_lost_of_a_paper_is_said():
    sheets = filled(begun())
    found = paper.read(printed([*sheets.pages, PICTURE]))
    assert [reason for reason, _ in found["left_out"]] == ["scanned"]
    assert texts(found)["2. Methods"] == prose(1, 110)


@pytest.mark.parametrize(("places", "is_said"), [((), False), ((9,), False), ((9, 9, 9), False), ((4,), True),
                                                 ((0, 9), True), ((9,) * 4, True)])  # fmt: skip
def test_pages_that_are_pictures_are_said_unless_they_are_the_figures_behind_the_text(places, is_said):
    pages = [[Piece(50, 700 - 12 * n, line) for n, line in enumerate([f"{page} Methods", prose(page, 9)] * 9)]
             for page in range(9 - len(places) // 2)]  # fmt: skip
    for place in sorted(places, reverse=True):
        pages.insert(place, PICTURE)
    found = paper.read(printed(pages))["left_out"]
    assert found == [("scanned", f"{len(places)} of {len(pages)} pages are pictures without text: left out")] * is_said


def test_references_without_a_heading_are_no_text():
    sheets = filled(begun(), ("1. Introduction", "2. Methods"))
    for number in range(1, 8):
        sheets.prose(f"{number}. Ito A. Tin at rest. J Tin 2001;3.")
    found = found_in(sheets)
    assert texts(found)["2. Methods"] == prose(1, 110)
    assert len(found["references"]) == 7


WORDS = ["Methods", "1.", "2.1 On", "Figure 1.", "Table 2:", "References", "[1]", "Abstract", "of", "(x = 3)", "•"]
LINES = st.builds(
    Piece,
    st.sampled_from([0, 50, 62, 310, 580]),
    st.one_of(st.sampled_from([40, 760]), st.integers(-20, 820)),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join),
    st.sampled_from(["body", "bold", "italic", "head"]),
    st.sampled_from([0.1, 6, 9, 9, 11, 40]),
)


@given(pages=st.lists(st.lists(LINES, max_size=40), min_size=1, max_size=3))
def test_any_lines_make_a_paper_or_a_reason(pages):
    with contextlib.suppress(PdfError):
        assert {"title", "sections"} <= paper.read(printed(pages)).keys()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.4\nno object", "broken"),
        (printed([PICTURE]), "scanned"),
        (printed([[Piece(50, 700, "A picture")]]), "scanned"),
        (printed([[]] * 301), "too_large"),
        (printed([[Piece(50, 700, prose(1, 60))]], trailer=b"/ID [<00> <00>] /Encrypt << /Filter /Standard /V 1 /R 2 "
                 b"/P -4 /O (" + b"o" * 32 + b") /U (" + b"u" * 32 + b") >>"), "encrypted"),
    ],
)  # fmt: skip
def test_what_is_not_read_says_why(content, reason):
    with pytest.raises(PdfError) as error:
        paper.read(content)
    assert error.value.reason == reason
