"""CrewRunner: a ModelRunner that tells the other ranks what it is about to do, and the mirror in which they see it.

The idea: a step is decided on rank 0 and told as differences: which requests, from where to where, and whatever the
others do not know of them yet. They keep likenesses of the requests and run the same ModelRunner on them; sampling is a
function of logits and rules, so every rank comes to the same tokens, and feeds them to its own next step.

    told    {"forget": false, "pending": {"7": 0},
             "chunks": [[7, 41, 42, true, 0, [], [993], null, null], …]}     id, start, stop, samples, pending, …

Contract: a likeness lives as long as its request is in every step; one that pauses is told anew. Nothing but rank 0's
own process and machine is trusted with less than it says, as the line is between processes of one user.

Lesson: 9 (more than one GPU)
"""

from __future__ import annotations

import base64
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmcourse.engine.answer import Answer
from lmcourse.engine.crew import Crew
from lmcourse.engine.intake import Entry
from lmcourse.engine.launch import Launch
from lmcourse.engine.request import Request
from lmcourse.engine.runner import ModelRunner
from lmcourse.engine.sampler import allowed_tokens
from lmcourse.engine.sampling import SamplingRule
from lmcourse.engine.scheduler import Chunk, Plan
from lmcourse.engine.stops import StopRule
from lmcourse.errors import MachineError

__all__ = ["CrewRunner", "Mirror", "Told"]


class Told(NamedTuple):
    """What the others know of a request."""

    num_tokens: int
    blocks: list[int]


class CrewRunner:
    """Rank 0's runner: one that works, and a crew that is told."""

    def __init__(self, runner: ModelRunner, crew: Crew) -> None:
        self._runner, self._crew = runner, crew
        self._told: dict[int, Told] = {}
        self._forgot = True
        self.decoder, self.kv, self.features = runner.decoder, runner.kv, runner.features

    def launch(
        self, plan: Plan, entries: Mapping[int, Entry], pending: Mapping[int, int], *, mark: Callable[[], None]
    ) -> Launch:
        """As ModelRunner's. A step that was told is also launched: an interruption waits until it has been."""
        self._crew.require_complete()
        message = self._describe(plan, entries, pending)
        with _uninterrupted():
            try:
                self._crew.tell(message)
                launch = self._runner.launch(plan, entries, pending, mark=mark)
            except (RuntimeError, MachineError) as error:
                self._crew.explain(error)
                raise
        return replace(launch, watch=self._crew.require_complete)

    def forget(self) -> None:
        """Requests were moved without a step; all are told anew."""
        self._forgot = True
        self._runner.forget()

    def close(self) -> None:
        """The others end."""
        self._crew.close()

    def _describe(self, plan: Plan, entries: Mapping[int, Entry], pending: Mapping[int, int]) -> bytes:
        if self._forgot:
            self._told = {}
        forgot, before, self._told, self._forgot = self._forgot, self._told, {}, False
        chunks = []
        for chunk in plan.chunks:
            request = chunk.request
            known = before.get(request.request_id)
            if known is None or request.blocks[: len(known.blocks)] != known.blocks:
                known = None
            entry = entries[request.request_id]
            chunks.append(_describe_chunk(chunk, entry.sampling, known))
            self._told[request.request_id] = Told(len(request.token_ids), list(request.blocks))
        told = {"forget": forgot, "pending": {str(key): row for key, row in pending.items()}, "chunks": chunks}
        return json.dumps(told, separators=(",", ":")).encode()


def _describe_chunk(chunk: Chunk, rule: SamplingRule, known: Told | None) -> list[Any]:
    request = chunk.request
    fresh = None
    if known is None:
        plain = asdict(replace(rule, mask=None))
        fresh = {"prompt_len": request.prompt_len, "max_tokens": request.max_tokens, "rule": plain}
        fresh["is_masked"] = rule.mask is not None
        known = Told(0, [])
    allowed = None
    if rule.mask is not None and chunk.samples:
        allowed = base64.b64encode(np.packbits(allowed_tokens(request, rule)).tobytes()).decode()
    blocks, tokens = request.blocks[len(known.blocks) :], request.token_ids[known.num_tokens :]
    where = [request.request_id, chunk.start, chunk.stop, chunk.samples, request.num_pending]
    return [*where, blocks, tokens, fresh, allowed]


@dataclass
class _ToldMask:
    """What rank 0's mask said for the coming token."""

    vocab: int
    bits: bytes = b""

    def allowed(self, output_ids: Sequence[int]) -> NDArray[np.bool_]:
        """[vocab], whatever the outputs are: rank 0 has looked at them."""
        return np.unpackbits(np.frombuffer(self.bits, dtype=np.uint8), count=self.vocab).astype(np.bool_)


class Mirror:
    """The likenesses of rank 0's requests on another rank."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self._entries: dict[int, Entry] = {}

    def follow(self, runner: ModelRunner, message: bytes) -> None:
        """Launch the step that rank 0 describes."""
        told = json.loads(message)
        if told["forget"]:
            runner.forget()
            self._entries = {}
        before, self._entries = self._entries, {}
        chunks = [self._take(before, *chunk) for chunk in told["chunks"]]
        pending = {int(key): row for key, row in told["pending"].items()}
        runner.launch(Plan(tuple(chunks)), self._entries, pending, mark=_ignore)

    def _take(self, before: Mapping[int, Entry], *said: Any) -> Chunk:
        request_id, start, stop, samples, num_pending, blocks, tokens, fresh, allowed = said
        if fresh is None:
            entry = before[request_id]
        else:
            said_rule: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fresh["rule"].items()}
            rule = SamplingRule(**said_rule)
            rule = replace(rule, mask=_ToldMask(self._vocab)) if fresh["is_masked"] else rule
            prompt, tokens = tokens[: fresh["prompt_len"]], tokens[fresh["prompt_len"] :]
            request = Request(request_id, prompt, fresh["max_tokens"], needs_host=rule.needs_host)
            entry = Entry(request, rule, Answer(request_id, StopRule(), None))
        request = entry.request
        for token_id in tokens:
            request.append(token_id)
        request.num_computed, request.num_pending = start, num_pending
        request.blocks += blocks
        if isinstance(entry.sampling.mask, _ToldMask) and allowed is not None:
            entry.sampling.mask.bits = base64.b64decode(allowed)
        self._entries[request_id] = entry
        return Chunk(request, start, stop, samples)


def _ignore() -> None:
    """Nobody looks at the phases of a rank's step but rank 0's."""


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back: ranks that did half a step are ranks that wait for each other."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held and callable(handler):
            handler(*held[0])
