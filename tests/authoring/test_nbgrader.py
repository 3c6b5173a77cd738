"""Source notebooks for nbgrader: the form of the metadata everywhere, release and autograde where nbgrader is there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lmcourse.authoring import Lesson, Project
from lmcourse.authoring.__main__ import main
from lmcourse.authoring.nbgrader import nbgrader_notebook
from lmcourse.homework import find_exercise

ROOT = Path(__file__).parents[2]
KEYS = {"schema_version", "grade_id", "cell_type", "grade", "locked", "solution", "task"}


@pytest.mark.parametrize("lesson", Project(ROOT).lessons(), ids=lambda lesson: lesson.name)
def test_metadata_has_the_form_of_schema_3(lesson: Lesson) -> None:
    notebook = nbgrader_notebook(lesson)
    nbformat.validate(notebook)
    marked = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    exercises = [cell.exercise for cell in lesson.cells if cell.kind == "code" and cell.exercise]
    assert len(marked) == 2 * len(exercises)
    ids = [cell.metadata.nbgrader.grade_id for cell in marked]
    assert len(set(ids)) == len(ids)
    for cell in marked:
        given = dict(cell.metadata.nbgrader)
        points = given.pop("points", None)
        assert set(given) == KEYS
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", given["grade_id"])
        assert given["schema_version"] == 3
        assert given["grade"] is not given["solution"]
        assert given["locked"] is given["grade"]
        assert given["task"] is False
        assert given["cell_type"] == cell.cell_type == "code"
        if given["grade"]:
            exercise = find_exercise(given["grade_id"].removeprefix("check-").replace("-", "."))
            assert points == exercise.points
            assert cell.source.splitlines()[-1] == f"{points} * float(score)"
            compile(cell.source, "check", "exec")
        else:
            assert cell.source.count("### BEGIN SOLUTION") == cell.source.count("### END SOLUTION") >= 1


def test_command_writes_a_course_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(ROOT), "nbgrader", str(tmp_path), "02"]) == 0
    path = tmp_path / "source" / "02_hf_vs_turbomind" / "02_hf_vs_turbomind.ipynb"
    assert str(path) in capsys.readouterr().out
    assert any("nbgrader" in cell.metadata for cell in nbformat.read(path, as_version=4).cells)


def run(folder: Path, *words: str) -> str:
    """A Python of this environment, with its commands on the PATH: nbgrader calls alembic by name."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "HOME": str(folder), "IPYTHONDIR": str(folder / ".ipython"), "PATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("nbgrader") is None, reason='needs the extra: pip install ".[nbgrader]"')
def test_release_and_autograde_give_points_in_part(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    lesson = write()
    source = tmp_path / "source" / "small" / "small.ipynb"
    source.parent.mkdir(parents=True)
    nbformat.write(nbgrader_notebook(lesson), source)
    run(tmp_path, "-m", "nbgrader", "generate_assignment", "small", "--create")
    released = nbformat.read(tmp_path / "release" / "small" / "small.ipynb", as_version=4)
    exercise = next(cell for cell in released.cells if cell.metadata.get("nbgrader", {}).get("solution"))
    assert "im_start" not in exercise.source
    right = "def render(m):\n    turns = [f\"<|im_start|>{x['role']}\\n{x['content']}<|im_end|>\\n\" for x in m]\n"
    right += "    return ''.join(turns) + '<|im_start|>assistant\\n'"
    stripped = right.replace("x['content']", "x['content'].strip()")
    for student, answer in (("right", right), ("part", stripped), ("stub", exercise.source)):
        exercise.source = answer
        path = tmp_path / "submitted" / student / "small" / "small.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(released, path)
    run(tmp_path, "-m", "nbgrader", "autograde", "small", "--create")
    code = "import json\nfrom nbgrader.api import Gradebook\nwith Gradebook('sqlite:///gradebook.db') as book:\n"
    code += "    print(json.dumps({s: book.find_submission('small', s).score for s in ('right', 'part', 'stub')}))"
    scores = json.loads(run(tmp_path, "-c", code))
    assert scores["right"] == 10
    assert 0 < scores["part"] < 10
    assert scores["stub"] == 0
