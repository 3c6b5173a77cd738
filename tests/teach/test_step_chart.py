"""The step chart has a box for each piece of work, a sign for each preemption and end, and a sentence for each row."""

from __future__ import annotations

import pytest
from matplotlib.patches import Rectangle

from lmcourse.errors import ConfigError
from lmcourse.teach import Timeline, step_chart, timeline
from lmcourse.teach.trace import Mark, Work


def test_step_chart_draws_all_the_work_of_a_run(recorded) -> None:
    table = timeline(recorded.log)
    drawing = step_chart(table)
    (axes,) = drawing.figure.axes
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(boxes) == len(table.work)
    assert sum(bool(box.get_hatch()) for box in boxes) == sum(work.kind == "prefill" for work in table.work)
    signs = [line.get_marker() for line in axes.lines]
    assert signs.count("x") == recorded.num_preemptions
    assert signs.count("o") == 5
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list("ABCDE")
    assert f"{recorded.num_steps} steps" in drawing.alt
    assert "preempted 1 time" in drawing.alt


def test_step_chart_says_what_each_request_did() -> None:
    work = (Work(1, 0, "prefill", 7), Work(2, 0, "decode", 1), Work(3, 0, "decode", 1), Work(3, 1, "prefill", 5))
    marks = (Mark(0, 0, "came"), Mark(2, 1, "came"), Mark(3, 0, "ended"))
    alt = step_chart(Timeline(work, marks), title="Two requests").alt
    assert alt == (
        "Two requests: 3 steps. A: steps 1 to 3, 7 tokens prefilled, 2 decodes; "
        "B: steps 3 to 3, 5 tokens prefilled, 0 decodes."
    )


def test_step_chart_refuses_what_nobody_could_read() -> None:
    with pytest.raises(ConfigError, match="1 to 200 steps"):
        step_chart(Timeline((), ()))
    with pytest.raises(ConfigError, match="201 steps"):
        step_chart(Timeline((Work(201, 0, "decode", 1),), ()))
