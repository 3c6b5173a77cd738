"""Grading: zips of strangers → points that nobody could forge.

    attacker        what stands in the way
    the zip         read in memory, names and sizes checked, nothing unpacked, no pickle          submission
    the notebook    only its code cells are read; parsed in the child, not here                   sandbox/cells
    the answer      runs in a child with no way out: namespaces, Landlock, limits, audit hook     child, sandbox/confine
    the checker     is not in that process: the child sends values, as plain data; cases,
                    expected values, seed and verdict stay here                                   judge, sandbox/plain
    known cases     what every seed gives earns nothing                                           judge
    evidence        shown, worth no points                                                        gradebook
    the report      escaped; no text becomes a formula, a tag or a link                           overview

What is left: whoever copies a right answer has a right answer (equal texts are noted); a kernel without namespaces and
Landlock (macOS, say) has the limits and the audit hook only, and the overview says which walls stood. Grade as a normal
user: for root the kernel does not count processes (they still end with the child), and without bubblewrap root may
change the modes of files, never their contents.

submission  a zip → cells, evidence, progress      child      a process to ask, with deadlines
judge       an answer → a verdict                  gradebook  a folder → all verdicts
overview    a Gradebook → CSV and HTML             overview_style  how it looks
"""

from __future__ import annotations

from lmcourse.homework.grading.gradebook import Entry, Gradebook, grade
from lmcourse.homework.grading.judge import Bounds, Judge, Mark, Verdict, make_papers
from lmcourse.homework.grading.overview import csv_text, overview_html
from lmcourse.homework.grading.submission import Submission, SubmissionError, read_submission

__all__ = [
    "Bounds",
    "Entry",
    "Gradebook",
    "Judge",
    "Mark",
    "Submission",
    "SubmissionError",
    "Verdict",
    "csv_text",
    "grade",
    "make_papers",
    "overview_html",
    "read_submission",
]
