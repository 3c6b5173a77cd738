"""PackedKV: keys and values in 8 or 4 bits, with a scale per token and head.

    x ≈ (number - middle) · scale + offset        int8: 1 … 255, offset 0       int4: 0 … 15, offset stored

Scales are fitted to one token's head when it is written; nothing is calibrated. A cell holds features i and
i + head_dim / 2, the pair that rotation turns together, so that whoever computes the pair stores the cell:

    int8   int16 cell   │ number i │ number i + head_dim/2 │           read as 16-bit words: two numbers of int8,
    int4   uint8 cell   │ i │ i + head_dim/2 │                         four of int4 (two neighbouring cells)

A kernel turns a word into floats without a conversion: 1024 + n is 0x6400 | n in float16, exactly. Scales stay outside
the products: q · k = scale · Σ q·n + offset · Σ q, so a score costs one multiplication more, not every element.

Bytes per token, head and side: head_dim + 2 (int8), head_dim / 2 + 4 (int4), 2 · head_dim (float16).

Lesson: 3 (KV8 and KV4)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from lmcourse.kernels.lang import is_interpreting, jit, tl
from lmcourse.kernels.ragged import LayerKV, runs_of

__all__ = [
    "INT4",
    "INT8",
    "AnyKV",
    "KVFormat",
    "PackedKV",
    "dequantise",
    "pack_pairs",
    "quantise",
    "store_cells",
    "unpack_words",
]

_SMALLEST_SCALE = 2.0**-24  # float16's
_HAS_ASM = None if tl is None else tl.constexpr(not is_interpreting())


@dataclass(frozen=True)
class KVFormat:
    """How many bits, and what is stored beside them: 1 scale, or 2 numbers, scale and offset."""

    name: str
    bits: int
    num_scales: int
    cell_dtype: torch.dtype

    @property
    def parts(self) -> int:
        """Numbers in a 16-bit word."""
        return 16 // self.bits

    @property
    def middle(self) -> int:
        """The number that stands for the offset."""
        return 1 << (self.bits - 1)


# int8 has levels to spare for a symmetric range; 15 levels have not
INT8 = KVFormat("int8", 8, 1, torch.int16)
INT4 = KVFormat("int4", 4, 2, torch.uint8)


def quantise(x: Tensor, form: KVFormat) -> tuple[Tensor, Tensor]:
    """x [..., head_dim] → cells [..., head_dim / 2], float16 scales [..., num_scales]; each vector by itself."""
    x = x.float()
    if form.num_scales == 1:
        scales = x.abs().amax(dim=-1, keepdim=True) / (form.middle - 1)
    else:
        low, high = x.aminmax(dim=-1, keepdim=True)
        step = (high - low) / (2 * form.middle - 1)
        scales = torch.cat((step, low + form.middle * step), dim=-1)
    scales = scales.half()
    scale = scales[..., :1].float().clamp_(min=_SMALLEST_SCALE)
    steps = (x / scale) if form.num_scales == 1 else (x - scales[..., 1:].float()).div_(scale)
    numbers = steps.add_(form.middle + 0.5).floor_().clamp_(2 - form.num_scales, 2 * form.middle - 1)
    first, second = numbers.nan_to_num_(form.middle).int().chunk(2, dim=-1)
    return (first | second << form.bits).to(form.cell_dtype), scales


def dequantise(cells: Tensor, scales: Tensor, form: KVFormat) -> Tensor:
    """The inverse, as float32 [..., head_dim]."""
    mask = 2 * form.middle - 1
    numbers = torch.cat((cells & mask, cells >> form.bits & mask), dim=-1)
    x = numbers.float().sub_(form.middle).mul_(scales[..., :1].float())
    return x.add_(scales[..., 1:].float()) if form.num_scales == 2 else x


class PackedKV(NamedTuple):
    """One layer's share of a quantised KV cache, as LayerKV is of one that holds what was computed."""

    keys: Tensor  # cells [num_blocks, num_kv_heads, tokens_per_block, head_dim / 2]
    values: Tensor
    key_scales: Tensor  # float16 [num_blocks, num_kv_heads, num_scales, tokens_per_block]
    value_scales: Tensor
    form: KVFormat

    @property
    def num_kv_heads(self) -> int:
        return self.keys.shape[1]

    @property
    def tokens_per_block(self) -> int:
        return self.keys.shape[2]

    @property
    def head_dim(self) -> int:
        return 2 * self.keys.shape[3]

    def read(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of these blocks, both float32 [blocks, num_kv_heads, tokens_per_block, head_dim]."""
        keys, values = (
            dequantise(cells.index_select(0, blocks), scales.index_select(0, blocks).transpose(2, 3), self.form)
            for cells, scales in ((self.keys, self.key_scales), (self.values, self.value_scales))
        )
        return keys, values

    def read_tables(self, tables: Tensor) -> tuple[Tensor, Tensor]:
        """As LayerKV's, float32."""
        (requests, columns), heads, tokens_per_block = tables.shape, self.num_kv_heads, self.tokens_per_block
        runs = runs_of(tables, heads)
        shape = (requests * heads, columns * tokens_per_block)
        cells = (x.flatten(0, 1).index_select(0, runs).view(*shape, -1) for x in (self.keys, self.values))
        scales = (x.flatten(0, 1).index_select(0, runs).transpose(1, 2).reshape(*shape, -1) for x in self.scales)
        keys, values = (dequantise(*pair, self.form) for pair in zip(cells, scales, strict=True))
        return keys, values

    def write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Quantise [num_tokens, num_kv_heads, head_dim] and put each token at its slot."""
        blocks, offsets = slots // self.tokens_per_block, slots % self.tokens_per_block
        cells, scales = quantise(torch.stack((keys, values)), self.form)
        for number, own in enumerate((self.keys, self.values)):
            own[blocks, :, offsets] = cells[number]
        for number, own in enumerate(self.scales):
            own[blocks, :, :, offsets] = scales[number]

    @property
    def scales(self) -> tuple[Tensor, Tensor]:
        """Of keys and of values."""
        return self.key_scales, self.value_scales

    def words(self) -> tuple[Tensor, Tensor]:
        """Keys and values as kernels read them: int16, `form.parts` numbers in each."""
        return self.keys.view(torch.int16), self.values.view(torch.int16)


AnyKV: TypeAlias = LayerKV | PackedKV


@jit
def _half_words(b_words, SHIFT: tl.constexpr, MASK: tl.constexpr, BIAS: tl.constexpr):
    """float16 of the bits of each word that SHIFT and MASK leave, less BIAS."""
    b_bits = ((b_words >> SHIFT) & MASK) | 0x6400
    return b_bits.to(tl.float16, bitcast=True) - BIAS


@jit
def _half_bytes(b_words):
    """Both bytes of each word as float16, less 128, two words to an instruction."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 bias;
        mov.b32 bias, 0x64806480;
        prmt.b32 $0, $2, 0x64646464, 0x4240;
        prmt.b32 $1, $2, 0x64646464, 0x4341;
        sub.f16x2 $0, $0, bias;
        sub.f16x2 $1, $1, bias;
        }""",
        "=r,=r,r",
        [b_words],
        dtype=(tl.float16, tl.float16),
        is_pure=True,
        pack=2,
    )


@jit
def _half_nibbles(b_words):
    """The four nibbles of each word as float16, less 8, two words to an instruction; (1024 + 16·n) / 16 is 64 + n."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 high, bias, shifted, sixteenth;
        mov.b32 bias, 0x64086408;
        mov.b32 shifted, 0xD480D480;
        mov.b32 sixteenth, 0x2C002C00;
        shr.u32 high, $4, 8;
        lop3.b32 $0, $4, 0x000F000F, 0x64006400, 0xEA;
        lop3.b32 $1, $4, 0x00F000F0, 0x64006400, 0xEA;
        lop3.b32 $2, high, 0x000F000F, 0x64006400, 0xEA;
        lop3.b32 $3, high, 0x00F000F0, 0x64006400, 0xEA;
        sub.f16x2 $0, $0, bias;
        fma.rn.f16x2 $1, $1, sixteenth, shifted;
        sub.f16x2 $2, $2, bias;
        fma.rn.f16x2 $3, $3, sixteenth, shifted;
        }""",
        "=&r,=&r,=&r,=&r,r",
        [b_words],
        dtype=(tl.float16, tl.float16, tl.float16, tl.float16),
        is_pure=True,
        pack=2,
    )


@jit
def unpack_words(b_words, PARTS: tl.constexpr, dtype: tl.constexpr):
    """PARTS tiles of a tile of words, exact in dtype: part 2·c + h of word w is feature c + (PARTS / 2)·w of half h."""
    if PARTS == 1:
        parts = (b_words,)
    elif PARTS == 2:
        if _HAS_ASM:
            low, high = _half_bytes(b_words)
        else:
            low, high = _half_words(b_words, 0, 255, 1152.0), _half_words(b_words, 8, 255, 1152.0)
        parts = (low.to(dtype), high.to(dtype))
    else:
        if _HAS_ASM:
            n0, n1, n2, n3 = _half_nibbles(b_words)
        else:
            n0, n1 = _half_words(b_words, 0, 15, 1032.0), _half_words(b_words, 4, 15, 1032.0)
            n2, n3 = _half_words(b_words, 8, 15, 1032.0), _half_words(b_words, 12, 15, 1032.0)
        parts = (n0.to(dtype), n1.to(dtype), n2.to(dtype), n3.to(dtype))
    return parts


@jit
def pack_pairs(first, second, m_pairs, BITS: tl.constexpr):
    """`quantise` of float32 rows given as halves [heads, pairs]: cells, int32 [heads, pairs], scale, offset [heads]."""
    middle: tl.constexpr = 1 << (BITS - 1)
    if BITS == 8:
        largest = tl.maximum(tl.abs(first), tl.abs(second))
        scale = (tl.max(tl.where(m_pairs, largest, 0.0), axis=1) / (middle - 1)).to(tl.float16)
        offset = tl.zeros_like(scale)
    else:
        low = tl.min(tl.where(m_pairs, tl.minimum(first, second), float("inf")), axis=1)
        high = tl.max(tl.where(m_pairs, tl.maximum(first, second), float("-inf")), axis=1)
        step = (high - low) / (2 * middle - 1)
        scale, offset = step.to(tl.float16), (low + middle * step).to(tl.float16)
    b_scale = tl.maximum(scale.to(tl.float32), 5.9604645e-08)[:, None]
    b_offset = offset.to(tl.float32)[:, None]
    lowest: tl.constexpr = 1 if BITS == 8 else 0
    n_first = tl.floor((first - b_offset) / b_scale + (middle + 0.5)).to(tl.int32)
    n_second = tl.floor((second - b_offset) / b_scale + (middle + 0.5)).to(tl.int32)
    n_first = tl.minimum(tl.maximum(n_first, lowest), 2 * middle - 1)
    n_second = tl.minimum(tl.maximum(n_second, lowest), 2 * middle - 1)
    return n_first | (n_second << BITS), scale, offset


@jit
def store_cells(
    first,
    second,
    i_kv,
    pairs,
    m_pairs,
    slot,
    cells_ptr,
    scales_ptr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
    BITS: tl.constexpr,
    NUM_SCALES: tl.constexpr,
):
    """One token's heads i_kv [heads, 1], given as float32 halves [heads, pairs], quantised and put at `slot`."""
    cells, scale, offset = pack_pairs(first, second, m_pairs, BITS)
    run = slot // TOKENS_PER_BLOCK * NUM_KV_HEADS + i_kv
    row = slot % TOKENS_PER_BLOCK
    at = (run * TOKENS_PER_BLOCK + row) * (HEAD_DIM // 2) + pairs
    tl.store(cells_ptr + at, cells.to(cells_ptr.dtype.element_ty), mask=m_pairs)
    m_heads = m_pairs & (pairs == 0)
    scale_at = run * (NUM_SCALES * TOKENS_PER_BLOCK) + row + pairs
    tl.store(scales_ptr + scale_at, tl.broadcast_to(scale[:, None], first.shape), mask=m_heads)
    if NUM_SCALES > 1:
        tl.store(scales_ptr + scale_at + TOKENS_PER_BLOCK, tl.broadcast_to(offset[:, None], first.shape), mask=m_heads)
