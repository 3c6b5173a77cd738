"""Shares: which part of each canonical weight a rank keeps, when several share a model.

    embedding, head               a range of tokens                    rows      zeros at the end where it is uneven
    attention.qkv                 its query heads and their kv heads   rows      few kv heads are kept twice
    attention.output, mlp.down    the features that it has             columns   the bias is rank 0's: sums have it once
    mlp.gate_up, mlp.up           its features, of each half           rows      of every expert
    norms                         all of it

A rank asks for its rows before anything is copied from the file, so that it reads little more than its share. Packed
matrices are regrouped as a whole and cut then.

Lesson: 9 (more than one GPU)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcourse.errors import ConfigError
from lmcourse.layers import Ranks
from lmcourse.spec import ModelSpec

__all__ = ["Share", "find_share"]


@dataclass(frozen=True)
class Share:
    """A part of a weight [rows, columns] or a bias [rows]."""

    rows: Tensor | None = None  # int64, of the whole weight; None: all
    padding: int = 0  # rows of zeros behind them
    column_range: tuple[int, int] | None = None  # (which, of how many equal ranges); None: all
    is_silent: bool = False  # zeros, since another rank adds it

    def cut(self, whole: Tensor) -> Tensor:
        """The part of a whole weight; a copy, unless it is all of it."""
        part = whole if self.rows is None else whole.index_select(0, self.rows.to(whole.device))
        part = part if self.column_range is None else part[:, self.columns(part.shape[1])].contiguous()
        return self.finish(part)

    def columns(self, width: int) -> slice:
        """Which of `width` columns."""
        if self.column_range is None:
            return slice(None)
        number, size = self.column_range
        if width % size:
            raise ConfigError(
                f"{size} ranks cannot share the groups of 4-bit weights evenly",
                expected="tp that divides the groups of every row",
                got=f"{width} groups or words a row, tp={size}",
                where="tp",
                next_step="take fewer ranks, or the model that is not quantised",
            )
        return slice(number * (width // size), (number + 1) * (width // size))

    def finish(self, part: Tensor) -> Tensor:
        """Silence and padding for rows and columns that were picked already."""
        if self.is_silent:
            return torch.zeros_like(part)
        if self.padding:
            part = torch.cat((part, part.new_zeros(self.padding, *part.shape[1:])))
        return part


_ALL = Share()


def find_share(canonical: str, spec: ModelSpec, ranks: Ranks) -> Share:
    """This rank's part of a weight of the whole model, whose spec this is."""
    module, leaf = canonical.rsplit(".", 1)
    parts = module.split(".")
    rule = _RULES.get(".".join(parts[2:]) if parts[0] == "layers" else module)
    return _ALL if ranks.size == 1 or rule is None else rule(spec, ranks, leaf)


def _tokens(spec: ModelSpec, ranks: Ranks, leaf: str) -> Share:
    each = -(-spec.vocab // ranks.size)
    rows = torch.arange(min(ranks.rank * each, spec.vocab), min((ranks.rank + 1) * each, spec.vocab))
    return Share(rows, padding=each - len(rows))


def _heads(spec: ModelSpec, ranks: Ranks, leaf: str) -> Share:
    queries, kept = spec.num_heads // ranks.size, max(1, spec.num_kv_heads // ranks.size)
    first_query, first_kept = ranks.rank * queries, ranks.rank * spec.num_kv_heads // ranks.size
    keys, values = spec.num_heads, spec.num_heads + spec.num_kv_heads
    ranges = (
        (first_query, queries),
        (keys + first_kept, kept),
        (values + first_kept, kept),
    )
    heads = torch.cat([torch.arange(first, first + count) for first, count in ranges])
    return Share((heads[:, None] * spec.head_dim + torch.arange(spec.head_dim)).flatten())


def _features(spec: ModelSpec, ranks: Ranks, leaf: str) -> Share:
    each = spec.intermediate // ranks.size
    return Share(torch.arange(ranks.rank * each, (ranks.rank + 1) * each))


def _two_features(spec: ModelSpec, ranks: Ranks, leaf: str) -> Share:
    rows = _features(spec, ranks, leaf).rows
    assert rows is not None
    return Share(torch.cat((rows, rows + spec.intermediate)))


def _expert_features(spec: ModelSpec, ranks: Ranks, leaf: str) -> Share:
    assert spec.experts is not None
    width = spec.experts.intermediate
    each = width // ranks.size
    halves = torch.arange(2 * spec.experts.total) * width
    return Share((halves[:, None] + torch.arange(ranks.rank * each, (ranks.rank + 1) * each)).flatten())


def _sums(spec: ModelSpec, ranks: Ranks, leaf: str) -> Share:
    if leaf == "bias":
        return Share(is_silent=ranks.rank > 0)
    return Share(column_range=(ranks.rank, ranks.size))


_RULES: Mapping[str, Callable[[ModelSpec, Ranks, str], Share]] = {
    "embedding": _tokens,
    "head": _tokens,
    "attention.qkv": _heads,
    "attention.output": _sums,
    "mlp.gate_up": _two_features,
    "mlp.up": _features,
    "mlp.down": _sums,
    "mlp.experts_gate_up": _expert_features,
    "mlp.experts_down": _sums,
}
