"""Client: a server with the pipeline's interface. Where the model is computed is the only difference.

    client = Client("http://localhost:23333")
    client("hello")              one Response              client.stream_infer(...)   the same, piece by piece
    client(["hello", "上海是"])    a list of them            client.chat("hello")       a Session that remembers

Prompts of a list are sent at once and meet in the server's batches. Without a gen_config answers are greedy. Our
server sends token ids along; OpenAI's interface has none, so with other servers a Response's token_ids are empty.

Lesson: 5 (the client)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from lmcourse.client.background import EventLoop
from lmcourse.client.connection import Connection
from lmcourse.client.stream import RemoteStream
from lmcourse.client.wire import Request, make_request
from lmcourse.config import GenerationConfig, Response, generation_configs
from lmcourse.errors import ConfigError, EngineClosedError, ServerError
from lmcourse.text.prompts import split_batch
from lmcourse.text.session import Answerer, PieceStream, Session
from lmcourse.text.template import Message

__all__ = ["Client"]


class Client(Answerer):
    """A connection to a server; making one asks for its models, so that a dead address or a bad key shows at once."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        model: str | None = None,
        timeout_seconds: float = 600.0,
        max_connections: int = 64,
    ) -> None:
        """model None: the first that the server has. More prompts than max_connections wait here, not there."""
        self._connection = Connection(url, api_key, timeout_seconds=timeout_seconds, max_connections=max_connections)
        self._loop = EventLoop("lmcourse client")
        try:
            self.models = _model_names(self._loop.run(self._connection.get("/v1/models")), self.url)
            if model is not None and model not in self.models:
                raise ConfigError(
                    "the server has no such model", expected=", ".join(self.models), got=model, where="model"
                )
        except BaseException:
            self.close()
            raise
        self.model = self.models[0] if model is None else model

    @property
    def url(self) -> str:
        """The server's address."""
        return self._connection.url

    def stream_infer(
        self, prompts: Any, gen_config: GenerationConfig | Sequence[GenerationConfig] | None = None, **settings: Any
    ) -> RemoteStream:
        """Responses piece by piece as they come: text is what is new, the counts are totals.

        session_id is the prompt's place in the batch, index the answer's among n. Closing the stream ends its requests.
        """
        batch, _ = split_batch(prompts)
        wrap = bool(settings.pop("do_preprocess", True))
        gens = generation_configs(gen_config, settings, len(batch))
        requests = [make_request(self.model, prompt, gen, wrap=wrap) for prompt, gen in zip(batch, gens, strict=True)]
        stream = RemoteStream(self._require_open())
        for place, (request, gen) in enumerate(zip(requests, gens, strict=True)):
            stream.expect(self._chunks(request), Response("", 0, 0, place), gen.n)
        return stream

    def answer(
        self,
        messages: Sequence[Message],
        gen: GenerationConfig,
        *,
        session: Session,
        on_end: Callable[[PieceStream], None],
    ) -> RemoteStream:
        """The next answer of a conversation."""
        request = make_request(self.model, list(messages), gen)
        stream = RemoteStream(self._require_open(), on_end)
        stream.expect(self._chunks(request), Response("", 0, 0, session.session_id), 1)
        return stream

    def _chunks(self, request: Request) -> Any:
        return self._connection.stream(request.path, request.body)

    def _require_open(self) -> EventLoop:
        if self._loop.closed:
            raise EngineClosedError("the client is closed", next_step="make a new one")
        return self._loop

    def close(self) -> None:
        """Close every connection; answers that are still coming end. Closing twice is fine."""
        if not self._loop.closed:
            self._loop.close(self._connection.close())

    def __del__(self) -> None:
        if "_loop" in vars(self) and not self._loop.closed:  # __init__ may have refused its arguments
            self._loop.close(self._connection.close(), wait=False)

    def __enter__(self) -> Client:
        self._require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}(closed)" if self._loop.closed else f"{kind}({self.url!r}, model={self.model!r})"


def _model_names(answer: Any, url: str) -> list[str]:
    """The ids in the answer to /v1/models."""
    entries = answer.get("data") if isinstance(answer, dict) else None
    names = [entry["id"] for entry in entries or () if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    if not names:
        raise ServerError("the server lists no model", got=repr(answer)[:80], where=url,
                          next_step="is this the address of an API server?")  # fmt: skip
    return names
