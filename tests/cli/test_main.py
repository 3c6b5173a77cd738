"""The command line's frame: what is imported, what goes where, which exit status."""

import importlib
import os
import re
import subprocess
import sys
import warnings

import pytest

from lmcourse import __main__ as command_line
from lmcourse.errors import ConfigError, ModelNotFoundError


def lmcourse(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lmcourse", *arguments], input=stdin, capture_output=True, text=True,
        timeout=120, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture
def fails(monkeypatch):
    """Make `lmcourse list` raise what a test gives."""
    from lmcourse.cli import list as listing

    def install(error):
        def run(args):
            raise error

        monkeypatch.setattr(listing, "run", run)

    return install


def test_error_goes_to_stderr_without_a_traceback_and_status_1():
    result = lmcourse("chat", "~/no-such-model")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("lmcourse: no model was found for '~/no-such-model'\n  expected: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["chat", "--cache-max-entry-cont", "0.2"], "lmcourse chat: error: .* did you mean --cache-max-entry-count?"),
        (["serve", "api_server", "--server-prt=1"], "lmcourse serve api_server: error: .* did you mean --server-port?"),
        (["bench", "ledger", "tiny-chat", "-z"], "lmcourse bench ledger: error: .*; lmcourse bench ledger -h shows"),
        (["list", "chat", "--xyz"], "lmcourse list: error: .*; lmcourse list -h shows what there is"),
    ],
)
def test_unknown_flag_is_told_with_the_commands_own_usage(capsys, arguments, told):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(arguments)
    assert stopped.value.code == 2
    assert re.search(told.replace("?", r"\?"), capsys.readouterr().err)


def test_output_survives_a_terminal_without_unicode():
    result = lmcourse("homework", "list", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "?" in result.stdout


def test_reader_that_leaves_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lmcourse", "homework", "list"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "status"), [([], 2), (["nonsense"], 2), (["list", "--nonsense"], 2), (["--version"], 0), (["-h"], 0)]
)
def test_usage_errors_have_status_2(arguments, status, capsys):
    try:
        returned = command_line.main(arguments)
    except SystemExit as error:
        returned = error.code
    assert returned == status


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (ConfigError("wrong", expected="right"), 1, "lmcourse: wrong\n  expected: right\n"),
        (ModelNotFoundError("gone"), 1, "lmcourse: gone\n"),
        (KeyboardInterrupt(), 130, "\nlmcourse: stopped\n"),
        (OSError("disk"), 1, "lmcourse: OSError: disk\n  next step: LMCOURSE_TRACEBACK=1 before the command shows"),
    ],
)  # fmt: skip
def test_exceptions_become_text_and_a_status(fails, capsys, monkeypatch, error, status, shown):
    monkeypatch.delenv("LMCOURSE_TRACEBACK", raising=False)
    fails(error)
    assert command_line.main(["list"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(shown)


def test_traceback_can_be_asked_for(fails, monkeypatch):
    monkeypatch.setenv("LMCOURSE_TRACEBACK", "1")
    fails(OSError("disk"))
    with pytest.raises(OSError, match="disk"):
        command_line.main(["list"])


def test_warnings_are_one_line(capsys, monkeypatch):
    from lmcourse.cli import list as listing

    def run(args):
        warnings.simplefilter("always")
        warnings.warn("look out", stacklevel=1)
        return 0

    monkeypatch.setattr(listing, "run", run)
    assert command_line.main(["list"]) == 0
    assert capsys.readouterr().err == "lmcourse: warning: look out\n"


@pytest.mark.parametrize("name", ["lab", "doctor", "list", "chat", "convert"])
def test_every_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as left:
        command_line.main([name, "-h"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "example" in shown
    assert f"lmcourse {name}" in shown


@pytest.mark.parametrize("name", ["lab", "list", "chat", "convert"])
def test_every_option_of_a_command_tells_its_default(name):
    import argparse

    subparsers = argparse.ArgumentParser().add_subparsers()
    importlib.import_module(f"lmcourse.cli.{name}").add_parser(subparsers)
    for action in subparsers.choices[name]._actions:
        if action.dest not in ("help", "path"):
            assert "(default: " in (action.help or ""), action.dest
