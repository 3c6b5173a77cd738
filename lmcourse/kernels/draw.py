"""Draw: temperature, top-k, top-p and min-p without a sort, then one token at random, on the device.

    below = (peak - logit) / temperature        weight = exp(-below)        keep: below <= limit and weight >= min_p
    token = first id whose running sum of kept weights exceeds u · their total;   u from (seed, number of the token)

Sorting a vocabulary is much work for one number: the limit behind which nothing is kept. A float32 that is not negative
orders like its bits, so the limit is found digit by digit, 4 bits at a time. A pass sums, for each of the 16 values of
the next digit, the weight of the tokens that agree with the digits found so far; the digit is the first at which the
running sum reaches the target (k tokens of weight 1; top_p of the mass that top-k has left).

    pass 0   ????????   sums by first digit    0 │ 0 │ 3 │ 9 │ 40 │ …     target 10: digit 3, 3 tokens are before it
    pass 1   3???????   sums by second digit                              … after 8 passes all 32 bits are known

Traffic, vocabulary 92544: 370 KB a pass and row, from the L2 cache where the rows fit; 8 passes a filter, one launch
each, programs (row, chunk of the vocabulary); every program adds up the sums of the pass before for itself.

Numerics: ties at a limit are kept, as in engine/sampler.py; sums are float32 within a chunk, float64 for the draw.

Lesson: 3 (one step, no host)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.advance import Field
from lmcourse.kernels.dispatch import Operation, UpTo
from lmcourse.kernels.lang import jit, launch_options, let_next_start, next_power, tl, wait_for_inputs
from lmcourse.kernels.sampling import CHUNK, argmax_reference, reduce_chunks

__all__ = ["draw", "draw_reference", "draw_triton"]

_PASSES = 8
_GOLDEN = 0x9E3779B97F4A7C15


def draw_reference(logits: Tensor, rows: Tensor, out: Tensor, *, top_k: bool, top_p: bool) -> None:
    """With a sort, in float64."""
    temperature, share, floor = (
        rows[:, field].contiguous().view(torch.float32)[:, None]
        for field in (Field.TEMPERATURE, Field.TOP_P, Field.MIN_P)
    )
    below = (logits.amax(dim=1, keepdim=True) - logits) / temperature
    ordered = below.sort(dim=1).values
    vocab = logits.shape[1]
    keep = torch.exp(-below) >= floor
    if top_k:
        wanted = rows[:, Field.TOP_K].long()
        last = torch.where((wanted > 0) & (wanted < vocab), wanted, vocab) - 1
        limit = ordered.gather(1, last[:, None])
        keep &= below <= limit
        ordered = ordered.masked_fill(ordered > limit, torch.inf)
    if top_p:
        mass = torch.exp(-ordered).double().cumsum(dim=1)
        place = (mass < share * mass[:, -1:]).sum(dim=1, keepdim=True).clamp(max=vocab - 1)
        keep &= (below <= ordered.gather(1, place)) | (share >= 1)
    summed = torch.where(keep, torch.exp(-below), 0).double().cumsum(dim=1)
    token = (summed <= _uniforms(rows)[:, None] * summed[:, -1:]).sum(dim=1)
    argmax_reference(logits, out)
    out[:] = torch.where((temperature[:, 0] > 0) & (out >= 0), token, out)


def _uniforms(rows: Tensor) -> Tensor:
    """engine/sampling.py's draw_uniforms, in signed arithmetic that wraps around."""
    golden = _GOLDEN - 2**64
    low, high = rows[:, Field.SEED].long() & 0xFFFFFFFF, rows[:, Field.SEED_HIGH].long()
    counter = rows[:, Field.POSITION].long() + 1 - rows[:, Field.PROMPT_LEN].long()
    state = _mix((high << 32 | low) + golden) + golden * counter
    return ((_mix(state) >> 11) & (2**53 - 1)).double() * 2.0**-53


def _mix(bits: Tensor) -> Tensor:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ ((bits >> shift) & (2 ** (64 - shift) - 1))) * (factor - 2**64)
    return bits ^ ((bits >> 31) & (2**33 - 1))


