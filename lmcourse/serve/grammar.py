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
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from lmcourse.engine import TokenMask
from lmcourse.errors import ConfigError, LmcourseError
from lmcourse.serve.json_form import bounded
from lmcourse.text.tokenizer import Tokenizer

__all__ = ["Grammars", "json_rule"]

# as json.dumps writes it, which is what models were trained on; free white space invites endless white space
_LAYOUT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


def json_rule(schema: Mapping[str, Any]) -> str:
    """A schema as a part of a grammar's rule."""
    return f"%json {json.dumps({**bounded(schema), 'x-guidance': _LAYOUT})}"


class Grammars:
    """Compiles grammars for one vocabulary."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, stop_ids: frozenset[int]) -> None:
        """stop_ids may come where the grammar is complete, and nowhere else."""
        self._tokenizer, self._vocab, self._stop_ids = tokenizer, vocab, stop_ids

    @cached_property
    def _ll_tokenizer(self) -> LLTokenizer:
        if not self._stop_ids:
            raise ConfigError("a grammar needs a token that ends the answer", got="a model without one")
        wrapper = TokenizerWrapper(_Vocabulary(self._tokenizer, self._vocab, min(self._stop_ids)))
        return LLTokenizer(wrapper, n_vocab=self._vocab, eos_token=sorted(self._stop_ids))

    async def compile(self, grammar: str, *, where: str) -> Callable[[], TokenMask]:
        """A maker of masks, one for each answer; ConfigError for a grammar that cannot be had, naming the field."""
        matcher = await asyncio.to_thread(self._compile, grammar)
        begun = await asyncio.to_thread(_begin, matcher)
        if begun.is_error():
            told = _shorten(begun.get_error())
            raise ConfigError("this schema cannot be followed", got=told, where=where, next_step="simplify the schema")
        return lambda: _GrammarMask(matcher.deep_copy(), self._vocab)

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

    def __init__(self, matcher: LLMatcher, vocab: int) -> None:
        self._matcher, self._vocab = matcher, vocab
        self._num_seen = 0

    def allowed(self, output_ids: Sequence[int]) -> NDArray[np.bool_]:
        """Walk on with the tokens that are new."""
        self._matcher.consume_tokens(list(output_ids[self._num_seen :]))
        self._num_seen = len(output_ids)
        words = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise LmcourseError("the grammar could not be followed", got=self._matcher.get_error().splitlines()[0])
        return np.unpackbits(words, bitorder="little")[: self._vocab].astype(np.bool_)
