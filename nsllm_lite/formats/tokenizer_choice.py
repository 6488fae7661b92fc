"""Whose tokenizer and chat template a base with adapters has."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nsllm_lite import safety
from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.json_files import sha256_json
from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer import FILES, LEAST, load_auto_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "chat_template.jinja"


class Chosen(NamedTuple):
    """Whose tokenizer a base with adapters has."""

    tokenizer: Path
    template: Path  # whose chat template; its other files are the tokenizer's
    words: str  # for the card

    def load(self) -> "PreTrainedTokenizerBase":
        loaded = load_auto_tokenizer(self.tokenizer)
        if self.template != self.tokenizer:
            loaded.chat_template = (self.template / TEMPLATE).read_text(encoding="utf-8")
        return loaded


def choose_tokenizer(base: Path, adapters: Sequence[Path], told: str | None = None) -> Chosen:
    """The adapter's where it has one and `told` is not "base": its training may have added tokens, or a chat template.

    Raises:
        UserError: its tokenizer has other ids than the base's, or several adapters bring several, and `told` is None.
    """
    own = {digest: folder for folder in adapters if (digest := tokenizer_digest(folder, beside=base))}
    if told == "adapter" and not any(map(own_files, adapters)):
        found = f"{', '.join(map(str, adapters))}: no tokenizer and no chat template there."
        raise UserError("tokenizer-not-the-adapter-s", found, "Set --tokenizer-from base (tokenizer_from=base).")
    if told == "base" or not own:
        return Chosen(base, base, "that of the base")
    if len(own) > 1:
        found = f"{' and '.join(map(str, own.values()))} each bring a tokenizer or a chat template of their own."
        todo = "set --tokenizer-from base (tokenizer_from=base), or remove the others."
        raise UserError("tokenizers-several", found, "Only one can be taken:", todo)
    (folder,) = own.values()
    if not has_tokenizer(folder):
        if parts := [path.name for path in own_files(folder) if path.name != TEMPLATE]:
            found = f"{folder} holds {', '.join(parts)}, but no tokenizer that these belong to (tokenizer.json)."
            todo = "Copy that of its training there, or set --tokenizer-from base (tokenizer_from=base)."
            raise UserError("tokenizer-incomplete", found, todo)
        return Chosen(base, folder, "that of the base, with the adapter's chat template")
    if not told and has_tokenizer(base):
        require_superset(base, folder)
    return Chosen(folder, folder, "that of the adapter")


def has_tokenizer(folder: Path) -> bool:
    return any((*folder.glob("tekken.json"), *(path for pattern in LEAST for path in folder.glob(pattern))))


def tokenizer_files(folder: Path, patterns: Iterable[str] = FILES) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def own_files(folder: Path) -> list[Path]:
    files = tokenizer_files(folder)
    for path in files:
        safety.require_inside(path, folder)
    return files


def tokenizer_digest(folder: Path, beside: Path) -> str | None:
    """Of the tokenizer's files of an adapter; None where it has none, or only such as the base has too."""
    names = {str(path.relative_to(folder)): integrity.sha256_file(path) for path in own_files(folder)}
    others = {name: beside / name for name in names}
    if all(path.is_file() and integrity.sha256_file(path) == names[name] for name, path in others.items()):
        return None
    return sha256_json(names)


def require_superset(base: Path, adapter: Path) -> None:
    """Raises UserError where the adapter's tokenizer lacks a token of the base's, or has it at another id."""
    ours, theirs = (load_tokenizer(folder).get_vocab(with_added_tokens=True) for folder in (base, adapter))
    if odd := sorted((number, token) for token, number in ours.items() if theirs.get(token) != number):
        number, token = odd[0]
        there = f"{theirs[token]} in" if token in theirs else "not in"
        found = f"The tokenizers differ in {len(odd)} tokens: {token!r} is {number} in {base} and {there} {adapter}."
        needed = "An adapter's tokenizer is taken unasked where it only adds tokens:"
        todo = "set --tokenizer-from adapter or base (tokenizer_from=...)."
        raise UserError("tokenizers-differ", found, needed, todo)


def require_known(chosen: Chosen, num_rows: int) -> None:
    """Raises UserError where the tokenizer has an id that the model, of `num_rows` embeddings, has not."""
    ids = load_tokenizer(chosen.tokenizer).get_vocab(with_added_tokens=True)
    token, highest = max(ids.items(), key=lambda item: item[1])
    if highest >= num_rows:
        found = f"Token {token!r} of {chosen.tokenizer} is {highest}, but the model has {num_rows} embeddings."
        needed = "A token without an embedding cannot be read:"
        todo = "save the adapter with its resized embeddings (modules_to_save), or set tokenizer_from=base."
        raise UserError("tokenizer-token-not-in-model", found, needed, todo)
