"""A scene in words, and words back to what they claim: how a picture is described, and how a description is marked.

    "The picture shows a large red circle at the top left and a small blue star on the right, on a white background."
    "图中左上角有一个大的红色圆形，右边有一个小的蓝色五角星，背景是白色的。"

Up to three things are told with their places, more as groups with their counts.
Lesson: 6 (a model that sees)
"""

from __future__ import annotations

import re
from functools import lru_cache

from lmcourse.errors import ConfigError
from lmcourse.zoo.pictures.scene import Scene, Thing
from lmcourse.zoo.pictures.vocabulary import CELLS, COLOURS, KINDS, NUMBERS, SIZES, number

__all__ = ["NOTHING_KNOWN", "attributes", "caption", "claims", "name", "place", "scene_of"]

NOTHING_KNOWN = ("I see nothing in this picture that I know.", "我在这张图里看不到我认识的东西。")


def _size(thing: Thing, *, chinese: bool) -> str:
    row = SIZES[min(thing.size, len(SIZES) - 1)]
    return row.zh if chinese else row.en


def name(thing: Thing, *, chinese: bool, sized: bool = False, plural: bool = False) -> str:
    """A thing by colour and kind, such as "red circle" or "红色圆形"; sized: "large red circle"."""
    kind, colour = KINDS[thing.kind], COLOURS[thing.colour]
    if chinese:
        return (_size(thing, chinese=True) if sized else "") + colour.zh + kind.zh
    size = _size(thing, chinese=False) + " " if sized else ""
    return f"{size}{colour.en} {kind.plural if plural else kind.en}"


def place(thing: Thing, *, chinese: bool) -> str:
    """Where a thing is, such as "at the top left" or "左上角"."""
    return CELLS[thing.cell].zh if chinese else CELLS[thing.cell].en


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _parts(scene: Scene, *, chinese: bool) -> list[str]:
    parts = []
    for count, thing in [(1, t) for t in scene.things] if scene.told_one_by_one else scene.groups:
        many = count > 1
        sized = name(thing, chinese=chinese, sized=True, plural=many)
        if chinese:
            where = place(thing, chinese=True) if scene.told_one_by_one else ""
            parts.append(f"{where}有{number(count, chinese=True)}个{sized}")
        elif scene.told_one_by_one:
            parts.append(f"a {sized} {place(thing, chinese=False)}")
        else:
            parts.append(f"{number(count, chinese=False)} {sized}")
    return parts


def caption(scene: Scene, *, chinese: bool) -> str:
    """The description of a scene."""
    if scene.background is None:
        return NOTHING_KNOWN[chinese]
    background = COLOURS[scene.background]
    if not scene.things:
        return (
            f"图中只有{background.zh}的背景。" if chinese else f"The picture shows only a {background.en} background."
        )
    parts = _parts(scene, chinese=chinese)
    if chinese:
        return f"图中{'，'.join(parts)}，背景是{background.zh}的。"
    return f"The picture shows {_listed(parts)}, on a {background.en} background."


@lru_cache(maxsize=2)
def _claim(*, chinese: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What one thing or group looks like in a description, and what the background looks like."""

    def any_of(words: list[str]) -> str:
        return "(" + "|".join(sorted(words, key=len, reverse=True)) + ")"

    colours = any_of([c.zh if chinese else c.en for c in COLOURS])
    sizes, cells = (any_of([row.zh if chinese else row.en for row in rows]) for rows in (SIZES, CELLS))
    numbers = any_of([n.zh if chinese else n.en for n in NUMBERS[1:]] + ([] if chinese else ["a"]))
    if chinese:
        kinds = any_of([k.zh for k in KINDS])
        return re.compile(f"{cells}?有{numbers}个{sizes}{colours}{kinds}"), re.compile(
            f"背景是{colours}的|只有{colours}的背景"
        )
    kinds = any_of([word for k in KINDS for word in (k.plural, k.en)])
    thing = rf"\b{numbers} {sizes} {colours} {kinds}\b(?: {cells})?"
    return re.compile(thing), re.compile(rf"\b(?:on|only) a {colours} background")


def claims(text: str, *, chinese: bool) -> list[str]:
    """What a description claims, in its order: per thing "size 0 large", "colour 0 red", …, then the background."""
    thing, background = _claim(chinese=chinese)
    found = []
    for index, match in enumerate(thing.finditer(text)):
        fields = match.groups()
        where, rest = (fields[0], fields[1:]) if chinese else (fields[4], fields[:4])
        count, size, colour, kind = rest
        single = {k.plural: k.en for k in KINDS}.get(kind, kind)
        values = {
            "count": {"a": "one"}.get(count, count),
            "size": size,
            "colour": colour,
            "kind": single,
            "place": where,
        }
        found += [f"{key} {index} {value}" for key, value in values.items() if value]
    said = background.search(text)
    return [*found, f"background {next(filter(None, said.groups()))}"] if said else found


def attributes(scene: Scene, *, chinese: bool) -> list[str]:
    """The attributes that the right description claims."""
    return claims(caption(scene, chinese=chinese), chinese=chinese)


def scene_of(text: str) -> Scene:
    """The scene of an English description: "a large red circle on the left, on a white background"."""
    told: dict[int, dict[str, str]] = {}
    background = None
    for claim in claims(text, chinese=False):
        key, value = claim.split(" ", 1)
        if key == "background":
            background = value
        else:
            index, word = value.split(" ", 1)
            told.setdefault(int(index), {})[key] = word
    cells = [thing.get("place") for thing in told.values()]
    if background is None or None in cells or len(set(cells)) < len(cells):
        raise ConfigError(
            "no scene can be read from this description",
            expected="a large red circle at the top left and a small blue star on the right, on a white background",
            got=text[:200],
            next_step="give every thing a place of its own, and name the background",
        )
    rows = [[row.en for row in table] for table in (KINDS, COLOURS, SIZES, CELLS)]
    keys = ("kind", "colour", "size", "place")
    things = (
        Thing(*(words.index(thing[key]) for words, key in zip(rows, keys, strict=True))) for thing in told.values()
    )
    return Scene(rows[1].index(background), tuple(sorted(things, key=lambda thing: thing.cell)))
