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
import resource
import time
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from nsllm_lite import terminal
from nsllm_lite.corpus.files.opening import Place
from nsllm_lite.corpus.files.pdf import paper
from nsllm_lite.corpus.sources import pdf
from nsllm_lite.corpus.texts.clean import clean_document
from nsllm_lite.formats.documents import Document, Section
from nsllm_lite.formats.headings import experimental, plain

JOURNALS = ("bmc_", "hind_", "pmc_")
GOOD = 0.9  # F1 of an abstract that counts as right
RIGHT_TITLE = 0.95
_NO_TEXT = re.compile(
    r"(?:Fig(?:ure|\.)?|Table|Scheme)\s*\d+\s*[.:|]|\[?\d{1,3}[\].]+\s+[A-Z][\w'’-]+,? (?:[A-Z]\.?,? ?){1,3}[,.:]"
)
_WORD = re.compile(r"[^\W_]+")


class Score(NamedTuple):
    row: dict[str, float]
    words: tuple[int, int, int]  # of methods and results: found, true, both


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


def score(found: Document, truth: dict) -> Score:
    sections = tuple(Section(heading, text, tuple(parents)) for parents, heading, text in truth["sections"])
    expected = clean_document(Document("t", "s", "f#1", truth["title"], truth["abstract"], sections))
    sections, abstract = expected.sections, expected.abstract
    if not abstract and sections and sections[0].heading == "Summary":  # printed as one, which its source leaves out
        sections, abstract = sections[1:], sections[0].text
    f1, precision, recall = agreement(body(found.sections), body(sections))
    heads, known = ([plain(s.heading) for s in both if s.heading] for both in (found.sections, sections))
    _, head_precision, head_recall = agreement(heads, known)
    of_found, of_truth = (body(both, experimental(both)) for both in (found.sections, sections))
    _, exp_precision, exp_recall = agreement(of_found, of_truth)
    row = {
        "body F1": f1,
        "P": precision,
        "R": recall,
        "headings P": head_precision,
        "headings R": head_recall,
        "abstract F1": agreement(words(found.abstract), words(abstract))[0],
        "title F1": agreement(words(found.title), words(expected.title))[0],
        "m+r P": exp_precision,
        "m+r R": exp_recall,
        "captions, entries": float(sum(map(_is_no_text, paragraphs(found)))),
    }
    return Score(row, (len(of_found), len(of_truth), (Counter(of_found) & Counter(of_truth)).total()))


def paragraphs(found: Document) -> list[str]:
    return [paragraph for section in found.sections for paragraph in section.text.split("\n")]


def _is_no_text(paragraph: str) -> bool:
    """Whether it begins as a caption or an entry of a list of references does."""
    return bool(_NO_TEXT.match(paragraph))


def papers(folder: Path, which: str) -> list[Path]:
    """Those that were looked at, the others, or all."""
    found = sorted(path for path in folder.glob("*.pdf") if path.with_suffix(".truth.json").is_file())
    journals = [path for path in found if path.name.startswith(JOURNALS)]
    journals.sort(key=lambda path: hashlib.sha256(path.name.encode()).hexdigest())
    aside = set(journals[len(journals) // 2 :])
    return [path for path in found if which == "all" or (path in aside) == (which == "aside")]


def read(path: Path) -> tuple[Document, float]:
    """The paper, and the CPU seconds a page that it took in this process."""
    content = path.read_bytes()
    started = time.process_time()
    found = paper.read(content)
    seconds = (time.process_time() - started) / found["num_pages"]
    return clean_document(pdf.document(found, Place("pdf", f"{path.name}#1"))), seconds


def table(papers_scored: dict[str, Score]) -> None:
    scores = {name: one.row for name, one in papers_scored.items()}
    heads = ("paper", *next(iter(scores.values())))
    rows = [(name, *(f"{value:.3f}" for value in row.values())) for name, row in scores.items()]
    rows.append(("mean", *(f"{mean(row[key] for row in scores.values()):.3f}" for key in heads[1:])))
    terminal.table(heads, rows, right=heads[1:])
    abstracts = sum(row["abstract F1"] > GOOD for row in scores.values())
    titles = sum(row["title F1"] > RIGHT_TITLE for row in scores.values())
    found, truth, shared = map(sum, zip(*(one.words for one in papers_scored.values()), strict=True))
    pooled = f"P {shared / max(1, found):.3f}, R {shared / max(1, truth):.3f}"
    print(f"n = {len(scores)}; right: {abstracts} abstracts, {titles} titles; m+r of all words together: {pooled}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", choices=("all", "looked-at", "aside"), default="looked-at")
    parser.add_argument("--show", metavar="NAME", help="prints this paper as it is read")
    options = parser.parse_args()
    chosen = papers(options.folder, options.set)
    scores: dict[bool, dict[str, Score]] = {True: {}, False: {}}
    for path in chosen:
        if options.show in (None, path.stem):
            found, seconds = read(path)
            truth = json.loads(path.with_suffix(".truth.json").read_text(encoding="utf-8"))
            scored = score(found, truth)
            scored.row["CPU s/page"] = seconds
            scores[path.name.startswith(JOURNALS)][path.stem] = scored
            if options.show:
                show(found)
    for is_journal, rows in scores.items():
        if rows:
            print("journals" if is_journal else "preprints, and a journal of software")
            table(rows)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


def show(found: Document) -> None:
    print(found.id, found.title, found.abstract, "", sep="\n")
    for section in found.sections:
        print(f"{'#' * (1 + len(section.parents))} {section.heading}\n{section.text}\n")


if __name__ == "__main__":
    main()
