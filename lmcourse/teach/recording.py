"""record_run: a fresh engine on a few prompts, and everything that figures need about it.

    record_run(model, prompts, max_new_tokens=24, cache_max_entry_count=12, cache_block_seq_len=16)
        → Recording: texts, token_ids, stats, states (the pool at each step), timeline (who computed what when)

Other keywords are TurbomindEngineConfig's. All prompts are queued before the first step; answers are greedy. It runs on
the CPU even beside a GPU: bytes, steps and answers are then what the lesson predicts, on every machine.

Lesson: 3 (paging), 5 (continuous batching)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmcourse.config import ChatTemplateConfig, GenerationConfig, TurbomindEngineConfig
from lmcourse.teach.trace import PoolState, Timeline, pool_states, timeline

if TYPE_CHECKING:
    from lmcourse.engine import Engine, EngineStats

__all__ = ["Recording", "record_run"]


@dataclass(frozen=True)
class Recording:
    """A run that is over; answers are in the order of the prompts."""

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    prompt_lens: tuple[int, ...]
    stats: EngineStats
    states: tuple[PoolState, ...]
    timeline: Timeline

    def state(self, step: int) -> PoolState:
        """The pool at a step, counted from 1; one after the last step it is as the run left it."""
        return self.states[step - 1]

    @property
    def steps(self) -> range:
        """The steps whose state there is."""
        return range(1, len(self.states) + 1)

    @property
    def preempted_at(self) -> tuple[int, ...]:
        """Steps in which a request lost its blocks."""
        return tuple(mark.step for mark in self.timeline.marks if mark.what == "preempted")

    def __repr__(self) -> str:
        lost = len(self.preempted_at)
        return f"Recording({len(self.texts)} requests, {self.timeline.num_steps} steps, {lost} preemptions)"


def record_run(
    model: str | Path, prompts: Sequence[Any], *, max_new_tokens: int = 32, ignore_eos: bool = False, **settings: Any
) -> Recording:
    """Run the prompts (text, message lists or {"prompt_token_ids": …}) to their ends."""
    from lmcourse.engine import Engine, EventLog
    from lmcourse.models import load_spec
    from lmcourse.text.chat_template import find_template
    from lmcourse.text.hub import find_model
    from lmcourse.text.prompts import encode_prompt

    log, folder = EventLog(), find_model(model)
    config = _fit_session(TurbomindEngineConfig(**settings), load_spec(folder).max_context)
    gen = GenerationConfig(max_new_tokens=max_new_tokens, ignore_eos=ignore_eos)
    with Engine.from_folder(folder, config, device="cpu", on_event=log) as engine:
        assert engine.tokenizer is not None, "a model folder has a tokenizer"
        template = find_template(ChatTemplateConfig(), folder)
        ids = [encode_prompt(prompt, template, engine.tokenizer) for prompt in prompts]
        known = {engine.tokenizer.token_id(word) for word in template.stop_words} | {engine.tokenizer.eos_id}
        stop_ids = frozenset(token_id for token_id in known if token_id is not None)
        answers = _finish(engine, [engine.add(prompt_ids, gen, stop_ids=stop_ids) for prompt_ids in ids])
        stats = engine.stats()
        texts = tuple(engine.tokenizer.decode(answer) for answer in answers)
    states = pool_states(
        log,
        num_blocks=stats.num_blocks,
        tokens_per_block=stats.tokens_per_block,
        prefix_caching=config.enable_prefix_caching,
    )
    return Recording(texts, tuple(map(tuple, answers)), tuple(map(len, ids)), stats, states, timeline(log))


def _fit_session(config: TurbomindEngineConfig, max_context: int) -> TurbomindEngineConfig:
    """Sessions as long as a small pool holds, where nothing else was asked for."""
    if config.session_len is not None or config.cache_max_entry_count < 1:
        return config
    room = int(config.cache_max_entry_count) * config.cache_block_seq_len
    return dataclasses.replace(config, session_len=min(max_context, room))


def _finish(engine: Engine, request_ids: Sequence[int]) -> list[list[int]]:
    """Steps until nothing is left; the token ids of each answer."""
    answers: dict[int, list[int]] = {request_id: [] for request_id in request_ids}
    while engine.has_work:
        for output in engine.step():
            answers[output.request_id] += output.token_ids
    return [answers[request_id] for request_id in request_ids]
