"""Exercise 2.1: take InternLM2's fused wqkv apart into the q, k and v that the engine stores.

    wqkv rows, two key/value heads with two query heads each        q        k    v
    ┌────┬────┬────┬────┬────┬────┬────┬────┐                       q0 q1    k0   v0
    │ q0 │ q1 │ k0 │ v0 │ q2 │ q3 │ k1 │ v1 │   each head_dim high  q2 q3    k1   v1
    └────┴────┴────┴────┴────┴────┴────┴────┘

The reference copies head by head with plain slices, apart from models/convert.py, so that the two can be compared.

Lesson: 2 (what conversion does to a tensor)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lmcourse.homework.exercise import Case, Exercise, Mistake

if TYPE_CHECKING:
    import torch

__all__ = ["WQKV", "split_by_heads"]

_Parts = tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]


def split_by_heads(wqkv: torch.Tensor, num_heads: int, num_kv_heads: int) -> _Parts:
    """[(num_heads + 2·num_kv_heads)·head_dim, hidden] → q, k, v, each with its heads in order."""
    import torch

    heads = torch.split(wqkv, wqkv.shape[0] // (num_heads + 2 * num_kv_heads))
    width = num_heads // num_kv_heads + 2
    groups = [heads[n : n + width] for n in range(0, len(heads), width)]
    q = torch.cat([head for group in groups for head in group[:-2]])
    return q, torch.cat([group[-2] for group in groups]), torch.cat([group[-1] for group in groups])


def _make_cases(rng: random.Random) -> Iterator[Case]:
    for num_kv_heads, queries_per_kv in ((2, 2), (8, 2), (1, 4), (4, 1), (3, 5), (1, 1)):
        num_heads, head_dim = num_kv_heads * queries_per_kv, rng.choice([2, 4, 16])
        yield _make_case(rng, num_heads, num_kv_heads, head_dim)


def _make_case(rng: random.Random, num_heads: int, num_kv_heads: int, head_dim: int) -> Case:
    import torch

    hidden = rng.choice([7, 24, 33])
    rows = (num_heads + 2 * num_kv_heads) * head_dim
    wqkv = torch.randn(rows, hidden, generator=torch.Generator().manual_seed(rng.randrange(2**32)))
    shown = f"wqkv of shape [{rows}, {hidden}], num_heads={num_heads}, num_kv_heads={num_kv_heads}"
    expected = split_by_heads(wqkv, num_heads, num_kv_heads)
    return Case(shown, lambda: (wqkv.clone(), num_heads, num_kv_heads), expected)


def _not_interleaved(wqkv: torch.Tensor, num_heads: int, num_kv_heads: int) -> _Parts:
    head_dim = wqkv.shape[0] // (num_heads + 2 * num_kv_heads)
    k_from, v_from = num_heads * head_dim, (num_heads + num_kv_heads) * head_dim
    return wqkv[:k_from], wqkv[k_from:v_from], wqkv[v_from:]


def _swapped(wqkv: torch.Tensor, num_heads: int, num_kv_heads: int) -> _Parts:
    q, k, v = split_by_heads(wqkv, num_heads, num_kv_heads)
    return q, v, k


def _queries_across(wqkv: torch.Tensor, num_heads: int, num_kv_heads: int) -> _Parts:
    import einops

    q, k, v = split_by_heads(wqkv, num_heads, num_kv_heads)
    return einops.rearrange(q, "(kv j d) h -> (j kv d) h", kv=num_kv_heads, j=num_heads // num_kv_heads), k, v


def _heads_kept_apart(wqkv: torch.Tensor, num_heads: int, num_kv_heads: int) -> _Parts:
    q, k, v = split_by_heads(wqkv, num_heads, num_kv_heads)
    hidden = wqkv.shape[1]
    return q.reshape(num_heads, -1, hidden), k.reshape(num_kv_heads, -1, hidden), v.reshape(num_kv_heads, -1, hidden)


WQKV = Exercise(
    id="2.1",
    title="Put the heads in order",
    signature="split_wqkv(wqkv, num_heads, num_kv_heads) → (q, k, v)",
    difficulty=2,
    minutes=20,
    hints=(
        "The rows of wqkv come in num_kv_heads equal groups, one for each key/value head. Draw one group: which heads "
        "lie in it, and in which order?",
        "Give the row axis its three names: (num_kv_heads, queries_per_kv + 2, head_dim). In the middle axis the "
        "first queries_per_kv entries are query heads, the next is the key head, the last the value head. Cut there, "
        "then fold each part back to two dimensions.",
        "einops does it in one line each: rearrange(wqkv, '(kv g d) h -> kv g d h', kv=num_kv_heads, g=num_heads // "
        "num_kv_heads + 2), then slice axis 1 with [:, :-2], [:, -2] and [:, -1], and rearrange each part back so "
        "that its rows are heads × head_dim.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(
            _not_interleaved,
            "the rows were cut into q, k, v from top to bottom; they are interleaved by key/value head",
        ),
        Mistake(_swapped, "k and v are exchanged: in each group the key head comes before the value head"),
        Mistake(_queries_across, "the query heads are in another order: keep the heads of one group together"),
        Mistake(
            _heads_kept_apart, "the values are right; fold heads and head_dim back into one row axis, [rows, hidden]"
        ),
    ),
)
