"""Step tables: lines between the points, what lies outside, files that are none."""

from __future__ import annotations

import json

import pytest
from capacity_tables import make_table, toy_mixed

from lmcourse.bench.capacity_steps import DecodePoint, PromptPoint, StepTable, pick_table, read_tables
from lmcourse.errors import CheckpointError, ConfigError


def sloped() -> StepTable:
    """1 ms, 0.1 for each request, 0.001 for each cached token of all."""
    points = [DecodePoint(b, c, 1 + 0.1 * b + 0.001 * b * c) for b in (1, 4, 8) for c in (100, 1000)]
    return make_table(decode=tuple(points))


@pytest.mark.parametrize(("batch", "context"), [(1, 100), (8, 1000), (4, 321), (6, 1000), (3, 500), (12, 2000)])
def test_decode_ms_is_on_the_lines_between_points(batch, context):
    # linear in each of both: exact wherever the truth is
    assert sloped().decode_ms(batch, context) == pytest.approx(1 + 0.1 * batch + 0.001 * batch * context)


def test_prompt_ms_counts_pairs_where_prompts_of_equal_tokens_were_cut_differently():
    truth = lambda prompts, each: 2 + 0.01 * prompts * each + 1e-5 * prompts * each**2 / 2  # noqa: E731
    table = make_table(prompts=tuple(PromptPoint(n, e, truth(n, e)) for n, e in ((1, 100), (1, 800), (8, 100))))
    assert table.prompt_ms([(0, 400)]) == pytest.approx(truth(1, 400))
    assert table.prompt_ms([(0, 200), (0, 200)]) == pytest.approx(truth(2, 200))
    whole = table.prompt_ms([(0, 800)])
    chunked = table.prompt_ms([(0, 400)]) + table.prompt_ms([(400, 800)])
    assert chunked == pytest.approx(whole + 2)  # the step's own time twice


def test_seconds_of_a_mixed_step_is_the_parts_less_what_both_save():
    assert make_table().seconds([100] * 8, [(0, 10)])[0] == pytest.approx(0.110)
    assert make_table(mixed=toy_mixed(104.0)).seconds([100] * 8, [(0, 10)])[0] == pytest.approx(0.104)
    assert make_table(mixed=toy_mixed(20.0)).seconds([100] * 8, [(0, 10)])[0] == pytest.approx(0.100)  # no less


@pytest.mark.parametrize(
    ("contexts", "chunks", "inside"),
    [([100], [], True), ([512] * 64, [(0, 100)], True), ([100] * 65, [], False), ([513], [], False),
     ([], [(0, 101)], False), ([], [(900, 1000)], True)],
)  # fmt: skip
def test_seconds_says_whether_such_steps_were_measured(contexts, chunks, inside):
    assert make_table().seconds(contexts, chunks)[1] is inside


@pytest.mark.parametrize(
    "changed",
    [
        {"decode": (DecodePoint(1, 16, 1.0),)},
        {"decode": (DecodePoint(1, 16, 1.0), DecodePoint(1, 32, 1.0))},
        {"prompts": (PromptPoint(1, 16, 1.0),)},
        {"mixed": toy_mixed(0.0)},
    ],
)
def test_table_with_too_little_or_no_time_is_refused(changed):
    with pytest.raises(ConfigError):
        make_table(**changed)


def test_read_tables_gives_back_what_was_written_alone_or_with_others(tmp_path):
    one, other = (
        make_table(mixed=toy_mixed(90.0)),
        make_table(head={**make_table().head, "settings": {"quant_policy": 8}}),
    )
    alone, both = tmp_path / "one.json", tmp_path / "both.json"
    alone.write_text(json.dumps(one.to_json()))
    both.write_text(json.dumps({"tables": [one.to_json(), other.to_json()]}))
    assert read_tables(alone) == [one]
    assert [table.name for table in read_tables(both)] == ["toy", "toy, KV int8"]
    assert pick_table(read_tables(both), "toy", 8) == other
    assert pick_table(read_tables(both), None, 0) == one
    with pytest.raises(ConfigError, match="toy, KV int8"):
        pick_table(read_tables(both), "toy", 4)


@pytest.mark.parametrize(
    "text", ["", "[1]", "3", "{}", '{"tables": 3}', '{"tables": [1]}', '{"decode": 3}', '{"decode": [{"batch": 1}]}']
)
def test_read_tables_refuses_other_files(tmp_path, text):
    path = tmp_path / "steps.json"
    path.write_text(text)
    with pytest.raises(CheckpointError):
        read_tables(path)
    with pytest.raises(CheckpointError, match="bench steps"):
        read_tables(tmp_path / "missing.json")
