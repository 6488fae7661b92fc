"""Tools and tool calls of a record, as chat templates take them: [{type, function: {name, ...}}, ...]."""

import json
from typing import Any, Literal

READ = {"id", "type", "index", "function", "name", "arguments"}


def json_of(value: object) -> object:
    """The value of a text that is JSON; None where it is none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def tools_of(value: object) -> list[dict[str, Any]] | Literal[False]:
    """Tools as a list, or as the JSON of one, each in OpenAI's form or its function alone; False where they are not."""
    if value in (None, "", [], {}):
        return []
    listed = json_of(value)
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        return False
    tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in listed]
    return tools if all(_is_named(tool["function"]) for tool in tools) else False


def calls_of(value: object, unused: set[str]) -> list[dict[str, Any]]:
    """Tool calls with their arguments as an object (templates write its JSON); empty where one is not a call."""
    calls = []
    for call in value if isinstance(value, list) else [value]:
        inner = call.get("function", call) if isinstance(call, dict) else None
        arguments = json_of(inner.get("arguments") or {}) if _is_named(inner) else None
        if not isinstance(arguments, dict):
            return []
        about = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        calls.append({"type": "function", "function": {"name": inner["name"], "arguments": arguments}, **about})
        unused |= {f"tool_calls.{key}" for key in {*call, *inner} - READ}
    return calls


def _is_named(function: object) -> bool:
    return isinstance(function, dict) and isinstance(function.get("name"), str) and bool(function["name"])
