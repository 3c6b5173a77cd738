"""`lmcourse serve api_client`: a scripted keyboard against a server that is not ours."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from lmcourse.__main__ import main


def test_conversation_goes_to_the_server(type_in, stand_in, capsys) -> None:
    prompts = type_in("hello", "", "and", "more", "", "end", "", "again", "", "exit", "")
    assert main(["serve", "api_client", stand_in.url]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"stand-in at {stand_in.url}, greedy answers")
    assert stand_in.answer_of("hello") in shown
    assert "[22 tokens, the first after" in shown
    assert "is forgotten" in shown
    assert prompts == ["double enter to end input >>> "] * 5
    sent = [[message["content"] for message in body["messages"]] for body in stand_in.bodies]
    assert sent == [["hello"], ["hello", stand_in.answer_of("hello"), "and\nmore"], ["again"]]


def test_end_of_input_leaves_politely(stand_in) -> None:
    command = [sys.executable, "-m", "lmcourse", "serve", "api_client", stand_in.url]
    result = subprocess.run(command, input="hi", capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert stand_in.answer_of("hi") in result.stdout
    assert result.stderr == ""


def test_sampling_flags_reach_the_server(type_in, stand_in) -> None:
    type_in("hi", "")
    flags = ["--temperature", "0.8", "--top-p", "0.9", "--max-new-tokens", "7", "--model", "other"]
    assert main(["serve", "api_client", stand_in.url, *flags]) == 0
    body = stand_in.bodies[-1]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["model"]) == (0.8, 0.9, 7, "other")


def test_session_id_leaves_the_conversation_to_the_server(type_in, stand_in, capsys) -> None:
    stand_in.history[3] = ["earlier"]
    type_in("hi", "", "end", "", "new", "")
    assert main(["serve", "api_client", stand_in.url, "--session-id", "3"]) == 0
    assert "earlier and hi" in capsys.readouterr().out
    assert stand_in.history == {3: ["new"]}


def test_dead_address_is_one_error(capsys) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert main(["serve", "api_client", dead]) == 1
    assert "no server answers there" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "status"), [(["--api-key", "secret"], 0), (["--api-key", "guess"], 1), ([], 1)])
def test_key_is_needed_where_the_server_wants_one(type_in, stand_in, capsys, key, status) -> None:
    stand_in.key = "secret"
    type_in()
    assert main(["serve", "api_client", stand_in.url, *key]) == status
    assert ("--api-key" in capsys.readouterr().err) == bool(status)


def test_server_that_goes_away_ends_the_talk(type_in, stand_in, capsys) -> None:
    stand_in.failure = "breaks off"
    type_in("hi", "", "never", "")
    assert main(["serve", "api_client", stand_in.url]) == 1
    assert "broke off" in capsys.readouterr().err


def test_busy_server_does_not_end_the_talk(type_in, stand_in, capsys) -> None:
    stand_in.failure = "busy"
    type_in("hi", "")
    assert main(["serve", "api_client", stand_in.url]) == 0
    assert "ask again in 7 s" in capsys.readouterr().err