@jit
def _load_below(logits_ptr, row, ids, peak, temperature, VOCAB: tl.constexpr):
    """(peak - logit) / temperature, which is not negative, and its bits, which order alike."""
    b_logits = tl.load(logits_ptr + row * VOCAB + ids, mask=ids < VOCAB, other=float("-inf"))
    below = (peak - b_logits) / temperature
    return below, below.to(tl.int32, bitcast=True)


@jit
def _load_rule(rows_ptr, peaks_ptr, row, stride, COLUMN: tl.constexpr, CHUNKS: tl.constexpr, TILE_C: tl.constexpr):
    """(peak of the row, its temperature or 1 if that is 0, a float32 column of its rule)."""
    chunks = tl.arange(0, TILE_C)
    peaks = tl.load(peaks_ptr + row * CHUNKS + chunks, mask=chunks < CHUNKS, other=float("-inf"))
    temperature = tl.load(rows_ptr + row * stride + 6).to(tl.float32, bitcast=True)
    value = tl.load(rows_ptr + row * stride + COLUMN).to(tl.float32, bitcast=True)
    return tl.max(peaks, axis=0), tl.where(temperature > 0, temperature, 1.0), value


@jit
def _sum_bins(bins_ptr, row, CHUNKS: tl.constexpr, TILE_C: tl.constexpr):
    """A pass's sums by digit, over all chunks: [16]."""
    chunks = tl.arange(0, TILE_C)
    digits = tl.arange(0, 16)
    at = (row * CHUNKS + chunks)[:, None] * 16 + digits[None, :]
    return tl.sum(tl.load(bins_ptr + at, mask=(chunks < CHUNKS)[:, None], other=0.0), axis=0)


