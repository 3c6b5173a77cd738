"""A snapshot as a figure, for classes of any size."""

from __future__ import annotations

import random

import pytest

from lmcourse.teach import class_chart
from tests.teach.class_snapshots import make_snapshot


@pytest.mark.parametrize(("size", "num_busy"), [(1, 0), (1, 1), (30, 17), (300, 45)])
def test_chart_draws_everybody_at_work(rng: random.Random, size: int, num_busy: int) -> None:
    names = [f"student {n} $x_{{$" for n in range(size)]
    snapshot = make_snapshot(rng, names, num_busy=num_busy)
    drawing = class_chart(snapshot)
    assert drawing.png().startswith(b"\x89PNG")
    pool, speeds = drawing.figure.axes
    assert len(speeds.patches) == min(30, num_busy)
    widths = [patch.get_width() for patch in pool.patches]
    assert sum(widths) == pytest.approx(snapshot["pool"]["blocks"])
    shares = [row["throughput_share"] for row in snapshot["students"][: min(30, num_busy)]]
    assert [patch.get_width() for patch in speeds.patches] == pytest.approx(shares)
    assert f"{num_busy} of {size} students are at work" in drawing.alt
