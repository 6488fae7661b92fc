"""The inputs of a training run, opened and checked against each other before anything long begins."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import read_object
from nsllm_lite.artifact.step import BESIDE
from nsllm_lite.errors import UserError
from nsllm_lite.formats import weights
from nsllm_lite.formats.rows import Row, Rows
from nsllm_lite.formats.tokenizer import begin_of_text_ids, load_tokenizer
from nsllm_lite.formats.weights import fingerprint_settings, fingerprint_weights
from nsllm_lite.models import heldout
from nsllm_lite.models.architectures import require_positions
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.loading import require_savable
from nsllm_lite.models.sizes import ModelSize, read_size
from nsllm_lite.recipe.train import Budget, Train
from nsllm_lite.train.plot import Curve, read_curve


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything a run reads, checked to exist and to fit together."""

    rows: Rows
    replay: Rows | None
    heldout: dict[str, list[Row]]  # "domain" and "general"
    heldout_rows: Rows
    base_dir: Path | None  # None: the model is built from nothing
    tokenizer_dir: Path
    size: ModelSize
    overlay: Curve | None  # of another run, for the picture
    hashes: dict[str, str | None]

    def require_sound(self) -> None:
        """Raises UserError where rows or base are not what was written, or hold a token or a number they must not, or a
        document is both trained on and held out.

        One pass over all of it before the first step, at about 2 GiB/s a core: rows are shuffled, so that a check of a
        file at its first row would read them all in the first steps, and stop a run that has begun.
        """
        if self.base_dir:
            weights.require_sound(self.base_dir)
        kept_apart = {name for rows in self.heldout.values() for row in rows for name in row.doc_ids}
        for rows in filter(None, (self.rows, self.replay)):
            rows.require_sound(self.size.vocab)
            require_apart(rows, kept_apart)


def read_inputs(recipe: Train) -> Inputs:
    """Opens every input.

    Raises:
        UserError: one is missing, empty, or belongs to another tokenizer.
    """
    rows = Rows(Path(recipe.rows))
    domain, general = Rows(Path(recipe.evaluation.domain_rows)), Rows(Path(recipe.evaluation.general_rows))
    replay = Rows(Path(recipe.replay.rows)) if recipe.replay else None
    all_rows = [opened for opened in (rows, domain, general, replay) if opened is not None]
    require_rows_for(recipe.budget, all_rows)
    if len({tuple(opened.totals.begin_of_text_ids) for opened in all_rows}) > 1:
        found = f"Texts begin differently in {', '.join(str(r.path) for r in all_rows)}."
        raise UserError("train-begins-differ", found, "Make them in one `nsllm-lite corpus` run.")
    row_tokens = rows.totals.row_tokens
    hashes: dict[str, str | None] = {"rows": rows.sha256, "domain_rows": domain.sha256, "general_rows": general.sha256}
    if replay is not None:
        hashes["replay_rows"] = replay.sha256
    if recipe.build:
        base_dir, tokenizer_dir = None, Path(recipe.build.tokenizer)
        hashes["tokenizer"] = sha256_file(tokenizer_dir / "tokenizer.json")
        vocab = load_tokenizer(tokenizer_dir).get_vocab_size()
        size = ModelSize.of_shape(recipe.build, vocab)
    else:
        base_dir = tokenizer_dir = resolve_model(recipe.model)
        hashes |= {"base": fingerprint_weights(base_dir), f"{BESIDE}base": fingerprint_settings(base_dir)}
        size = read_size(base_dir)
        if recipe.adapter is None:
            require_savable(base_dir)
        require_positions(read_object(base_dir / "config.json"), row_tokens, "row_tokens (of the corpus)")
    for opened in (domain, general):  # the others are long, and read through when it is known that there is work
        opened.require_sound(size.vocab)
    require_same_tokenizer(rows, tokenizer_dir)
    require_same_begin(rows, tokenizer_dir)
    max_rows = recipe.evaluation.max_rows
    return Inputs(
        rows=rows,
        replay=replay if replay is not None and len(replay) else None,
        heldout={"domain": heldout.sample_rows(domain, max_rows), "general": heldout.sample_rows(general, max_rows)},
        heldout_rows=domain,
        base_dir=base_dir,
        tokenizer_dir=tokenizer_dir,
        size=size,
        overlay=read_curve(Path(recipe.overlay)) if recipe.overlay else None,
        hashes=hashes,
    )


