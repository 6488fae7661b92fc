"""The tokenizer of a model folder or hub id: the one place that opens it."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.json_files import without_marks
from nsllm_lite.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST = ("tokenizer.*", "vocab.*", "*.model")  # a folder has one of these, or no tokenizer


def load_tokenizer(name: str | Path) -> Tokenizer:
    """That of `tokenizer.json`; where a folder has none, what transformers makes of its other files.

    Raises:
        UserError: there is none, it is not what was written, or it is damaged.
    """
    path = Path(name) / "tokenizer.json"
    if not path.is_file():
        return load_auto_tokenizer(name).backend_tokenizer
    integrity.verify(path.parent, [path.name])
    try:
        with without_marks(path.parent) as folder:
            return Tokenizer.from_file(str(folder / path.name))
    except Exception as error:  # noqa: BLE001 (tokenizers raises nothing narrower)
        found = f"{path} cannot be read as a tokenizer ({error})."
        raise UserError("tokenizer-damaged", found, "Fetch or copy it again.") from None


def load_auto_tokenizer(name: str | Path) -> "PreTrainedTokenizerBase":
    """The tokenizer as transformers has it, with its chat template; files of the model never run code.

    Raises:
        UserError: there is none, or transformers cannot load it.
    """
    folder = Path(name)
    if folder.is_dir() and not any(path for pattern in LEAST for path in folder.glob(pattern)):
        found = f"No tokenizer in {name}."  # transformers would make an empty one
        raise UserError("tokenizer-missing", found, "A model needs one beside its weights.", "Copy its files there.")
    from transformers import AutoTokenizer  # takes seconds

    try:
        with without_marks(folder) if folder.is_dir() else nullcontext(name) as source:
            return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (tokenizers raises nothing narrower)
        why = (str(error).splitlines() or [type(error).__name__])[0]
        found = f"The tokenizer of {str(name)!r} cannot be loaded ({why})."
        needed = "Needed is that of the model: its folder or its hub id."
        todo = "Fetch or copy its files again, or correct the name."
        raise UserError("tokenizer-not-loaded", found, needed, todo) from None
