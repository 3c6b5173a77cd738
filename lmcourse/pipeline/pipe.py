"""Pipeline: a model and its engine behind pipe(prompts): text in, Responses out.

    pipe("hello")              one Response              pipe.stream_infer(...)   the same, piece by piece
    pipe(["hello", "上海是"])    a list of them            pipe.chat("hello")       a Session that remembers

Nobody owns the engine's loop: whoever waits for an answer runs the next step, and a step serves every request. So calls
from several threads, streams and sessions share batches. A call that is interrupted (Ctrl-C, a closed stream, an
error) ends its own requests and no others. Without a gen_config answers are greedy (LMDeploy 0.3.0 sampled).

Lesson: 2 (chat with the engine)
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from lmcourse.config import (
    ChatTemplateConfig,
    GenerationConfig,
    Response,
    TurbomindEngineConfig,
    generation_configs,
)
from lmcourse.errors import ConfigError, PromptError
from lmcourse.pipeline.stream import AnswerStream
from lmcourse.text.chat_template import ChatTemplate, Message, find_template
from lmcourse.text.hub import course_model, find_model
from lmcourse.text.prompts import encode_prompt, split_batch
from lmcourse.text.session import Answerer, PieceStream, Session

if TYPE_CHECKING:
    from lmcourse.engine import Engine, EngineStats

__all__ = ["Pipeline", "load_pipeline"]

T = TypeVar("T")


def load_pipeline(
    model_path: str | Path | None = None,
    model_name: str | None = None,
    backend_config: TurbomindEngineConfig | None = None,
    chat_template_config: ChatTemplateConfig | None = None,
    log_level: str = "ERROR",
    **unknown: Any,
) -> Pipeline:
    """pipeline() (front.py) where an engine of one's own is wanted, whatever LMCOURSE_SERVER says."""
    _refuse_unknown(unknown)
    config = _require(backend_config, TurbomindEngineConfig, "backend_config") or TurbomindEngineConfig()
    template_config = _require(chat_template_config, ChatTemplateConfig, "chat_template_config") or ChatTemplateConfig()
    named = {name for name in (model_name, config.model_name, template_config.model_name) if name}
    if len(named) > 1:
        raise ConfigError("model_name is given twice and differs", expected="one name", got=", ".join(sorted(named)))
    _set_log_level(log_level)
    folder = find_model(
        course_model() if model_path is None else model_path,
        revision=config.revision,
        download_dir=config.download_dir,
    )
    from lmcourse.engine import Engine
    from lmcourse.models import load_spec

    load_spec(folder)  # a model that does not run is told so, and not asked for its template
    template = find_template(dataclasses.replace(template_config, model_name=next(iter(named), None)), folder)

    return Pipeline(Engine.from_folder(folder, config), template, folder.name)


def _refuse_unknown(unknown: dict[str, Any]) -> None:
    for name in unknown:
        in_engine = name in {field.name for field in dataclasses.fields(TurbomindEngineConfig)}
        own = ("model_path", "model_name", "backend_config", "chat_template_config", "log_level")
        near = difflib.get_close_matches(name, own, n=1)
        advice = f"write backend_config=TurbomindEngineConfig({name}=...)" if in_engine else "remove it"
        raise ConfigError(
            f"pipeline() has no setting {name!r}",
            expected=", ".join(own),
            got=name,
            next_step=f"did you mean {near[0]!r}?" if near and not in_engine else advice,
        )


def _require(value: T | None, kind: type[T], name: str) -> T | None:
    if value is not None and not isinstance(value, kind):
        raise ConfigError(f"{name} has the wrong type", expected=kind.__name__, got=type(value).__name__, where=name)
    return value


def _set_log_level(level: str) -> None:
    if level not in logging.getLevelNamesMapping():
        raise ConfigError("log_level is not a level", expected="DEBUG | INFO | WARNING | ERROR", got=repr(level))
    logging.getLogger("lmcourse").setLevel(level)


