"""report.md of an encoder's training: held-out figures before and after, by source, beside their floors."""

from typing import Any

from nsllm_lite.terminal import as_markdown

SETS = {"masked": "Held-out papers", "general": "General text"}
BESIDE = "In brackets: 95 % over the papers."


def masked_report(results: dict[str, Any]) -> str:
    """Of `nsllm-lite mlm`: loss in nats a masked token, and the share told right."""
    before, after = results["heldout"]["before"], results["heldout"]["after"]
    parts = ["# Masked tokens"]
    for name, title in SETS.items():
        if name in after:
            parts += [f"## {title}", _table(before[name], after[name], ("loss", "top1"))]
    parts.append(BESIDE)
    parts.append("## Floors, on the same tokens of held-out papers")
    floors = [(name, f"{of['loss']:.4f}", f"{of['top1']:.1%}") for name, of in results["floors"].items()]
    parts.append(as_markdown(("table", "loss", "told right"), floors, right=("loss", "told right")))
    parts += [
        sentence for name, of in results["floors"].items() if (sentence := _judged(name, of, after["masked"]["all"]))
    ]
    return "\n\n".join(parts) + "\n"


def relations_report(results: dict[str, Any]) -> str:
    """Of `nsllm-lite distill`: the divergence of the student's relations from the teacher's, in nats a token."""
    before, after = (results["heldout"][when]["relations"] for when in ("before", "after"))
    parts = ["# Relations of teacher and student", _table(before, after, ("loss",)), BESIDE]
    of_all = after["all"]
    parts.append(f"Floor, a student to which all tokens are alike: {of_all['floor']:.4f}.")
    if of_all["interval"][1] >= of_all["floor"]:
        parts.append("**The student has not learnt more than that.**")
    return "\n\n".join(parts) + "\n"


def _table(before: dict[str, Any], after: dict[str, Any], figures: tuple[str, ...]) -> str:
    heads = ("source", "papers", "tokens", "loss before", "loss after", "told right before", "told right after")
    rows = []
    for source, now in after.items():
        was, row = before[source], [source, f"{now['papers']:,}", f"{now['tokens']:,}"]
        for figure in figures:
            look = "{:.4f}" if figure == "loss" else "{:.1%}"
            low, high = now["interval" if figure == "loss" else f"{figure}_interval"]
            row += [look.format(was[figure]), f"{look.format(now[figure])} ({look.format(low)} to {look.format(high)})"]
        rows.append(tuple(row))
    return as_markdown(heads[: len(rows[0])], rows, right=heads[1 : len(rows[0])])


def _judged(name: str, floor: dict[str, float], of_all: dict[str, Any]) -> str:
    """What is said where the model has not passed a floor beyond its interval; empty where it has."""
    low, high = of_all["interval"]
    if high < floor["loss"]:
        return ""
    if low > floor["loss"]:
        return f"**The table of {name} tells masked tokens better than this model (loss {floor['loss']:.4f}).**"
    return f"By loss this model cannot be told from the table of {name} ({floor['loss']:.4f})."
