"""Reads zoo/texts: the wordings, words and facts that the corpus is made of, as plain text that people edit.

[section]            sections → {"section": lines}         [name]             blocks → (name, {"key": values})
one wording a line                                         key: value
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources

__all__ = ["blocks", "frames", "general", "read_text", "sections", "word"]


def read_text(name: str) -> str:
    """A file of zoo/texts as one string."""
    return (resources.files("lmcourse.zoo") / "texts" / name).read_text(encoding="utf-8")


def sections(text: str) -> dict[str, tuple[str, ...]]:
    """The lines under each "[name]" of a text; "(nothing)" is an empty line, backslash n a line break, # a comment."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]") and re.fullmatch(r"\[[a-z_0-9 ]+\]", line):
            name = line[1:-1]
            found[name] = []
        elif line and not line.startswith("#"):
            found[name].append("" if line == "(nothing)" else line.replace("\\n", "\n"))
    return {key: tuple(lines) for key, lines in found.items()}


def blocks(text: str) -> list[tuple[str, dict[str, tuple[str, ...]]]]:
    """Each "[name]" of a text with its "key: value" lines; a key may occur many times."""
    found: list[tuple[str, dict[str, tuple[str, ...]]]] = []
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            found.append((line[1:-1], {}))
        elif line and not line.startswith("#"):
            key, _, value = line.partition(": ")
            fields = found[-1][1]
            fields[key] = (*fields.get(key, ()), value)
    return found


@lru_cache(maxsize=32)
def frames(name: str) -> dict[str, tuple[str, ...]]:
    """The wordings of one scene, by section of texts/frames_NAME.txt."""
    return sections(read_text(f"frames_{name}.txt"))


@lru_cache(maxsize=1)
def _words() -> dict[str, tuple[str, ...]]:
    lines = [line for line in read_text("words.txt").splitlines() if line and not line.startswith("#")]
    return {kind: tuple(rest.split()) for kind, rest in (line.split(": ", 1) for line in lines)}


def word(kind: str) -> tuple[str, ...]:
    """All words of one kind of texts/words.txt, such as "animals"."""
    return _words()[kind]


@lru_cache(maxsize=1)
def _general() -> dict[str, tuple[str, ...]]:
    lines = [line for line in read_text("general.txt").splitlines() if line and not line.startswith("#")]
    return {kind: tuple(dict.fromkeys(rest.split())) for kind, rest in (line.split(": ", 1) for line in lines)}


def general(*, chinese: bool) -> tuple[str, ...]:
    """Everyday words that say nothing about a task."""
    return _general()["zh" if chinese else "en"]
