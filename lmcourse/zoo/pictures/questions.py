"""Questions about a scene that the scene answers, by kind: each maker returns what the wording needs and both answers.

    "colour" → {what: "star"} → "The star is purple." / "五角星是紫色的。"

A maker returns None where its question has no single answer in this scene (two stars of different colours, say).
Lesson: 6 (a model that sees)
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from lmcourse.zoo.pictures.captions import caption, name, place
from lmcourse.zoo.pictures.scene import Scene, Thing, is_new_pair
from lmcourse.zoo.pictures.vocabulary import CELLS, COLOURS, KINDS, SHAPES, SIZES, number

__all__ = ["MAKERS", "Asked", "ask"]


class Asked(NamedTuple):
    """A kind of question, what fills its wording's holes, and the answer."""

    kind: str
    holes: dict[str, str]
    answer: str


_Maker = Callable[[Random, Scene, bool], tuple[dict[str, str], str] | None]


def _kind_name(kind: int, chinese: bool) -> str:  # noqa: FBT001 (makers share one form)
    return KINDS[kind].zh if chinese else KINDS[kind].en


def _only(scene: Scene, key: Callable[[Thing], object], rng: Random) -> Thing | None:
    """A thing whose key no other thing shares."""
    alone = [t for t in scene.things if sum(key(other) == key(t) for other in scene.things) == 1]
    return rng.choice(alone) if alone else None


def _colour(rng: Random, scene: Scene, chinese: bool) -> tuple[dict[str, str], str] | None:  # noqa: FBT001
    thing = _only(scene, lambda t: t.kind, rng)
    if thing is None:
        return None
    what, colour = _kind_name(thing.kind, chinese), COLOURS[thing.colour]
    return {"what": what}, f"{what}是{colour.zh}的。" if chinese else f"The {what} is {colour.en}."


def _kind(rng: Random, scene: Scene, chinese: bool) -> tuple[dict[str, str], str] | None:  # noqa: FBT001
    thing = _only(scene, lambda t: t.colour, rng)
    if thing is None:
        return None
    what, colour = _kind_name(thing.kind, chinese), COLOURS[thing.colour]
    if chinese:
        return {"colour": colour.zh}, f"{colour.zh}的是{what}。"
    return {"colour": colour.en}, f"The {what} is {colour.en}."


def _at(rng: Random, scene: Scene, chinese: bool) -> tuple[dict[str, str], str] | None:  # noqa: FBT001
    taken = {thing.cell: thing for thing in scene.things}
    if not scene.told_one_by_one or any(thing.size > 1 for thing in scene.things):
        return None
    cell = rng.choice(list(taken)) if taken and rng.random() < 0.75 else rng.randrange(len(CELLS))
    where, thing = CELLS[cell].zh if chinese else CELLS[cell].en, taken.get(cell)
    if thing is None:
        return {"where": where}, f"{where}什么也没有。" if chinese else f"There is nothing {where}."
    sized = name(thing, chinese=chinese, sized=True)
    return {"where": where}, f"{where}有一个{sized}。" if chinese else f"There is a {sized} {where}."


def _where(rng: Random, scene: Scene, chinese: bool) -> tuple[dict[str, str], str] | None:  # noqa: FBT001
    thing = _only(scene, lambda t: (t.kind, t.colour), rng)
    if thing is None or not scene.told_one_by_one:
        return None
    what = name(thing, chinese=chinese)
    where = place(thing, chinese=chinese)
    return {"what": what}, f"{what}在{where}。" if chinese else f"The {what} is {where}."


def _size(rng: Random, scene: Scene, chinese: bool) -> tuple[dict[str, str], str] | None:  # noqa: FBT001
    thing = _only(scene, lambda t: (t.kind, t.colour), rng)
    if thing is None:
        return None
    what, size = name(thing, chinese=chinese), SIZES[min(thing.size, 1)]
    return {"what": what}, f"{what}是{size.zh}。" if chinese else f"The {what} is {size.en}."


def _counted(count: int, one: str, many: str, *, chinese: bool) -> str:
    if chinese:
        return f"有{number(count, chinese=True)}个{one}。" if count else f"没有{one}。"
    return f"There {'is' if count == 1 else 'are'} {number(count, chinese=False)} {one if count == 1 else many}."


