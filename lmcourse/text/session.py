"""Session: a conversation, which is a list of messages that grows.

Nobody keeps anything between turns: each prompt is the whole conversation so far. So the same class serves a pipeline
in this process and a client of a server: whoever can answer a list of messages with a stream of pieces.

Lesson: 2 (chat with the engine), 5 (the command-line client)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

from lmcourse.config import GenerationConfig, Response, generation_configs
from lmcourse.errors import ConfigError, EngineClosedError
from lmcourse.text.prompts import split_batch
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


class Answerer(ABC):
    """A pipeline or a client: whoever starts answers. What both do alike with them, and with conversations, is here."""

    _num_sessions = 0

    @abstractmethod
    def stream_infer(
        self, prompts: Any, gen_config: GenerationConfig | Sequence[GenerationConfig] | None = None, **settings: Any
    ) -> PieceStream:
        """Responses piece by piece as they come."""

    @abstractmethod
    def answer(
        self,
        messages: Sequence[Message],
        gen: GenerationConfig,
        *,
        session: Session,
        on_end: Callable[[PieceStream], None],
    ) -> PieceStream:
        """The next answer of a conversation."""

    def __call__(
        self, prompts: Any, gen_config: GenerationConfig | Sequence[GenerationConfig] | None = None, **settings: Any
    ) -> Any:
        """One prompt: a Response; a list: a list of them in the same order. With n > 1 each is a list of n.

        `settings` are GenerationConfig's, in place of gen_config, and do_preprocess: False takes a text without a chat
        template. LMDeploy 0.3.0's request_output_len and adapter_name are understood. A list gives each prompt its own.
        """
        _, single = split_batch(prompts)
        with self.stream_infer(prompts, gen_config, **settings) as stream:
            for _ in stream:
                pass
        return stream.responses[0] if single else stream.responses

    def chat(
        self,
        prompt: str | list[Message],
        session: Session | None = None,
        gen_config: GenerationConfig | None = None,
        **settings: Any,
    ) -> Session:
        """Say something in a session (None: a new one) and get it back with `.response` set to the answer."""
        session = self.session() if session is None else session
        if not isinstance(session, Session):
            advice = "pass what the call before returned: session = pipe.chat(prompt); pipe.chat(prompt, session)"
            raise ConfigError("this is not a session", expected="a Session", got=repr(session)[:60], next_step=advice)
        if not session.belongs_to(self):
            kind = type(self).__name__.lower()
            raise ConfigError(f"the session belongs to another {kind}", got=repr(session), where="session")
        (gen,) = generation_configs(gen_config, settings, 1)
        with session.stream(prompt, gen) as stream:
            for _ in stream:
                pass
        return session

    def session(self) -> Session:
        """A conversation that has not begun. It is kept here: each turn is sent with all turns before it."""
        self._num_sessions += 1
        return Session(self, self._num_sessions)


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
