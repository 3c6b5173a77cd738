"""Checks of installed software, with faked versions."""

from __future__ import annotations

import importlib.metadata
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lmcourse.doctor.software import (
    check_chinese_font,
    check_encoding,
    check_packages,
    check_python,
    required_packages,
    required_python,
)

WANTED = [Requirement("torch>=2.11,<2.14"), Requirement("numpy>=1.26")]


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10, 14), "fix"), ((3, 11, 0), "ok"), ((3, 12, 4), "ok"), ((2, 7, 18), "fix")]
)
def test_check_python_by_range(version, status):
    assert check_python(version, ">=3.11").status == status


@pytest.mark.parametrize(
    ("versions", "status", "named"),
    [
        ({"torch": "2.13.0+cpu", "numpy": "2.4.6"}, "ok", ()),
        ({"torch": "2.14.0", "numpy": "2.4.6"}, "fix", ("torch",)),
        ({"torch": "2.10.1+cu128", "numpy": "1.24"}, "fix", ("torch", "numpy")),
        ({"torch": "2.13.0a0+git", "numpy": "2.0"}, "ok", ()),  # an own build inside the range
        ({"numpy": "2.0"}, "fix", ("torch",)),
    ],
)
def test_check_packages_names_all_that_is_wrong_in_one_command(versions, status, named):
    row = check_packages("packages", WANTED, versions.get)
    assert row.status == status
    if status == "fix":
        words = shlex.split(row.fix)
        installed = {Requirement(word).name for word in words[words.index("install") + 1 :] if word[0] in "tn"}
        assert installed == set(named)


def test_check_packages_that_are_optional_only_warns():
    assert check_packages("JupyterLab", WANTED, {}.get, needed=False).status == "warn"


def test_check_packages_without_metadata_says_how_to_install():
    row = check_packages("packages", [], {}.get)
    assert row.status == "fix"
    assert row.fix.endswith(f"-e {Path(__file__).parents[2]}")


def test_required_packages_are_those_of_pyproject(monkeypatch):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    metadata = list(project["dependencies"])  # what an installed package's metadata says: extras become markers
    for extra, lines in project["optional-dependencies"].items():
        metadata += [f'{line}; extra == "{extra}"' for line in lines]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: metadata)
    wanted = [Requirement(line) for line in project["dependencies"]]
    here = {(r.name, str(r.specifier)) for r in wanted if r.marker is None or r.marker.evaluate()}
    assert {(r.name, str(r.specifier)) for r in required_packages()} == here
    assert {r.name for r in required_packages("lab")} == {
        Requirement(line).name for line in project["optional-dependencies"]["lab"]
    }


def test_required_python_is_that_of_pyproject():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert required_python() == project["requires-python"]


@pytest.mark.parametrize(
    ("encoding", "status"), [("utf-8", "ok"), ("UTF8", "ok"), (None, "ok"), ("ascii", "fix"), ("cp936", "fix")]
)
def test_check_encoding(encoding, status):
    assert check_encoding(encoding).status == status


def test_check_chinese_font_is_optional():
    assert check_chinese_font(None).status == "warn"
    assert check_chinese_font("Noto Sans CJK SC").status == "ok"
