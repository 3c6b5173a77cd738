"""Roster: the students of a class, their keys and what each may use. A JSON file that the instructor writes.

    {"quota": {"max_concurrent": 2, "tokens_per_minute": 6000, "tokens_total": 200000},
     "students": {"Ada": {"key": "sk-1"}, "Ben": {"key": "sk-2", "quota": {"max_concurrent": 4}}}}

Contract: a student's own quota replaces the class's, name by name; null or nothing there means no limit.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lmcourse.errors import ConfigError

__all__ = ["Quota", "Student", "read_roster"]


@dataclass(frozen=True)
class Quota:
    """Tokens are those of prompts and answers together; None: no limit."""

    max_concurrent: int | None = None  # answers at one time
    tokens_per_minute: int | None = None
    tokens_per_hour: int | None = None
    tokens_total: int | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{entry.name} is no limit", expected="1 or more, or null", got=repr(value)[:80])


@dataclass(frozen=True)
class Student:
    """Who a key stands for."""

    name: str
    key: str
    quota: Quota


def read_roster(path: Path) -> tuple[Student, ...]:
    """The students of a file; ConfigError says what is wrong with it, never showing a key."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("the roster cannot be read", expected="a JSON file", got=str(error), where=path) from error
    try:
        top = _take(content, "the roster", {"quota", "students"})
        shared = _take(top.get("quota", {}), "the quota of the class", _LIMITS)
        listed = _take(top.get("students", {}), "students", None)
        students = tuple(_read_student(name, entry, shared) for name, entry in listed.items())
        _check_keys(students)
    except ConfigError as error:
        raise ConfigError(error.what, expected=error.expected, got=error.got, where=path) from error
    return students


_LIMITS = {entry.name for entry in fields(Quota)}


def _read_student(name: str, entry: Any, shared: dict[str, Any]) -> Student:
    own = _take(entry, f"the student {name!r}", {"key", "quota"})
    key = own.get("key")
    if not isinstance(key, str) or not key or not key.isascii() or key != key.strip():
        raise ConfigError(f"{name!r} has no usable key", expected="printable ASCII without spaces at its ends")
    return Student(name, key, Quota(**{**shared, **_take(own.get("quota", {}), f"the quota of {name!r}", _LIMITS)}))


def _take(value: Any, what: str, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{what} must be an object", expected="{...}", got=type(value).__name__)
    unknown = sorted(value.keys() - known) if known is not None else []
    if unknown:
        raise ConfigError(f"{what} has an unknown name", expected=" | ".join(sorted(known or ())), got=unknown[0])
    return value


def _check_keys(students: tuple[Student, ...]) -> None:
    if not students:
        raise ConfigError("the roster names no students", expected='"students": {"Ada": {"key": "sk-1"}}', got="none")
    counts = Counter(student.key for student in students)
    twice = [student.name for student in students if counts[student.key] > 1]
    if twice:
        raise ConfigError("two students have the same key", expected="a key each", got=", ".join(twice[:5]))
