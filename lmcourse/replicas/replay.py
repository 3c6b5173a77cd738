"""Replay: an answer whose replica died, computed again elsewhere, goes on where it had stopped.

    first replica   a b c d ✝                 the reader has: a b c d
    second replica  a b c d e f .             compared      : a b c d, passed on: e f .

The idea: a greedy answer is the same everywhere, and so is one that is drawn with a seed; so every order that draws is
given a seed. What was handed out is compared with what comes again: an answer that would go on differently (another
kind of GPU may round another way) is an error, never a mixture of two.

Lesson: 5 (what is lost when a replica dies)
"""

from __future__ import annotations

import dataclasses
import secrets

from lmcourse.config import GenerationConfig
from lmcourse.errors import ReplicaLostError
from lmcourse.replicas.messages import Piece

__all__ = ["Replay", "seeded"]


def seeded(gen: GenerationConfig) -> GenerationConfig:
    """The same, repeatable."""
    if not gen.samples or gen.random_seed is not None:
        return gen
    return dataclasses.replace(gen, random_seed=secrets.randbits(63))


class Replay:
    """What one reader has had of an answer, over all replicas that worked on it."""

    def __init__(self) -> None:
        self._token_ids: list[int] = []  # handed out
        self._text = ""
        self._again_ids: list[int] = []  # come from the replica at work
        self._again_text = ""
        self._again_logprobs: list[dict[int, float]] = []

    @property
    def begun(self) -> bool:
        """Whether the reader has had anything."""
        return bool(self._token_ids or self._text)

    def restart(self) -> None:
        """The next pieces come from another replica, from the first token on."""
        self._again_ids, self._again_text, self._again_logprobs = [], "", []

    def push(self, piece: Piece) -> Piece | None:
        """What of a piece is new to the reader; None if nothing is. ReplicaLostError if the answers differ."""
        self._again_ids += piece.token_ids
        self._again_text += piece.text
        self._again_logprobs += piece.logprobs or []
        self._compare()
        had, had_text = len(self._token_ids), len(self._text)
        new_ids, new_text = self._again_ids[had:], self._again_text[had_text:]
        if not (new_ids or new_text or piece.finish_reason):
            return None
        self._token_ids += new_ids
        self._text += new_text
        logprobs = self._again_logprobs[had:] if piece.logprobs is not None else None
        return Piece(new_ids, new_text, piece.finish_reason, logprobs)

    def _compare(self) -> None:
        """As far as both go."""
        both = min(len(self._token_ids), len(self._again_ids))
        both_text = min(len(self._text), len(self._again_text))
        same = self._token_ids[:both] == self._again_ids[:both]
        if not (same and self._text[:both_text] == self._again_text[:both_text]):
            raise ReplicaLostError(
                "the replica that was answering died, and another one goes on differently",
                next_step="ask again",
            )
