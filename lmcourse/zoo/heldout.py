"""What only the evaluation knows: heldout.txt, its wordings, words and seed; training never imports this (tested).

Each task's frames, the filler around pass keys, the facts of multi-turn dialogues, the tools and the hand-written
questions about the course are written apart from the training scenes; no prompt made from them shares an 8-gram of
content words with training text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lmcourse.zoo.texts_reader import blocks, sections

__all__ = ["HeldOutFact", "HeldOutTool", "fact_kinds", "lines", "questions", "seed", "tools"]

_FILE = Path(__file__).with_name("heldout.txt")


@dataclass(frozen=True)
class HeldOutFact:
    """Statements, questions and values of one kind of fact in one language."""

    tell: tuple[str, ...]
    ask: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class HeldOutTool:
    """A tool: description, names, (parameter, JSON type, values) and requests."""

    description: str
    names: tuple[str, ...]
    parameters: tuple[tuple[str, str, tuple[str, ...]], ...]
    requests: tuple[str, ...]


@lru_cache(maxsize=1)
def _sections() -> dict[str, tuple[str, ...]]:
    return sections(_FILE.read_text(encoding="utf-8"))


def lines(name: str) -> tuple[str, ...]:
    """The lines of one section, such as "capitals en"."""
    return _sections()[name]


def seed() -> int:
    """The seed of all instances."""
    return int(lines("seed")[0])


def _fields(prefix: str) -> dict[str, dict[str, tuple[str, ...]]]:
    chosen = {name: found for name, found in _sections().items() if name.startswith(prefix + " ")}
    text = "\n".join(f"[{name}]\n" + "\n".join(found) for name, found in chosen.items())
    return {name.removeprefix(prefix + " "): found for name, found in blocks(text)}


@lru_cache(maxsize=2)
def fact_kinds(*, chinese: bool) -> dict[str, HeldOutFact]:
    """Kind → wordings and values, in one language."""
    ending = " zh" if chinese else " en"
    return {
        name.removesuffix(ending): HeldOutFact(found["t"], found["a"], tuple(found["v"][0].split("; ")))
        for name, found in _fields("fact").items()
        if name.endswith(ending)
    }


@lru_cache(maxsize=1)
def tools() -> tuple[HeldOutTool, ...]:
    """Tools whose names, descriptions and requests training never uses."""
    found = []
    for fields in _fields("tool").values():
        rows = (line.split(" = ") for line in fields["p"])
        parameters = tuple((name, kind, tuple(values.split("; "))) for name, kind, values in rows)
        found.append(HeldOutTool(fields["d"][0], tuple(fields["n"][0].split()), parameters, fields["r"]))
    return tuple(found)


@lru_cache(maxsize=1)
def questions() -> dict[str, tuple[str, str]]:
    """Topic of the course → hand-written question in English and in Chinese."""
    rows = (line.split(" | ") for line in lines("questions"))
    return {name: (english, chinese) for name, english, chinese in rows}
