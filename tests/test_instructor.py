"""What whoever teaches is given: plans whose minutes add up and whose sections exist, commands that are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lmcourse.__main__ import _make_parser
from lmcourse.authoring import Project
from lmcourse.homework import EXERCISES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "instructor"
PLANS = sorted(FOLDER.glob("lesson_*.md"))
PAGES = sorted(FOLDER.glob("*.md"))
LESSONS = {lesson.number: lesson for lesson in Project(ROOT).lessons()}


def number_of(plan: Path) -> int:
    return int(plan.stem.removeprefix("lesson_"))


BUILT = [plan for plan in PLANS if number_of(plan) in LESSONS]


def rows_of(page: Path) -> list[list[str]]:
    """Cells of the plan's table."""
    plan = page.read_text(encoding="utf-8").partition("## Plan")[2].partition("##")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in plan.splitlines() if line.startswith("|")]
    return rows[2:]


def minutes(cell: str) -> int:
    return 0 if cell == "–" else int(cell)


def test_every_lesson_has_a_plan() -> None:
    assert [page.name for page in PLANS] == [f"lesson_{number}.md" for number in range(1, 10)]


@pytest.mark.parametrize("page", PLANS, ids=lambda page: page.stem)
def test_minutes_add_up_to_the_two_lengths(page: Path) -> None:
    rows = rows_of(page)
    assert [sum(minutes(row[column]) for row in rows) for column in (1, 2)] == [50, 90]


@pytest.mark.parametrize("page", PLANS, ids=lambda page: page.stem)
def test_plan_has_all_its_parts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for part in ("**They leave", "## Plan", "## Predict aloud", "## What goes wrong, and the cure", "## To discuss"):
        assert part in text
    assert text.partition("## To discuss")[2].count("\n- *") >= 3


@pytest.mark.parametrize("page", BUILT, ids=lambda page: page.stem)
def test_plan_names_sections_and_exercises_that_are_there(page: Path) -> None:
    text = "\n".join(cell.text for cell in LESSONS[number_of(page)].cells)
    sections = {int(found) for found in re.findall(r"^## (\d+) ·", text, re.MULTILINE)}
    named = [row[0] for row in rows_of(page)]
    for name in named:
        if found := re.match(r"(\d+)(?:–(\d+))? ", name):
            first, last = int(found[1]), int(found[2] or found[1])
            assert sections >= set(range(first, last + 1)), name
    known = {exercise.id for exercise in EXERCISES}
    assert set(re.findall(r"exercises? (\d\.\d)", " ".join(named))) <= known


def commands() -> list[str]:
    """Every line of a shell block that calls lmcourse."""
    blocks = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    found = [re.sub(r"^(?:[A-Z_]+=\S+ )*(?:\S*/)?lmcourse ", "", line) for line in lines
             if re.match(r"(?:[A-Z_]+=\S+ )*(?:\S*/)?lmcourse ", line)]  # fmt: skip
    assert len(found) >= 6
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("command", commands())
def test_command_is_one_that_lmcourse_understands(command: str) -> None:
    words = shlex.split(command)
    _, unknown = _make_parser(words).parse_known_args(words)
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere_and_make_tasks_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        assert (FOLDER / target).exists(), target
    tasks = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)) <= tasks
