"""Metal-organic frameworks of an abstract, with formula, descriptions, guests and applications.

Source: Dunn et al., 2024; the form of the files is that of LLaMat, where it is MOF2.
"""

from pydantic import BaseModel, ConfigDict

from nsllm_lite.tasks.record_lists import RecordList


class Framework(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name_of_mof: str
    mof_formula: str
    mof_description: list[str]
    guest_species: list[str]
    applications: list[str]


TASK = RecordList(
    name="mof",
    version=2,
    title="Metal-organic frameworks of an abstract",
    instruction="Which metal-organic frameworks does this text study? Answer in JSON: a list of records with "
    "name_of_mof, mof_formula, mof_description, guest_species and applications; [] where there are none.",
    lead="Text",
    cue="Frameworks",
    shots=2,
    new_tokens=1024,
    chat_tokens=2048,
    form=list[Framework],
    fields=(*Framework.model_fields, "links"),
    texts=tuple(Framework.model_fields),
    names=("name_of_mof", "mof_formula"),
)
