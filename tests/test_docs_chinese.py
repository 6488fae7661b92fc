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

    def fingerprint(self) -> tuple:
        return self.kind, *(frozenset(counts.items()) for counts in self.found.values())

    def differences(self, other: "Block") -> list[str]:
        """What this English block and its Chinese one have not in common."""
        if self.kind != other.kind:
            return [f"it is a {self.kind} there, a {other.kind} here"]
        if self.kind.startswith("code"):
            lines, its_lines = self.text.splitlines(), other.text.splitlines()
            told = [f"{a!r} became {b!r}" for a, b in zip(lines, its_lines, strict=False) if not same_line(a, b)]
            return told + [f"{len(lines)} lines there, {len(its_lines)} here"] * (len(lines) != len(its_lines))
        return [
            f"{name}: {[*(counts - other.found[name])]} only there, {[*(other.found[name] - counts)]} only here"
            for name, counts in self.found.items()
            if counts != other.found[name]
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
    if english == chinese or not start or not CJK.search(chinese) or not english.startswith(start[0]):
        return english == chinese

    def names(text: str) -> Counter:
        words = [word.rstrip(".") for word in re.findall(r"[\w.*/-]+", text, re.ASCII)]
        special = [word for word in words if re.search(r"[\d_/]|\w\.\w", word)]
        return Counter(special + re.findall(r"\w+(?=\[)|[][|]", text, re.ASCII))

    return names(english) == names(chinese)


def read_inline(token: Token, kind: str) -> Block:
    children = token.children or []
    text = "".join({"text": t.content, "softbreak": " "}.get(t.type, "") for t in children)
    return Block(
        kind,
        token.content,
        {
            "`code`": Counter(t.content for t in children if t.type == "code_inline"),
            "links": Counter(unquote(t.attrs["href"]) for t in children if t.type == "link_open"),
            "pictures": Counter(t.attrs["src"] for t in children if t.type == "image"),
            "passages": Counter(t.tag for t in children if t.type in ("strong_open", "em_open")),
            "numbers": numbers(text),
        },
    )


def read(name: str) -> list[Section]:
    """The sections of a README; the line that leads to the other language is left out."""
    text = (ROOT / name).read_text()
    text = text.replace(SWITCH[name] + "\n\n", "", 1).replace("\n+ adapter;", " + adapter;")  # which is no list
    sections, inside = [], []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.nesting == 1:
            inside.append(token.type.removesuffix("_open"))
            if token.type == "heading_open":
                sections.append(Section(int(token.tag[1]), ""))
            elif token.type in ("table_open", "tr_open"):
                sections[-1].blocks.append(Block(f"{inside[-1]} that begins", ""))
        elif token.nesting == -1:
            inside.pop()
        elif token.type == "inline" and inside[-1] == "heading":
            sections[-1].title = token.content
        elif token.type == "inline":
            sections[-1].blocks.append(read_inline(token, " in a ".join(reversed(inside))))
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
each_section = pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=[english.title for english, _ in PAIRS])


def test_both_have_the_same_sections():
    told = [f"{CHINESE} lacks, or {ENGLISH} no longer has: {[section.title for section in ONLY_ENGLISH]}"]
    told += [f"{CHINESE} has in their place: {[section.title for section in ONLY_CHINESE]}"]
    assert not ONLY_ENGLISH + ONLY_CHINESE, "\n".join(told)
    assert [english.level for english, _ in PAIRS] == [chinese.level for _, chinese in PAIRS]
    assert len(PAIRS) > 20


@each_section
def test_a_section_says_the_same_in_both(english, chinese):
    for block in chinese.blocks:
        if links := block.found.get("links"):
            block.found["links"] = Counter({ANCHORS.get(href, href): count for href, count in links.items()})
    same, only_english, only_chinese = paired(english.blocks, chinese.blocks)
    told = [f"only in {ENGLISH}: {block.kind} {block.text[:90]!r}" for block in only_english]
    told += [f"only in {CHINESE}: {block.kind} {block.text[:90]!r}" for block in only_chinese]
    for ours, its in same:
        told += [f"{ours.text[:60]!r} / {its.text[:30]!r}: {difference}" for difference in ours.differences(its)]
    where = f"'{english.title}' of {ENGLISH} and '{chinese.title}' of {CHINESE} differ; change the other too"
    assert not told, "\n".join([where, *told])


@each_section
def test_a_section_is_in_chinese(english, chinese):
    """No paragraph is left in English, and the same words of a table are the same words again."""
    words: dict[tuple, set[str]] = {}
    table = 0
    for ours, its in paired(english.blocks, chinese.blocks)[0]:
        table += ours.kind.startswith("table")
        if ours.kind.startswith("paragraph") and len(re.findall(r"[a-z]{2,}", re.sub(r"`[^`]*`", "", ours.text))) > 3:
            assert CJK.search(its.text), its.text
        if ours.kind.startswith("td"):
            words.setdefault((table, "English", ours.text), set()).add(its.text)
            words.setdefault((table, "Chinese", its.text), set()).add(ours.text)
    twice = {key: texts for key, texts in words.items() if len(texts) > 1}
    assert not twice, f"'{english.title}': a cell of a table is translated in two ways: {twice}"


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
