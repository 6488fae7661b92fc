"""The root element of an XML file, from its beginning. Takes linear time for any input."""

import re

MAX_PROLOGUE = 100  # comments, instructions and a DOCTYPE before the root
_ROOT = re.compile(r"<(?![?!])(?:[\w.-]+:)?([\w.-]+)")
_DOCTYPE = re.compile(r"<!DOCTYPE[^\[>]*+(?:\[[^\]]*+\])?[^>]*+>")


def xml_root(head: str) -> str:
    """The name of the root element without its prefix; empty where `head` is no XML."""
    if not head.startswith("<"):
        return ""
    for _ in range(MAX_PROLOGUE):
        head = head.lstrip()
        if head.startswith(("<?", "<!--")):
            _, closed, head = head.partition("?>" if head[1] == "?" else "-->")
            if not closed:
                return ""
        elif head.startswith("<!"):
            doctype = _DOCTYPE.match(head)
            if not doctype:
                return ""
            head = head[doctype.end() :]
        else:
            root = _ROOT.match(head)
            return root[1] if root else ""
    return ""
