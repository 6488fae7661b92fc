"""Published files of labelled words, pairs and texts, read into one shape.

Forms: files of words and tags (BIO), and those of MatSci-NLP (github.com/BangLab-UdeM-Mila/NLP4MatSci-ACL23 at f9042f5,
dataset/): tables in pandas' split form, sentences with annotations, texts with spans, sentences with relations; and
records {system, question, answer} or {instruction, input, output}. A record that cannot be used has a reason; lines are
those of a file of lines, else the number of the record, from 1.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nsllm_lite.errors import UserError
from nsllm_lite.formats.records import RecordError, iter_values, require_no_pointer
from nsllm_lite.safety import printable
from nsllm_lite.tasks import gold
from nsllm_lite.tasks.entities import read_entities
from nsllm_lite.tasks.gold import GoldItem
from nsllm_lite.tasks.items import Item, item_of

NO_LABEL = "O"
TAGGED, TABLE, ANNOTATED = "words and tags", "a table of columns, index and data", "sentences with annotations"
SPANS, MENTIONS, RECORDS = "texts with t_span_dict", "sentences with relationMentions", "records of questions"
KEYS = {TABLE: {"columns", "data"}, ANNOTATED: {"sentence", "annotations"}, MENTIONS: {"sentText", "relationMentions"}}
DOUBLE_ENCODED = "UTF-8 that was encoded twice"
UNFIT = (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError)


class Labelled(NamedTuple):
    """A sentence and its words in order, each with its label; or a `reason` why there is none, and `what` was found."""

    line: int
    text: str = ""
    pairs: tuple[tuple[str, str], ...] = ()
    about: str = ""  # lines before the question
    document: str = ""
    reason: str = ""
    what: str = ""
    repairs: tuple[str, ...] = ()


class Classed(NamedTuple):
    """A text with one label, or a `reason`."""

    line: int
    text: str = ""
    label: str = ""
    document: str = ""
    reason: str = ""
    what: str = ""
    repairs: tuple[str, ...] = ()


Values = list[tuple[int, Any]]


def read_form(path: Path) -> tuple[str, Values]:
    """(form of a file, (line, value or RecordError) of its records). Raises UserError where it cannot be read, or is in
    no form that is known."""
    is_json = path.suffix.lower() in (".json", ".jsonl")
    try:
        if path.suffix.lower() in (".csv", ".tsv", ".xlsx"):
            raise ValueError("it is a table; write its rows as {instruction, input, output}")  # caught below
        with open(path, encoding="utf-8-sig") as stream:
            require_no_pointer(stream.read(200))
            if not is_json:
                return TAGGED, []
            stream.seek(0)
            values = list(iter_values(stream))
        if broken := [value for _, value in values if isinstance(value, RecordError) and value.is_last]:
            raise broken[0]
    except (OSError, ValueError, RecordError) as error:
        needed = "Needed is JSON: a list, an object, or one object a line; or a text file of words and their tags."
        todo = "Fetch it again, or correct it."
        raise UserError("gold-words-unreadable", f"{path} cannot be read ({error}).", needed, todo) from None
    if len({line for line, _ in values}) < len(values):  # several stand in one line
        values = [(number, value) for number, (_, value) in enumerate(values, 1)]
    first = next((value for _, value in values if isinstance(value, dict)), {})
    for form, keys in KEYS.items():
        if keys <= first.keys():
            return form, values
    held = first.get("data")
    if isinstance(held, list) and held and isinstance(held[0], dict) and "t_span_dict" in held[0]:
        return SPANS, list(enumerate(held, 1))
    if {"text", "spans"} <= first.keys():
        return TAGGED, values
    if "question" in first or "input" in first:
        return RECORDS, values
    keys = printable(", ".join(map(str, first))[:200]) or "no objects"
    todo = "Give a file of words and tags (.txt), one of MatSci-NLP's files, or records {instruction, input, output}."
    raise UserError("gold-form-unknown", f"{path} holds {keys}.", "Its form is not known.", todo)


def reader(path: Path, form: str, readers: Mapping[str, Callable], task: str) -> Callable:
    """What reads the form for a task. Raises UserError where the task has none."""
    if form not in readers:
        needed = f"The task {task} is read from {', '.join((*readers, RECORDS))}."
        raise UserError("gold-form-unfit", f"{path} holds {form}.", needed, "Name another task, or another file.")
    return readers[form]


def used(path: Path, task: str, found: list[GoldItem]) -> list[GoldItem]:
    """`found`, each record with an id of its own. Raises UserError where none of them can be used."""
    if not any(one.item for one in found):
        reasons = "; ".join(f"{one.line}: {one.reason} ({printable(one.what)})" for one in found[:3])
        todo = "Name another file, or another task."
        raise UserError("gold-words-none-used", f"{path} labels nothing: {reasons or 'no records'}.", todo)
    names = (f"{task}/{_source(path)}/{number}" for number in range(1, len(found) + 1))
    return [
        one._replace(item={"id": name} | one.item) if one.item else one for name, one in zip(names, found, strict=True)
    ]


def items_in(path: Path, found: Sequence[GoldItem]) -> list[Item]:
    """The items of gold records; what is left out or repaired is printed with its count."""
    for words in gold.words_of(found):
        print(f"{path}: {words}")
    return [item_of(one.item, number) for number, one in enumerate(one for one in found if one.item)]


def gold_item(row: Labelled | Classed, instruction: str, asked: str, answer: str) -> GoldItem:
    item = {"instruction": instruction, "input": asked, "output": answer}
    try:
        "".join(item.values()).encode()
    except UnicodeEncodeError as error:
        return GoldItem(row.line, None, "half a character", str(error))
    return GoldItem(row.line, ({"document": row.document} if row.document else {}) | item, repairs=row.repairs)


def _each(values: Values, rows_of: Callable, made: type) -> list:
    """The rows of all records; a record that is not in its file's form gives one row with that reason."""
    found = []
    for line, value in values:
        if isinstance(value, RecordError):
            found.append(made(line, reason="not read as JSON", what=f"{type(value.cause).__name__}: {value.cause}"))
            continue
        try:
            found += rows_of(line, value)
        except UNFIT as error:
            found.append(made(line, reason="not in the form of its file", what=f"{type(error).__name__}: {error}"[:80]))
    return found


