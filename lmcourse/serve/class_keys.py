"""Keys for a class: names in, a roster out (class_roster.py reads it), and a list to hand out.

The idea: nobody thinks up keys or copies them by hand. A key has 192 random bits; the files that hold keys are their
owner's alone, appear whole or not at all, and replace nothing unless told to.

Contract: `extend` keeps every key, quota and setting that is there, and gives the new names keys.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lmcourse.errors import ConfigError, MachineError
from lmcourse.serve.class_roster import Quota

__all__ = ["check_free", "extend_roster", "list_keys", "make_roster", "read_names", "to_json", "write_private"]

_LONGEST_NAME = 80  # characters


def read_names(text: str, where: str) -> list[str]:
    """One name a line; empty lines are none. ConfigError for names that are twice there, too long or not printable."""
    lines = (unicodedata.normalize("NFC", line).strip() for line in text.lstrip("\ufeff").splitlines())
    names = [" ".join(line.split()) for line in lines if line]
    if not names:
        raise ConfigError("there are no names", expected="one name a line", got="nothing", where=where)
    for name in names:
        if len(name) > _LONGEST_NAME or not name.isprintable():
            told = f"printable, at most {_LONGEST_NAME} characters"
            raise ConfigError("a name cannot be used", expected=told, got=repr(name)[:100], where=where)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        next_step = "tell them apart, by a second name or a number"
        raise ConfigError("a name is there twice", got=", ".join(twice[:5]), where=where, next_step=next_step)
    return names


def make_roster(names: Iterable[str], limits: Mapping[str, int]) -> dict[str, Any]:
    """A roster with a key for each, and one for the instructor; limits: the class's quota, by its names in Quota."""
    Quota(**limits)
    quota = {"quota": dict(limits)} if limits else {}
    return {"instructor": {"key": _make_key()}, **quota, "students": {name: {"key": _make_key()} for name in names}}


def extend_roster(roster: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The same with keys for those who have none."""
    students = dict(roster["students"])
    for name in names:
        students.setdefault(name, {"key": _make_key()})
    return {**roster, "students": students}


def _make_key() -> str:
    return "sk-" + secrets.token_urlsafe(24)


def list_keys(roster: Mapping[str, Any]) -> str:
    """The students' names and keys as CSV."""
    rows = io.StringIO()
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(("name", "key"))
    table.writerows((name, student["key"]) for name, student in roster["students"].items())
    return rows.getvalue()


def check_free(path: Path) -> None:
    """ConfigError if something is there already, which would be lost."""
    if path.exists():
        next_step = "choose another name; --add keeps its keys, --force replaces the file and every key in it"
        raise ConfigError("the file exists", expected="a new file", got=str(path), next_step=next_step)


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, whole or not at all; one that is there is replaced."""
    try:
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(beside, path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise MachineError("the file cannot be written", got=str(error), where=path) from error


def to_json(roster: Mapping[str, Any]) -> str:
    """As people can read and edit it."""
    return json.dumps(roster, indent=1, ensure_ascii=False) + "\n"
