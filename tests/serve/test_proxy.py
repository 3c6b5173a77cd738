"""Where the proxy is, from the environment; whose prefix is believed."""

from __future__ import annotations

import asyncio
import os

import pytest

from lmcourse.serve.proxy import ForwardedPrefix, find_lab_prefix, proxied_path


@pytest.mark.parametrize(
    ("environment", "prefix"),
    [
        ({}, None),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/ann/"}, "/user/ann/"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/ann"}, "/user/ann/"),
        ({"JUPYTER_SERVER_URL": "http://127.0.0.1:8888/"}, "/"),
        ({"JUPYTER_SERVER_URL": "http://127.0.0.1:8888/base/"}, "/base/"),
        ({"JPY_PARENT_PID": "not a number"}, None),
        ({"JPY_PARENT_PID": "1"}, None),
    ],
)
def test_prefix_is_that_of_the_lab_around_us(environment, prefix) -> None:
    assert find_lab_prefix(environment) == prefix
    assert proxied_path(6006, environment) == (None if prefix is None else f"{prefix}proxy/6006/")


def test_prefix_of_a_kernel_is_its_servers(monkeypatch) -> None:
    servers = [{"pid": 1, "base_url": "/other/"}, {"pid": os.getpid(), "base_url": "/mine/"}]
    monkeypatch.setattr("jupyter_server.serverapp.list_running_servers", lambda: iter(servers))
    assert find_lab_prefix({"JPY_PARENT_PID": str(os.getpid())}) == "/mine/"


@pytest.mark.parametrize(
    ("header", "root_path"),
    [
        (b"/user/ann/proxy/6006", "/user/ann/proxy/6006"),
        (b"/proxy/6006/", "/proxy/6006"),
        (b"", ""),
        (b"//evil.example", ""),
        (b"https://evil.example/", ""),
        (b"/a b", ""),
        (b"/<script>", ""),
    ],
)
def test_only_a_path_is_believed(header, root_path) -> None:
    seen = []

    async def inner(scope, receive, send) -> None:
        seen.append(scope["root_path"])

    scope = {"type": "http", "root_path": "", "headers": [(b"x-forwarded-prefix", header)]}
    asyncio.run(ForwardedPrefix(inner)(scope, None, None))
    assert seen == [root_path]
    assert scope["root_path"] == ""
