"""Packing: round trips against an unpacker written for the tests, from the layout's description alone."""

import numpy as np
import pytest
import torch

from lmcourse.kernels import PackedMatrix
from lmcourse.kernels.packed import join_groups, pack_words, split_groups, unpack_matrix, unpack_words
from lmcourse.quant import pack_columns, unpack_columns


@pytest.fixture(autouse=True)
def seed():
    value = int(torch.randint(2**31, ()).item())
    print(f"seed {value}")
    torch.manual_seed(value)


def unpack_by_hand(words: np.ndarray) -> np.ndarray:
    """Bits as text; no shifts, no masks: the eight nibbles of a word, put where AutoAWQ's order says."""
    rows, count = words.shape
    out = np.zeros((rows, count * 8), dtype=np.uint8)
    for row in range(rows):
        for word in range(count):
            bits = format(int(words[row, word]) % 2**32, "032b")
            nibbles = [int(bits[28 - 4 * i : 32 - 4 * i], 2) for i in range(8)]  # lowest first
            for nibble, column in zip(nibbles, (0, 2, 4, 6, 1, 3, 5, 7), strict=True):
                out[row, 8 * word + column] = nibble
    return out


@pytest.mark.parametrize("shape", [(1, 8), (5, 16), (128, 72), (3, 256)])
def test_pack_columns_agrees_with_an_unpacker_of_its_own(shape):
    values = torch.randint(0, 16, shape, dtype=torch.uint8)
    words = pack_columns(values)
    assert (words.dtype, tuple(words.shape)) == (torch.int32, (shape[0], shape[1] // 8))
    assert (unpack_by_hand(words.numpy()) == values.numpy()).all()
    assert torch.equal(unpack_columns(words), values)


def test_pack_columns_known_word():
    assert hex(int(pack_columns(torch.arange(8)[None])[0, 0])) == "0x75316420"


def test_unpack_columns_any_word_packs_again():
    words = torch.randint(-(2**31), 2**31, (7, 9), dtype=torch.int64).to(torch.int32)
    assert torch.equal(pack_columns(unpack_columns(words)), words)


@pytest.mark.parametrize(("values", "message"), [(torch.full((2, 8), 16), "4 bits"), (torch.zeros(2, 9), "multiple")])
def test_pack_columns_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        pack_columns(values)


@pytest.mark.parametrize(("group_size", "unit"), [(8, 8), (24, 8), (32, 32), (64, 64), (96, 32), (128, 128)])
@pytest.mark.parametrize("groups", [1, 3])
def test_pack_words_round_trip_and_places(group_size, unit, groups):
    """Number by number: neighbours 16 bits apart; four threads' pairs of a unit, each thread's words side by side."""
    values = torch.randint(0, 16, (5, groups * group_size), dtype=torch.uint8)
    words = pack_words(values, group_size)
    assert torch.equal(unpack_words(words, group_size), values)
    for k in range(values.shape[1]):
        within = k % unit
        if unit == 8:
            word, pair = k // 8, within // 2
        else:
            chunk, pair, thread = within // 32, within % 32 // 8, within % 8 // 2
            word = k // unit * (unit // 8) + thread * (unit // 32) + chunk
        shift = 4 * pair + 16 * (k % 2)
        assert torch.equal((words[:, word] >> shift & 15).to(torch.uint8), values[:, k])


def test_groups_are_exact():
    scales, zeros = torch.rand(5, 6).half(), torch.randint(0, 16, (5, 6))
    got_scales, got_zeros = split_groups(join_groups(scales, zeros))
    assert torch.equal(got_scales, scales)
    assert torch.equal(got_zeros, zeros.half())


@pytest.mark.parametrize("group_size", [8, 32, 128])
def test_unpack_matrix_is_the_formula(group_size):
    rows, columns = 24, 384
    q, zero = torch.randint(0, 16, (rows, columns)), torch.randint(0, 16, (rows, columns // group_size))
    scale = torch.rand(rows, columns // group_size).half()
    matrix = PackedMatrix(pack_words(q.to(torch.uint8), group_size), join_groups(scale, zero))
    assert matrix.shape == (rows, columns)
    assert matrix.group_size == group_size
    want = (q.double() - zero.double().repeat_interleave(group_size, 1)) * scale.double().repeat_interleave(
        group_size, 1
    )
    assert torch.equal(unpack_matrix(matrix, torch.float64), want)
