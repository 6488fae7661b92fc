"""Writes what the pages take from the code: `make docs`.

Whole pages: cli.md (the parser), recipes.md (the recipe types), troubleshooting.md (the errors). In other files: the
tables of cards and models in training.md (the planner), that of formats and fields in corpus.md (the readers), the
set-up of the notebooks (the first's), and the repository's address (pyproject.toml) in every page and notebook.
"""

import argparse
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import tokenize
import tomllib
from collections.abc import Iterator
from inspect import getdoc, getsource
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from docs.messages import Message, messages  # noqa: E402
from nsllm_lite import cli  # noqa: E402
from nsllm_lite.commands import arguments  # noqa: E402
from nsllm_lite.corpus import sources  # noqa: E402
from nsllm_lite.formats.documents import STATED  # noqa: E402
from nsllm_lite.models.sizes import QWEN3  # noqa: E402
from nsllm_lite.recipe.corpus import Source  # noqa: E402
from nsllm_lite.recipe.kinds import KINDS  # noqa: E402
from nsllm_lite.recipe.values import Strict  # noqa: E402

GENERATED = "<!-- Written by `make docs`; edit docs/generate.py or the code, not this page. -->\n\n"
GIB = 2**30
MAX_WORDINGS = 4  # of one message on the page

AREAS = {
    "Command line and recipes": ("cli.py", "commands", "recipe", "errors.py"),
    "Files, folders and disk": ("artifact", "formats", "safety.py"),
    "Model and card": ("models", "kernels"),
    "Corpus": ("corpus",),
    "Training": ("train",),
    "Merging": ("merge",),
    "Tasks and scores": ("tasks", "science", "evals", "retrieval"),
}
"""Title of a section of troubleshooting.md -> the rooms of the package whose errors stand there."""

CARDS = (
    ("", 7.5, "0.6b"), ("", 11.5, "1.7b"), ("T4", 14.6, "1.7b"), ("", 15.5, "4b"),
    ("L4", 22, "8b"), ("4090", 23.5, "8b"), ("5090", 31.3, "8b"), ("A100", 39.4, "8b"), ("L40S", 44.4, "8b"),
    ("A6000", 47.4, "8b"), ("A100 80GB", 79, "8b"), ("H100", 79, "8b"), ("H200", 139, "8b"),
    ("A100", 39.4, "14b"), ("A6000", 47.4, "14b"), ("H100", 79, "14b"), ("H200", 139, "14b"),
)  # fmt: skip
"""(card, GiB of its memory to plan with, size of Qwen3)."""


def cell(text: str) -> str:
    """A text within a Markdown table."""
    return re.sub(r"([|<*])", r"\\\1", " ".join(text.split())).replace("……", "…")


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]], right: int = 0) -> str:
    """A Markdown table; its last `right` columns are aligned to the right."""
    sides = ["---"] * (len(heads) - right) + ["---:"] * right
    lines = (heads, *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], tuple(sides), *lines[1:])) + "\n"


# ------------------------------------------------------------------------------------------------------- cli.md


def cli_page() -> str:
    parser = arguments.build_parser()
    verbs: Any = next(action for action in parser._actions if action.dest == "verb")
    known = arguments.verbs_in_order()
    sections = [_verb_section(name, known[name].examples, verbs.choices[name]) for name in known]
    status = parser.epilog.partition("exit status:\n")[2]
    rows = [(f"`{code}`", cell(words)) for code, words in re.findall(r"^  (\d+) +(.+)$", status, re.MULTILINE)]
    head = (
        "# Commands\n\nEach command is `nsllm-lite VERB ...`; `make` calls the same ones. `nsllm-lite VERB --help` "
        "prints what stands here.\n\n"
    )
    overview = table(("verb", "what it does"), [(f"[`{name}`](#{name})", cell(known[name].does)) for name in known])
    return GENERATED + head + overview + "\n## Exit status\n\n" + table(("status", "meaning"), rows) + "".join(sections)


