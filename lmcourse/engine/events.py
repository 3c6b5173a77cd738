"""Events: what the engine did, step by step, as plain records for lessons and plots. No torch.

The idea: the engine tells, others draw. A listener is given to the Engine; without one no record is even built.

    RequestAdded     ─→ BlocksShared                      (on admission, if the prefix cache has its beginning)
                        TokensScheduled, BlocksAllocated  (every step)  ─→ RequestFinished, BlocksReleased
                        RequestPreempted, BlocksReleased  (when blocks run out: waits again)
    one step         ─→ StepFinished (sums and times), or StepInterrupted (an error or Ctrl-C: all are computed again)

Times are seconds since the engine was made. `dataclasses.asdict(event)` is a table row.

Lesson: 3 (the block map)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lmcourse.config import FinishReason
from lmcourse.engine.answer import Answer
from lmcourse.engine.request import Request
from lmcourse.engine.scheduler import Chunk, Plan, Scheduler

__all__ = [
    "BlocksAllocated",
    "BlocksReleased",
    "BlocksShared",
    "Event",
    "EventLog",
    "Reporter",
    "RequestAdded",
    "RequestFinished",
    "RequestPreempted",
    "StepFinished",
    "StepInterrupted",
    "TokensScheduled",
]


@dataclass(frozen=True)
class Event:
    """Every record: the number of the step, counted from 1 (0: before the first), and the time."""

    step: int
    time_seconds: float


@dataclass(frozen=True)
class RequestAdded(Event):
    """`max_tokens` counts prompt and output."""

    request_id: int
    prompt_len: int
    max_tokens: int


@dataclass(frozen=True)
class TokensScheduled(Event):
    """`kind` is decode for a single output token, else prefill."""

    request_id: int
    start: int
    stop: int
    samples: bool
    kind: str


@dataclass(frozen=True)
class BlocksAllocated(Event):
    """Blocks appended to the request's block table."""

    request_id: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class BlocksShared(Event):
    """Blocks found in the prefix cache: the request's block table begins with them, `num_tokens` need no computing."""

    request_id: int
    blocks: tuple[int, ...]
    num_tokens: int


@dataclass(frozen=True)
class BlocksReleased(Event):
    """The request's whole block table; blocks that others share stay in use, others may stay findable."""

    request_id: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class RequestPreempted(Event):
    """`num_computed` tokens will be computed again."""

    request_id: int
    num_computed: int


@dataclass(frozen=True)
class RequestFinished(Event):
    """`num_outputs` leaves out a stop token."""

    request_id: int
    reason: FinishReason
    num_outputs: int


@dataclass(frozen=True)
class StepFinished(Event):
    """The step's work, the state when its tokens had arrived, and where its time went.

    schedule_seconds: until the batch was on its way; model_seconds: until the model was launched, on a CPU run;
    sample_seconds: until the host had the tokens, waiting included.
    """

    num_tokens: int
    num_decodes: int
    num_running: int
    num_waiting: int
    num_free_blocks: int
    schedule_seconds: float
    model_seconds: float
    sample_seconds: float
    num_cached_blocks: int = 0  # without a user, findable in the prefix cache
    num_hit_tokens: int = 0  # found in the prefix cache by the requests that this step admitted


@dataclass(frozen=True)
class StepInterrupted(Event):
    """All requests wait again without blocks."""

    error: str


class EventLog:
    """A listener that keeps everything: `Engine(..., on_event=log)`, then iterate."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __repr__(self) -> str:
        return f"EventLog({len(self.events)} events)"


class Reporter:
    """Turns what the engine does into events for one listener; every method is a no-op without one."""

    def __init__(self, listener: Callable[[Event], None] | None) -> None:
        self._listener = listener
        self._origin = time.perf_counter()
        self._marks: list[float] = []
        self._step = 0  # the one that is being told of
        self.num_steps = 0

    def _stamp(self) -> tuple[int, float]:
        return self._step, time.perf_counter() - self._origin

    def mark(self) -> None:
        """The end of a phase of a launch: planned and sent, model under way."""
        if self._listener is not None:
            self._marks.append(time.perf_counter())

    def added(self, request: Request) -> None:
        """A request was queued."""
        if self._listener is not None:
            event = RequestAdded(*self._stamp(), request.request_id, request.prompt_len, request.max_tokens)
            self._listener(event)

    def begin_step(self) -> None:
        """A new step is about to be planned."""
        self.num_steps += 1
        self._step = self.num_steps
        self._marks.clear()
        self.mark()

    def end_launch(self) -> tuple[float, ...]:
        """When the phases of the launch ended; hand it to `begin_landing`."""
        return tuple(self._marks)

    def begin_landing(self, step: int, marks: Sequence[float]) -> None:
        """The tokens of a step are there; perhaps later ones were launched since."""
        self._step = step
        self._marks[:] = marks
        self.mark()

    def planned(self, plan: Plan) -> None:
        """Call before the plan is applied, while preempted requests still know their blocks."""
        if self._listener is None:
            return
        for request in plan.preempted:
            self._listener(RequestPreempted(*self._stamp(), request.request_id, request.num_computed))
            self.released(request)
        for hit in plan.hits:
            self._listener(BlocksShared(*self._stamp(), hit.request.request_id, hit.blocks, hit.num_tokens))
        for chunk in plan.chunks:
            kind = "decode" if _decodes(chunk) else "prefill"
            request_id = chunk.request.request_id
            self._listener(
                TokensScheduled(*self._stamp(), request_id, chunk.start, chunk.stop, samples=chunk.samples, kind=kind)
            )

    def allocated(self, blocks_by_request: dict[int, list[int]]) -> None:
        """What `Scheduler.apply` returned."""
        if self._listener is not None:
            for request_id, blocks in blocks_by_request.items():
                self._listener(BlocksAllocated(*self._stamp(), request_id, tuple(blocks)))

    def released(self, request: Request) -> None:
        """Call before the blocks are given back."""
        if self._listener is not None and request.blocks:
            self._listener(BlocksReleased(*self._stamp(), request.request_id, tuple(request.blocks)))

    def finished(self, answer: Answer) -> None:
        """The answer has its finish_reason."""
        if self._listener is not None and answer.finish_reason:
            ended = RequestFinished(*self._stamp(), answer.request_id, answer.finish_reason, len(answer.token_ids))
            self._listener(ended)

    def end_step(self, plan: Plan, scheduler: Scheduler) -> None:
        """The sums of the step that has landed."""
        if self._listener is None:
            return
        schedule, model, sample = (later - sooner for sooner, later in zip(self._marks, self._marks[1:], strict=False))
        event = StepFinished(
            *self._stamp(),
            num_tokens=plan.num_tokens,
            num_decodes=sum(map(_decodes, plan.chunks)),
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_free_blocks=scheduler.blocks.num_free,
            schedule_seconds=schedule,
            model_seconds=model,
            sample_seconds=sample,
            num_cached_blocks=scheduler.blocks.num_cached,
            num_hit_tokens=sum(hit.num_tokens for hit in plan.hits),
        )
        self._listener(event)

    def interrupted(self, error: BaseException) -> None:
        """Call after everything is consistent again."""
        if self._listener is not None:
            self._listener(StepInterrupted(*self._stamp(), f"{type(error).__name__}: {error}".split("\n")[0]))


def _decodes(chunk: Chunk) -> bool:
    return chunk.num_tokens == 1 and chunk.start >= chunk.request.prompt_len
