"""The chat page's answers: a conversation from a browser → pieces of text for it, from a Pipeline or a Client.

    browser ⇄ gradio (chat_page.py) ⇄ Answers ──→ stream_infer(messages) ──→ the engine, here or behind a server

The browser keeps the conversation and sends all of it each time. Stop ends the request within a token, and closing the
tab does so too. The page asks nothing of other machines: no analytics, no fonts, no scripts from elsewhere.

Lesson: 5 (the web client)
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lmcourse.config import GenerationConfig, Response
from lmcourse.errors import MachineError, PromptError
from lmcourse.serve.proxy import ForwardedPrefix
from lmcourse.text.session import PieceStream

__all__ = [
    "Answers",
    "Settings",
    "Talker",
    "Turn",
    "create_web_app",
    "mount_page",
    "plain_text",
    "require_gradio",
    "takes_pictures",
]

Turn = dict[str, Any]  # {"role", "content"}; gradio's content is a text, or a list of parts

_SECONDS_BETWEEN_UPDATES = 0.05


class Talker(Protocol):
    """What the page needs of a pipeline or client."""

    def stream_infer(self, prompts: Any, gen_config: GenerationConfig | None = None) -> PieceStream: ...


def create_web_app(
    talker: Talker, *, title: str, longest_answer: int = 2048, takes_pictures: bool = False
) -> ForwardedPrefix:
    """The page as an ASGI app that finds its own place behind a proxy. Closing the talker is the caller's."""
    require_gradio()
    from lmcourse.serve.chat_page import make_page

    answers = Answers(talker)
    return mount_page(make_page(answers, title=title, longest_answer=longest_answer, takes_pictures=takes_pictures))


def takes_pictures(talker: object) -> bool:
    """Whether this is a pipeline whose model sees; what a server's model does is not known here."""
    engine = getattr(talker, "engine", None)
    return getattr(engine, "encoder", None) is not None


def require_gradio() -> None:
    """MachineError without gradio; with it, gradio asks nothing of other machines."""
    if importlib.util.find_spec("gradio") is None:
        raise MachineError(
            "the web page needs the package gradio", got="nothing of that name", next_step="pip install 'lmcourse[web]'"
        )
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it while it is imported


def mount_page(page: Any) -> ForwardedPrefix:
    """A page made with gradio as an ASGI app."""
    import gradio
    from fastapi import FastAPI

    from lmcourse.serve.chat_page import page_theme

    page.queue(default_concurrency_limit=None)  # as many at once as ask; gradio's own limit is one
    app = FastAPI(openapi_url=None)
    return ForwardedPrefix(gradio.mount_gradio_app(app, page, path="", ssr_mode=False, **page_theme()))


@dataclass(frozen=True)
class Settings:
    """The page's sliders."""

    temperature: float
    top_p: float
    max_new_tokens: int

    def generation_config(self) -> GenerationConfig:
        if self.temperature == 0:
            return GenerationConfig(max_new_tokens=self.max_new_tokens)
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_p=self.top_p, do_sample=True
        )


class Answers:
    """Answers in the making, by the browser session that waits for them."""

    def __init__(self, talker: Talker) -> None:
        self._talker = talker
        self._running: dict[str, _Run] = {}

    def answer(self, turns: list[Turn], settings: Settings, session: str) -> Iterator[tuple[str, str]]:
        """The answer so far and a line about its speed, again and again. A session has one answer at a time."""
        self.stop(session)
        run = self._running[session] = _Run()
        try:
            with self._talker.stream_infer(_plain_messages(turns), settings.generation_config()) as stream:
                yield from run.follow(stream)
        finally:
            if self._running.get(session) is run:
                del self._running[session]

    def is_running(self, session: str) -> bool:
        """Whether a session waits for an answer."""
        return session in self._running

    def stop(self, session: str) -> None:
        """End a session's answer, if there is one; what has come of it stays."""
        if (run := self._running.get(session)) is not None:
            run.stopped = True


class _Run:
    """One answer: how to stop it, and its times."""

    def __init__(self) -> None:
        self.stopped = False
        self._started = time.perf_counter()
        self._first = self._last = 0.0
        self._num_tokens = 0

    def follow(self, stream: PieceStream) -> Iterator[tuple[str, str]]:
        """Text so far and its times, at most every 50 ms, and once more at the end."""
        text, shown, piece = "", 0.0, None
        for piece in stream:
            text += piece.text
            self._note(piece)
            if self.stopped:
                break
            if self._last - shown >= _SECONDS_BETWEEN_UPDATES:
                shown = self._last
                yield text, self._speed()
        yield text, self._speed() + self._ending(piece)

    def _note(self, piece: Response) -> None:
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self._num_tokens = piece.generate_token_len

    def _speed(self) -> str:
        if not self._first:
            return "no tokens"
        told = f"{self._num_tokens} tokens, the first after {self._first - self._started:.2f} s"
        if self._num_tokens > 1 and self._last > self._first:
            told += f", then {(self._num_tokens - 1) / (self._last - self._first):.1f} tokens/s"
        return told

    def _ending(self, piece: Response | None) -> str:
        if self.stopped:
            return "; stopped"
        return "; cut at the longest answer" if piece is not None and piece.finish_reason == "length" else ""


def _plain_messages(turns: list[Turn]) -> list[dict[str, Any]]:
    """Role, text and pictures of each turn; gradio adds more, and splits a text into parts."""
    return [{"role": turn["role"], "content": _plain_content(turn["content"])} for turn in turns]


def _plain_content(content: Any) -> Any:
    text = plain_text(content)
    files = [] if isinstance(content, str) else [part["file"]["path"] for part in content if "file" in part]
    if not files:
        return text
    return [*({"type": "image", "image": _uploaded(path)} for path in files), {"type": "text", "text": text}]


def _uploaded(path: str) -> Path:
    """A file that came through the page: the conversation is the browser's word, which could name any file."""
    uploads = os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir(), "gradio")  # as gradio chooses it
    found = Path(path).resolve()
    if not found.is_relative_to(Path(uploads).resolve()):
        raise PromptError("this picture may not be opened", expected="one that was put into the page", got=path[:80])
    return found


def plain_text(content: Any) -> str:
    """The text of a turn, in either of gradio's forms."""
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else part.get("text", "") for part in content)
