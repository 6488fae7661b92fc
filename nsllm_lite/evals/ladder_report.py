"""The tables, the words and the picture of an adaptation ladder, all from ladder.json."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.disk import save_picture, write_atomic
from nsllm_lite.terminal import as_markdown, markdown

TITLES = {
    "gain": "gain, bits per byte",
    "per_million_bytes": "gain per 10^6 bytes of text",
    "share": "gain as a share of what was there",
}
VERDICTS = {True: "yes", False: "no", None: "not judged"}


def write_report(results: dict[str, Any], out: Path) -> None:
    """Writes ladder.md and ladder.png into `out`, and prints the first."""
    text = "\n".join(lines_of(results))
    write_atomic(out / "ladder.md", text + "\n")
    draw(results, out / "ladder.png")
    markdown(text)


def lines_of(results: dict[str, Any]) -> Iterator[str]:
    bases, training, budget = results["bases"], results["training"], results["budget"]
    domain, general = results["heldout"]["domain"], results["heldout"]["general"]
    yield f"# Adaptation ladder: {', '.join(base['name'] for base in bases)}"
    yield ""
    yield f"The same training of each base: {budget['steps']:,} steps of {budget['tokens_per_step']:,} tokens at most, "
    yield f"{training['adapter'] or 'all weights'} on {_held(training['quantisation'])}, learning rate "
    yield f"{training['learning_rate']:g}, seeds {', '.join(map(str, training['seeds']))}; equal {results['equal']}. "
    yield f"Scored on {domain['documents']:,} held-out papers ({domain['bytes']:,} bytes)."
    yield "Intervals are 95 %: over seeds by Student's t, over papers by resampling them."
    few = results["min_documents"]
    if any(0 < of["documents"] < few for of in (domain, general)):
        yield f"Of fewer than {few} held-out papers or passages there is no interval over them, and no verdict."
    yield ""
    heads = ("base", "before", "after", "gain", "over seeds", "over papers", "share gained")
    rows = [
        (base["name"], f"{base['domain']['before']:.4f}", f"{base['after']['value']:.4f}", *_cells(base["gain"], 4),
         f"{base['share']['value']:.1%}") for base in bases
    ]  # fmt: skip
    yield "Held-out papers, bits per byte:"
    yield ""
    yield as_markdown(heads, rows, right=heads[1:])
    yield ""
    yield "What was read for it, replay included, as a mean over seeds; gains are in bits per byte:"
    yield ""
    heads = (
        "base", "seeds", "steps", "tokens", "bytes", "bytes a token", "epochs", "gain per 10^6 bytes", "over seeds",
        "over papers", "gain per 10^6 tokens", "of tokens, over seeds",
    )  # fmt: skip
    yield as_markdown(heads, [_read(base) for base in bases], right=heads[1:])
    yield ""
    yield from _control(bases, general)
    yield ""
    yield from _differences(results["differences"])
    yield ""
    yield from _limits(results)


def _held(quantisation: str) -> str:
    return "the base in NF4" if quantisation == "nf4" else "the base as it is"


def _cells(figure: dict[str, Any], digits: int) -> tuple[str, str, str]:
    return (
        f"{figure['value']:+.{digits}f}",
        _interval(figure["over_seeds"], digits),
        _interval(figure["over_documents"], digits),
    )


def _interval(bounds: Sequence[float] | None, digits: int) -> str:
    return "too few" if bounds is None else f"{bounds[0]:+.{digits}f} to {bounds[1]:+.{digits}f}"


def _read(base: dict[str, Any]) -> tuple[str, ...]:
    steps = sorted(set(base["steps"]))
    tokens = base["per_million_tokens"]
    return (
        base["name"],
        f"{base['seeds']}",
        f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}",
        f"{base['tokens']:,.0f}",
        f"{base['bytes']:,.0f}",
        f"{base['bytes_per_token']:.2f}",
        f"{base['epochs']:.2f}",
        *_cells(base["per_million_bytes"], 3),
        f"{tokens['value']:+.3f}",
        _interval(tokens["over_seeds"], 3),
    )


def _control(bases: list[dict[str, Any]], general: dict[str, int]) -> Iterator[str]:
    if not general["documents"]:
        yield "Control: no general text is held out, so that what each base forgot is not known."
        return
    yield f"Control, {general['documents']:,} held-out passages of general text ({general['bytes']:,} bytes), bits per "
    yield "byte; lost is after minus before:"
    yield ""
    heads = ("base", "before", "after", "lost", "over seeds", "over passages")
    rows = [
        (base["name"], f"{base['general']['before']:.4f}", f"{base['general_after']['value']:.4f}",
         *_cells(base["general_lost"], 4)) for base in bases
    ]  # fmt: skip
    yield as_markdown(heads, rows, right=heads[1:])


def _differences(differences: list[dict[str, Any]]) -> Iterator[str]:
    yield "Differences between bases, the first minus the second; beyond chance where neither interval holds 0:"
    yield ""
    heads = ("bases", "of", "difference", "over seeds", "over papers", "beyond chance")
    rows = [
        (
            f"{pair['one']} - {pair['other']}",
            title,
            *_cells(pair[key], 4),
            VERDICTS[pair[key]["beyond_chance"]],
        )
        for pair in differences
        for key, title in TITLES.items()
    ]
    yield as_markdown(heads, rows, right=heads[2:5])
    if len(differences) > 1:
        yield ""
        yield f"{len(differences)} pairs are judged, each at 95 %: among equal bases about one pair in twenty or fewer "
        yield "would be called different."


def _limits(results: dict[str, Any]) -> Iterator[str]:
    bases = results["bases"]
    yield "What this does not say:"
    yield ""
    rate = results["training"]["learning_rate"]
    yield f"- One learning rate, {rate:g}, served all bases. Another may be better for one of them: repeat the ladder"
    yield "  with other rates (train.optimizer.learning_rate=...) before calling a base rigid."
    yield "- A base may gain less because it was better before, or because it has read such papers already. The column"
    yield "  `before` and the share gained show the first; nothing here shows the second."
    yield "- A run with a learning rate of 0 gains 0 by construction; it is not run."
    if len({round(base["bytes_per_token"], 3) for base in bases}) > 1:
        yield "- The bases cut the text in tokens of different length; bits per byte, and gains per byte, compare them."
        yield "  A row of as many tokens holds more text where tokens are longer, and the first token of each document,"
        yield "  which is not predicted, counts as text."
    if len({round(base["replay_share"], 4) for base in bases}) > 1:
        shares = ", ".join(f"{base['name']} {base['replay_share']:.2%}" for base in bases)
        yield f"- The shares of replay differ ({shares}): there is too little general text for that of the recipe."
    if (most := max(base["epochs"] for base in bases)) > 1:
        yield f"- The papers were seen up to {most:.1f} times: the gain is of this text and this length of training."


def draw(results: dict[str, Any], png: Path) -> None:
    """Bits per byte before and after, on papers and general text, and the gain per 10^6 bytes with both intervals."""
    from matplotlib.figure import Figure

    bases = results["bases"]
    places = range(len(bases))
    names = [base["name"] for base in bases]
    figure = Figure(figsize=(11, 1.8 + 0.6 * len(bases)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    lines = [("domain", "after", "C0", "papers", 0.1)]
    lines += [("general", "general_after", "C1", "general", -0.1)] if "general" in bases[0] else []
    for name, after, color, label, shift in lines:
        for place, base in zip(places, bases, strict=True):
            values = (base[name]["before"], base[after]["value"])
            left.annotate("", (values[1], place + shift), (values[0], place + shift), arrowprops={"arrowstyle": "->",
                          "color": color})  # fmt: skip
            left.plot(values, [place + shift] * 2, color=color, marker=".", label=label if not place else None)
    left.set(xlabel="bits per byte, before -> after", yticks=list(places), yticklabels=names)
    left.legend(fontsize="small")
    for key, label, color, shift in (
        ("over_seeds", "over seeds", "C0", 0.1),
        ("over_documents", "over papers", "C2", -0.1),
    ):
        gains = [base["per_million_bytes"] for base in bases]
        if gains[0][key] is None:
            continue
        values = [gain["value"] for gain in gains]
        ends = [[value - gain[key][0] for value, gain in zip(values, gains, strict=True)],
                [gain[key][1] - value for value, gain in zip(values, gains, strict=True)]]  # fmt: skip
        right.errorbar(
            values, [place + shift for place in places], xerr=ends, fmt="o", color=color, capsize=3, label=label
        )
    right.axvline(0, color="0.6", linewidth=0.8)
    right.set(xlabel="gain in bits per byte, per 10^6 bytes of text")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.set_ylim(len(bases) - 0.5, -0.5)
    figure.suptitle(f"The same training on {len(bases)} bases, equal {results['equal']}")
    save_picture(figure, png)
