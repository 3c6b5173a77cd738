"""A vocabulary stored as `tokenizer.json`, the format of the `tokenizers` library: one file with everything.

The library encodes. Decoding is done here, token by token, because the library decodes whole sequences: one stray byte
turns a run of byte tokens that it had already decoded into replacement characters, so its text cannot be streamed. The
file's `decoder` is a list of steps; those of byte-level and of byte-fallback BPE act on each token alone: a `_Rule`.
Any other decoder is asked for the text of two neighbours, less that of the first.

Lesson: 2 (tokens)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcourse.errors import CheckpointError
from lmcourse.text.files import require_file
from lmcourse.text.special_tokens import SpecialTokens
from lmcourse.text.vocabulary import Leading, Piece

__all__ = ["JsonVocabulary"]


class JsonVocabulary:
    """Implements `Vocabulary` on `tokenizers`, which is imported here and nowhere else."""

    restarts = False
    prefix: tuple[int, ...] = ()

    def __init__(self, path: Path, special: SpecialTokens) -> None:
        text = require_file(path).read_bytes()
        self._tokenizer = _load(text, path)
        _add_missing(self._tokenizer, special, path)
        self._rule = _find_rule(json.loads(text).get("decoder"))
        self.leading = self._rule.leading if self._rule else Leading.KEEP
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {token_id: token.content.encode() for token_id, token in added.items()}
        self.size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        named = (self._tokenizer.token_to_id(name) for name in special.named)
        marked = {token_id for token_id, token in added.items() if token.special}
        self.special_ids = frozenset(marked.union(i for i in named if i is not None))
        first = self._tokenizer.encode("a").ids[:1]
        self.default_add_bos = bool(first) and special.bos is not None and first[0] == self.find(special.bos)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def find(self, text: str) -> int | None:
        token_id: int | None = self._tokenizer.token_to_id(text)
        return token_id

    def piece(self, token_id: int, previous: int | None) -> Piece:
        if token_id in self._added:
            return Piece(self._added[token_id])
        text = self._tokenizer.id_to_token(token_id) if 0 <= token_id < self.size else None
        if text is None:
            return Piece(b"")
        data = self._rule.piece(text) if self._rule else self._after(token_id, previous)
        return Piece(data, data.startswith(b" "))

    def _after(self, token_id: int, previous: int | None) -> bytes:
        """For decoders without a rule: what the token adds to the text of the one before it."""
        before = [] if previous is None else [previous]
        both: str = self._tokenizer.decode([*before, token_id], skip_special_tokens=False)
        return both.removeprefix(self._tokenizer.decode(before, skip_special_tokens=False)).encode()


def _load(text: bytes, path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(text)
    except Exception as error:
        raise CheckpointError(
            f"{path.name} cannot be read",
            expected="a file of the tokenizers library",
            got=f"{len(text)} bytes; {error}",
            where=path,
            next_step="copy the file again (a download may have been cut off), or update the tokenizers package",
        ) from error
    # Settings for training batches: an engine must see all of a prompt and nothing else.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _add_missing(tokenizer: Any, special: SpecialTokens, path: Path) -> None:
    """Have the other files' tokens recognised in text: new ones in order of their ids, and words of the vocabulary."""
    from tokenizers import AddedToken

    recognised = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in special.added:
        if token.text not in recognised:
            sides = {"lstrip": token.strips_left, "rstrip": token.strips_right}
            tokenizer.add_tokens([AddedToken(token.text, special=token.special, normalized=False, **sides)])
            recognised.add(token.text)
    for text in sorted(special.named - recognised):
        if tokenizer.token_to_id(text) is not None:
            tokenizer.add_tokens([AddedToken(text, special=True, normalized=False)])
    for token in special.added:
        token_id = tokenizer.token_to_id(token.text)
        if token_id != token.token_id:
            raise CheckpointError(
                f"two files give different ids to the token {token.text!r}",
                expected=f"{token.token_id}, as in tokenizer_config.json or added_tokens.json",
                got=f"{token_id}, in {path.name}",
                where=path.parent,
                next_step="copy both files again from where the model was published",
            )


@dataclass(frozen=True)
class _Rule:
    """How one decoder turns a token, by itself, into bytes."""

    piece: Callable[[str], bytes]
    leading: Leading


def _find_rule(decoder: Any) -> _Rule | None:
    """The rule for a decoder as tokenizer.json spells it; None where its steps look beyond one token."""
    if not isinstance(decoder, dict):
        return None
    steps = decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]
    kinds = tuple(step["type"] for step in steps if step["type"] != "Fuse")
    if kinds == ("ByteLevel",):
        return _Rule(_byte_level_piece, Leading.KEEP)
    if kinds == ("Metaspace",):
        keeps = steps[0].get("prepend_scheme") == "never" or steps[0].get("add_prefix_space") is False
        mark = steps[0].get("replacement", "▁")
        return _Rule(lambda token: token.replace(mark, " ").encode(), Leading.KEEP if keeps else Leading.DROP_ONE)
    if kinds[:2] == ("Replace", "ByteFallback") and _drops_one(steps[-1]) == (len(kinds) == 3):
        old, new = steps[0]["pattern"].get("String"), steps[0]["content"]
        leading = Leading.DROP_ONE if len(kinds) == 3 else Leading.KEEP
        return _Rule(lambda token: _byte_fallback_piece(token, old, new), leading) if old else None
    return None


def _drops_one(step: dict[str, Any]) -> bool:
    return step == {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def _byte_fallback_piece(token: str, old: str, new: str) -> bytes:
    """A token such as <0xE7> is that byte; in any other the mark for a space is replaced."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            return token.encode()
    return token.replace(old, new).encode()


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's letters (GPT-2): printable bytes stand for themselves, the others for 256, 257, ... in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _byte_level_piece(token: str) -> bytes:
    """Each letter is one byte; a token with a letter outside the alphabet stands for itself."""
    try:
        return bytes(_BYTE_OF[letter] for letter in token)
    except KeyError:
        return token.encode()
