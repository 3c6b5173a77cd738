"""Outlines of all kinds of things as signed distances: how far outside a shape of radius 1 a point lies (inside: < 0).

    polygon   nearest edge, negative inside            stroke   nearest line of a pen's path, less half its width

One table of distances, [kinds, points, points] over the square from -REACH to REACH, is all that `draw` needs:
distances stay smooth when they are sampled at any size or angle.
Lesson: 6 (a model that sees)
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from lmcourse.zoo.pictures.vocabulary import DIGITS, SHAPES

__all__ = ["REACH", "distances"]

REACH = 1.3
_POINTS = 96
_PEN = 0.15
Path = list[tuple[float, float]]


def _to_edges(points: Tensor, path: Path, *, closed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """points [n, 2] → distance to each edge of the path [n, edges], and the edges' ends [edges, 2]."""
    corners = torch.tensor(path, dtype=torch.float32)
    start, end = (corners, corners.roll(-1, 0)) if closed else (corners[:-1], corners[1:])
    along, offset = end - start, points[:, None] - start
    share = ((offset * along).sum(-1) / (along * along).sum(-1)).clamp(0, 1)
    return (offset - share[..., None] * along).norm(dim=-1), start, end


def _polygon(points: Tensor, path: Path) -> Tensor:
    distance, start, end = _to_edges(points, path, closed=True)
    x, y = points[:, :1], points[:, 1:]
    crosses = (start[:, 1] > y) != (end[:, 1] > y)
    slope = torch.where(end[:, 1] == start[:, 1], torch.ones(()), end[:, 1] - start[:, 1])
    left = x < start[:, 0] + (y - start[:, 1]) / slope * (end[:, 0] - start[:, 0])
    inside = (crosses & left).sum(-1) % 2 == 1
    nearest = distance.amin(-1)
    return torch.where(inside, -nearest, nearest)


def _strokes(points: Tensor, paths: list[Path]) -> Tensor:
    return torch.stack([_to_edges(points, path, closed=False)[0].amin(-1) for path in paths]).amin(0) - _PEN


def _arc(centre: tuple[float, float], radii: tuple[float, float], first: float, last: float) -> Path:
    """Points of an ellipse from one angle to another, in degrees; 0 is right, 90 is down."""
    angles = [math.radians(first + (last - first) * i / 24) for i in range(25)]
    return [(centre[0] + radii[0] * math.cos(a), centre[1] + radii[1] * math.sin(a)) for a in angles]


def _turned(corners: int, radii: tuple[float, ...]) -> Path:
    """Corners at equal angles from the top on, at the radii in turn."""
    turns = [math.tau * i / corners for i in range(corners)]
    return [(radii[i % len(radii)] * math.sin(a), -radii[i % len(radii)] * math.cos(a)) for i, a in enumerate(turns)]


def _heart() -> Path:
    angles = [math.tau * i / 64 for i in range(64)]
    waves = ((13, 1), (-5, 2), (-2, 3), (-1, 4))
    heights = [sum(size * math.cos(times * a) for size, times in waves) for a in angles]
    return [(0.95 * math.sin(a) ** 3, -(height + 2.5) / 15) for a, height in zip(angles, heights, strict=True)]


_POLYGONS: dict[str, Path] = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0.0, -0.95), (0.95, 0.78), (-0.95, 0.78)],
    "star": _turned(10, (1.0, 0.42)),
    "heart": _heart(),
    "diamond": [(0.0, -1.0), (0.62, 0.0), (0.0, 1.0), (-0.62, 0.0)],
    "cross": [
        (x * a, y * b)
        for x, y, order in ((1, -1, 0), (1, 1, 1), (-1, 1, 0), (-1, -1, 1))
        for a, b in (((0.3, 0.95), (0.3, 0.3), (0.95, 0.3)) if order == 0 else ((0.95, 0.3), (0.3, 0.3), (0.3, 0.95)))
    ],
}

_SIX: list[Path] = [
    [(0.34, -0.84), *_arc((0.12, 0.3), (0.6, 1.1), -110, -180)],
    _arc((0.0, 0.37), (0.46, 0.46), 0, 360),
]
_PENS: tuple[list[Path], ...] = (
    [_arc((0.0, 0.0), (0.48, 0.84), 0, 360)],
    [[(-0.3, -0.5), (0.06, -0.84), (0.06, 0.84)]],
    [[*_arc((0.0, -0.4), (0.46, 0.44), -170, 20), (-0.46, 0.84), (0.5, 0.84)]],
    [_arc((0.0, -0.43), (0.42, 0.41), -150, 90), _arc((0.0, 0.4), (0.48, 0.44), -90, 150)],
    [[(0.22, 0.84), (0.22, -0.84), (-0.52, 0.36), (0.54, 0.36)]],
    [[(0.42, -0.84), (-0.34, -0.84), (-0.4, -0.08), *_arc((0.0, 0.33), (0.48, 0.51), -130, 150)]],
    _SIX,
    [[(-0.48, -0.84), (0.48, -0.84), (-0.12, 0.84)]],
    [_arc((0.0, -0.43), (0.38, 0.4), 0, 360), _arc((0.0, 0.4), (0.48, 0.44), 0, 360)],
    [[(-x, -y) for x, y in path] for path in _SIX],
)


@lru_cache(maxsize=1)
def distances() -> Tensor:
    """[kinds, 1, points, points], rows from the top; in units of a thing's radius."""
    axis = torch.linspace(-REACH, REACH, _POINTS)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x.reshape(-1), y.reshape(-1)], dim=-1)
    far = points.norm(dim=-1)
    round_ones = {"circle": far - 0.95, "ring": (far - 0.72).abs() - 0.23}
    tables = [round_ones[s.en] if s.en in round_ones else _polygon(points, _POLYGONS[s.en]) for s in SHAPES]
    tables += [_strokes(points, pens) for _, pens in zip(DIGITS, _PENS, strict=True)]
    return torch.stack(tables).view(-1, 1, _POINTS, _POINTS)
