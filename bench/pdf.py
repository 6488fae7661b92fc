"""How much of a paper is found in its PDF: body, headings, abstract and title against the publisher's own source.

    python -m bench.pdf FOLDER [--set all|looked-at|aside] [--show NAME]

FOLDER holds NAME.pdf with NAME.truth.json: {title, abstract, sections: [[parents, heading, text], ...]}. Words are runs
of letters and digits in lower case; body F1 is over the words of all sections as bags, methods + results over those of
sections that `headings.experimental` chooses, each side by its own headings. A heading is found where its words are the
same but for its number. The papers of journals are parted in two: the first half by the SHA-256 of their file names
were looked at while the reader was written, the others only to be scored once.
"""

import argparse
import hashlib
import json
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from nsllm_lite import terminal
from nsllm_lite.corpus import sources
from nsllm_lite.corpus.texts.clean import clean_document
from nsllm_lite.corpus.texts.headings import experimental, plain
from nsllm_lite.formats.documents import Document, Section
from nsllm_lite.recipe.corpus import Source

JOURNALS = ("bmc_", "hind_", "pmc_")
GOOD = 0.9  # F1 of an abstract that counts as right
RIGHT_TITLE = 0.95
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def agreement(found: Sequence[str], truth: Sequence[str]) -> tuple[float, float, float]:
    """(F1, precision, recall) of two bags of words; 1 where both are empty."""
    if not found and not truth:
        return 1.0, 1.0, 1.0
    shared = (Counter(found) & Counter(truth)).total()
    precision, recall = shared / max(1, len(found)), shared / max(1, len(truth))
    return 2 * shared / max(1, len(found) + len(truth)), precision, recall


def body(sections: Sequence[Section], chosen: Sequence[bool] | None = None) -> list[str]:
    kept = [s for n, s in enumerate(sections) if chosen is None or chosen[n]]
    return words(" ".join(s.text for s in kept))


def score(paper: Document, truth: dict) -> dict[str, float]:
    expected = clean_document(
        Document("t", "s", "f#1", truth["title"], truth["abstract"],
                 tuple(Section(h, text, tuple(parents)) for parents, h, text in truth["sections"]))
    )  # fmt: skip
    # What journals of software print as "Summary" is the abstract that their source leaves out.
    sections, abstract = expected.sections, expected.abstract
    if not abstract and sections and sections[0].heading == "Summary":
        sections, abstract = sections[1:], sections[0].text
    f1, precision, recall = agreement(body(paper.sections), body(sections))
    heads = [plain(s.heading) for s in paper.sections if s.heading]
    known = [plain(s.heading) for s in sections if s.heading]
    _, head_precision, head_recall = agreement(heads, known)
    _, exp_precision, exp_recall = agreement(
        body(paper.sections, experimental(paper.sections)), body(sections, experimental(sections))
    )
    return {
        "body": f1, "P": precision, "R": recall, "headings P": head_precision, "R of them": head_recall,
        "abstract": agreement(words(paper.abstract), words(abstract))[0],
        "title": agreement(words(paper.title), words(expected.title))[0],
        "m+r P": exp_precision, "m+r R": exp_recall,
    }  # fmt: skip


def papers(folder: Path, which: str) -> list[Path]:
    """Those that were looked at, the others, or all."""
    found = sorted(path for path in folder.glob("*.pdf") if path.with_suffix(".truth.json").is_file())
    journals = [path for path in found if path.name.startswith(JOURNALS)]
    journals.sort(key=lambda path: hashlib.sha256(path.name.encode()).hexdigest())
    aside = set(journals[len(journals) // 2 :])
    return [path for path in found if which == "all" or (path in aside) == (which == "aside")]


def read(path: Path) -> Document:
    source = Source(name="pdf", path=str(path))
    (document,) = [record for file in sources.files_of(source) for record in sources.read(source, file, False)]
    assert isinstance(document, Document), document
    return clean_document(document)


def table(scores: dict[str, dict[str, float]]) -> None:
    heads = ("paper", *next(iter(scores.values())))
    rows = [(name, *(f"{value:.3f}" for value in row.values())) for name, row in scores.items()]
    rows.append(("mean", *(f"{mean(row[key] for row in scores.values()):.3f}" for key in heads[1:])))
    terminal.table(heads, rows, right=heads[1:])
    abstracts = sum(row["abstract"] > GOOD for row in scores.values())
    titles = sum(row["title"] > RIGHT_TITLE for row in scores.values())
    print(f"n = {len(scores)}; abstracts right {abstracts}, titles right {titles}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", choices=("all", "looked-at", "aside"), default="looked-at")
    parser.add_argument("--show", help="prints the sections of this paper")
    options = parser.parse_args()
    scores: dict[str, dict[str, float]] = {}
    pages, started = 0, time.process_time()
    for path in papers(options.folder, options.set):
        if options.show and options.show != path.stem:
            continue
        paper = read(path)
        scores[path.stem] = score(paper, json.loads(path.with_suffix(".truth.json").read_text(encoding="utf-8")))
        if options.show:
            show(paper)
    del pages, started
    for journals in (True, False):
        chosen = {name: row for name, row in scores.items() if name.startswith(JOURNALS) == journals}
        if chosen:
            print("journals" if journals else "preprints and journals of software")
            table(chosen)


def show(paper: Document) -> None:
    print(paper.id, paper.title, paper.abstract, "", sep="\n")
    for section in paper.sections:
        print(f"{'#' * (1 + len(section.parents))} {section.heading}\n{section.text}\n")


if __name__ == "__main__":
    main()
