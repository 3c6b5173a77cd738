"""Exercise 4.1: find the scales that keep the outputs of a rounded matrix nearest to the exact ones.

    for each ratio r:   s = mean|x|^r,  centred on 1      error of  (round(W·s) / s) · x  against  W · x

The reference goes over the data sample by sample, apart from quant/awq.py, so that the two can be compared.

Lesson: 4 (AWQ from scratch)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lmcourse.homework.exercise import Case, Exercise, Mistake

if TYPE_CHECKING:
    import torch

__all__ = ["SCALE_SEARCH", "best_ratio"]

_RATIOS = tuple(i / 10 for i in range(10))
Round = Callable[["torch.Tensor"], "torch.Tensor"]


def best_ratio(weight: torch.Tensor, x: torch.Tensor, round_weight: Round, ratios: tuple[float, ...]) -> float:
    """The ratio whose scales give the least squared error of the outputs; the first of equals."""
    errors = [_error(weight, x, round_weight, ratio) for ratio in ratios]
    return ratios[errors.index(min(errors))]


def _error(weight: torch.Tensor, x: torch.Tensor, round_weight: Round, ratio: float) -> float:
    scale = _scale(x, ratio)
    rounded = round_weight(weight * scale) / scale
    return sum(float(((rounded - weight) @ sample).square().sum()) for sample in x)


def _scale(x: torch.Tensor, ratio: float) -> torch.Tensor:
    scale = x.abs().mean(0).clamp(min=1e-4) ** ratio
    return scale / (scale.max() * scale.min()).sqrt()


def _make_cases(rng: random.Random) -> Iterator[Case]:
    for loud in (1.0, 8.0, 30.0, 100.0, 30.0, 10.0):
        yield _case(rng.randrange(2**31), loud, rng.randrange(6, 20))


def _case(seed: int, loud: float, rows: int) -> Case:
    import torch

    generator = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(rows, 32, generator=generator), torch.randn(40, 32, generator=generator)
    x[:, :3] *= loud
    shown = f"weight [{rows}, 32], x [40, 32] with three inputs {loud:g} times as loud, ratios 0, 0.1 … 0.9"
    expected = best_ratio(weight, x, _round, _RATIOS)
    return Case(shown, lambda: (weight.clone(), x.clone(), _round, _RATIOS), expected)


def _round(weight: torch.Tensor) -> torch.Tensor:
    from lmcourse.quant import QuantSettings, fake_quantise, fit_grid

    settings = QuantSettings(3, 16)
    return fake_quantise(weight, fit_grid(weight, settings), settings)


def _of_weights(weight: torch.Tensor, x: torch.Tensor, round_weight: Round, ratios: tuple[float, ...]) -> float:
    def error(ratio: float) -> float:
        scale = _scale(x, ratio)
        return float((round_weight(weight * scale) / scale - weight).square().sum())

    return min(ratios, key=error)


def _place(weight: torch.Tensor, x: torch.Tensor, round_weight: Round, ratios: tuple[float, ...]) -> int:
    return list(ratios).index(best_ratio(weight, x, round_weight, ratios))


SCALE_SEARCH = Exercise(
    id="4.1",
    title="Search the scales",
    signature="best_ratio(weight, x, round_weight, ratios) → the best of ratios",
    difficulty=2,
    minutes=25,
    hints=(
        "Try every ratio and keep the one with the smallest error. The error that counts is that of the outputs.",
        "For a ratio: scale = x.abs().mean(0) ** ratio, centred by / sqrt(max · min). The matrix that a scaled model "
        "uses is round_weight(weight * scale) / scale. Compare its outputs with those of weight.",
        "error = (((round_weight(weight * scale) / scale - weight) @ x.T) ** 2).sum(); return "
        "min(ratios, key=...) over that.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(_of_weights, "the error of the weights was measured; loud inputs make some of them matter more"),
        Mistake(_place, "that is the place of the best ratio in the list; return the ratio"),
    ),
)
