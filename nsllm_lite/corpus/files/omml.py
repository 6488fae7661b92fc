"""Office's formulas (OMML) as MathML, whose text `elements.formula` writes.

Source: ECMA-376 part 1, section 22.1.
"""

from collections.abc import Iterator

from lxml import etree

from nsllm_lite.corpus.files.elements import FORMULA, formula, raw_text

_PAIRS = {
    "f": ("mfrac", "num", "den"), "sSup": ("msup", "e", "sup"), "sSub": ("msub", "e", "sub"),
    "sSubSup": ("msubsup", "e", "sub", "sup"), "limLow": ("munder", "e", "lim"), "limUpp": ("mover", "e", "lim"),
}  # fmt: skip
_ACCENT = "\u0302"  # a hat, where the accent names no sign
_SUM = "∫"  # of an n-ary operator that names no sign
MAX_DEPTH = 100


def local(node: etree._Element) -> str:
    """The name without its namespace; "" of what is no element."""
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


def text_of_math(node: etree._Element) -> str:
    """A formula on one line: x² = (a + b)/c."""
    math = etree.Element("math")
    math.extend(_converted(node, 0))
    text = formula(math)
    return "" if text == FORMULA else text


def _converted(node: etree._Element, depth: int) -> Iterator[etree._Element]:
    """The children of a node in MathML."""
    for child in node:
        name = local(child)
        if depth > MAX_DEPTH or name.endswith("Pr"):
            continue
        if name in _PAIRS:
            tag, *parts = _PAIRS[name]
            yield _made(tag, *(_row(child, part, depth) for part in parts))
        elif name == "r":
            token = etree.Element("mtext")
            token.text = "".join(raw_text(one) for one in child if local(one) == "t")
            yield from [_operator(token)]
        elif name == "rad":
            degree = _row(child, "deg", depth)
            yield (
                _made("mroot", _row(child, "e", depth), degree)
                if len(degree)
                else _made("msqrt", _row(child, "e", depth))
            )
        elif name == "nary":
            yield _made(
                "munderover",
                _text("mo", _sign(child, "chr", _SUM)),
                _row(child, "sub", depth),
                _row(child, "sup", depth),
            )
            yield _row(child, "e", depth)
        elif name == "acc":
            yield _made("mover", _row(child, "e", depth), _text("mo", _sign(child, "chr", _ACCENT)))
        elif name == "d":
            fenced = _made(
                "mfenced", *(_made("mrow", *_converted(one, depth + 1)) for one in child if local(one) == "e")
            )
            fenced.set("open", _sign(child, "begChr", "("))
            fenced.set("close", _sign(child, "endChr", ")"))
            fenced.set("separators", _sign(child, "sepChr", "|"))
            yield fenced
        else:
            yield _made("mrow", *_converted(child, depth + 1))


def _operator(token: etree._Element) -> etree._Element:
    """A run that is one sign, which MathML sets apart from letters."""
    if len(token.text or "") == 1 and not (token.text or "").isalnum():
        token.tag = "mo"
    return token


def _made(tag: str, *children: etree._Element) -> etree._Element:
    node = etree.Element(tag)
    node.extend(children)
    return node


def _text(tag: str, text: str) -> etree._Element:
    node = etree.Element(tag)
    node.text = text
    return node


def _row(node: etree._Element, name: str, depth: int) -> etree._Element:
    found = next((child for child in node if local(child) == name), None)
    return _made("mrow", *(() if found is None else _converted(found, depth + 1)))


def _sign(node: etree._Element, name: str, default: str) -> str:
    """A character that the properties of a node name; "" where they name an empty one."""
    for one in (one for child in node if local(child).endswith("Pr") for one in child if local(one) == name):
        return next((value for key, value in one.attrib.items() if key.endswith("val")), "")
    return default
