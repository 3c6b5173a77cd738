"""Intake: turns prompt ids and a GenerationConfig into an Entry the engine can run, or says what is wrong with them.

The idea: everything a user may get wrong is found here, before the request touches a queue or a block. What passes
can finish.

    words → ids    stop_words that are exactly one token stop on its id, too: special tokens never show in the text
                   bad_words ban the token of the word itself and of the word after a space
    lengths        max_new_tokens is cut so that prompt and answer fit the session (finish_reason says 'length')

Lesson: 2 (passing generation parameters)
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lmcourse.config import GenerationConfig
from lmcourse.engine.answer import Answer
from lmcourse.engine.request import Request
from lmcourse.engine.sampling import SamplingRule, TokenMask, make_sampling_rule
from lmcourse.engine.stops import StopRule
from lmcourse.errors import ConfigError, PromptError
from lmcourse.spec import ModelSpec
from lmcourse.text.pictures import PicturedIds, Piece
from lmcourse.text.tokenizer import TextStream, Tokenizer

__all__ = ["Entry", "Intake"]


@dataclass(frozen=True)
class Entry:
    """All that the engine knows of one request: its progress, how it samples, what it has said."""

    request: Request
    sampling: SamplingRule
    answer: Answer
    pieces: tuple[Piece, ...] = ()  # the pictures in its prompt


class Intake:
    """The checks of one engine: its vocabulary, its session length, its tokenizer."""

    def __init__(self, spec: ModelSpec, tokenizer: Tokenizer | None, session_len: int) -> None:
        self._spec, self._tokenizer, self._session_len = spec, tokenizer, session_len

    def make_entry(
        self,
        request_id: int,
        prompt_ids: Sequence[int],
        gen: GenerationConfig,
        stop_ids: frozenset[int],
        mask: TokenMask | None = None,
        account: str | None = None,
    ) -> Entry:
        """`stop_ids` are those of the chat template; like the model's own they do not count under ignore_eos."""
        pieces = prompt_ids.pieces if isinstance(prompt_ids, PicturedIds) else ()
        prompt = self._check_prompt(prompt_ids, sum(piece.picture.num_tokens for piece in pieces), len(pieces))
        room = self._session_len - len(prompt)
        stops = self._make_stop_rule(gen, stop_ids, room)
        banned_ids = self._find_banned(gen.bad_words or ())
        self._check_ids(gen.logit_bias or (), "logit_bias")
        sampling = make_sampling_rule(gen, banned_ids=banned_ids, stop_ids=stops.stop_ids, mask=mask)
        if len({*sampling.banned_ids, *sampling.early_ids}) >= self._spec.vocab:
            raise ConfigError("bad_words leave no token to generate", expected="fewer bad_words", where="bad_words")
        stream = TextStream(self._tokenizer, gen.skip_special_tokens) if self._tokenizer else None
        most = len(prompt) + stops.max_new_tokens
        identity = self._identify(prompt, pieces)
        request = Request(request_id, prompt, most, identity, needs_host=sampling.needs_host, account=account)
        return Entry(request, sampling, Answer(request_id, stops, stream), pieces)

    def _identify(self, prompt: Sequence[int], pieces: Iterable[Piece]) -> dict[int, bytes]:
        """What tells keys of equal tokens apart: pictures, and rotary scaling by the length of the whole prompt."""
        identity = {piece.start: b"picture " + piece.picture.key for piece in pieces}
        if self._spec.rotary.follows_length:
            length = max(len(prompt), self._spec.rotary.trained_context)
            identity[0] = b"rotary %d " % length + identity.get(0, b"")
        return identity

    def _check_prompt(self, prompt_ids: Sequence[int], num_pictured: int = 0, num_pictures: int = 0) -> list[int]:
        try:
            ids = [operator.index(token_id) for token_id in prompt_ids]
        except TypeError as error:
            raise PromptError(
                "a prompt must be a list of token ids", expected="whole numbers", got=repr(prompt_ids)[:80]
            ) from error
        if not ids:
            raise PromptError("the prompt is empty", expected="at least one token", got="none")
        outside = next((token_id for token_id in ids if not 0 <= token_id < self._spec.vocab), None)
        if outside is not None:
            raise PromptError(
                "the prompt has a token id outside the vocabulary",
                expected=f"0 to {self._spec.vocab - 1}",
                got=outside,
                where=f"token {ids.index(outside)} of the prompt",
                next_step="encode the prompt with this model's tokenizer",
            )
        if len(ids) >= self._session_len:
            raise PromptError(
                "the prompt is too long for the session",
                expected=f"at most {self._session_len - 1} tokens, which leaves room for one new token",
                got=f"{len(ids)} tokens" + _tell_pictures(num_pictured, num_pictures),
                next_step="shorten the prompt or raise session_len",
            )
        return ids

    def _make_stop_rule(self, gen: GenerationConfig, template_ids: frozenset[int], room: int) -> StopRule:
        words = tuple(gen.stop_words or ())
        own = frozenset(self._check_ids(gen.stop_token_ids or ())) | self._find_exact(words)
        ends = frozenset() if gen.ignore_eos else frozenset(self._spec.eos_ids) | self._check_ids(template_ids)
        return StopRule(own | ends, words, min(gen.max_new_tokens, room), gen.min_new_tokens or 0)

    def _check_ids(self, ids: Iterable[int], where: str = "stop_token_ids") -> frozenset[int]:
        found = frozenset(ids)
        wrong = [
            token_id for token_id in found if not isinstance(token_id, int) or not 0 <= token_id < self._spec.vocab
        ]
        if wrong:
            expected = f"token ids from 0 to {self._spec.vocab - 1}"
            raise ConfigError(f"{where}: an id is not in the vocabulary", expected=expected, got=wrong[0], where=where)
        return found

    def _find_exact(self, words: Sequence[str]) -> frozenset[int]:
        """Ids of tokens whose text is one of the words, no more and no less, wherever they stand."""
        if not words:
            return frozenset()
        tokenizer = self._require_tokenizer("stop_words")
        found = set()
        for word in words:
            for token_id in _find_single(tokenizer, word):
                twice = tokenizer.decode([token_id, token_id], skip_special_tokens=False)
                if token_id in tokenizer.special_ids or twice == 2 * word:
                    found.add(token_id)
        return frozenset(found)

    def _find_banned(self, words: Sequence[str]) -> list[int]:
        banned: set[int] = set()
        for word in words:
            tokenizer = self._require_tokenizer("bad_words")
            ids = _find_single(tokenizer, word) | _find_single(tokenizer, " " + word)
            if not ids:
                raise ConfigError(
                    f"the bad word {word!r} is not one token of this model",
                    expected="words that the tokenizer knows as one token",
                    got=f"{len(tokenizer.encode(word, add_bos=False))} tokens",
                    where="bad_words",
                    next_step="ban one of its parts, or leave it out",
                )
            banned |= ids
        return sorted(banned)

    def _require_tokenizer(self, setting: str) -> Tokenizer:
        if self._tokenizer is None:
            raise ConfigError(f"{setting} need a tokenizer, and this engine has none", where=setting)
        return self._tokenizer


def _tell_pictures(num_tokens: int, num_pictures: int) -> str:
    if num_pictures == 0:
        return ""
    return f", {num_tokens} of them of {num_pictures} image{'s' * (num_pictures > 1)}"


def _find_single(tokenizer: Tokenizer, word: str) -> set[int]:
    """Ids that stand for the whole word: the token spelled like it and the one it is encoded as."""
    encoded = tokenizer.encode(word, add_bos=False)
    spelled = tokenizer.token_id(word)
    return {*(encoded if len(encoded) == 1 else ()), *(() if spelled is None else (spelled,))}
