"""How stored tensors become canonical weights: per family, one rule per module of the decoder (family_rules.py).

A rule stacks the rows of its sources in order, and may then put the rows in another order:

    llama       q_proj ┐                     internlm2    wqkv, grouped by kv head
                k_proj ├ stacked → [Q|K|V]                [q q k v | q q k v | …] → [Q|K|V]
                v_proj ┘

and, rarely, compute other values from them. "{n}" stands for the layer's number; ".weight" or ".bias" is added to both
sides. Rules of packed weights work on their rows in the same way.

Lesson: 2 (conversion, tensor by tensor)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from lmcourse.spec import ModelSpec

__all__ = ["StoredTensor", "TensorRule", "gate_up_rows", "pair_halves", "qkv_rows", "stored_tensors", "ungroup_qkv"]


@dataclass(frozen=True)
class TensorRule:
    """Where one canonical module's weight and bias come from."""

    module: str
    sources: tuple[str, ...]
    what: str = "renamed"  # in words, for people who watch a conversion
    source_rows: Callable[[ModelSpec], tuple[int, ...]] | None = None  # None: one source holds all rows
    arrange: Callable[[Tensor, ModelSpec], Tensor] | None = None  # the same rows in another order
    compute: Callable[[Tensor], Tensor] | None = None  # other values: float32 in, float32 out
    applies: Callable[[ModelSpec], bool] = lambda spec: True  # whether a model of this spec is stored so


@dataclass(frozen=True)
class StoredTensor:
    """One canonical tensor and the stored ones that it is made of."""

    name: str
    sources: tuple[str, ...]
    rule: TensorRule


def stored_tensors(rules: tuple[TensorRule, ...], canonical: str) -> StoredTensor:
    """The rule of a canonical tensor, with the layer's number and the leaf (weight or bias) filled in."""
    module, leaf = canonical.rsplit(".", 1)
    parts = module.split(".")
    number = parts[1] if parts[0] == "layers" else ""
    pattern = ".".join(["layers", "{n}", *parts[2:]]) if number else module
    rule = next(rule for rule in rules if rule.module == pattern)
    return StoredTensor(canonical, tuple(f"{source.replace('{n}', number)}.{leaf}" for source in rule.sources), rule)


def qkv_rows(spec: ModelSpec) -> tuple[int, ...]:
    """Of separate q, k and v."""
    return tuple(heads * spec.head_dim for heads in (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads))


def gate_up_rows(spec: ModelSpec) -> tuple[int, ...]:
    """Of separate gate and up."""
    return (spec.intermediate, spec.intermediate)


def ungroup_qkv(stored: Tensor, spec: ModelSpec) -> Tensor:
    """[q … q k v] per kv head → [all q | all k | all v]; works for a weight's rows and for a bias."""
    groups = rearrange(stored, "(kv part d) ... -> kv part d ...", kv=spec.num_kv_heads, d=spec.head_dim)
    queries, keys, values = torch.split(groups, [spec.queries_per_kv, 1, 1], dim=1)
    return torch.cat([rearrange(part, "kv part d ... -> (kv part d) ...") for part in (queries, keys, values)])


def pair_halves(stored: Tensor, spec: ModelSpec) -> Tensor:
    """[Q | K | V] whose pairs lie side by side in the first features of a head → pairs half a head apart.

        stored      a0 b0 a1 b1 │ c0 c1 c2 c3         a, b: the pairs that turn; c: what does not turn
        canonical   a0 a1 c0 c1 │ b0 b1 c2 c3

    Scores are sums over a head's features, in whatever order queries and keys agree on.
    """
    turned, half = spec.rotary.turned(spec.head_dim), spec.head_dim // 2
    still = torch.arange(turned, spec.head_dim)
    order = torch.cat((torch.arange(0, turned, 2), still[: half - turned // 2]))
    order = torch.cat((order, torch.arange(1, turned, 2), still[half - turned // 2 :])).to(stored.device)
    heads = rearrange(stored, "(heads d) ... -> heads d ...", d=spec.head_dim)
    turning = heads[: spec.num_heads + spec.num_kv_heads].index_select(1, order)
    return torch.cat((turning, heads[spec.num_heads + spec.num_kv_heads :])).flatten(0, 1)
