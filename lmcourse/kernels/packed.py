"""How the kernels want 4-bit weights to lie: eight along k in a word, neighbours 16 bits apart.

    a word              bits   0..3   4..7   8..11  12..15 │ 16..19  20..23  24..27  28..31
                               p0     p1     p2     p3     │ the right neighbours of p0, p1, p2, p3

One mask, 0x000f000f, takes out two neighbours at once, one in each half of a register, where a GPU multiplies pairs of
float16. Or-ed with 0x6400, the bits of the number 1024, they are already float16: 1024 + q. So the zero is stored as
1024 + zero, and one subtraction gives q − zero, exactly:

    group word          low half: scale as float16 │ high half: 1024 + zero as float16

A tensor core wants of each row that thread t of four holds k = 2t, 2t + 1, 8 + 2t, 9 + 2t, …. So of 128 k's (64 or 32
where a group is that small) thread t gets the pairs p = 8j + 2t, in UNIT / 32 words side by side: what it unpacks is in
the right registers already. Checkpoints pack along n instead (quant/packing.py); loading repacks them.

Lesson: 4 (packing for the machine that reads it)
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from lmcourse.kernels.lang import is_interpreting
from lmcourse.kernels.operands import Matrix, PackedMatrix
from lmcourse.kernels.packed_bags import bag_groups, has_bags, unpack_bags

__all__ = [
    "NIBBLE_SHIFTS",
    "arrange_packed",
    "choose_unit",
    "join_groups",
    "pack_words",
    "plain_matrix",
    "split_groups",
    "unpack_matrix",
    "unpack_words",
]

NIBBLE_SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)  # p0, its right neighbour, p1, …
_THREADS = 4  # that share a row in a tensor core's operand


def choose_unit(group_size: int) -> int:
    """k's that share their words; 8, in which k's lie in order, where groups are too small or odd for a unit of 32."""
    return next((unit for unit in (128, 64, 32) if group_size % unit == 0), 8)


def pack_words(values: Tensor, group_size: int) -> Tensor:
    """uint8 [out_features, in_features], 0 to 15 → int32 [out_features, in_features / 8]."""
    eights = _shuffle(values, choose_unit(group_size))
    words = torch.zeros(eights.shape[:2], dtype=torch.int32, device=values.device)
    for place, shift in enumerate(NIBBLE_SHIFTS):
        words |= eights[..., place].to(torch.int32) << shift
    return words


def unpack_words(words: Tensor, group_size: int) -> Tensor:
    """int32 [out_features, in_features / 8] → uint8 [out_features, in_features]."""
    values = torch.empty((*words.shape, 8), dtype=torch.uint8, device=words.device)
    for place, shift in enumerate(NIBBLE_SHIFTS):
        values[..., place] = ((words >> shift) & 15).to(torch.uint8)
    unit = choose_unit(group_size)
    if unit == 8:
        return values.flatten(1)
    return rearrange(values, "n (u t c) (j e) -> n (u c j t e)", t=_THREADS, c=unit // 32, j=4)


def _shuffle(values: Tensor, unit: int) -> Tensor:
    """[out_features, in_features] → [out_features, words, 8]."""
    if unit == 8:
        return rearrange(values, "n (w p) -> n w p", p=8)
    return rearrange(values, "n (u c j t e) -> n (u t c) (j e)", c=unit // 32, j=4, t=_THREADS, e=2)


def join_groups(scales: Tensor, zeros: Tensor) -> Tensor:
    """scales and zeros [out_features, groups] → int32 [out_features, groups]."""
    halves = torch.stack((scales.half(), 1024 + zeros.half()), dim=-1)
    return halves.contiguous().view(torch.int32).squeeze(-1)


def split_groups(groups: Tensor) -> tuple[Tensor, Tensor]:
    """(scales, zeros), both float16 [out_features, groups]."""
    halves = groups.view(torch.float16).view(*groups.shape, 2)
    return halves[..., 0], halves[..., 1] - 1024


def unpack_matrix(matrix: PackedMatrix, dtype: torch.dtype) -> Tensor:
    """The weight as plain numbers, [out_features, in_features]."""
    if matrix.in_bags:
        return unpack_bags(matrix.words, matrix.groups).to(dtype)
    scales, zeros = (part[..., None].to(dtype) for part in split_groups(matrix.groups))
    weight = unpack_words(matrix.words, matrix.group_size).view(*matrix.groups.shape, -1).to(dtype)
    return weight.sub_(zeros).mul_(scales).view(matrix.shape)


def arrange_packed(matrix: PackedMatrix) -> PackedMatrix:
    """The matrix in bags on a processor, for torch's forms; elsewhere as it is."""
    if matrix.words.device.type != "cpu" or matrix.in_bags or is_interpreting() or not has_bags():
        return matrix
    scales, zeros = split_groups(matrix.groups)
    bags = bag_groups(unpack_words(matrix.words, matrix.group_size), zeros)
    return PackedMatrix(bags, scales.float(), matrix.bias)


def plain_matrix(matrix: PackedMatrix, dtype: torch.dtype) -> Matrix:
    """The matrix as one of plain weights."""
    return Matrix(unpack_matrix(matrix, dtype), matrix.bias)
