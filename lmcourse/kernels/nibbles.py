"""Eight 4-bit weights out of a word, two at a time, for the kernels in w4a16*.py; packed.py says how they lie.

    word      .... .... .... q1 │ .... .... .... q0     & 0x000f000f | 0x64006400  →  1024 + q1 │ 1024 + q0
    word                 q3              q2             & 0x00f000f0 | 0x64006400  →  1024 + 16 q3 │ 1024 + 16 q2
    word >> 8                                           the same twice more

as pairs of float16, in one instruction each (lop3). Minus 1024 + zero, or divided by 16 and minus 64 + zero, they are
q − zero, without a rounding. Triton has no word for two numbers in one register, so this is PTX; the interpreter,
which runs no PTX, does the same with shifts (ASM false).

Lesson: 4 (the kernel, line by line)
"""

from __future__ import annotations

from lmcourse.kernels.add_norm import sum_row
from lmcourse.kernels.lang import is_interpreting, jit, load_row, store_row, tl

__all__ = [
    "dot_words",
    "half_of",
    "join_pair",
    "load_pairs",
    "normed_pairs",
    "scale_pair",
    "split_group",
    "unpack_tile",
    "uses_asm",
]


def uses_asm() -> bool:
    """Whether PTX can be used: everywhere but in the interpreter."""
    return not is_interpreting()


# $0 1024 + zero, twice; $1 −(64 + zero), twice: from $2, the group's word
_SPLIT_GROUP = tl.constexpr("""
{
.reg .b32 edge;
mov.b32 edge, 0x63806380;
prmt.b32 $0, $2, $2, 0x3232;
sub.f16x2 $1, edge, $0;
}
""")

# $0 float32: the sum of the products of $1, a word, and $2 … $5, four pairs of x; $6 1024 + zero; $7 −(64 + zero)
_DOT_WORDS = tl.constexpr("""
{
.reg .b32 a, b, c, d, high, sixteenth;
.reg .b16 first, second;
.reg .f32 left, right;
mov.b32 sixteenth, 0x2c002c00;
shr.u32 high, $1, 8;
lop3.b32 a, $1, 0x000f000f, 0x64006400, 0xea;
lop3.b32 b, $1, 0x00f000f0, 0x64006400, 0xea;
lop3.b32 c, high, 0x000f000f, 0x64006400, 0xea;
lop3.b32 d, high, 0x00f000f0, 0x64006400, 0xea;
sub.f16x2 a, a, $6;
fma.rn.f16x2 b, b, sixteenth, $7;
sub.f16x2 c, c, $6;
fma.rn.f16x2 d, d, sixteenth, $7;
mul.f16x2 a, a, $2;
fma.rn.f16x2 a, b, $3, a;
fma.rn.f16x2 a, c, $4, a;
fma.rn.f16x2 a, d, $5, a;
mov.b32 {first, second}, a;
cvt.f32.f16 left, first;
cvt.f32.f16 right, second;
add.f32 $0, left, right;
}
""")

# $0 … $7 the eight q − zero as float16: $8 the word, $9 1024 + zero, $10 −(64 + zero), each twice
_TAKE_OUT = """
{
.reg .b32 a, b, c, d, high, sixteenth;
mov.b32 sixteenth, 0x2c002c00;
shr.u32 high, $8, 8;
lop3.b32 a, $8, 0x000f000f, 0x64006400, 0xea;
lop3.b32 b, $8, 0x00f000f0, 0x64006400, 0xea;
lop3.b32 c, high, 0x000f000f, 0x64006400, 0xea;
lop3.b32 d, high, 0x00f000f0, 0x64006400, 0xea;
sub.f16x2 a, a, $9;
fma.rn.f16x2 b, b, sixteenth, $10;
sub.f16x2 c, c, $9;
fma.rn.f16x2 d, d, sixteenth, $10;
"""
_GIVE_OUT = """
mov.b32 {$0, $1}, a;
mov.b32 {$2, $3}, b;
mov.b32 {$4, $5}, c;
mov.b32 {$6, $7}, d;
}
"""
_UNPACK = tl.constexpr(_TAKE_OUT + _GIVE_OUT)
# the same, times the scale, the lower half of $11
_UNPACK_SCALED = tl.constexpr(
    _TAKE_OUT
    + "prmt.b32 high, $11, $11, 0x1010;\n"
    + "".join(f"mul.f16x2 {pair}, {pair}, high;\n" for pair in "abcd")
    + _GIVE_OUT
)


