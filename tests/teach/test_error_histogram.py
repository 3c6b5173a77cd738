"""The histogram counts with numpy's own bins and says the spread of each format."""

from __future__ import annotations

import numpy as np
import pytest

from lmcourse.errors import ConfigError
from lmcourse.teach import error_histogram


def test_error_histogram_has_one_outline_per_format_over_the_same_bins() -> None:
    seed = np.random.SeedSequence().entropy % 10**6
    print("seed", seed)
    rng = np.random.default_rng(seed)
    errors = {"KV8": rng.uniform(-0.01, 0.01, 5000), "KV4": rng.uniform(-0.2, 0.2, 5000)}
    drawing = error_histogram(errors)
    first, second = drawing.figure.axes[0].patches
    assert (first.get_data().edges == second.get_data().edges).all()
    assert first.get_linestyle() != second.get_linestyle()
    for outline in (first, second):
        values, edges, _ = outline.get_data()
        assert np.sum(values * np.diff(edges)) == pytest.approx(1.0)
    assert f"KV4: root mean square {np.std(errors['KV4']):.2g}" in drawing.alt


def test_error_histogram_of_no_error_at_all_can_be_drawn() -> None:
    assert "largest 0." in error_histogram({"exact": [0.0, 0.0]}).alt


@pytest.mark.parametrize("errors", [{}, {"a": []}, {"a": [float("nan")]}])
def test_error_histogram_refuses_what_cannot_be_counted(errors) -> None:
    with pytest.raises(ConfigError, match="finite"):
        error_histogram(errors)
