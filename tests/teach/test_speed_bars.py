"""A drawing shows every row of its table and says so in words."""

from __future__ import annotations

import pytest

from lmcourse.errors import ConfigError
from lmcourse.teach import speed_bars


def test_speed_bars_has_one_bar_per_row_with_its_length() -> None:
    table = {"1 request": {"transformers": 100.0, "engine": 150.5}, "32 requests": {"engine": 2500.0}}
    (axes,) = speed_bars(table).figure.axes
    assert [bar.get_width() for bar in axes.patches] == [100.0, 150.5, 2500.0]
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["transformers, 1 request", "engine, 1 request", "engine, 32 requests"]
    transformers, engine, engine_too = (bar.get_hatch() for bar in axes.patches)
    assert transformers != engine == engine_too


def test_speed_bars_says_its_figures_and_is_a_png_with_alternative_text() -> None:
    drawing = speed_bars({"now": {"a": 1234.4, "b": 7.0}})
    data, metadata = drawing._repr_mimebundle_()
    assert data["text/plain"] == repr(drawing) == metadata["image/png"]["alt"]
    assert "a, now: 1,234; b, now: 7." in drawing.alt
    assert data["image/png"].startswith(b"\x89PNG")
    assert speed_bars({"now": {"a": 1234.4, "b": 7.0}}).png() == data["image/png"]


@pytest.mark.parametrize("table", [{}, {"now": {}}, {"now": {"a": 0.0}}, {"now": {"a": 3.0}, "then": {"a": -1.0}}])
def test_speed_bars_refuses_what_has_no_length(table: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ConfigError, match="positive"):
        speed_bars(table)


def test_speed_bars_draws_each_limit_above_its_bar() -> None:
    table = {"1": {"a": 100.0, "b": 50.0}, "2": {"a": 150.0}}
    drawing = speed_bars(table, limits={"1": {"a": 400.0}, "2": {"a": 800.0}})
    (axes,) = drawing.figure.axes
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[1] for line in dashed] == [400.0, 800.0]
    for line, row in zip(dashed, (0, 2), strict=True):
        bar = axes.patches[row]
        assert line.get_ydata()[0] <= bar.get_y()  # rows go downwards, so above is less
    assert axes.get_xlim()[1] > 800
    assert "a, 1: 100 of at most 400; b, 1: 50; a, 2: 150 of at most 800." in drawing.alt
