"""A scene: a background and up to nine things, one a cell of a 3 × 3 grid; scenes by lot, and which are kept back.

    0 1 2        Thing(kind, colour, size, cell): numbers of vocabulary.py's rows
    3 4 5        up to three things: each is told with its place; more: told as groups with their counts
    6 7 8

Kept back from training are four pairs of kind and colour on any background, and one in eight triples of kind, colour
and background. `scene` makes no such thing; every `new_scene` has at least one.
Lesson: 6 (a model that sees)
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from lmcourse.zoo.pictures.vocabulary import CELLS, COLOURS, KINDS, SHAPES

__all__ = ["HUGE", "NEW_PAIRS", "Scene", "Thing", "is_held_out", "is_new_pair", "is_new_triple", "new_scene", "scene"]

HUGE = 2  # a large thing that fills the picture; told as large
_MOST = len(CELLS)
NEW_PAIRS = (("star", "purple"), ("heart", "green"), ("triangle", "orange"), ("digit 7", "blue"))


class Thing(NamedTuple):
    """One thing of a scene, by numbers."""

    kind: int
    colour: int
    size: int
    cell: int


@dataclass(frozen=True)
class Scene:
    """Things in reading order on a background; background None: a picture of nothing that has a name."""

    background: int | None
    things: tuple[Thing, ...] = ()

    @property
    def groups(self) -> tuple[tuple[int, Thing], ...]:
        """(how many, one of them) for each kind, colour and size, in order of their first thing."""
        counted: dict[tuple[int, int, int], list[Thing]] = {}
        for thing in self.things:
            counted.setdefault(thing[:3], []).append(thing)
        return tuple((len(same), same[0]) for same in counted.values())

    @property
    def told_one_by_one(self) -> bool:
        return len(self.things) <= 3


_NEW_PAIRS = frozenset(
    (kind, colour)
    for kind, row in enumerate(KINDS)
    for colour, name in enumerate(COLOURS)
    if (row.en, name.en) in NEW_PAIRS
)


def is_new_pair(kind: int, colour: int) -> bool:
    """Whether training never shows this kind in this colour."""
    return (kind, colour) in _NEW_PAIRS


def is_new_triple(kind: int, colour: int, background: int) -> bool:
    """Whether training never shows this kind in this colour on this background (one in eight)."""
    return (5 * kind + 3 * colour + 7 * background + kind * colour) % 8 == 0


def is_held_out(kind: int, colour: int, background: int) -> bool:
    """Whether a thing like this on this background belongs to the evaluation."""
    return is_new_pair(kind, colour) or is_new_triple(kind, colour, background)


def _look(rng: Random, background: int, *, held_out: bool | None) -> tuple[int, int]:
    """A kind and a colour that stands out from the background; held_out None takes either side."""
    while True:
        kind = rng.randrange(len(SHAPES)) if rng.random() < 0.75 else rng.randrange(len(SHAPES), len(KINDS))
        colour = rng.randrange(len(COLOURS))
        if colour != background and held_out in (None, is_held_out(kind, colour, background)):
            return kind, colour


def _singly(rng: Random, background: int, looks: list[tuple[int, int]]) -> list[Thing]:
    if len(looks) == 1 and rng.random() < 0.3:
        return [Thing(*looks[0], HUGE, 4)]
    cells = rng.sample(range(_MOST), len(looks))
    return [Thing(*look, rng.randrange(2), cell) for look, cell in zip(looks, cells, strict=True)]


def _grouped(rng: Random, looks: list[tuple[int, int]]) -> list[Thing]:
    """Four to nine things, as many groups as there are looks; digits are never counted in groups."""
    total = rng.randrange(4, _MOST + 1)
    cuts = sorted(rng.sample(range(1, total), len(looks) - 1))
    counts = [end - start for start, end in zip([0, *cuts], [*cuts, total], strict=True)]
    cells = rng.sample(range(_MOST), total)
    things = []
    for look, count in zip(looks, counts, strict=True):
        size = rng.randrange(2)
        things += [Thing(*look, size, cells.pop()) for _ in range(count)]
    return things


def _make(rng: Random, *, new: bool) -> Scene:
    """A scene with things; of its looks none is held out, or (new) the first is and the others may be."""
    background = rng.randrange(len(COLOURS))
    draw = rng.random()
    grouped = draw < 0.28
    number = rng.choice((1, 1, 2, 2, 3)) if grouped else 1 if draw < 0.55 else rng.randrange(2, 4)
    looks: list[tuple[int, int]] = []
    while len(looks) < number:
        held_out = False if not new else True if not looks else None
        look = _look(rng, background, held_out=held_out)
        if look not in looks and not (grouped and look[0] >= len(SHAPES)):
            looks.append(look)
    things = _grouped(rng, looks) if grouped else _singly(rng, background, looks)
    return Scene(background, tuple(sorted(things, key=lambda thing: thing.cell)))


def scene(rng: Random) -> Scene:
    """A scene of training; a few show nothing but a background, or nothing that has a name."""
    draw = rng.random()
    if draw < 0.02:
        return Scene(rng.randrange(len(COLOURS)))
    return Scene(None) if draw < 0.05 else _make(rng, new=False)


def new_scene(rng: Random) -> Scene:
    """A scene of the evaluation: at least one thing as training never shows it."""
    return _make(rng, new=True)
