"""Grammars: answers that must have a form (JSON, a schema, a tool's arguments), through llguidance.

    schema ─→ grammar ─→ matcher ── after each token: which of the vocabulary's tokens may come next? ─→ mask

The matcher walks the grammar with the tokens that came. A token is many characters at once, so it may be allowed only
if all of it fits: llguidance finds these by a walk through the vocabulary's trie, some 30 µs a token for tiny-chat.

Lesson: 5 (answers of a given form)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from lmcourse.engine import TokenMask
from lmcourse.errors import ConfigError, LmcourseError
from lmcourse.serve.json_form import bounded
from lmcourse.text.tokenizer import Tokenizer

__all__ = ["Grammar", "Grammars", "json_rule"]

_MOST_DIGITS = 20  # in a row; a float64 has 17, an int64 19
# as json.dumps writes it, which is what models were trained on; free white space invites endless white space
_LAYOUT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


def json_rule(schema: Mapping[str, Any]) -> str:
    """A schema as a part of a grammar's rule."""
    return f"%json {json.dumps({**bounded(schema), 'x-guidance': _LAYOUT})}"


@dataclass(frozen=True)
class Grammar:
    """Rules in Lark's notation."""

    rules: str
    is_json: bool = True  # False: the answer may be any text, too


class Grammars:
    """Compiles grammars for one vocabulary."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, stop_ids: frozenset[int]) -> None:
        """stop_ids may come where the grammar is complete, and nowhere else."""
        self._tokenizer, self._vocab, self._stop_ids = tokenizer, vocab, stop_ids

    @cached_property
    def _vocabulary(self) -> _Vocabulary:
        if not self._stop_ids:
            raise ConfigError("a grammar needs a token that ends the answer", got="a model without one")
        return _Vocabulary(self._tokenizer, self._vocab, min(self._stop_ids))

    @cached_property
    def _ll_tokenizer(self) -> LLTokenizer:
        return LLTokenizer(TokenizerWrapper(self._vocabulary), n_vocab=self._vocab, eos_token=sorted(self._stop_ids))

    async def compile(self, grammar: Grammar, *, where: str) -> Callable[[], TokenMask]:
        """A maker of masks, one for each answer; ConfigError for a grammar that cannot be had, naming the field."""
        matcher = await asyncio.to_thread(self._compile, grammar.rules)
        begun = await asyncio.to_thread(_begin, matcher)
        if begun.is_error():
            told = _shorten(begun.get_error())
            raise ConfigError("this schema cannot be followed", got=told, where=where, next_step="simplify the schema")
        pieces = self._vocabulary.tokens
        kind = _JsonMask if grammar.is_json else _GrammarMask
        return lambda: kind(matcher.deep_copy(), self._vocab, pieces)

    def _compile(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._ll_tokenizer, grammar, log_level=0)


def _begin(matcher: LLMatcher) -> LLMatcher:
    """A copy that has looked for a first token: some grammars compile and allow none, such as {"$ref": "#"}."""
    begun = matcher.deep_copy()
    if not begun.is_error():
        begun.compute_bitmask()
    return begun


def _shorten(error: str) -> str:
    """The first line, and behind it the reason, which for patterns stands below a drawing of the place."""
    first, *others = error.splitlines()
    reasons = [line.removeprefix("error: ") for line in others if line.startswith("error: ")]
    return " ".join([first, *reasons[:1]])


class _Vocabulary:
    """Our tokenizer in llguidance's words."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, eos_id: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos_id if tokenizer.eos_id is None else tokenizer.eos_id
        self.bos_token_id = tokenizer.bos_id
        size = min(vocab, tokenizer.vocab_size)
        self.tokens = [tokenizer.vocabulary.piece(token_id, None).data for token_id in range(size)]
        self.special_token_ids = sorted(token_id for token_id in tokenizer.special_ids if token_id < size)

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode(), add_bos=False)


class _GrammarMask:
    """Implements TokenMask for one answer."""

    def __init__(self, matcher: LLMatcher, vocab: int, pieces: Sequence[bytes]) -> None:
        self._matcher, self._vocab, self._pieces = matcher, vocab, pieces
        self._num_seen = 0

    def allowed(self, output_ids: Sequence[int]) -> NDArray[np.bool_]:
        """Walk on with the tokens that are new."""
        new = list(output_ids[self._num_seen :])
        self._matcher.consume_tokens(new)
        self._num_seen = len(output_ids)
        words = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise LmcourseError("the grammar could not be followed", got=self._matcher.get_error().splitlines()[0])
        return self._narrow(np.unpackbits(words, bitorder="little")[: self._vocab].astype(np.bool_), new)

    def _narrow(self, fits: NDArray[np.bool_], new: Sequence[int]) -> NDArray[np.bool_]:
        return fits


class _JsonMask(_GrammarMask):
    """The same for JSON, which has no longest number: small models that begin to repeat a digit never stop.

    After _MOST_DIGITS in a row, outside of strings, no more come unless the grammar wants nothing else.
    """

    _num_digits = 0
    _in_string = _escaped = False

    def _narrow(self, fits: NDArray[np.bool_], new: Sequence[int]) -> NDArray[np.bool_]:
        for token_id in new:
            if token_id < len(self._pieces):
                self._read(self._pieces[token_id])
        if self._num_digits < _MOST_DIGITS:
            return fits
        others = fits.copy()
        for token_id in np.flatnonzero(fits).tolist():
            others[token_id] = not self._pieces[token_id][:1].isdigit()
        return others if others.any() else fits

    def _read(self, piece: bytes) -> None:
        for character in piece.decode("latin-1"):
            closes = self._in_string and character == '"' and not self._escaped
            opens = not self._in_string and character == '"'
            self._escaped = self._in_string and character == "\\" and not self._escaped
            self._in_string = opens or (self._in_string and not closes)
            self._num_digits = self._num_digits + 1 if character in "0123456789" and not self._in_string else 0
