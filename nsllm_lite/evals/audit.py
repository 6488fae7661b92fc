"""`nsllm-lite audit`: what is wrong with an evaluation or instruction file, before a score on it is trusted.

In each file: duplicates and conflicting labels (with the score that no model can exceed), faults of characters and
forms, shortcuts to its labels, letters or titles. Between files: items that stand within items of another.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import ftfy
import numpy as np

from nsllm_lite import terminal
from nsllm_lite.artifact.disk import require_writable
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.errors import UserError
from nsllm_lite.tasks import floors
from nsllm_lite.tasks.answers import rouge_l
from nsllm_lite.tasks.items import Item, normal, prompt_key, read_items
from nsllm_lite.tasks.labels import MAX_LABELS
from nsllm_lite.tasks.letters import lettered

LOST = "\ufffd"
MIN_PER_LABEL = 5  # rows on average, for outputs to be labels
MIN_TITLE_ROUGE = 0.1  # below, the outputs are no titles
MIN_PLACED = 50  # sentences found in another file, for their place to be judged
LEAK_WORDS = 8  # shorter items stand in many texts by chance
FOREIGN_SCRIPTS = ("CYRILLIC", "ARABIC", "SYRIAC", "HEBREW", "ARMENIAN", "THAANA", "COMBINING", "MODIFIER LETTER")
RARE_LATIN = re.compile("[\u0166\u0167\u0180-\u01cc\u01dd-\u0217\u021c-\u024f]")  # Extended B, no Pinyin or Romanian
DOUBLED_LETTER = re.compile(r"(?<![A-Za-z])(?!II|mm)(?<!\()([A-Za-z])\1(?![A-Za-z])")  # no numeral, no millimetres
GLUED_LATEX = re.compile(r"\S\\[a-zA-Z]{2,}")
URL = re.compile(r"https?://|www\.")


def kind_of(items: Sequence[Item]) -> str:
    """classification, multiple choice (of at least half the items, as `eval` reads them) or free text."""
    answers = {item.answer for item in items}
    if 2 * len(lettered(items)) >= len(items):
        return "multiple choice"
    is_labels = len(answers) <= MAX_LABELS and len(items) >= MIN_PER_LABEL * len(answers) > MIN_PER_LABEL
    return "classification" if is_labels else "free text"


def duplicates(items: Sequence[Item]) -> dict[str, Any]:
    """Rows that ask what another asks, as it is and in normal form; and those whose outputs contradict each other.

    Two rows ask the same if both instruction and input are the same. `ceiling` is the accuracy of a model that knows,
    for each of these, the output given most often.
    """
    exact, groups = Counter((item.instruction, item.input) for item in items), defaultdict(list)
    for item in items:
        groups[prompt_key(item)].append(item)
    repeated = [group for group in groups.values() if len(group) > 1]
    conflicting = [group for group in repeated if len({item.answer for item in group}) > 1]
    right = sum(max(Counter(item.answer for item in group).values()) for group in groups.values())
    return {
        "exact": sum(count - 1 for count in exact.values()),
        "normalised": sum(len(group) - 1 for group in repeated),
        "rows": [[item.number for item in group] for group in repeated],
        "conflicting": len(conflicting),
        "conflicting_rows": sorted(item.number for group in conflicting for item in group),
        "ceiling": right / len(items),
    }


def strange_letters(text: str) -> list[str]:
    """Single letters of another script, which a wrong decoding leaves (UTF-8 read as GBK: Ŧ, Ҧ, ئ)."""
    beyond = [letter for letter in text if ord(letter) > 127]
    odd = [x for x in beyond if RARE_LATIN.match(x) or unicodedata.name(x, "").startswith(FOREIGN_SCRIPTS)]
    return odd if len(odd) * 20 < sum(map(str.isalpha, text)) else []  # more of them: a text in that script


Checks = dict[str, tuple[Callable[[Item], object], str]]

CHARACTERS: Checks = {
    "lost_inputs": (lambda item: LOST in item.input, "inputs with lost characters (U+FFFD)"),
    "lost_outputs": (lambda item: LOST in item.output, "outputs with lost characters"),
    "repairable": (
        lambda item: ftfy.fix_encoding(text := item.input + item.output) != text,
        "rows whose encoding can be repaired (ftfy)",
    ),
    "strange_letters": (
        lambda item: strange_letters(item.input + item.output),
        "rows with single letters of foreign scripts: decoded wrongly, not repairable",
    ),
}
FORMS: Checks = {
    "doubled_letters": (
        lambda item: DOUBLED_LETTER.search(item.input),
        "inputs with doubled letters, as where a formula was written twice (nn, tt-PIR)",
    ),
    "glued_latex": (  # between dollars LaTeX is as it should be
        lambda item: "$" not in item.input and GLUED_LATEX.search(item.input),
        "inputs with LaTeX glued to text (n≥2n\\geq 2)",
    ),
    "urls": (lambda item: URL.search(item.input), "inputs with web addresses"),
    "answer_in_input": (
        lambda item: not item.choices and len(item.answer.split()) > 3 and normal(item.answer) in normal(item.input),
        "inputs hold their answer word for word",
    ),
    "reasoning_in_output": (
        lambda item: item.answer != item.output.strip(),
        "outputs with reasoning (<think>) before the answer: to be cut off before scoring",
    ),
}
"""{name: (whether an item has the fault, what is said of such items)}"""


def rows_with(checks: Checks, items: Sequence[Item]) -> dict[str, list[int]]:
    """{name of the check: numbers of the items that have its fault}"""
    return {name: [item.number for item in items if has_fault(item)] for name, (has_fault, _) in checks.items()}


def multiple_choice(items: Sequence[Item]) -> dict[str, Any]:
    answers, longest = [item.answer for item in items], 0
    for item in items:
        lengths = {letter: len(option) for letter, option in item.choices.items()}
        top = max(lengths.values())
        longest += lengths[item.answer] == top and list(lengths.values()).count(top) == 1
    return {
        "options": dict(sorted(Counter(len(item.choices) for item in items).items())),
        "letters": dict(sorted(Counter(answers).items())),
        "majority": floors.majority(answers),
        "equal_options": [item.number for item in items if len(set(item.choices.values())) < len(item.choices)],
        "gold_is_longest": longest / len(items),
    }


def classification(items: Sequence[Item], seed: int = 0) -> dict[str, Any]:
    """Balance, how each label's texts look, and two classifiers by cross-validation inside the file.

    `words` is the floor that a model should exceed: naive Bayes on words and pairs of words. `look` sees no word: every
    letter is masked, so that only case, digits, punctuation and foreign letters are left. What it predicts is a
    shortcut in the file.
    """
    texts, labels = [item.input for item in items], [item.answer for item in items]
    counts = dict(sorted(Counter(labels).items()))
    non_ascii = {
        label: np.mean([not item.input.isascii() for item in items if item.answer == label]) for label in counts
    }
    found: dict[str, Any] = {"labels": counts, "majority": floors.majority(labels), "non_ascii": non_ascii}
    if min(counts.values()) >= floors.FOLDS:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        look = make_pipeline(
            TfidfVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False, sublinear_tf=True),
            LogisticRegression(max_iter=2000, C=10),
        )
        masks = [masked(text) for text in texts]
        for name, classifier, seen in (("words", floors.bayes(), texts), ("look", look, masks)):
            f1 = floors.cross_validated(classifier, seen, labels, seed)
            found[name] = {"macro_f1": float(np.mean(list(f1.values()))), "f1": f1}
    return found


def masked(text: str) -> str:
    """Each letter a or A, each digit 0; what is not ASCII stays a class of its own."""
    ascii_only = re.sub(r"[^\x00-\x7f]", "\x01", text)
    return re.sub(r"[a-z]", "a", re.sub(r"[A-Z]", "A", re.sub(r"\d", "0", ascii_only)))


class Leak(NamedTuple):
    row: int
    other_row: int
    place: float  # where in the other's input it stands: 0 at its beginning, 1 at its end


def leaked(items: Sequence[Item], others: Sequence[Item]) -> list[Leak]:
    """The items whose input stands, in normal form, within an input of the others."""
    there = [normal(other.input) for other in others]
    by_gram: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(there):
        words = text.split()
        for gram in {" ".join(words[start : start + LEAK_WORDS - 2]) for start in range(len(words))}:
            by_gram[gram].append(number)
    found = []
    for item in items:
        text = normal(item.input)
        words = text.split()
        if len(words) >= LEAK_WORDS:  # the first and the last word may be cut
            gram = " ".join(words[1 : LEAK_WORDS - 1])
            place = next((number for number in by_gram.get(gram, ()) if text in there[number]), None)
            if place is not None:
                around = len(there[place]) - len(text)
                share = there[place].index(text) / around if around else 0.0
                found.append(Leak(item.number, others[place].number, share))
    return found


def by_position(items: Sequence[Item], leaks: Sequence[Leak]) -> dict[str, Any]:
    """How well the place of a sentence in its text alone tells its label."""
    from sklearn.metrics import f1_score

    by_number = {item.number: item.answer for item in items}
    labels = [by_number[leak.row] for leak in leaks]
    order, predicted = floors.position([leak.place for leak in leaks], labels)
    right = np.mean([one == other for one, other in zip(labels, predicted, strict=True)])
    return {"order": order, "accuracy": float(right), "macro_f1": float(f1_score(labels, predicted, average="macro"))}


def examine(items: Sequence[Item]) -> dict[str, Any]:
    """Every check that applies to one file."""
    found: dict[str, Any] = {"rows": len(items), "kind": kind_of(items)}
    asked = {item.number: item for item in (lettered(items) if found["kind"] == "multiple choice" else ())}
    found["duplicates"] = duplicates([asked.get(item.number, item) for item in items])
    lost = sum((item.input + item.output).count(LOST) for item in items)
    found |= {"characters": rows_with(CHARACTERS, items) | {"lost_characters": lost}, "forms": rows_with(FORMS, items)}
    if found["kind"] == "multiple choice":
        unfit = [item.number for item in items if item.number not in asked]
        found["choices"] = multiple_choice(list(asked.values())) | {"unfit": unfit}
    if found["kind"] == "classification":
        found["classes"] = classification(items)
    if found["kind"] == "free text":
        found["titles"] = {
            name: float(np.mean([rouge_l(rule(item.input), item.answer) for item in items]))
            for name, rule in floors.TITLE_RULES.items()
        }
    return found


def audit(paths: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """Prints what was found in each file and between them; with `out` writes it there as JSON, row numbers included.
    Raises UserError where a file cannot be read, or two have the same name."""
    names = [path.name if len({p.name for p in paths}) == len(paths) else str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UserError("audit-file-repeated", "A file is named twice.", "Name each file once.")
    if out:
        require_writable(out)
    files = {name: read_items(path) for name, path in zip(names, paths, strict=True)}
    found: dict[str, Any] = {"files": {}, "between": []}
    for name, items in files.items():
        about = found["files"][name] = examine(items)
        terminal.row((f"{name}: {about['rows']:,} rows, {about['kind']}",), ())
        terminal.table(("rows", "finding"), words_of(about), right=("rows",))
        print(flush=True)
    for here, there in permutations(files, 2):
        if not (leaks := leaked(files[here], files[there])):
            continue
        about = {"of": here, "in": there, "rows": [[leak.row, leak.other_row] for leak in leaks]}
        texts = len({leak.other_row for leak in leaks})
        print(
            f"{here}: {len(leaks):,} of {len(files[here]):,} inputs stand within {texts:,} of {there}'s: split by "
            "document, never train on one and test on the other"
        )
        classes = found["files"][here].get("classes", {"labels": ()})
        if 1 < len(classes["labels"]) <= floors.MAX_ORDERED and len(leaks) >= MIN_PLACED:
            about["position"] = by_position(files[here], leaks)
            print(
                f"  their place there alone tells the label: accuracy {about['position']['accuracy']:.3f}, macro-F1 "
                f"{about['position']['macro_f1']:.3f} (at the best thresholds for these rows)"
            )
        found["between"].append(about)
    if out:
        write_json(out, found)
        print(f"Row numbers of everything above: {out}")
    return found


def words_of(found: dict[str, Any]) -> list[tuple[str, str]]:
    """(count or nothing, words) of what was found in one file; what is in order is left out."""
    same = found["duplicates"]
    limit = f"{len(same['conflicting_rows'])} rows in all: no model can score above {same['ceiling']:.1%}"
    counted = [
        (same["exact"], "rows repeat another's instruction and input to the letter"),
        (same["normalised"], "rows repeat another's instruction and input but for case, spaces and punctuation"),
        (same["conflicting"], f"questions have different outputs, {limit}"),
    ]
    for checks, rows in ((CHARACTERS, found["characters"]), (FORMS, found["forms"])):
        counted += [(len(rows[name]), words) for name, (_, words) in checks.items()]
    counted.append((found["characters"]["lost_characters"], "lost characters in the file"))
    if choices := found.get("choices"):
        equal = choices["equal_options"]
        counted.append((len(equal), f"questions with equal options: rows {equal[:8]}"))
        unfit = choices["unfit"]
        counted.append((len(unfit), f"rows whose output names none of their options, which eval refuses: {unfit[:8]}"))
    lines = [(f"{count:,}", words) for count, words in counted if count]
    if (titles := found.get("titles")) and max(titles.values()) > MIN_TITLE_ROUGE:
        scores = ", ".join(f"{rule} {score:.3f}" for rule, score in titles.items())
        lines.append(("", f"ROUGE-L of rules without a model: {scores}"))
    if choices:
        letters = ", ".join(f"{letter} {count:,}" for letter, count in choices["letters"].items())
        lines.append(("", f"letters {letters}: always the commonest scores {choices['majority']:.1%}"))
        lines.append(("", f"the answer is the one longest option in {choices['gold_is_longest']:.1%}"))
    if classes := found.get("classes"):
        lines.append(("", "labels " + ", ".join(f"{label} {count:,}" for label, count in classes["labels"].items())))
        lines.append(("", f"always the commonest scores {classes['majority']:.1%}"))
    if classes and "words" in classes:
        look, score = max(classes["look"]["f1"].items(), key=lambda pair: pair[1])
        score = f"macro-F1 {classes['look']['macro_f1']:.3f}, {look} {score:.2f}"
        lines.append(("", f"naive Bayes on words, {floors.FOLDS}-fold: macro-F1 {classes['words']['macro_f1']:.3f}"))
        lines.append(("", f"case, digits and punctuation alone: {score}"))
        if bare := [label for label, share in classes["non_ascii"].items() if not share]:
            lines.append(("", f"no character beyond ASCII in any text of {', '.join(bare)}: a trace of the source"))
    return lines
