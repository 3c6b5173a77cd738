from __future__ import annotations

import json
import zipfile
from pathlib import Path

import nbformat
import pytest
from lesson_answers import lesson_notebooks

from lmcourse.__main__ import main
from lmcourse.errors import ConfigError, StorageError
from lmcourse.homework.evidence import add_evidence, turn
from lmcourse.homework.grading import read_submission
from lmcourse.homework.hand_in import hand_in
from lmcourse.homework.progress_file import note_check
from lmcourse.homework.student import homework_folder


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A student's lessons: the first solved, the others as they came."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    solved = lesson_notebooks("solution")
    for name, notebook in lesson_notebooks("student").items():
        chosen = solved[name] if name.startswith("01") else notebook
        (folder / name).write_text(nbformat.writes(chosen), encoding="utf-8")
    monkeypatch.setenv("LMCOURSE_HOMEWORK", str(tmp_path / "homework"))
    monkeypatch.chdir(tmp_path)
    return folder


def test_zip_holds_everything_and_names_what_is_missing(lessons: Path, tmp_path: Path) -> None:
    note_check("1.1", 1.0, folder=homework_folder("李雷"))
    made = hand_in(student="李雷")
    assert made.path.parent == tmp_path
    missing = "\n".join(made.missing)
    assert "exercise 2.1: still the stub" in missing
    assert "exercise 1.1" not in missing
    assert "evidence of task chat" in missing
    submission = read_submission(made.path)
    assert submission.student == "李雷"
    assert set(submission.notebooks) == set(lesson_notebooks("student"))
    assert submission.progress["exercises"]["1.1"]["tries"] == 1
    assert submission.versions["torch"]
    assert submission.notes == ()


def test_work_done_under_the_login_name_goes_in_under_any_name(lessons: Path, tmp_path: Path) -> None:
    assert note_check("1.1", 1.0) is None
    made = hand_in(lessons, student="Li Lei", out=tmp_path / "made.zip")
    with zipfile.ZipFile(made.path) as archive:
        assert json.loads(archive.read("submission.json"))["student"] == "Li Lei"
        assert json.loads(archive.read("progress.json"))["exercises"]["1.1"]["best"] == 1.0


def test_work_under_the_login_name_goes_in_under_another(lessons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCOURSE_STUDENT", "user7")
    note_check("1.1", 1.0)
    add_evidence("chat", talk=("terminal", [turn("hello", "hi", 1)]))
    submission = read_submission(hand_in(student="Li Lei").path)
    assert submission.student == "Li Lei"
    assert submission.progress["exercises"]["1.1"]["tries"] == 1
    assert submission.evidence["chat"]["talks"]["terminal"]


def test_unreadable_notebook_is_named_and_the_rest_goes_in(lessons: Path) -> None:
    (lessons / "02_hf_vs_turbomind.ipynb").write_text('{"cells": [')
    made = hand_in(student="x")
    assert any("02_hf_vs_turbomind.ipynb cannot be read" in what for what in made.missing)
    assert "01_environment.ipynb" in made.notebooks


def test_very_large_notebook_goes_without_outputs(lessons: Path) -> None:
    path = lessons / "01_environment.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 5 * 2**20}]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    with zipfile.ZipFile(hand_in(student="x").path) as packed:
        kept = json.loads(packed.read("notebooks/01_environment.ipynb"))
    assert all(cell.get("outputs", []) == [] for cell in kept["cells"])


def test_no_lessons_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no lessons here"):
        hand_in(tmp_path)


def test_zip_that_cannot_be_written_leaves_nothing(lessons: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        hand_in(student="x", out=tmp_path / "file" / "x.zip")
    assert not list(tmp_path.rglob("*.zip"))


def test_commands_go_from_lessons_to_grades(
    lessons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["homework", "list"]) == 0
    assert "resume here" in capsys.readouterr().out
    assert main(["homework", "check", "notebooks/01_environment.ipynb", "--exercise", "1.1"]) == 0
    assert "✓ 1.1" in capsys.readouterr().out
    assert main(["homework", "check", "notebooks/02_hf_vs_turbomind.ipynb"]) == 1
    assert "○ 2.1" in capsys.readouterr().out
    assert main(["homework", "submit", "--student", "Li Lei", "--out", "class/li.zip"]) == 0
    assert "missing: exercise 2.1" in capsys.readouterr().out
    assert main(["homework", "grade", "class", "--seed", "3", "--jobs", "1"]) == 0
    assert "Li Lei" in capsys.readouterr().out
    table = (tmp_path / "class" / "grades.csv").read_text(encoding="utf-8-sig").splitlines()
    assert table[1].startswith("Li Lei,li.zip,30.0,")
    assert "Li Lei" in (tmp_path / "class" / "grades.html").read_text(encoding="utf-8")


def test_commands_explain_what_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["homework", "grade", str(tmp_path / "nowhere")]) == 1
    assert "nothing to grade" in capsys.readouterr().err
    (tmp_path / "x.ipynb").write_text("{}")
    assert main(["homework", "check", str(tmp_path / "x.ipynb")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert main(["homework", "grade", str(tmp_path), "--jobs", "0"]) == 1
