"""`lmcourse doctor --class`: the checklist before a class, each line ok or with the command that mends it.

    lessons       all are here, executed        solutions      are not where students read
    wheelhouse    for installs without network  sandbox        for grading what strangers wrote
    share         memory and cores of each      first words    the bundled model answers, and how soon
    class server  answers everybody at once, where LMCOURSE_SERVER names one

Lesson: 1 (doctor); for instructors, instructor/README.md
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lmcourse
from lmcourse.doctor.machine import read_memory
from lmcourse.doctor.report import Report, Row
from lmcourse.errors import LmcourseError

__all__ = [
    "check_lessons",
    "check_sandbox",
    "check_seconds",
    "check_share",
    "check_solutions",
    "check_wheelhouse",
    "class_report",
]

GIB = 1024**3
STUDENT_GIB = 1.5  # the kernel of lesson 7 peaked at 1.07 GiB on a CPU; JupyterLab comes on top
NUM_LESSONS = 9
SLOW_SECONDS = 20.0
_ROOT = Path(lmcourse.__file__).resolve().parents[1]


def class_report(report: Report, students: int, *, root: Path = _ROOT) -> Report:
    """The machine's report, and below it what a class of `students` on this machine needs."""
    memory, cores = read_memory(), os.cpu_count() or 1
    url = os.environ.get("LMCOURSE_SERVER", "").strip()
    rows = [
        check_lessons(root / "notebooks"),
        check_solutions(root),
        check_wheelhouse(root / "wheelhouse"),
        check_sandbox(shutil.which("bwrap")),
        check_share(students, memory.available_bytes if memory else None, cores, os.environ),
        check_seconds("first words", _timed(_first_words), "lmcourse chat tiny-chat  # shows what fails"),
    ]
    if url:
        fix = f"curl {url}/health; lmcourse bench serve {url} --max-concurrency {students}"
        rows.append(check_seconds(f"class server, {students} at once", _timed(lambda: _ask(url, students)), fix))
    return Report((*report.rows, *rows), report.versions)


def check_lessons(notebooks: Path) -> Row:
    """All lessons, as notebooks."""
    found = sorted(path.name[:2] for path in notebooks.glob("[0-9][0-9]_*.ipynb")) if notebooks.is_dir() else []
    missing = [str(n) for n in range(1, NUM_LESSONS + 1) if f"{n:02}" not in found]
    if missing:
        return Row("lessons", "fix", f"not here: {', '.join(missing)}, in {notebooks}", "make lessons")
    return Row("lessons", "ok", f"{len(found)} notebooks in {notebooks}")


def check_solutions(root: Path) -> Row:
    """Students copy notebooks/ and images/; instructor/ stays with whoever teaches."""
    if not (root / "instructor" / "solutions").is_dir():
        return Row("solutions", "ok", "not in this folder")
    copy = f"cp -r {root}/notebooks {root}/images SHARED_FOLDER/  # and leave instructor/ here"
    return Row("solutions", "warn", f"{root}/instructor lies beside the lessons", copy)


def check_wheelhouse(folder: Path) -> Row:
    """One download for all installs."""
    wheels = list(folder.glob("*.whl")) if folder.is_dir() else []
    if not any(path.name.startswith("torch-") for path in wheels):
        return Row("wheelhouse", "warn", "none: every install downloads about 1 GB", "make wheelhouse")
    size = sum(path.stat().st_size for path in wheels) / GIB
    return Row("wheelhouse", "ok", f"{len(wheels)} packages, {size:.1f} GiB: make lab WHEELHOUSE={folder}")


def check_sandbox(program: str | None) -> Row:
    """Grading works without it; with it, an answer cannot even see the network or other files."""
    if program is None:
        return Row("sandbox", "warn", "no bubblewrap: grading uses limits alone", "sudo apt-get install bubblewrap")
    return Row("sandbox", "ok", program)


def check_share(students: int, available_bytes: int | None, cores: int, environment: Mapping[str, str]) -> Row:
    """What each of so many students on this one machine would get."""
    name = f"share of {students}"
    if available_bytes is None:
        return Row(name, "warn", "memory unknown", "watch `free -h` while the first five log in")
    each = available_bytes / GIB / students
    found = f"{each:.1f} GiB and {cores / students:.2g} cores each"
    if each < STUDENT_GIB:
        most = int(available_bytes / GIB / STUDENT_GIB)
        other = "each on a laptop, with LMCOURSE_SERVER for the large model (instructor/README.md)"
        return Row(name, "warn", f"{found}: room for {most} at {STUDENT_GIB} GiB", other)
    if students > 1 and not environment.get("OMP_NUM_THREADS"):
        threads = max(1, cores // students)
        return Row(name, "warn", f"{found}, but every kernel takes all cores", f"export OMP_NUM_THREADS={threads}")
    return Row(name, "ok", found)


def check_seconds(name: str, result: tuple[float, str] | LmcourseError, fix: str) -> Row:
    """Seconds and what was said; or why nothing was."""
    if isinstance(result, LmcourseError):
        return Row(name, "fix", result.what, result.next_step or fix)
    seconds, said = result
    if seconds > SLOW_SECONDS:
        return Row(name, "warn", f"{said} after {seconds:.0f} s", fix)
    return Row(name, "ok", f"{said} after {seconds:.1f} s")


def _timed(work: Callable[[], str]) -> tuple[float, str] | LmcourseError:
    started = time.perf_counter()
    try:
        said = work()
    except LmcourseError as error:
        return error
    return time.perf_counter() - started, said


def _first_words() -> str:
    """The bundled model, loaded and asked here."""
    from lmcourse.pipeline import load_pipeline

    with load_pipeline("tiny-chat") as pipe:
        pipe("hello", max_new_tokens=16)
    return "tiny-chat answered"


def _ask(url: str, students: int) -> str:
    """Everybody asks at the same moment."""
    from lmcourse.client import Client

    questions: Sequence[str] = [f"Hello, I am student {n}." for n in range(1, students + 1)]
    with Client(url, os.environ.get("LMCOURSE_SERVER_KEY") or None, max_connections=students) as client:
        answers = client(list(questions), max_new_tokens=32)
        return f"{len(answers)} answers of {client.model}"
