"""Storage formats: 8-bit rows are near what they stand for, and the engine's words are the same bytes."""

import pytest
import torch

from lmcourse.quant import INT8_ROWS, StoredInt8


@pytest.fixture(autouse=True)
def seed():
    value = int(torch.randint(2**31, ()).item())
    print(f"seed {value}")
    torch.manual_seed(value)


def test_int8_rows_are_within_half_a_step():
    weight = torch.randn(37, 64) * torch.logspace(-4, 3, 37)[:, None]
    stored = StoredInt8.round(weight.half())
    assert stored.qweight.dtype == torch.int8
    assert int(stored.qweight.abs().max()) == 127
    back = stored.qweight.float() * stored.row_scales
    assert ((back - weight.half().float()).abs() <= stored.row_scales * 0.5001).all()


def test_int8_rows_of_zeros_stay_zeros():
    stored = StoredInt8.round(torch.zeros(3, 8))
    assert (stored.qweight == 0).all()
    assert torch.isfinite(stored.row_scales).all()


def test_int8_format_holds_the_same_bytes():
    stored = StoredInt8.round(torch.randn(20, 32))
    parameters = {"words": INT8_ROWS.words(stored.qweight), "groups": INT8_ROWS.groups(stored.row_scales)}
    leaves = INT8_ROWS.leaves(20, 32)
    assert {name: (tuple(t.shape), t.dtype) for name, t in parameters.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()
    }
    matrix = INT8_ROWS.matrix(parameters, None)
    assert torch.equal(matrix.codes, stored.qweight)
    assert torch.equal(matrix.scales, stored.row_scales[:, 0])
    assert matrix.shape == (20, 32)