def _word(word: Any) -> str:
    """A word or text with single blanks. Raises ValueError where it has no letter or sign."""
    if not isinstance(word, str) or not (words := word.split()):
        raise ValueError(f"{word!r} is no word")  # caught by _each
    return " ".join(words)


def _pairs(words: Sequence[Any], labels: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    """Each word with its label; an empty one is none."""
    pairs = zip(words, labels, strict=True)
    return tuple((_word(word), NO_LABEL if label == "" else _word(label)) for word, label in pairs)


def tagged(path: Path, values: Values) -> list[Labelled]:
    """Sentences of a file of words and tags."""
    found = read_entities(path)
    for note in found.notes:
        print(f"{path}: {note}")
    rows = []
    for number, one in enumerate(found.items, 1):
        paper = one.paper if values or not one.paper else f"{_source(path)}/{one.paper}"
        rows.append(Labelled(number, " ".join(one.words), tuple(zip(one.words, one.tags, strict=True)), "", paper))
    return rows


def _table(path: Path, values: Values, columns: Sequence[str]) -> tuple[list[str], Values]:
    """(names of the columns, rows) of a table. Raises UserError where it has none of `columns`, if any are given."""
    whole = values[0][1]
    names, rows = whole["columns"], whole["data"]
    is_table = isinstance(names, list) and isinstance(rows, list) and all(isinstance(name, str) for name in names)
    if not is_table or (columns and not set(columns) & set(names)):
        shown = printable(", ".join(map(str, names))[:200] if isinstance(names, list) else repr(names)[:80])
        needed = f"Needed is one of {', '.join(columns)}." if columns else "Needed are the names of two columns."
        raise UserError("gold-columns-missing", f"The columns of {path} are {shown}.", needed, "Name another file.")
    return names, list(enumerate(rows, 1))


def table_words(path: Path, values: Values, columns: Sequence[str]) -> list[Labelled]:
    """A table of `tokens`, a list of words or a text, and of one of `columns`: the labels, one a word, or {word: label}
    of a text."""
    names, rows = _table(path, values, columns)
    labelled = names.index(next(name for name in columns if name in names))

    def row_of(number: int, row: list) -> list[Labelled]:
        words, labels = row[names.index("tokens")], row[labelled]
        if isinstance(labels, dict):
            text = _word(words) if isinstance(words, str) else " ".join(map(_word, words))
            return [Labelled(number, text, _pairs(list(labels), list(labels.values())))]
        return [Labelled(number, " ".join(map(_word, words)), _pairs(words, labels))]

    return _each(rows, row_of, Labelled)


def annotated(path: Path, values: Values) -> list[Labelled]:
    """Sentences whose words each have a `token` and a `tag`, empty where it has no label."""

    def row_of(number: int, record: dict) -> list[Labelled]:
        words = record["annotations"]
        pairs = _pairs([one["token"] for one in words], [one["tag"] for one in words])
        return [Labelled(number, _word(record["sentence"]), pairs, document=_stated(record, "doi"))]

    return _each(values, row_of, Labelled)


def span_words(path: Path, values: Values) -> list[Labelled]:
    """The named entities of each text, in order, each with its type."""

    def row_of(number: int, record: dict) -> list[Labelled]:
        spans = sorted((tuple(span), name) for name, span in record["t_span_dict"].items())
        pairs = tuple((_mention(record, name), _word(record["t_type_dict"][name])) for _, name in spans)
        return [Labelled(number, _word(record["text"]), pairs, document=_document(path, number))]

    return _each(values, row_of, Labelled)


def span_events(path: Path, values: Values) -> list[Labelled]:
    """The arguments of each event with their roles, below its type and trigger."""

    def row_of(number: int, event: tuple[dict, str, str]) -> list[Labelled]:
        record, name, trigger = event
        about = f"EVENT: {_word(record['t_type_dict'][trigger])}\nTRIGGER: {_mention(record, trigger)}\n"
        pairs = tuple((_mention(record, of), _word(role)) for role, of in record["e_args_dict"][name])
        reason = "" if pairs else "an event without arguments"
        return [Labelled(number, _word(record["text"]), pairs, about, _document(path, number), reason, name)]

    def rows_of(number: int, record: dict) -> list[Labelled]:
        events = [(number, (record, *event)) for event in record["e_trig_dict"].items()]
        return _each(events, row_of, Labelled) or [Labelled(number, reason="no event in it")]

    return _each(values, rows_of, Labelled)


def span_relations(path: Path, values: Values) -> list[Classed]:
    """The relations of each text, each between two entities, or events by their triggers."""

    def row_of(number: int, relation: tuple[dict, str, list]) -> list[Classed]:
        record, name, (first, second) = relation
        pair = _pair(_mention(record, first), _mention(record, second), record["text"])
        return [Classed(number, pair, _word(record["r_type_dict"][name]), _document(path, number))]

    def rows_of(number: int, record: dict) -> list[Classed]:
        relations = [(number, (record, *relation)) for relation in record["r_args_dict"].items()]
        return _each(relations, row_of, Classed) or [Classed(number, reason="no relation in it")]

    return _each(values, rows_of, Classed)


def mention_relations(path: Path, values: Values) -> list[Classed]:
    """The relations of each sentence between two of its parts."""

    def row_of(number: int, relation: tuple[dict, dict]) -> list[Classed]:
        record, one = relation
        pair = _pair(one["arg1Text"], one["arg2Text"], record["sentText"])
        return [Classed(number, pair, _word(one["relText"]), _stated(record, "docId"))]

    def rows_of(number: int, record: dict) -> list[Classed]:
        relations = [(number, (record, one)) for one in record["relationMentions"]]
        return _each(relations, row_of, Classed) or [Classed(number, reason="no relation in it")]

    return _each(values, rows_of, Classed)


def table_texts(path: Path, values: Values) -> list[Classed]:
    """A table of texts and their labels, its first and its second column. A text that is UTF-8 encoded twice is
    repaired; others with characters beyond ASCII stay as they are, and are counted."""
    names, rows = _table(path, values, ())
    if len(names) != 2:
        _table(path, values, ("a text and a label alone",))

    def row_of(number: int, row: list) -> list[Classed]:
        text, label = row
        text, rules = repaired(text)
        if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).split():
            return [Classed(number, reason="its label is no word or whole number", what=repr(label)[:80])]
        if not text.strip():
            return [Classed(number, reason="no text")]
        return [Classed(number, text.strip(), _word(str(label)), repairs=rules)]

    found = _each(rows, row_of, Classed)
    if kept := sum(not one.text.isascii() and not one.repairs for one in found):
        print(f"{path}: {kept:,} texts with other characters than ASCII are no {DOUBLE_ENCODED}, and stay as they are")
    return found


