r"""Removes comments and listings from LaTeX, and shields verbatim text within a line from being read as commands."""

import re

_SPECIALS = "\\{}$&#^_~%`'-[]\"<"
SHIELD = {ord(c): chr(0xE100 + ord(c)) for c in _SPECIALS}  # what is verbatim, until the text is finished
UNSHIELD = {ord(shielded): chr(plain) for plain, shielded in SHIELD.items()}
_LISTINGS = r"verbatim|Verbatim|BVerbatim|LVerbatim|lstlisting|minted|comment|filecontents|pycode|SaveVerbatim"
_OPAQUE = re.compile(
    rf"""(?<!\\)(?P<lead>(?:\\\\)*)(?:
        \\verb\*?(?P<mark>[^A-Za-z*\s])(?P<verb>[^\n]{{0,300}}?)(?P=mark)
      | \\(?:lstinline(?:\[[^\]\n]{{0,200}}\])?|mintinline\{{\w+\}})
            (?:\{{(?P<code>[^{{}}\n]{{0,300}})\}}|(?P<stop>[|!+@/"])(?P<inline>[^\n]{{0,300}}?)(?P=stop))
      | \\(?:url|path|nolinkurl|href)\s?\{{(?P<url>(?:[^{{}}]|\{{[^{{}}]{{0,200}}\}}){{0,2000}})\}}
      | \\begin\s?\{{(?P<listing>(?:{_LISTINGS})\*?)\}}
      | %[^\n]*(?:\n(?![ \t]*\n)[ \t]*)?
    )""",
    re.VERBOSE,
)
_IN_URL = str.maketrans({c: SHIELD[ord(c)] for c in "$&#^_~%-'"})
_PRIVATE = re.compile("[\ue000-\ue1ff]")
SHIELDED = re.compile("[\ue100-\ue1ff]")


def without_comments(text: str) -> str:
    """Comments and verbatim environments taken out; what is verbatim within a line, and URLs, shielded."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = _PRIVATE.sub("\ufffd", text)
    parts: list[str] = []
    pos, unclosed = 0, set()
    while found := _OPAQUE.search(text, pos):
        end = found.end()
        start = found.end("lead")
        parts.append(text[pos:start])
        kind = found.lastgroup
        if kind == "listing":
            closing = f"\\end{{{found[kind]}}}"
            close = -1 if closing in unclosed else text.find(closing, end)
            if close < 0:
                unclosed.add(closing)
                parts.append(text[start:end])
            else:
                end = close + len(closing)
        elif kind == "url":
            shielded = re.sub(r"\\([%#&_~$])", r"\1", found[kind]).translate(_IN_URL)
            parts += [text[start : found.start(kind)], shielded, "}"]
        elif kind != "lead":
            verbatim = found["verb"] or found["code"] or found["inline"] or ""
            parts.append(f"{{{verbatim.translate(SHIELD)}}}")
        pos = end
    parts.append(text[pos:])
    return "".join(parts)
