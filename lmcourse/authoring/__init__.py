"""Lesson sources in, executed lessons out: what the authors of this course use, and students never need.

source.py      notebooks/source/NN_name.py → Lesson: cells, languages, exercises
notebook.py    Lesson → notebook of one edition (student or solution) and one language
execute.py     run a notebook in a clean room: empty home, no network, no GPU, one thread
canonical.py   the one byte form that committed notebooks have
rules.py       what a lesson may look like: cell lengths, prose, measured cells, parity of languages
project.py     where sources, lessons and solutions live; build and check a lesson
nbgrader.py    Lesson → source notebook for nbgrader
__main__.py    python -m lmcourse.authoring build | check | nbgrader
"""

from __future__ import annotations

from lmcourse.authoring.canonical import canonical_bytes
from lmcourse.authoring.execute import clean_room, execute
from lmcourse.authoring.notebook import EDITIONS, build_notebook
from lmcourse.authoring.project import Project
from lmcourse.authoring.rules import find_faults, notebook_faults
from lmcourse.authoring.source import Cell, Lesson, read_lesson

__all__ = [
    "EDITIONS",
    "Cell",
    "Lesson",
    "Project",
    "build_notebook",
    "canonical_bytes",
    "clean_room",
    "execute",
    "find_faults",
    "notebook_faults",
    "read_lesson",
]
