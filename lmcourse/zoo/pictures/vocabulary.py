"""Everything that a picture can show, with its English and Chinese names: kinds of things, colours, sizes, places.

A table's order gives the numbers by which `draw` and the scenes know its rows.
Lesson: 6 (a model that sees)
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CELLS", "COLOURS", "DIGITS", "KINDS", "NUMBERS", "SHAPES", "SIZES", "Kind", "Named", "number"]


class Named(NamedTuple):
    """A word in both languages."""

    en: str
    zh: str


class Kind(NamedTuple):
    """A kind of thing; a digit's plural is never asked for."""

    en: str
    zh: str
    plural: str


SHAPES = (
    Kind("circle", "圆形", "circles"),
    Kind("square", "正方形", "squares"),
    Kind("triangle", "三角形", "triangles"),
    Kind("star", "五角星", "stars"),
    Kind("heart", "心形", "hearts"),
    Kind("diamond", "菱形", "diamonds"),
    Kind("cross", "十字", "crosses"),
    Kind("ring", "圆环", "rings"),
)
DIGITS = tuple(Kind(f"digit {i}", f"数字{i}", f"digits {i}") for i in range(10))
KINDS = SHAPES + DIGITS

COLOURS = (
    Named("red", "红色"),
    Named("orange", "橙色"),
    Named("yellow", "黄色"),
    Named("green", "绿色"),
    Named("blue", "蓝色"),
    Named("purple", "紫色"),
    Named("pink", "粉色"),
    Named("brown", "棕色"),
    Named("black", "黑色"),
    Named("white", "白色"),
    Named("gray", "灰色"),
)

SIZES = (Named("small", "小的"), Named("large", "大的"))

# Reading order: row by row, from the left.
CELLS = (
    Named("at the top left", "左上角"),
    Named("at the top", "上方"),
    Named("at the top right", "右上角"),
    Named("on the left", "左边"),
    Named("in the center", "中间"),
    Named("on the right", "右边"),
    Named("at the bottom left", "左下角"),
    Named("at the bottom", "下方"),
    Named("at the bottom right", "右下角"),
)

NUMBERS = tuple(
    Named(en, zh)
    for en, zh in zip(
        ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        "零一两三四五六七八九",
        strict=True,
    )
)


def number(count: int, *, chinese: bool) -> str:
    """A number of things as a word, "two" or "两"."""
    return NUMBERS[count].zh if chinese else NUMBERS[count].en