@jit
def split_group(b_group, ASM: tl.constexpr):
    """A group's word → (1024 + zero, −(64 + zero)), as pairs of equal float16 in an int32; its lower half is scale."""
    if ASM:
        zero, edge = tl.inline_asm_elementwise(
            _SPLIT_GROUP, "=r,=r,r", [b_group], dtype=(tl.int32, tl.int32), is_pure=True, pack=1
        )
    else:
        zero = (b_group >> 16) & 0xFFFF
        edge = zero
    return zero, edge


@jit
def half_of(b_word):
    """The float16 in the lower half of an int32."""
    return (b_word & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True)


@jit
def _nibble(b_word, b_zero, SHIFT: tl.constexpr):
    """q − zero as float32, without PTX; b_zero holds 1024 + zero."""
    return ((b_word >> SHIFT) & 15).to(tl.float32) - (half_of(b_zero).to(tl.float32) - 1024.0)


@jit
def _pair(b_word, b_zero, b_x, SHIFT: tl.constexpr):
    low = _nibble(b_word, b_zero, SHIFT) * half_of(b_x).to(tl.float32)
    return low + _nibble(b_word, b_zero, SHIFT + 16) * half_of(b_x >> 16).to(tl.float32)


@jit
def dot_words(b_words, x0, x1, x2, x3, b_zero, b_edge, ASM: tl.constexpr):
    """Σ (q − zero) · x over the eight weights of each word; x0 … x3 are pairs of float16, as int32."""
    if ASM:
        b_sum = tl.inline_asm_elementwise(
            _DOT_WORDS, "=f,r,r,r,r,r,r,r", [b_words, x0, x1, x2, x3, b_zero, b_edge],
            dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        b_sum = _pair(b_words, b_zero, x0, 0) + _pair(b_words, b_zero, x1, 4)
        b_sum += _pair(b_words, b_zero, x2, 8) + _pair(b_words, b_zero, x3, 12)
    return b_sum


@jit
def _unpack_words(b_words, b_group, SCALED: tl.constexpr, ASM: tl.constexpr):
    """The eight numbers of each word, as float16."""
    b_zero, b_edge = split_group(b_group, ASM)
    if ASM and SCALED:
        eight = tl.inline_asm_elementwise(
            _UNPACK_SCALED, "=h,=h,=h,=h,=h,=h,=h,=h,r,r,r,r", [b_words, b_zero, b_edge, b_group],
            dtype=(tl.float16,) * 8, is_pure=True, pack=1,
        )  # fmt: skip
    elif ASM:
        eight = tl.inline_asm_elementwise(
            _UNPACK, "=h,=h,=h,=h,=h,=h,=h,=h,r,r,r", [b_words, b_zero, b_edge],
            dtype=(tl.float16,) * 8, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        factor = half_of(b_group).to(tl.float32) if SCALED else 1.0
        eight = ()
        for number in tl.static_range(8):
            shift: tl.constexpr = number % 2 * 16 + number // 2 * 4
            eight = eight + ((_nibble(b_words, b_zero, shift) * factor).to(tl.float16),)
    return eight


@jit
def unpack_tile(
    b_words,
    b_group,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    UNIT: tl.constexpr,
    SCALED: tl.constexpr,
    ASM: tl.constexpr,
):
    """Words and their groups' [TILE_N, TILE_K / 8 or 1] → q − zero, float16 [TILE_N, TILE_K]; SCALED: times scale.

    The last two lines only say where the numbers belong: in a tensor core's operand they lie there already.
    """
    h0, h1, h2, h3, h4, h5, h6, h7 = _unpack_words(b_words, b_group, SCALED, ASM)
    # the axis that is joined last changes fastest: pairs 2 apart first, then neighbours, then halves of a pair
    left = tl.join(tl.join(h0, h4), tl.join(h2, h6))
    right = tl.join(tl.join(h1, h5), tl.join(h3, h7))
    b_eights = tl.join(left, right)
    if UNIT > 8:
        shape: tl.constexpr = (TILE_N, TILE_K // UNIT, 4, UNIT // 32, 4, 2)  # row, unit, thread, word, pair, half
        b_eights = tl.permute(tl.reshape(b_eights, shape), (0, 1, 3, 4, 2, 5))
    return tl.reshape(b_eights, (TILE_N, TILE_K))


@jit
def scale_pair(b_pair, ASM: tl.constexpr):
    """A pair of float16 in an int32, each divided by 16."""
    if ASM:
        b_scaled = tl.inline_asm_elementwise(
            "{ .reg .b32 factor; mov.b32 factor, 0x2c002c00; mul.f16x2 $0, $1, factor; }", "=r,r", [b_pair],
            dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        b_scaled = join_pair(half_of(b_pair) * 0.0625, half_of(b_pair >> 16) * 0.0625)
    return b_scaled


@jit
def join_pair(b_low, b_high):
    """Two float16 as one int32."""
    low = b_low.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    return low | (b_high.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) << 16)


@jit
def _split_pairs(b_pairs, TILE_G: tl.constexpr, GROUP_WORDS: tl.constexpr):
    """int32 [words, 4] → its columns, each [TILE_G, GROUP_WORDS]."""
    even, odd = tl.split(tl.reshape(b_pairs, (TILE_G * GROUP_WORDS, 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    shape: tl.constexpr = (TILE_G, GROUP_WORDS)
    return tl.reshape(x0, shape), tl.reshape(x1, shape), tl.reshape(x2, shape), tl.reshape(x3, shape)


@jit
def _by_word(b_pairs, TILE_G: tl.constexpr, GROUP_WORDS: tl.constexpr, UNIT: tl.constexpr):
    """All pairs in their order, int32 → the first, … the fourth of each word, [TILE_G, GROUP_WORDS]."""
    words: tl.constexpr = TILE_G * GROUP_WORDS
    if UNIT > 8:
        shape: tl.constexpr = (words * 8 // UNIT, UNIT // 32, 4, 4)  # unit, word, pair, thread
        b_pairs = tl.permute(tl.reshape(b_pairs, shape), (0, 3, 1, 2))
    even, odd = tl.split(tl.reshape(b_pairs, (words, 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    each: tl.constexpr = (TILE_G, GROUP_WORDS)
    return tl.reshape(x0, each), tl.reshape(x1, each), tl.reshape(x2, each), tl.reshape(x3, each)


@jit
def load_pairs(
    x_ptr,
    NUM_WORDS: tl.constexpr,
    TILE_G: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    UNIT: tl.constexpr,
    ASM: tl.constexpr,
):
    """The pairs / 16 for dot_words of one token's x, float16 that is read as int32: four of [TILE_G, GROUP_WORDS]."""
    pairs: tl.constexpr = TILE_G * GROUP_WORDS * 4
    at = tl.arange(0, pairs)
    if pairs == NUM_WORDS * 4:  # noqa: SIM108 (decided when the kernel is compiled)
        b_pairs = tl.load(x_ptr + at)
    else:
        b_pairs = tl.load(x_ptr + at, mask=at < NUM_WORDS * 4, other=0)
    return _by_word(scale_pair(b_pairs, ASM), TILE_G, GROUP_WORDS, UNIT)


@jit
def normed_pairs(
    residual_ptr,
    parts_ptr,
    norm_ptr,
    sum_ptr,
    stores,
    eps,
    NUM_PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE_G: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    UNIT: tl.constexpr,
):
    """The only token of the stream, normed: pairs / 16 for dot_words, four of [TILE_G, GROUP_WORDS].

    Whoever `stores` leaves the stream's sum. Eight features lie in a thread, so that pairs cost no traffic.
    """
    features: tl.constexpr = TILE_G * GROUP_WORDS * 8
    at = tl.arange(0, features)
    b_norm = load_row(norm_ptr, at, WIDTH, features).to(tl.float32)
    b_sum = sum_row(residual_ptr, parts_ptr, 0, at, 1, NUM_PARTS, WIDTH, features)
    b_x = (b_sum * tl.math.rsqrt(tl.sum(b_sum * b_sum, axis=0) / WIDTH + eps) * b_norm).to(tl.float16) * 0.0625
    if stores:
        store_row(sum_ptr, at, b_sum, WIDTH, features)
    low, high = tl.split(tl.reshape(b_x.to(tl.float16), (features // 2, 2)))
    return _by_word(join_pair(low, high), TILE_G, GROUP_WORDS, UNIT)
