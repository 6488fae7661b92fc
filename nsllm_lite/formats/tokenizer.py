"""The tokenizer of a model folder or hub id: the one place that opens it, and copies it."""

import json
import re
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.json_files import without_marks
from nsllm_lite.errors import UserError
from nsllm_lite.safety import require_inside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTROL = re.compile(
    r"<[|｜].*[|｜]>|</?(?:think|tools?|tool_(?:call|response|output|result)s?|arg_(?:key|value))>", re.DOTALL
)
_THINKING = re.compile("think|thought", re.IGNORECASE)
LEAST = ("tokenizer.*", "vocab.*", "*.model")  # a folder has one of these, or no tokenizer
SAVED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.model")
TEMPLATES = ("chat_template*", "additional_chat_templates/*")
FILES = ("tokenizer*", "vocab*", "merges.txt", "added_tokens.json", "special_tokens_map.json", "tekken.json", "*.model")
FILES += ("*.tiktoken", *TEMPLATES)


def load_tokenizer(name: str | Path) -> Tokenizer:
    """That of `tokenizer.json`, which neither cuts nor pads; where a folder has none, what transformers makes of its
    other files.

    Raises:
        UserError: there is none, it is not what was written, or it is damaged.
    """
    path = Path(name) / "tokenizer.json"
    if path.is_file():
        integrity.verify(path.parent, [path.name])
        try:
            with without_marks(path.parent) as folder:
                tokenizer = Tokenizer.from_file(str(folder / path.name))
        except Exception as error:  # noqa: BLE001 (tokenizers raises nothing narrower)
            found = f"{path} cannot be read as a tokenizer ({error})."
            raise UserError("tokenizer-damaged", found, "Fetch or copy it again.") from None
    else:
        tokenizer = load_auto_tokenizer(name).backend_tokenizer
    tokenizer.no_truncation()  # a program that cut its inputs leaves that length in the file
    tokenizer.no_padding()
    return tokenizer


def text_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """The same for the texts of papers and plain prompts, in which the name of a control token is text.

    Control tokens are the special ones, and those of chats and code that some tokenizers do not mark as special
    (Qwen3's `<think>`). Words that were added to the vocabulary ("[SMILES]"), and white space, stay tokens.
    """
    values, vocab = json.loads(tokenizer.to_str()), tokenizer.get_vocab(with_added_tokens=False)
    added = []
    for token in values["added_tokens"]:
        if token["special"] or _CONTROL.fullmatch(token["content"]):
            if token["content"] in vocab:
                _hide_piece(values["model"], token["content"], token["id"])
                continue
            # Those behind it are numbered by their place: it stays, under a name that is in no text.
            token |= {"content": f"\U0010ffff{token['id']}\U0010ffff", "special": False, "normalized": False}
        added.append(token)
    return Tokenizer.from_str(json.dumps(values | {"added_tokens": added, "truncation": None, "padding": None}))


def _hide_piece(model: dict[str, Any], piece: str, number: int) -> None:
    """Renames a piece of the vocabulary that the model would find in a text; BPE puts none together but by merges."""
    hidden = f"\U0010ffff{number}\U0010ffff"
    if model["type"] == "Unigram":
        model["vocab"] = [[hidden if name == piece else name, score] for name, score in model["vocab"]]
    elif model["type"] != "BPE" and piece != model.get("unk_token"):
        model["vocab"] = {hidden if name == piece else name: id_ for name, id_ in model["vocab"].items()}


