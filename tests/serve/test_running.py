"""The server in this process: addresses, TLS, start and end."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess

import httpx
import pytest

from lmcourse.errors import ConfigError, MachineError
from lmcourse.serve.app import make_app
from lmcourse.serve.running import Server, bind, running
from lmcourse.serve.settings import ServerSettings


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls_is_spoken_with_a_key_and_a_certificate(pipe, tmp_path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    with running(make_app(pipe), tls=(key, certificate)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=str(certificate))
        assert httpx.get(f"{server.url}/health", verify=trusted).json() == {"status": "ok"}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")


def test_url_is_one_that_this_machine_reaches(pipe) -> None:
    for host in ("127.0.0.1", "0.0.0.0", "localhost", "::1", "::"):
        try:
            listener = bind(host, 0)
        except MachineError:
            assert ":" in host  # a machine without IPv6
            continue
        server = Server(make_app(pipe), listener)
        listener.close()
        assert server.url.startswith(("http://127.0.0.1:", "http://[::1]:"))


def test_two_servers_share_one_pipeline(pipe) -> None:
    with running(make_app(pipe)) as first, running(make_app(pipe)) as second:
        assert first.port != second.port
        body = {"model": "tiny-chat", "messages": "What is 17 + 25?"}
        texts = {
            httpx.post(f"{server.url}/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
            for server in (first, second)
        }
    assert texts == {pipe("What is 17 + 25?").text}


def test_second_ctrl_c_ends_without_a_traceback(pipe, capfd) -> None:
    with running(make_app(pipe)) as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        for _ in range(2):
            server.handle_exit(signal.SIGINT, None)
    assert server.force_exit
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "wrong", [{"max_queue": -1}, {"grace_seconds": float("nan")}, {"api_keys": ("",)}, {"api_keys": ("clé",)}]
)
def test_settings_out_of_range_are_errors(wrong) -> None:
    with pytest.raises(ConfigError):
        ServerSettings(**wrong)


def test_engine_without_a_template_is_refused(pipe) -> None:
    from lmcourse.engine import AsyncEngine

    with pytest.raises(ConfigError, match="needs a pipeline"):
        make_app(AsyncEngine(pipe.engine))
