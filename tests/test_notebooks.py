"""The committed lessons: built from their sources, executed, compared, and nothing in them that should not be.

`make test` also runs them cell by cell under strict nbval; here is what nbval cannot see, and that it sees at all.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lmcourse.authoring import EDITIONS, Lesson, Project, build_notebook, canonical_bytes, find_faults
from lmcourse.authoring.canonical import read_notebook

ROOT = Path(__file__).parents[1]
PROJECT = Project(ROOT)
LESSONS = PROJECT.lessons()
BUILDS = [(lesson, edition, language) for lesson in LESSONS for edition in EDITIONS for language in lesson.languages]
IDS = [f"{lesson.name}-{edition}-{language}" for lesson, edition, language in BUILDS]


def committed(lesson: Lesson, edition: str, language: str):  # type: ignore[no-untyped-def]
    return read_notebook(PROJECT.notebook_path(lesson, edition=edition, language=language).read_bytes())


def code_cells(notebook):  # type: ignore[no-untyped-def]
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_lesson_keeps_the_rules_and_equals_its_source(lesson: Lesson) -> None:
    assert PROJECT.check(lesson) == []


@pytest.mark.parametrize(("lesson", "edition", "language"), BUILDS, ids=IDS)
def test_every_compared_cell_was_run_in_order(lesson: Lesson, edition: str, language: str) -> None:
    counts = [cell.execution_count for cell in code_cells(committed(lesson, edition, language))]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize(("lesson", "edition", "language"), BUILDS, ids=IDS)
def test_no_widget_state_and_no_timings_are_stored(lesson: Lesson, edition: str, language: str) -> None:
    notebook = committed(lesson, edition, language)
    assert set(notebook.metadata) == {"kernelspec", "language_info", "lmcourse"}
    assert all(set(cell.metadata) <= {"tags", "lmcourse"} for cell in notebook.cells)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_translations_are_complete(lesson: Lesson) -> None:
    assert not [fault for fault in find_faults(lesson) if "missing in" in fault]


@pytest.mark.parametrize(("lesson", "language"), [(lesson, lang) for lesson in LESSONS for lang in lesson.languages])
def test_student_edition_holds_no_solution(lesson: Lesson, language: str) -> None:
    student = "\n".join(cell.source for cell in code_cells(committed(lesson, "student", language)))
    exercises = [cell for cell in lesson.cells if cell.exercise and cell.kind == "code"]
    assert exercises
    for cell in exercises:
        inside = cell.text.partition("# BEGIN SOLUTION")[2].partition("# END SOLUTION")[0].splitlines()[1:]
        secret = [line.strip() for line in inside if len(line.strip()) > 12]
        assert not [line for line in secret if line in student]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_every_exercise_of_the_lesson_is_in_it(lesson: Lesson) -> None:
    from lmcourse.homework import EXERCISES

    wanted = [exercise.id for exercise in EXERCISES if exercise.lesson == lesson.number]
    assert [cell.exercise for cell in lesson.cells if cell.exercise and cell.kind == "code"] == wanted


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_fresh_build_of_the_solution_equals_the_committed_one(lesson: Lesson) -> None:
    """Runs the solutions: every exercise passes its check. nbval does the same for the student edition."""
    fresh = PROJECT.executed(lesson, edition="solution", language="en")
    stored = committed(lesson, "solution", "en")
    checks = [cell for cell in code_cells(fresh) if "check" in cell.metadata.get("lmcourse", {})]
    assert checks
    for cell in checks:
        assert "✓" in cell.outputs[-1].data["text/html"], cell.outputs[-1].data["text/plain"]
    for notebook in (fresh, stored):
        for cell in code_cells(notebook):
            if "nbval-ignore-output" in cell.metadata.get("tags", []):
                cell.outputs = []
            for output in cell.outputs:
                output.get("data", {}).pop("image/png", None)
    assert canonical_bytes(fresh) == canonical_bytes(stored)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_stubs_are_not_tried_and_no_error(lesson: Lesson) -> None:
    checks = [c for c in code_cells(committed(lesson, "student", "en")) if "check" in c.metadata.get("lmcourse", {})]
    assert checks
    assert all("not tried yet" in cell.outputs[-1].data["text/plain"] for cell in checks)


@pytest.fixture
def lesson_copy(tmp_path: Path) -> Path:
    """A project with one tiny executed lesson, the root conftest and its settings: what nbval meets in the real one."""
    (tmp_path / "notebooks" / "source").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "pyproject.toml", "tests/nbval_sanitizer.cfg"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    header = (
        "# ---\n# jupyter:\n#   jupytext:\n#     text_representation: {extension: .py, format_name: percent}\n# ---\n\n"
    )
    cells = (
        "# %% [markdown]\n# # Tiny\n\n# %%\nimport pathlib\nprint(pathlib.Path.home() / 'model')\n\n"
        "# %% [markdown]\n# More.\n\n# %% tags=[\"gpu\"]\nraise RuntimeError('needs a GPU')\n"
    )
    (tmp_path / "notebooks" / "source" / "01_tiny.py").write_text(header + cells)
    project = Project(tmp_path)
    notebook = build_notebook(project.lessons()[0])
    for count, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = count
    code_cells(notebook)[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text="~/model\n")]
    (tmp_path / "notebooks" / "01_tiny.ipynb").write_bytes(canonical_bytes(notebook))
    return tmp_path


def run_nbval(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "--nbval", "notebooks", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_nbval_compares_in_the_clean_room_and_skips_gpu_cells(lesson_copy: Path) -> None:
    result = run_nbval(lesson_copy)
    assert "1 passed, 1 skipped" in result.stdout, result.stdout
    assert "--lessons-on-gpu" in result.stdout


def test_nbval_fails_on_an_output_that_differs(lesson_copy: Path) -> None:
    path = lesson_copy / "notebooks" / "01_tiny.ipynb"
    path.write_text(path.read_text().replace("~/model\\n", "~/another\\n"))
    result = run_nbval(lesson_copy)
    assert "1 failed" in result.stdout, result.stdout
