"""A run as one page of HTML with its pictures in it: `nsllm-lite show RUN --html FILE`."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nsllm_lite import terminal
from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.artifact.lineage import Step

STYLE = Path(__file__).with_name("page.css").read_text()
OUTCOMES = ("in", "kept", "heldout", "duplicate", "dropped", "unused")


def write_page(
    html: Path, title: str, tree: str, trained: tuple[Sequence[str], Iterable[Sequence[str]]], curves: Path | None,
    steps: Iterable[Step],
) -> None:  # fmt: skip
    """`tree` is the lineage as text, `trained` the heads and lines of the trainings' table, `curves` their picture."""
    parts = [f"<h1>{escape(title)}</h1>", "<h2>Where it comes from</h2>", f"<pre>{escape(tree)}</pre>"]
    heads, lines = trained[0], list(trained[1])
    if lines:
        parts += ["<h2>Training</h2>", terminal.as_html(heads, lines), *([_picture(curves)] if curves else ())]
    shown = [step for step in steps if step.about.shown]
    for step in shown:
        is_one = sum(other.kind == step.kind for other in shown) == 1
        parts += [f"<h2>{escape(step.about.title)}{'' if is_one else escape(f': {step.folder.name}')}</h2>"]
        parts += [_shown(step.folder / name) for name in step.about.shown]
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    html.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(html, "\n".join([f"{head}<style>{STYLE}</style></head>", "<body>", *parts, "</body></html>", ""]))


def _shown(path: Path) -> str:
    """A file of a step as HTML, by its extension; empty where there is none."""
    if not path.is_file():
        return ""
    return {".md": _markdown, ".png": _picture, ".json": _ledger}[path.suffix](path)


def _ledger(path: Path) -> str:
    documents: dict[str, dict[str, Any]] = read_json(path)["documents"]
    lines = []
    for source, counts in documents.items():
        dropped = counts["dropped"]
        numbers = counts | {"dropped": sum(dropped.values())}
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(dropped.items(), key=lambda item: -item[1]))
        lines.append((source, *(f"{numbers[name]:,}" for name in OUTCOMES), reasons))
    return terminal.as_html(("source", *OUTCOMES, "dropped for"), lines)


def _markdown(path: Path) -> str:
    """A step's Markdown rendered; HTML in it is escaped."""
    from markdown_it import MarkdownIt

    text = "\n".join(line for line in path.read_text(encoding="utf-8").split("\n") if not line.startswith("# "))
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link"]).render(text)


def _picture(png: Path) -> str:
    return f'<img alt="{escape(png.stem)}" src="data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}">'
