"""A submission: a zip that a stranger made, read in memory and never unpacked.

    submission.json        student, versions, what was missing when it was packed
    progress.json          tries, hints, minutes: for the instructor to see, worth no points
    notebooks/NAME.ipynb   only their code cells are read
    evidence/TASK.json     for the instructor to see, worth no points

Refused whole: names that lead out of the folder, links, devices, encrypted or doubled entries, too many of them, more
bytes than allowed (counted while reading, whatever the headers say), and what is no zip.

Lesson: 9 (how grading is made safe)
"""

from __future__ import annotations

import json
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmcourse.errors import LmcourseError
from lmcourse.homework.sandbox.cells import CodeCell

__all__ = ["Submission", "SubmissionError", "code_cells", "read_submission"]

_MOST_ENTRIES, _MOST_BYTES, _MOST_ZIP_BYTES = 200, 64 * 2**20, 32 * 2**20
_MOST_SOURCE_CHARACTERS = 2_000_000
_NAME = re.compile(r"(?:submission|progress)\.json|notebooks/[^/\\]+\.ipynb|evidence/[\w.-]+\.json")


class SubmissionError(LmcourseError):
    """A zip that is refused as a whole."""


@dataclass(frozen=True)
class Submission:
    """What a zip holds. Everything in it was written by the student, or by whoever made the zip."""

    student: str
    notebooks: Mapping[str, tuple[CodeCell, ...]]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_submission(path: Path) -> Submission:
    """SubmissionError says why a zip is refused. Entries that cannot be read are noted, the others count."""
    if path.stat().st_size > _MOST_ZIP_BYTES:
        raise _refusal(path, "too large", f"at most {_MOST_ZIP_BYTES >> 20} MiB", f"{path.stat().st_size >> 20} MiB")
    try:
        with zipfile.ZipFile(path) as packed:
            _check_entries(packed, path)
            files = _read_entries(packed, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise _refusal(path, "no readable zip", "a zip made by `lmcourse homework submit`", str(error)[:200]) from None
    return _understand(files, path)


def _refusal(path: Path, what: str, expected: str, got: str) -> SubmissionError:
    return SubmissionError(
        f"a submission is refused: {what}",
        expected=expected,
        got=got,
        where=path.name,
        next_step="ask the student for a zip made by `lmcourse homework submit`",
    )


def _check_entries(packed: zipfile.ZipFile, path: Path) -> None:
    entries = packed.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise _refusal(path, "too many entries", f"at most {_MOST_ENTRIES}", str(len(entries)))
    if len({entry.filename for entry in entries}) < len(entries):
        raise _refusal(path, "two entries of one name", "each name once", "the same name twice")
    for entry in entries:
        name = entry.filename
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in name or "\\" in entry.orig_filename:
            raise _refusal(path, "an entry whose name leads out of the folder", "plain names", repr(name[:80]))
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refusal(path, "an entry that is no file", "files", f"a link or device: {name[:80]!r}")
        if entry.flag_bits & 1:
            raise _refusal(path, "an encrypted entry", "no password", repr(name[:80]))
    total = sum(entry.file_size for entry in entries)
    if total > _MOST_BYTES:
        raise _refusal(path, "too many bytes when unpacked", f"at most {_MOST_BYTES >> 20} MiB", f"{total >> 20} MiB")


def _read_entries(packed: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    files, total = {}, 0
    for entry in packed.infolist():
        if entry.is_dir() or not _NAME.fullmatch(entry.filename):
            continue
        with packed.open(entry) as file:
            data = file.read(_MOST_BYTES - total + 1)
        total += len(data)
        if total > _MOST_BYTES:
            raise _refusal(path, "too many bytes when unpacked", f"at most {_MOST_BYTES >> 20} MiB", "more")
        files[entry.filename] = data
    return files


def _understand(files: Mapping[str, bytes], path: Path) -> Submission:
    notes: list[str] = []
    about, progress = (_object(files, name, notes) for name in ("submission.json", "progress.json"))
    notebooks = {}
    for name in sorted(name for name in files if name.startswith("notebooks/")):
        try:
            notebooks[name.removeprefix("notebooks/")] = code_cells(files[name])
        except ValueError as error:
            notes.append(f"{name} cannot be read: {error}")
    tasks = sorted(name for name in files if name.startswith("evidence/"))
    evidence = {name[len("evidence/") : -len(".json")]: _object(files, name, notes) for name in tasks}
    student = about.get("student")
    if not isinstance(student, str) or not student.strip():
        notes.append("the zip does not say whose it is; named after its file")
        student = path.stem
    versions = about.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    return Submission(" ".join(student.split())[:80], notebooks, evidence, progress, versions, tuple(notes))


def _object(files: Mapping[str, bytes], name: str, notes: list[str]) -> dict[str, Any]:
    if name not in files:
        notes.append(f"{name} is missing")
        return {}
    try:
        found = json.loads(files[name])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        notes.append(f"{name} is damaged")
        return {}
    return found


def code_cells(data: bytes) -> tuple[CodeCell, ...]:
    """The code cells of a notebook's bytes; ValueError if they are none, or too long."""
    try:
        cells = json.loads(data)["cells"]
        found = [cell for cell in cells if cell.get("cell_type") == "code"]
        made = tuple(CodeCell(_source(cell["source"]), _exercise(cell)) for cell in found)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no notebook ({type(error).__name__})") from None
    if sum(len(cell.source) for cell in made) > _MOST_SOURCE_CHARACTERS:
        raise ValueError("its cells are too long")
    return made


def _source(source: Any) -> str:
    text = source if isinstance(source, str) else "".join(source)
    return text.encode("utf-8", "replace").decode("utf-8")


def _exercise(cell: Mapping[str, Any]) -> str | None:
    metadata = cell.get("metadata")
    ours = metadata.get("lmcourse") if isinstance(metadata, dict) else None
    name = ours.get("exercise") if isinstance(ours, dict) else None
    return name if isinstance(name, str) else None
