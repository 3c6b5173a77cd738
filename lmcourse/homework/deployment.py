"""Exercises 9.1 to 9.3: the lesson's advanced homework as answers that can be run again: W4A16 with a share of memory.

Lesson: 9 (homework)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from lmcourse.config import TurbomindEngineConfig
from lmcourse.homework.command_line import CommandLine
from lmcourse.homework.compare import Judged, difference
from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["CHAT_COMMAND", "ENGINE_SETTINGS", "SERVER_COMMAND"]

_HARMLESS = {"--quant-policy": ("0",), "--tp": ("1",)}
_HOSTS = {"--server-name": ("127.0.0.1", "0.0.0.0", "localhost")}
_FORMAT, _SHARE, _PORT = "--model-format", "--cache-max-entry-count", "--server-port"
_FOLDERS = ("~/internlm2-chat-1_8b-4bit", "./tiny-chat-4bit", "models/awq", "/data/internlm2-chat-7b-4bit")


def _chat(model: str, ratio: float, **flags: str) -> CommandLine:
    given = {"--model-format": "awq", "--cache-max-entry-count": str(ratio), **flags}
    return CommandLine(("lmcourse", "chat"), model, given, _HARMLESS)


def _serve(model: str, ratio: float, port: int) -> CommandLine:
    given = {"--model-format": "awq", "--cache-max-entry-count": str(ratio), "--server-port": str(port)}
    return CommandLine(("lmcourse", "serve", "api_server"), model, given, {**_HARMLESS, **_HOSTS})


def _changed(make: Callable[..., CommandLine], change: Mapping[str, str | None], *given: Any) -> CommandLine:
    """The right command line with flags under other names; None: without them."""
    right = make(*given)
    named = {change.get(name, name): value for name, value in right.flags.items()}
    return replace(right, flags={name: value for name, value in named.items() if name is not None})


def _command(make: Callable[..., CommandLine], words: str, *given: Any) -> CommandLine:
    """The right flags behind another command."""
    return replace(make(*given), command=tuple(words.split()))


@dataclass(frozen=True)
class _Keywords(Judged):
    """Keywords of a TurbomindEngineConfig; others may be there with the value that they have anyway."""

    needed: Mapping[str, Any]

    def __str__(self) -> str:
        return repr(dict(self.needed))

    def difference(self, got: Any) -> str | None:
        if not isinstance(got, Mapping):
            return difference(dict(self.needed), got)
        usual = {field.name: field.default for field in fields(TurbomindEngineConfig)}
        said = {name: value for name, value in got.items() if name in self.needed or usual.get(name, ...) != value}
        return difference(dict(self.needed), said)


def _inputs(rng: random.Random) -> Iterator[tuple[str, float, int]]:
    yield _FOLDERS[0], 0.4, 23333
    for _ in range(5):
        yield rng.choice(_FOLDERS), rng.randint(2, 95) / 100, rng.randint(1024, 65535)


def _chat_cases(rng: random.Random) -> Iterator[Case]:
    for model, ratio, _ in _inputs(rng):
        yield Case(f"model={model!r}, ratio={ratio}", partial(_given, model, ratio), _chat(model, ratio))


def _server_cases(rng: random.Random) -> Iterator[Case]:
    for given in _inputs(rng):
        shown = "model={!r}, ratio={}, port={}".format(*given)
        yield Case(shown, partial(_given, *given), _serve(*given))


def _settings(ratio: float) -> dict[str, Any]:
    return {"model_format": "awq", "cache_max_entry_count": ratio}


def _settings_cases(rng: random.Random) -> Iterator[Case]:
    for _, ratio, _ in _inputs(rng):
        yield Case(f"ratio={ratio}", partial(_given, ratio), _Keywords(_settings(ratio)))


def _given(*arguments: Any) -> tuple[Any, ...]:
    return arguments


CHAT_COMMAND = Exercise(
    id="9.1",
    title="Two flags",
    signature="chat_command(model, ratio) → the words of the command",
    difficulty=1,
    minutes=5,
    hints=(
        "`lmcourse chat -h` lists every flag with its default. Two of them are needed: one says how the weights are "
        "stored, the other how much of the free memory the cache may take.",
        "The command is lmcourse chat, then the model's folder, then the flag for the format of 4-bit weights and the "
        "one for the cache's share, each followed by its value as text.",
        'Return ["lmcourse", "chat", model, "--model-format", "awq", "--cache-max-entry-count", str(ratio)].',
    ),
    make_cases=_chat_cases,
    mistakes=(
        Mistake(
            lambda model, ratio: _chat(model, ratio * 100), "the share is a number below 1; from 1 on it counts blocks"
        ),
        Mistake(lambda model, ratio: _chat(model, 0.4), "the ratio is given: do not write 0.4 into the command"),
        Mistake(
            lambda model, ratio: _chat("~/internlm2-chat-1_8b-4bit", ratio), "the model is given: use the argument"
        ),
        Mistake(
            partial(_changed, _chat, {_FORMAT: None}),
            "say that the weights are 4-bit, --model-format: this engine sees it by itself, not every engine does",
        ),
        Mistake(partial(_changed, _chat, {_SHARE: None}), "the cache's share is missing, so it would be 0.8"),
        Mistake(
            partial(_changed, _chat, {_FORMAT: "--model_format", _SHARE: "--cache_max_entry_count"}),
            "flags are written with dashes; underscores belong to the keywords of Python",
        ),
        Mistake(
            partial(_command, _chat, "lmcourse serve api_server"),
            "that starts a server; the task is a chat in the terminal",
        ),
        Mistake(partial(_command, _chat, "lmdeploy chat"), "here the package is called lmcourse"),
    ),
)

SERVER_COMMAND = Exercise(
    id="9.2",
    title="A server for both clients",
    signature="server_command(model, ratio, port) → the words of the command",
    difficulty=1,
    minutes=5,
    hints=(
        "The engine's flags are those of the chat. What else must be said so that clients find the server?",
        "lmcourse serve api_server, the folder, both flags of exercise 9.1, and the port on which it is to listen.",
        'Return ["lmcourse", "serve", "api_server", model, "--model-format", "awq", "--cache-max-entry-count", '
        'str(ratio), "--server-port", str(port)].',
    ),
    make_cases=_server_cases,
    mistakes=(
        Mistake(lambda model, ratio, port: _serve(model, ratio, 23333), "the port is given: use the argument"),
        Mistake(lambda model, ratio, port: _serve(model, 0.4, port), "the ratio is given: use the argument"),
        Mistake(partial(_changed, _serve, {_PORT: None}), "without --server-port it listens on 23333"),
        Mistake(partial(_changed, _serve, {_PORT: "--port"}), "the flag is --server-port"),
        Mistake(partial(_changed, _serve, {_FORMAT: None}), "say that the weights are 4-bit: --model-format"),
        Mistake(partial(_changed, _serve, {_SHARE: None}), "the cache's share is missing"),
        Mistake(
            partial(_command, _serve, "lmcourse serve gradio"),
            "gradio is the page; the server behind both clients is api_server",
        ),
    ),
)

ENGINE_SETTINGS = Exercise(
    id="9.3",
    title="The same from Python",
    signature="engine_settings(ratio) → dict of keywords for TurbomindEngineConfig",
    difficulty=1,
    minutes=5,
    hints=(
        "The command line's flags and the config's keywords are the same words: what becomes of the dashes?",
        "Two keywords: the format of the weights, as text, and the cache's share, as the number that was given.",
        'Return {"model_format": "awq", "cache_max_entry_count": ratio}.',
    ),
    make_cases=_settings_cases,
    mistakes=(
        Mistake(lambda ratio: _settings(0.4), "the ratio is given: use the argument"),
        Mistake(lambda ratio: _settings(100 * ratio), "the share is a number below 1; from 1 on it counts blocks"),
        Mistake(lambda ratio: {"cache_max_entry_count": ratio}, "nothing says that the weights are 4-bit"),
        Mistake(lambda ratio: {"model_format": "awq"}, "the cache's share is missing, so it would be 0.8"),
        Mistake(
            lambda ratio: {"model_format": "awq", "cache_max_entry_count": str(ratio)},
            "a keyword takes the number itself, not its text",
        ),
        Mistake(
            lambda ratio: {"--model-format": "awq", "--cache-max-entry-count": ratio},
            "those are flags; keywords have neither dashes in front nor within",
        ),
        Mistake(
            lambda ratio: {"model-format": "awq", "cache-max-entry-count": ratio},
            "those are a flag's words; a keyword has underscores where the flag has dashes",
        ),
        Mistake(
            lambda ratio: {"quant_policy": 4, "cache_max_entry_count": ratio},
            "quant_policy is about the cache (lesson 3); the weights' format is model_format",
        ),
        Mistake(lambda ratio: {**_settings(ratio), "tp": 2}, "tp was not asked for; this machine may have one device"),
        Mistake(lambda ratio: {**_settings(ratio), "quant_policy": 8}, "W4A16 leaves the cache as it is"),
        Mistake(lambda ratio: {**_settings(ratio), "model_format": "hf"}, "hf are 16-bit weights; 4-bit ones are awq"),
        Mistake(lambda ratio: list(_settings(ratio).items()), "a dict was asked for"),
    ),
)
