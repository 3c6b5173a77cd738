"""Compensated rounding: less is lost of real outputs, whatever the inputs of a rounded model have become."""

import pytest
import torch

from lmcourse.quant import (
    InputMoments,
    QuantSettings,
    aimed,
    compensated,
    fake_quantise,
    fit_grid,
    inverse_factor,
    output_error,
    quantise,
    quantise_compensated,
    refitted,
)

SETTINGS = QuantSettings(4, 32)


@pytest.fixture(autouse=True)
def seed():
    value = int(torch.randint(2**31, ()).item())
    print(f"seed {value}")
    torch.manual_seed(value)


def mixed(tokens=600, columns=96, rank=24):
    """Inputs that rise and fall together."""
    return torch.randn(tokens, rank) @ torch.randn(rank, columns) + 0.3 * torch.randn(tokens, columns)


def moments(exact, drifted):
    return InputMoments(drifted.t() @ drifted / len(drifted), exact.t() @ drifted / len(drifted), len(drifted))


def value(levels, grid):
    rows, columns = levels.shape
    steps = levels.view(rows, grid.scale.shape[1], -1).float() - grid.zero[..., None]
    return (steps * grid.scale[..., None]).view(rows, columns)


def lost(x, weight, seen, rounded):
    return float((x.double() @ weight.double().t() - seen.double() @ rounded.double().t()).square().mean())


def rounded_by_hand(weight, grid, settings, factor):
    """One column after the other in float64: (levels, columns of each row before the first that is nearly a tie).

    Behind a tie that float32 breaks the other way, other errors are carried on.
    """
    left, factor = weight.double().clone(), factor.double()
    levels, clear = torch.zeros_like(left), torch.full((len(left),), left.shape[1])
    for k in range(left.shape[1]):
        scale, zero = (part[:, k // settings.group_size].double() for part in (grid.scale, grid.zero))
        steps = left[:, k] / scale
        levels[:, k] = (steps.round() + zero).clamp(0, settings.largest)
        tied = ((steps - steps.floor()) - 0.5).abs() < 1e-3  # of a step; float32 is within 1e-4
        clear = torch.where(tied & (clear > k), k, clear)
        error = (left[:, k] - (levels[:, k] - zero) * scale) / factor[k, k]
        left[:, k + 1 :] -= error[:, None] * factor[k, k + 1 :]
    return levels, clear


@pytest.mark.parametrize("group_size", [8, 32, 96])
@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("at_once", [96, 20])
def test_columns_in_portions_equal_columns_one_by_one(bits, group_size, at_once, monkeypatch):
    settings, weight, x = QuantSettings(bits, group_size), torch.randn(9, 96), mixed()
    grid, factor = fit_grid(weight, settings), inverse_factor(x.t() @ x / len(x))
    monkeypatch.setattr("lmcourse.quant.compensation._COLUMNS_AT_ONCE", at_once)
    found = quantise_compensated(weight, grid, settings, factor)
    levels, clear = rounded_by_hand(weight, grid, settings, factor)
    print("columns compared of 96:", clear.tolist())
    for row, count in enumerate(clear.tolist()):
        assert torch.equal(found[row, :count].double(), levels[row, :count])
    assert int(found.max()) <= settings.largest


def test_refitted_scales_are_the_least_squares_ones():
    """Against numbers found by solving for each row's outputs directly, in float64; the damping is one more output."""
    weight, x = torch.randn(4, 96), mixed()
    grid = fit_grid(weight, SETTINGS)
    levels = quantise(weight, grid, SETTINGS)
    found = refitted(weight, levels, grid, x.t() @ x / len(x))
    for row in range(4):
        steps = levels[row].view(3, 32).double() - grid.zero[row][:, None].double()
        inputs = torch.cat((x.double(), (0.01 * x.double().square().sum() / 96) ** 0.5 * torch.eye(96).double()))
        parts = torch.stack([inputs[:, i * 32 : (i + 1) * 32] @ steps[i] for i in range(3)], dim=1)
        want = torch.linalg.lstsq(parts, inputs @ weight[row].double()[:, None]).solution[:, 0]
        torch.testing.assert_close(found.scale[row].double(), want, rtol=2e-3, atol=1e-6)
    assert torch.equal(found.zero, grid.zero)


def test_aimed_weights_undo_what_can_be_undone():
    """Inputs that all came out a tenth too small want weights a tenth larger, nearly."""
    weight, x = torch.randn(7, 96), mixed(tokens=2000, rank=96)
    found = aimed(weight, moments(x, 0.9 * x))
    assert lost(x, weight, 0.9 * x, found) < 0.05 * lost(x, weight, 0.9 * x, weight)
    torch.testing.assert_close(aimed(weight, moments(x, x)), weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clip", [False, True])
def test_whole_stage_loses_less_than_rounding_on_unseen_inputs(clip):
    weight = torch.randn(40, 96)
    turn = torch.randn(24, 96)
    draw = lambda: torch.randn(3000, 24) @ turn + 0.3 * torch.randn(3000, 96)  # noqa: E731
    noise = 0.3 * torch.randn(96, 96) / 96**0.5
    seen, fresh = draw(), draw()
    drift = lambda x: x + x @ noise  # noqa: E731
    levels, grid = compensated(weight, moments(seen, drift(seen)), SETTINGS, clip=clip)
    nearest = fake_quantise(weight, fit_grid(weight, SETTINGS), SETTINGS)
    assert lost(fresh, weight, drift(fresh), value(levels, grid)) < 0.5 * lost(fresh, weight, drift(fresh), nearest)
    assert torch.equal(grid.scale, grid.scale.half().float())


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_few_or_no_inputs_leave_the_weights_nearly_rounded(tokens):
    weight, x = torch.randn(6, 96), torch.randn(tokens, 96)
    second = x.t() @ x / max(tokens, 1)
    levels, grid = compensated(weight, InputMoments(second, second, tokens), SETTINGS, clip=False)
    assert torch.isfinite(grid.scale).all()
    assert float((value(levels, grid) - weight).norm() / weight.norm()) < 0.3
    assert float(output_error(value(levels, grid) - weight, second).sum()) <= float(
        output_error(fake_quantise(weight, fit_grid(weight, SETTINGS), SETTINGS) - weight, second).sum() + 1e-9
    )
