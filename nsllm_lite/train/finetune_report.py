"""report.md of a fine-tuning: its scores beside what needs no understanding, and what they hang on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.recipe.finetune import Finetune
from nsllm_lite.tasks.floors import lost_to
from nsllm_lite.tasks.heads import MAIN
from nsllm_lite.tasks.scores import Difference
from nsllm_lite.terminal import as_markdown, markdown
from nsllm_lite.train.finetune_inputs import Data
from nsllm_lite.train.finetune_scores import WARM_UPS, mean_and_deviation


def write_report(recipe: Finetune, data: Data, results: dict[str, Any], measured: dict[str, Any]) -> None:
    """Writes report.md into the recipe's folder, and prints it."""
    text = "\n".join(lines_of(recipe, data, results, measured))
    write_atomic(Path(recipe.out) / "report.md", text + "\n")
    markdown(text)


def lines_of(recipe: Finetune, data: Data, results: dict[str, Any], measured: dict[str, Any]) -> Iterator[str]:
    seeds, main = results["seeds"], MAIN[recipe.task]
    saved = next(of for of in seeds if of["seed"] == results["saved_seed"])
    yield f"# {recipe.task}: {recipe.model}, train={recipe.train}"
    yield ""
    yield from data.words.split("\n")
    yield ""
    on = saved["scored_on"]
    chosen = "" if on == "test" else ", on which the epoch was chosen too: too good to be a test"
    yield f"Scores on the {on} examples{chosen}; intervals are 95 %, over resampled examples."
    yield ""
    heads = ("what", main, "interval", "n")
    rows = [_row(f"model, seed {saved['seed']}", saved["scores"][main])]
    rows += [_row(f"floor: {name}", of) for name, of in results["floors"].items()]
    yield as_markdown(heads, rows, right=(main, "n"))
    yield ""
    for words in (below_floor(saved, main), labels_not_found(saved)):
        if words:
            yield words
            yield ""
    mean, deviation = mean_and_deviation([of["scores"][main]["value"] for of in seeds])
    of_all = ", ".join(f"{of['seed']}: {of['scores'][main]['value']:.4f}" for of in seeds)
    spread = f", standard deviation {deviation:.4f}" if deviation is not None else ""
    yield f"Seeds ({len(seeds)}): mean {mean:.4f}{spread} ({of_all}). Saved is that of the best development score, "
    yield f"{saved['best']:.4f}, seed {saved['seed']}, epoch {saved['epoch']}."
    yield ""
    yield "All figures of the saved model:"
    yield ""
    yield as_markdown(
        ("metric", "value", "interval", "n", "with it"),
        [(*_row(name, saved["scores"][name]), with_label(name, saved)) for name in in_order(saved["scores"], main)],
        right=("value", "n", "with it"),
    )
    yield ""
    yield as_markdown(("length", main, "n"), [(of["length"], f"{of['value']:.4f}", f"{of['n']:,}")
                                              for of in saved["by_length"]], right=(main, "n"))  # fmt: skip
    yield ""
    if saved["words_without_token"]:
        yield f"{saved['words_without_token']:,} words have no token of their own; each goes on with the word before."
        yield ""
    if saved["tags_that_begin_nothing"]:
        yield f"{saved['tags_that_begin_nothing']:,} tags I- follow no tag of their type, and so are in no entity."
        yield ""
    if results["trials"]:
        yield "Search, by the development score:"
        yield ""
        rows = [(f"{of['learning_rate']:g}", str(of["epochs"]), str(of["epoch"]), f"{of['best']:.4f}")
                for of in results["trials"]]  # fmt: skip
        yield as_markdown(("learning rate", "epochs", "best epoch", "development"), rows, right=("development",))
        yield ""
    yield f"{results['parameters']:,} parameters, of which {results['trained_parameters']:,} were trained; "
    yield f"{results['bytes']:,} bytes of weights. A query takes {measured['query_ms']:g} ms (median of "
    yield f"{measured['queries']} after {WARM_UPS} to warm up, one at a time, on {measured['device']})."


def below_floor(saved: dict[str, Any], main: str) -> str:
    of = saved["beside_floor"]
    return lost_to("The model", of["floor"], main, Difference(*(of[key] for key in Difference._fields)))


def labels_not_found(saved: dict[str, Any]) -> str:
    """A sentence about the labels of items of which not one is found."""
    counts = {name.partition(" ")[2]: of["value"] for name, of in saved["scores"].items() if name.startswith("f1 ")}
    lost = [f"{name} ({saved['with_label'][name]:,})" for name, value in counts.items()
            if value == 0 and saved["with_label"].get(name)]  # fmt: skip
    return f"**Never found** (F1 is 0), with the number of items that have them: {', '.join(lost)}." if lost else ""


def in_order(scores: dict[str, Any], main: str) -> list[str]:
    """The main metric, the other ones, those of one label each."""
    return sorted(scores, key=lambda name: (name != main, " " in name, name))


def with_label(metric: str, saved: dict[str, Any]) -> str:
    """How many of the items have the label that a metric is of."""
    count = saved["with_label"].get(metric.partition(" ")[2])
    return "" if count is None else f"{count:,}"


def _row(name: str, of: dict[str, Any]) -> tuple[str, ...]:
    value, low, high = ("-" if of[key] is None else f"{of[key]:.4f}" for key in ("value", "low", "high"))
    return name, value, f"{low} to {high}" if of["value"] is not None else "-", f"{of['n']:,}"
