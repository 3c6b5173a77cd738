"""Values go over as plain data and come back the same; what is malformed is refused, and nothing is ever run."""

from __future__ import annotations

import io
import json
import random
import struct

import numpy
import pytest
import torch

from lmcourse.homework.sandbox.plain import MOST_BYTES, decode, encode, read_message, write_message


@pytest.mark.parametrize(
    "value",
    [
        None, True, 7, -(2**70), 0.1, "上海\u2028", b"\x00\xff", [], [1, [2.5, None]], (1, "a"), {"a": (1,), 2: {3, 4}},
        float("inf"), "", {(1, 2): "tuple as key"},
    ],
    ids=repr,
)  # fmt: skip
def test_plain_value_comes_back(value: object) -> None:
    came = decode(json.loads(json.dumps(encode(value))))
    assert came == value
    assert type(came) is type(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.float16])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (4, 5)])
def test_tensor_comes_back_bit_by_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = torch.randint(0, 2, (*shape, 2)).to(dtype)[..., 0]  # with strides of its own
    came = decode(json.loads(json.dumps(encode(value))))
    assert came.dtype is dtype
    assert came.shape == value.shape
    assert torch.equal(came, value)


def test_arrays_numbers_and_dtypes_come_back() -> None:
    value = numpy.arange(6, dtype="int16").reshape(2, 3).T
    assert (decode(encode(value)) == value).all()
    assert decode(encode(numpy.float32(0.5))) == 0.5
    assert decode(encode(torch.float16)) is torch.float16


class Sly(str):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


def test_subclasses_lose_what_they_add() -> None:
    came = decode(json.loads(json.dumps(encode([Sly("wrong"), type("Int", (int,), {})(3)]))))
    assert [type(part) for part in came] == [str, int]


@pytest.mark.parametrize("value", [object(), print, iter([1]), torch.complex(torch.ones(1), torch.ones(1)), Exception])
def test_what_is_no_data_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be handed over"):
        encode(value)


@pytest.mark.parametrize(
    "data",
    [
        [1], {}, {"t": 3}, {"t": "pickle", "v": "gASVAAAA"}, {"t": "list", "v": 3}, {"t": "bytes", "v": "?"},
        {"t": "tensor", "dtype": "float32", "shape": [3], "v": "AAAA"}, {"t": "dtype", "v": "nn"},
        {"t": "tensor", "dtype": "os", "shape": [], "v": ""}, {"t": "function", "v": 0}, {"t": "dict", "v": [[1]]},
        {"t": "tensor", "dtype": "float32", "shape": [-1], "v": ""},
        {"t": "array", "dtype": "O", "shape": [1], "v": "AAAA"},
        {"t": "array", "dtype": "<i4", "shape": [2**40], "v": "AAAA"},
    ],
    ids=repr,
)  # fmt: skip
def test_malformed_data_is_a_value_error(data: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (of many kinds)
        decode(data)


def test_random_bytes_are_no_message() -> None:
    rng = random.Random(3)
    for _ in range(300):
        stream = io.BytesIO(struct.pack(">I", 20) + rng.randbytes(20))
        with pytest.raises(ValueError):  # noqa: PT011
            read_message(stream.read)


def test_too_long_a_message_is_refused_on_both_sides() -> None:
    with pytest.raises(TypeError, match="too large"):
        write_message(io.BytesIO(), {"v": "x" * MOST_BYTES})
    with pytest.raises(ValueError, match="too long"):
        read_message(io.BytesIO(struct.pack(">I", MOST_BYTES + 1)).read)
