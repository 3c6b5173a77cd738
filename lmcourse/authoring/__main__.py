"""python -m lmcourse.authoring build | check | nbgrader [LESSON]: make lessons from sources, or say what is wrong."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lmcourse.authoring.nbgrader import nbgrader_bytes, nbgrader_notebook
from lmcourse.authoring.notebook import EDITIONS
from lmcourse.authoring.project import Project
from lmcourse.authoring.source import LANGUAGES
from lmcourse.errors import LmcourseError


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if everything was built, or nothing is wrong."""
    options = _parser().parse_args(arguments)
    try:
        project = Project.find(options.root)
        return int(options.func(project, options))
    except LmcourseError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lmcourse.authoring", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="a folder of the repository (default: here)")
    commands = parser.add_subparsers(required=True, metavar="build | check | nbgrader")
    build = commands.add_parser("build", help="write and run the student and solution notebooks")
    build.add_argument("lesson", nargs="?", help="name or number (default: all lessons)")
    build.add_argument("--edition", choices=EDITIONS, help="only this edition (default: both)")
    build.add_argument("--language", choices=LANGUAGES, help="only this language (default: all that the lesson has)")
    build.set_defaults(func=_build)
    check = commands.add_parser("check", help="say what is wrong with sources and committed notebooks; runs nothing")
    check.add_argument("lesson", nargs="?", help="name or number (default: all lessons)")
    check.add_argument("--fix", action="store_true", help="bring notebooks into canonical form first")
    check.set_defaults(func=_check)
    nbgrader = commands.add_parser("nbgrader", help="write a course folder for nbgrader: one assignment per lesson")
    nbgrader.add_argument("out", type=Path, metavar="FOLDER", help="the course folder; source/ is written into it")
    nbgrader.add_argument("lesson", nargs="?", help="name or number (default: all lessons)")
    nbgrader.add_argument("--language", choices=LANGUAGES, default=LANGUAGES[0], help="default: %(default)s")
    nbgrader.set_defaults(func=_nbgrader)
    return parser


def _build(project: Project, options: argparse.Namespace) -> int:
    editions = (options.edition,) if options.edition else EDITIONS
    languages = (options.language,) if options.language else ()
    for lesson in project.lessons(options.lesson):
        for path in project.build(lesson, editions=editions, languages=languages):
            print(path.relative_to(project.root).as_posix())
    return 0


def _nbgrader(project: Project, options: argparse.Namespace) -> int:
    for lesson in project.lessons(options.lesson):
        path = options.out / "source" / lesson.name / f"{lesson.name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(nbgrader_bytes(nbgrader_notebook(lesson, language=options.language)))
        print(path)
    return 0


def _check(project: Project, options: argparse.Namespace) -> int:
    lessons = project.lessons(options.lesson)
    faults = [fault for lesson in lessons for fault in project.check(lesson, fix=options.fix)]
    print("\n".join(faults) or f"{len(lessons)} lessons: nothing wrong")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
