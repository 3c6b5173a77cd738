from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from lmcourse.homework import EXERCISES, check, hint, progress
from lmcourse.homework.progress_file import Standing, note_check, note_hint, read_rows, rows_of
from lmcourse.homework.progress_view import Progress, progress_html, progress_text


def standing(folder: Path, exercise_id: str) -> Standing:
    return next(row.standing for row in read_rows(folder) if row.exercise.id == exercise_id)


def test_progress_begins_empty_and_at_the_first_exercise(tmp_path: Path) -> None:
    rows = read_rows(tmp_path)
    assert [row.exercise.id for row in rows] == [exercise.id for exercise in EXERCISES]
    assert not any(row.standing.tries for row in rows)
    assert Progress(rows).resume == EXERCISES[0].id
    assert progress_text(rows) == progress_text(read_rows(tmp_path))


def test_tries_best_hints_and_pass_are_kept(tmp_path: Path) -> None:
    for score in (0.25, 0.75, 0.5):
        assert note_check("1.1", score, folder=tmp_path) is None
    assert note_hint("1.1", 2, folder=tmp_path) is None
    assert note_hint("1.1", 1, folder=tmp_path) is None
    found = standing(tmp_path, "1.1")
    assert (found.tries, found.best, found.hints, found.done) == (3, 0.75, 2, False)
    assert Progress(read_rows(tmp_path)).resume == "1.1"
    note_check("1.1", 1.0, folder=tmp_path)
    note_check("1.1", 0.0, folder=tmp_path)
    found = standing(tmp_path, "1.1")
    assert found.done
    assert found.best == 1.0
    assert Progress(read_rows(tmp_path)).resume == "1.2"


def test_resume_is_where_one_was_last(tmp_path: Path) -> None:
    note_check("1.1", 0.5, folder=tmp_path)
    note_check("3.2", 0.5, folder=tmp_path)
    assert Progress(read_rows(tmp_path)).resume == "3.2"


def test_time_between_signs_of_life_counts_and_pauses_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000.0, 1300.0, 1300.0 + 7200, 1300.0 + 7260])
    monkeypatch.setattr("lmcourse.homework.progress_file.time.time", lambda: next(clock))
    for _ in range(4):
        note_check("2.1", 0.5, folder=tmp_path)
    assert standing(tmp_path, "2.1").seconds == 360


def test_check_and_hint_note_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCOURSE_HOMEWORK", str(tmp_path))
    monkeypatch.setenv("LMCOURSE_STUDENT", "Li Lei")
    check("1.1", lambda config: 3)
    check("1.2", ...)  # a stub is no try
    hint("2.2")
    folder = tmp_path / "Li Lei"
    assert standing(folder, "1.1").tries == 1
    assert standing(folder, "1.2").tries == 0
    assert standing(folder, "2.2").hints >= 1
    assert progress().resume == "2.2"


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"exercises": 7}', '{"exercises": {"1.1": [1]}, "last": "noon"}'])
def test_damaged_file_costs_nothing_but_what_it_held(tmp_path: Path, text: str) -> None:
    (tmp_path / "progress.json").write_text(text)
    assert note_check("1.1", 0.5, folder=tmp_path) is None
    assert standing(tmp_path, "1.1").tries == 1
    aside = list(tmp_path.glob("progress.json.damaged-*"))
    assert [path.read_text() for path in aside] == ([text] if text in ("{", "[1, 2]") else [])


def test_values_that_are_none_count_as_nothing() -> None:
    given = {"tries": "many", "best": float("nan"), "hints": True, "seconds": -5, "passed_at": 1e300}
    assert Standing.from_json(given) == Standing()


def test_unwritable_folder_is_said_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LMCOURSE_HOMEWORK", str(tmp_path / "file"))
    score = check("1.1", lambda config: 3)
    assert "could not be saved" in dict(score.details)["progress"]


def _note_many(folder: Path) -> None:
    for _ in range(20):
        assert note_check("1.1", 0.0, folder=folder) is None


def test_two_notebooks_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_note_many, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    _note_many(tmp_path)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert standing(tmp_path, "1.1").tries == 60
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["progress.json"]


def test_views_say_the_same_in_text_and_html(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "03_kv_cache.ipynb").write_text("{}")
    state = {
        "exercises": {"3.1": {"tries": 2, "best": 1, "passed_at": 5, "seconds": 600}, "3.2": {"tries": 1, "last_at": 9}}
    }
    rows = rows_of(json.loads(json.dumps(state)))
    text, page = progress_text(rows), progress_html(rows)
    assert "lesson 3 · 1 of 3 done" in text
    assert "lesson 3</a> · 1 of 3 done" in page
    assert '<a href="03_kv_cache.ipynb">' in page
    resumed = next(line for line in text.splitlines() if "resume here" in line)
    assert "3.2" in resumed
    assert 'aria-label="done"' in page
    assert "<script" not in page


def test_widget_shows_one_lesson_at_a_time(tmp_path: Path) -> None:
    chooser, table = Progress(read_rows(tmp_path)).widget.children
    assert table.value.count("<tr>") > 13
    chooser.value = 2
    assert "Wrap a conversation" in table.value
    assert "Count the weights" not in table.value
