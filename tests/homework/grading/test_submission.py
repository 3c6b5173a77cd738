"""Zips of strangers: what is sound is read, what is hostile is refused whole, and nothing is ever unpacked."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path

import pytest
from classroom import Student, hostile_zips, make_zip, pack

from lmcourse.homework.grading import SubmissionError, read_submission
from lmcourse.homework.grading.submission import code_cells

HOSTILE = hostile_zips()


def read(folder: Path, data: bytes, name: str = "x.zip"):  # type: ignore[no-untyped-def]
    path = folder / name
    path.write_bytes(data)
    return read_submission(path)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_zip_is_refused_and_writes_nothing(tmp_path: Path, kind: str) -> None:
    with pytest.raises(SubmissionError, match="refused") as caught:
        read(tmp_path, HOSTILE[kind])
    assert caught.value.where == "x.zip"
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_sound_zip_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, make_zip(Student("Li  Lei\n")))
    assert found.student == "Li Lei"
    assert any(cell.exercise == "1.1" for cell in found.notebooks["01_environment.ipynb"])
    assert found.notes == ("progress.json is missing",)


@pytest.mark.parametrize(
    "files",
    [
        {}, {"submission.json": b"{"}, {"submission.json": b"[]"}, {"submission.json": b'{"student": 7}'},
        {"submission.json": b"[" * 100_000}, {"notes.txt": b"hello"}, {"submission.json": b"\xff\xfe"},
    ],
    ids=["empty", "broken", "list", "number", "deep", "other", "bytes"],
)  # fmt: skip
def test_zip_that_does_not_say_whose_it_is_is_named_after_its_file(tmp_path: Path, files: dict[str, bytes]) -> None:
    found = read(tmp_path, pack(files), "li-lei.zip")
    assert found.student == "li-lei"
    assert any("whose it is" in note for note in found.notes)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b'{"cells": 3}', b'{"cells": [3]}', b'{"cells": [{"cell_type": "code"}]}',
        b'{"cells": ' + b"[" * 50_000 + b"}", b'{"cells": [{"cell_type": "code", "source": 5}]}', b"\xff",
        json.dumps({"cells": [{"cell_type": "code", "source": "x" * 2_000_001}]}).encode(),
    ],
    ids=range(10),
)  # fmt: skip
def test_notebook_that_is_none_is_noted_and_the_rest_counts(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (the reason is in the note)
        code_cells(data)
    good = json.dumps({"cells": [{"cell_type": "code", "source": ["a = 1\n", "b"], "metadata": []}]}).encode()
    found = read(tmp_path, pack({"notebooks/bad.ipynb": data, "notebooks/good.ipynb": good}))
    assert list(found.notebooks) == ["good.ipynb"]
    assert found.notebooks["good.ipynb"][0].source == "a = 1\nb"
    assert any("bad.ipynb cannot be read" in note for note in found.notes)


def test_damaged_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    rng = random.Random(11)
    sound = make_zip(Student("x", notebooks=False))
    for _ in range(200):
        damaged = bytearray(sound)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            read(tmp_path, bytes(damaged[: rng.randint(1, len(damaged))]))
        except SubmissionError:
            continue


def test_headers_that_lie_about_sizes_do_not_help(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notebooks/01_x.ipynb", b"0" * (70 * 2**20))
        archive.filelist[0].file_size = 10
    with pytest.raises(SubmissionError):
        read(tmp_path, packed.getvalue())
