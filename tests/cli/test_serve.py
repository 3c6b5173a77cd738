"""`lmcourse serve api_server` as users run it: flags, a port in use, signals, keys."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import pytest

from lmcourse.__main__ import main
from lmcourse.cli.serve_api_server import _about_class
from lmcourse.serve.class_roster import Quota, Student
from lmcourse.serve.settings import ServerSettings

START = [sys.executable, "-m", "lmcourse", "serve", "api_server", "tiny-chat", "--server-port", "0"]


@contextmanager
def started(*flags, env=None):
    """A server process and its address."""
    process = subprocess.Popen(
        [*START, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if found := re.search(r"listening on (\S+?),", line):
                yield process, found[1]
                break
        else:
            raise AssertionError(process.stderr.read())
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def chat(url, **settings):
    body = {"model": "tiny-chat", "messages": [{"role": "user", "content": "hi"}], **settings}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def test_sigterm_finishes_what_runs():
    with started("--session-len", "600", "--cache-max-entry-count", "100") as (process, url):
        answers = []
        asking = threading.Thread(
            target=lambda: answers.append(chat(url, max_tokens=300, ignore_eos=True, temperature=0).json())
        )
        asking.start()
        while "lmcourse_requests_running 1" not in httpx.get(f"{url}/metrics").text:
            pass
        process.send_signal(signal.SIGTERM)
        asking.join(60)
        assert process.wait(60) == 0
        assert answers[0]["choices"][0]["finish_reason"] == "length"
        assert answers[0]["usage"]["completion_tokens"] == 300
        assert "stopped" in process.stdout.read()
        assert process.stderr.read() == ""


def test_port_in_use_is_said_before_loading():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "-m", "lmcourse", "serve", "api_server", "no-such-model", "--server-port", str(port)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert result.returncode == 1
    assert f"port {port} is in use" in result.stderr
    assert "next step" in result.stderr
    assert "Traceback" not in result.stderr


def test_keys_the_lessons_flags_and_ctrl_c():
    flags = ["--model-format", "hf", "--quant-policy", "0", "--tp", "1", "--api-keys", "one", "two"]
    with started(*flags, "--server-name", "0.0.0.0", "--session-len", "200") as (process, url):
        assert httpx.get(f"{url}/health").status_code == 200
        assert chat(url).status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer two"}).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "without a key" not in process.stderr.read()


def test_class_is_told_where_its_view_is():
    ada = Student("Ada", "sk-1", Quota())
    assert _about_class(ServerSettings()) == ""
    assert "nobody may see" in _about_class(ServerSettings(students=(ada,)))
    for opened in ({"instructor_key": "k"}, {"api_keys": ("k",)}, {"students_see_class": True}):
        told = _about_class(ServerSettings(students=(ada,), **opened))
        assert "a class of 1; who is running what is at class/view" in told


def test_open_port_without_a_key_is_warned_about(capsys):
    assert main(["serve", "api_server", "no-such-model", "--server-port", "0", "--server-name", "0.0.0.0"]) == 1
    warning = capsys.readouterr().err
    assert "without a key" in warning
    assert "--api-keys" in warning


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--server-port", "70000"], "cannot listen"),
        (["--server-name", "no.such.host.invalid"], "cannot listen"),
        (["--cache-max-entry-count", "-1"], "cache_max_entry_count"),
        (["--max-queue", "-1"], "max_queue"),
        (["--chat-template", "{"], "cannot be read"),
        (["--chat-template", '{"model_nam": "x"}'], "did you mean 'model_name'"),
        (["--chat-template", "vicunna"], "did you mean 'vicuna'"),
        (["--chat-template", "vicuna", "--model-name", "vicuna"], "given twice"),
        (["--ssl"], "SSL_KEYFILE"),
        (["--api-keys", " "], "a key is empty"),
    ],
)
def test_wrong_flags_are_one_clear_error(flags, message, capsys, monkeypatch):
    monkeypatch.delenv("SSL_KEYFILE", raising=False)
    assert main(["serve", "api_server", "tiny-chat", "--server-port", "0", *flags]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_no_key_behind_the_flag_is_an_error_and_not_an_open_server(capsys):
    """As a shell leaves it where the variable in `--api-keys $KEY` is not set."""
    with pytest.raises(SystemExit):
        main(["serve", "api_server", "tiny-chat", "--server-port", "0", "--api-keys"])
    assert "--api-keys: expected at least one argument" in capsys.readouterr().err


def test_help_tells_defaults_and_examples(capsys):
    import argparse

    from lmcourse.cli import serve_api_server

    subparsers = argparse.ArgumentParser().add_subparsers()
    serve_api_server.add_parser(subparsers)
    for action in subparsers.choices["api_server"]._actions:
        if action.dest != "help":
            assert "default" in action.help, action.dest
    with pytest.raises(SystemExit):
        main(["serve", "api_server", "-h"])
    shown = capsys.readouterr().out
    assert "examples:" in shown
    flags = """server-name server-port tp cache-max-entry-count model-format quant-policy session-len max-batch-size
        api-keys ssl allow-origins chat-template max-queue cache-block-seq-len rope-scaling-factor model-name"""
    for flag in flags.split():
        assert f"--{flag} " in shown or f"--{flag}]" in shown
