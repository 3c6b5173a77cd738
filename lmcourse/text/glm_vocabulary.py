"""ChatGLM2's vocabulary: a SentencePiece model, and five marks behind its last piece that no text can spell.

    pieces of tokenizer.model   0 … 64788
    [MASK] [gMASK] [sMASK] sop eop   64789 … 64793        every text begins with [gMASK] sop

"sop" in a user's text stays three letters: the marks are ids only, put in front by the tokenizer as BOS is elsewhere.

Lesson: 8 (tokenizers without remote code)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lmcourse.text.sentence_piece import SentencePieceVocabulary
from lmcourse.text.special_tokens import SpecialTokens
from lmcourse.text.vocabulary import Piece

__all__ = ["GLM_CLASS", "GlmVocabulary"]

GLM_CLASS = "ChatGLMTokenizer"  # tokenizer_config key tokenizer_class
_MARKS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")


class GlmVocabulary:
    """Implements `Vocabulary`."""

    default_add_bos = True

    def __init__(self, path: Path, special: SpecialTokens) -> None:
        added = tuple(token for token in special.added if token.text not in _MARKS)
        special = dataclasses.replace(special, added=added, named=special.named - set(_MARKS))
        self._pieces = SentencePieceVocabulary(path, special)
        first = self._pieces.num_pieces
        self._marks = {text: first + i for i, text in enumerate(_MARKS)}
        self._texts = {token_id: text.encode() for text, token_id in self._marks.items()}
        self.size = max(self._pieces.size, first + len(_MARKS))
        self.special_ids = self._pieces.special_ids | frozenset(self._texts)
        self.leading, self.restarts = self._pieces.leading, self._pieces.restarts
        self.prefix: tuple[int, ...] = (self._marks["[gMASK]"], self._marks["sop"])

    def encode(self, text: str) -> list[int]:
        return self._pieces.encode(text)

    def find(self, text: str) -> int | None:
        return self._marks[text] if text in self._marks else self._pieces.find(text)

    def piece(self, token_id: int, previous: int | None) -> Piece:
        if token_id in self._texts:
            return Piece(self._texts[token_id])
        return self._pieces.piece(token_id, previous)
