"""Questions whose answers are spans of a context, or none: files in SQuAD2's form, its scores, and floors.

Source: Rajpurkar et al., "Know what you don't know: unanswerable questions for SQuAD", 2018 (arXiv:1806.03822), and its
evaluate-v2.0.py. `evaluate.load("squad_v2")` needs the hub.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.formats.examples import (
    NEGATIVE,
    POSITIVE,
    Examples,
    counted,
    empty,
    paper_of,
    read_rows,
    unfit,
    unreadable,
)
from nsllm_lite.formats.records import RecordError, read_records
from nsllm_lite.tasks.scores import Metric, Results, mean

ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
SENTENCES = re.compile(r"(?<=[.!?])\s+")
ALWAYS = 1e9  # a threshold that no score of a model is above; finite, as JSON needs it


class Answer(NamedTuple):
    text: str
    start: int  # in characters of the context; -1: it stands nowhere in it


class Question(NamedTuple):
    """`answers` is empty where the context holds none. `paper` is the title of its article, or "" ."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    paper: str = ""


def read_questions(path: Path) -> Examples[Question]:
    """The questions of a file in SQuAD's form (.json), or of records of `question`, `context` and `answers`.

    `answers` of a record are a text, a list of texts or of {text, answer_start}, or {text: [...], answer_start: [...]}.
    An answer that stands elsewhere than where the file says is moved to the nearest place; one that stands nowhere
    keeps its text, which is scored. Both are counted.

    Raises UserError where a part is missing or empty, an id stands twice, or an impossible question has answers. A
    question without `answers` must be stated to be impossible: under a misspelt name they would count as none.
    """
    whole = _whole(path) if path.suffix.lower() == ".json" else None
    asked, notes = (list(_of_squad(path, whole)), []) if whole else _of_records(path)
    if not asked:
        raise empty(path)
    found, moved, lost = [], [], []
    for one in asked:
        placed = [_placed(one.context, answer) for answer in one.answers]
        moved += [one.id] * any(was.start != now.start >= 0 for was, now in zip(one.answers, placed, strict=True))
        lost += [one.id] * any(answer.start < 0 for answer in placed)
        found.append(one._replace(answers=tuple(placed)))
    if twice := [name for name, count in Counter(one.id for one in found).items() if count > 1]:
        raise UserError("qa-ids-repeat", f"{path}: ids that stand twice: {counted(twice)}.", "Give each its own.")
    if moved:
        notes.append(f"answers that stand elsewhere than the file says are moved: questions {counted(moved)}")
    if lost:
        notes.append(f"answers that stand nowhere in their context are scored as texts: questions {counted(lost)}")
    return Examples(path, tuple(found), tuple(notes))


def normalised(text: str) -> str:
    """Small letters, without punctuation and articles, one blank between words: the official rules, in their order."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def exact(gold: str, given: str) -> float:
    return float(normalised(gold) == normalised(given))


def f1(gold: str, given: str) -> float:
    """Of the words that both have. Where one has none, 1 if the other has none either."""
    one, other = normalised(gold).split(), normalised(given).split()
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


def score(question: Question, given: str) -> tuple[float, float]:
    """(exact match, F1), each of the gold answer that it fits best; "" says that there is none."""
    golds = [answer.text for answer in question.answers if normalised(answer.text)] or [""]
    return max(exact(gold, given) for gold in golds), max(f1(gold, given) for gold in golds)


def figures(questions: Sequence[Question], given: Sequence[str]) -> dict[str, tuple[Results, Metric]]:
    """{metric: (its value question by question, mean)}: F1 and exact match of all, then of those with an answer and of
    those without one, where there are both."""
    rows = np.array([score(*pair) for pair in zip(questions, given, strict=True)]).reshape(-1, 2)
    answered = np.array([bool(question.answers) for question in questions])
    found: dict[str, tuple[Results, Metric]] = {}
    for name, chosen in (("", answered | True), (" has answer", answered), (" no answer", ~answered)):
        if chosen.any() and not (name and chosen.all()):
            found[f"f1{name}"] = Results(None, rows[chosen, 1]), mean
            found[f"exact{name}"] = Results(None, rows[chosen, 0]), mean
    return found


def best_threshold(questions: Sequence[Question], given: Sequence[str], no_answer: Sequence[float]) -> float:
    """The threshold of highest F1 on development questions: a question whose `no_answer` is above it has none. `given`
    are the best answers that are not empty. It lies in the middle between two values of `no_answer`, and is ALWAYS
    where it is best to answer every question."""
    answered = np.array([score(*pair)[1] for pair in zip(questions, given, strict=True)])
    refused = np.array([float(not question.answers) for question in questions])
    order = np.argsort(no_answer, kind="stable")
    values = np.asarray(no_answer, float)[order]
    totals = np.concatenate(([0.0], np.cumsum(answered[order]))) + np.concatenate(
        (np.cumsum(refused[order][::-1])[::-1], [0.0])
    )
    is_cut = np.concatenate(([True], np.diff(values) > 0, [True]))  # equal values are not cut apart
    best = int(np.argmax(np.where(is_cut, totals, -1)))
    if best in (0, len(values)):
        return float(values[0] - 1) if best == 0 else ALWAYS
    return float((values[best - 1] + values[best]) / 2)


def no_answer(question: Question) -> str:
    return ""


def first_sentence(question: Question) -> str:
    return next(iter(_sentences(question.context)), "")


def nearest_sentence(question: Question) -> str:
    """The sentence with most of the question's words; of equal ones the shortest."""
    asked = set(normalised(question.question).split())
    rows = [(len(asked & set(normalised(text).split())), -len(text), text) for text in _sentences(question.context)]
    return max(rows, default=(0, 0, ""))[2]


