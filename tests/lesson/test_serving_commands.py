"""The lesson's serving commands, with only the package's name changed: every flag is understood."""

from __future__ import annotations

import shlex
from itertools import pairwise

import pytest

from lmcourse.__main__ import _make_parser, main

COMMANDS = (
    "serve api_server ~/internlm2-chat-1_8b --model-format hf --quant-policy 0 --server-name 0.0.0.0 "
    "--server-port 23333 --tp 1",
    "serve api_server ~/internlm2-chat-1_8b-4bit --model-format awq --cache-max-entry-count 0.4 --quant-policy 0 "
    "--server-name 0.0.0.0 --server-port 23333 --tp 1",
    "serve api_client http://localhost:23333",
    "serve gradio http://localhost:23333 --server-name 0.0.0.0 --server-port 6006",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command) -> None:
    words = shlex.split(command)
    args, unknown = _make_parser(words).parse_known_args(words)
    assert unknown == []
    given = {name.removeprefix("--").replace("-", "_"): value for name, value in pairwise(words)
             if name.startswith("--")}  # fmt: skip
    for name, value in given.items():
        assert str(getattr(args, name)) == value


@pytest.mark.parametrize("command", sorted({" ".join(command.split()[:2]) for command in COMMANDS} | {"serve"}))
def test_help_is_given(command, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command.split(), "-h"])
    assert left.value.code == 0
    assert f"lmcourse {command}" in capsys.readouterr().out
