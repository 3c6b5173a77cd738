"""AWQ's way to store 4-bit numbers: eight in an int32, along the OUTPUT features, in an order of their own.

    output column   8c+0  8c+2  8c+4  8c+6  8c+1  8c+3  8c+5  8c+7
    bits            0..3  4..7  8..11 ...                     28..31

The order lets a GPU take two neighbouring columns from one word with one mask (nibbles 0 and 4, 1 and 5, ...). This
is the layout of AutoAWQ's `version: gemm`, which every engine reads:

    qweight  int32 [in, out / 8]       qzeros  int32 [in / group, out / 8]       scales  float16 [in / group, out]

Lesson: 4 (packing bits)
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["AWQ_ORDER", "VALUES_PER_WORD", "pack_columns", "unpack_columns"]

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word holds the column of this place among its eight
VALUES_PER_WORD = 8


def pack_columns(values: Tensor) -> Tensor:
    """[rows, columns] of whole numbers from 0 to 15 → int32 [rows, columns / 8]."""
    rows, columns = values.shape
    if columns % VALUES_PER_WORD:
        raise ValueError(f"columns do not fill words\n  expected: a multiple of {VALUES_PER_WORD}\n  got: {columns}")
    if values.numel() and not (int(values.min()) >= 0 and int(values.max()) <= 15):
        raise ValueError(f"values do not fit 4 bits: {int(values.min())} to {int(values.max())}")
    eights = values.to(torch.int32).view(rows, columns // VALUES_PER_WORD, VALUES_PER_WORD)
    words = torch.zeros_like(eights[..., 0])
    for nibble, column in enumerate(AWQ_ORDER):
        words |= eights[..., column] << (4 * nibble)
    return words


def unpack_columns(words: Tensor) -> Tensor:
    """int32 [rows, columns / 8] → uint8 [rows, columns], from 0 to 15."""
    rows, count = words.shape
    values = torch.empty((rows, count, VALUES_PER_WORD), dtype=torch.uint8, device=words.device)
    for nibble, column in enumerate(AWQ_ORDER):
        values[..., column] = ((words >> (4 * nibble)) & 15).to(torch.uint8)
    return values.view(rows, count * VALUES_PER_WORD)
