"""The text of a PDF as runs, each of one font, size and baseline, in the order in which the pages draw them.

PDFium is asked for two things a character, its code and the text object that drew it, and for all else once an object:
an object is a piece of a line. Coordinates are in points from the lower left corner of the page as it is looked at.

Source: fpdf_text.h and fpdf_edit.h of PDFium; the encodings OT1 and T1 of TeX (The TeXbook, appendix F; Cork, 1990).
"""

import ctypes
import math
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

MAX_PAGES = 300
MAX_CHARS = 5_000_000
MIN_SIZE, MAX_SIZE = 3.0, 100.0  # points
_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD
_NAME_BYTES = 128
_OBLIQUE_FLAG, _FORCE_BOLD_FLAG = 1 << 6, 1 << 18  # of a font descriptor, PDF 32000-1, table 123
_BOLD_WEIGHT = 600
_SUBSET = re.compile(r"[A-Z]{6}\+")
_BOLD = re.compile(r"bold|black|heavy|semibd|demi|(?<!ro)medi(?!c)|cmbx|cmssbx|sfbx|-bd\b|\.b$", re.IGNORECASE)
_ITALIC = re.compile(r"ital|obliq|slant|cmti|cmsl|sfti|-it\b|\.i$", re.IGNORECASE)
_HIGH = frozenset(map(chr, range(0xD800, 0xDC00)))
_LONE = re.compile("[\ud800-\udfff]")
_HYPHEN = 2  # stands for a hyphen at a line's end
# Fonts of TeX without a map to Unicode give their codes; where OT1 and T1 differ, of OT1 only ligatures are met.
_OF_TEX = {11: "ff", 12: "fi", 13: "fl", 14: "ffi", 15: "ffl", 16: "“", 17: "”", 21: "–", 22: "—"}
_OF_TEX |= {27: "ff", 28: "fi", 29: "fl", 30: "ffi", 31: "ffl"}


class Run(NamedTuple):
    """A piece of one line. `right` is where the next character would stand; `size` in points, on the page."""

    text: str
    left: float
    right: float
    base: float
    size: float
    font: str
    bold: bool
    italic: bool


class Page(NamedTuple):
    width: float
    height: float
    runs: list[Run]
    sideways: list[str]  # texts that run along the page's edge
    has_pictures: bool


class PdfError(Exception):
    """A file that is not read: one of the reasons of `sources.pdf`, and what was found."""

    def __init__(self, reason: str, found: str):
        super().__init__(found)
        self.reason, self.found = reason, found


