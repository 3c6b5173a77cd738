"""Engine events → tables: what every block held and what every request did, step by step. No torch, no drawing.

The idea: the engine tells what changed, a reader wants to know what *is*. Replaying the changes gives it back:

    events   BlocksAllocated(A, [5]) · TokensScheduled(A, 0–40) · BlocksReleased(A, [5]) · …
    tables   pool_states   step 1: block 5 holds 40 tokens of A   …   step 9: block 5 is free
             timeline      step 1: A prefill, 40 tokens           …   step 9: A ended

A step's pool state is the one its attention ran with: new blocks are there, blocks of requests that end with this step
are not yet given back. Events are sorted by their step, so it does not matter how far the host runs ahead.

Lesson: 3 (the block map), 5 (continuous batching)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lmcourse.engine.events import (
    BlocksAllocated,
    BlocksReleased,
    BlocksShared,
    Event,
    RequestAdded,
    RequestFinished,
    RequestPreempted,
    StepInterrupted,
    TokensScheduled,
)
from lmcourse.errors import ConfigError

__all__ = ["Mark", "PoolState", "Timeline", "Use", "Work", "letter", "pool_states", "timeline"]


@dataclass(frozen=True)
class Use:
    """One request's share of one block: `num_tokens` of its computed tokens lie there."""

    request_id: int
    num_tokens: int


@dataclass(frozen=True)
class PoolState:
    """The pool while one step runs; `doing` says in words what each unfinished request did in it."""

    step: int
    num_blocks: int
    tokens_per_block: int
    uses: Mapping[int, tuple[Use, ...]]  # by block; blocks that nobody uses are absent
    doing: Mapping[int, str]  # by request
    kept: frozenset[int] = frozenset()  # nobody uses them, but the prefix cache still finds what they hold

    @property
    def num_slots_owned(self) -> int:
        """Token slots in blocks that somebody uses."""
        return len(self.uses) * self.tokens_per_block

    @property
    def num_slots_filled(self) -> int:
        """Of these, the ones that hold a token; a shared block counts once."""
        return sum(max(use.num_tokens for use in uses) for uses in self.uses.values())

    @property
    def waste(self) -> float:
        """Internal fragmentation: the share of the owned slots that hold nothing."""
        return 1 - self.num_slots_filled / self.num_slots_owned if self.uses else 0.0


@dataclass(frozen=True)
class Work:
    """Tokens that one request computed in one step; kind is prefill or decode."""

    step: int
    request_id: int
    kind: str
    num_tokens: int


@dataclass(frozen=True)
class Mark:
    """Something that happened to a request: it came, was preempted, or ended (`what` says which)."""

    step: int
    request_id: int
    what: str


@dataclass(frozen=True)
class Timeline:
    """Who computed what in which step."""

    work: tuple[Work, ...]
    marks: tuple[Mark, ...]

    @property
    def num_steps(self) -> int:
        """The number of the last step in which anything was computed."""
        return max((work.step for work in self.work), default=0)

    @property
    def request_ids(self) -> tuple[int, ...]:
        """In the order of arrival."""
        return tuple(sorted({work.request_id for work in self.work} | {mark.request_id for mark in self.marks}))


def letter(request_id: int) -> str:
    """0, 1, … 25, 26 → A, B, … Z, AA: short enough to stand in a block."""
    name = ""
    request_id += 1
    while request_id:
        request_id, digit = divmod(request_id - 1, 26)
        name = chr(ord("A") + digit) + name
    return name


def pool_states(
    events: Iterable[Event], *, num_blocks: int, tokens_per_block: int, prefix_caching: bool = False
) -> tuple[PoolState, ...]:
    """The pool at every step, and a last state after it; ConfigError if the events speak of other blocks."""
    by_step = _by_step(events)
    replay = _Replay(num_blocks, tokens_per_block, prefix_caching)
    states = []
    for step in sorted(by_step):
        replay.begin(by_step[step])
        if step and any(isinstance(event, TokensScheduled) for event in by_step[step]):
            states.append(replay.state(step))
        replay.end(by_step[step])
    replay.begin(())
    states.append(replay.state(max(by_step, default=0) + 1))
    strangers = {block for state in states for block in state.uses if block >= num_blocks}
    if strangers:
        raise ConfigError("the events name blocks beyond the pool", expected=f"0 to {num_blocks - 1}", got=strangers)
    return tuple(states)


