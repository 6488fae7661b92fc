"""The tokenizer of a corpus, the model's own or one trained on the corpus, saved beside its rows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from nsllm_lite.artifact.integrity import sha256_file
from nsllm_lite.artifact.json_files import sha256_json
from nsllm_lite.errors import UserError
from nsllm_lite.formats import tokenizer as formats

# How Qwen2 to Qwen3 split text before merging: numbers digit by digit, words with the space before them.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ENCODER_TOKENS = {
    "bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>",
    "cls_token": "<s>", "sep_token": "</s>",
}  # fmt: skip


def load_tokenizer(name: str) -> Tokenizer:
    """That of `formats.load_tokenizer`, set so that special tokens written in a text are plain text."""
    tokenizer = formats.load_tokenizer(name)
    tokenizer.encode_special_tokens = True
    return tokenizer


def as_saved(name: str) -> Tokenizer:
    """What `save_tokenizer` writes. Raises UserError where it cannot be written beside the rows, or read there."""
    with TemporaryDirectory() as folder:
        formats.save_tokenizer(name, Path(folder))
        return load_tokenizer(folder)


def train_tokenizer(texts: Iterable[str], vocab_size: int, end_of_text: str, folder: Path) -> None:
    """Trains a byte-level BPE with `end_of_text` as token 0 in `folder`; the same texts give the same file."""
    save_trained(
        trained(texts, vocab_size, [end_of_text]), {"eos_token": end_of_text, "pad_token": end_of_text}, folder
    )


def train_for_encoder(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """The same with RoBERTa's special tokens as the first five, and <s> and </s> around each text."""
    tokenizer = trained(texts, vocab_size, list(dict.fromkeys(ENCODER_TOKENS.values())))
    begin, end = ((token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>"))
    tokenizer.post_processor = processors.RobertaProcessing(end, begin, trim_offsets=True, add_prefix_space=False)
    save_trained(tokenizer, ENCODER_TOKENS, folder)


def trained(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str]) -> Tokenizer:
    """A byte-level BPE that begins with these tokens and the 256 bytes."""
    tokenizer = Tokenizer(models.BPE())
    by_pattern = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([by_pattern, by_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_trained(tokenizer: Tokenizer, special_tokens: Mapping[str, str], folder: Path) -> None:
    """`special_tokens` are named as transformers names their parts."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special_tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def end_of_text_id(tokenizer: Tokenizer, end_of_text: str) -> int:
    """Raises UserError where the tokenizer has no such token."""
    found = tokenizer.token_to_id(end_of_text)
    if found is None:
        added = ", ".join(t.content for t in tokenizer.get_added_tokens_decoder().values()) or "none"
        found = f"The tokenizer has no token {end_of_text!r}, which has to close every document."
        todo = "Set `end_of_text` in the recipe to the one that ends a text in the base model's pretraining."
        raise UserError("tokenizer-no-end-of-text", found, f"Its added tokens are: {added}.", todo)
    return found


def sha256_tokenizer(name: str) -> str:
    """Identity of a tokenizer before it is loaded: its files, or the hub id where it is not a folder."""
    folder = Path(name)
    files = [folder / file for file in (*formats.SAVED, "vocab.json", "merges.txt") if (folder / file).is_file()]
    return sha256_json({f.name: sha256_file(f) for f in files} if files else name)
