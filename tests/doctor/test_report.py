"""The doctor's report in its three forms."""

from __future__ import annotations

import json

import pytest

from lmcourse.doctor import Report, Row

ROWS = (
    Row("Python", "ok", "3.11.7"),
    Row("port 6006", "warn", "<gradio> listens", "add --server-port 6007"),
    Row("torch", "fix", "missing", "pip install torch"),
)


def test_report_with_something_to_fix_says_each_command():
    report = Report(ROWS, {"python": "3.11.7"})
    text = str(report)
    assert not report.healthy
    assert "FIX   torch      missing" in text
    assert "→ pip install torch" in text
    assert "→ add --server-port 6007" in text
    assert text.endswith("1 to fix, 1 to know about, 1 ok")


def test_report_with_warnings_only_is_ready():
    report = Report(ROWS[:2], {})
    assert report.healthy
    assert str(report).endswith("ready: 1 ok, 1 to know about")


def test_report_html_escapes_and_holds_every_row():
    markup = Report(ROWS, {})._repr_html_()
    assert "&lt;gradio&gt; listens" in markup
    assert "<gradio>" not in markup
    assert all(row.name in markup for row in ROWS)


def test_report_json_round_trips():
    report = Report(ROWS, {"python": "3.11.7"})
    read = json.loads(json.dumps(report.to_json()))
    assert read["healthy"] is False
    assert read["versions"] == {"python": "3.11.7"}
    assert [row["fix"] for row in read["rows"]] == [None, "add --server-port 6007", "pip install torch"]


@pytest.mark.parametrize("status", ["warn", "fix"])
def test_row_that_complains_without_remedy_is_refused(status):
    with pytest.raises(AssertionError, match="remedy"):
        Row("torch", status, "missing")
