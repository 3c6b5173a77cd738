"""What a tokenizer needs of a vocabulary: text to ids, and each id to the bytes that it adds to a text.

A token is a run of bytes, not of characters: 笑 may be one token, or three whose bytes make it up. So decoding joins
bytes and only then reads UTF-8, which makes streaming simple: the bytes of a token never depend on what comes later.

    ids      ▁Hi    ,     <0xE7> <0xAC> <0x91>
    bytes   " Hi"  ","    E7     AC     91        joined: " Hi,笑"; the space of a text's first piece is dropped

Lesson: 2 (tokens)
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Protocol

__all__ = ["Leading", "Piece", "Vocabulary"]


class Leading(Enum):
    """What decoding does with the space that opens a text, where encoding put one there."""

    KEEP = "keep"
    DROP_ONE = "drop one"
    DROP_EACH = "drop each"  # of every piece, until one has more than a space (SentencePiece, remove_extra_whitespaces)


class Piece(NamedTuple):
    """One token's part of a text."""

    data: bytes
    opens_with_space: bool = False  # a space that `Leading` may drop; a space written as a byte token is not one


class Vocabulary(Protocol):
    """One way of storing tokens: tokenizer.json or a SentencePiece model."""

    size: int  # one more than the largest id
    special_ids: frozenset[int]
    leading: Leading
    restarts: bool  # the text after a special token is a new one, with an opening space of its own
    default_add_bos: bool  # where tokenizer_config.json does not say
    prefix: tuple[int, ...]  # what stands in front of a text in the place of BOS; empty: BOS itself

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without BOS; special tokens in it are recognised."""

    def find(self, text: str) -> int | None:
        """The id of exactly this token."""

    def piece(self, token_id: int, previous: int | None) -> Piece:
        """The bytes that a token adds after the previous one; none for an id that has no text."""
