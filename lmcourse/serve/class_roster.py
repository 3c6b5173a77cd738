"""Roster: the students of a class, their keys and what each may use. A JSON file that the instructor writes.

    {"instructor": {"key": "sk-0"}, "students_see": "nothing",
     "quota": {"max_concurrent": 2, "tokens_per_minute": 6000, "tokens_total": 200000},
     "students": {"Ada": {"key": "sk-1"}, "Ben": {"key": "sk-2", "quota": {"max_concurrent": 4}}}}

Contract: a student's own quota replaces the class's, name by name; null or nothing there means no limit. The
instructor's key has no quota and opens the class view; students see it where students_see is "class".

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lmcourse.errors import ConfigError

__all__ = ["Quota", "Roster", "Student", "read_roster"]


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


@dataclass(frozen=True)
class Roster:
    """A class."""

    students: tuple[Student, ...]
    instructor_key: str | None = None
    students_see_class: bool = False  # who runs what, and how much everybody uses


def read_roster(path: Path) -> Roster:
    """The class of a file; ConfigError says what is wrong with it, never showing a key."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("the roster cannot be read", expected="a JSON file", got=str(error), where=path) from error
    try:
        return _read_class(content)
    except ConfigError as error:
        raise ConfigError(error.what, expected=error.expected, got=error.got, where=path) from error


_LIMITS = {entry.name for entry in fields(Quota)}
_SEEN = {"nothing": False, "class": True}


def _read_class(content: Any) -> Roster:
    top = _take(content, "the roster", {"instructor", "quota", "students", "students_see"})
    shared = _take(top.get("quota", {}), "the quota of the class", _LIMITS)
    listed = _take(top.get("students", {}), "students", None)
    students = tuple(_read_student(name, entry, shared) for name, entry in listed.items())
    own = None
    if "instructor" in top:
        own = _read_key(_take(top["instructor"], "the instructor", {"key"}), "the instructor")
    seen = top.get("students_see", "nothing")
    if seen not in list(_SEEN):
        raise ConfigError("students_see says nothing that is known", expected=" | ".join(_SEEN), got=repr(seen)[:80])
    _check_keys(students, own)
    return Roster(students, own, _SEEN[seen])


def _read_student(name: str, entry: Any, shared: dict[str, Any]) -> Student:
    own = _take(entry, f"the student {name!r}", {"key", "quota"})
    key = _read_key(own, repr(name))
    return Student(name, key, Quota(**{**shared, **_take(own.get("quota", {}), f"the quota of {name!r}", _LIMITS)}))


def _read_key(entry: dict[str, Any], whose: str) -> str:
    key = entry.get("key")
    if not isinstance(key, str) or not key or not key.isascii() or key != key.strip():
        raise ConfigError(f"{whose} has no usable key", expected="printable ASCII without spaces at its ends")
    return key


def _take(value: Any, what: str, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{what} must be an object", expected="{...}", got=type(value).__name__)
    unknown = sorted(value.keys() - known) if known is not None else []
    if unknown:
        raise ConfigError(f"{what} has an unknown name", expected=" | ".join(sorted(known or ())), got=unknown[0])
    return value


def _check_keys(students: tuple[Student, ...], instructor_key: str | None) -> None:
    if not students:
        raise ConfigError("the roster names no students", expected='"students": {"Ada": {"key": "sk-1"}}', got="none")
    counts = Counter(student.key for student in students)
    twice = [student.name for student in students if counts[student.key] > 1]
    if twice:
        raise ConfigError("two students have the same key", expected="a key each", got=", ".join(twice[:5]))
    if instructor_key is not None and counts[instructor_key]:
        same = next(student.name for student in students if student.key == instructor_key)
        raise ConfigError("a student has the instructor's key", expected="a key each", got=same)
