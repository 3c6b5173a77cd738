"""Exercise 4.3: multiply by a packed matrix, a tile of columns at a time, as a kernel under the interpreter does.

    for each tile of k:   words → q → (q − zero) · scale → times x[k] → add

The reference unpacks number by number, apart from kernels/packed.py, so that the two can be compared.

Lesson: 4 (a dequantising product)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from lmcourse.homework.compare import Close
from lmcourse.homework.exercise import Case, Exercise, Mistake

if TYPE_CHECKING:
    import torch

__all__ = ["PACKED_PRODUCT", "product_by_number"]

_TOLERANCE = 1e-4
_SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)


def product_by_number(
    x: torch.Tensor, words: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, group_size: int
) -> torch.Tensor:
    """x [k], words [n, k / 8], scales and zeros [n, k / group_size] → [n]."""
    import torch

    return torch.tensor(
        [
            sum(
                ((int(words[n, k // 8]) >> _SHIFTS[k % 8] & 15) - float(zeros[n, k // group_size]))
                * float(scales[n, k // group_size])
                * float(x[k])
                for k in range(len(x))
            )
            for n in range(len(words))
        ]
    )


def _make_cases(rng: random.Random) -> Iterator[Case]:
    for groups, group_size in ((1, 32), (4, 16), (3, 32), (2, 64)):
        yield _case(rng.randrange(2**31), rng.randrange(2, 10), groups * group_size, group_size)


def _case(seed: int, rows: int, columns: int, group_size: int) -> Case:
    import torch

    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(-(2**31), 2**31, (rows, columns // 8), generator=generator).to(torch.int32)
    scales = torch.rand(rows, columns // group_size, generator=generator)
    zeros = torch.randint(0, 16, (rows, columns // group_size), generator=generator).float()
    x = torch.randn(columns, generator=generator)
    shown = f"x [{columns}], words [{rows}, {columns // 8}], groups of {group_size}"
    expected = Close(product_by_number(x, words, scales, zeros, group_size), _TOLERANCE)
    return Case(shown, lambda: (x.clone(), words.clone(), scales.clone(), zeros.clone(), group_size), expected)


def _unpacked(words: torch.Tensor, shifts: tuple[int, ...], mask: int) -> torch.Tensor:
    import torch

    return torch.stack([words >> shift & mask for shift in shifts], dim=-1).flatten(1).float()


def _with(shifts: tuple[int, ...], *, zero_first: bool, use_zero: bool = True, mask: int = 15) -> Callable[..., Any]:
    def answer(
        x: torch.Tensor, words: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, group_size: int
    ) -> Close:
        scale = scales.repeat_interleave(group_size, 1)
        zero = zeros.repeat_interleave(group_size, 1) * use_zero
        q = _unpacked(words, shifts, mask)
        weight = (q - zero) * scale if zero_first else q * scale - zero
        return Close(weight @ x, _TOLERANCE)

    return answer


PACKED_PRODUCT = Exercise(
    id="4.3",
    title="A product that unpacks as it goes",
    signature="packed_product(x, words, scales, zeros, group_size) → [n]",
    difficulty=3,
    minutes=35,
    hints=(
        "First get q out of the words: column k of row n lies in word k // 8, at bits SHIFTS[k % 8] and up.",
        "(words >> shift) & 15 for each of the eight shifts gives eight matrices; torch.stack(..., dim=-1).flatten(1) "
        "puts the columns in order. Scales and zeros belong to groups of columns: repeat_interleave(group_size, 1).",
        "weight = (q - zeros.repeat_interleave(group_size, 1)) * scales.repeat_interleave(group_size, 1); "
        "return weight @ x.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(
            _with((0, 4, 8, 12, 16, 20, 24, 28), zero_first=True),
            "the nibbles were taken in plain order; in the kernel's words neighbours lie 16 bits apart",
        ),
        Mistake(
            _with((0, 8, 16, 24, 4, 12, 20, 28), zero_first=True),
            "that is the order of checkpoints; the kernel's words have shifts 0, 16, 4, 20, 8, 24, 12, 28",
        ),
        Mistake(_with(_SHIFTS, zero_first=False), "the zero is a level: subtract it before the scale"),
        Mistake(
            _with(_SHIFTS, zero_first=True, mask=-1), "the word's other numbers are still above these four bits: & 15"
        ),
        Mistake(_with(_SHIFTS, zero_first=True, use_zero=False), "the zeros were left out"),
    ),
)