def spoken(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """The text of an answer without special tokens, but for those that begin and end reasoning, which is told by
    them."""
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    kept = [number for number in ids if number not in special or _THINKING.search(special[number])]
    return tokenizer.decode(kept, skip_special_tokens=False)


def control_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The special tokens, and those of chats and code that some tokenizers do not mark as special."""
    added = tokenizer.added_tokens_decoder
    return [number for number, token in added.items() if token.special or _CONTROL.fullmatch(token.content)]


def apart(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """`text` with a blank in the names of control tokens, so that a chat template around it makes text of them."""
    for number in control_ids(tokenizer):
        token = tokenizer.added_tokens_decoder[number]
        if token.content.strip() and token.content in text:
            text = text.replace(token.content, f"{token.content[0]} {token.content[1:]}")
    return text


def begin_of_text_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that the tokenizer itself puts before a text: none (Qwen), <s> (Llama 2), or two (GLM-4)."""
    encoding = tokenizer.encode("a")
    added = takewhile(lambda pair: pair[1], zip(encoding.ids, encoding.special_tokens_mask, strict=True))
    return tuple(number for number, _ in added)


def chosen_begin_of_text(tokenizer: Tokenizer, chosen: str | None) -> tuple[tuple[int, ...], str]:
    """(ids before a text, what chose them) by a recipe's `begin_of_text`: None or "auto" (the tokenizer's own), "none",
    or a token. What equals the tokenizer's own is "auto".

    Raises:
        UserError: the tokenizer has no such token.
    """
    own = begin_of_text_ids(tokenizer)
    if chosen in (None, "auto"):
        return own, "auto"
    if chosen == "none":
        return (), "none" if own else "auto"
    if (number := tokenizer.token_to_id(chosen)) is None:
        found = f"The tokenizer has no token begin_of_text={chosen!r}."
        raise UserError("tokenizer-no-begin-of-text", found, "Set it to auto, none, or one of the tokenizer's tokens.")
    return (number,), "auto" if own == (number,) else chosen


def load_auto_tokenizer(name: str | Path) -> "PreTrainedTokenizerBase":
    """The tokenizer as transformers has it, with its chat template; files of the model never run code.

    It splits a text as `load_tokenizer` does: since transformers 5 the class that tokenizer_config.json names builds
    these parts anew, and gives other tokens than tokenizer.json. Source: transformers issues 45488 and 45920.

    Raises:
        UserError: there is none, or transformers cannot load it.
    """
    folder = Path(name)
    if folder.is_dir() and not any(path for pattern in LEAST for path in folder.glob(pattern)):
        found = f"No tokenizer in {name}."  # transformers would make an empty one
        raise UserError("tokenizer-missing", found, "A model needs one beside its weights.", "Copy its files there.")
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoTokenizer  # takes seconds

    try:
        with without_marks(folder) if folder.is_dir() else nullcontext(name) as source:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (tokenizers raises nothing narrower)
        why = (str(error).splitlines() or [type(error).__name__])[0]
        found = f"The tokenizer of {str(name)!r} cannot be loaded ({why})."
        needed = "Needed is that of the model: its folder or its hub id."
        todo = "Fetch or copy its files again, or correct the name."
        raise UserError("tokenizer-not-loaded", found, needed, todo) from None
    stored = folder / "tokenizer.json" if folder.is_dir() else try_to_load_from_cache(str(name), "tokenizer.json")
    if isinstance(stored, str | Path) and Path(stored).is_file():
        own = load_tokenizer(Path(stored).parent)
        for part in ("model", "normalizer", "pre_tokenizer", "decoder"):
            setattr(tokenizer.backend_tokenizer, part, getattr(own, part))
    return tokenizer


def num_ids(tokenizer: "PreTrainedTokenizerBase") -> int:
    """One more than its highest id: how many rows of embeddings it needs."""
    return max(tokenizer.get_vocab().values()) + 1


def require_savable(folder: Path) -> None:
    """What `save_tokenizer` raises of a model's folder, before the long work. Raises UserError where a file of the
    tokenizer is a link that leads out of it."""
    for file in SAVED:
        if (folder / file).is_file():
            require_inside(folder / file, folder)


def save_tokenizer(name: str | Path, folder: Path) -> None:
    """Writes the tokenizer of a model folder or hub id to `folder`, as AutoTokenizer and `tokenizers` read it. Raises
    UserError where a file of it is a link that leads out of its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(name)
    if (source / "tokenizer.json").is_file():
        require_savable(source)
        for file in SAVED:
            if (source / file).is_file():
                shutil.copyfile(source / file, folder / file)
    else:
        load_auto_tokenizer(name).save_pretrained(folder)
