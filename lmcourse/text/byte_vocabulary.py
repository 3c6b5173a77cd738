"""A vocabulary of bytes, for models whose weights are random and whose size must be a real one: `byte_tokenizer.json`.

    {"vocab_size": 92544, "first_byte_id": 3}

    ids    3 … 258        the bytes 0 … 255, where Llama's vocabulary has them
           special ones   as tokenizer_config.json lists them
           the others     one printable character each, so that a random answer streams as visible text

Lesson: 2 (measuring without a download)
"""

from __future__ import annotations

import re
from pathlib import Path

from lmcourse.errors import CheckpointError
from lmcourse.text.files import read_json_object
from lmcourse.text.special_tokens import SpecialTokens
from lmcourse.text.vocabulary import Leading, Piece

__all__ = ["BYTE_FILE", "ByteVocabulary"]

BYTE_FILE = "byte_tokenizer.json"
_PRINTABLE = bytes(range(0x20, 0x7F))
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class ByteVocabulary:
    """Implements `Vocabulary`: every text has an encoding, one id a byte."""

    leading = Leading.KEEP
    restarts = False
    default_add_bos = True
    prefix: tuple[int, ...] = ()

    def __init__(self, path: Path, special: SpecialTokens) -> None:
        self.size, self._first = _read_sizes(path)
        self._ids = {token.text: token.token_id for token in special.added}
        self._texts = {token.token_id: token.text.encode() for token in special.added}
        self.special_ids = frozenset(token.token_id for token in special.added if token.special)
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        end = 0
        for match in self._pattern.finditer(text):
            ids += self._bytes(text[end : match.start()])
            ids.append(self._ids[match[0]])
            end = match.end()
        return ids + self._bytes(text[end:])

    def find(self, text: str) -> int | None:
        byte = _BYTE_TOKEN.fullmatch(text)
        return self._first + int(byte[1], 16) if byte else self._ids.get(text)

    def piece(self, token_id: int, previous: int | None) -> Piece:
        if token_id in self._texts:
            return Piece(self._texts[token_id])
        if self._first <= token_id < self._first + 256:
            return Piece(bytes([token_id - self._first]))
        if not 0 <= token_id < self.size:
            return Piece(b"")
        place = token_id % len(_PRINTABLE)
        return Piece(_PRINTABLE[place : place + 1])

    def _bytes(self, text: str) -> list[int]:
        return [self._first + byte for byte in text.encode()]


def _read_sizes(path: Path) -> tuple[int, int]:
    content = read_json_object(path)
    size, first = content.get("vocab_size"), content.get("first_byte_id")
    if type(size) is int and type(first) is int and 0 <= first <= size - 256:
        return size, first
    raise CheckpointError(
        f"{path.name} cannot be used",
        expected='{"vocab_size": the config\'s, "first_byte_id": at most 256 less}',
        got=content,
        where=path,
        next_step="correct it",
    )
