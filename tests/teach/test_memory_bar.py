"""Memory bars are as long as their bytes, carry the total, and tell parts apart by hatch."""

from __future__ import annotations

import pytest

from lmcourse.errors import ConfigError
from lmcourse.teach import memory_bar

TABLE = {
    "predicted": {"weights": 3.0 * 2**30, "KV cache": 2.0 * 2**30},
    "measured": {"weights": 3.0 * 2**30, "KV cache": 2.0 * 2**30, "rest": 300.0 * 2**20},
}


def test_memory_bar_lays_parts_end_to_end() -> None:
    drawing = memory_bar(TABLE, limit_bytes=8 * 2**30, title="A card")
    (axes,) = drawing.figure.axes
    bars = [(bar.get_x(), bar.get_width(), bar.get_hatch()) for bar in axes.patches]
    assert [(x, width) for x, width, _ in bars] == [
        (0, 3 * 2**30), (3 * 2**30, 2 * 2**30), (0, 3 * 2**30), (3 * 2**30, 2 * 2**30), (5 * 2**30, 300 * 2**20),
    ]  # fmt: skip
    assert len({hatch for *_, hatch in bars}) == 3
    assert bars[0][2] == bars[2][2]
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert legend == ["weights", "KV cache", "rest"]
    assert axes.lines[0].get_xdata()[0] == 8 * 2**30


def test_memory_bar_says_its_bytes() -> None:
    alt = memory_bar(TABLE, limit_bytes=8 * 2**30, title="A card").alt
    assert alt.startswith("A card. predicted: weights 3 GiB, KV cache 2 GiB, together 5 GiB; measured: ")
    assert "rest 300 MiB, together 5.29 GiB" in alt
    assert alt.endswith("A dashed line stands at 8 GiB.")


@pytest.mark.parametrize("table", [{}, {"a": {}}, {"a": {"x": -1.0}}, {"a": {"x": 0.0}}])
def test_memory_bar_refuses_what_has_no_length(table: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ConfigError, match="bytes"):
        memory_bar(table)
