"""Curves are drawn through their points; a crossing is where the first stays above."""

from __future__ import annotations

import pytest

from lmcourse.errors import ConfigError
from lmcourse.teach import crossing, line_chart


@pytest.mark.parametrize(
    ("first", "second", "point"),
    [
        ([1, 2, 3, 4], [2, 2, 2, 2], 3),
        ([5, 1, 3, 4], [2, 2, 2, 2], 3),
        ([3, 3, 3, 3], [2, 2, 2, 2], 1),
        ([3, 3, 3, 2], [2, 2, 2, 2], None),
    ],
)
def test_crossing_is_where_the_first_stays_above(first, second, point) -> None:
    xs = (4, 2, 1, 3)
    curves = [{x: ys[x - 1] for x in xs} for ys in (first, second)]
    assert crossing(*curves) == point


def test_line_chart_draws_sorted_points_and_names_the_crossing() -> None:
    table = {"without": {4: 8.0, 1: 1.0, 2: 3.0}, "with": {1: 2.0, 2: 2.0, 4: 2.5}}
    drawing = line_chart(table, x_label="tokens", y_label="ms", title="Time")
    (axes,) = drawing.figure.axes
    assert [list(line.get_xdata()) for line in axes.lines[:2]] == [[1, 2, 4], [1, 2, 4]]
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    assert drawing.alt == (
        "Time: ms over tokens. without goes from 1 at 1 to 8 at 4; with goes from 2 at 1 to 2.5 at 4. "
        "From 2 on, without stays above with."
    )


def test_line_chart_marks_no_place_where_one_curve_is_above_everywhere() -> None:
    drawing = line_chart({"a": {1: 2.0, 2: 3.0}, "b": {1: 1.0, 2: 1.0}}, x_label="x", y_label="y", title="t")
    assert len(drawing.figure.axes[0].lines) == 2
    assert drawing.alt.endswith("a is above b everywhere.")


def test_line_chart_without_points_is_refused() -> None:
    with pytest.raises(ConfigError, match="no curve"):
        line_chart({"a": {}}, x_label="x", y_label="y", title="t")


def test_line_chart_says_where_a_curve_is_lowest_between_its_ends() -> None:
    drawing = line_chart({"error": {0.0: 1.0, 0.25: 0.9, 0.5: 1.4}}, x_label="r", y_label="e", title="t")
    assert "from 1 at 0 by way of its lowest, 0.9 at 0.25, to 1.4 at 0.5." in drawing.alt


def test_line_chart_writes_the_values_of_x_where_they_are_few() -> None:
    few = line_chart({"a": {3: 1.0, 4: 2.0}}, x_label="bits", y_label="y", title="t").figure.axes[0]
    assert [label.get_text() for label in few.get_xticklabels()] == ["3", "4"]


def test_line_chart_keeps_names_of_equal_ends_apart() -> None:
    drawing = line_chart({"a": {1: 9.0, 2: 1.0}, "b": {1: 5.0, 2: 1.01}}, x_label="x", y_label="y", title="t")
    (axes,) = drawing.figure.axes
    drawing.figure.canvas.draw()
    lower, higher = sorted(text.get_window_extent().y0 for text in axes.texts[:2])
    assert higher - lower > 10
