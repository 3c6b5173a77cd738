"""How stored tensors become canonical weights: per family, one rule per module of the decoder (family_rules.py).

A rule stacks the rows of its sources in order, and may then put the rows in another order:

    llama       q_proj ┐                     internlm2    wqkv, grouped by kv head
                k_proj ├ stacked → [Q|K|V]                [q q k v | q q k v | …] → [Q|K|V]
                v_proj ┘

and, rarely, compute other values from them. "{n}" stands for the layer's number, "{e}" for each expert's in turn;
".weight" or ".bias" is added to both sides. Rules of packed weights work on their rows in the same way.

Lesson: 2 (conversion, tensor by tensor)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
    source_shapes: Callable[[ModelSpec], tuple[tuple[int, int], ...]] | None = None  # where they differ in width too
    join: Callable[[Sequence[Tensor], ModelSpec], Tensor] | None = None  # None: rows one below the other
    arrange: Callable[[Tensor, ModelSpec], Tensor] | None = None  # the same rows in another order
    compute: Callable[[Tensor], Tensor] | None = None  # other values: float32 in, float32 out
    applies: Callable[[ModelSpec], bool] = lambda spec: True  # whether a model of this spec is stored so
    bare: bool = False  # the stored weight has no ".weight" after its name

    def expanded(self, spec: ModelSpec) -> TensorRule:
        """The rule with its sources for every expert, in the experts' order; other sources come last."""
        if spec.experts is None or not any("{e}" in source for source in self.sources):
            return self
        of_each = [source for source in self.sources if "{e}" in source]
        numbered = [source.replace("{e}", str(e)) for e in range(spec.experts.count) for source in of_each]
        return replace(self, sources=(*numbered, *(source for source in self.sources if "{e}" not in source)))

    def shapes(self, spec: ModelSpec, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Of each source, for a canonical weight of this shape."""
        if self.source_shapes and len(shape) == 2:
            return self.source_shapes(spec)
        rows = self.source_rows(spec) if self.source_rows else shape[:1]
        return tuple((count, *shape[1:]) for count in rows)

    def assemble(self, parts: Sequence[Tensor], spec: ModelSpec) -> Tensor:
        """The canonical rows, from those of the sources."""
        if self.join is not None:
            return self.join(parts, spec)
        whole = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        return self.arrange(whole, spec) if self.arrange else whole


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
    ending = "" if rule.bare and leaf == "weight" else f".{leaf}"
    return StoredTensor(canonical, tuple(source.replace("{n}", number) + ending for source in rule.sources), rule)


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
