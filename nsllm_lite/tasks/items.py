"""Evaluation and instruction files: records {instruction, input, output}, as a JSON list or as JSON lines."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nsllm_lite.errors import UserError
from nsllm_lite.formats.records import RecordError, read_records
from nsllm_lite.safety import printable

KEYS = {"instruction", "input", "output", "document", "id", "sentence", "sentences"}
QUESTION_PARTS = ("system", "history", "messages", "conversations", "tools", "context", "choices", "options")
LETTERS = "ABCDEFGHIJ"
FULL_WIDTH = {code + 0xFEE0: chr(code) for code in (*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1))}
AS_ASCII = str.maketrans(FULL_WIDTH | dict(zip(map(ord, "（）．：【】"), "().:[]", strict=True)))  # keeps places
MARKER = (
    r"(?:\\text(?:bf)?\{)?\*{0,2}(?:(?i:option) |选项)?(?P<open>[(\[]?)(?P<letter>[A-Ja-j])"
    r"(?P<close>[)\]][.:]?|[.:、][.:]?)\}?"
)
OPTION = re.compile(rf"(?:^[ \t\u3000]{{0,40}}|(?<=\t)|(?<=  )|(?<=\u3000))(?:[-*•>][ \t])?{MARKER}", re.MULTILINE)
OPTION_IN_LINE = re.compile(rf"(?:(?<![A-Za-z])(?=[(\[\\*])|(?<![A-Za-z\d.'’(\[])){MARKER}(?![A-Za-z]\.)")
LISTED = re.compile(r"\s*(?:choices|options|answers|选项)?\s*[:：]?\s*$", re.IGNORECASE)  # before the first option
WRAPPER = re.compile(r"\\(?:text\w{0,6}|math(?:rm|bf|it|sf)|bf|rm|operatorname|bm)\s{0,3}\{([^{}]{0,400})\}")
THINKING = r"think(?:ing)?|thought|reasoning|seed:think"
THOUGHT_BEGINS = re.compile(rf"<(?:{THINKING})>|\[THINK\]|◁think▷|<\|begin_of_thought\|>")
THOUGHT_ENDS = re.compile(rf"</(?:{THINKING})>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>")


@dataclass(frozen=True, slots=True)
class Item:
    """One record; `choices` has the options of a multiple-choice question by letter."""

    number: int  # from 0, in its file
    input: str
    output: str
    choices: dict[str, str]
    instruction: str = ""
    document: str = ""  # the paper it was made from, where the file states it
    place: float | None = None  # of a sentence in its abstract, 0 the first and 1 the last, where the file states it

    @property
    def answer(self) -> str:
        """The output without the reasoning before it."""
        return without_thinking(self.output)


def read_items(path: Path) -> list[Item]:
    """The records of a JSON list or of JSON lines; `instruction` may be absent, and keys that are not used are printed
    with their counts. Raises UserError where the file cannot be read, is empty, or a record lacks `input` or `output`,
    or has a part of its question elsewhere."""
    try:
        values = [value for _, value in read_records(path)]
    except (OSError, RecordError) as error:
        found = f"{path} cannot be read ({error})."
        needed = 'Needed is a JSON list, or one JSON object a line, of records {"input": ..., "output": ...}.'
        raise UserError("items-file-unreadable", found, needed, "Correct the path, or the file.") from None
    items, unused = [], Counter[str]()
    for number, value in enumerate(values):
        fields = [value.get(name) for name in ("input", "output")] if isinstance(value, dict) else [None]
        if not all(isinstance(field, str) for field in fields):
            found = f'{path}: record {number} has no "input" and "output" that are text.'
            raise UserError("items-record-unfit", found, "Correct that record, or remove it.")
        if more := [name for name in QUESTION_PARTS if value.get(name)]:
            found = f"{path}: record {number} has {more[0]!r} beside its input: the model would not be shown it."
            raise UserError("items-record-more", found, "Write all of a question into `instruction` and `input`.")
        unused.update(value.keys() - KEYS)
        items.append(item_of(value, number))
    if not items:
        raise UserError("items-file-empty", f"{path} holds no records.", "Name a file that has some.")
    if unused:
        counts = ", ".join(f"{key} ({count:,})" for key, count in unused.most_common(8))
        print(f"{path}: keys of its records that are not used: {printable(counts)}")
    return items


def item_of(record: dict, number: int) -> Item:
    """The item of a record that has an input and an output; its place is that of `sentence` among `sentences`."""
    more = ("" if record.get(name) is None else str(record[name]) for name in ("instruction", "document"))
    sentence, sentences = record.get("sentence"), record.get("sentences")
    is_placed = isinstance(sentence, int) and isinstance(sentences, int) and 1 <= sentence <= sentences
    place = (sentence - 1) / max(sentences - 1, 1) if is_placed else None
    return Item(number, record["input"], record["output"], choices_of(record["input"]), *more, place)


def choices_of(question: str) -> dict[str, str]:
    """The last options A, B, C, ... of a question, by capital letters; empty where there are fewer than two.

    Markers are `A.`, `(A)`, `(A):`, `A)`, `A:`, `A、`, full-width or small ones; each begins a line, or stands after
    two spaces or a tab. Where these are fewer than two, or leave out a letter, capitals of one form count anywhere, if
    no option is empty.
    """
    markers = _markers(question)
    return _options(question, markers) if markers else {}


def stem_of(question: str) -> str:
    """The question without its options."""
    markers = _markers(question)
    return LISTED.sub("", question[: markers[0].start()] if markers else question).strip()


def _markers(question: str) -> list[re.Match]:
    """Those of the options; none where there are fewer than two."""
    text = question.translate(AS_ASCII)
    for is_small in (False, True):
        runs, is_broken = _runs(OPTION.finditer(text), is_small, of_one_form=False)
        found = next((run for run in reversed(runs) if len(run) > 1), [])
        if not is_small and (len(found) < 2 or is_broken):
            inside, _ = _runs(OPTION_IN_LINE.finditer(text), is_small, of_one_form=True)
            filled = [run for run in reversed(inside) if all(_options(question, run).values())]
            longest = max(filled, key=len, default=[])
            found = longest if len(longest) > max(len(found), 1) else found
        if found:
            return found
    return []


def _runs(markers: Iterable[re.Match], is_small: bool, of_one_form: bool) -> tuple[list[list[re.Match]], bool]:
    """The runs A, B, C, ... of markers, the longest of those that another A has ended among them; and whether one of
    them leaves out a letter."""
    runs: list[list[re.Match]] = []
    is_broken = False
    for marker in markers:
        letter = marker["letter"].upper()
        if marker["letter"].islower() != is_small:
            continue
        if letter == "A":
            longest = max(runs, key=len, default=[])
            runs = [run for run in (longest, runs[-1] if runs else [], [marker]) if run]
            runs = runs if len(runs) < 3 or runs[0] is not runs[1] else runs[1:]
            continue
        for run in runs if of_one_form else runs[-1:]:
            is_alike = not of_one_form or all(marker[part] == run[0][part] for part in ("open", "close"))
            if is_alike and len(run) < len(LETTERS) and letter == LETTERS[len(run)]:
                run.append(marker)
            elif run is runs[-1] and letter > LETTERS[len(run) - 1]:
                is_broken = True
    return runs, is_broken


def _options(question: str, run: Sequence[re.Match]) -> dict[str, str]:
    """The text of each option: to the next marker, or to the end of its line."""
    ends = [*(marker.start() for marker in run[1:]), len(question)]
    texts = (question[marker.end() : end].strip().split("\n")[0] for marker, end in zip(run, ends, strict=True))
    return {letter: text.strip() for letter, text in zip(LETTERS, texts, strict=False)}


def without_thinking(text: str) -> str:
    """The text after a model's reasoning; empty where the reasoning has no end."""
    ends = [found.end() for found in THOUGHT_ENDS.finditer(text)]
    text = text[ends[-1] :] if ends else text
    begins = THOUGHT_BEGINS.search(text)
    return text[: begins.start() if begins else len(text)].strip()


def open_thinking(prompt: str) -> str:
    """The tag of reasoning that a prompt ends in, which a model's text goes on with; empty where it ends in none."""
    begins = list(THOUGHT_BEGINS.finditer(prompt.rstrip()[-40:]))
    return begins[-1][0] if begins and begins[-1].end() == len(prompt.rstrip()[-40:]) else ""


def plain_prompt(instruction: str, text: str) -> str:
    """The prompt of base models, which have no chat template, in tuning and in evaluation: instruction, text and
    "Answer:" with a line end, blank lines between them; what is empty is left out.

    The line end at its end keeps the prompt's tokens the same with and without an answer after it: no byte-level
    tokenizer merges a line end with the first word of the answer.
    """
    parts = [part.strip() for part in (instruction, text) if part.strip()]
    return "\n\n".join([*parts, "Answer:\n"])


def prompt_key(item: Item) -> tuple[str, str]:
    """Instruction and input in normal form: items with the same key ask the same."""
    return normal(item.instruction), normal(item.input)


def normal(text: str) -> str:
    """Letters and digits of a text, in lower case, with single spaces."""
    return " ".join(re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).lower()).split())
