"""Round to nearest: the grid by its definition, one group at a time."""

import pytest
import torch

from lmcourse.errors import ConfigError
from lmcourse.quant import QuantSettings, fake_quantise, fit_grid, quantise


@pytest.fixture(autouse=True)
def seed():
    value = int(torch.randint(2**31, ()).item())
    print(f"seed {value}")
    torch.manual_seed(value)


def by_hand(group, bits, *, symmetric):
    if symmetric:
        middle = 2 ** (bits - 1)
        scale, zero = max(abs(v) for v in group) / (middle - 1), middle
    else:
        low, high = min(*group, 0), max(*group, 0)
        scale = (high - low) / (2**bits - 1)
    scale = float(torch.tensor(max(scale, 1e-5)).half())
    if not symmetric:
        zero = round(-low / scale)
    levels = [min(max(round(v / scale) + zero, 0), 2**bits - 1) for v in group]
    return levels, [(level - zero) * scale for level in levels]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_quantise_is_the_definition(bits, symmetric):
    weight = torch.randn(5, 32)
    settings = QuantSettings(bits, 16, symmetric)
    grid = fit_grid(weight, settings)
    levels, values = quantise(weight, grid, settings), fake_quantise(weight, grid, settings)
    for row in range(5):
        for group in range(2):
            part = slice(16 * group, 16 * group + 16)
            want_levels, want_values = by_hand(weight[row, part].tolist(), bits, symmetric=symmetric)
            assert (levels[row, part].int() - torch.tensor(want_levels)).abs().max() <= 1  # a tie may round either way
            torch.testing.assert_close(
                values[row, part], torch.tensor(want_values), atol=1.01 * grid.scale.max().item(), rtol=0
            )


@pytest.mark.parametrize("symmetric", [False, True])
def test_error_is_at_most_half_a_step(symmetric):
    weight, settings = torch.randn(64, 256) * torch.rand(64, 1), QuantSettings(4, 128, symmetric)
    grid = fit_grid(weight, settings)
    error = (fake_quantise(weight, grid, settings) - weight).abs().view(64, 2, 128)
    assert (error <= grid.scale[..., None] * 0.51 + weight.abs().max() * 1e-3).all()


def test_zeros_and_flat_groups_stay_what_they_are():
    weight = torch.zeros(4, 64)
    weight[1] = 0.5
    weight[2, ::2] = -1.0
    settings = QuantSettings(4, 32)
    got = fake_quantise(weight, fit_grid(weight, settings), settings)
    assert (got[weight == 0] == 0).all()
    torch.testing.assert_close(got, weight, atol=2e-3, rtol=0)


def test_limit_clips():
    weight, settings = torch.randn(8, 64), QuantSettings(4, 64)
    grid = fit_grid(weight, settings, limit=torch.full((8, 1), 0.5))
    assert fake_quantise(weight, grid, settings).abs().max() <= 0.55


@pytest.mark.parametrize(("bits", "group_size"), [(1, 128), (9, 128), (4, 0), (4, -1)])
def test_settings_out_of_range_are_named(bits, group_size):
    with pytest.raises(ConfigError):
        QuantSettings(bits, group_size)


def test_group_that_does_not_divide_is_named():
    with pytest.raises(ConfigError, match="does not divide"):
        fit_grid(torch.randn(2, 96), QuantSettings(4, 64))
