"""Session: a conversation, which is a list of messages that grows.

Nobody keeps anything between turns: each prompt is the whole conversation so far. So the same class serves a pipeline
in this process and a client of a server: whoever can answer a list of messages with a stream of pieces.

Lesson: 2 (chat with the engine), 5 (the command-line client)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

from lmcourse.config import GenerationConfig, Response
from lmcourse.errors import ConfigError, EngineClosedError
from lmcourse.text.template import Message, check_messages

__all__ = ["Answerer", "PieceStream", "Session"]


class PieceStream(Protocol):
    """Answers as they come: an iterator of Response pieces; `responses` is what has come so far."""

    @property
    def responses(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Response]: ...

    def close(self) -> None: ...

    def __enter__(self) -> PieceStream: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Answerer(Protocol):
    """What a session needs of a pipeline or client: start one answer to a conversation."""

    def answer(
        self,
        messages: Sequence[Message],
        gen: GenerationConfig,
        *,
        session: Session,
        on_end: Callable[[PieceStream], None],
    ) -> PieceStream: ...


class Session:
    """A conversation: `.response` is the last answer, `.history` the (prompt, answer) pairs, `.messages` all of it.

    Prompts that fail leave it as it was. An answer that is cut short is remembered as far as it came.
    """

    def __init__(self, answerer: Answerer, session_id: int) -> None:
        self.session_id = session_id
        self.history: list[tuple[Any, str]] = []
        self.messages: list[Message] = []
        self.response: Response | None = None
        self._answerer: Answerer | None = answerer
        self._stream: PieceStream | None = None

    def stream(self, prompt: str | list[Message], gen: GenerationConfig | None = None) -> PieceStream:
        """The answer piece by piece. An earlier answer that is still running is cut short."""
        gen = gen or GenerationConfig()
        if self._answerer is None:
            raise EngineClosedError("the session is closed", next_step="start another: pipe.chat(prompt)")
        if gen.n != 1:
            raise ConfigError("a conversation goes on with one answer", expected="n=1", got=gen.n, where="n")
        if self._stream is not None:
            self._stream.close()
        new = check_messages(prompt)

        def remember(stream: PieceStream) -> None:
            self._stream = None
            self.response = stream.responses[0]
            text = self.response.text
            if text or self.response.finish_reason is not None:
                self.messages += [*new, {"role": "assistant", "content": text}]
                self.history.append((prompt, text))

        self._stream = self._answerer.answer([*self.messages, *new], gen, session=self, on_end=remember)
        return self._stream

    def belongs_to(self, answerer: object) -> bool:
        """Whether this session is one of a pipeline's or client's."""
        return self._answerer is None or self._answerer is answerer

    def close(self) -> None:
        """Forget the conversation; the session cannot be used any more."""
        if self._stream is not None:
            self._stream.close()
        self._answerer = None
        self.history, self.messages = [], []

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Session({self.session_id}, turns={len(self.history)}, response={self.response!r})"
