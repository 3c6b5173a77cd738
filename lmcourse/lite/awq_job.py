"""AwqJob: what auto_awq is asked for, and whether a model can be made small like that.

Lesson: 4 (quantise tiny-chat)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from lmcourse.errors import ConfigError
from lmcourse.lite.methods import SMOOTH, Method
from lmcourse.models import WeightStream, stored_tensors
from lmcourse.quant import QuantSettings
from lmcourse.spec import ModelSpec

__all__ = ["AwqJob", "check_head", "check_shapes"]


@dataclass(frozen=True)
class AwqJob:
    """What auto_awq is asked for; defaults are LMDeploy 0.3.0's, but for the bundled text."""

    calib_dataset: str = "lmcourse"
    calib_samples: int = 128
    calib_seqlen: int = 2048
    batch_size: int = 8
    settings: QuantSettings = field(default_factory=QuantSettings)
    method: Method = SMOOTH
    head_bits: int = 16  # 8: an int8 head, which this engine reads and others do not
    grid_bits: int | None = None  # a coarser grid in the same 4 stored bits: shows what 3 bits lose, saves nothing

    def __post_init__(self) -> None:
        for name in ("calib_samples", "calib_seqlen", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError("the number is too small", expected="1 or more", got=repr(value), where=name)
        if self.settings.bits != 4:
            raise ConfigError(
                "AWQ checkpoints hold 4-bit weights", expected="--w-bits 4", got=self.settings.bits, where="--w-bits"
            )
        if self.head_bits not in (8, 16):
            raise ConfigError("a head is not stored in so many bits", expected="16 or 8", got=self.head_bits,
                              where="--head-bits")  # fmt: skip
        if self.grid_bits is not None and self.grid_bits not in (2, 3, 4):
            raise ConfigError("4 stored bits hold no such grid", expected="2, 3 or 4", got=self.grid_bits,
                              where="grid_bits")  # fmt: skip

    @property
    def grid(self) -> QuantSettings:
        """What weights are rounded to."""
        return dataclasses.replace(self.settings, bits=self.grid_bits or self.settings.bits)


def check_head(weights: WeightStream, head_bits: int) -> None:
    """ConfigError unless the head can be stored in so many bits."""
    if head_bits == 16:
        return
    rule = None if weights.spec.tie_embeddings else stored_tensors(weights.rules, "head.weight").rule
    if rule is None or rule.compute is not None or weights.spec.hidden % 4:
        raise ConfigError(
            "this model's head cannot be stored in 8 bits",
            expected="a head of its own, whose rows are taken as they are",
            got="one shared with the embedding" if rule is None else "rows that are computed with, or not in fours",
            where="--head-bits",
            next_step="leave the head in 16 bits",
        )


def check_shapes(spec: ModelSpec, settings: QuantSettings) -> None:
    """ConfigError unless groups come out even in every matrix."""
    widths = _widths(spec)
    for name, width in widths.items():
        if width % settings.group_size or settings.group_size % 8:
            raise ConfigError(
                f"the group size does not divide the model's {name}",
                expected=f"a multiple of 8 that divides {', '.join(map(str, sorted(set(widths.values()))))}",
                got=settings.group_size,
                where="--w-group-size",
                next_step="64 or 32 fit more models, at slightly more memory",
            )


def _widths(spec: ModelSpec) -> dict[str, int]:
    """Of what matrices read."""
    widths = {"hidden": spec.hidden, "num_heads x head_dim": spec.num_heads * spec.head_dim}
    experts = spec.experts
    if experts is None or experts.dense_layers:
        widths["intermediate"] = spec.intermediate
    if experts is not None:
        widths["intermediate of an expert"] = experts.intermediate
        if experts.num_shared:
            widths["intermediate of the shared expert"] = experts.shared_intermediate
    return widths
