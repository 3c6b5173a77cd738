"""The read pattern connects each stretch of positions with its block, the last one in part."""

from __future__ import annotations

import pytest
from matplotlib.patches import Rectangle

from lmcourse.errors import ConfigError
from lmcourse.teach import read_pattern


def test_read_pattern_fills_what_is_read() -> None:
    drawing = read_pattern([5, 2, 9, 7], position=36, tokens_per_block=16, num_blocks=10)
    (axes,) = drawing.figure.axes
    tinted = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_fill() and p.get_edgecolor()[3] == 0]
    in_pool = {p.get_x(): p.get_width() / 0.86 for p in tinted if p.get_y() == 0}
    assert in_pool == pytest.approx({5.0: 1.0, 2.0: 1.0, 9.0: 5 / 16})
    assert drawing.alt == "The token at position 36 reads all 16 slots of 5 and 2 and the first 5 slots of 9."
    texts = {text.get_text() for text in axes.texts}
    assert {"0–15", "16–31", "32–36"} <= texts


@pytest.mark.parametrize(("position", "said"), [(0, "the first slot of 3"), (3, "the first 4 slots of 3")])
def test_read_pattern_of_a_single_block(position: int, said: str) -> None:
    assert said in read_pattern([3], position=position, tokens_per_block=4, num_blocks=4).alt


@pytest.mark.parametrize(
    "wrong",
    [
        {"table": [1], "position": 4},
        {"table": [9], "position": 0},
        {"table": [], "position": 0},
        {"table": [1], "position": -1},
    ],
)
def test_read_pattern_refuses_a_table_that_does_not_reach(wrong) -> None:
    with pytest.raises(ConfigError, match="reaches position"):
        read_pattern(wrong["table"], position=wrong["position"], tokens_per_block=4, num_blocks=4)
