"""A portion of columns, rounded: what is given back and the errors make up what was there."""

import pytest
import torch

from lmcourse.kernels import round_columns


@pytest.mark.parametrize("rows", [0, 1, 9])
@pytest.mark.parametrize("columns", [1, 20, 128])
def test_round_columns_levels_and_errors_make_up_the_weight(rows, columns):
    """w = (level − zero) · scale + (errors of this and earlier columns) · U, in float64."""
    seed = int(torch.randint(2**31, ()).item())
    print(f"seed {seed}")
    torch.manual_seed(seed)
    weight, scale = torch.randn(rows, columns), 0.1 + torch.rand(rows, columns)
    zero = torch.randint(15, (rows, columns)).float()
    factor = (torch.eye(columns) + 0.1 * torch.randn(columns, columns)).triu()
    before = weight.clone()
    levels, errors = round_columns(weight, factor, scale, zero, 15)
    assert torch.equal(weight, before)
    assert levels.dtype == torch.uint8
    assert not rows or int(levels.max()) <= 15
    value = (levels.double() - zero.double()) * scale.double() + errors.double() @ factor.double()
    torch.testing.assert_close(value, weight.double(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("factor", "columns"), [((4, 5), 4), ((4, 4), 5), ((300, 300), 300)])
def test_round_columns_of_other_shapes_is_refused(factor, columns):
    with pytest.raises(ValueError, match="portion of columns"):
        round_columns(*(torch.zeros(shape) for shape in ((3, columns), factor, (3, columns), (3, columns))), 15)
