"""HTML's entities as characters, in texts that are not trusted."""

import html
import re

# Numbers beyond all characters, of which Python refuses to make integers where they are long enough.
_NO_CHARACTER = re.compile(r"&#(?:0{100,}[0-9]*|0*+[0-9]{8,}|[xX]0*+[0-9a-fA-F]{7,});?")


def unescape(text: str) -> str:
    """`html.unescape` for any text: a number that is no character is U+FFFD."""
    return html.unescape(_NO_CHARACTER.sub("\ufffd", text)) if "&" in text else text
