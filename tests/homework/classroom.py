"""A class of simulated students: their notebooks, their zips, and what each must be graded with."""

from __future__ import annotations

import copy
import io
import json
import stat
import textwrap
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from lesson_answers import lesson_notebooks, written_answers

from lmcourse.homework.tasks import TASKS


@dataclass(frozen=True)
class Student:
    """`cells` replaces the exercises' cells; `expected` is the score of each exercise that is not 0."""

    name: str
    cells: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, bytes] = field(default_factory=dict)
    own_cell: str = ""
    keeps_metadata: bool = True
    notebooks: bool = True


def make_zip(student: Student) -> bytes:
    """As `lmcourse homework submit` packs it."""
    files: dict[str, bytes] = {"submission.json": json.dumps({"student": student.name, "versions": {}}).encode()}
    for name, notebook in lesson_notebooks("student").items() if student.notebooks else ():
        written = copy.deepcopy(notebook)
        for cell in written.cells:
            exercise = cell.metadata.get("lmcourse", {}).get("exercise")
            if exercise in student.cells:
                cell.source = student.cells[exercise]
            if not student.keeps_metadata:
                cell.metadata.pop("lmcourse", None)
        if student.own_cell:
            written.cells.insert(0, nbformat.v4.new_code_cell(student.own_cell))
        files[f"notebooks/{name}"] = nbformat.writes(written).encode()
    return pack({**files, **student.extra})


