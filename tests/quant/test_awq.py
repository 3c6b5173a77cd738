"""AWQ's search: its errors are those of real outputs, and it finds the channels that matter."""

import pytest
import torch

from lmcourse.quant import (
    ChannelStats,
    QuantSettings,
    fake_quantise,
    fit_grid,
    inverse_factor,
    output_error,
    quantise,
    quantise_compensated,
    search_clip,
    search_scale,
    smooth_scale,
)

SETTINGS = QuantSettings(4, 32)


@pytest.fixture(autouse=True)
def seed():
    value = int(torch.randint(2**31, ()).item())
    print(f"seed {value}")
    torch.manual_seed(value)


def calibrated(tokens=400, columns=64, loud=3):
    """Inputs in which a few channels are thirty times as loud as the rest."""
    x = torch.randn(tokens, columns)
    x[:, :loud] *= 30
    return x, ChannelStats(x.abs().mean(0), x.abs().amax(0), x.t() @ x / tokens)


def mean_output_error(x, weight, rounded):
    return float((x.double() @ (rounded - weight).double().t()).square().mean())


def test_output_error_is_the_mean_square_of_outputs():
    x, stats = calibrated()
    difference = torch.randn(7, 64)
    want = (x @ difference.t()).square().mean(0)
    torch.testing.assert_close(output_error(difference, stats.second_moment), want, rtol=1e-3, atol=1e-3)


def test_search_scale_beats_rounding_and_reports_true_errors():
    x, stats = calibrated()
    weights = [torch.randn(48, 64), torch.randn(16, 64) * 0.3]
    found = search_scale(weights, stats, SETTINGS)
    errors = {"scaled": 0.0, "plain": 0.0}
    for weight in weights:
        scaled = weight * found.scale
        rounded = fake_quantise(scaled, fit_grid(scaled, SETTINGS), SETTINGS) / found.scale
        errors["scaled"] += mean_output_error(x, weight, rounded) * len(weight) / 64
        errors["plain"] += (
            mean_output_error(x, weight, fake_quantise(weight, fit_grid(weight, SETTINGS), SETTINGS)) * len(weight) / 64
        )
    assert errors["scaled"] < errors["plain"]  # of 300 draws 0.19 to 0.47 of it; log-normal, 1 is 8 deviations off
    assert min(found.errors) == pytest.approx(errors["scaled"], rel=0.02)
    assert found.unscaled_error == pytest.approx(errors["plain"], rel=0.02)
    assert found.scale[:3].min() > found.scale[3:].mean()  # loud channels get the larger scales
    assert (found.scale > 0).all()


def test_smooth_scale_is_the_fixed_rule():
    _, stats = calibrated()
    weight = torch.randn(16, 64)
    shares = weight.abs().view(16, 2, 32) / weight.abs().view(16, 2, 32).amax(-1, keepdim=True)
    want = (stats.largest_abs / shares.flatten(1).mean(0)).sqrt()
    want = want / (want.max() * want.min()).sqrt()
    torch.testing.assert_close(smooth_scale([weight], stats, SETTINGS), want)


def test_search_clip_never_hurts_and_helps_outliers():
    x, stats = calibrated(loud=0)
    weight = torch.randn(24, 64)
    weight[:, 5] *= 6
    limit = search_clip(weight, stats.second_moment, SETTINGS)
    assert limit.shape == (24, 2)
    grids = {"plain": fit_grid(weight, SETTINGS), "clipped": fit_grid(weight, SETTINGS, limit=limit)}
    errors = {}
    for name, grid in grids.items():
        missed = (fake_quantise(weight, grid, SETTINGS) - weight).double().view(24, 2, 32)
        outputs = torch.einsum("tgc,rgc->tgr", x.double().view(-1, 2, 32), missed)
        errors[name] = outputs.square().mean(0)  # of each group by itself, which is how it was judged
    assert (errors["clipped"] <= errors["plain"] * 1.001).all()  # 0.001: it was judged in float32
    assert errors["clipped"].sum() < errors["plain"].sum()
    assert (limit <= weight.abs().view(24, 2, 32).amax(-1)).all()


def test_search_scale_where_nothing_helps_changes_nothing():
    stats = ChannelStats(torch.ones(64), torch.ones(64), torch.eye(64))
    weight = torch.randint(0, 2, (8, 64)) * 15.0  # lies on any grid
    found = search_scale([weight], stats, SETTINGS)
    assert found.unscaled_error == 0
    assert (found.scale == 1).all()


def test_quantise_compensated_beats_rounding_where_inputs_go_together():
    x = torch.randn(500, 8) @ torch.randn(8, 64) + 0.1 * torch.randn(500, 64)  # eight causes behind 64 channels
    second_moment, weight = x.t() @ x / len(x), torch.randn(40, 64)
    grid = fit_grid(weight, SETTINGS)
    levels = quantise_compensated(weight, grid, SETTINGS, inverse_factor(second_moment))
    assert int(levels.max()) <= SETTINGS.largest
    back = ((levels.view(40, 2, 32) - grid.zero[..., None]) * grid.scale[..., None]).view_as(weight)
    plain = fake_quantise(weight, grid, SETTINGS)
    # of 300 draws 0.04 to 0.17; log-normal, 0.6 is 8 deviations off
    assert mean_output_error(x, weight, back) < 0.6 * mean_output_error(x, weight, plain)


def test_quantise_compensated_of_inputs_apart_is_rounding():
    weight = torch.randn(12, 64)
    grid = fit_grid(weight, SETTINGS)
    for moment in (torch.eye(64), torch.zeros(64, 64)):
        assert torch.equal(
            quantise_compensated(weight, grid, SETTINGS, inverse_factor(moment)),
            quantise(weight, grid, SETTINGS).to(torch.uint8),
        )
