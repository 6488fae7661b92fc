"""`nsllm-lite runs` and `nsllm-lite show`: what was run, and where a model comes from."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nsllm_lite import terminal
from nsllm_lite.artifact.disk import GIB, save_picture
from nsllm_lite.artifact.lineage import DAMAGED, FINISHED, Step, find_steps, read_step
from nsllm_lite.commands.checks import ABSENT, AS_USED, CHANGED, Checked, checked_inputs
from nsllm_lite.commands.html_report import write_page
from nsllm_lite.errors import UserError
from nsllm_lite.safety import printable

HEADS = ("training", "tokens", "of its data", "held-out", "loss", "bits per byte", "tokens/s", "GiB")
Graph = dict[Path, tuple[Step, list[Checked]]]


def list_runs(folder: Path) -> dict[str, Any]:
    """Prints a line a step under `folder`; returns the same as figures."""
    steps = find_steps(folder)
    if not steps:
        print(f"No run in {folder}: no folder in it has a manifest.json or run.json.")
        return {"folder": str(folder), "runs": []}
    found = [figures_of(step) for step in steps]
    heads = ("run", "step", "made from", "finished (UTC)", "tokens", "loss, domain", "loss, general", "size", "state")
    lines = [
        (
            row["run"],
            f"{row['step']} {row['rows']}".strip(),
            ", ".join(_short(path, folder) for path in row["made_from"]),
            row["finished"].replace("T", " ")[:16],
            "" if row["tokens"] is None else f"{row['tokens']:,}",
            _arrow(row["loss"], "domain") or _arrow(row["loss"], "answers", "answers "),
            _arrow(row["loss"], "general"),
            f"{row['bytes'] / GIB:.1f} GiB" if row["bytes"] >= GIB / 10 else f"{row['bytes'] / 2**20:.1f} MiB",
            row["state"],
        )
        for row in found
    ]
    terminal.table(heads, lines, right=("tokens", "size"))
    return {"folder": str(folder), "runs": found}


def figures_of(step: Step) -> dict[str, Any]:
    """Figures of one step; losses in nats per token on held-out rows, sizes in bytes."""
    started, finished = step.dates()
    inputs = step.made_from()
    named = [one.path for one in inputs if one.label == step.about.main] or [one.path for one in inputs]
    return {
        "run": str(step.folder),
        "step": step.kind,
        "rows": step.rows,
        "state": step.state,
        "started": started,
        "finished": finished,
        "seconds": step.times.get("seconds"),
        "tokens": step.tokens(),
        "loss": {name: {"before": a["loss"], "after": b["loss"]} for name, (a, b) in step.losses().items()},
        "bytes": step.num_bytes(),
        "made_from": list(dict.fromkeys(named)),
    }


def _arrow(losses: dict[str, dict[str, float]], name: str, words: str = "") -> str:
    return f"{words}{losses[name]['before']:.3f} -> {losses[name]['after']:.3f}" if name in losses else ""


def _short(path: str, root: Path) -> str:
    """`path` relative to `root`; unchanged where it lies outside, or does not exist."""
    inside = Path(path).resolve()
    return str(inside.relative_to(root.resolve())) if inside.is_relative_to(root.resolve()) else path


def show(folder: Path, png: Path | None = None, html: Path | None = None) -> dict[str, Any]:
    """Prints the lineage of a step, or of a whole run, as a tree and its phases as a table; draws their curves.

    `html` gets all of it as one page, with the ledger, the held-out losses and the scores that were found. Raises
    UserError where there is no run in `folder`.
    """
    steps = [found] if folder.is_dir() and (found := read_step(folder)) else find_steps(folder)
    if not steps or all(step.state == DAMAGED for step in steps):
        found = f"{folder} is no run: neither it nor a folder in it has a manifest.json or run.json that can be read."
        raise UserError("run-not-found", found, "Name a folder that `nsllm-lite runs` lists, or one that holds such.")
    graph: Graph = {}
    for step in steps:
        if step.state != DAMAGED:
            _trace(replace(step, folder=step.folder.resolve()), graph)
    used = {one.step.folder for _, inputs in graph.values() for one in inputs if one.step}
    ends = [step.folder.resolve() for step in steps if step.folder.resolve() in graph.keys() - used]
    root = folder.resolve() if len(steps) > 1 else folder.resolve().parent
    seen: set[Path] = set()
    tree = "\n".join(line for end in ends for line in _tree(end, graph, root, seen))
    print(printable(tree))
    states = [one.state for _, inputs in graph.values() for one in inputs]
    if changed := states.count(CHANGED):
        checked = changed + states.count(AS_USED)
        print(f"\n{changed} of {checked} inputs have changed since: what stands there now is not what was read.")
    elif checked := states.count(AS_USED):
        print(f"\nOf {len(states)} inputs {checked} were hashed again: they are what was read.")
    for step, _ in graph.values():
        if stated := step.results.get("stated"):
            names = sorted({name for counts in stated.values() for name in counts})
            print(printable(f"\n{_short(str(step.folder), root)}: documents that state"))
            heads = ("source", *names, "of all")
            terminal.table(heads, list(_stated_in(step, names)), right=heads[1:])
    phases = [step for step, _ in graph.values() if step.about.curves]
    trained = (HEADS, list(_lines_of(phases, root)))
    if phases:
        print()
        terminal.table(*trained, right=("tokens", "of its data", "tokens/s", "GiB"))
    drawn = [step for step in phases if step.metrics()]
    if drawn:
        png = png or folder / "curves.png"
        draw_curves(drawn, png, root)
        print(printable(f"\n{png}: losses of {', '.join(_short(str(step.folder), root) for step in drawn)}"))
    if html:
        write_page(html, f"{folder}", tree, trained, png if drawn else None, [step for step, _ in graph.values()])
        print(f"{html}: all of it as one page")
    lineage = [figures_of(step) | {"inputs": list(map(_input_figures, inputs))} for step, inputs in graph.values()]
    return {"run": str(folder), "lineage": lineage, "curves": str(png) if drawn else None, "page": html and str(html)}


def _stated_in(step: Step, names: list[str]) -> Iterator[tuple[str, ...]]:
    """A line a source of a corpus: how many of its documents state each field, and how many there are."""
    for source, counts in step.results["stated"].items():
        found = step.results.get("documents", {}).get(source, {})
        total = sum(found.get(outcome, 0) for outcome in ("kept", "heldout"))
        yield (source, *(f"{counts.get(name, 0):,}" for name in names), f"{total:,}")


def _input_figures(one: Checked) -> dict[str, str | None]:
    made_by = str(one.step.folder) if one.step else None
    return {"label": one.label, "path": one.path, "state": one.state, "made_by": made_by}


def _trace(step: Step, graph: Graph, waiting: tuple[Path, ...] = ()) -> None:
    """Adds a step to `graph` behind all that it was made from: the oldest comes first."""
    if step.folder in graph or step.folder in waiting:
        return
    inputs = checked_inputs(step)
    for one in inputs:
        if one.step:
            _trace(one.step, graph, (*waiting, step.folder))
    graph[step.folder] = (step, inputs)


def _behind(folder: Path, graph: Graph) -> set[Path | str]:
    """All inputs of a step, transitively: folders of steps, and paths that no step made."""
    found: set[Path | str] = set()
    for one in graph[folder][1] if folder in graph else ():
        place = one.step.folder if one.step else one.path
        found |= {place} | (_behind(place, graph) if one.step else set())
    return found


def _tree(folder: Path, graph: Graph, root: Path, seen: set[Path], lead: str = "") -> list[str]:
    """A line for the step, and below it its inputs; a step already shown is printed once."""
    step, inputs = graph[folder]
    lines = [f"{_short(str(folder), root)}  {words_of(step)}"]
    if folder in seen:
        return [f"{lines[0]} (above)"]
    seen.add(folder)
    grouped: dict[Path | str, list[Checked]] = {}
    for one in inputs:
        grouped.setdefault(one.step.folder if one.step else one.path, []).append(one)
    deeper = set().union(*(_behind(place, graph) for place in grouped if isinstance(place, Path)))
    changed = {place: [one for one in group if one.state == CHANGED] for place, group in grouped.items()}
    shown = [(place, group) for place, group in grouped.items() if place not in deeper or changed[place]]
    for number, (place, group) in enumerate(shown):
        is_last = number == len(shown) - 1
        states = ", ".join(f"{one.label} {one.state}" for one in changed[place])
        if isinstance(place, Path):
            below = _tree(place, graph, root, seen)
        else:
            absent = "a hub id, or not here any more" if group[0].state == ABSENT else ""
            below = ["  ".join(filter(None, (place, group[0].words or absent)))]
        below[0] += f"  ({states})" if states else ""
        lines += [("└─ " if is_last else "├─ ") + below[0]]
        lines += [("   " if is_last else "│  ") + line for line in below[1:]]
    return lines


def words_of(step: Step) -> str:
    """What a step did, with its key figures, in one line."""
    tokens = f"{step.tokens() or 0:,} tokens"
    words = step.about.did(step.recipe, step.results, step.rows, tokens) if step.about.did else step.kind
    losses = (f"{name} {a['loss']:.3f} -> {b['loss']:.3f}" for name, (a, b) in step.losses().items())
    return ", ".join((words, *losses)) + ("" if step.state == FINISHED else f" ({step.state})")


def _lines_of(phases: Iterable[Step], root: Path) -> Iterator[tuple[str, ...]]:
    """Of each training a line a held-out set, with the columns of HEADS."""
    for step in phases:
        share = step.results.get("coverage") or step.results.get("epochs")
        speed, memory = (step.times.get(name) for name in ("train_tokens_per_s", "peak_memory_gib"))
        about = (f"{step.tokens() or 0:,}", f"{share:.2f} x" if share else "")
        measured = (f"{speed:,.0f}" if speed else "", f"{memory:.2f}" if memory else "")
        for name, pair in (step.losses() or {"": ()}).items():
            loss, bits = (
                " -> ".join(f"{figures[key]:.4f}" for figures in pair if key in figures)
                for key in ("loss", "bits_per_byte")
            )
            yield (_short(str(step.folder), root), *about, name, loss, bits, *measured)


def draw_curves(steps: list[Step], png: Path, root: Path) -> None:
    """One PNG, a panel a training: its loss and held-out losses over tokens, each on its own scale."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    from nsllm_lite.train.plot import draw_losses

    across = min(4, len(steps))
    down = -(-len(steps) // across)
    figure = Figure(figsize=(1 + 4 * across, 4.5 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False)
    for axes, step in zip(panels.flat, steps, strict=False):
        draw_losses(axes, step.metrics(), step.about.curves)
        axes.set(xlabel="tokens trained", title=_short(str(step.folder), root))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter())
    for axes in panels.flat[len(steps) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("loss, nats per token")
    png.parent.mkdir(parents=True, exist_ok=True)
    save_picture(figure, png)
