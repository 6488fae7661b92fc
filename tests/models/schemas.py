"""Schemas of extraction, as those of doping, of frameworks and of tables are, with an answer of each."""

import json
from typing import Any

TEXT, WORDS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def keyed(pattern: str, values: dict) -> dict[str, Any]:
    return {"type": "object", "patternProperties": {pattern: values}, "additionalProperties": False}


DOPING = {
    **closed(
        basemats=keyed("^b[0-9]+$", TEXT), dopants=keyed("^d[0-9]+$", TEXT), dopants2basemats=keyed("^d[0-9]+$", WORDS)
    ),
    "required": ["basemats", "dopants", "dopants2basemats"],
}
RECORD = closed(name=TEXT, formula=TEXT, applications=WORDS) | {"required": ["name", "formula", "applications"]}
ROLES = {
    **closed(
        comp_table={"enum": [0, 1]},
        regex_table={"enum": [0, 1]},
        composition_row_index={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}},
        gid_col_index={"type": "array", "items": {"type": "integer"}},
    ),
    "required": ["comp_table", "regex_table"],
}
SCHEMAS = {"doping": DOPING, "records": {"type": "array", "items": RECORD}, "roles": ROLES}
ANSWERS = {
    "doping": {
        "basemats": {"b0": "ZnO", "b12": "β-Ga₂O₃"},
        "dopants": {"d0": 'a "b"\n'},
        "dopants2basemats": {"d0": ["b0"]},
    },
    "records": [
        {"name": "MOF-5", "formula": "", "applications": []},
        {"name": "😀", "formula": "x", "applications": ["a", "b"]},
    ],
    "roles": {"comp_table": 1, "regex_table": 0, "composition_row_index": [0, 12]},
}


def written(answer: Any) -> str:
    """The one form that grammars take."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
