"""Exercise 6.2: the grid of tiles on which most of a picture remains (LLaVA-1.6's anyres).

    1200 × 600 on 1344 × 672   all of its 720,000 pixels remain; enlarging adds none
    1200 × 600 on  672 × 672   scaled to 672 × 336: 225,792 remain, half of the grid is black

Cases are far from rounding: the best grid is the same whether one counts in floats or in fractions.

Lesson: 6 (tiles for detail)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["TILE_GRID", "best_grid"]

_Grid = tuple[int, int]
_TILE = 336


def _remaining(width: int, height: int, grid: _Grid) -> int:
    """Pixels of the scaled picture, at most those it has."""
    scale = min(Fraction(grid[0], width), Fraction(grid[1], height))
    return min(int(width * scale) * int(height * scale), width * height)


def best_grid(width: int, height: int, grids: list[_Grid]) -> _Grid:
    """The grid that keeps most pixels; of equal ones the smallest; of equally small ones the first."""
    return max(grids, key=lambda grid: (_remaining(width, height, grid), -grid[0] * grid[1]))


def _is_clear(width: int, height: int, grids: list[_Grid]) -> bool:
    """Whether rounding cannot decide."""
    kept = sorted((_remaining(width, height, grid) for grid in grids), reverse=True)
    return all(a - b > 4 * (width + height) or a == b == width * height for a, b in pairwise(kept))


def _by(rank: Callable[[int, int, _Grid], tuple[Fraction | int, ...]]) -> Callable[[int, int, list[_Grid]], _Grid]:
    return lambda width, height, grids: max(grids, key=lambda grid: rank(width, height, grid))


def _enlarged(width: int, height: int, grid: _Grid) -> tuple[Fraction | int, ...]:
    scale = min(Fraction(grid[0], width), Fraction(grid[1], height))
    return (int(width * scale) * int(height * scale), -grid[0] * grid[1])


def _least_black(width: int, height: int, grid: _Grid) -> tuple[Fraction | int, ...]:
    return (_remaining(width, height, grid) - grid[0] * grid[1],)


def _nearest_shape(width: int, height: int, grid: _Grid) -> tuple[Fraction | int, ...]:
    return (-abs(Fraction(grid[0], grid[1]) - Fraction(width, height)),)


def _covered(width: int, height: int, grid: _Grid) -> tuple[Fraction | int, ...]:
    scale = max(Fraction(grid[0], width), Fraction(grid[1], height))
    return (min(int(width * scale) * int(height * scale), width * height), -grid[0] * grid[1])


def _turned(width: int, height: int, grids: list[_Grid]) -> _Grid:
    return best_grid(height, width, grids)


def _first_of_equals(width: int, height: int, grid: _Grid) -> tuple[Fraction | int, ...]:
    return (_remaining(width, height, grid),)


_MISTAKES = (
    Mistake(_by(_enlarged), "a picture that is made larger gains no detail: count at most width × height pixels"),
    Mistake(_by(_least_black), "that is the grid with the least black; what remains of the picture comes first"),
    Mistake(_by(_nearest_shape), "the nearest shape is not enough: a long thin grid may throw most pixels away"),
    Mistake(_by(_covered), "scaled like that the picture hangs over the grid; it must fit: the smaller of two ratios"),
    Mistake(_turned, "width and height are exchanged"),
    Mistake(_by(_first_of_equals), "of grids that keep equally much, take the smallest: every tile costs tokens"),
)


def _make_cases(rng: random.Random) -> Iterator[Case]:
    """Two cases for each mistake, in which it errs and no two mistakes err alike."""
    for mistake in (*_MISTAKES, *_MISTAKES):
        while True:
            shapes = rng.sample([(1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (3, 2), (2, 3), (4, 1)], 4)
            grids = [(across * _TILE, down * _TILE) for across, down in shapes]
            width, height = (rng.randrange(100, rng.choice((500, 2400))) for _ in range(2))
            best = best_grid(width, height, grids)
            wrong = [given for other in _MISTAKES if (given := other.answer(width, height, grids)) != best]
            errs = mistake.answer(width, height, grids) != best
            if errs and len(set(wrong)) == len(wrong) and _is_clear(width, height, grids):
                break
        yield _case(width, height, grids)


def _case(width: int, height: int, grids: list[_Grid]) -> Case:
    shown = f"width={width}, height={height}, grids={grids}"
    return Case(shown, lambda: (width, height, list(grids)), best_grid(width, height, grids))


TILE_GRID = Exercise(
    id="6.2",
    title="Which grid of tiles?",
    signature="choose_grid(width, height, grids) → grid",
    difficulty=2,
    minutes=20,
    hints=(
        "For one grid: by which factor must the picture be scaled so that it just fits? It must fit both ways.",
        "The factor is min(grid width / width, grid height / height). How many pixels has the scaled picture, and why "
        "can it never be worth more than width × height?",
        "max(grids, key=…) with a key of two numbers: the pixels that remain, min(scaled pixels, width * height), and "
        "then minus the grid's own area. max() keeps the first of equal ones.",
    ),
    make_cases=_make_cases,
    mistakes=_MISTAKES,
)