def require_rows_for(budget: Budget, all_rows: Sequence[Rows]) -> None:
    """Raises UserError where the first of the rows, which are trained on, are none or do not fill a step, or others are
    of another tokenizer."""
    rows = all_rows[0]
    if not len(rows):
        found = f"{rows.path} holds no rows."
        needed = "There is nothing to train on."
        raise UserError("train-rows-empty", found, needed, "Look at ledger.json of its corpus.")
    if len({opened.totals.tokenizer_sha256 for opened in all_rows}) > 1:
        found = f"Rows of different tokenizers: {', '.join(str(r.path) for r in all_rows)}."
        raise UserError("train-tokenizers-differ", found, "Make them in one `nsllm-lite corpus` run.")
    row_tokens = rows.totals.row_tokens
    if budget.tokens_per_step % row_tokens:
        found = f"budget.tokens_per_step={budget.tokens_per_step}, but a row has {row_tokens} tokens."
        todo = f"Take {max(1, budget.tokens_per_step // row_tokens) * row_tokens}."
        raise UserError("train-tokens-per-step", found, "Needed is a multiple of them.", todo)


def require_apart(rows: Rows, heldout_ids: Set[str]) -> None:
    """Raises UserError where a held-out document is in `rows`."""
    if trained_on := rows.among(heldout_ids):
        found = f"{len(trained_on)} held-out documents are in {rows.path} too ({', '.join(trained_on[:3])})."
        needed = "A loss on what is trained on says nothing about held-out text."
        todo = "Take evaluation.domain_rows and general_rows of the same `nsllm-lite corpus` run as the rows."
        raise UserError("train-heldout-trained-on", found, needed, todo)


def require_same_begin(rows: Rows, tokenizer_dir: Path) -> None:
    """Raises UserError where texts do not begin as the model knows them, unless the corpus's recipe chose that."""
    tokenizer, totals = load_tokenizer(tokenizer_dir), rows.totals
    own = list(begin_of_text_ids(tokenizer))
    if totals.begin_of_text_ids == own:
        return
    in_rows, in_model = (
        " ".join(str(tokenizer.id_to_token(number)) for number in ids) or "nothing"
        for ids in (totals.begin_of_text_ids, own)
    )
    found = (
        f"Texts in {rows.path} begin with {in_rows}; the tokenizer of {tokenizer_dir} puts {in_model} before a text."
    )
    if totals.begin_of_text == "auto":
        todo = "Build the corpus again in another folder (out=DIR); to train so all the same, with begin_of_text=none "
        todo += "or the token."
        raise UserError("train-begin-differs", found, "The model knows texts as its tokenizer makes them.", todo)
    print(f"{found} The corpus's recipe chose so (begin_of_text={totals.begin_of_text}); evaluation does the latter.")


def require_same_tokenizer(rows: Rows, tokenizer_dir: Path) -> None:
    """Raises UserError where the corpus was tokenised with another vocabulary than the model's.

    The corpus keeps its tokenizer beside its rows; rows that were moved away from it cannot be checked so.
    """
    made_with, own = (folder / "tokenizer.json" for folder in (rows.path.parents[2] / "tokenizer", tokenizer_dir))
    integrity.verify(made_with.parent)
    if not made_with.is_file() or (own.is_file() and sha256_file(own) == sha256_file(made_with)):
        return
    if load_tokenizer(made_with.parent).get_vocab() != load_tokenizer(tokenizer_dir).get_vocab():
        found = f"{rows.path} was tokenised with another vocabulary ({made_with.parent}) than that of {tokenizer_dir}."
        todo = "Build the corpus again with `tokenizer=` set to this model (MODEL= does both)."
        raise UserError("train-vocabulary-differs", found, todo)
