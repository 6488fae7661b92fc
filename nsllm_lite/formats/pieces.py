"""What the pieces of a vocabulary stand for, and how another vocabulary cuts them: byte-level BPE and WordPiece."""

import json

from tokenizers import Tokenizer

from nsllm_lite.errors import UserError

# How byte-level vocabularies write bytes: those of Latin-1 that are seen as themselves, the others from U+0100 on.
_SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(byte): byte for byte in _SEEN}
_BYTES |= {chr(0x100 + n): byte for n, byte in enumerate(byte for byte in range(256) if byte not in _SEEN)}
_CHARS = {byte: char for char, byte in _BYTES.items()}
CONTINUES = "##"  # begins what WordPiece writes within a word


def piece_bytes(tokenizer: Tokenizer) -> dict[int, bytes]:
    """{id: the bytes that its piece stands for, with a blank where a word begins}; special tokens, which stand for
    none, are left out."""
    added = tokenizer.get_added_tokens_decoder()
    pieces = {number: piece for piece, number in tokenizer.get_vocab().items() if number not in added}
    plain = {number: token.content.encode() for number, token in added.items() if not token.special}
    if is_byte_level(tokenizer):
        return {number: _of_bytes(piece) for number, piece in pieces.items()} | plain
    if any(piece.startswith(CONTINUES) for piece in pieces.values()):
        whole = {
            number: piece[len(CONTINUES) :] if piece.startswith(CONTINUES) else f" {piece}"
            for number, piece in pieces.items()
        }
        return {number: piece.encode() for number, piece in whole.items()} | plain
    return {number: piece.replace("▁", " ").encode() for number, piece in pieces.items()} | plain  # SentencePiece


def is_byte_level(tokenizer: Tokenizer) -> bool:
    return "ByteLevel" in json.dumps(json.loads(tokenizer.to_str())["decoder"])


def _of_bytes(piece: str) -> bytes:
    return bytes(map(_BYTES.__getitem__, piece)) if all(char in _BYTES for char in piece) else piece.encode()


class Cutter:
    """Cuts pieces of other vocabularies by this tokenizer's own.

    A piece that both have is itself. Another is normalised as this tokenizer normalises texts, where it is one (a part
    of a letter is none). Byte-level BPE then joins its bytes by its merges. WordPiece takes it for words where its own
    rules begin one, and for the rest of a word where it has no blank before it and does not begin with a sign.

    Raises UserError for a tokenizer of another kind.
    """

    def __init__(self, tokenizer: Tokenizer, name: object):
        """`name` is that of its folder, for the message."""
        self._own, self._model, self._normalizer = piece_bytes(tokenizer), tokenizer.model, tokenizer.normalizer
        self._ids = {piece: number for number, piece in self._own.items()}
        self._split = tokenizer.pre_tokenizer
        self._by_bytes, kind = is_byte_level(tokenizer), type(tokenizer.model).__name__
        if kind != "WordPiece" and not (kind == "BPE" and self._by_bytes):
            found = f"The tokenizer of {name} is a {kind}{'' if self._by_bytes else ', not of bytes'}."
            needed = "Pieces are cut by a byte-level BPE or a WordPiece."
            raise UserError("pieces-not-cut", found, needed, "Train from nothing instead: build.tokenizer=DIR.")
        self._unknown = tokenizer.token_to_id(self._model.unk_token) if self._model.unk_token else None

    def cut(self, piece: bytes) -> tuple[list[int], bool]:
        """(ids of the pieces it is made of, whether it is one of this vocabulary as it stands); no ids where it cannot
        be cut: white space and parts of letters in WordPiece, and what its alphabet lacks."""
        if piece in self._ids:
            return [self._ids[piece]], True
        try:
            text = piece.decode()
        except UnicodeDecodeError:
            text = None
        if text is not None and self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        if self._by_bytes:
            return self._joined(piece if text is None else text.encode()), False
        return ([] if text is None else self._worded(text, piece[:1] == b" ")), False

    def _joined(self, piece: bytes) -> list[int]:
        ids = [token.id for token in self._model.tokenize("".join(map(_CHARS.__getitem__, piece)))]
        return ids if b"".join(self._own.get(number, b"") for number in ids) == piece else []

    def _worded(self, text: str, begins: bool) -> list[int]:
        words = [word for word, _ in self._split.pre_tokenize_str(text)]
        within = not begins and bool(words) and self._split.pre_tokenize_str(f"a{text}")[0][0] == f"a{words[0]}"
        ids: list[int] = []
        for number, word in enumerate(words):
            found = self._rest_of_word(word) if within and number == 0 else self._word(word)
            if not found:
                return []
            ids += found
        return ids

    def _word(self, word: str) -> list[int]:
        ids = [token.id for token in self._model.tokenize(word)]
        return [] if self._unknown in ids else ids

    def _rest_of_word(self, word: str) -> list[int]:
        """From its beginning the longest pieces that stand within words."""
        ids, start = [], 0
        while start < len(word):
            end = next((end for end in range(len(word), start, -1) if word[start:end].encode() in self._ids), None)
            if end is None:
                return []
            ids.append(self._ids[word[start:end].encode()])
            start = end
        return ids