def timeline(events: Iterable[Event]) -> Timeline:
    """What each request computed in each step, and when it came, lost its blocks, and ended."""
    work: dict[tuple[int, int], Work] = {}
    marks = []
    for event in events:
        if isinstance(event, TokensScheduled):
            num_tokens = event.stop - event.start
            work[event.step, event.request_id] = Work(event.step, event.request_id, event.kind, num_tokens)
        elif isinstance(event, RequestAdded):
            marks.append(Mark(event.step, event.request_id, "came"))
        elif isinstance(event, RequestPreempted):
            marks.append(Mark(event.step, event.request_id, "preempted"))
        elif isinstance(event, RequestFinished):
            marks.append(Mark(event.step, event.request_id, "ended"))
    return Timeline(tuple(work[key] for key in sorted(work)), tuple(marks))


def _by_step(events: Iterable[Event]) -> dict[int, list[Event]]:
    by_step: defaultdict[int, list[Event]] = defaultdict(list)
    for event in events:
        by_step[event.step].append(event)
    return dict(by_step)


@dataclass
class _Replay:
    """Block tables and progress as the events left them."""

    num_blocks: int
    tokens_per_block: int
    prefix_caching: bool
    kept: set[int] = field(default_factory=set)
    tables: dict[int, list[int]] = field(default_factory=dict)
    computed: dict[int, int] = field(default_factory=dict)
    unfinished: set[int] = field(default_factory=set)
    words: dict[int, str] = field(default_factory=dict)

    def begin(self, events: Sequence[Event]) -> None:
        """Everything of a step but what its ends give back."""
        self.words = {}
        ended = {event.request_id for event in events if isinstance(event, RequestFinished)}
        for event in events:
            if isinstance(event, RequestAdded):
                self.unfinished.add(event.request_id)
            elif isinstance(event, RequestPreempted):
                self.words[event.request_id] = f"preempted, {event.num_computed} tokens to be computed again"
            elif isinstance(event, BlocksReleased) and event.request_id not in ended:
                self._release(event.request_id)
            elif isinstance(event, BlocksShared | BlocksAllocated):
                self.tables.setdefault(event.request_id, []).extend(event.blocks)
                self.kept.difference_update(event.blocks)
            elif isinstance(event, TokensScheduled):
                self._schedule(event)

    def _schedule(self, event: TokensScheduled) -> None:
        self.computed[event.request_id] = event.stop
        count = event.stop - event.start
        prefill = f"prefill {count} token{'s' * (count > 1)}"
        self.words[event.request_id] = "decode" if event.kind == "decode" else prefill

    def end(self, events: Sequence[Event]) -> None:
        """What is given back once the step is over."""
        for event in events:
            if isinstance(event, RequestFinished):
                self.unfinished.discard(event.request_id)
                self._release(event.request_id)
            elif isinstance(event, StepInterrupted):
                self.tables.clear()
                self.computed.clear()
                self.kept.clear()

    def _release(self, request_id: int) -> None:
        full = self.computed.pop(request_id, 0) // self.tokens_per_block
        table = self.tables.pop(request_id, [])
        in_use = {block for other in self.tables.values() for block in other}
        if self.prefix_caching:
            self.kept.update(set(table[:full]) - in_use)

    def state(self, step: int) -> PoolState:
        """What is, as a table."""
        uses, kept = self._uses(), frozenset(self.kept)
        return PoolState(step, self.num_blocks, self.tokens_per_block, uses, self._doing(), kept)

    def _uses(self) -> dict[int, tuple[Use, ...]]:
        """Who has how many tokens in which block."""
        found: defaultdict[int, list[Use]] = defaultdict(list)
        for request_id, table in sorted(self.tables.items()):
            for place, block in enumerate(table):
                filled = self.computed.get(request_id, 0) - place * self.tokens_per_block
                found[block].append(Use(request_id, min(max(filled, 0), self.tokens_per_block)))
        return {block: tuple(uses) for block, uses in sorted(found.items())}

    def _doing(self) -> dict[int, str]:
        """In words; who was not scheduled waits."""
        return {request: self.words.get(request, "wait") for request in sorted(self.unfinished)}
