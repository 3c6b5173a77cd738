"""The checklist before a class: every line judged from facts, and the whole of it on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmcourse.doctor import Report, Row, class_report
from lmcourse.doctor.classroom import (
    GIB,
    STUDENT_GIB,
    check_lessons,
    check_sandbox,
    check_seconds,
    check_share,
    check_solutions,
    check_wheelhouse,
)
from lmcourse.errors import ServerError

MACHINE = Report((Row("Python", "ok", "3.12"),), {"python": "3.12"})


@pytest.fixture
def course(tmp_path: Path) -> Path:
    (tmp_path / "notebooks").mkdir()
    for number in range(1, 10):
        (tmp_path / "notebooks" / f"{number:02}_lesson.ipynb").touch()
    return tmp_path


def test_lessons_that_are_missing_are_named(course: Path) -> None:
    assert check_lessons(course / "notebooks").status == "ok"
    (course / "notebooks" / "06_lesson.ipynb").unlink()
    row = check_lessons(course / "notebooks")
    assert (row.status, row.fix) == ("fix", "make lessons")
    assert "not here: 6," in row.found
    assert check_lessons(course / "nowhere").status == "fix"


def test_solutions_beside_the_lessons_are_told(course: Path) -> None:
    assert check_solutions(course).status == "ok"
    (course / "instructor" / "solutions").mkdir(parents=True)
    row = check_solutions(course)
    assert row.status == "warn"
    assert "leave instructor/ here" in str(row.fix)


def test_wheelhouse_counts_only_with_torch_in_it(tmp_path: Path) -> None:
    assert check_wheelhouse(tmp_path / "wheelhouse").fix == "make wheelhouse"
    (tmp_path / "numpy-2.0-any.whl").write_bytes(b"x" * 100)
    assert check_wheelhouse(tmp_path).status == "warn"
    (tmp_path / "torch-2.13.0+cpu-any.whl").write_bytes(b"x" * 100)
    row = check_wheelhouse(tmp_path)
    assert row.status == "ok"
    assert "2 packages" in row.found


def test_sandbox_is_wished_for_and_not_needed() -> None:
    assert check_sandbox("/usr/bin/bwrap").status == "ok"
    assert "bubblewrap" in str(check_sandbox(None).fix)


@pytest.mark.parametrize(
    ("students", "gib", "threads", "status", "said"),
    [
        (30, 30 * STUDENT_GIB + 1, "2", "ok", "cores each"),
        (30, 30 * STUDENT_GIB + 1, "", "warn", "takes all cores"),
        (30, 12.0, "2", "warn", "room for 8"),
        (1, 4.0, "", "ok", "4.0 GiB"),
        (30, None, "", "warn", "unknown"),
    ],
)
def test_share_of_each_student(students: int, gib: float | None, threads: str, status: str, said: str) -> None:
    available = None if gib is None else int(gib * GIB)
    row = check_share(students, available, 64, {"OMP_NUM_THREADS": threads})
    assert row.status == status
    assert said in row.found


def test_slow_and_failing_models_are_told_apart() -> None:
    assert check_seconds("x", (1.25, "answered"), "do").found == "answered after 1.2 s"
    assert check_seconds("x", (60.0, "answered"), "do").status == "warn"
    failed = check_seconds("x", ServerError("no answer", next_step="start it"), "do")
    assert (failed.status, failed.found, failed.fix) == ("fix", "no answer", "start it")


def test_class_report_asks_the_model_and_the_class_server(course: Path, stand_in, monkeypatch) -> None:
    monkeypatch.setenv("LMCOURSE_SERVER", stand_in.url)
    report = class_report(MACHINE, 5, root=course)
    rows = {row.name: row for row in report.rows}
    assert report.rows[0] == MACHINE.rows[0]
    assert rows["first words"].status == "ok"
    assert rows["class server, 5 at once"].found.startswith("5 answers of stand-in")
    assert len(stand_in.bodies) == 5
    monkeypatch.setenv("LMCOURSE_SERVER", "http://127.0.0.1:9")
    broken = class_report(MACHINE, 5, root=course)
    assert not broken.healthy
    assert [row.name for row in broken.rows if row.status == "fix"] == ["class server, 5 at once"]
