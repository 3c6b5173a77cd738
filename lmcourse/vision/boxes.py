"""Boxes: where things are, as Qwen-VL says it, in pixels and drawn (arXiv 2308.12966 §2.2).

    "<ref>the cat</ref><box>(120,250),(480,760)</box> sleeps" ─ find_boxes ─→ Box("the cat", (77, 120, 307, 365))
                                                              ─ draw_boxes ─→ the picture with frames and names

A place is told in thousandths of the picture's width and height, so that it holds at any resolution. Several boxes may
follow one name; a <quad> has four corners, of which any box is the hull. What is malformed is text and no box.

Lesson: 6 (what a model that sees says)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from lmcourse.errors import PromptError

__all__ = ["Box", "draw_boxes", "find_boxes", "without_marks"]

_SCALE = 1000
_POINT = r"\(\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\)"
_REF = r"<ref>(?P<name>(?:(?!</?ref>|<box>|<quad>).)*)</ref>"
_BOX = rf"<box>\s*(?P<box>{_POINT}\s*,\s*{_POINT})\s*</box>"
_QUAD = rf"<quad>\s*(?P<quad>{_POINT}(?:\s*,\s*{_POINT}){{3}})\s*</quad>"
_MARK = re.compile("|".join((_REF, _BOX, _QUAD)), re.DOTALL)
_GAP = re.compile(r"[\s,，、;；和]*|\s*and\s*")  # between boxes of one name
_COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


@dataclass(frozen=True)
class Box:
    """A thing and its place; name is empty where the model gave none."""

    name: str
    corners: tuple[tuple[float, float], ...]  # in pixels, as they were told: two of a box, four of a quadrangle

    @property
    def pixels(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        across, down = zip(*self.corners, strict=True)
        return min(across), min(down), max(across), max(down)


def find_boxes(text: str, size: tuple[int, int]) -> list[Box]:
    """The boxes of an answer, in its order; size: width and height of the picture."""
    width, height = _check_size(size)
    boxes, name, end = [], "", 0
    for match in _MARK.finditer(text):
        if match["name"] is not None:
            name, end = match["name"].strip(), match.end()
            continue
        if _GAP.fullmatch(text, end, match.start()) is None:
            name = ""  # something else was said since
        points = re.findall(r"\d+", match["box"] or match["quad"])
        numbers = [min(int(point), _SCALE) / _SCALE for point in points]
        corners = zip(numbers[::2], numbers[1::2], strict=True)
        boxes.append(Box(name, tuple((x * width, y * height) for x, y in corners)))
        end = match.end()
    return boxes


def without_marks(text: str) -> str:
    """The answer as people read it: names stay, boxes go."""
    return _MARK.sub(lambda match: match["name"] or "", text)


def draw_boxes(picture: Image.Image, boxes: Sequence[Box] | str) -> Image.Image:
    """A copy of the picture with a frame around each box and its name on it; boxes: of find_boxes, or the answer."""
    found = find_boxes(boxes, picture.size) if isinstance(boxes, str) else list(boxes)
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    thick = max(2, round(max(picture.size) / 250))
    font = ImageFont.load_default(max(10, round(max(picture.size) / 40)))
    names = list(dict.fromkeys(box.name for box in found))
    for box in found:
        colour = _COLOURS[names.index(box.name) % len(_COLOURS)]
        if len(box.corners) == 2:
            pen.rectangle(box.pixels, outline=colour, width=thick)
        else:
            pen.line([*box.corners, box.corners[0]], fill=colour, width=thick, joint="curve")
        if box.name:
            _write(pen, box, colour, font)
    return drawn


def _write(pen: ImageDraw.ImageDraw, box: Box, colour: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> None:
    """The name on a ground of the frame's colour, over the box where there is room, else inside."""
    _, _, right, bottom = pen.textbbox((0, 0), box.name, font=font)
    x, y = box.pixels[0], box.pixels[1] - bottom - 3
    y = box.pixels[1] if y < 0 else y
    pen.rectangle((x, y, x + right + 6, y + bottom + 3), fill=colour)
    pen.text((x + 3, y), box.name, fill="white", font=font)


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise PromptError("boxes need the picture's size", expected="(width, height), as PIL's size", got=repr(size))
    return size