FLOORS = {"never an answer": no_answer, "first sentence": first_sentence, "sentence of most words": nearest_sentence}


def _sentences(context: str) -> list[str]:
    return SENTENCES.split(context.strip())


def _placed(context: str, answer: Answer) -> Answer:
    """The answer at the place nearest to the stated one; without its outer white space where only that is there."""
    for text in (answer.text, answer.text.strip()):
        if text and context[max(answer.start, 0) :].startswith(text) and answer.start >= 0:
            return Answer(text, answer.start)
        places = [match.start() for match in re.finditer(re.escape(text), context)] if text else []
        if places:
            return Answer(text, min(places, key=lambda place: abs(place - answer.start)))
    return Answer(answer.text, -1)


def _whole(path: Path) -> dict[str, Any] | None:
    """The one object of a file in SQuAD's form; None for a file of records."""
    try:
        values = [value for _, value in read_records(path)]
    except (OSError, RecordError) as error:
        raise unreadable(path, error) from None
    is_squad = len(values) == 1 and isinstance(values[0], dict) and "data" in values[0]
    return values[0] if is_squad else None


def _of_squad(path: Path, value: dict[str, Any]) -> Iterator[Question]:
    try:
        for number, article in enumerate(value["data"]):
            for paragraph in article["paragraphs"]:
                paper = str(article.get("title") or paragraph.get("document_id") or number)
                for asked in paragraph["qas"]:
                    yield _question(path, asked | {"context": paragraph["context"]}, str(asked["id"]), paper)
    except (KeyError, TypeError, AttributeError) as error:
        found = f"{path} is not in SQuAD's form ({type(error).__name__}: {error})."
        needed = "Needed are data > paragraphs > context and qas > id, question, answers > text, answer_start."
        raise UserError("qa-file-unfit", found, needed, "Correct it there.") from None


def _of_records(path: Path) -> tuple[list[Question], list[str]]:
    records, notes = read_rows(path, ("question", "context"), ("answers", "answer", "is_impossible"))
    found = []
    for line, fields in records:
        name = str(fields.get("id") or f"line {line}")
        if fields.get("answers") is None:
            fields = fields | {"answers": fields.get("answer")}
        found.append(_question(path, fields, name, paper_of(fields | {"id": ""}), line))
    return found, notes


MEND = "Correct that question, or remove it."


def _question(path: Path, asked: dict[str, Any], name: str, paper: str, line: int = 0) -> Question:
    def wrong(what: str) -> UserError:
        return (
            unfit(path, line, what)
            if line
            else UserError("qa-question-unfit", f"{path}: the question {name} {what}.", MEND)
        )

    for part in ("question", "context"):
        if not isinstance(asked.get(part), str) or not asked[part].strip():
            raise wrong(f"has a `{part}` that is empty, or no text")
    answers = [answer for answer in _answers(asked.get("answers"), wrong) if answer.text.strip()]
    stated = "" if asked.get("is_impossible") is None else str(asked["is_impossible"]).strip().lower()
    if stated not in POSITIVE | NEGATIVE | {""}:
        raise wrong("has an `is_impossible` that is neither true nor false")
    if stated in POSITIVE and answers:
        raise wrong("is impossible, and has answers")
    if stated in NEGATIVE and not answers:
        raise wrong("is not impossible, and has no answer")
    if asked.get("answers") is None and stated not in POSITIVE:
        raise wrong(f"has no `answers`, not even an empty list (it has {', '.join(map(str, asked))})")
    return Question(name, asked["question"], asked["context"], tuple(dict.fromkeys(answers)), paper)


def _answers(value: Any, wrong: Callable[[str], UserError]) -> Iterator[Answer]:
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        starts = value.get("answer_start", [-1] * len(value["text"]))
        if not isinstance(starts, list) or len(starts) != len(value["text"]):
            raise wrong("has not one `answer_start` for each answer")
        value = [{"text": text, "answer_start": start} for text, start in zip(value["text"], starts, strict=True)]
    for one in value if isinstance(value, list) else [] if value is None else [value]:
        held = one if isinstance(one, dict) else {"text": one}
        text, start = held.get("text"), held.get("answer_start", -1)
        if not isinstance(text, str) or type(start) is not int:
            raise wrong("has an answer that is no text, or has no whole number as its place")
        yield Answer(text, start)
