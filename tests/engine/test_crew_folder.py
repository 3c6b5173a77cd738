"""Folders of ranks: removed when their owner is gone, whichever way, and no sooner."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmcourse.engine.crew_folder import claim_folder

CLAIMS = """
import os, signal, sys
from lmcourse.engine.crew_folder import claim_folder
folder, claim = claim_folder()
(folder / "rank-1").write_text("words")
print(folder, flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_claim_folder_removes_those_of_killed_processes_and_no_others(temporary: Path) -> None:
    older = temporary / "lmcourse-crew-of-an-older-version"
    other = temporary / "other"
    for folder in (older, other):
        folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", CLAIMS], stdin=-1, stdout=-1, text=True) as process:
        theirs = Path(process.stdout.readline().strip())
        mine, claim = claim_folder()
        assert theirs.exists(), "its process lives"
        process.stdin.close()
        process.wait(60)
    assert theirs.exists()
    mine_too, claim_too = claim_folder()
    with claim, claim_too:
        assert sorted(temporary.iterdir()) == sorted([older, other, mine, mine_too])


def test_claim_folder_leaves_alone_what_is_a_link(temporary: Path) -> None:
    target = temporary / "somewhere"
    target.mkdir()
    (target / "owner").touch()
    (temporary / "lmcourse-crew-link").symlink_to(target)
    claim_folder()[1].close()
    assert (target / "owner").exists()
    assert (temporary / "lmcourse-crew-link").is_symlink()