def _verb_section(name: str, examples: tuple[str, ...], parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if action.dest == "help":
            continue
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
        word = " ".join((*action.option_strings, value)).strip() or action.dest
        rows.append((f"`{word.replace('|', chr(92) + '|')}`", cell(action.help or "")))
    shown = "\n```bash\n" + "\n".join(examples) + "\n```\n" if examples else ""
    return f"\n## {name}\n\n{parser.description}\n\n" + table(("word", "meaning"), rows) + shown


# --------------------------------------------------------------------------------------------------- recipes.md


def recipes_page() -> str:
    head = (
        "# Recipes\n\nA recipe is one YAML file with every value in it; an unknown key is an error that says what to "
        "type instead, also for the names of transformers and TRL, PEFT, Axolotl, LLaMA-Factory, Unsloth and "
        "lm-evaluation-harness (`lr=1e-4` and `--lr 1e-4` are `optimizer.learning_rate=1e-4`). `key=value` words on "
        "the command line change values (`step.key=value` in a whole run); where `budget.steps` is changed alone, "
        "`budget.tokens` follows. Keys without a default must be given. In a whole run the paths follow from the "
        "run's folder, and are left out. In every path `~`, `$VAR` and `${VAR}` are replaced; a variable that is not "
        "set is an error. Values are read by their type, so that the language `no` and the folder `12:30` are what "
        "they look like; `on`, `off`, `yes` and `no` are true and false.\n"
    )
    return GENERATED + head + "".join(_kind_section(name) for name in KINDS)


def _kind_section(name: str) -> str:
    cls = KINDS[name].recipe
    rows = [row for row in _rows(cls) if row[0] != "`kind`"]
    parts = dict(reversed([*_parts(cls)]))  # of a type that stands twice, the first
    notes = "".join(f"- `{key}`: {_doc(part)}\n" for part, key in reversed(parts.items()) if _doc(part))
    text = f"\n## {name}\n\n{KINDS[name].summary[0].upper() + KINDS[name].summary[1:]}. {_doc(cls)}\n\n"
    return text + table(("key", "value", "default"), rows) + (f"\n{notes}" if notes else "")


def _doc(cls: type[Strict]) -> str:
    return " ".join((getdoc(cls) or "").split()) if cls.__doc__ else ""


def _rows(cls: type[Strict], prefix: str = "", seen: dict[type, str] | None = None) -> Iterator[tuple[str, str, str]]:
    """(key, value, default) of each field, those of inner types with dotted keys, each type once."""
    seen, comments = {} if seen is None else seen, _comments(cls)
    for name, field in cls.model_fields.items():
        key, inner = f"{prefix}{name}", _inner(field.annotation)
        words = _words(field.annotation, field.metadata)
        if inner in seen:
            words = words.replace("keys below", f"keys as of `{seen[inner]}`")
        if name in comments:
            words += f"; {comments[name]}"
        if field.annotation is not inner:  # not always there, or several: it has a line of its own
            default = "" if field.is_required() else f"`{_yaml(field.default)}`"
            yield f"`{key}`", cell(words), cell(default)
        if inner and inner not in seen:
            seen[inner] = key
            yield from _rows(inner, f"{key}.", seen)


def _yaml(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _parts(cls: type[Strict], prefix: str = "") -> Iterator[tuple[type[Strict], str]]:
    """The inner types, each with its key."""
    for name, field in cls.model_fields.items():
        if inner := _inner(field.annotation):
            yield inner, f"{prefix}{name}"
            yield from _parts(inner, f"{prefix}{name}.")


def _inner(annotation: Any) -> type[Strict] | None:
    """The recipe type inside `X`, `X | None` or `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _inner(arg))), None)


def _comments(cls: type[Strict]) -> dict[str, str]:
    """The remarks behind the fields of a type."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(getsource(cls)).readline):
        field = re.match(r"\s+(\w+):", token.line)
        if token.type == tokenize.COMMENT and field and not token.string.startswith("# fmt"):
            found[field[1]] = token.string.removeprefix("# ")
    return found


def _words(annotation: Any, metadata: tuple | list = ()) -> str:
    """What a value may be, in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(args[0], [bound for extra in args[1:] for bound in getattr(extra, "metadata", [extra])])
    if origin in (Union, UnionType):
        return " or ".join("none" if arg is NoneType else _words(arg, metadata) for arg in args)
    if origin is Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin is list:
        return f"list of {_words(args[0])}"
    if origin is tuple:
        return f"[{', '.join(_words(arg) for arg in args)}]"
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return "keys below"
    bounds = {key: getattr(bound, key) for bound in metadata for key in ("ge", "gt", "le", "lt") if hasattr(bound, key)}
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    signs = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    limits = " ".join(f"{sign} {bounds[key]:,}" for key, sign in signs.items() if key in bounds)
    return " ".join(filter(None, (names.get(annotation, str(annotation)), limits)))


# ------------------------------------------------------------------------------------------ troubleshooting.md


TROUBLESHOOTING = """# When something goes wrong

English | [简体中文](zh/troubleshooting.md)

Every error says what was found and what to do, and ends with its code in square brackets; find the code here. `…`
stands for what the program fills in. Exit status 2: nothing was lost. Exit status 3: the run stopped itself; remove the
cause and run the same command again, it continues. `nsllm-lite doctor` checks the machine.
"""


def troubleshooting_page(found: list[Message], package: Path) -> str:
    """Each error of the package, by area."""
    of_room = {room: title for title, rooms in AREAS.items() for room in rooms}
    sections: dict[str, dict[str, tuple[str, str, str]]] = {title: {} for title in AREAS}
    for message in found:
        room = message.path.relative_to(package).parts[0]
        rows = sections.setdefault(of_room.get(room, room.removesuffix(".py").capitalize()), {})
        was, *todo = map(_wordings, message.parts)
        rows.setdefault(message.code, (f"`{message.code}`", was, " ".join(todo)))
    return GENERATED + TROUBLESHOOTING + "".join(
        f"\n## {title}\n\n" + table(("code", "what was found", "what to do"), [rows[code] for code in sorted(rows)])
        for title, rows in sections.items()
        if rows
    )  # fmt: skip


def _wordings(part: list[str]) -> str:
    return " / ".join(cell(words) for words in [*dict.fromkeys(filter(None, part))][:MAX_WORDINGS])


# ---------------------------------------------------------------------------------- the planner's tables, address


def planned(*words: str) -> tuple[dict, str]:
    """The figures and the printed lines of `nsllm-lite plan --json WORDS`, as on a machine without a measured speed."""
    with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stdout(io.StringIO()) as out:
        before, os.environ["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME"), cache
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            status = cli.main(["plan", *words, "--json", "--out", str(Path(cache) / "run")])
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before
    assert status == 0, printed.getvalue()
    return json.loads(out.getvalue()), printed.getvalue()


def cards_table() -> str:
    rows = []
    for card, vram_gib, name in CARDS:
        named = ("--card", card) if card else ()
        figures, size = planned("--size", name, "--vram", str(vram_gib), *named)[0], QWEN3[name][2]
        how = figures["execution"]
        recomputed = f"{how['recompute_layers']} of {size.layers}" + (", cheap" if how["recompute_cheap"] else "")
        hours = " + ".join(f"{of:.1f}" for of in figures["hours"].values()) if card else "—"
        memory = f"{sum(figures['memory_bytes'].values()) / GIB:.1f}"
        held = "dequantised" if how["dequantised"] else "as NF4"
        rows.append(
            (card or "any", f"{vram_gib:g}", name, str(how["micro_batch_rows"]), recomputed, held, memory, hours)
        )
    heads = ("card", "`--vram`", "size", "rows", "layers recomputed", "NF4 weights held", "GiB", "phases 1 + 2, hours")
    return table(heads, rows, right=2)


def models_table() -> str:
    rows = []
    for name, (hub_id, least_gib, _) in reversed(QWEN3.items()):
        printed = planned("--size", name, "--vram", "139")[1]
        download, disk = (re.search(rf"^{word} +([\d.]+ GiB)", printed, re.M)[1] for word in ("Download", "Disk"))
        rows.append((name, hub_id, "only on request" if name == "14b" else f"{least_gib} GiB", download, disk))
    return table(("`SIZE=`", "model", "chosen from", "download", "disk: base and two merged models"), rows, right=3)


def stated_table() -> str:
    """What each reader takes from its files in tests/faults/seeds, of what papers state about themselves."""
    seeds, rows = ROOT / "tests/faults/seeds/read", []
    fields = tomllib.loads((ROOT / "tests/data/sources/stated.toml").read_text())["map"]
    for path in sorted(seeds.glob("*/stated*")):
        form = path.parent.name
        own = {"format": "fields", "fields": fields} if form == "fields" else {}
        source = Source(name=form, path=str(path), **own)
        papers = [paper for file in sources.files_of(source) for paper in sources.read(source, file, general=False)]
        kind = path.stem.removeprefix("stated").replace("-", " ").strip()
        cells = ("yes" if any(getattr(paper, name) for paper in papers) else "–" for name in STATED)
        rows.append((f"{form} ({kind})" if kind else form, *cells))
    return table(("format", *STATED), rows)


def address() -> str:
    """The repository's address: pyproject.toml states it, and nothing else does."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def with_address(text: str, url: str) -> str:
    """`text` with the repository's address where pages and notebooks link to it: badges, clones, issues."""
    place = url.removeprefix("https://github.com/")
    text = re.sub(r"(colab\.research\.google\.com/github/)[\w.-]+/[\w.-]+(/blob/)", rf"\g<1>{place}\2", text)
    text = re.sub(r'(REPOSITORY = \\?")https://[^"\\]+', rf"\g<1>{url}", text)
    return re.sub(r"(git clone )https://\S+", rf"\g<1>{url}", text)


def with_block(text: str, name: str, block: str) -> str:
    """`text` with what stands between the comments `name` and `/name` replaced."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = text.split(begin)
    return before + begin + block + end + rest.split(end)[1]


def with_set_up(text: str, first: str) -> str:
    """A notebook's `text` with the part of its first cell that all share as it stands in the `first` notebook."""
    shared = re.compile(r'"# From here to the dashes.*?"# -{111}', re.S)
    return shared.sub(lambda _: shared.search(first)[0], text)


def pages() -> dict[Path, str]:
    """Every file that `make docs` writes, with its text."""
    docs, url = ROOT / "docs", address()
    texts = {
        docs / "cli.md": cli_page(),
        docs / "recipes.md": recipes_page(),
        docs / "troubleshooting.md": troubleshooting_page(messages(ROOT / "nsllm_lite"), ROOT / "nsllm_lite"),
    }
    training = (docs / "training.md").read_text()
    texts[docs / "training.md"] = with_block(with_block(training, "cards", cards_table()), "models", models_table())
    corpus = docs / "corpus.md"
    texts[corpus] = with_block(corpus.read_text(), "stated", stated_table())
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    texts |= {path: with_set_up(path.read_text(), notebooks[0].read_text()) for path in notebooks}
    for path in (*ROOT.glob("*.md"), *docs.rglob("*.md"), *notebooks):
        texts[path] = with_address(texts.get(path) or path.read_text(), url)
    return texts


def main() -> None:
    os.chdir(ROOT)
    for path, text in pages().items():
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
