"""Ctrl-C at a chosen line of the engine's own code, by tracing it."""

from __future__ import annotations

import os
import random
import sys
from types import FrameType

from engine_fakes import MirrorDecoder, make_engine, mirror_greedy, random_prompt

import lmcourse.engine
from lmcourse.config import GenerationConfig
from lmcourse.engine import Engine, StepOutput

_FOLDER = os.path.dirname(lmcourse.engine.__file__)
_HANDING_OUT = ("step", "take", "has_news", "<listcomp>", "_consistent")
NUM_REQUESTS, NUM_NEW, VOCAB = 5, 7, 50


class Interruption:
    """Raises KeyboardInterrupt at the `at_line`-th executed line of lmcourse/engine; afterwards says where that was."""

    def __init__(self, at_line: int | None) -> None:
        self.at_line, self.num_lines, self.function = at_line, 0, ""

    def step(self, engine: Engine) -> list[StepOutput]:
        sys.settrace(self._trace)
        try:
            return engine.step()
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object):
        if not frame.f_code.co_filename.startswith(_FOLDER):
            return None
        if event == "line":
            self.num_lines += 1
            if self.num_lines == self.at_line:
                self.function = frame.f_code.co_name
                raise KeyboardInterrupt
        return self._trace


def run_interrupted(at_line: int | None, *, overlap: bool) -> int:
    """Requests that are batched, chunked and preempted, with one Ctrl-C; returns the number of lines executed."""
    rng = random.Random(1)
    sizes = {"cache_max_entry_count": 9, "max_prefill_token_num": 14, "session_len": 36}
    engine = make_engine(MirrorDecoder(), overlap=overlap, graphs=overlap, **sizes)
    prompts = [random_prompt(rng, VOCAB, 3, 14) for _ in range(NUM_REQUESTS)]
    for prompt in prompts:
        engine.add(prompt, GenerationConfig(max_new_tokens=NUM_NEW))
    told: list[list[int]] = [[] for _ in prompts]
    interruption = Interruption(at_line)
    for _ in range(1000):
        if not engine.has_work:
            break
        try:
            for output in interruption.step(engine):
                told[output.request_id] += output.token_ids
        except KeyboardInterrupt:
            pass
        engine.check()
    stats = engine.stats()
    assert not engine.has_work
    assert stats.num_free_blocks == stats.num_blocks
    assert stats.num_preemptions > 0 or at_line is not None
    if interruption.function not in _HANDING_OUT:
        assert told == [mirror_greedy(prompt, NUM_NEW, VOCAB) for prompt in prompts], interruption.function
    return interruption.num_lines