def pack(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def solutions(*ids: str) -> dict[str, str]:
    """The lessons' own solutions of these exercises; of all without a name."""
    written = written_answers()
    return {name: written[name].solution for name in ids or written}


def full(ids: Mapping[str, str]) -> dict[str, float]:
    return dict.fromkeys(ids, 1.0)


def honest_students() -> Iterator[Student]:
    """Right, in the many ways in which notebooks come back; then in part, and not at all."""
    everything = solutions()
    for n in range(6):
        yield Student(f"right-{n}", everything, full(everything))
    yield Student("lost-metadata", everything, full(everything), keeps_metadata=False)
    magics = {name: f"%matplotlib inline\n{source}\n!ls\nprint('checked')" for name, source in everything.items()}
    yield Student("magics", magics, full(everything))
    helper = "def _join(turns):\n    return ''.join(turns)\n\nOPEN = '<|im_start|>'"
    using = (
        "def render(messages):\n    turns = [f\"{OPEN}{m['role']}\\n{m['content']}<|im_end|>\\n\" for m in messages]\n"
    )
    using += "    return _join(turns) + OPEN + 'assistant\\n'"
    yield Student("own-helper", {**everything, "2.2": using}, full(everything), own_cell=helper)
    ids = list(everything)
    for n in range(1, 6):
        part = solutions(*ids[: 2 * n])
        yield Student(f"part-{n}", part, full(part))
    broken = {**everything, ids[0]: "def broken(:\n    pass"}
    yield Student("syntax-error", broken, full(solutions(*ids[1:])))
    yield Student("stubs")
    yield Student("nothing", notebooks=False)


FORGED = """
import sys
import builtins
class Agrees:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 1
def {name}(*arguments):
    for module in list(sys.modules.values()):
        for attribute in ("difference", "check", "describe"):
            if hasattr(module, attribute):
                try: setattr(module, attribute, lambda *a, **k: None)
                except Exception: pass
    return Agrees()
"""
BORROWED = """
def {name}(*arguments):
    import lmcourse.homework
    from lmcourse.homework.registry import find_exercise
    import random
    return next(find_exercise("{id}").make_cases(random.Random(0))).expected
"""
SENDS = """
import json, os, struct
def {name}(*arguments):
    message = json.dumps({{"returned": True, "loaded": True, "score": 1.0, "passed": True}}).encode()
    for pipe in range(3, 40):
        try: os.write(pipe, struct.pack(">I", len(message)) + message)
        except OSError: pass
    return 1.0
"""
PATCHED = """
import torch
torch.Tensor.__eq__ = lambda self, other: torch.ones(1, dtype=torch.bool)
torch.Tensor.__ne__ = lambda self, other: torch.zeros(1, dtype=torch.bool)
torch.Tensor.isclose = lambda *a, **k: torch.ones(1, dtype=torch.bool)
def {name}(*arguments):
    return arguments[0]
"""
VISIBLE = """
def count_parameters(config):
    return 1_889_110_016
"""
LOOP = "def {name}(*arguments):\n    while True:\n        pass\n"
LOOP_AT_TOP = "while True:\n    pass\ndef {name}(*arguments):\n    return 1\n"
GREEDY = "def {name}(*arguments):\n    block = bytearray(2 * 2**30)\n    return len(block)\n"
LEAVES = "import os\ndef {name}(*arguments):\n    os._exit(0)\n"
STARTS = """
def {name}(*arguments):
    import os, subprocess, sys
    while True:
        try: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        except BaseException: pass
        try: os.fork()
        except BaseException: return 0
"""
CALLS_HOME = """
def {name}(*arguments):
    import socket
    with socket.create_connection(("127.0.0.1", 9), timeout=1) as wire:
        wire.sendall(b"hello")
"""
DEEP = "def {name}(*arguments):\n    value = []\n    for _ in range(100_000): value = [value]\n    return value\n"
VANDAL = """
import os, shutil
def {name}(*arguments):
    for root in {roots!r}:
        for folder, _, names in os.walk(root):
            for name in names:
                for way in ("a", "w"):
                    try: open(os.path.join(folder, name), way).write("# defaced")
                    except OSError: pass
                try: os.remove(os.path.join(folder, name))
                except OSError: pass
        shutil.rmtree(root, ignore_errors=True)
    return 0
"""


def forge(text: str, exercise_id: str, **more: object) -> str:
    name = written_answers()[exercise_id].exercise.function
    return textwrap.dedent(text).format(name=name, id=exercise_id, **more)


def dishonest_students(roots: list[str]) -> Iterator[Student]:
    """Who tries to get points, or the machine, by other means than an answer."""
    everything = solutions()
    ids = list(everything)
    rest = {name: everything[name] for name in ids[1:]}
    for name, text in (("forged", FORGED), ("borrowed", BORROWED), ("sends", SENDS), ("patched", PATCHED)):
        yield Student(name, {each: forge(text, each) for each in ids})
    claims = {"exercises": {each: {"tries": 1, "best": 1.0, "passed_at": 1.0} for each in ids}}
    evidence = {f"evidence/{task.id}.json": b'{"talks": [], "score": 1}' for task in TASKS}
    yield Student("claims", extra={"progress.json": json.dumps(claims).encode(), **evidence})
    yield Student("visible-case", {"1.1": VISIBLE})
    for name, text in (
        ("loop", LOOP), ("loop-at-top", LOOP_AT_TOP), ("greedy", GREEDY), ("leaves", LEAVES), ("starts", STARTS),
        ("calls-home", CALLS_HOME), ("deep", DEEP),
    ):  # fmt: skip
        yield Student(name, {**rest, ids[0]: forge(text, ids[0])}, full(rest))
    yield Student("vandal", {**rest, ids[0]: forge(VANDAL, ids[0], roots=roots)}, full(rest))
    yield Student("=cmd|' /C calc'!A0", {})


def hostile_zips() -> dict[str, bytes]:
    """Zips that are refused whole."""
    about = {"submission.json": b'{"student": "hostile"}'}
    link = zipfile.ZipInfo("notebooks/01_environment.ipynb")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    linked = io.BytesIO()
    with zipfile.ZipFile(linked, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    doubled = io.BytesIO()
    with zipfile.ZipFile(doubled, "w") as archive:
        archive.writestr("submission.json", b"{}")
        archive.filelist[0].filename = "submission.json"
        archive.NameToInfo.clear()
        archive.writestr("submission.json", b"{}")
    nested = b'{"cells": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    assert nested
    return {
        "slip": pack({**about, "../../escaped.txt": b"out"}),
        "absolute": pack({**about, "/tmp-escaped.txt": b"out"}),
        "backslash": pack({**about, "notebooks\\..\\..\\x.ipynb": b"out"}),
        "symlink": linked.getvalue(),
        "bomb": pack({**about, "notebooks/01_environment.ipynb": b"0" * (80 * 2**20)}),
        "many": pack({**about, **{f"notebooks/{n}.ipynb": b"{}" for n in range(400)}}),
        "doubled": doubled.getvalue(),
        "not-a-zip": b"PK\x03\x04 and then nothing of the kind",
        "empty-file": b"",
    }


def write_class(folder: Path, students: list[Student], zips: Mapping[str, bytes]) -> dict[str, Student]:
    """Put all into a folder; the students by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {}
    for number, student in enumerate(students):
        path = folder / f"{number:02}-{''.join(c if c.isalnum() else '_' for c in student.name)}.zip"
        path.write_bytes(make_zip(student))
        named[path.name] = student
    for name, data in zips.items():
        (folder / f"hostile-{name}.zip").write_bytes(data)
    return named
