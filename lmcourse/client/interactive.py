"""InteractiveTalk: a conversation that the server keeps, by number, at /v1/chat/interactive.

With Client the conversation is here and is sent whole each time; here it is there, and whoever knows its number goes on
with it, from another terminal as well. That is what `api_client --session-id` means.

Lesson: 5 (who remembers the conversation)
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

from lmcourse.client.background import EventLoop
from lmcourse.client.connection import Connection
from lmcourse.client.stream import RemoteStream
from lmcourse.client.wire import make_request
from lmcourse.config import GenerationConfig, Response
from lmcourse.errors import ConfigError

__all__ = ["InteractiveTalk", "RemoteSession"]

_PATH = "/v1/chat/interactive"
_RENAMED = {"max_tokens": "request_output_len"}
_NOT_THERE = ("model", "messages", "stream_options", "n")


class InteractiveTalk:
    """Partner of a conversation in the terminal: each session is the same number at the server."""

    def __init__(self, url: str, api_key: str | None = None, *, session_id: int = 1) -> None:
        if session_id < 0:
            raise ConfigError("a conversation needs a number", expected="0 or more", got=session_id, where="session_id")
        self._connection = Connection(url, api_key)
        self._loop = EventLoop("lmcourse interactive talk")
        self._session_id = session_id

    def session(self) -> RemoteSession:
        """The conversation of that number, as far as it came."""
        return RemoteSession(self._connection, self._loop, self._session_id)

    def close(self) -> None:
        """Close the connections; the server goes on remembering. Closing twice is fine."""
        if not self._loop.closed:
            self._loop.close(self._connection.close())

    def __enter__(self) -> InteractiveTalk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RemoteSession:
    """One conversation at the server: `.history` is what was said from here."""

    def __init__(self, connection: Connection, loop: EventLoop, session_id: int) -> None:
        self._connection, self._loop, self.session_id = connection, loop, session_id
        self.history: list[tuple[Any, str]] = []
        self.response: Response | None = None

    def stream(self, prompt: str, gen: GenerationConfig | None = None) -> RemoteStream:
        """The answer piece by piece."""

        def remember(stream: Any) -> None:
            self.response = stream.responses[0]
            self.history.append((prompt, stream.responses[0].text))

        stream = RemoteStream(self._loop, remember)
        stream.expect(self._chunks(prompt, gen or GenerationConfig()), Response("", 0, 0, self.session_id), 1)
        return stream

    async def _chunks(self, prompt: str, gen: GenerationConfig) -> AsyncIterator[dict[str, Any]]:
        """The server's chunks {text, tokens, input_tokens, history_tokens, finish_reason} in OpenAI's form."""
        fields = make_request("", prompt, gen).body
        body = {_RENAMED.get(name, name): value for name, value in fields.items() if name not in _NOT_THERE}
        body |= {"prompt": prompt, "session_id": self.session_id, "interactive_mode": True}
        last: dict[str, Any] = {}
        async for last in self._connection.stream(_PATH, body):
            yield {"choices": [{"index": 0, "text": last["text"], "finish_reason": last["finish_reason"]}]}
        if last:
            yield {"choices": [], "usage": _usage(last)}

    def close(self) -> None:
        """Have the server forget the conversation."""
        ended = {"prompt": "", "session_id": self.session_id, "interactive_mode": False, "request_output_len": 0}
        self._loop.run(self._connection.post(_PATH, ended))
        self.history = []


def _usage(last: dict[str, Any]) -> dict[str, int]:
    return {
        "prompt_tokens": last.get("history_tokens", 0) + last.get("input_tokens", 0),
        "completion_tokens": last.get("tokens", 0),
    }
