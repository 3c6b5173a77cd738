"""Classes of simulated students are graded with the right scores, and nobody reaches the grader."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from classroom import Student, dishonest_students, honest_students, hostile_zips, make_zip, solutions, write_class

from lmcourse.errors import ConfigError
from lmcourse.homework.grading import Bounds, Gradebook, Mark, csv_text, grade, overview_html

ROOT = Path(__file__).parents[3]
GRADERS = (ROOT / "lmcourse" / "homework", ROOT / "tests" / "homework")


def hashes(*roots: Path) -> dict[str, str]:
    paths = [path for root in roots for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def require_right_scores(book: Gradebook, named: dict[str, Student]) -> None:
    for entry in book.entries:
        if entry.file not in named:
            assert entry.refused, entry.file
            assert entry.points(book.exercises) == 0
            continue
        wanted = named[entry.file].expected
        found = {name: verdict.score for name, verdict in entry.verdicts.items() if verdict.score}
        assert found == wanted, (entry.file, entry.notes, entry.verdicts)


def test_grade_gives_a_small_class_its_scores(tmp_path: Path) -> None:
    """One of each kind that makes a difference; the whole class is a soak test."""
    some = {"1.1": solutions("1.1"), "3.3": solutions("3.3")}
    few = {**some["1.1"], **some["3.3"]}
    everyone = {student.name: student for student in dishonest_students([str(root) for root in GRADERS])}
    chosen = [everyone[name] for name in ("forged", "claims", "vandal", "=cmd|' /C calc'!A0")]
    students = [Student("right", few, dict.fromkeys(few, 1.0)), Student("stubs"), *chosen]
    named = write_class(tmp_path, students, hostile_zips())
    before = hashes(*GRADERS, tmp_path)
    book = grade(tmp_path, seed=7, exercises=_exercises("1.1", "3.3"), bounds=Bounds(exercise_seconds=4))
    assert hashes(*GRADERS, tmp_path) == before
    assert book.changed_files == ()
    kept = {name: _only(student, ("1.1", "3.3")) for name, student in named.items()}
    require_right_scores(book, kept)
    assert "=cmd" not in [row.split(",")[0] for row in csv_text(book).splitlines()]
    assert "resource limits" in book.walls
    assert "<script" not in overview_html(book)


def _exercises(*ids: str):  # type: ignore[no-untyped-def]
    from lmcourse.homework import find_exercise

    return tuple(find_exercise(name) for name in ids)


def _only(student: Student, ids: tuple[str, ...]) -> Student:
    return Student(student.name, expected={name: score for name, score in student.expected.items() if name in ids})


def test_same_seed_grades_alike(tmp_path: Path) -> None:
    half = "def kv_bytes(config, num_tokens, tokens_per_block, element_bytes):\n"
    half += "    head_dim = config['hidden_size'] // config['num_attention_heads']\n"
    half += (
        "    per_token = 2 * config['num_hidden_layers'] * config['num_key_value_heads'] * head_dim * element_bytes\n"
    )
    half += "    return num_tokens * per_token\n"
    write_class(tmp_path, [Student("half", {"3.1": half})], {})
    books = [grade(tmp_path, seed=5, exercises=_exercises("3.1"), bounds=Bounds(preload=())) for _ in range(2)]
    scores = [book.entries[0].verdicts["3.1"].score for book in books]
    assert scores[0] == scores[1]
    assert 0 < scores[0] < 1  # full blocks are right
    assert books[0].entries[0].verdicts["3.1"].mark is Mark.PARTIAL
    assert "cases pass" in books[0].entries[0].verdicts["3.1"].note


def test_equal_answers_and_names_are_noted(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.zip").write_bytes(make_zip(Student(f"student {name}", solutions("2.2"))))
    (tmp_path / "again.zip").write_bytes(make_zip(Student("student two")))
    book = grade(tmp_path, exercises=_exercises("2.2"), bounds=Bounds(preload=()))
    notes = {entry.file: " ".join(entry.notes) for entry in book.entries}
    assert "same text as student two (1)" in notes["one.zip"]
    assert "2 zips bear this name" in notes["again.zip"]


@pytest.mark.parametrize("make", [lambda path: path / "nowhere", lambda path: path])
def test_nothing_to_grade_is_an_error(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="nothing to grade"):
        grade(make(tmp_path))


@pytest.mark.soak
def test_class_of_thirty_and_more_is_graded_in_five_minutes(tmp_path: Path) -> None:
    roots = [str(root) for root in GRADERS]
    named = write_class(tmp_path, [*honest_students(), *dishonest_students(roots)], hostile_zips())
    assert len(named) >= 30
    before, started = hashes(*GRADERS, tmp_path), time.monotonic()
    book = grade(tmp_path, jobs=2)
    assert time.monotonic() - started < 300
    assert hashes(*GRADERS, tmp_path) == before
    assert book.changed_files == ()
    require_right_scores(book, named)
