"""Exercise 6.1: cut a picture into patches, as a vision transformer reads it.

    [3, 4, 6], patch 2      patch 0 │ 1 │ 2       each patch as one row: its red values, then green, then blue,
                            ────────┼───┼───      every colour row by row
                            patch 3 │ 4 │ 5

The reference copies patch by patch with plain slices.

Lesson: 6 (from pixels to patches)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lmcourse.homework.exercise import Case, Exercise, Mistake

if TYPE_CHECKING:
    import torch

__all__ = ["PATCHES", "cut_patches"]


def cut_patches(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """[3, height, width] → [patches, 3 · patch · patch]."""
    import torch

    _, height, width = pixels.shape
    corners = [(y, x) for y in range(0, height, patch) for x in range(0, width, patch)]
    return torch.stack([pixels[:, y : y + patch, x : x + patch].reshape(-1) for y, x in corners])


def _make_cases(rng: random.Random) -> Iterator[Case]:
    for across_more in (1, -1, 0, 2, -2, 0):
        down, patch = rng.randrange(3, 6), rng.randrange(2, 7)
        yield _make_case(rng, (3, down * patch, (down + across_more) * patch), patch)


def _make_case(rng: random.Random, shape: tuple[int, int, int], patch: int) -> Case:
    import torch

    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(rng.randrange(2**32)))
    shown = f"pixels of shape {list(shape)}, patch={patch}"
    return Case(shown, lambda: (pixels.clone(), patch), cut_patches(pixels, patch))


def _colours_last(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    import einops

    return einops.rearrange(pixels, "c (a p) (b q) -> (a b) (p q c)", p=patch, q=patch)


def _down_first(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    import einops

    return einops.rearrange(pixels, "c (a p) (b q) -> (b a) (c p q)", p=patch, q=patch)


def _turned(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    import einops

    return einops.rearrange(pixels, "c (a p) (b q) -> (a b) (c q p)", p=patch, q=patch)


def _reshaped(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    return pixels.reshape(-1, 3 * patch * patch)


def _kept_apart(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    return cut_patches(pixels, patch).reshape(-1, 3, patch, patch)


PATCHES = Exercise(
    id="6.1",
    title="Cut a picture into words",
    signature="patchify(pixels, patch) → rows",
    difficulty=2,
    minutes=20,
    hints=(
        "Count first: how many patches are there down, how many across, and how many numbers does one patch hold?",
        "Split both picture axes: view the picture as [3, down, patch, across, patch]. Which of these five axes tell "
        "the patches apart, and which lie inside a patch?",
        "Bring the axes into the order down, across, colour, row in the patch, column in the patch "
        "(permute(1, 3, 0, 2, 4)), then reshape to [down * across, 3 * patch * patch].",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(_colours_last, "inside a patch the colours come first: all its red values, then green, then blue"),
        Mistake(_down_first, "the patches are read column by column; read them row by row, as text"),
        Mistake(_turned, "each patch lies on its side: rows and columns inside it are exchanged"),
        Mistake(_reshaped, "a plain reshape cuts strips, not squares: split both picture axes, then move them"),
        Mistake(_kept_apart, "each patch is one row of numbers: flatten colour, row and column"),
    ),
)
