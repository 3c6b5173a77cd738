"""/class: what a class does with its server, at one moment. Names and numbers only: no prompt, no answer, no key.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

from pydantic import Field

from lmcourse.serve.schema.base import Answer

__all__ = ["ClassAnswer", "OpenAnswer", "Pool", "QuotaState", "StudentUse", "Use"]

_HISTORY = "Tokens of answers per second over the last minute, in steps of two seconds, the oldest first."


class OpenAnswer(Answer):
    """An answer in the making. Its words are its student's: they are not shown."""

    model: str
    age_seconds: float = Field(description="Since it was asked for.")
    tokens: int = Field(description="Written so far; 0: it waits, or its prompt is being read.")


class QuotaState(Answer):
    """A limit of the roster."""

    limit: int
    left: int


class Use(Answer):
    """What somebody has in the engine, and what has come of it."""

    running: int = Field(description="Answers in the batch.")
    waiting: int = Field(description="Answers that wait for a place.")
    blocks: int = Field(description="KV blocks; one that several answers share counts for each of them.")
    pool_share: float = Field(description="These, as a share of all blocks of the pool.")
    tokens_per_second: float = Field(description="Of answers, over the last ten seconds.")
    throughput_share: float = Field(description="That, as a share of everybody's.")
    tokens_last_minute: int = Field(description="Of answers.")
    history: list[float] = Field(description=_HISTORY)


class StudentUse(Use):
    """One student."""

    name: str
    answers: list[OpenAnswer] = Field(description="The oldest that are open, at most eight.")
    num_answers: int = Field(description="How many are open.")
    tokens_total: int = Field(description="Of prompts and answers, since the server was started.")
    refused: int = Field(description="Requests that a quota refused, since the server was started.")
    quotas: dict[str, QuotaState] = Field(description="By the roster's names; what has no limit is not there.")


class Pool(Answer):
    """The KV cache, in blocks."""

    blocks: int
    used: int = Field(description="Held by answers; shared ones count once.")
    kept: int = Field(description="Held by nobody, kept by the prefix cache for whoever begins alike.")
    free: int
    tokens_per_block: int


class ClassAnswer(Answer):
    """Everybody and the whole."""

    model: str
    taken_at: float = Field(description="Seconds since 1970, by the server's clock.")
    started_at: int = Field(description="When the server was started, likewise.")
    places: int = Field(description="Answers that can be in the batch at one time.")
    running: int
    waiting: int
    tokens_per_second: float
    tokens_last_minute: int
    history: list[float] = Field(description=_HISTORY)
    pool: Pool
    students: list[StudentUse] = Field(description="All of the roster; who wrote most in the last minute comes first.")
    others: Use = Field(description="Who is in no roster: the instructor, other keys.")
