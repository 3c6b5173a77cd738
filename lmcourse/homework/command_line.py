"""A command line as an answer: words or one string, judged by what they mean and not by their order.

    lmcourse chat MODEL --model-format awq --cache-max-entry-count=0.40   agrees with any order and writing of the same

Lesson: 9 (homework)
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmcourse.homework.compare import Judged

__all__ = ["CommandLine"]


@dataclass(frozen=True)
class CommandLine(Judged):
    """`flags` must be there with these values; `may` can be, with these; no others."""

    command: tuple[str, ...]
    model: str
    flags: Mapping[str, str]
    may: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [*self.command, self.model]
        for name, value in self.flags.items():
            words += [name, value]
        return shlex.join(words)

    def difference(self, got: Any) -> str | None:
        """Where a command line departs from this one."""
        if isinstance(got, CommandLine):
            got = str(got)
        try:
            words = shlex.split(got) if isinstance(got, str) else [str(word) for word in got]
        except (TypeError, ValueError) as error:
            return f"this is no command line ({error})"
        if tuple(words[: len(self.command)]) != self.command:
            return f"the command does not begin with `{' '.join(self.command)}`"
        return self._flag_difference(words[len(self.command) :])

    def _flag_difference(self, words: list[str]) -> str | None:
        places, flags = _sort_words(words)
        if places != [self.model]:
            return f"beside its flags it names {places or 'nothing'}; the model {self.model!r} was expected"
        for name, value in self.flags.items():
            if name not in flags:
                return f"{name} is missing"
            if not _same(flags[name], value):
                return f"{name} is {flags[name]!r}; {value!r} was expected"
        for name, given in flags.items():
            if name not in self.flags and not any(_same(given, allowed) for allowed in self.may.get(name, ())):
                return f"{name} {given} was not asked for".replace("  ", " ")
        return None


def _sort_words(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """What stands for itself, and flags with their values."""
    places, flags = list[str](), dict[str, str]()
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            name, has_value, value = word.partition("=")
            flags[name] = value if has_value else next(rest, "")
        else:
            places.append(word)
    return places, flags


def _same(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other
