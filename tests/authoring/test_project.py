"""Build, check and fix a small project for real, in one go: kernels take a second to start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmcourse.authoring import Project, canonical_bytes, notebook_faults
from lmcourse.authoring.__main__ import main
from lmcourse.authoring.canonical import read_notebook
from lmcourse.authoring.execute import HOME_PREFIX, LessonError
from lmcourse.errors import ConfigError


def outputs_of(path: Path) -> list[str]:
    cells = [cell for cell in read_notebook(path.read_bytes()).cells if cell.cell_type == "code"]
    return [
        "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in cell.outputs) for cell in cells
    ]


def test_build_writes_executed_notebooks_that_pass_the_check(write, project: Project) -> None:
    lesson = write()
    written = [path.relative_to(project.root).as_posix() for path in project.build(lesson)]
    assert written == [
        "notebooks/02_small.ipynb",
        "instructor/solutions/02_small.ipynb",
        "notebooks/zh/02_small.ipynb",
        "instructor/solutions/zh/02_small.ipynb",
    ]
    assert project.check(lesson) == []
    student, solution = (outputs_of(project.root / name) for name in written[:2])
    assert student[0] == solution[0] == "one\n"
    assert "not tried yet" in student[-1]
    assert "cases pass" in solution[-1]

    path = project.root / written[0]
    committed = path.read_bytes()
    path.write_bytes(json.dumps(json.loads(committed)).encode())
    assert project.check(lesson) == [f"{written[0]}: not in canonical form; run check --fix"]
    assert project.check(lesson, fix=True) == []
    assert path.read_bytes() == committed

    lesson.path.write_text(lesson.path.read_text().replace('"one"', '"two"'))
    (changed,) = project.lessons("2")
    assert len(project.check(changed)) == 4
    assert all("differs from its source" in fault for fault in project.check(changed))


def test_clean_room_hides_home_network_and_gpu(write, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCOURSE_MODEL", "somewhere")
    text = (
        "# %% [markdown]\n# A\n\n# %%\nimport os, pathlib\nhome = pathlib.Path.home()\n"
        "print(home / 'models', os.listdir(home), os.environ.get('LMCOURSE_MODEL'), os.environ['HF_HUB_OFFLINE'])\n"
    )
    notebook = project.executed(write(text), edition="student", language="en")
    (output,) = notebook.cells[1].outputs
    assert output.text in ("~/models [] None 1\n", "~/models ['.ipython'] None 1\n")
    assert notebook_faults(notebook, "x") == []
    assert HOME_PREFIX not in canonical_bytes(notebook).decode()


def test_failing_cell_names_lesson_and_cell_and_writes_nothing(write, project: Project) -> None:
    with pytest.raises(LessonError, match=r"(?s)1/0.*notebooks/02_small\.ipynb, cell 2"):
        project.build(write("# %% [markdown]\n# A\n\n# %%\n1/0\n"))
    assert not (project.root / "notebooks" / "02_small.ipynb").exists()


def test_output_that_may_not_be_committed_stops_the_build(write, project: Project) -> None:
    with pytest.raises(LessonError, match="memory address"):
        project.build(write("# %% [markdown]\n# A\n\n# %%\nprint(object())\n"))


def test_lesson_that_breaks_rules_is_not_run(write, project: Project) -> None:
    with pytest.raises(LessonError, match="begin with prose"):
        project.build(write("# %%\nraise SystemExit\n"))


def test_lessons_are_found_by_name_and_number(write, project: Project) -> None:
    write(name="01_first")
    write(name="02_second")
    assert [lesson.name for lesson in project.lessons()] == ["01_first", "02_second"]
    assert [lesson.name for lesson in project.lessons("2")] == ["02_second"]
    assert [lesson.name for lesson in project.lessons("01_first")] == ["01_first"]
    with pytest.raises(ConfigError, match=r"01_first \| 02_second"):
        project.lessons("3")


def test_command_line_checks_and_says_what_is_missing(write, project: Project, capsys) -> None:
    write()
    assert main(["--root", str(project.root), "check"]) == 1
    assert "notebooks/02_small.ipynb: missing; build the lesson" in capsys.readouterr().out


def test_command_line_outside_a_course_repository(tmp_path: Path, capsys) -> None:
    assert main(["--root", str(tmp_path), "check"]) == 1
    assert "no course repository here" in capsys.readouterr().err
