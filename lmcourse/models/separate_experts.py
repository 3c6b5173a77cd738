"""SeparateExperts: Dbrx's stacked tensors, seen as one matrix per expert.

    ffn.experts.mlp.w1 [experts · width, hidden]   ─▶ ffn.experts.mlp.E.w1.weight [width, hidden]     v1 likewise
    ffn.experts.mlp.w2 [experts · width, hidden]   ─▶ ffn.experts.mlp.E.w2.weight [hidden, width]
    norm_attn_norm.attn.Wqkv [q + k + v, hidden]   ─▶ norm_attn_norm.attn.{q,k,v}_proj.weight

Four-bit layouts pack matrices, and a stack is none. Dbrx has no AWQ layout of its own (AutoAWQ never had the family);
these names are those of the converted checkpoints that were published with GPTQ weights. Loading knows both.

Lesson: 8 (a mixture of experts)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from lmcourse.models.checkpoint import TensorSource
from lmcourse.models.layouts import qkv_rows
from lmcourse.models.moe_rules import DBRX_SEPARATE_RULES, DBRX_STACK
from lmcourse.models.safetensors_file import TensorInfo
from lmcourse.models.weight_stream import WeightStream
from lmcourse.spec import ModelSpec

__all__ = ["SeparateExperts", "separate_experts"]

_QKV = "norm_attn_norm.attn.Wqkv.weight"
Cut = Callable[[Tensor], Tensor]


def separate_experts(weights: WeightStream) -> WeightStream:
    """The same model with a stored matrix for each expert; itself where that is so already."""
    if not any(rule.bare for rule in weights.rules):
        return weights
    rules = tuple(rule.expanded(weights.spec) for rule in DBRX_SEPARATE_RULES)
    return replace(weights, checkpoint=SeparateExperts(weights.checkpoint, weights.spec), rules=rules)


class SeparateExperts:
    """A TensorSource over another; what was read last is kept, for the next expert lies in the same stack."""

    def __init__(self, source: TensorSource, spec: ModelSpec) -> None:
        self.folder, self._source, self._spec = source.folder, source, spec
        self._cuts: dict[str, tuple[str, Cut]] = {}
        self._last: dict[str, Tensor] = {}
        self.tensors: dict[str, TensorInfo] = {}
        for name, info in source.tensors.items():
            parts = self._parts(name)
            if not parts:
                self.tensors[name] = info
            for part, (shape, cut) in parts.items():
                size = info.num_bytes // (info.shape[0] * info.shape[1])
                self.tensors[part] = replace(info, name=part, shape=shape, num_bytes=shape[0] * shape[1] * size)
                self._cuts[part] = name, cut

    def _parts(self, name: str) -> dict[str, tuple[tuple[int, int], Cut]]:
        """What a stored tensor is cut into: name → (shape, how)."""
        spec = self._spec
        if name.endswith(_QKV):
            stem, rows = name.removesuffix("Wqkv.weight"), qkv_rows(spec)
            starts = [sum(rows[:i]) for i in range(3)]
            return {
                f"{stem}{part}_proj.weight": ((count, spec.hidden), _rows(start, count))
                for part, start, count in zip("qkv", starts, rows, strict=True)
            }
        stem, leaf = name.rsplit(".", 1)
        if not stem.endswith(DBRX_STACK) or spec.experts is None:
            return {}
        width = spec.experts.intermediate
        shape = (spec.hidden, width) if leaf == "w2" else (width, spec.hidden)
        return {
            f"{stem}.{e}.{leaf}.weight": (shape, _rows(e * width, width, turned=leaf == "w2"))
            for e in range(spec.experts.count)
        }

    @property
    def num_bytes(self) -> int:
        """Of all tensors together."""
        return self._source.num_bytes

    def read(self, name: str) -> Tensor:
        """As Checkpoint.read."""
        if name not in self._cuts:
            return self._source.read(name)
        stacked, cut = self._cuts[name]
        if stacked not in self._last:
            kept = {other: tensor for other, tensor in self._last.items() if _layer(other) == _layer(stacked)}
            self._last = kept | {stacked: self._source.read(stacked)}
        return cut(self._last[stacked])

    def read_words(self, name: str) -> Tensor:
        """As Checkpoint.read_words."""
        return self._source.read_words(name)


def _rows(start: int, count: int, *, turned: bool = False) -> Cut:
    def cut(stacked: Tensor) -> Tensor:
        rows = stacked[start : start + count]
        return rows.t().contiguous() if turned else rows

    return cut


def _layer(name: str) -> list[str]:
    return name.split(".")[:3]
