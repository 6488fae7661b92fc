"""A run as one page of HTML with its pictures in it: `nsllm-lite show RUN --html FILE`."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.json_files import read_json
from nsllm_lite.artifact.lineage import Step

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; display: block; overflow-x: auto }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left; white-space: nowrap }
td.long { white-space: normal; min-width: 24rem }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 13px } img { max-width: 100% }
h2 { margin-top: 2.5rem; border-bottom: 2px solid #2a7f62 }"""
OUTCOMES = ("in", "kept", "heldout", "duplicate", "dropped", "unused")


def write_page(
    html: Path, title: str, tree: str, trained: tuple[Sequence[str], Iterable[Sequence[str]]], curves: Path | None,
    steps: Iterable[Step],
) -> None:  # fmt: skip
    """`tree` is the lineage as text, `trained` the heads and lines of the trainings' table, `curves` their picture."""
    parts = [f"<h1>{escape(title)}</h1>", "<h2>Where it comes from</h2>", f"<pre>{escape(tree)}</pre>"]
    done = {step.kind: step for step in steps}  # of several of a kind the last
    if corpus := done.get("corpus"):
        parts += ["<h2>What became of every record</h2>", _ledger(corpus), *_picture(corpus.folder / "ledger.png")]
    heads, lines = trained
    if lines := list(lines):
        parts += ["<h2>Training</h2>", _table(heads, lines), *(_picture(curves) if curves else ())]
    if report := done.get("report"):
        parts += ["<h2>Held-out losses</h2>", _markdown(report.folder / "report.md")]
        parts += _picture(report.folder / "report.png")
    for scores in (step for step in steps if step.kind == "eval"):
        parts += [f"<h2>Scores: {escape(scores.folder.name)}</h2>", _markdown(scores.folder / "report.md")]
        parts += [*_picture(scores.folder / "radar.png"), *_picture(scores.folder / "bars.png")]
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    body = "\n".join(parts)
    html.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(html, f"{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n")


def _ledger(corpus: Step) -> str:
    path = corpus.folder / "ledger.json"
    documents: dict[str, dict[str, Any]] = read_json(path)["documents"] if path.is_file() else {}
    lines = []
    for source, counts in documents.items():
        dropped = counts["dropped"]
        numbers = counts | {"dropped": sum(dropped.values())}
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(dropped.items(), key=lambda item: -item[1]))
        lines.append((source, *(f"{numbers[name]:,}" for name in OUTCOMES), reasons))
    return _table(("source", *OUTCOMES, "dropped for"), lines)


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = ["".join(f"<td{' class=long' * (len(cell) > 60)}>{escape(cell)}</td>" for cell in line) for line in lines]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _markdown(path: Path) -> str:
    """What a step wrote as Markdown; HTML within it is shown, not obeyed."""
    from markdown_it import MarkdownIt

    if not path.is_file():
        return ""
    text = "\n".join(line for line in path.read_text(encoding="utf-8").split("\n") if not line.startswith("# "))
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link"]).render(text)


def _picture(png: Path) -> list[str]:
    if not png.is_file():
        return []
    return [f'<img alt="{escape(png.stem)}" src="data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}">']
