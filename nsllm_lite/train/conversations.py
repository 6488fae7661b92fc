"""Records of instruction data, in the forms of the field -> one conversation each, or the reason why there is none.

| form | keys |
|---|---|
| Alpaca | instruction, input, output; system, history: [[question, answer], ...], tools |
| its other names | prompt, question or query; context; completion, response or answer; system_prompt |
| OpenAI | messages: [{role, content, tool_calls, reasoning_content, weight}, ...]; tools |
| ShareGPT | conversations: [{from, value}, ...]; system, tools |
| TRL | prompt and completion: texts, or messages, of which those of the completion are trained |

`Fields` of the recipe names other keys, or paths into objects (`data.question`). What has a meaning that is not
honoured (a preference pair, an image, a weight of 0.5) leaves its record out by name; a key without a known meaning is
noted in `unused`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from nsllm_lite.errors import UserError
from nsllm_lite.recipe.train import Fields
from nsllm_lite.train.tool_calls import calls_of, json_of, tools_of

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "chatbot", "model", "bot", "ai", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
}
MAY_FOLLOW = {
    "": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}  # fmt: skip
KEYS = {
    "instruction": ("instruction", "prompt", "question", "query"),
    "input": ("input", "context"),
    "output": ("output", "completion", "response", "answer"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "tools": ("tools", "functions"),
    "messages": ("messages", "conversations", "conversation"),
    "role": ("role", "from"),
    "content": ("content", "value"),
    "weight": ("weight", "train", "training", "trainable", "loss", "loss_weight", "loss_scale"),
    "reasoning": ("reasoning_content", "reasoning", "thinking"),
    "calls": ("tool_calls", "function_call"),
    "name": ("name",),
    "call": ("tool_call_id",),
    "id": ("id",),
    "document": ("document",),
}
"""Our name of a part -> the keys that have it, our own first."""

PREFERENCE = ("chosen", "rejected", "rejected_response", "rejected_messages", "kto_tag")
PREFERENCE += ("preferred_output", "non_preferred_output")
REFUSED = {
    **dict.fromkeys(PREFERENCE, "preferences are not trained"),
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), "only text is trained"),
    **dict.fromkeys(
        ("mask", "loss_mask", "completion_mask", "assistant_masks", "train_detail"),
        "its meaning differs; use weight",
    ),
    "refusal": "it is beside the content",
    "chat_template_kwargs": "the template is asked as in evaluation",
}
"""Keys whose meaning is known and not honoured, with the reason."""

PLACES = {"sentence", "sentences"}  # of the task files; evaluation reads them
EMPTY = (None, "", [], {})
MAX_KEY_CHARS = 80  # of a key that is noted
TEXT_PARTS = ("text", "input_text", "output_text")

NOT_THIS_FORMAT = "not this format"
EMPTY_PROMPT = "empty prompt"
EMPTY_ANSWER = "empty answer"
LAST_TURNS = "turns after the last trained answer"


class LeftOutError(Exception):
    """Why a record is no example. `error` is what ends a run whose file has no other records."""

    def __init__(self, reason: str, error: UserError | None = None):
        super().__init__(reason)
        self.error = error


@dataclass(slots=True)
class Conversation:
    """[system,] user, assistant (or assistant, tool, ..., assistant), user, ... that ends with a trained answer."""

    messages: list[dict[str, Any]]  # as chat templates take them: role, content, reasoning_content, tool_calls, name
    trained: list[int]  # the places of the answers whose loss counts, ascending; the others are context
    tools: list[dict[str, Any]] | None = None
    unused: set[str] = field(default_factory=set)  # parts of the record that are in no example


class Parts:
    """The values of an object by our names; its keys that nobody took are noted."""

    def __init__(self, values: dict[str, Any], reader: "Reader", above: str = ""):
        self.values, self._reader, self._above, self._left = values, reader, above, set(values)

    def take(self, name: str, own_first: bool = False, own_only: bool = False) -> Any:
        """The part `name`; None where there is none. Raises LeftOutError where two keys have it, neither preferred."""
        mapped = self._reader.mapped
        if (key := mapped.get(name)) not in self.values:
            known = KEYS[name][:1] if own_only else KEYS[name]
            present = [key for key in known if self.values.get(key) is not None and key not in mapped.values()]
            filled = [key for key in present if self.values[key] not in EMPTY] or present
            if own_first and name in present:
                filled = [name]
            if len(filled) > 1:
                raise LeftOutError(f"two keys for one part ({filled[0]} and {filled[1]})")
            key = filled[0] if filled else None
        self._left.discard(key)
        return None if key is None else self.values[key]

    def is_trained(self, where: str) -> bool | None:
        """What the weights of it say; None where it has none."""
        said = set()
        for key in {self._reader.mapped.get("weight"), *KEYS["weight"]} & self.values.keys():
            self._left.discard(key)
            if (value := self.values[key]) is None:
                continue
            if not isinstance(value, bool | int | float) or value not in (0, 1):
                raise _refused(key, "a weight is 0 or 1", where)
            said.add(bool(value))
        if len(said) > 1:
            raise LeftOutError("weights that contradict each other")
        return said.pop() if said else None

    def refuse(self, where: str) -> None:
        """Raises LeftOutError where a key has a meaning that is not honoured, unless `fields` names it, or (of the two
        of a preference) the other."""
        mapped = set(self._reader.mapped.values())
        mapped |= {key.partition(".")[0] for key in mapped}  # `chosen` of chosen.content
        for key in sorted(self.values.keys() - mapped):
            value = self.values[key]
            is_label = key in ("label", "kto_tag") and isinstance(value, bool)
            if not is_label and (key not in REFUSED or value in EMPTY or value is False):
                continue
            if not (key in PREFERENCE and mapped & {*PREFERENCE}):
                raise _refused(key, REFUSED.get(key, REFUSED["kto_tag"]), where)

    def finish(self, unused: set[str]) -> None:
        """Notes what was not taken."""
        left = {key for key in self._left - PLACES if self.values[key] not in EMPTY}
        unused |= {self._above + key[:MAX_KEY_CHARS] for key in left}


class Reader:
    """Reads records by the recipe's `fields`, and notes which of these some record has."""

    def __init__(self, fields: Fields | None = None):
        named = fields.model_dump(exclude_none=True) if fields else {}
        said = {role: named.pop(role).strip().lower() for role in ("user", "assistant") if role in named}
        self.roles = ROLES | {word: role for role, word in said.items()}
        self._named, self._seen = named | said, set()
        self.mapped: dict[str, str] = named  # our name of a part -> its key, or the path to it
        self._ends: dict[str, str] = {}  # of a path that leads nowhere, why

    def require_seen(self) -> None:
        """Raises UserError where no record has had a key or a role of `fields`."""
        missing = {f"{name}: {word}": word for name, word in self._named.items() if word not in self._seen}
        if missing:
            ends = "".join(f" ({self._ends[word]})" for word in missing.values() if word in self._ends)
            found = f"`fields`: no record has {', '.join(missing)}{ends}."
            raise UserError("sft-field-missing", found, "Correct it, or take it out.")

    def text(self, record: object, name: str) -> str:
        """The part `name` as text; empty where the record has none."""
        values = self._flat(record) if isinstance(record, dict) else {}
        return str(values.get(self.mapped.get(name, name)) or values.get(name) or "")

    def parts(self, values: dict[str, Any], above: str = "") -> Parts:
        values = self._flat(values)
        self._seen |= values.keys() & set(self.mapped.values())
        return Parts(values, self, above)

    def _flat(self, values: dict[str, Any]) -> dict[str, Any]:
        """`values` with what a path of `fields` leads to under that path, and what is beside it likewise, in place of
        the objects that hold them: {"data": {"q": 1, "x": 2}} -> {"data.q": 1, "data.x": 2}. A key that is the whole
        path is taken as it stands."""
        for path in self.mapped.values():
            if "." not in path or path in values:
                continue
            name, *inside = _way(values, path) or [""]
            if not inside and path not in self._ends and (end := _end_of(values, path)):
                self._ends[path] = end
            for key in inside:
                beside = {f"{name}.{other}": value for other, value in values[name].items()}
                values = beside | {one: values[one] for one in values if one != name or name in self.mapped.values()}
                name = f"{name}.{key}"
        return values

    def read(self, record: object, where: str) -> Conversation:
        """The conversation of a record at `where`. Raises LeftOutError where it is none, or not one to train on."""
        if not isinstance(record, dict):
            raise LeftOutError(NOT_THIS_FORMAT, unknown_form(record, where))
        parts, unused = self.parts(record), set()
        parts.refuse(where)
        parts.take("id"), parts.take("document")
        is_trained, tools = parts.is_trained(where), tools_of(parts.take("tools"))
        if tools is False:
            raise LeftOutError("`tools` that are no list of functions")
        listed = parts.take("messages", own_first=True)
        if listed is None:
            messages, flags = self._texts(parts, where, unused)
        else:
            messages, flags = self._messages(listed, where, unused)
        if (system := parts.take("system")) not in EMPTY:
            _put_system(messages, flags, _text_of(system, unused))
        parts.finish(unused)
        if is_trained is False:
            raise LeftOutError("weight 0")
        return _checked(messages, flags, tools or None, unused)

    def _texts(self, parts: Parts, where: str, unused: set[str]) -> tuple[list[dict], list[bool | None]]:
        """Question and answer, with the history before them; or TRL's two lists of messages."""
        own = {name for name in ("instruction", "input", "output") if parts.values.get(name) is not None}
        is_own = "output" in own and len(own) > 1
        instruction, output = (parts.take(name, own_only=is_own) for name in ("instruction", "output"))
        text = parts.take("input", own_first=is_own)
        if isinstance(instruction, list) and isinstance(output, list) and text in EMPTY:
            before, _ = self._messages(instruction, where, unused)
            after, flags = self._messages(output, where, unused)
            return before + after, [False if m["role"] == "assistant" else None for m in before] + flags
        asked = [part for part in (instruction, text) if part is not None]
        if not asked or output is None:
            raise LeftOutError(NOT_THIS_FORMAT, unknown_form(parts.values, where))
        if not all(isinstance(part, str) for part in (*asked, output)):
            raise LeftOutError("a question or answer that is not text", unknown_form(parts.values, where))
        question = "\n\n".join(part.strip() for part in asked if part.strip())
        history = parts.take("history") or []
        if not isinstance(history, list) or not all(_is_pair(pair) for pair in history):
            raise LeftOutError("`history` that is not [[question, answer], ...]")
        pairs = [*history, (question, output.strip())]
        messages = [
            {"role": role, "content": content}
            for pair in pairs
            for role, content in zip(("user", "assistant"), pair, strict=True)
        ]
        return messages, [None] * len(messages)

    def _messages(self, values: object, where: str, unused: set[str]) -> tuple[list[dict], list[bool | None]]:
        if not isinstance(values, list) or not values or not all(isinstance(value, dict) for value in values):
            raise LeftOutError(NOT_THIS_FORMAT, unknown_form(values, where))
        read = [self._message(value, where, unused) for value in values]
        return [message for message, _ in read], [flag for _, flag in read]

    def _message(self, value: dict, where: str, unused: set[str]) -> tuple[dict[str, Any], bool | None]:
        parts = self.parts(value, "messages.")
        said, content = parts.take("role", own_first=True), parts.take("content", own_first=True)
        word = said.strip().lower() if isinstance(said, str) else ""
        self._seen.add(word)
        if word not in self.roles:
            raise LeftOutError("an unknown role", _unknown_role(said, value, where))
        parts.refuse(where)
        message = {"role": self.roles[word], "content": _text_of(content, unused)}
        is_trained, calls = parts.is_trained(where), parts.take("calls")
        if word == "function_call":
            calls, message["content"] = json_of(message["content"]), ""
        if message["role"] == "assistant":
            if (reasoning := parts.take("reasoning")) not in EMPTY:
                text = _text_of(reasoning, unused)
                message |= {
                    "reasoning_content": text,
                    "thinking": text,
                }  # Qwen3 reads one, gpt-oss the other
            if word == "function_call" or calls not in EMPTY:
                message["tool_calls"] = calls_of(calls, unused)
                if not message["tool_calls"]:
                    raise LeftOutError("tool calls that are not {name, arguments}")
        elif is_trained:
            raise LeftOutError("a weight on a turn that is no answer")
        elif calls not in EMPTY or parts.take("reasoning") not in EMPTY:
            raise LeftOutError("tool calls or reasoning in a turn that is no answer")
        if message["role"] == "tool":
            more = {"name": parts.take("name"), "tool_call_id": parts.take("call")}
            message |= {name: word for name, word in more.items() if isinstance(word, str)}
        if {"tools", "functions"} & {key for key in value if value[key] not in EMPTY}:
            raise LeftOutError("`tools` in a message")
        parts.finish(unused)
        return message, is_trained