def _count(rng: Random, scene: Scene, chinese: bool) -> tuple[dict[str, str], str] | None:  # noqa: FBT001
    draw = rng.random()
    one, many, count = ("图形" if chinese else "object"), "objects", len(scene.things)
    if draw < 0.35 and scene.things:
        kind = rng.choice(scene.things).kind if rng.random() < 0.8 else rng.randrange(len(SHAPES))
        one, many = _kind_name(kind, chinese), KINDS[kind].plural
        count = sum(thing.kind == kind for thing in scene.things)
        if kind >= len(SHAPES):
            return None
    elif draw < 0.7 and scene.things:
        thing = rng.choice(scene.things)
        if thing.kind >= len(SHAPES):
            return None
        one, many = name(thing, chinese=chinese), name(thing, chinese=False, plural=True)
        count = sum(other[:2] == thing[:2] for other in scene.things)
    elif draw < 0.85 and scene.things:
        colour = COLOURS[rng.choice(scene.things).colour]
        one, many = (f"{colour.zh}图形" if chinese else f"{colour.en} object"), f"{colour.en} objects"
        count = sum(COLOURS[thing.colour] == colour for thing in scene.things)
    return {"what": one if chinese else many}, _counted(count, one, many, chinese=chinese)


def _background(rng: Random, scene: Scene, chinese: bool) -> tuple[dict[str, str], str] | None:  # noqa: FBT001
    colour = COLOURS[scene.background or 0]
    return {}, f"背景是{colour.zh}的。" if chinese else f"The background is {colour.en}."


def _digit(rng: Random, scene: Scene, chinese: bool) -> tuple[dict[str, str], str] | None:  # noqa: FBT001
    shown = [thing.kind - len(SHAPES) for thing in scene.things if thing.kind >= len(SHAPES)]
    if len(shown) > 1 or (not shown and rng.random() < 0.85):
        return None
    if not shown:
        return {}, "没有数字。" if chinese else "There is no digit."
    return {}, f"数字是{shown[0]}。" if chinese else f"The digit is {shown[0]}."


def _exists(rng: Random, scene: Scene, chinese: bool) -> tuple[dict[str, str], str] | None:  # noqa: FBT001
    if not scene.things:
        return None
    thing = rng.choice(scene.things)
    if rng.random() < 0.5:  # one that is not there: another colour or another kind
        other = (
            rng.choice((rng.randrange(len(KINDS)), thing.kind)),
            rng.choice((rng.randrange(len(COLOURS)), thing.colour)),
        )
        if is_new_pair(*other) or other in {t[:2] for t in scene.things}:
            return None
        what = name(thing._replace(kind=other[0], colour=other[1]), chinese=chinese)
        return {"what": what}, f"没有，图中没有{what}。" if chinese else f"No, there is no {what}."
    what = name(thing, chinese=chinese)
    return {"what": what}, f"有，图中有{what}。" if chinese else f"Yes, there is a {what}."


_SIDES: tuple[tuple[str, str, Callable[[Thing, Thing], bool]], ...] = (
    ("to the left of", "左边", lambda a, b: a.cell % 3 < b.cell % 3),
    ("to the right of", "右边", lambda a, b: a.cell % 3 > b.cell % 3),
    ("above", "上面", lambda a, b: a.cell // 3 < b.cell // 3),
    ("below", "下面", lambda a, b: a.cell // 3 > b.cell // 3),
)


def _relation(rng: Random, scene: Scene, chinese: bool) -> tuple[dict[str, str], str] | None:  # noqa: FBT001
    if len(scene.things) not in (2, 3) or len({t.kind for t in scene.things}) < len(scene.things):
        return None
    first, second = rng.sample(scene.things, 2)
    a, b = _kind_name(first.kind, chinese), _kind_name(second.kind, chinese)
    en, zh, holds = rng.choice(_SIDES)
    yes = holds(first, second)
    if chinese:
        answer = f"是的，{a}在{b}的{zh}。" if yes else f"不，{a}不在{b}的{zh}。"
        return {"a": a, "b": b, "how": zh}, answer
    answer = f"Yes, the {a} is {en} the {b}." if yes else f"No, the {a} is not {en} the {b}."
    return {"a": a, "b": b, "how": en}, answer


MAKERS: dict[str, _Maker] = {
    "describe": lambda rng, scene, chinese: ({}, caption(scene, chinese=chinese)),
    "colour": _colour,
    "kind": _kind,
    "at": _at,
    "where": _where,
    "size": _size,
    "count": _count,
    "background": _background,
    "digit": _digit,
    "exists": _exists,
    "relation": _relation,
}


def ask(rng: Random, scene: Scene, *, chinese: bool, kinds: tuple[str, ...] = tuple(MAKERS)) -> Asked:
    """A question about the scene that has one answer; a picture of nothing known has only one answer to anything."""
    if scene.background is None:
        return Asked("describe", {}, caption(scene, chinese=chinese))
    while True:
        kind = rng.choice(kinds)
        made = MAKERS[kind](rng, scene, chinese)
        if made:
            return Asked(kind, *made)
