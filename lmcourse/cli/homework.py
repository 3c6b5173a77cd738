"""lmcourse homework list | check | submit | grade: the exercises of the course from a terminal.

    list     every exercise and where you stand           check    your saved notebooks, as the grader will see them
    submit   one zip for the instructor                   grade    a folder of zips → a table, a CSV and an HTML page

Exit status of check: 0 if all answers pass, 1 if one does not; of grade: 0 once every zip has its row.

Lesson: 9 (homework)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmcourse.errors import ConfigError

if TYPE_CHECKING:
    from lmcourse.homework.grading import Gradebook, Verdict

__all__ = ["add_parser", "run"]

_EXAMPLES = """examples:
  lmcourse homework list                          every exercise, and where you stand
  lmcourse homework check 03_kv_cache.ipynb       run the answers of a saved notebook
  lmcourse homework submit --student "Li Lei"     make the zip for the instructor
  lmcourse homework grade submissions/            grade a class; writes grades.csv and grades.html there
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "homework",
        help="list, check, submit and grade exercises",
        description="The exercises of the course: see them, check your answers, hand them in, grade a class.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="list | check | submit | grade")
    listing = actions.add_parser("list", help="every exercise, and where you stand")
    listing.set_defaults(action_func=_list)
    _add_check(actions)
    _add_submit(actions)
    _add_grade(actions)
    parser.set_defaults(func=run)


def _add_check(actions: Any) -> None:
    check = actions.add_parser("check", help="run the answers in saved notebooks, apart from this process")
    check.add_argument(
        "notebooks", nargs="?", type=Path, metavar="NOTEBOOK", help="a notebook or a folder (default: the lessons here)"
    )
    check.add_argument("--exercise", metavar="ID", help="only this one, such as 3.1 (default: all in the notebooks)")
    check.add_argument("--seed", type=int, metavar="N", help="repeat the cases of this seed (default: new ones)")
    check.set_defaults(action_func=_check)


def _add_submit(actions: Any) -> None:
    submit = actions.add_parser("submit", help="make one zip of notebooks, evidence, progress and versions")
    submit.add_argument("--student", metavar="NAME", help="your name (default: LMCOURSE_STUDENT, or the login name)")
    submit.add_argument("--notebooks", type=Path, metavar="FOLDER", help="the lessons (default: here, or notebooks/)")
    submit.add_argument("--out", type=Path, metavar="ZIP", help="the file to make (default: NAME-homework.zip here)")
    submit.set_defaults(action_func=_submit)


def _add_grade(actions: Any) -> None:
    grade = actions.add_parser("grade", help="grade a folder of zips into grades.csv and grades.html")
    grade.add_argument("folder", type=Path, metavar="FOLDER", help="where the zips are")
    grade.add_argument("--seed", type=int, metavar="N", help="repeat a grading (default: a seed nobody can know)")
    grade.add_argument("--jobs", type=int, default=2, metavar="N", help="submissions side by side (default: 2)")
    grade.add_argument("--out", type=Path, metavar="FOLDER", help="where the tables go (default: beside the zips)")
    grade.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="time for each exercise of each student (default: 10)"
    )
    grade.set_defaults(action_func=_grade)


def run(args: argparse.Namespace) -> int:
    """Whichever action was named."""
    return int(args.action_func(args))


def _list(args: argparse.Namespace) -> int:
    from lmcourse.homework import EXERCISES, progress

    rows = [("exercise", "lesson", "difficulty", "minutes", "points", "title")]
    for e in EXERCISES:
        dots = "●" * e.difficulty + "○" * (3 - e.difficulty)
        rows.append((e.id, str(e.lesson), dots, str(e.minutes), str(e.points), e.title))
    widths = [max(len(row[n]) for row in rows) for n in range(5)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row[:5], widths, strict=True)), row[5]]))
    print(f"\n{progress()}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from lmcourse.homework import EXERCISES, find_exercise
    from lmcourse.homework.grading import Judge, Mark, make_papers
    from lmcourse.homework.hand_in import read_cells

    wanted = EXERCISES if args.exercise is None else (find_exercise(args.exercise),)
    notebooks = read_cells(args.notebooks)
    seed = _new_seed() if args.seed is None else args.seed
    verdicts = Judge(notebooks).verdicts(make_papers(wanted, seed))
    found = [verdict for verdict in verdicts.values() if verdict.mark is not Mark.MISSING]
    if not found:
        raise ConfigError(
            "these notebooks hold no answers", expected="cells of exercises", got=f"{len(notebooks)} notebooks without"
        )
    print("\n".join(_verdict_line(verdict) for verdict in found))
    print(f"\nrepeat with --seed {seed}")
    return 0 if all(verdict.mark is Mark.PASSED for verdict in found) else 1


def _new_seed() -> int:
    import secrets

    return secrets.randbelow(1_000_000)


def _verdict_line(verdict: Verdict) -> str:
    note = f": {verdict.note}" if verdict.note else ""
    return f"{verdict.mark.value} {verdict.exercise_id}  {int(100 * verdict.score):3} %{note}"


def _submit(args: argparse.Namespace) -> int:
    from lmcourse.homework.hand_in import hand_in

    print(hand_in(args.notebooks, student=args.student, out=args.out))
    return 0


def _grade(args: argparse.Namespace) -> int:
    from lmcourse.homework.grading import Bounds, csv_text, grade, overview_html
    from lmcourse.homework.student import replace_file

    if args.jobs < 1 or args.seconds <= 0:
        raise ConfigError("--jobs and --seconds are at least 1 and above 0", got=f"{args.jobs}, {args.seconds}")
    bounds = Bounds(exercise_seconds=args.seconds, submission_seconds=9 * args.seconds)
    book = grade(args.folder, seed=args.seed, jobs=args.jobs, bounds=bounds)
    out = args.out or args.folder
    # Spreadsheets take a file for UTF-8 only with the mark in front.
    replace_file(out / "grades.csv", csv_text(book).encode("utf-8-sig"))
    replace_file(out / "grades.html", overview_html(book).encode("utf-8"))
    print("\n".join(_grade_lines(book)))
    print(f"\nwrote {out / 'grades.csv'} and {out / 'grades.html'}; the same again: --seed {book.seed}")
    return 0


def _grade_lines(book: Gradebook) -> list[str]:
    rows = [(f"{entry.points(book.exercises):g}", entry.student, "; ".join(entry.notes)) for entry in book.entries]
    width = max(len(points) for points, _, _ in rows)
    lines = [
        f"{points:>{width}} of {book.most_points}  {name}{f'  ({note})' if note else ''}" for points, name, note in rows
    ]
    walls = ", ".join(book.walls)
    changed = [f"CHANGED while grading: {', '.join(book.changed_files)}"] if book.changed_files else []
    return [*lines, f"{len(rows)} submissions in {book.seconds:.0f} s; walls around the answers: {walls}", *changed]
