"""Doping: host materials, dopants, and which dopant is in which host, from a sentence.

Ids name materials within one answer; two answers that differ in ids alone say the same.
Source: Dunn et al., "Structured information extraction from scientific text with large language models", 2024; the
form of the files is that of LLaMat (github.com/M3RG-IITD/llamat at 1dbee74, evaluation_codes).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from nsllm_lite.tasks.extraction import Extraction, Facts
from nsllm_lite.tasks.gold import UnfitGoldError

HostId = Annotated[str, StringConstraints(pattern=r"^b[0-9]+$")]
DopantId = Annotated[str, StringConstraints(pattern=r"^d[0-9]+$")]
Text = Annotated[str, StringConstraints(min_length=1)]


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    basemats: dict[HostId, Text]
    dopants: dict[DopantId, Text]
    dopants2basemats: dict[DopantId, list[HostId]]


class Doping(Extraction):
    metrics = Extraction.metrics | {"f1 links": "F1 of links"}

    def facts(self, value: Any) -> Facts:
        hosts, dopants = value["basemats"], value["dopants"]
        return {
            "basemats": Counter(hosts.values()), "dopants": Counter(dopants.values()), "links": Counter(_links(value)),
        }  # fmt: skip

    def gold_answer(self, answer: Any) -> tuple[str, tuple[str, ...]]:
        output, repairs = super().gold_answer(answer)
        value = json.loads(output)
        if lost := next((link for link in _links(value) if not link[2]), None):
            raise UnfitGoldError("a link of its answer is to no material of it", " in ".join(lost[:2])[:80])
        return output, repairs

    def key(self, value: Any) -> Any:
        """Each dopant with its hosts, and each host with its dopants: of two dopants of one name too."""
        links = Counter((one, other) for one, many in value["dopants2basemats"].items() for other in many)
        hosts, dopants = value["basemats"], value["dopants"]
        unknown = sum(one not in dopants or other not in hosts for one, other in links)
        of_dopants = [(text, self._ends(links, 0, name, hosts)) for name, text in dopants.items()]
        of_hosts = [(text, self._ends(links, 1, name, dopants)) for name, text in hosts.items()]
        return sorted(of_dopants), sorted(of_hosts), unknown

    @staticmethod
    def _ends(links: Counter, side: int, name: str, texts: Mapping[str, str]) -> list[str]:
        return sorted(texts.get(link[1 - side], "") for link in links.elements() if link[side] == name)

    def compose(self, found: Mapping[str, Sequence[str]]) -> Any:
        """Every dopant in every host."""
        hosts = {f"b{number}": text for number, text in enumerate(found.get("basemats", ()))}
        dopants = {f"d{number}": text for number, text in enumerate(found.get("dopants", ()))}
        links = {one: list(hosts) for one in dopants} if hosts else {}
        return {"basemats": hosts, "dopants": dopants, "dopants2basemats": links}


def _links(value: Any) -> list[tuple[str, str, bool]]:
    """(dopant, host) by their texts, and whether both are there: a link to no material is in no gold."""
    hosts, dopants = value["basemats"], value["dopants"]
    return [
        (dopants.get(one, f"no {one}"), hosts.get(other, f"no {other}"), one in dopants and other in hosts)
        for one, others in value["dopants2basemats"].items()
        for other in others
    ]


TASK = Doping(
    name="doping",
    version=2,
    title="Doping in a sentence",
    instruction="Which materials are doped in this text, and with what? Answer in JSON: hosts as basemats b0, b1, ..., "
    "dopants d0, d1, ..., and for each dopant the hosts it is in as dopants2basemats.",
    lead="Text",
    cue="Doping",
    shots=4,
    new_tokens=256,
    chat_tokens=1024,
    form=Answer,
    fields=("basemats", "dopants", "links"),
    texts=("basemats", "dopants"),
)
