"""RemotePipeline: what pipeline() gives where the class's server computes: a Client that says so.

    pipe = pipeline("internlm2-chat-1_8b")      [lmcourse] no GPU here: http://… answers with internlm2-chat-1_8b
    pipe("hello"), pipe.stream_infer(…), pipe.chat(…)      as everywhere
    pipe.stats()                                an error that says where the engine is

Lesson: 5 (the class's server)
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NoReturn

from lmcourse.client import Client
from lmcourse.errors import ConfigError, KeyRefusedError, LmcourseError, ServerBusyError, ServerError

__all__ = ["RemotePipeline"]

_RUN_HERE = "pass a backend_config for an engine of your own, or unset LMCOURSE_SERVER"


class RemotePipeline(Client):
    """The class's server with the pipeline's interface; what only an engine has raises ConfigError."""

    def __init__(self, url: str, api_key: str | None = None, *, wanted: str | None = None) -> None:
        """`wanted` is the name or path that was asked for; None: the server's first model."""
        try:
            super().__init__(url, api_key)
        except (ServerError, ConfigError) as error:
            raise _explain(error) from error
        try:
            self.model = _choose(self.models, wanted, self.url)
        except BaseException:
            self.close()
            raise
        asked = "" if wanted is None or _last_part(wanted) == self.model else f" (asked for: {wanted})"
        print(f"[lmcourse] no GPU here: {self.url} answers with {self.model}{asked}", flush=True)  # noqa: T201

    @property
    def name(self) -> str:
        """Of the model that answers."""
        return self.model

    @property
    def engine(self) -> NoReturn:
        """Not here."""
        raise _at_the_server("engine", self.url)

    @property
    def tokenizer(self) -> NoReturn:
        """Not here."""
        raise _at_the_server("tokenizer", self.url)

    def stats(self) -> NoReturn:
        """Not here; the server tells its load at /metrics."""
        raise _at_the_server("stats", self.url)


def _choose(models: list[str], wanted: str | None, url: str) -> str:
    """The server's model of that name; its only one answers for any name, as a class's server does."""
    if wanted is not None and _last_part(wanted) in models:
        return _last_part(wanted)
    if wanted is None or len(models) == 1:
        return models[0]
    raise ConfigError(
        "the class's server has no such model", expected=" or ".join(models), got=wanted, where=url,
        next_step=_RUN_HERE,
    )  # fmt: skip


def _last_part(name: str) -> str:
    return PurePosixPath(name).name


def _at_the_server(what: str, url: str) -> ConfigError:
    return ConfigError(
        f"this pipeline has no {what}: the class's server computes",
        expected="an engine in this process", got=url, where="LMCOURSE_SERVER",
        next_step=f"{url}/metrics shows its load; {_RUN_HERE}",
    )  # fmt: skip


def _explain(error: LmcourseError) -> LmcourseError:
    """The same error, with the variable that led there."""
    if isinstance(error, ServerBusyError):
        return error
    key = "set LMCOURSE_SERVER_KEY to the key that your instructor gave you"
    step = key if isinstance(error, KeyRefusedError) else f"{error.next_step or 'ask your instructor'}; or {_RUN_HERE}"
    return type(error)(
        error.what, expected=error.expected, got=error.got, where=f"LMCOURSE_SERVER ({error.where})", next_step=step
    )