def repaired(text: str) -> tuple[str, tuple[str, ...]]:
    """A text that was UTF-8, read as Latin-1 and encoded again, as it was; any other as it is."""
    try:
        once = text.encode("latin-1").decode()
    except (UnicodeEncodeError, UnicodeDecodeError):
        return text, ()
    return (once, (DOUBLE_ENCODED,)) if once != text else (text, ())


def _mention(record: dict, name: str) -> str:
    """The text of an entity, or of an event's trigger. Raises ValueError where its span is not in the text."""
    start, end = record["t_span_dict"][record["e_trig_dict"].get(name, name)]
    if not 0 <= start < end <= len(record["text"]):
        raise ValueError(f"{name} is no span of its text")  # caught by _each
    return _word(record["text"][start:end])


def _pair(first: Any, second: Any, text: Any) -> str:
    parts = {"FIRST": first, "SECOND": second, "SENTENCE": text}
    return "\n".join(f"{name}: {_word(part)}" for name, part in parts.items())


def _stated(record: dict, name: str) -> str:
    """The text of a name of a document, of which 0 is one."""
    return "" if record.get(name) is None else str(record[name])


def _source(path: Path) -> str:
    """What tells the papers of one file from those of another: each counts its own from 1."""
    return f"{path.parent.name}/{path.stem}"


def _document(path: Path, number: int) -> str:
    return f"{_source(path)}/{number}"
