"""The inputs of an instruction-tuning run, opened and checked against each other before anything long begins."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import read_object, sha256_json
from nsllm_lite.artifact.step import BESIDE
from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer import chosen_begin_of_text, load_auto_tokenizer, load_tokenizer
from nsllm_lite.formats.weights import fingerprint_settings, fingerprint_weights
from nsllm_lite.models.architectures import require_positions
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.sizes import ModelSize, read_size
from nsllm_lite.recipe.train import Fields, Sft
from nsllm_lite.train.conversations import Reader
from nsllm_lite.train.examples import Example, Ledger, files_of, read_examples
from nsllm_lite.train.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class SftInputs:
    """Everything a run reads, checked to exist and to fit together."""

    examples: list[Example]
    heldout: list[Example]
    ledgers: dict[str, Ledger]  # "data" and "heldout"
    base_dir: Path
    tokenizer: Tokenizer
    chat_tokenizer: "PreTrainedTokenizerBase"
    end_id: int
    size: ModelSize
    hashes: dict[str, str | None]


def read_inputs(recipe: Sft) -> SftInputs:
    """Opens and tokenises every input.

    Raises:
        UserError: one is missing, empty, or does not fit the model or the template.
    """
    files = {"data": files_of(recipe.data, "data"), "heldout": files_of(recipe.heldout, "heldout")}
    if not files["data"]:
        found = f"`data`: no .json or .jsonl file in {', '.join(recipe.data)}."
        needed = "Needed are files of records with questions and answers."
        todo = "Correct the path; the tasks' own are made by `nsllm-lite tasks`."
        raise UserError("sft-data-without-files", found, needed, todo)
    base_dir = resolve_model(recipe.model)
    tokenizer = load_tokenizer(base_dir)
    chat_tokenizer = load_auto_tokenizer(base_dir)
    begin, chosen_by = chosen_begin_of_text(tokenizer, recipe.begin_of_text)
    if recipe.template == "chat" and recipe.begin_of_text not in (None, "auto", "none"):
        found = f"begin_of_text={recipe.begin_of_text!r} with template: chat."
        raise UserError("sft-begin-with-chat", found, "A chat template writes all of a prompt:", "leave it out.")
    begins = begin if recipe.template == "plain" else ()
    template = Template(recipe.template, recipe.end_of_text, tokenizer, chat_tokenizer, begins)
    if chosen_by != "auto" and recipe.template == "plain":
        print(f"begin_of_text={chosen_by} is not what the tokenizer does by itself, as `nsllm-lite eval` does.")
    size = read_size(base_dir)
    require_positions(read_object(base_dir / "config.json"), recipe.max_tokens, "max_tokens")
    if template.end_id >= size.vocab:
        found = f"end_of_text={recipe.end_of_text!r} is token {template.end_id}, but {base_dir} knows {size.vocab}."
        needed = "Its tokenizer belongs to another model."
        raise UserError("sft-end-token-not-in-model", found, needed, "Put the right one beside its weights.")
    reader = Reader(recipe.fields or Fields())
    examples, ledger = read_examples(files["data"], template, recipe.max_tokens, reader)
    heldout, heldout_ledger = read_examples(files["heldout"], template, recipe.max_tokens, reader)
    reader.require_seen()
    for example in (*examples, *heldout):
        if (highest := int(example.input_ids.max())) >= size.vocab:
            found = f"{example.name} holds token {highest}, but model {base_dir} knows {size.vocab}."
            needed = "Its tokenizer belongs to another model."
            raise UserError("sft-token-not-in-model", found, needed, "Put the right one beside its weights.")
    require_apart(examples, heldout)
    heldout = sample_heldout(heldout, recipe.max_heldout_examples)
    hashes = {"base": fingerprint_weights(base_dir), f"{BESIDE}base": fingerprint_settings(base_dir)}
    hashes |= {name: sha256_json([sha256_file(path) for path in paths]) for name, paths in files.items()}
    return SftInputs(
        examples=examples,
        heldout=heldout,
        ledgers={"data": ledger, "heldout": heldout_ledger},
        base_dir=base_dir,
        tokenizer=tokenizer,
        chat_tokenizer=chat_tokenizer,
        end_id=template.end_id,
        size=size,
        hashes=hashes,
    )


def require_apart(examples: list[Example], heldout: list[Example]) -> None:
    """Raises UserError where a held-out record, its question or its document is trained on."""
    needed = "A loss on training data says nothing about held-out data."
    trained_on = {example.input_ids.tobytes() for example in examples if example.is_whole}
    whole = [example for example in heldout if example.is_whole]  # conversations often begin alike
    if same := [example.name for example in whole if example.input_ids.tobytes() in trained_on]:
        found = f"{len(same)} held-out records stand in `data` word for word ({', '.join(same[:3])})."
        raise UserError("sft-records-in-both", found, needed, "Name other files in `heldout`, or none (heldout=[]).")
    in_both = {e.document for e in examples} & {e.document for e in heldout} - {""}
    if in_both:
        found = f"{len(in_both)} documents stand in `data` and in `heldout` ({', '.join(sorted(in_both)[:3])})."
        todo = "Split the files by document, as `nsllm-lite tasks` does."
        raise UserError("sft-documents-in-both", found, needed, todo)
    asked = {question for example in examples for question in example.asked} - {b""}
    alone = {question for example in examples if not example.document for question in example.asked} - {b""}
    # where both state their document, that decides: sentences such as "All rights reserved" stand in many papers
    shared = (e.name for e in whole if (alone if e.document else asked).intersection(e.asked[-1:]))
    if same := list(shared):
        found = f"The questions of {len(same)} held-out records stand in `data` too ({', '.join(same[:3])}), "
        found += "with whatever instruction or answer."
        todo = "Take them out of `data`, or hold out others; an `input` that is alike in all records is no question: "
        todo += "name it so (fields={system: input})."
        raise UserError("sft-questions-in-both", found, needed, todo)


def sample_heldout(heldout: list[Example], limit: int) -> list[Example]:
    """At most `limit` of them, of each file (by its name) an equal share, spread evenly; small files are taken whole,
    and leave their rest to the larger. Raises UserError where a file would have none."""
    counts = Counter(example.source for example in heldout)
    if len(counts) > limit:
        found = f"max_heldout_examples={limit}, but `heldout` has records of {len(counts)} files."
        raise UserError("sft-heldout-limit", found, f"Raise it to {len(counts)} or more, or hold out fewer files.")
    left, chosen = limit, set()
    for number, source in enumerate(sorted(counts, key=counts.__getitem__)):
        places = [place for place, example in enumerate(heldout) if example.source == source]
        share = min(len(places), left // (len(counts) - number))
        chosen |= {places[int(at)] for at in np.linspace(0, len(places) - 1, share)}
        left -= share
    return [heldout[place] for place in sorted(chosen)]


def require_enough(recipe: Sft, inputs: SftInputs) -> None:
    """Raises UserError where no example is left, or more records were left out than the recipe allows."""
    ledger = inputs.ledgers["data"]
    if not inputs.examples:
        reasons = sum(ledger.left_out.values(), Counter()).most_common(3)
        found = f"No example is left to train on: {', '.join(f'{reason} {count:,}' for reason, count in reasons)}."
        needed = "Needed are records with a question and an answer of at most max_tokens tokens."
        raise UserError(
            "sft-no-examples", found, needed, "Correct the data, map its keys (`fields`), or raise max_tokens."
        )
    if (share := ledger.share_left_out) > recipe.max_left_out_share:
        limit, enough = recipe.max_left_out_share, math.ceil(share * 100) / 100
        found = f"{share:.1%} of the records were left out (see the table above), more than max_left_out_share={limit}."
        todo = f"Correct them or raise max_tokens; to train on the rest as it is, set max_left_out_share={enough:.2f}."
        raise UserError("sft-too-many-left-out", found, todo)
