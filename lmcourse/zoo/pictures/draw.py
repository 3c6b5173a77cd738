"""Draws scenes, many at once, on the device that the numbers are on: training draws what it sees while it learns.

    codes [scenes, 9, 4] kind, colour, size, cell (kind -1: nothing)  ─┐ lot: place in the cell, radius, turn, tint
    backgrounds [scenes]  (-1: a picture of nothing that has a name)  ─┴→ pixels [scenes, 3, side, side], 0 … 255

Each thing's outline is a table of distances (outlines.py), sampled at its size and angle; pixels on the edge are mixed.
The same numbers and seed give the same picture at any side length.
Lesson: 6 (a model that sees)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from lmcourse.zoo.pictures.outlines import REACH, distances
from lmcourse.zoo.pictures.scene import Scene
from lmcourse.zoo.pictures.vocabulary import CELLS

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SIDE", "draw", "encode_scenes", "picture"]

SIDE = 128
_MOST = len(CELLS)
# Three tints of each colour, in the vocabulary's order.
_TINTS = (
    ((255, 0, 0), (220, 35, 35), (200, 10, 30)),
    ((255, 165, 0), (245, 130, 30), (255, 140, 0)),
    ((255, 255, 0), (250, 220, 50), (255, 235, 20)),
    ((0, 128, 0), (50, 175, 70), (0, 230, 0)),
    ((0, 0, 255), (45, 95, 220), (30, 50, 190)),
    ((128, 0, 128), (145, 60, 185), (110, 20, 150)),
    ((255, 192, 203), (255, 150, 185), (255, 170, 190)),
    ((139, 69, 19), (120, 72, 40), (105, 55, 20)),
    ((0, 0, 0), (25, 25, 25), (12, 12, 12)),
    ((255, 255, 255), (242, 242, 242), (250, 250, 250)),
    ((128, 128, 128), (160, 160, 160), (145, 145, 145)),
)
# Smallest radius, its range, and how far the centre may lie from the cell's, as shares of the side: small, large, huge.
_EXTENT = ((0.065, 0.025, 0.055), (0.125, 0.03, 0.018), (0.2, 0.18, 0.06))
_NOISE_OCTAVES = (2, 4, 8, 16, 32, 64)


def encode_scenes(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """codes [scenes, 9, 4] and backgrounds [scenes], as `draw` takes them."""
    codes = torch.full((len(scenes), _MOST, 4), -1, dtype=torch.int64)
    for index, scene in enumerate(scenes):
        if scene.things:
            codes[index, : len(scene.things)] = torch.tensor(scene.things)
    backgrounds = [-1 if scene.background is None else scene.background for scene in scenes]
    return codes, torch.tensor(backgrounds)


class _Tables(NamedTuple):
    """Tints, extents and outlines on one device."""

    tints: Tensor
    extents: Tensor
    outlines: Tensor


@lru_cache(maxsize=4)
def _tables(device: torch.device) -> _Tables:
    tints = torch.tensor(_TINTS, dtype=torch.float32, device=device)
    return _Tables(tints, torch.tensor(_EXTENT, device=device), distances().to(device))


def _tinted(colours: Tensor, lot: torch.Generator) -> Tensor:
    """Colours [...] by number → RGB [..., 3], each a little off one of its tints."""
    which = torch.randint(3, colours.shape, generator=lot, device=colours.device)
    off = torch.rand(*colours.shape, 3, generator=lot, device=colours.device) * 20 - 10
    return (_tables(colours.device).tints[colours.clamp(min=0), which] + off).clamp(0, 255)


def _placed(codes: Tensor, lot: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Radii [n, 9], centres [n, 9, 2], turns in radians [n, 9], how much bolder [n, 9]; in sides of the picture."""
    extent = _tables(codes.device).extents[codes[..., 2].clamp(min=0)]
    lots = torch.rand(*codes.shape[:2], 5, generator=lot, device=codes.device)
    radius = extent[..., 0] + extent[..., 1] * lots[..., 0]
    cell = codes[..., 3].clamp(min=0)
    grid = torch.stack([cell % 3, cell // 3], dim=-1) / 3 + 1 / 6
    centre = grid + (lots[..., 1:3] * 2 - 1) * extent[..., 2:]
    return radius, centre, (lots[..., 3] * 2 - 1) * 0.14, (lots[..., 4] * 2 - 1) * 0.04


def _noise(count: int, side: int, lot: torch.Generator) -> Tensor:
    """Pictures of nothing: random colours, coarse and fine, in random shares [count, 3, side, side]."""
    total = torch.zeros(count, 3, side, side, device=lot.device)
    for cells in _NOISE_OCTAVES:
        coarse = torch.rand(count, 3, cells, cells, generator=lot, device=lot.device) - 0.5
        share = torch.rand(count, 1, 1, 1, generator=lot, device=lot.device)
        total += share * F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
    middle = torch.rand(count, 3, 1, 1, generator=lot, device=lot.device)
    return ((total + middle).clamp(0, 1) * 255).round()


def draw(codes: Tensor, backgrounds: Tensor, lot: torch.Generator, *, side: int = SIDE) -> Tensor:
    """Pixels [scenes, 3, side, side], whole numbers in float32; the lot's device is the codes' device."""
    count, device = codes.shape[0], codes.device
    table = _tables(device).outlines
    radius, centre, turn, wider = _placed(codes, lot)
    colours = _tinted(codes[..., 1], lot)
    pixels = _tinted(backgrounds, lot)[..., None, None].expand(-1, -1, side, side)
    axis = (torch.arange(side, device=device) + 0.5) / side
    for slot in range(_MOST):
        if device.type == "cpu" and not bool((codes[:, slot, 0] >= 0).any()):
            continue
        r, angle = radius[:, slot, None, None], turn[:, slot, None, None]
        x = (axis[None, None, :] - centre[:, slot, 0, None, None]) / r
        y = (axis[None, :, None] - centre[:, slot, 1, None, None]) / r
        turned = torch.stack([x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()], dim=-1)
        outline = table[codes[:, slot, 0].clamp(min=0)]
        far = F.grid_sample(outline, turned / REACH, padding_mode="border", align_corners=True)[:, 0]
        cover = (0.5 - (far - wider[:, slot, None, None]) * r * side).clamp(0, 1)
        cover = (cover * (codes[:, slot, 0] >= 0)[:, None, None])[:, None]
        pixels = pixels + cover * (colours[:, slot, :, None, None] - pixels)
    some = _noise(max(1, count // 32), side, lot)
    nothing = some[torch.arange(count, device=device) % some.shape[0]]
    return torch.where((backgrounds < 0)[:, None, None, None], nothing, pixels.round())


def picture(scene: Scene, seed: int = 0, *, side: int = SIDE) -> Image.Image:
    """One scene as a PIL picture; the seed decides what the scene leaves open: exact places, sizes and tints."""
    from PIL import Image

    lot = torch.Generator().manual_seed(Random(seed).getrandbits(62))
    pixels = draw(*encode_scenes([scene]), lot, side=side)[0]
    return Image.fromarray(pixels.permute(1, 2, 0).to(torch.uint8).numpy())
