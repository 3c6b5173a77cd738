"""`lmcourse lab`: JupyterLab on the course's folder, with lesson 1 open.

It listens on this machine only (127.0.0.1), on the first free port from 8888 on, and asks no server for news. Whatever
else is written after `lmcourse lab` goes to JupyterLab.

Lesson: 1 (opening the course)
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lmcourse
from lmcourse.errors import MachineError

__all__ = ["add_parser", "make_command", "make_environment", "run"]

_LINK = "internlm2-chat-1_8b"
_EXAMPLES = """examples:
  lmcourse lab
  lmcourse lab --no-browser --port 8899          flags of JupyterLab; `jupyter lab --help-all` lists them
"""


def add_parser(subparsers: Any) -> None:
    """Adds `lab`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "lab",
        help="open the course in JupyterLab",
        description="Open the course in JupyterLab, at lesson 1 (default: on 127.0.0.1, first free port from 8888 on).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=run, passes_on=True)


def run(args: argparse.Namespace) -> int:
    """Wait for JupyterLab to end, and return its exit status."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise MachineError(
            "JupyterLab is not installed",
            expected="the package jupyterlab",
            got="nothing of that name in this Python",
            where=sys.executable,
            next_step="run `make lab` in the course's folder, or pip install 'lmcourse[lab]'",
        )
    notebooks = _find_notebooks()
    _link_lesson_model(Path.home())
    with tempfile.TemporaryDirectory(prefix="lmcourse-lab-") as settings:
        command = make_command(notebooks, args.unknown)
        return _wait(subprocess.Popen(command, env=make_environment(Path(settings))))


def _find_notebooks() -> Path:
    """The lessons beside the package, or below the present folder."""
    places = [Path(lmcourse.__file__).resolve().parents[1] / "notebooks", Path.cwd() / "notebooks"]
    for place in places:
        if place.is_dir():
            return place
    raise MachineError(
        "the lessons are not here",
        expected="a folder named notebooks",
        got="none",
        where=" and ".join(map(str, places)),
        next_step="change to the course's folder (the one with the Makefile) and run it again",
    )


def make_command(notebooks: Path, more: list[str]) -> list[str]:
    """JupyterLab's command line; `more` comes last and so wins."""
    lessons = sorted(notebooks.glob("01_*.ipynb"))
    page = f"/lab/tree/{notebooks.name}/{lessons[0].name}" if lessons else f"/lab/tree/{notebooks.name}"
    as_root = ["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []  # a class machine's only user
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        "--ip=127.0.0.1",
        f"--ServerApp.root_dir={notebooks.parent}",  # lessons link to images and files beside their own folder
        f"--LabApp.default_url={page}",
        "--LabApp.extension_manager=readonly",  # the other one asks a package index
        *as_root,
        *more,
    ]


def make_environment(settings: Path) -> dict[str, str]:
    """This process's environment, with commands of this Python on the PATH and JupyterLab's announcements off.

    The announcements are a plugin, switched off by a page_config.json in an extra configuration folder; the user's own
    settings stay as they are.
    """
    (settings / "labconfig").mkdir(parents=True, exist_ok=True)
    off = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (settings / "labconfig" / "page_config.json").write_text(json.dumps(off), encoding="utf-8")
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    configs = [str(settings), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join(filter(None, paths)),
        "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, configs)),
    }


def _link_lesson_model(home: Path) -> None:
    """The lesson's commands name ~/internlm2-chat-1_8b: where nothing has that name, it becomes a link to tiny-chat."""
    if os.path.lexists(home / _LINK):
        return
    from lmcourse.doctor import link_model

    try:
        target = link_model(home)
    except (lmcourse.errors.LmcourseError, OSError) as error:
        print(f"~/{_LINK} could not be made ({error}); `lmcourse doctor` says more", file=sys.stderr)
        return
    print(f"~/{_LINK} now leads to {target}, so that the lesson's commands work as printed")


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C is JupyterLab's to handle (it asks first); a request to end is passed on to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()
