"""Materials of an abstract, with formula, acronym, descriptions, structure or phase, and applications.

Source: Dunn et al., 2024 ("general materials chemistry"); the form of the files is that of LLaMat, where it is MOF1.
"""

from pydantic import BaseModel, ConfigDict

from nsllm_lite.tasks.record_lists import RecordList


class Material(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    formula: str
    acronym: str
    description: list[str]
    structure_or_phase: list[str]
    applications: list[str]


TASK = RecordList(
    name="mof_general",
    version=2,
    title="Materials of an abstract",
    instruction="Which materials does this text study? Answer in JSON: a list of records with name, formula, acronym, "
    "description, structure_or_phase and applications; [] where there are none.",
    lead="Text",
    cue="Materials",
    shots=2,
    new_tokens=1024,
    chat_tokens=2048,
    form=list[Material],
    fields=(*Material.model_fields, "links"),
    texts=tuple(Material.model_fields),
    names=("name", "formula", "acronym"),
)
