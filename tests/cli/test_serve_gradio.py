"""`lmcourse serve gradio` as users start it; how the page looks and works is tests/browser's."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from lmcourse.__main__ import main


def read(url: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return answer.read().decode()


def test_page_is_served_until_it_is_stopped(stand_in) -> None:
    command = [sys.executable, "-m", "lmcourse", "serve", "gradio", stand_in.url, "--server-name", "0.0.0.0"]
    process = subprocess.Popen(
        [*command, "--server-port", "0", "--tp", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        process.stdout.readline()
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        page = read(f"{address}/")
        direct = json.loads(read(f"{address}/config"))
        proxied = json.loads(read(f"{address}/config", **{"X-Forwarded-Prefix": "/user/ann/proxy/6006"}))
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "everyone who can reach" in errors
    assert "Traceback" not in errors
    for host in ("googleapis", "gstatic", "cdnjs", "jsdelivr", "unpkg"):
        assert host not in page
    assert direct["root"] == address
    assert proxied["root"] == f"{address}/user/ann/proxy/6006"
    assert direct["analytics_enabled"] is False


def test_dead_address_and_unknown_model_end_at_once(capsys) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert main(["serve", "gradio", dead, "--server-port", "0"]) == 1
    assert "no server answers there" in capsys.readouterr().err
    assert main(["serve", "gradio", "no-such-model", "--server-port", "0"]) == 1
    assert "no-such-model" in capsys.readouterr().err


def test_port_in_use_is_told_before_anything_is_loaded(capsys, monkeypatch) -> None:
    monkeypatch.setattr("lmcourse.engine.Engine.from_folder", lambda *a, **k: pytest.fail("loaded"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["serve", "gradio", "tiny-chat", "--server-port", str(port)]) == 1
    shown = capsys.readouterr().err
    assert f"port {port}" in shown
    assert "--server-port" in shown


@pytest.mark.parametrize("arguments", [["--server-port", "70000"], ["--server-name", "no.such.host.invalid"]])
def test_impossible_places_are_refused(arguments, capsys) -> None:
    assert main(["serve", "gradio", "tiny-chat", *arguments]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("service", ["api_client", "gradio"])
def test_help_gives_every_default_and_an_example(service, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main(["serve", service, "-h"])
    shown = capsys.readouterr().out
    assert left.value.code == 0
    flags = [line for line in shown.splitlines() if line.startswith("  --")]
    assert flags
    assert shown.count("(default") >= len(flags) - 1
    assert f"lmcourse serve {service} http://localhost:23333" in shown
