"""The block map shows every block of the pool, and says in words what it shows."""

from __future__ import annotations

import pytest
from matplotlib.patches import Rectangle

from lmcourse.errors import ConfigError
from lmcourse.teach import PoolState, block_map, pool_states
from lmcourse.teach.trace import Use

STATE = PoolState(
    step=3,
    num_blocks=6,
    tokens_per_block=4,
    uses={1: (Use(0, 4), Use(2, 4)), 4: (Use(0, 1),), 5: (Use(2, 0),)},
    doing={0: "decode", 1: "wait", 2: "decode"},
)


def cells_of(drawing) -> list[Rectangle]:
    (axes,) = drawing.figure.axes
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_block_map_draws_each_block_once_and_shared_ones_thick() -> None:
    edges = [patch for patch in cells_of(block_map(STATE)) if not patch.get_fill()]
    assert len(edges) == 6
    thick = [patch.get_x() for patch in edges if patch.get_linewidth() > 2]
    assert thick == [1]


def test_block_map_fills_a_cell_as_far_as_its_tokens_reach_and_hatches_the_rest() -> None:
    patches = cells_of(block_map(STATE))
    side = next(patch.get_width() for patch in patches if not patch.get_fill())
    filled = {p.get_x(): p.get_width() / side for p in patches if p.get_fill() and not p.get_hatch()}
    assert filled == pytest.approx({1: 1.0, 4: 0.25, 5: 0.0})
    assert {p.get_x() for p in patches if p.get_hatch()} == {1, 4, 5}


def test_block_map_says_it_all_in_words() -> None:
    text = block_map(STATE).alt
    assert "A holds 1 and 4 (1 token)." in text
    assert "C holds 1 and 5 (0 tokens)." in text
    assert "Shared: 1." in text
    assert text.startswith("Step 3   A C: decode · B: wait.")
    assert "3 of 6 blocks are free; 58% of the slots in the others are empty." in text


def test_block_map_marks_what_the_prefix_cache_keeps() -> None:
    drawing = block_map(PoolState(4, 3, 4, {0: tuple(Use(n, 4) for n in range(5))}, {}, frozenset({2})))
    (axes,) = drawing.figure.axes
    assert {"kept", "A +4"} <= {text.get_text() for text in axes.texts}
    assert "2 of 3 blocks are free, 1 of them kept for whoever begins alike" in drawing.alt


def test_block_map_is_the_same_each_time_and_for_every_recorded_state(recorded) -> None:
    states = pool_states(recorded.log, num_blocks=10, tokens_per_block=8)
    for state in states[:: max(1, len(states) // 6)]:
        drawing = block_map(state)
        assert drawing.png() == block_map(state).png()
        letters = {text.get_text() for text in drawing.figure.axes[0].texts}
        assert {chr(65 + use.request_id) for uses in state.uses.values() for use in uses} <= letters
    assert "nobody runs" in block_map(states[-1]).alt


@pytest.mark.parametrize("num_blocks", [0, 257])
def test_block_map_refuses_a_pool_that_cannot_be_seen(num_blocks: int) -> None:
    with pytest.raises(ConfigError, match="1 to 256 blocks"):
        block_map(PoolState(1, num_blocks, 4, {}, {}))
