"""What encoders made from real abstracts are worth, on a CPU.

    python bench/encoders.py own --real DATA          tokenizer, an encoder of a million parameters from nothing, its
                                                      twin, embeddings of both
    python bench/encoders.py adapted --real DATA      all-MiniLM-L6-v2, adapted to the same papers (--minilm DIR)
    python bench/encoders.py retrieval --real DATA    all of these on test collections, beside BM25
    python bench/encoders.py entities --real DATA     named entities on two sets, with several seeds (--sentences)

In this order; each takes what is there from those before it. Half of the queries of a collection, drawn by seed, choose
the weight of the fusion with BM25, and the others are scored. `tldr` asks with authors' own one-sentence summaries of
ICLR papers for their abstracts, which are in no training. Words such as mlm.budget.steps=500 change the
story's recipes. Writes into --out; a stopped run goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from chains import NANO, REAL_SOURCES, first_sentences

from nsllm_lite.cli import run_step
from nsllm_lite.commands.encoder_run import load_encoder_run
from nsllm_lite.commands.plan import Run
from nsllm_lite.commands.stories import by_recipe
from nsllm_lite.recipe import load as recipes
from nsllm_lite.retrieval.sets import read_retrieval

SOURCES = (
    *REAL_SOURCES, "arxiv_oai_quantph_xml", "oai_sickle", "hepcrawl_xml", "arxiv_atom", "biopython_entrez",
    "pubmed_csv_juliabeco", "asreview_exports", "bibliometrix_fixture", "litsearchr_exports", "grobid_tei",
    "unarxive_sample", "wos_awandahl", "wos_metaknowledge", "wos_tab_imaginaries", "wos_tab_whs_climate", "wos_tethne",
    "wos_wostools",
)  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "encoder-corpus": {
        "train_tokenizer": {"vocab_size": 4096, "model": "encoder"},
        "heldout": {"share": 0.1, "general_share": 0.2, "max_papers": 600, "seed": 0},
        "max_drop_share": 1,
    },
    "mlm": {
        "build.intermediate_size": 256, "optimizer.learning_rate": 3e-3, "schedule.warmup_steps": 100,
        "budget": {"steps": 3000, "tokens_per_step": 4096, "tokens": 3000 * 4096},
        "evaluation.every_steps": 1000, "evaluation.max_rows": 200, "checkpoint_steps": 500,
    },
    "distill": {
        "optimizer.learning_rate": 2e-3,
        "budget": {"steps": 1000, "tokens_per_step": 4096, "tokens": 1000 * 4096},
        "evaluation.every_steps": 500, "evaluation.max_rows": 200, "checkpoint_steps": 500,
    },
    "embed": {
        "max_tokens": 128, "dimensions": [64],
        "stages": [
            {"pairs": ["title-abstract", "sentences", "citing-cited", "keywords-abstract"], "steps": 500,
             "batch_pairs": 64},
            {"pairs": ["title-abstract", "citing-cited", "abstract-section"], "steps": 150, "batch_pairs": 24,
             "hard_negatives": {"count": 1, "first_rank": 3, "last_rank": 30}},
        ],
        "schedule.warmup_steps": 50,
        "evaluation": {"every_steps": 325, "max_queries": 600, "max_texts": 2000}, "checkpoint_steps": 100,
    },
    "embed-small": {
        "max_tokens": 128,
        "stages": [{"pairs": ["title-abstract", "sentences", "keywords-abstract"], "steps": 400, "batch_pairs": 64}],
        "schedule.warmup_steps": 40,
        "evaluation": {"every_steps": 200, "max_queries": 600, "max_texts": 2000}, "checkpoint_steps": 100,
    },
}  # fmt: skip
ADAPTED = {
    "max_tokens": 128, "dimensions": [],
    "stages": [{"pairs": ["title-abstract", "sentences", "citing-cited", "keywords-abstract"], "steps": 60,
                "batch_pairs": 64}],
    "optimizer.learning_rate": 2e-5, "schedule.warmup_steps": 6, "checkpoint_steps": 20,
    "evaluation": {"every_steps": 60, "max_queries": 600, "max_texts": 2000},
}  # fmt: skip
COLLECTIONS = {"cranfield": "ir_cranfield", "cisi": "ir_cisi_med_adi/cisi", "med": "ir_cisi_med_adi/med"}
TLDR = "conf_papers_json/iclr/iclr2018.json"
ENTITIES = {"scierc": "scibert/data/ner/sciie", "ncbi-disease": "ner_mtl_bio/NCBI-disease"}
FILES = {"data": "train", "development": "dev", "test": "test"}  # what the names of a set's files begin with


def story(data: Path, out: Path, settings: list[str]) -> Run:
    """The encoders' story on real files."""
    folder = out / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    for path in NANO.glob("*.yaml"):
        values = recipes.changed(yaml.safe_load(path.read_text()), CHANGES.get(path.stem, {}))
        if path.stem == "encoder-corpus":
            values["sources"] = [{"name": name, "path": str(data / name)} for name in SOURCES]
            values["general"] = [{"name": "wikitext2", "path": str(data / "general_wikitext2")}]
        (folder / path.name).write_text(yaml.safe_dump(values))
    run = load_encoder_run(folder, out=str(out), overrides=by_recipe(settings))
    return {name: step for name, step in run.items() if name not in ("tasks", "finetune")}


