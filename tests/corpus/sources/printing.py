"""Small PDFs made by code: lines of text at their places, in the fonts that every PDF reader has.

Prose is set in Courier, whose characters are all 0.6 of the size wide, so that a column's lines are even.
"""

import textwrap
from typing import NamedTuple

FONTS = {"body": "Courier", "bold": "Courier-Bold", "italic": "Courier-Oblique", "head": "Helvetica-Bold"}
WIDTH, HEIGHT = 600, 800
SIZE, STEP = 9.0, 11.0
COLUMNS = ((50, 290), (310, 550))
WIDE = ((50, 550),)


class Piece(NamedTuple):
    x: float
    y: float
    text: str
    font: str = "body"
    size: float = SIZE


def _escaped(text):
    return text.encode("cp1252", "replace").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


def _content(pieces):
    parts = [b"BT /%s %g Tf 1 0 0 1 %g %g Tm (%s) Tj ET"
             % (p.font.encode(), p.size, p.x, p.y, _escaped(p.text)) for p in pieces]  # fmt: skip
    return b"\n".join(parts)


def stream(content, extra=b""):
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), extra, content)


def pdf_of(objects, info=None, trailer=b""):
    """A file of these objects by number; 1 is the catalogue."""
    out, places = b"%PDF-1.4\n", {}
    if info:
        objects = objects | {
            90: b"<< %s >>" % b" ".join(b"/%s (%s)" % (k.encode(), _escaped(v)) for k, v in info.items())
        }
        trailer += b" /Info 90 0 R"
    for number, content in sorted(objects.items()):
        places[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start, last = len(out), max(objects)
    rows = (b"%010d 00000 n \n" % places[n] if n in places else b"0000000000 65535 f \n" for n in range(1, last + 1))
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (last + 1) + b"".join(rows)
    return out + b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (last + 1, trailer, start)


def printed(pages, info=None, fonts=None, page=b"", trailer=b"", more=None):
    """A PDF of pages, each a list of pieces, or bytes that draw it; `fonts` are more fonts by name, `more`
    other objects by their numbers, 40 to 89."""
    fonts = {
        name: b"<< /Type /Font /Subtype /Type1 /BaseFont /%s /Encoding /WinAnsiEncoding >>" % base.encode()
        for name, base in FONTS.items()
    } | (fonts or {})
    listed = b" ".join(b"/%s %s" % (name.encode(), font) for name, font in fonts.items())
    kids = b" ".join(b"%d 0 R" % (100 + 2 * n) for n in range(len(pages)))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        3: b"<< /Font << %s >> >>" % listed,
    }
    for n, pieces in enumerate(pages):
        objects[100 + 2 * n] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Resources 3 0 R /Contents %d 0 R %s >>"
            % (WIDTH, HEIGHT, 101 + 2 * n, page)
        )
        objects[101 + 2 * n] = stream(pieces if isinstance(pieces, bytes) else _content(pieces))
    return pdf_of(objects | (more or {}), info, trailer)


class Sheets:
    """Pages filled from the top of their first column on."""

    def __init__(self, columns=COLUMNS, top=740.0, foot=80.0):
        self.pages = [[]]
        self._columns, self._top, self._foot = columns, top, foot
        self._column, self.y = 0, top
        self._is_new = True

    @property
    def left(self):
        return self._columns[self._column][0]

    def wide(self, text, size=SIZE, font="body", step=None, left=50):
        """A line over all columns; what follows begins below it."""
        self.pages[-1].append(Piece(left, self.y, text, font, size))
        self.y -= step or 1.3 * size
        self._top = self.y
        return self

    def next_column(self):
        self._column, self.y = (self._column + 1) % len(self._columns), self._top
        if self._column == 0:
            self.pages.append([])
            self._top = self.y = 740.0
        return self

    def line(self, *parts, indent=0.0):
        """One line of parts (text, font, size, raised by), or texts."""
        if self.y < self._foot:
            self.next_column()
        x = self.left + indent
        for part in parts:
            text, font, size, raised = (
                (*part, *("body", SIZE, 0)[len(part) - 1 :]) if isinstance(part, tuple) else (part, "body", SIZE, 0)
            )
            self.pages[-1].append(Piece(x, self.y + raised, text, font, size))
            x += 0.6 * size * len(text)
        self.y -= STEP
        return self

    def heading(self, text, font="head", size=11.0, gap=8.0):
        if self.y < self._foot + 3 * STEP:
            self.next_column()
        self.y -= gap
        self.pages[-1].append(Piece(self.left, self.y, text, font, size))
        self.y -= STEP + 3
        return self

    def prose(self, text, size=SIZE, font="body", indent=0.0, hyphens=True):
        """A paragraph, its words broken at the ends of lines as a typesetter does."""
        left, right = self._columns[self._column]
        chars = int((right - left) / (0.6 * size))
        first = " " * round(indent / (0.6 * size))
        for n, line in enumerate(textwrap.wrap(first + text, chars, break_on_hyphens=hyphens, drop_whitespace=True)):
            self.line((line.strip(), font, size, 0), indent=indent if n == 0 else 0.0)
        return self

    def space(self, points):
        self.y -= points
        return self

    def pdf(self, **how):
        return printed(self.pages, **how)
