"""What a replica says while it answers, as plain data: Ray carries it between processes that may differ in version.

    Taken(replica)         the engine has the request: from here on it can be lost with this replica
    Piece(...)             what is new
    Refused(...)           the request is at fault: asking another replica would not help
    Broken(message)        the engine is at fault: another replica may do better

Lesson: 5 (what is lost when a replica dies)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmcourse import errors
from lmcourse.config import FinishReason
from lmcourse.engine import StepOutput
from lmcourse.errors import LmcourseError, RequestFailedError, ServerBusyError

__all__ = ["Broken", "GoneError", "Message", "Piece", "Refused", "Taken", "piece_of", "refused"]


@dataclass(frozen=True)
class Taken:
    """Which replica has the request."""

    replica: str


@dataclass(frozen=True)
class Piece:
    """A StepOutput without its number, which means something in one engine only."""

    token_ids: list[int]
    text: str
    finish_reason: FinishReason | None
    logprobs: list[dict[int, float]] | None

    def output(self) -> StepOutput:
        """For those who read answers."""
        return StepOutput(0, self.token_ids, self.text, self.finish_reason, self.logprobs)


@dataclass(frozen=True)
class Refused:
    """An error's class by name, and its parts."""

    kind: str
    parts: dict[str, Any]

    def error(self) -> LmcourseError:
        """The error again; one whose class takes other arguments is told as its parent."""
        kind = getattr(errors, self.kind, LmcourseError)
        plain = isinstance(kind, type) and issubclass(kind, LmcourseError) and kind not in _WITH_MORE
        made: LmcourseError = (kind if plain else LmcourseError)(**self.parts)
        return made


@dataclass(frozen=True)
class Broken:
    """What the engine died of."""

    message: str


class GoneError(Exception):
    """The process that was asked does not answer any more: a signal between our own parts, never a user's error."""


Message = Taken | Piece | Refused | Broken

_WITH_MORE = (RequestFailedError, ServerBusyError)
_PARTS = ("what", "expected", "got", "where", "next_step")


def piece_of(output: StepOutput) -> Piece:
    """The message for an output."""
    return Piece(output.token_ids, output.text, output.finish_reason, output.logprobs)


def refused(error: LmcourseError) -> Refused:
    """The message for an error; what is no text becomes text."""
    parts = {name: getattr(error, name) for name in _PARTS}
    return Refused(type(error).__name__, {key: None if part is None else str(part) for key, part in parts.items()})