class Pipeline(Answerer):
    """A running model. Calls from several threads are safe and share the engine's batches."""

    def __init__(self, engine: Engine, template: ChatTemplate, name: str = "model") -> None:
        assert engine.tokenizer is not None, "a pipeline turns text into ids"
        self.engine, self.template, self.tokenizer, self.name = engine, template, engine.tokenizer, name
        from lmcourse.engine import Dispatcher

        self.dispatcher = Dispatcher(engine)
        self.stop_ids, self._stop_strings = self._split_stop_words()

    @property
    def session_len(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.engine.session_len

    def stream_infer(
        self, prompts: Any, gen_config: GenerationConfig | Sequence[GenerationConfig] | None = None, **settings: Any
    ) -> AnswerStream:
        """Responses piece by piece as they come: text and token_ids are what is new, the counts are totals.

        session_id is the prompt's place in the batch, index the answer's among n. Closing the stream ends its requests.
        """
        batch, _ = split_batch(prompts)
        wrap = bool(settings.pop("do_preprocess", True))
        gens = generation_configs(gen_config, settings, len(batch))
        prompt_ids = []
        for i, prompt in enumerate(batch):
            with _located(f"prompt {i}" if len(batch) > 1 else None):
                prompt_ids.append(self.encode(prompt, wrap=wrap))
        stream = AnswerStream(self.dispatcher)
        return self._start(stream, prompt_ids, gens, session_ids=range(len(batch)))

    def answer(
        self,
        messages: Sequence[Message],
        gen: GenerationConfig,
        *,
        session: Session,
        on_end: Callable[[PieceStream], None],
    ) -> AnswerStream:
        """The next answer of a conversation; PromptError with the numbers if the session is full."""
        with _located(f"session {session.session_id}, turn {len(session.history) + 1}"):
            prompt_ids = self.encode(list(messages))
            stream = AnswerStream(self.dispatcher, on_end)
            return self._start(stream, [prompt_ids], [gen], session_ids=[session.session_id])

    def encode(self, prompt: Any, *, wrap: bool = True) -> list[int]:
        """Token ids of one prompt, and with them its pictures."""
        return encode_prompt(
            prompt,
            self.template,
            self.tokenizer,
            wrap=wrap,
            reader=self.engine.encoder,
            session_len=self.session_len,
        )

    def _start(
        self,
        stream: AnswerStream,
        prompt_ids: Sequence[list[int]],
        gens: Sequence[GenerationConfig],
        *,
        session_ids: Sequence[int],
    ) -> AnswerStream:
        """Queue every answer of a call, or none."""
        try:
            for i, (ids, gen) in enumerate(zip(prompt_ids, gens, strict=True)):
                with _located(f"prompt {i}" if len(gens) > 1 else None):
                    for index in range(gen.n):
                        request_id = self.dispatcher.add(ids, self.with_stops(gen, index), self.stop_ids, stream.box)
                        stream.expect(request_id, Response("", 0, len(ids), session_ids[i], index=index))
        except BaseException:
            stream.cancel()
            raise
        return stream

    def _split_stop_words(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """The template's stop words: ids of those that are one token, and the others as text."""
        ids = {word: self.tokenizer.token_id(word) for word in self.template.stop_words}
        known = {*ids.values(), self.tokenizer.eos_id} - {None}
        within = frozenset(token_id for token_id in known if token_id is not None and token_id < self.engine.spec.vocab)
        return within, tuple(word for word, token_id in ids.items() if token_id is None)

    def with_stops(self, gen: GenerationConfig, index: int) -> GenerationConfig:
        """One of n answers: the i-th is seeded with random_seed + i, so that the first is that of n=1."""
        seed = None if gen.random_seed is None else (gen.random_seed + index) % 2**64
        words = list(gen.stop_words or ()) + ([] if gen.ignore_eos else list(self._stop_strings))
        return dataclasses.replace(gen, n=1, random_seed=seed, stop_words=words or None)

    def stats(self) -> EngineStats:
        """The engine's present load and sums."""
        return self.engine.stats()

    def close(self) -> None:
        """Give the engine's memory back; answers that are still running end with an error. Closing twice is fine."""
        self.dispatcher.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Pipeline({self.template.name}, {self.engine!r})"


@contextmanager
def _located(place: str | None) -> Iterator[None]:
    """Say in a PromptError which prompt it is about."""
    try:
        yield
    except PromptError as error:
        if place is None:
            raise
        where = place if error.where is None else f"{place}, {error.where}"
        raise PromptError(
            error.what, expected=error.expected, got=error.got, where=where, next_step=error.next_step
        ) from error
