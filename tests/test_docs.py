"""What the pages and the recipes' heads tell a reader to type or open exists."""

import re
import shlex
from pathlib import Path

import pytest

from docs.generate import address, troubleshooting_page, with_address
from docs.messages import messages_in
from nsllm_lite.commands.arguments import build_parser
from tests.paths import load_whole

ROOT = Path(__file__).parents[1]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
}
NOTEBOOKS = {path.name: path.read_text() for path in (ROOT / "notebooks").glob("*.ipynb")}
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
TEXT = "\n".join((*PAGES.values(), *(path.read_text() for path in (ROOT / "recipes").rglob("*.yaml"))))
each_page = pytest.mark.parametrize("name", PAGES)


def anchors(text: str) -> list[str]:
    """What GitHub makes of the headings."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)]


def test_every_make_target_named_exists():
    named = set(re.findall(r"(?:`|^|#   )make ([a-z0-9-]+)", TEXT, re.MULTILINE))
    assert {"phase1", "phase2", "two-phase", "test", "test-slow", "lint", "plan", "docs"} <= named
    assert named <= TARGETS


def test_every_command_named_parses():
    lines = re.findall(r"^(?:#   )?(nsllm-lite [^#\n`]*)$", TEXT, re.MULTILINE)
    lines += re.findall(r"`(nsllm-lite [^`…]*)`", TEXT)
    assert len(lines) > 60
    for line in lines:
        words = shlex.split(re.split(r" [>|] ", line)[0])[1:]
        if not re.search(r"\b(VERB|RUN|FILE|RECIPE|DIR|\.\.\.|--help)", line) and len(words) > 1:
            build_parser().parse_args(words)


@each_page
def test_every_file_named_exists(name):
    for path in re.findall(r"`((?:tests|nsllm_lite|recipes|bench|docs)/[\w./-]*)`", PAGES[name]):
        assert (ROOT / path).exists() or name == "CONTRIBUTING.md", path


@each_page
def test_every_link_leads_somewhere(name):
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("step", sorted(set(re.findall(r"\b(phase1\.[a-z_.]+)=", TEXT))))
def test_every_setting_named_is_one(step):
    name, key = step.split(".", 1)
    values = load_whole(ROOT / "recipes/qwen3" / f"{name}.yaml", base="Qwen/Qwen3-8B-Base").model_dump()
    for part in key.split("."):
        assert part in values
        values = values[part]


def test_readme_is_short():
    assert PAGES["README.md"].count("\n") <= 200
    assert 0.8 <= PAGES["README.zh-CN.md"].count("\n") / PAGES["README.md"].count("\n") <= 1.2


@pytest.mark.parametrize("name", ["docs/measured.md", "docs/log.md"])
def test_every_number_has_its_command_and_date(name):
    """Below each heading stands what gives the numbers of its section, and when it did."""
    for section in PAGES[name].split("\n## ")[1:]:
        title, _, given, *_ = section.split("\n")
        assert re.match(r"`[^`]+`, 20\d\d-\d\d-\d\d$", given), title
        for path in re.findall(r"(?:bench|tests)/\S+\.py", given):
            assert (ROOT / path).is_file(), title


def test_the_numbers_of_readme_have_their_command_and_date():
    rows = PAGES["README.md"].split("## Numbers")[1].split("\n## ")[0].split("---|\n")[1].split("\n\n")[0].splitlines()
    assert len(rows) > 5
    assert all(re.search(r"\| `[^`]+`, 20\d\d-\d\d-\d\d \|$", row) for row in rows)


def test_one_place_names_the_repository():
    """Badges and clones of pages and notebooks follow from pyproject.toml."""
    texts = PAGES | NOTEBOOKS
    assert sum(address() in text for text in texts.values()) >= 5
    place = address().removeprefix("https://github.com/")
    for name, text in texts.items():
        assert with_address(text, address()) == text, f"{name}: run make docs"
        assert place not in with_address(text, "https://github.com/somebody/fork"), name


ERRORS = """
def check(path, many):
    if many:
        todo = f"Name one of {many}."
    else:
        todo = "Name one."
    if path:
        found = f"{path} | is <wrong>."
        raise UserError("path-wrong", found, "It must be *right*:", todo)
    found = "Nothing is there."
    raise RunError("path-absent", found, "Make it: " + todo)
"""


def test_troubleshooting_has_every_error_in_all_its_wordings(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/check.py").write_text(ERRORS)
    section = troubleshooting_page(messages_in(tmp_path / "train/check.py"), tmp_path).split("## Training\n")[1]
    assert r"| `path-wrong` | … \| is \<wrong>. | It must be \*right\*: Name one of …. / Name one. |" in section
    assert "| `path-absent` | Nothing is there. | Make it: Name one of …. / Make it: Name one. |" in section


# --------------------------------------------------------------- README and three pages of docs/ have Chinese twins

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
def test_both_have_the_same_headings_and_code_and_lead_to_each_other(english, chinese):
    assert levels(PAGES[english]) == levels(PAGES[chinese])
    assert code(PAGES[english]) == code(PAGES[chinese])
    back = re.search(r"\[English\]\(([^)]+)\) \| 简体中文", PAGES[chinese])
    assert (ROOT / chinese).parent.joinpath(back[1]).resolve() == ROOT / english
    forth = re.search(r"English \| \[简体中文\]\(([^)]+)\)", PAGES[english])
    assert (ROOT / english).parent.joinpath(forth[1]).resolve() == ROOT / chinese


@each_pair
def test_no_sentence_is_left_in_english(english, chinese):
    prose = re.sub(r"`[^`\n]*`|\]\([^)]*\)", " ", BLOCK.sub("", PAGES[chinese]))
    for line in prose.splitlines():
        assert not re.search(r"\b(a|and|are|in|is|no|that|the|with)\b", line, re.ASCII), line


def test_every_code_explained_in_chinese_is_one():
    known = set(re.findall(r"^\| `([a-z0-9-]+)` \|", PAGES["docs/troubleshooting.md"], re.M))
    explained = re.findall(r"^\| `([a-z0-9-]+)` \|", PAGES["docs/zh/troubleshooting.md"], re.M)
    assert len(explained) > 40
    assert set(explained) <= known