@jit
def _next_digit(
    bins_ptr, found_ptr, rows_ptr, row, num_rows, stride,
    PASS: tl.constexpr, BY_MASS: tl.constexpr, CHUNKS: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """What the pass before PASS has found: (the digits so far, the weight before them)."""
    size = num_rows * CHUNKS * 16
    first = _sum_bins(bins_ptr, row, CHUNKS, TILE_C)
    if BY_MASS:
        share = tl.load(rows_ptr + row * stride + 8).to(tl.float32, bitcast=True)
        target = tl.where(share < 1, share * tl.sum(first, axis=0), float("inf"))
    else:
        wanted = tl.load(rows_ptr + row * stride + 7)
        target = tl.where(wanted > 0, wanted.to(tl.float32), float("inf"))
    sums = first if PASS == 1 else _sum_bins(bins_ptr + (PASS - 1) * size, row, CHUNKS, TILE_C)
    before = 0.0
    prefix = 0
    if PASS > 1:
        before = tl.load(found_ptr + ((PASS - 1) * num_rows + row) * 2)
        prefix = tl.load(found_ptr + ((PASS - 1) * num_rows + row) * 2 + 1).to(tl.int32, bitcast=True)
    digits = tl.arange(0, 16)
    reached = before + tl.cumsum(sums, axis=0) >= target
    digit = tl.min(tl.where(reached, digits, 15), axis=0)
    return prefix * 16 + digit, before + tl.sum(tl.where(digits < digit, sums, 0.0), axis=0)


@jit
def _digit_kernel(
    logits_ptr, peaks_ptr, rows_ptr, limits_ptr, bins_ptr, found_ptr, num_rows, stride,
    PASS: tl.constexpr, BY_MASS: tl.constexpr, VOCAB: tl.constexpr, CHUNKS: tl.constexpr,
    TILE_C: tl.constexpr, TILE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # which tile am I: one chunk of one row
    row, chunk = tl.program_id(0), tl.program_id(1)
    ids = chunk * TILE + tl.arange(0, TILE)
    digits = tl.arange(0, 16)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    # load
    peak, temperature, _ = _load_rule(rows_ptr, peaks_ptr, row, stride, 6, CHUNKS, TILE_C)
    below, bits = _load_below(logits_ptr, row.to(tl.int64), ids, peak, temperature, VOCAB)
    tl.static_assert(below.shape == (TILE,))
    m_open = ids < VOCAB
    if PASS > 0:
        prefix, before = _next_digit(
            bins_ptr, found_ptr, rows_ptr, row, num_rows, stride, PASS, BY_MASS, CHUNKS, TILE_C
        )
        m_open &= (bits >> (32 - 4 * PASS)) == prefix
        if chunk == 0:
            tl.store(found_ptr + (PASS * num_rows + row) * 2, before)
            tl.store(found_ptr + (PASS * num_rows + row) * 2 + 1, prefix.to(tl.float32, bitcast=True))
    # compute
    weight = tl.where(m_open, 1.0, 0.0)
    if BY_MASS:
        weight = tl.where(m_open & (bits <= tl.load(limits_ptr + row)), tl.exp(-below), 0.0)
    digit = (bits >> (28 - 4 * PASS)) & 15
    b_bins = tl.zeros((16,), dtype=tl.float32)
    for value in tl.static_range(16):
        b_bins = tl.where(digits == value, tl.sum(tl.where(digit == value, weight, 0.0), axis=0), b_bins)
    # store
    tl.store(bins_ptr + ((PASS * num_rows + row) * CHUNKS + chunk) * 16 + digits, b_bins)


@jit
def _limit_kernel(
    bins_ptr, found_ptr, rows_ptr, limits_ptr, num_rows, stride,
    PASS: tl.constexpr, BY_MASS: tl.constexpr, CHUNKS: tl.constexpr, TILE_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # which tile am I: one row; the last digit completes its limit
    row = tl.program_id(0)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    bits, _ = _next_digit(bins_ptr, found_ptr, rows_ptr, row, num_rows, stride, PASS, BY_MASS, CHUNKS, TILE_C)
    limit = tl.load(limits_ptr + row)  # of the filter before, or none
    tl.store(limits_ptr + row, tl.where(bits < 0, limit, tl.minimum(bits, limit)))  # < 0: the target was not reached


@jit
def _kept_weights(
    logits_ptr, peaks_ptr, rows_ptr, limits_ptr, row, ids, stride,
    VOCAB: tl.constexpr, CHUNKS: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """The weights of some ids as float64, 0 for what is not kept."""
    peak, temperature, floor = _load_rule(rows_ptr, peaks_ptr, row, stride, 9, CHUNKS, TILE_C)
    below, bits = _load_below(logits_ptr, row.to(tl.int64), ids, peak, temperature, VOCAB)
    weight = tl.exp(-below)
    keep = (ids < VOCAB) & (bits <= tl.load(limits_ptr + row)) & (weight >= floor)
    return tl.where(keep, weight, 0.0).to(tl.float64)


@jit
def _mass_kernel(
    logits_ptr, peaks_ptr, rows_ptr, limits_ptr, masses_ptr, stride,
    VOCAB: tl.constexpr, CHUNKS: tl.constexpr, TILE_C: tl.constexpr, TILE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # which tile am I: one chunk of one row
    row, chunk = tl.program_id(0), tl.program_id(1)
    ids = chunk * TILE + tl.arange(0, TILE)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    weights = _kept_weights(logits_ptr, peaks_ptr, rows_ptr, limits_ptr, row, ids, stride, VOCAB, CHUNKS, TILE_C)
    tl.store(masses_ptr + row * CHUNKS + chunk, tl.sum(weights, axis=0))


@jit
def _mix_bits(bits):
    bits = (bits ^ (bits >> 30)) * tl.full((), 0xBF58476D1CE4E5B9, tl.uint64)
    bits = (bits ^ (bits >> 27)) * tl.full((), 0x94D049BB133111EB, tl.uint64)
    return bits ^ (bits >> 31)


@jit
def _uniform(row_ptr):
    """The number in [0, 1) of a row's next token, float64."""
    golden = tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    low = tl.load(row_ptr + 4).to(tl.uint32, bitcast=True).to(tl.uint64)
    high = tl.load(row_ptr + 5).to(tl.uint32, bitcast=True).to(tl.uint64)
    counter = (tl.load(row_ptr + 2) + 1 - tl.load(row_ptr + 3)).to(tl.uint64)
    state = _mix_bits(((high << 32) | low) + golden) + golden * counter
    return (_mix_bits(state) >> 11).to(tl.float64) * (1.0 / 9007199254740992.0)


@jit
def _pick_kernel(
    logits_ptr, peaks_ptr, best_ptr, rows_ptr, limits_ptr, masses_ptr, out_ptr, stride,
    VOCAB: tl.constexpr, CHUNKS: tl.constexpr, TILE_C: tl.constexpr, TILE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # which tile am I: one row, of which the chunk that the draw falls into is looked at
    row = tl.program_id(0)
    chunks = tl.arange(0, TILE_C)
    let_next_start(PDL)
    wait_for_inputs(PDL)
    # load
    masses = tl.load(masses_ptr + row * CHUNKS + chunks, mask=chunks < CHUNKS, other=0.0)
    summed = tl.cumsum(masses, axis=0)
    target = _uniform(rows_ptr + row * stride) * tl.sum(masses, axis=0)
    chunk = tl.min(tl.where((summed > target) & (masses > 0), chunks, CHUNKS - 1), axis=0)
    ids = chunk * TILE + tl.arange(0, TILE)
    weights = _kept_weights(logits_ptr, peaks_ptr, rows_ptr, limits_ptr, row, ids, stride, VOCAB, CHUNKS, TILE_C)
    tl.static_assert(weights.shape == (TILE,))
    # compute: the first kept id beyond the target; rounding may leave none, then it is the last kept
    running = tl.sum(tl.where(chunks < chunk, masses, 0.0), axis=0) + tl.cumsum(weights, axis=0)
    beyond = tl.min(tl.where((running > target) & (weights > 0), ids, VOCAB), axis=0)
    token = tl.where(beyond < VOCAB, beyond, tl.max(tl.where(weights > 0, ids, 0), axis=0))
    # store: greedy rows keep the best, rows that are not finite their -1
    best = tl.load(best_ptr + row)
    drawn = (tl.load(rows_ptr + row * stride + 6).to(tl.float32, bitcast=True) > 0) & (best >= 0)
    tl.store(out_ptr + row, tl.where(drawn, token.to(tl.int64), best))


def draw_triton(logits: Tensor, rows: Tensor, out: Tensor, *, top_k: bool, top_p: bool) -> None:
    """Up to 22 launches."""
    (num_rows, vocab), device, stride = logits.shape, logits.device, rows.stride(0)
    best = torch.empty_like(out)
    peaks = reduce_chunks(logits, best)
    tile, chunks = min(CHUNK, next_power(vocab)), peaks.shape[1]
    shape = {"CHUNKS": chunks, "TILE_C": next_power(chunks), "num_warps": 4, **launch_options(device)}
    limits = torch.full((num_rows,), 0x7FFFFFFF, dtype=torch.int32, device=device)
    masses = torch.empty((num_rows, chunks), dtype=torch.float64, device=device)
    for by_mass in [False] * top_k + [True] * top_p:
        bins = torch.empty((_PASSES, num_rows, chunks, 16), dtype=torch.float32, device=device)
        found = torch.empty((_PASSES, num_rows, 2), dtype=torch.float32, device=device)
        for index in range(_PASSES):
            _digit_kernel[(num_rows, chunks)](
                logits, peaks, rows, limits, bins, found, num_rows, stride,
                PASS=index, BY_MASS=by_mass, VOCAB=vocab, TILE=tile, **shape,
            )  # fmt: skip
        _limit_kernel[(num_rows,)](bins, found, rows, limits, num_rows, stride, PASS=_PASSES, BY_MASS=by_mass, **shape)
    common = {"VOCAB": vocab, "TILE": tile, **shape}
    _mass_kernel[(num_rows, chunks)](logits, peaks, rows, limits, masses, stride, **common)
    _pick_kernel[(num_rows,)](logits, peaks, best, rows, limits, masses, out, stride, **common)


_DRAW = Operation(reference=draw_reference, triton=(UpTo(float("inf"), draw_triton),))


def draw(logits: Tensor, rows: Tensor, out: Tensor, *, top_k: bool, top_p: bool) -> None:
    """logits float32 [rows, vocab], rows as in advance.py and advanced, out int64 [rows]: -1 where not finite.

    top_k, top_p: whether any row has such a filter.
    """
    _DRAW.form_for(logits.device)(logits.contiguous(), rows, out, top_k=top_k, top_p=top_p)
