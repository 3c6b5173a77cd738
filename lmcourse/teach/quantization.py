"""Rounding made visible: what bits and group size do to a matrix, and where the bits of a word lie.

    explore_rounding(weight)     a slider over bits and group sizes: error histogram, size, worst case
    packing_picture(order)       the eight numbers of a word, bit by bit

Both are shells over a table that `rounding_table` and plain arithmetic give, so each can be tested without a picture.

Lesson: 4 (round to nearest by hand, packing)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Rectangle

from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import HATCHES, TINTS, new_axes
from lmcourse.teach.widgets import Stepper

if TYPE_CHECKING:
    import torch

__all__ = ["RoundingRow", "explore_rounding", "packing_picture", "round_at", "rounding_drawing"]

_BINS = 61


class RoundingRow:
    """One choice of bits and group size, and what it does to a matrix."""

    def __init__(self, bits: int, group_size: int, errors: np.ndarray, weight: np.ndarray) -> None:
        self.bits, self.group_size, self.errors = bits, group_size, errors
        self.relative_error = float(np.sqrt(np.mean(errors**2) / np.mean(weight**2)))
        self.bits_per_weight = bits + (16 + bits) / group_size  # a float16 scale and a zero for each group

    def __str__(self) -> str:
        return (
            f"{self.bits} bits in groups of {self.group_size}: {self.bits_per_weight:.2f} bits a weight, "
            f"{16 / self.bits_per_weight:.1f} times smaller than float16, "
            f"relative error {100 * self.relative_error:.2f} %"
        )


def round_at(weight: torch.Tensor, bits: int, group_size: int) -> RoundingRow:
    """Round a matrix [rows, columns] to nearest."""
    from lmcourse.quant import QuantSettings, fake_quantise, fit_grid

    settings = QuantSettings(bits, group_size)
    exact = weight.float()
    errors = fake_quantise(exact, fit_grid(exact, settings), settings) - exact
    return RoundingRow(bits, group_size, errors.flatten().numpy(), exact.flatten().numpy())


def rounding_drawing(row: RoundingRow, reach: float) -> Drawing:
    """Its error histogram between ± reach, so that several can be compared."""
    figure, axes = new_axes(8.0, 2.8)
    edges = np.linspace(-reach, reach, _BINS + 1)
    counts, _ = np.histogram(np.clip(row.errors, -reach, reach), bins=edges)
    axes.stairs(counts / row.errors.size, edges, color="black", fill=True, fc=TINTS[row.bits % len(TINTS)], ec="black",
                hatch=HATCHES[row.bits % len(HATCHES)])  # fmt: skip
    axes.set_ylim(1e-6, 1)
    axes.set_yscale("log")
    axes.set_xlabel("rounded minus exact")
    axes.set_ylabel("share of weights")
    axes.set_title(str(row), loc="left", fontsize="small")
    return Drawing(figure, f"Rounding errors with {row}. The largest is {np.abs(row.errors).max():.2g}.")


def explore_rounding(
    weight: torch.Tensor, *, bits: Sequence[int] = (2, 3, 4, 8), group_sizes: Sequence[int] = (32, 128)
) -> Stepper[str]:
    """A slider over all combinations, coarse to fine; starts at 4 bits and the largest group."""
    rows = {f"{b} bits, groups of {g}": round_at(weight, b, g) for b in bits for g in sorted(group_sizes, reverse=True)}
    if not rows:
        raise ConfigError("there is nothing to choose from", expected="bits and group sizes", got=(bits, group_sizes))
    reach = float(np.quantile(np.abs(next(iter(rows.values())).errors), 0.999))
    first = f"4 bits, groups of {max(group_sizes)}"
    start = first if first in rows else next(iter(rows))
    return Stepper(lambda name: rounding_drawing(rows[name], reach), tuple(rows), label="stored as", start=start)


def packing_picture(order: Sequence[int], *, title: str) -> Drawing:
    """order[i] is which of eight numbers lies in bits 4·i to 4·i + 3."""
    if sorted(order) != list(range(8)):
        raise ConfigError("an order names each of eight numbers once", expected="a permutation of 0 to 7", got=order)
    figure, axes = new_axes(8.0, 1.4)
    axes.set_axis_off()
    for nibble, number in enumerate(order):
        left = 28 - 4 * nibble  # the highest bits are drawn on the left
        axes.add_patch(_box(left, TINTS[number % len(TINTS)], HATCHES[number % 2]))
        axes.text(left + 2, 0.5, f"w{number}", ha="center", va="center", fontsize=11)
        axes.text(left + 2, -0.25, f"{4 * nibble + 3}…{4 * nibble}", ha="center", va="center", fontsize=7)
    axes.set_xlim(-0.5, 32.5)
    axes.set_ylim(-0.6, 1.1)
    axes.set_title(title, loc="left", fontsize="medium")
    places = ", ".join(f"bits {4 * i} to {4 * i + 3} hold number {number}" for i, number in enumerate(order))
    return Drawing(figure, f"{title}: {places}.")


def _box(left: float, colour: str, hatch: str) -> Rectangle:
    return Rectangle((left, 0), 4, 1, fc=colour, ec="black", hatch=hatch, lw=1)
