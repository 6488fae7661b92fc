"""The metadata of a GGUF, each key asked for by name; one that changes the model and was not asked for is refused.

Source: the keys, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and gguf/constants.py of the gguf package.
"""

import re
from typing import Any

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.formats.gguf import Gguf

ARCHITECTURES = ("llama", "qwen2", "qwen3")
LARGEST = 10**8
NEUTRAL: dict[str, tuple] = {
    "attention.causal": (True,), "attention.sliding_window": (0,), "expert_count": (0,), "expert_used_count": (0,),
    "rope.scaling.finetuned": (True, False), "tokenizer.ggml.add_sep_token": (False,),
    "tokenizer.ggml.remove_extra_whitespaces": (False,), "tokenizer.ggml.add_space_prefix": (False,),
    "tokenizer.ggml.add_eos_token": (False,),
}  # fmt: skip
"""Keys, those of the architecture without its name, that change nothing where they have one of these values."""
IDLE = re.compile(
    r"tokenizer\.(chat_templates|chat_template\..+|ggml\.(scores|token_type_count"
    r"|((fim_)?(pre|suf|mid|pad|rep|sep|prefix|suffix|middle)|seperator|separator|mask|cls)_token_id))"
)
"""Keys of a tokenizer that neither its tokens nor a training depend on: filling in, classifying, further templates."""


class Metadata:
    """`unused` are the keys that describe the model or belong to other programs."""

    def __init__(self, gguf: Gguf):
        self._path, self._values = gguf.path, gguf.metadata
        self._asked = {"general.architecture", "general.type", "general.quantization_version", "general.alignment"}
        self.architecture = str(self._values.get("general.architecture"))
        if str(self._values.get("general.type", "model")) != "model":
            raise self.refused("general.type")
        if self.architecture not in ARCHITECTURES:
            found = f"{self._path} holds a model of the architecture {self.architecture[:80]!r}."
            todo = "Take the model's own folder, or one of these."
            raise UserError("gguf-architecture-unknown", found, f"Read are {', '.join(ARCHITECTURES)}.", todo)
        if (
            str(self._values.get("general.quantization_version", 2)) != "2"
        ):  # blocks of earlier ones are laid out otherwise
            raise self.refused("general.quantization_version")

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a `key` (".NAME": of the architecture). Raises UserError where it is of another kind, or is not
        there and has no default."""
        key = self.architecture + key if key.startswith(".") else key
        self._asked.add(key)
        value = self._values.get(key, default)
        if value is None:
            found = f"{self._path} has no {key}."
            raise UserError("gguf-key-missing", found, "A model needs it:", "fetch the file again.")
        number = type(value) in (int, float) and kind is float
        if (not number and not isinstance(value, kind)) or (kind is int and isinstance(value, bool)):
            raise self.refused(key)
        return kind(value) if kind in (int, float) else value

    def size(self, key: str, default: int | None = None) -> int:
        value = self.get(key, int, default)
        if not 0 < value < LARGEST:
            raise self.refused(key)
        return value

    def real(self, key: str, most: float, default: float | None = None) -> float:
        """A number above 0, the shortest that is this one in fp32, as which it is stored: 1e-05, not 9.99999974e-06."""
        value = float(str(np.float32(self.get(key, float, default))))
        if not 0 < value <= most:
            raise self.refused(key)
        return value

    def array(self, key: str, kind: type) -> list[str] | np.ndarray:
        """A list of str or an array of int; [] where the key is not there."""
        self._asked.add(key)
        value = self._values.get(key, [])
        if kind is int and isinstance(value, np.ndarray) and value.dtype.kind in "iu":
            return value
        if not isinstance(value, list) or (kind is int and value):
            raise self.refused(key)
        return value

    def has(self, key: str) -> bool:
        return (self.architecture + key if key.startswith(".") else key) in self._values

    def refused(self, key: str) -> UserError:
        """Of a key whose value is not understood, or not honoured."""
        key = self.architecture + key if key.startswith(".") else key
        value = self._values.get(key)
        told = f"an array of {len(value):,}" if isinstance(value, list | np.ndarray) else repr(value)[:80]
        found = f"{self._path} has {key[:80]}: {told}, which is not honoured here."
        needed = "The model would compute something else without it:"
        return UserError("gguf-key-refused", found, needed, "take another file of this model, or its own folder.")

    def unused(self) -> list[str]:
        """Call last. Raises UserError where a key that was not asked for changes the model or its tokens."""
        left = []
        for key, value in self._values.items():
            if key in self._asked:
                continue
            about = key.removeprefix(f"{self.architecture}.")
            plain = not isinstance(value, list | np.ndarray)
            if plain and any(value is one or value == one for one in NEUTRAL.get(about, ())):
                continue
            if about != key or (key.startswith("tokenizer.") and not IDLE.fullmatch(key)):
                raise self.refused(key)
            left.append(key[:80])
        return left
