"""Measured tables: their points are what was asked for, and the engine is left as it was found."""

from __future__ import annotations

import dataclasses

import pytest

from lmcourse.bench import open_stand
from lmcourse.bench.capacity_measure import Grid, measure_steps
from lmcourse.config import TurbomindEngineConfig
from lmcourse.errors import ConfigError

GRID = Grid(((1, 20), (4, 20), (1, 60), (4, 60)), ((1, 8), (1, 64), (4, 16)), ((3, 30, 10),), num_steps=5, repeats=1)


@pytest.mark.parametrize("settings", [{}, {"overlap": True}, {"max_prefill_token_num": 32}])
def test_measure_steps_has_a_time_for_each_point(settings):
    config = TurbomindEngineConfig(dtype="float32", session_len=GRID.longest, max_batch_size=8, **settings)
    with open_stand("dummy:tiny", config) as stand:
        table = measure_steps(stand, GRID)
        assert not stand.engine.has_work
        stand.engine.check()
    assert [point.batch for point in table.decode] == [1, 4, 1, 4]
    for point, (_, context) in zip(table.decode, GRID.decodes, strict=True):
        assert context < point.context <= context + 40
    assert [point.tokens for point in table.prompts] == [8, 64, 64]
    assert len(table.mixed) == 1
    assert table.overlap is settings.get("overlap", False)
    assert table.head["model"] == "dummy:tiny"
    assert table.max_running == 8


def test_measure_steps_refuses_what_the_pool_does_not_hold():
    config = TurbomindEngineConfig(dtype="float32", session_len=128, max_batch_size=8, cache_max_entry_count=4.0)
    with open_stand("dummy:tiny", config) as stand, pytest.raises(ConfigError, match="too small"):
        measure_steps(stand, dataclasses.replace(GRID, decodes=((4, 100), (1, 100))))
