"""A vocabulary stored as a SentencePiece model (`tokenizer.model`), as Llama 2 and InternLM2 publish theirs.

SentencePiece writes a space as ▁ and, where the model asks for it, puts one in front of every text, so that a word has
one form wherever it stands. Around special tokens it depends on the tokenizer_config key `legacy`:

    text                   <s>   user said   <|im_end|>   thanks
    legacy (or not said)         ▁user▁said               ▁thanks     each stretch is encoded as a text of its own
    legacy: false                user▁said                thanks      only the very start of a text gets the ▁

Special tokens may sit on reserved pieces of the model or beyond its last id; they are cut out before SentencePiece sees
the text.

Lesson: 2 (tokens)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lmcourse.errors import CheckpointError
from lmcourse.text.files import require_file
from lmcourse.text.special_tokens import AddedToken, SpecialTokens
from lmcourse.text.vocabulary import Leading, Piece

__all__ = ["SentencePieceVocabulary"]

_SPACE = "▁"
# Appended to a serialized model, this is normalizer_spec { add_dummy_prefix: false }: protocol buffers merge what is
# repeated, and the last value of a field wins (sentencepiece_model.proto: ModelProto field 3, NormalizerSpec field 3).
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceVocabulary:
    """Implements `Vocabulary` on `sentencepiece`, which is imported here and nowhere else."""

    default_add_bos = True
    prefix: tuple[int, ...] = ()

    def __init__(self, path: Path, special: SpecialTokens) -> None:
        model = require_file(path).read_bytes()
        self._continuing = self._starting = _load(model, path)
        if not special.legacy:
            self._continuing = _load(model + _NO_DUMMY_PREFIX, path)
        self.num_pieces = self._starting.get_piece_size()
        added = _with_named(special, self._starting)
        self._added = {token.token_id: token for token in added}
        self._by_text = {token.text: token for token in added}
        self._pattern = _pattern(added)
        self.size = max([self.num_pieces, *(token_id + 1 for token_id in self._added)])
        self.special_ids = self._find_special_ids()
        self.leading = _leading(self._starting)
        self.restarts = special.legacy

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        end = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            ids += self._encode_stretch(text[end : match.start()], starts_text=end == 0)
            ids.append(self._by_text[match[match.lastindex or 0]].token_id)
            end = match.end()
        return ids + self._encode_stretch(text[end:], starts_text=end == 0)

    def find(self, text: str) -> int | None:
        if text in self._by_text:
            return self._by_text[text].token_id
        return _piece_id(self._starting, text)

    def piece(self, token_id: int, previous: int | None) -> Piece:
        if token_id in self._added:
            return Piece(self._added[token_id].text.encode())
        if not 0 <= token_id < self.num_pieces:
            return Piece(b"")
        text = self._starting.id_to_piece(token_id)
        if self._starting.is_byte(token_id):
            return Piece(bytes([int(text[3:-1], 16)]))
        if self._starting.is_unknown(token_id):
            return Piece(self._starting.decode([token_id]).encode())
        return Piece(text.replace(_SPACE, " ").encode(), text.startswith(_SPACE))

    def _encode_stretch(self, text: str, *, starts_text: bool) -> list[int]:
        model = self._starting if starts_text else self._continuing
        ids: list[int] = model.encode(text) if text else []
        return ids

    def _find_special_ids(self) -> frozenset[int]:
        controls = (i for i, control in enumerate(self._starting.is_control(list(range(self.num_pieces)))) if control)
        marked = {token.token_id for token in self._added.values() if token.special}
        return frozenset(marked.union(controls) - {i for i, token in self._added.items() if not token.special})


def _load(model: bytes, path: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_proto=model)
        processor.get_piece_size()
        processor.encode("a")
    except Exception as error:
        raise CheckpointError(
            f"{path.name} is not a SentencePiece model",
            expected="a serialized sentencepiece ModelProto",
            got=f"{len(model)} bytes; {error}",
            where=path,
            next_step="copy the file again; a download may have been cut off",
        ) from error
    return processor


def _piece_id(model: Any, text: str) -> int | None:
    """SentencePiece answers with the unknown id for pieces that it lacks."""
    token_id: int = model.piece_to_id(text)
    return token_id if model.id_to_piece(token_id) == text else None


def _with_named(special: SpecialTokens, model: Any) -> tuple[AddedToken, ...]:
    """The added tokens, and those special tokens that are known by name and have an id in the model."""
    known = {token.text for token in special.added}
    ids = {text: _piece_id(model, text) for text in sorted(special.named - known)}
    return special.added + tuple(AddedToken(text, i) for text, i in ids.items() if i is not None)


def _pattern(added: tuple[AddedToken, ...]) -> re.Pattern[str] | None:
    """Matches any added token, the longest first; the group that took part is the token without stripped space."""
    if not added:
        return None
    longest_first = sorted(added, key=lambda token: len(token.text), reverse=True)
    spaces = r"\s*"
    branches = (
        f"{spaces * token.strips_left}({re.escape(token.text)}){spaces * token.strips_right}" for token in longest_first
    )
    return re.compile("|".join(branches))


def _leading(model: Any) -> Leading:
    """Read off what the model does to spaces, since its settings are not readable without a protobuf library."""
    normalized = model.normalize("a  b")
    if _SPACE * 2 not in normalized:
        return Leading.DROP_EACH
    return Leading.DROP_ONE if normalized.startswith(_SPACE) else Leading.KEEP