def adapted(run: Run, minilm: Path, out: Path) -> Path:
    """The embeddings of MiniLM on the story's papers; the folder of its model."""
    values = recipes.changed(yaml.safe_load((NANO / "embed.yaml").read_text()), ADAPTED)
    values |= {"model": str(minilm), "corpus": run["corpus"].out, "out": str(out / "adapted")}
    run_step(recipes.validate(values, "adapted"))
    return out / "adapted/model"


def write_sets(data: Path, out: Path) -> list[dict[str, str]]:
    """The collections in BEIR's layout with development and test queries, as files of an evaluation."""
    for name, place in COLLECTIONS.items():
        found = read_retrieval(data / place)
        queries = [
            (f"q{number}", text, {found.document_ids[at]: grade for at, grade in grades.items()})
            for number, (text, grades) in enumerate(zip(found.test.queries, found.test.grades, strict=True))
        ]
        write_beir(out / "sets" / name, dict(zip(found.document_ids, found.documents, strict=True)), queries)
    papers = json.loads((data / TLDR).read_text())
    papers = {paper["id"]: paper for paper in papers if paper.get("abstract")}
    asked = [(f"q-{name}", paper["tldr"], {name: 1}) for name, paper in papers.items() if paper.get("tldr")]
    write_beir(out / "sets/tldr", {name: paper["abstract"] for name, paper in papers.items()}, asked)
    names = (*COLLECTIONS, "tldr")
    return [{"name": name, "task": "retrieval", "path": str(out / "sets" / name)} for name in names]


def write_beir(folder: Path, documents: dict[str, str], queries: list[tuple[str, str, dict[str, int]]]) -> None:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    write_lines(folder / "corpus.jsonl", [{"_id": name, "title": "", "text": text} for name, text in documents.items()])
    write_lines(folder / "queries.jsonl", [{"_id": name, "text": text} for name, text, _ in queries])
    dealt = np.random.default_rng(0).permutation(len(queries))
    for split, part in (("dev", dealt[::2]), ("test", dealt[1::2])):
        lines = [
            f"{queries[at][0]}\t{document}\t{grade}\n" for at in part for document, grade in queries[at][2].items()
        ]
        (folder / f"qrels/{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def evaluate(models: dict[str, Path], files: list[dict[str, str]], out: Path) -> None:
    """Those of `models` that are there."""
    listed = [{"name": name, "path": str(path)} for name, path in models.items() if path.is_dir()]
    values = {"kind": "eval", "out": str(out), "models": listed, "tasks": None, "files": files, "seed": 0}
    run_step(recipes.validate(values, "eval"))


def entities(models: dict[str, tuple[Path, float, int, int]], data: Path, out: Path, sentences: int) -> None:
    """Named entities: each model (folder, learning rate, epochs, seeds) tuned on the first sentences of each set."""
    like = yaml.safe_load((NANO / "finetune.yaml").read_text())
    like |= {"task": "ner", "max_tokens": 128, "stride": 32, "patience": None, "checkpoint_steps": 500}
    for set_name, place in ENTITIES.items():
        found = {
            key: next(p for p in sorted((data / place).iterdir()) if p.name.startswith(begin))
            for key, begin in FILES.items()
        }
        first = first_sentences(found["data"], sentences, out / f"first-{set_name}.txt")
        files = {key: str(path) for key, path in found.items()} | {"data": [str(first)]}
        for name, (folder, rate, epochs, seeds) in models.items():
            if folder.is_dir():
                to = str(out / "entities" / f"{set_name}-{name}")
                values = like | files | {"model": str(folder), "learning_rate": rate, "epochs": epochs, "out": to}
                values["seeds"] = seeds
                run_step(recipes.validate(values, "entities"))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("own", "adapted", "retrieval", "entities"))
    parser.add_argument("settings", nargs="*", metavar="RECIPE.KEY=VALUE")
    parser.add_argument("--real", type=Path, required=True, metavar="DATA", help="a folder of real files")
    parser.add_argument("--minilm", type=Path, default=Path("models/all-minilm-l6-v2"), metavar="DIR")
    parser.add_argument("--sentences", type=int, default=1500, help="of an entities' training file (default: 1500)")
    parser.add_argument("--out", type=Path, default=Path("runs/encoders"))
    args = parser.parse_intermixed_args(words)
    data, out = args.real.resolve(), args.out
    run = story(data, out, args.settings)
    own, twin = out / "mlm/model", out / "distill/model"
    if args.what == "own":
        for recipe in run.values():
            run_step(recipe)
    elif args.what == "adapted":
        adapted(run, args.minilm, out)
    elif args.what == "retrieval":
        models = {"own": out / "embed/model", "twin": out / "embed-small/model", "encoder, mean of states": own}
        models |= {"MiniLM": args.minilm, "MiniLM, adapted": out / "adapted/model"}
        evaluate(models, write_sets(data, out), out / "retrieval")
    else:
        made = {"own": (own, 1e-3, 5, 10), "twin": (twin, 1e-3, 5, 10), "minilm": (args.minilm, 1e-4, 3, 3)}
        entities(made, data, out, args.sentences)


if __name__ == "__main__":
    main()
