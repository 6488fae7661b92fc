"""Schemas of extraction as pydantic has them: as JSON Schema, and the repairs of gold answers that break them."""

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

BLANK_LIST = 'a list of "" alone for an empty one'
ONE_TEXT = "a list of one text where a text is needed"
BLANK_TEXT = '"" where a list is needed'


def closed(schema: Any) -> Any:
    """A JSON Schema of pydantic without titles and defaults, in which objects take the keys of their patterns alone:
    pydantic refuses others too, and leaves that out of its schema."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key in ("properties", "$defs", "patternProperties"):
            found[key] = {name: closed(one) for name, one in value.items()}
        elif key not in ("title", "default", "description"):
            found[key] = closed(value)
    if "patternProperties" in found:
        found["additionalProperties"] = False
    return found


def repaired(adapter: TypeAdapter, value: Any) -> tuple[Any, tuple[str, ...]]:
    """A gold value after the three repairs that there are, and the names of those that were needed, each as often as
    it was."""
    value, rules = json.loads(json.dumps(value)), []
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        for problem in error.errors():
            *above, last = problem["loc"] or [""]
            found, place = problem["input"], value
            is_list = problem["type"] == "list_type" and found == ""
            is_text = problem["type"] == "string_type" and _is_one_text(found)
            if above and (is_list or is_text):
                for part in above:
                    place = place[part]
                place[last] = [] if is_list else found[0]
                rules.append(BLANK_TEXT if is_list else ONE_TEXT)
    return _without_blank_lists(value, rules), tuple(rules)


def _is_one_text(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)


def _without_blank_lists(value: Any, rules: list[str]) -> Any:
    if value == [""]:
        rules.append(BLANK_LIST)
        return []
    if isinstance(value, dict):
        return {key: _without_blank_lists(one, rules) for key, one in value.items()}
    return [_without_blank_lists(one, rules) for one in value] if isinstance(value, list) else value
