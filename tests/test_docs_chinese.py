"""README and three pages of docs/ have Chinese twins: the same headings and the same code, in Chinese."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAIRS = {"README.md": "README.zh-CN.md"} | {
    f"docs/{name}.md": f"docs/zh/{name}.md" for name in ("install", "corpus", "troubleshooting")
}
BLOCK = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
each_pair = pytest.mark.parametrize(("english", "chinese"), PAIRS.items())


def levels(text: str) -> list[str]:
    return re.findall(r"^(#+) ", BLOCK.sub("", text), re.M)


def code(text: str) -> list[str]:
    """The blocks of code; comments and the labels of diagrams may be in either language."""
    return [re.sub(r"\s+# .*|\[[^\]]*\]|\|[^|\n]*\|", "", block) for block in BLOCK.findall(text)]


@each_pair
def test_both_have_the_same_headings_and_code(english, chinese):
    ours, theirs = ((ROOT / name).read_text() for name in (english, chinese))
    assert levels(ours) == levels(theirs)
    assert code(ours) == code(theirs)


@each_pair
def test_each_leads_to_the_other(english, chinese):
    back = re.search(r"\[English\]\(([^)]+)\) \| 简体中文", (ROOT / chinese).read_text())
    assert (ROOT / chinese).parent.joinpath(back[1]).resolve() == ROOT / english
    forth = re.search(r"English \| \[简体中文\]\(([^)]+)\)", (ROOT / english).read_text())
    assert (ROOT / english).parent.joinpath(forth[1]).resolve() == ROOT / chinese


@each_pair
def test_no_sentence_is_left_in_english(english, chinese):
    prose = re.sub(r"`[^`\n]*`|\]\([^)]*\)", " ", BLOCK.sub("", (ROOT / chinese).read_text()))
    for line in prose.splitlines():
        assert not re.search(r"\b(a|and|are|in|is|no|that|the|with)\b", line, re.ASCII), line


def test_every_code_explained_in_chinese_is_one():
    known = set(re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "docs/troubleshooting.md").read_text(), re.M))
    explained = re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "docs/zh/troubleshooting.md").read_text(), re.M)
    assert len(explained) > 40
    assert set(explained) <= known
