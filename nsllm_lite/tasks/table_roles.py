"""Which rows and columns of a table hold compositions of materials, constituents, and the materials' identifiers.

Source: Gupta et al., "DiSCoMaT: distantly supervised composition extraction from tables in materials science articles",
2023; the form of the files is that of LLaMat. A table without compositions, {0, 0}, has no facts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nsllm_lite.tasks.extraction import Extraction, Facts


def _whole(value: Any) -> Any:
    """Refuses true and 1.0, which equal 1."""
    if type(value) is not int:
        raise ValueError("Input should be a whole number")  # caught by pydantic
    return value


Flag = Annotated[list[Annotated[Literal[0, 1], BeforeValidator(_whole)]], Field(min_length=1, max_length=1)]
Places = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
FLAGS = ("comp_table", "regex_table")


class Answer(BaseModel):
    """Lists without an index are absent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    comp_table: Flag
    regex_table: Flag
    composition_row_index: Places = []
    composition_col_index: Places = []
    chemical_row_index: Places = []
    chemical_col_index: Places = []
    gid_row_index: Places = []
    gid_col_index: Places = []


class TableRoles(Extraction):
    def facts(self, value: Any) -> Facts:
        """A flag is a fact where it is 1."""
        found = {field: Counter(value.get(field, ())) for field in self.fields}
        for flag in FLAGS:
            del found[flag][0]
        return found

    def compose(self, found: Mapping[str, Sequence[str]]) -> Any:
        return {flag: [0] for flag in FLAGS}


TASK = TableRoles(
    name="table_roles",
    version=2,
    title="Rows and columns of a table of compositions",
    instruction="Which rows and columns of this table hold compositions of materials (composition), the amounts of "
    "constituents (chemical) and identifiers (gid)? Answer in JSON: comp_table and regex_table, [1] or [0], and the "
    "lists of indices that are not empty.",
    lead="Table",
    cue="Roles",
    shots=4,
    new_tokens=512,
    chat_tokens=1024,
    form=Answer,
    fields=tuple(Answer.model_fields),
)
