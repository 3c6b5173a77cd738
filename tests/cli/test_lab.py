"""`lmcourse lab`: what would be started; the browser tests start it."""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from lmcourse.__main__ import main
from lmcourse.cli import lab


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What `lab` starts, without starting it, in an empty home folder."""
    calls = []

    def popen(command, env):
        page_config = Path(env["JUPYTER_CONFIG_PATH"].split(os.pathsep)[0]) / "labconfig" / "page_config.json"
        calls.append((command, env, json.loads(page_config.read_text())))
        return calls

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(lab.subprocess, "Popen", popen)
    monkeypatch.setattr(lab, "_wait", lambda process: 0)
    return calls


def test_lab_listens_here_only_and_passes_flags_on(started, tmp_path, capsys):
    assert main(["lab", "--no-browser", "--port", "8899"]) == 0
    ((command, env, page_config),) = started
    assert command[:4] == [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1"]
    assert command[-3:] == ["--no-browser", "--port", "8899"]
    assert env["PATH"].startswith(str(Path(sys.executable).parent))
    assert page_config["disabledExtensions"] == {"@jupyterlab/apputils-extension:announcements": True}
    assert not Path(env["JUPYTER_CONFIG_PATH"].split(os.pathsep)[0]).exists(), "temporary settings outlived the server"


def test_lab_links_the_lessons_model_once_and_leaves_what_is_there(started, tmp_path, capsys):
    link = tmp_path / "internlm2-chat-1_8b"
    main(["lab"])
    assert link.is_symlink()
    assert "now leads to" in capsys.readouterr().out
    main(["lab"])
    assert "now leads to" not in capsys.readouterr().out
    link.unlink()
    link.mkdir()
    main(["lab"])
    assert link.is_dir()
    assert not link.is_symlink()


def test_lab_opens_lesson_1_where_it_exists(tmp_path):
    lessons = tmp_path / "notebooks"
    lessons.mkdir()
    assert "--LabApp.default_url=/lab/tree/notebooks" in lab.make_command(lessons, [])
    (lessons / "01_environment.ipynb").write_text("{}")
    command = lab.make_command(lessons, ["--allow-root"])
    assert "--LabApp.default_url=/lab/tree/notebooks/01_environment.ipynb" in command
    assert f"--ServerApp.root_dir={tmp_path}" in command


def test_lab_without_jupyterlab_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["lab"]) == 1
    assert "make lab" in capsys.readouterr().err


def test_lab_without_lessons_says_where_it_looked(monkeypatch, tmp_path, capsys, started):
    monkeypatch.setattr(lab.lmcourse, "__file__", str(tmp_path / "site" / "lmcourse" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert lab.add_parser(argparse.ArgumentParser().add_subparsers()) is None
    assert main(["lab"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert not started
