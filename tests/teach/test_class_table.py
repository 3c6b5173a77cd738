"""A snapshot in words and as a table: who is at work is there, names stay text."""

from __future__ import annotations

import random
from html.parser import HTMLParser

from lmcourse.teach import class_summary, class_table
from tests.teach.class_snapshots import make_snapshot


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def test_table_has_a_row_for_each_at_work(rng: random.Random) -> None:
    names = ["Ada", "<script>alert(1)</script>", 'B"en & Co', *(f"idle {n}" for n in range(20))]
    snapshot = make_snapshot(rng, names, num_busy=3)
    cells = _Cells()
    cells.feed(class_table(snapshot))
    assert cells.open == []
    head, *rows = cells.rows
    assert {row[0] for row in rows} == set(names[:3])
    assert all(len(row) == len(head) for row in rows)
    for student, row in zip(snapshot["students"], rows, strict=False):
        dots = row[1].partition(" ")[0]
        assert dots == ("●" * student["running"] + "○" * student["waiting"])[:8]
        assert row[2] == "3 s, 41 tokens"
        assert row[8].startswith(f"{1000 - student['tokens_last_minute']} this minute")
        assert ("refused" in row[8]) == (student["refused"] > 0)
    assert class_table(snapshot).count("flex: 0 1 ") == 5  # three holders, what is kept, what is free
    assert "<script>" not in class_table(snapshot)


def test_summary_names_who_takes_most(rng: random.Random) -> None:
    snapshot = make_snapshot(rng, ["Ada", "Ben", "Chen"], num_busy=2)
    first = max(snapshot["students"], key=lambda row: row["throughput_share"])
    told = class_summary(snapshot)
    assert told.startswith("2 of 3 students are at work.")
    assert f"Most tokens go to {first['name']}: {first['throughput_share']:.0%}, an equal share is 50%." in told
    assert class_summary(make_snapshot(rng, ["Ada"], num_busy=0)).startswith("0 of 1 students are at work. 0 tokens/s")
