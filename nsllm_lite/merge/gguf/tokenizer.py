"""The tokenizer in a GGUF's metadata as tokenizer.json and what lies beside it.

Only byte-level BPE (`tokenizer.ggml.model` gpt2): its merges are stored in order. SentencePiece's are not stored, and
what stands for them, scores with ties, does not give the same tokens in every text; it is refused.

Source: llama.cpp, src/llama-vocab.cpp, for the names of the ways to cut a text; the tokenizer.json of these models.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from nsllm_lite.artifact.disk import write_atomic
from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.errors import UserError
from nsllm_lite.formats.gguf import Gguf, damaged
from nsllm_lite.formats.tokenizer_choice import TEMPLATE
from nsllm_lite.merge.gguf.metadata import Metadata

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # token types; 6 are bytes, of SentencePiece alone

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|"
_WORDS += r"\s*[\r\n]+|\s+(?!\S)|\s+"


class Cutting(NamedTuple):
    """How a text is cut before BPE: by `words`, a pattern (None: GPT-2's own), and between single `digits`."""

    words: str | None = None
    digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False  # a word that is a token is one, whatever its merges
    adds_bos: bool = False  # where the metadata do not say


CUTTINGS = {
    "gpt-2": Cutting(),
    "smollm": Cutting(digits=True),
    "qwen2": Cutting(_WORDS.format(digits=""), nfc=True),
    "llama-bpe": Cutting(_WORDS.format(digits="{1,3}"), ignore_merges=True, adds_bos=True),
}
"""By `tokenizer.ggml.pre`."""

ROLES = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk", "eot": "", "eom": ""}
"""Role of a token in `tokenizer.ggml.ROLE_token_id` -> its name in transformers, where it has one."""

Files = dict[str, Any]  # name -> Tokenizer, text, or what is written as JSON


class Tokens(NamedTuple):
    """`ids` are those of config.json and generation_config.json."""

    files: Files
    count: int
    ids: dict[str, Any]
    stops: list[int]

    def write(self, folder: Path) -> None:
        for name, content in self.files.items():
            if isinstance(content, Tokenizer):
                write_atomic(folder / name, content.to_str(pretty=True) + "\n")
            elif isinstance(content, str):
                write_atomic(folder / name, content)
            else:
                write_json(folder / name, content)


def tokens_of(gguf: Gguf, metadata: Metadata, context: int) -> Tokens:
    """Raises UserError where there is no tokenizer, or one of a kind that is not known to give the same tokens."""
    tokens = metadata.array("tokenizer.ggml.tokens", str)
    types = metadata.array("tokenizer.ggml.token_type", int)
    merges = metadata.array("tokenizer.ggml.merges", str)
    cutting = require_known(gguf, metadata, bool(tokens))
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if len(set(tokens)) < len(tokens) or len(types) != len(tokens) or any(len(pair) != 2 for pair in pairs):
        raise damaged(gguf.path, "its tokens repeat, have no types, or its merges are no pairs")
    types = list(map(int, types))
    if not merges or set(types) - {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED}:
        raise metadata.refused("tokenizer.ggml.merges" if not merges else "tokenizer.ggml.token_type")
    numbers = {role: token_id(metadata, role, len(tokens)) for role in ROLES}
    numbers = {role: number for role, number in numbers.items() if number is not None}
    if "eos" not in numbers:
        raise metadata.refused("tokenizer.ggml.eos_token_id")
    tokenizer = tokenizer_of(gguf, tokens, types, pairs, cutting)
    if metadata.get("tokenizer.ggml.add_bos_token", bool, cutting.adds_bos):
        if "bos" not in numbers:
            raise metadata.refused("tokenizer.ggml.bos_token_id")
        add_begin(tokenizer, tokens[numbers["bos"]], numbers["bos"])
        if tokenizer.encode("").ids != [numbers["bos"]]:
            raise metadata.refused("tokenizer.ggml.bos_token_id")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context}
    settings |= {"clean_up_tokenization_spaces": False, "add_prefix_space": False}
    settings |= {f"{ROLES[role]}_token": tokens[number] for role, number in numbers.items() if ROLES[role]}
    files: Files = {"tokenizer.json": tokenizer, "tokenizer_config.json": settings}
    if template := metadata.get("tokenizer.chat_template", str, ""):
        files[TEMPLATE] = template
    ids = {f"{ROLES[role]}_token_id": numbers[role] for role in ("bos", "eos", "padding") if role in numbers}
    stops = [numbers[role] for role in ("eos", "eot", "eom") if role in numbers]
    return Tokens(files, len(tokens), ids, list(dict.fromkeys(stops)))


def add_begin(tokenizer: Tokenizer, begin: str, number: int) -> None:
    """Has each text begin with a token; one whose name means something in a template is not added."""
    pieces = {"single": [begin, "$A"], "pair": [begin, "$A", f"{begin}:1", "$B:1"]}
    with suppress(Exception):  # tokenizers raises nothing narrower
        tokenizer.post_processor = processors.TemplateProcessing(**pieces, special_tokens=[(begin, number)])


def require_known(gguf: Gguf, metadata: Metadata, has_tokens: bool) -> Cutting:
    model = metadata.get("tokenizer.ggml.model", str, "")
    if not has_tokens or not model or model == "none":
        found = f"{gguf.path} has no tokenizer (tokenizer.ggml.model, tokenizer.ggml.tokens)."
        raise UserError("gguf-no-tokenizer", found, "A model needs its own:", "take a file that has it.")
    way = metadata.get("tokenizer.ggml.pre", str, "") if model == "gpt2" else ""
    if way not in CUTTINGS:
        which = f"tokenizer.ggml.pre {way[:80]!r}" if model == "gpt2" else f"tokenizer.ggml.model {model[:80]!r}"
        found = f"{gguf.path} has a tokenizer of {which}."
        needed = f"Known to give the same tokens here are those of gpt2 with {', '.join(CUTTINGS)}:"
        todo = "take the model's own folder, or another model."
        raise UserError("gguf-tokenizer-unknown", found, needed, todo)
    return CUTTINGS[way]


def token_id(metadata: Metadata, name: str, count: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    number = metadata.get(key, int, -1)
    if number >= count or (number < 0 and metadata.has(key)):
        raise metadata.refused(key)
    return number if number >= 0 else None


def tokenizer_of(
    gguf: Gguf, tokens: list[str], types: list[int], merges: list[tuple[str, ...]], cutting: Cutting
) -> Tokenizer:
    """Padding of the embeddings (unused tokens) is in no text and left out."""
    vocab = {token: number for number, token in enumerate(tokens) if types[number] != UNUSED}
    try:
        tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, ignore_merges=cutting.ignore_merges))
    except Exception as error:  # noqa: BLE001 (tokenizers raises nothing narrower)
        raise damaged(gguf.path, f"its tokens and merges make no tokenizer ({error})") from None
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cutting.words is None)
    parts = [pre_tokenizers.Split(Regex(cutting.words), "isolated")] if cutting.words else []
    parts += [pre_tokenizers.Digits(individual_digits=True)] if cutting.digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*parts, byte_level]) if parts else byte_level
    tokenizer.normalizer = normalizers.NFC() if cutting.nfc else None
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            AddedToken(token, special=types[number] != USER_DEFINED, normalized=False)
            for number, token in enumerate(tokens)
            if types[number] in (UNKNOWN, CONTROL, USER_DEFINED)
        ]
    )
    return tokenizer
