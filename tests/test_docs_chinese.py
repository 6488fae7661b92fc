"""README.md and README.zh-CN.md say the same: whoever changes one of them has to change the other.

Words cannot be compared across languages. All else is: the order of headings, paragraphs, lists and tables, the blocks
of code, and in each paragraph and cell its `code`, links, pictures, bold type and numbers ("17 million" is "1700 万").
What tests/test_docs.py shows of the English commands, files, settings and messages thereby holds for the Chinese ones.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt  # comes with rich
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
SWITCH = {ENGLISH: "English | [简体中文](README.zh-CN.md)", CHINESE: "[English](README.md) | 简体中文"}
SCALES = {"million": 10**6, "billion": 10**9, "M": 10**6, "B": 10**9, "万": 10**4, "百万": 10**6, "亿": 10**8, "": 1}
NUMBER = re.compile(r"((?:(?<![^\s(])-)?\d+(?:,\d{3})*(?:\.\d+)?)\s*(million|billion|[MB](?![A-Za-z])|百万|万|亿|)")
CJK = re.compile(r"[\u3400-\u9fff]")


def numbers(text: str) -> Counter:
    """How often each number, by its value, stands in a text."""
    return Counter(round(float(digits.replace(",", "")) * SCALES[scale], 6) for digits, scale in NUMBER.findall(text))


@dataclass
class Block:
    """A paragraph, a cell, a piece of HTML or a block of code."""

    kind: str
    text: str
    found: dict[str, Counter] = field(default_factory=dict)
    row: str = ""  # the first cell of its row

    def __str__(self) -> str:
        return f"{self.kind} {self.text[:70]!r}" + (f" of row {self.row[:50]!r}" if self.row else "")

    def fingerprint(self) -> tuple:
        return self.kind, *(frozenset(counts.items()) for counts in self.found.values())

    def differences(self, its: "Block") -> list[str]:
        """What this English block and its Chinese one have not in common."""
        if self.kind != its.kind:
            return [f"{CHINESE} has {its} in its place"]
        if self.kind.startswith("code"):
            lines, its_lines = self.text.splitlines(), its.text.splitlines()
            told = [f"{a!r} became {b!r}" for a, b in zip(lines, its_lines, strict=False) if not same_line(a, b)]
            return told + [f"{len(lines)} lines became {len(its_lines)}"] * (len(lines) != len(its_lines))
        return [
            f"{name}: {ENGLISH} has {[*(counts - its.found[name])]}, {CHINESE} {[*(its.found[name] - counts)]}"
            for name, counts in self.found.items()
            if counts != its.found[name]
        ]


@dataclass
class Section:
    level: int
    title: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """What GitHub makes of the title."""
        return re.sub(r"[^\w -]", "", self.title.lower()).replace(" ", "-")

    def fingerprint(self) -> tuple:
        return self.level, frozenset(name for block in self.blocks for name in block.found.get("`code`", ()))


def same_line(english: str, chinese: str) -> bool:
    """Code is the same to the letter; comments and labels may be in Chinese, with the same names and numbers."""
    start = re.match(r".*?(?:# |(?=[\u3400-\u9fff\uff00-\uffef]))", chinese)
    if not start or not start[0].strip() or not CJK.search(chinese) or not english.startswith(start[0]):
        return english == chinese

    def names(text: str) -> Counter:
        words = [word.rstrip(".") for word in re.findall(r"[\w.*/-]+", text, re.ASCII)]
        special = [word for word in words if re.search(r"[\d_/]|\w\.\w", word)]
        return Counter(special + re.findall(r"\w+(?=\[)|[][|]", text, re.ASCII))

    return names(english) == names(chinese)


def read_inline(token: Token, kind: str, row: str) -> Block:
    """A paragraph or a cell."""
    children = token.children or []
    text = "".join({"text": t.content, "softbreak": " "}.get(t.type, "") for t in children)
    bold = Counter(t.tag for t in children if t.type in ("strong_open", "em_open"))
    return Block(
        kind,
        token.content,
        {
            "`code`": Counter(t.content for t in children if t.type == "code_inline"),
            "links": Counter(unquote(t.attrs["href"]) for t in children if t.type == "link_open"),
            "pictures": Counter(t.attrs["src"] for t in children if t.type == "image"),
            "bold, italics, stars shown": bold
            + Counter(re.findall(r"\*\*", text)),  # "**...。**" is not bold before CJK
            "numbers": numbers(text),
        },
        row,
    )


def read(name: str) -> list[Section]:
    """The sections of a README; the line that leads to the other language is left out."""
    text = (ROOT / name).read_text()
    text = text.replace(SWITCH[name] + "\n\n", "", 1)
    sections, inside, row = [], [], ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.nesting == 1:
            inside.append(token.type.removesuffix("_open"))
            if token.type == "heading_open":
                sections.append(Section(int(token.tag[1]), ""))
            elif token.type in ("table_open", "tr_open"):
                sections[-1].blocks.append(Block(f"{inside[-1]} that begins", ""))
                row = ""
        elif token.nesting == -1:
            inside.pop()
        elif token.type == "inline" and inside[-1] == "heading":
            sections[-1].title = token.content
        elif token.type == "inline":
            row = (row or token.content) if inside[-1] == "td" else ""
            sections[-1].blocks.append(read_inline(token, " in ".join(reversed(inside)), row))
        elif token.type == "fence":
            sections[-1].blocks.append(Block(f"code block of {token.info or 'text'}", token.content))
        elif token.type == "html_block":
            words = re.sub(r"<[^>]*>", "", token.content)
            tags = Counter(re.findall(r"<[^>]*>", token.content))
            sections[-1].blocks.append(Block("html_block", token.content, {"tags": tags, "numbers": numbers(words)}))
        else:
            sections[-1].blocks.append(Block(token.type, token.content))
    return sections


def paired(ours: list, theirs: list) -> tuple[list[tuple], list, list]:
    """Pairs of what corresponds in two lists, and what of each has no counterpart."""
    pairs, only_ours, only_theirs = [], [], []
    matcher = SequenceMatcher(None, [x.fingerprint() for x in ours], [x.fingerprint() for x in theirs], autojunk=False)
    for _, a, b, c, d in matcher.get_opcodes():
        if b - a == d - c:
            pairs += zip(ours[a:b], theirs[c:d], strict=True)
        else:
            only_ours += ours[a:b]
            only_theirs += theirs[c:d]
    return pairs, only_ours, only_theirs


SECTIONS, CHINESE_SECTIONS = read(ENGLISH), read(CHINESE)
PAIRS, ONLY_ENGLISH, ONLY_CHINESE = paired(SECTIONS, CHINESE_SECTIONS)
ANCHORS = {f"#{chinese.anchor}": f"#{english.anchor}" for english, chinese in PAIRS}
for found in [block.found for section in CHINESE_SECTIONS for block in section.blocks if "links" in block.found]:
    found["links"] = Counter({ANCHORS.get(href, href): count for href, count in found["links"].items()})
each_section = pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=[english.title for english, _ in PAIRS])


def test_both_have_the_same_sections():
    told = [f"only in {ENGLISH}: {'#' * section.level} {section.title}" for section in ONLY_ENGLISH]
    told += [f"only in {CHINESE}: {'#' * section.level} {section.title}" for section in ONLY_CHINESE]
    told += [f"not of one level: {ours.title}, {its.title}" for ours, its in PAIRS if ours.level != its.level]
    if told:
        pytest.fail("\n".join([f"The sections of {ENGLISH} and {CHINESE} differ", *told]), pytrace=False)
    assert len(PAIRS) > 20


@each_section
def test_a_section_says_the_same_in_both(english, chinese):
    same, only_english, only_chinese = paired(english.blocks, chinese.blocks)
    told = [f"only in {ENGLISH}: {block}" for block in only_english]
    told += [f"only in {CHINESE}: {block}" for block in only_chinese]
    told += [f"{ours}: {difference}" for ours, its in same for difference in ours.differences(its)]
    if told:
        head = f"'{english.title}' of {ENGLISH} and '{chinese.title}' of {CHINESE} differ: change the other one too"
        pytest.fail("\n".join([head, *told]), pytrace=False)


@each_section
def test_a_section_is_in_chinese(english, chinese):
    """No sentence is left in English, and cells of a table that are equal in English are equal in Chinese."""
    told, cells, table = [], {}, 0
    for ours, its in paired(english.blocks, chinese.blocks)[0]:
        prose = re.sub(r"`[^`]*`|\([^)]*\)", " ", its.text)
        table += ours.kind.startswith("table")
        if not ours.kind.startswith("code") and re.search(
            r"\b(a|and|are|in|is|no|not|that|the|with)\b", prose, re.ASCII
        ):
            told.append(f"is this English? {its}")
        if ours.kind.startswith("td"):
            for key, text in (((table, CHINESE, ours.text), its.text), ((table, ENGLISH, its.text), ours.text)):
                if cells.setdefault(key, text) != text:
                    told.append(f"{key[1]} has both {cells[key]!r} and {text!r} for {key[2]!r}, in row {ours.row!r}")
    if told:
        pytest.fail("\n".join([f"'{chinese.title}' of {CHINESE} ('{english.title}')", *told]), pytrace=False)


@pytest.mark.parametrize(("name", "sections"), [(ENGLISH, SECTIONS), (CHINESE, CHINESE_SECTIONS)])
def test_every_link_leads_somewhere(name, sections):
    assert (ROOT / name).read_text().split("\n")[2] == SWITCH[name]  # under the title, a link to the other language
    anchors = [f"#{section.anchor}" for section in sections]
    assert len(set(anchors)) == len(anchors)
    text = (ROOT / name).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len([link for link in links if link.startswith("#")]) > 15
    for link in links:
        if not link.startswith("http"):
            assert link in anchors or (ROOT / link).is_file(), f"{name}: {link}"
