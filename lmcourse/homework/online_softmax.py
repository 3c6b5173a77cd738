"""Exercise 3.3: attention of one query over KV blocks that are seen once, one after another.

The blocks come from an iterator that spoils each block when the next one is asked for, as a small fast memory would
be overwritten. So the softmax has to run along: a peak, a total and a weighted sum.

Lesson: 3 (the kernel)
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from lmcourse.homework.compare import Close
from lmcourse.homework.exercise import Case, Exercise, Mistake

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ONLINE_SOFTMAX", "attend_at_once"]

_TOLERANCE = 1e-4
Block = tuple["Tensor", "Tensor"]


def _tensors(seed: int, lengths: tuple[int, ...], head_dim: int, size: float) -> tuple[Tensor, Tensor, Tensor]:
    """q [head_dim], keys and values [sum of lengths, head_dim]; `size` stretches the scores."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    q, *rest = (torch.randn(n, head_dim, generator=generator) for n in (1, sum(lengths), sum(lengths)))
    return size * q[0], rest[0], rest[1]


class _Blocks:
    """Hands out (keys, values) a block at a time, once; the block before becomes NaN."""

    lends = True  # the grader's process, which gets copies, spoils them likewise

    def __init__(self, keys: Tensor, values: Tensor, lengths: tuple[int, ...]) -> None:
        ends = list(accumulate(lengths))
        self._blocks = iter(
            [(keys[end - n : end], values[end - n : end]) for n, end in zip(lengths, ends, strict=True)]
        )
        self._shown: Block | None = None
        self._text = f"blocks of {', '.join(map(str, lengths))} tokens"

    def __iter__(self) -> Iterator[Block]:
        return self

    def __next__(self) -> Block:
        for tensor in self._shown or ():
            tensor.fill_(math.nan)
        keys, values = next(self._blocks)
        self._shown = keys.clone(), values.clone()
        return self._shown

    def __repr__(self) -> str:
        return self._text


def attend_at_once(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The definition: softmax(keys · q / √head_dim) weighs the values."""
    return (keys @ q / math.sqrt(q.shape[0])).softmax(0) @ values


def _arguments(seed: int, lengths: tuple[int, ...], head_dim: int, size: float) -> tuple[Any, ...]:
    q, keys, values = _tensors(seed, lengths, head_dim, size)
    return q, _Blocks(keys, values, lengths)


def _make_cases(rng: random.Random) -> Iterator[Case]:
    plans: list[tuple[tuple[int, ...], int, float]] = [((4, 4, 4), 8, 3.0), ((5,), 8, 1.0), ((16, 16, 16, 3), 16, 4.0)]
    for _ in range(3):
        length = rng.choice([4, 8])
        plans.append(
            ((*[length] * rng.randint(2, 5), rng.randint(1, length)), rng.choice([4, 16, 32]), rng.uniform(2, 5))
        )
    plans.append(((8, 8, 2), 64, 400.0))  # scores in the thousands: exp overflows unless the peak is taken off
    for lengths, head_dim, size in plans:
        given = (rng.randrange(2**32), lengths, head_dim, size)
        shown = (
            f"q of {head_dim} numbers, blocks of {', '.join(map(str, lengths))} tokens, scores up to about {size:.0f}"
        )
        expected = Close(attend_at_once(*_tensors(*given)), _TOLERANCE)
        yield Case(f"{shown} (seed {given[0]})", partial(_arguments, *given), expected)


def _run(q: Tensor, blocks: Iterator[Block], *, rescale_sum: bool, rescale_total: bool) -> Close:
    peak, total, weighted = -math.inf, 0.0, 0.0 * q
    for keys, values in blocks:
        scores = keys @ q / math.sqrt(q.shape[0])
        higher = max(peak, scores.max().item())
        factor = math.exp(peak - higher)
        weights = (scores - higher).exp()
        total = total * (factor if rescale_total else 1.0) + weights.sum().item()
        weighted = weighted * (factor if rescale_sum else 1.0) + weights @ values
        peak = higher
    return Close(weighted / total, _TOLERANCE)


def _unscaled(q: Tensor, blocks: Iterator[Block]) -> Close:
    return _run(q * math.sqrt(q.shape[0]), blocks, rescale_sum=True, rescale_total=True)


def _mean_of_blocks(q: Tensor, blocks: Iterator[Block]) -> Close:
    import torch

    return Close(torch.stack([attend_at_once(q, *block) for block in blocks]).mean(0), _TOLERANCE)


def _last_block(q: Tensor, blocks: Iterator[Block]) -> Close:
    *_, last = (attend_at_once(q, *block) for block in blocks)
    return Close(last, _TOLERANCE)


def _no_peak(q: Tensor, blocks: Iterator[Block]) -> Close:
    total, weighted = 0.0 * q[0], 0.0 * q
    for keys, values in blocks:
        weights = (keys @ q / math.sqrt(q.shape[0])).exp()
        total, weighted = total + weights.sum(), weighted + weights @ values
    return Close(weighted / total, _TOLERANCE)


def _collects(q: Tensor, blocks: Iterator[Block]) -> Close:
    import torch

    keys, values = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return Close(attend_at_once(q, keys, values), _TOLERANCE)


ONLINE_SOFTMAX = Exercise(
    id="3.3",
    title="Attend block by block",
    signature="attend(q, blocks) → tensor [head_dim]",
    difficulty=3,
    minutes=25,
    hints=(
        "A softmax is a quotient of two sums: exp(score) · value, summed, over exp(score), summed. Both sums can grow "
        "block by block. What makes exp(score) safe, when the largest score is not known before the end?",
        "Subtract the largest score *so far*, and remember it. When a block brings a higher one, both sums that you "
        "have were made with the old peak: multiply them by exp(old peak - new peak).",
        "Start with peak = -inf, total = 0 and weighted = 0. Per block: scores = keys @ q / head_dim ** 0.5; higher = "
        "max(peak, scores.max()); factor = exp(peak - higher); weights = (scores - higher).exp(); both sums become "
        "factor × old + new. At the end weighted / total.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(_unscaled, "the scores are not divided by √head_dim"),
        Mistake(_mean_of_blocks, "a mean over blocks gives each block the same weight, whatever its scores are"),
        Mistake(_last_block, "only the last block is left in the answer; the sums must run over all of them"),
        Mistake(
            partial(_run, rescale_sum=False, rescale_total=False),
            "when a higher peak comes, what was summed before it must shrink by exp(old peak - new peak)",
        ),
        Mistake(
            partial(_run, rescale_sum=False, rescale_total=True),
            "the total is rescaled to the new peak, the weighted sum of values is not",
        ),
        Mistake(
            partial(_run, rescale_sum=True, rescale_total=False),
            "the weighted sum of values is rescaled to the new peak, the total is not",
        ),
        Mistake(_no_peak, "exp of a large score overflows: subtract the peak so far before exp"),
        Mistake(
            _collects, "blocks were kept for later; each is overwritten when the next one comes, so use it at once"
        ),
    ),
)