class Pdf:
    """An open file; pages are read one at a time. To be closed."""

    def __init__(self, content: bytes):
        """Raises PdfError."""
        import pypdfium2.raw as pdfium

        self._pdfium, self._content = pdfium, content  # PDFium reads from these bytes until it is closed
        _initialise()
        self._document = pdfium.FPDF_LoadMemDocument64(content, len(content), None)
        if not self._document:
            if pdfium.FPDF_GetLastError() == _PASSWORD_ERROR:
                raise PdfError("encrypted", "needs a password: save a copy without one")
            raise PdfError("broken", "PDFium cannot open it: no list of objects, or no page, is in it")
        self.num_pages = pdfium.FPDF_GetPageCount(self._document)
        if not self.num_pages:
            raise PdfError("broken", "no page is in it")

    def close(self) -> None:
        self._pdfium.FPDF_CloseDocument(self._document)

    @property
    def title(self) -> str:
        """As the file states it, which may be anything."""
        num_bytes = self._pdfium.FPDF_GetMetaText(self._document, b"Title", None, 0)
        if not 2 < num_bytes < 1 << 16:
            return ""
        buffer = ctypes.create_string_buffer(num_bytes)
        self._pdfium.FPDF_GetMetaText(self._document, b"Title", buffer, num_bytes)
        return buffer.raw[: num_bytes - 2].decode("utf-16-le", "replace")

    def pages(self) -> Iterator[Page | None]:
        """Every page in order; None for one that cannot be loaded. Raises PdfError over the limits."""
        if self.num_pages > MAX_PAGES:
            raise PdfError("too_large", f"{self.num_pages:,} pages, over {MAX_PAGES}: no single paper")
        num_chars = 0
        for number in range(self.num_pages):
            page = self._pdfium.FPDF_LoadPage(self._document, number)
            if not page:
                yield None
                continue
            text = self._pdfium.FPDFText_LoadPage(page)
            try:
                num_chars += max(0, self._pdfium.FPDFText_CountChars(text)) if text else 0
                if num_chars > MAX_CHARS:
                    raise PdfError("too_large", f"over {MAX_CHARS:,} characters: no single paper")
                yield self._read(page, text)
            finally:
                if text:
                    self._pdfium.FPDFText_ClosePage(text)
                self._pdfium.FPDF_ClosePage(page)

    def _read(self, page: ctypes.c_void_p, text: ctypes.c_void_p | None) -> Page:
        pdfium = self._pdfium
        turned = pdfium.FPDFPage_GetRotation(page) % 4
        box = pdfium.FS_RECTF()
        pdfium.FPDF_GetPageBoundingBox(page, box)
        frame = _Frame(box.left, box.bottom, box.right, box.top, turned)
        made = Page(*frame.size, [], [], False)
        for first, last, written in self._pieces(text) if text else ():
            self._add(made, text, first, last, written, frame)
        if made.runs:
            return made
        num_objects = min(pdfium.FPDFPage_CountObjects(page), 1_000)
        kinds = {pdfium.FPDFPageObj_GetType(pdfium.FPDFPage_GetObject(page, n)) for n in range(num_objects)}
        pictures = {pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_FORM}
        return made._replace(has_pictures=bool(kinds & pictures))

    def _pieces(self, text: ctypes.c_void_p) -> Iterator[tuple[int, int, str]]:
        """(first character, last character, text) of each text object, in order."""
        pdfium, (code_of, object_of) = self._pdfium, _hot_functions()
        handle = ctypes.cast(text, ctypes.c_void_p).value
        now, first, last, parts = 0, 0, 0, []
        for index in range(pdfium.FPDFText_CountChars(text)):
            code, drawn_by = code_of(handle, index), object_of(handle, index) or 0
            if not drawn_by:  # PDFium's own blank or line end
                if parts and code == 32:
                    parts.append(" ")
                continue
            if drawn_by != now:
                if parts:
                    yield first, last, _LONE.sub("\ufffd", "".join(parts))
                now, first, parts = drawn_by, index, []
            last = index
            if 0xDC00 <= code < 0xE000 and parts and parts[-1] in _HIGH:  # PDFium counts in units of UTF-16
                parts[-1] = _character(0x10000 + ((ord(parts[-1]) - 0xD800) << 10) + code - 0xDC00)
            else:
                parts.append(_character(code))
        if parts:
            yield first, last, _LONE.sub("\ufffd", "".join(parts))

    def _add(self, made: Page, text: ctypes.c_void_p, first: int, last: int, written: str, frame: "_Frame") -> None:
        pdfium = self._pdfium
        if not written.strip():
            if made.runs and not made.runs[-1].text.endswith(" "):
                made.runs[-1] = made.runs[-1]._replace(text=made.runs[-1].text + " ")
            return
        x, y, matrix, box = ctypes.c_double(), ctypes.c_double(), pdfium.FS_MATRIX(), pdfium.FS_RECTF()
        pdfium.FPDFText_GetCharOrigin(text, first, x, y)
        pdfium.FPDFText_GetMatrix(text, first, matrix)
        pdfium.FPDFText_GetLooseCharBox(text, last, box)
        numbers = (x.value, y.value, matrix.a, matrix.b, matrix.c, matrix.d, box.left, box.bottom, box.right, box.top)
        if not all(map(math.isfinite, numbers)):
            return
        along, across = frame.turn(matrix.a, matrix.b), math.hypot(matrix.c, matrix.d)
        if along[0] <= 0 or abs(along[1]) > 0.1 * along[0]:
            made.sideways.append(written)
            return
        left, base = frame.place(x.value, y.value)
        ends = (frame.place(box.left, box.bottom)[0], frame.place(box.right, box.top)[0])
        if not frame.holds(left, base):
            return
        size = round(pdfium.FPDFText_GetFontSize(text, first) * across, 1)
        if size < MIN_SIZE:  # a Type 3 font may be scaled by a matrix of its own
            size = round(min(max(abs(box.top - box.bottom), MIN_SIZE), MAX_SIZE), 1)
        flags, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
        pdfium.FPDFText_GetFontInfo(text, first, name, _NAME_BYTES, flags)
        font = _SUBSET.sub("", name.value.decode("utf-8", "replace"))
        weight = pdfium.FPDFText_GetFontWeight(text, first)
        bold = bool(weight >= _BOLD_WEIGHT or flags.value & _FORCE_BOLD_FLAG or _BOLD.search(font))
        italic = bool(flags.value & _OBLIQUE_FLAG or _ITALIC.search(font))
        made.runs.append(Run(written, left, max(left, *ends), base, size, font, bold, italic))


class _Frame(NamedTuple):
    """The visible part of a page, and by how many quarters it is turned clockwise to be looked at."""

    left: float
    bottom: float
    right: float
    top: float
    turned: int

    @property
    def size(self) -> tuple[float, float]:
        width, height = self.right - self.left, self.top - self.bottom
        return (height, width) if self.turned % 2 else (width, height)

    def place(self, x: float, y: float) -> tuple[float, float]:
        x, y, (width, height) = x - self.left, y - self.bottom, self.size
        return ((x, y), (y, height - x), (width - x, height - y), (width - y, x))[self.turned]

    def turn(self, x: float, y: float) -> tuple[float, float]:
        return ((x, y), (y, -x), (-x, -y), (-y, x))[self.turned]

    def holds(self, x: float, y: float) -> bool:
        width, height = self.size
        return -1 <= x <= width + 1 and -1 <= y <= height + 1


def _character(code: int) -> str:
    """Letters of mathematical fonts become plain ones: 𝑝 is how one publisher prints p."""
    if code >= 32:
        return unicodedata.normalize("NFKC", chr(code)) if 0x1D400 <= code < 0x1D800 else chr(min(code, 0x10FFFF))
    if code == _HYPHEN:
        return "-"
    return _OF_TEX.get(code, " " if code in (9, 10) else "\ufffd")


@cache
def _initialise() -> None:
    import pypdfium2  # noqa: F401 (loads the library and prepares it)


@cache
def _hot_functions() -> tuple[ctypes._CFuncPtr, ctypes._CFuncPtr]:
    """FPDFText_GetUnicode and FPDFText_GetTextObject with plain numbers for handles: a third of the time."""
    import pypdfium2.raw as pdfium

    called = (pdfium.FPDFText_GetUnicode, ctypes.c_uint), (pdfium.FPDFText_GetTextObject, ctypes.c_void_p)
    return tuple(
        ctypes.CFUNCTYPE(gives, ctypes.c_void_p, ctypes.c_int)(ctypes.cast(function, ctypes.c_void_p).value)
        for function, gives in called
    )