def _way(values: dict[str, Any], path: str) -> list[str] | None:
    """The keys that lead to `path` through objects, of those that have dots in them the longest; None: none do."""
    if path in values:
        return [path]
    for head, rest in _divided(path):
        if isinstance(inner := values.get(head), dict) and (way := _way(inner, rest)):
            return [head, *way]
    return None


def _end_of(values: dict[str, Any], path: str, above: str = "") -> str:
    """How far a `path` that leads nowhere leads; empty where not even its first key is there."""
    for head, rest in _divided(path):
        if isinstance(inner := values.get(head), dict):
            keys = ", ".join(sorted(key[:40] for key in inner)[:8])
            return _end_of(inner, rest, f"{above}{head}.") or f"{above}{head} has {keys or 'nothing in it'}"
        if inner is not None:
            return f"{above}{head} is no object, but {type(inner).__name__}"
    return ""


def _divided(path: str) -> Iterator[tuple[str, str]]:
    """(before, behind) each dot, the last first."""
    return ((path[:n], path[n + 1 :]) for n in range(len(path) - 1, 0, -1) if path[n] == ".")


def texts_of(value: object) -> Iterator[str]:
    """Every text in messages or tools, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from texts_of(part)


def unknown_form(record: object, where: str) -> UserError:
    keys = ", ".join(sorted(str(key)[:40] for key in record)[:12]) if isinstance(record, dict) else ""
    has = f"its keys are {keys}" if keys else f"it is {type(record).__name__}, and no object with keys"
    found = f"{where}: no form of instruction data; {has}."
    needed = "Needed are {instruction, input, output}, {messages}, {conversations} or {prompt, completion}."
    todo = "Map its keys: fields={instruction: KEY, output: KEY}, or fields={messages: KEY}; a path is KEY.KEY."
    return UserError("sft-form-unknown", found, needed, todo)


def _unknown_role(said: object, message: dict, where: str) -> UserError:
    found = f"{where}: role {str(said)[:40]!r} is not known; the message has {', '.join(sorted(message)[:8])[:120]}."
    needed = f"A message needs one of the roles {', '.join(ROLES)}."
    todo = "Map it: fields={role: KEY, content: KEY, user: ROLE, assistant: ROLE}; or take the record out."
    return UserError("sft-role-unknown", found, needed, todo)


def _refused(key: str, why: str, where: str) -> LeftOutError:
    found = f"{where}: `{key}` is not honoured ({why})."
    todo = "Take that key or the record out; of a preference, fields={output: chosen} trains one answer."
    return LeftOutError(f"`{key}`: {why}", UserError("sft-part-refused", found, todo))


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def _text_of(content: object, unused: set[str]) -> str:
    """The text of a message's content, or of its parts one after another, as chat templates write them."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise LeftOutError("content that is not text")
    for part in content:
        kind = part.get("type", "text")
        if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
            raise LeftOutError(f"a content part of type {str(kind)[:40]}")
        unused |= {f"content.{key}" for key in part.keys() - {"type", "text"} if part[key] not in EMPTY}
    return "".join(part["text"] for part in content)


def _put_system(messages: list[dict[str, Any]], flags: list[bool | None], system: str) -> None:
    if messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
        flags.insert(0, None)
    elif messages[0]["content"].strip() != system.strip():
        raise LeftOutError("two system texts")


def _checked(messages: list[dict], flags: list[bool | None], tools: list | None, unused: set[str]) -> Conversation:
    """The conversation to its last trained answer. Raises LeftOutError where turns are out of order or empty."""
    for before, after in pairwise(["", *(message["role"] for message in messages)]):
        if after not in MAY_FOLLOW[before]:
            raise LeftOutError(f"turns out of order ({after} after {before or 'nothing'})")
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers or not all(messages[n]["content"].strip() or messages[n].get("tool_calls") for n in answers):
        raise LeftOutError(EMPTY_ANSWER)
    trained = [place for place in answers if flags[place] is not False]
    if not trained:
        raise LeftOutError("weight 0")
    kept = messages[: trained[-1] + 1]
    if not all(message["content"].strip() for message in kept if message["role"] == "user"):
        raise LeftOutError(EMPTY_PROMPT)
    if len(kept) < len(messages):
        unused.add(LAST_TURNS)
    return Conversation(kept, trained, tools, unused)
