"""ServerSettings: what an operator decides about a server. No web framework.

Lesson: 5 (starting the server; what a key and an open port mean)
"""

from __future__ import annotations

from dataclasses import dataclass

from lmcourse.errors import ConfigError
from lmcourse.serve.class_roster import Student

__all__ = ["ServerSettings"]


@dataclass(frozen=True)
class ServerSettings:
    """Who may ask, how many may wait, how large a request may be, how the end comes."""

    api_keys: tuple[str, ...] = ()  # none: anybody may ask
    students: tuple[Student, ...] = ()  # a class: their keys are let in, too, within their quotas
    instructor_key: str | None = None  # of the class; like api_keys, these have no quota and open the class view
    students_see_class: bool = False  # the class view, with a student's key
    model_aliases: tuple[str, ...] = ()  # further names under which the model answers
    allow_origins: tuple[str, ...] = ("*",)  # web pages that may ask from a browser
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ("*",)
    allow_headers: tuple[str, ...] = ("*",)
    max_queue: int = 1024  # answers that may wait for a place in the batch
    max_body_bytes: int = 32 * 2**20
    max_sessions: int = 1024  # conversations remembered for /v1/chat/interactive; the oldest unused is forgotten
    grace_seconds: float = 30.0  # at the end: time for what runs to finish

    def __post_init__(self) -> None:
        for name, least in (("max_queue", 0), ("max_body_bytes", 1), ("max_sessions", 1), ("grace_seconds", 0)):
            value = getattr(self, name)
            if not value >= least:
                raise ConfigError(
                    f"{name} is out of range", expected=f"{least} or more", got=value, where=f"ServerSettings.{name}"
                )
        if any(not key or not key.isascii() or key != key.strip() for key in self.api_keys):
            raise ConfigError(
                "a key is empty, or has spaces at its ends or letters outside ASCII",
                expected="printable ASCII, as a header can carry it",
                where="api_keys",
            )
